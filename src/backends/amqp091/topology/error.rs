//! Why a topology cannot be made or looked at.

use crate::backends::brokers::BrokersError;
use crate::util::error::debug_as_display;

/// Why a [`Topology`](super::Topology) cannot be applied, planned or cleared.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum TopologyError {
    /// The settings do not say where a broker is.
    #[error(transparent)]
    Settings(#[from] BrokersError),
    /// A name is too long.
    #[error("{0:?} is longer than 255 bytes")]
    Name(String),
    /// No broker answers.
    #[error("no broker can be reached: {0}")]
    Unreachable(String),
    /// Something of this name is there, and is not as it should be: delete it first, or leave it out.
    #[error("{what} already exists with different properties: {reason}")]
    Differs {
        /// An exchange or a queue.
        what: String,
        /// What the broker says.
        reason: String,
    },
    /// The broker does not do it: no permission, or the connection was lost.
    #[error("the broker rejected the operation on {what}: {reason}")]
    Refused {
        /// An exchange, a queue or a binding.
        what: String,
        /// What the broker says.
        reason: String,
    },
}

debug_as_display!(TopologyError);
