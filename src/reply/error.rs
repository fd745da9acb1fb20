//! Why a request got no reply.

use std::sync::Arc;
use std::time::Duration;

use crate::util::error::{BoxError, debug_as_display};

/// Why a request got no reply.
///
/// [`Client`](crate::client::Client) turns it into a response, and leaves it in the extensions of that response.
#[derive(Clone, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// No reply came in time. A responder may have handled the request.
    #[error("no reply within {0:?}")]
    NoReply(
        /// How long the caller waited.
        Duration,
    ),
    /// No responder receives requests. None has handled this one.
    #[error("no responder receives these requests")]
    NoResponder,
    /// The request could not be sent now.
    #[error("the request cannot be sent now")]
    Unavailable(#[source] Arc<dyn std::error::Error + Send + Sync>),
    /// The request can never be sent: too large, forbidden, unroutable.
    #[error("the request can never be sent")]
    Rejected(#[source] Arc<dyn std::error::Error + Send + Sync>),
    /// The reply cannot be read.
    #[error("the reply cannot be read")]
    BadReply(#[source] Arc<dyn std::error::Error + Send + Sync>),
}

debug_as_display!(RequestError);

impl RequestError {
    /// A request that could not be sent now.
    pub fn unavailable(cause: impl Into<BoxError>) -> Self {
        Self::Unavailable(Arc::from(cause.into()))
    }

    /// A request that can never be sent.
    pub fn rejected(cause: impl Into<BoxError>) -> Self {
        Self::Rejected(Arc::from(cause.into()))
    }

    /// A reply that cannot be read.
    pub fn bad_reply(cause: impl Into<BoxError>) -> Self {
        Self::BadReply(Arc::from(cause.into()))
    }

    /// Returns its word in metrics.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::NoReply(_) => "no_reply",
            Self::NoResponder => "no_responder",
            Self::Unavailable(_) => "unavailable",
            Self::Rejected(_) => "rejected",
            Self::BadReply(_) => "bad_reply",
        }
    }
}
