//! Why a router does not do what was asked.

use std::sync::Arc;

use super::grant::Refused;
use crate::util::error::debug_as_display;

/// Why a router does not do what was asked.
#[derive(Clone, thiserror::Error)]
#[non_exhaustive]
pub enum RouteError {
    /// The subscription has ended: another subscriber came with the same identifier, or the queue was removed.
    #[error("the subscription has ended: another subscriber has its identifier, or its queue was removed")]
    Unsubscribed,
    /// The router cannot take the subscription.
    #[error("the subscription was refused: {0}")]
    SubscriptionFailed(Arc<str>),
    /// The router cannot store messages now.
    #[error("the router could not store the message: {0}")]
    Storage(Arc<str>),
    /// The message is too large for the router.
    #[error("a message of {size} bytes is larger than the limit of {limit} bytes; send less at once")]
    TooLarge {
        /// Its size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The signature of a message of another router is missing, or does not fit.
    #[error("the message was refused: {0}")]
    Forged(Arc<str>),
    /// The designated router cannot be reached.
    #[error("the designated router of the namespace cannot be reached now; try again later")]
    LinkDown,
    /// The designated router refused.
    #[error("the designated router answered: {0}")]
    Upstream(Arc<str>),
    /// No grant allows it.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The router is closed.
    #[error("the router is closed")]
    Closed,
}

debug_as_display!(RouteError);
