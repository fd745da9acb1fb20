//! The part of the messages that this instance of the app may send.

use tokio::time::Instant;

/// The buckets an instance holds, each with the token that fences what it does to their messages, and until when.
///
/// Every message belongs to a bucket: those of one topic and key to the same one, so that one instance at a time sends them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Share {
    pub(crate) buckets: Vec<(i16, i64)>,
    /// By the monotonic clock; none: it holds nothing.
    pub(crate) until: Option<Instant>,
}
