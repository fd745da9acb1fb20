//! A message that arrived.

use std::sync::Arc;
use std::time::Duration;

use krafka::ConsumerRecord;

use crate::message::FailedAttempt;

/// A partition of a topic.
pub(super) type Partition = (Arc<str>, i32);

/// A message that arrived, and is not settled.
pub(super) struct Letter {
    pub(super) record: ConsumerRecord,
    /// Why the client library could not read it.
    pub(super) fault: Option<Arc<str>>,
    pub(super) size: usize,
    /// The number of the assignment of its partition.
    pub(super) assignment: u64,
    /// The failed attempts, and the last of them.
    pub(super) failed: u32,
    pub(super) failures: Vec<FailedAttempt>,
}

impl Letter {
    pub(super) fn partition(&self) -> Partition {
        (Arc::clone(&self.record.topic), self.record.partition)
    }
}

/// A message as it came.
pub(super) struct Arrival {
    pub(super) record: ConsumerRecord,
    pub(super) fault: Option<Arc<str>>,
    pub(super) size: usize,
    pub(super) earlier: Earlier,
}

/// The attempts of a message before it came here, and how long it waits for the next one.
#[derive(Default)]
pub(super) struct Earlier {
    pub(super) failed: u32,
    pub(super) failures: Vec<FailedAttempt>,
    pub(super) due: Option<Duration>,
}
