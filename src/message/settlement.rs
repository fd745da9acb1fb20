//! The end of one attempt at a message.

use std::sync::Arc;
use std::time::Duration;

/// What becomes of a message after an attempt: of a stored one that was sent, of a received one that was handled.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Settlement {
    /// The attempt succeeded; the message is removed.
    Ack,
    /// The attempt failed and counts; the message is due again after at least about this long.
    Retry {
        /// How long to wait.
        after: Duration,
        /// Why the attempt failed.
        reason: Arc<str>,
    },
    /// The message becomes a dead letter.
    Reject {
        /// Why.
        reason: Arc<str>,
    },
    /// There was no attempt, or its failure is not the message's: it is due again at once, and nothing is counted, where
    /// the source can tell.
    Release,
    /// The message is not worth keeping, as one that has expired; it is removed.
    Discard,
}
