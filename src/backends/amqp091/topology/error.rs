//! Faults of declaring a topology.

use crate::backends::brokers::BrokersError;
use crate::util::error::debug_as_display;

/// Why a [`Topology`](super::Topology) cannot be applied, planned or cleared.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum TopologyError {
    /// The settings have no address of a broker.
    #[error(transparent)]
    Settings(#[from] BrokersError),
    /// A name is too long.
    #[error("{0:?} is longer than 255 bytes")]
    Name(String),
    /// No broker answers.
    #[error("no broker can be reached: {0}")]
    Unreachable(String),
    /// An exchange or queue of this name exists with different properties: delete it first, or leave it out.
    #[error("{what} already exists with different properties: {reason}")]
    Differs {
        /// An exchange or a queue.
        what: String,
        /// The text of the broker.
        reason: String,
    },
    /// The broker rejects it: a permission is missing, or the connection was lost.
    #[error("the broker rejected the operation on {what}: {reason}")]
    Refused {
        /// An exchange, a queue or a binding.
        what: String,
        /// The text of the broker.
        reason: String,
    },
}

debug_as_display!(TopologyError);
