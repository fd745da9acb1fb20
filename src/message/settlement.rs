//! The result of one attempt at a message.

use std::sync::Arc;
use std::time::Duration;

/// The result of an attempt to send a stored message, or to handle a received one.
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
        /// Why the message is given up on.
        reason: Arc<str>,
    },
    /// There was no attempt, or it failed for a reason other than the message. The message is due again at once, and no
    /// attempt is counted if the source can avoid it.
    Release,
    /// The message is removed without an attempt, for example because it has expired.
    Discard,
}
