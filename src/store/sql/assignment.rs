//! The partitions that are assigned to this instance.

use tokio::time::Instant;

/// The partitions of an instance with their fencing tokens, and how long it may rely on them.
///
/// Every message belongs to a partition, those of one topic and key to the same one. So one instance at a time sends them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Assignment {
    pub(crate) partitions: Vec<(i16, i64)>,
    /// On the monotonic clock; `None` if nothing is assigned.
    pub(crate) until: Option<Instant>,
}
