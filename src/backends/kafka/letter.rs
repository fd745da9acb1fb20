//! A message that arrived.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use krafka::ConsumerRecord;

use crate::message::FailedAttempt;

/// The bytes that a record without content needs here.
const OVERHEAD: usize = 200;

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

    pub(super) fn is_of(&self, (topic, partition): &Partition) -> bool {
        self.record.partition == *partition && self.record.topic == *topic
    }

    /// Copies its parts. Before, they keep the whole answer of the broker in memory, with all other messages that came in it.
    pub(super) fn detach(&mut self) {
        let ConsumerRecord { key, value, headers, .. } = &mut self.record;
        let values = headers.iter_mut().map(|(_, value)| value);
        for part in [key, value].into_iter().chain(values).flatten() {
            *part = Bytes::copy_from_slice(part);
        }
    }
}

/// The memory of a record.
fn size_of(record: &ConsumerRecord) -> usize {
    let len = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
    let headers = record.headers.iter().map(|(name, value)| name.len() + len(value) + 50);
    OVERHEAD + len(&record.key) + len(&record.value) + headers.sum::<usize>()
}

/// A message as it came.
pub(super) struct Arrival {
    /// Its assignment is not known yet.
    pub(super) letter: Letter,
    /// How long it waits.
    pub(super) due: Option<Duration>,
}

impl Arrival {
    pub(super) fn new(record: ConsumerRecord, fault: Option<Arc<str>>, earlier: Earlier) -> Self {
        let size = size_of(&record);
        let Earlier { failed, failures, due } = earlier;
        Self { letter: Letter { record, fault, size, assignment: 0, failed, failures }, due }
    }
}

/// The attempts of a message before it came here, and how long it waits for the next one.
#[derive(Default)]
pub(super) struct Earlier {
    pub(super) failed: u32,
    pub(super) failures: Vec<FailedAttempt>,
    pub(super) due: Option<Duration>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backends::kafka::inbox_state::InboxState;

    #[test]
    fn a_message_that_waits_keeps_itself_alone_in_memory() {
        let answer = Bytes::from(vec![b'x'; 1 << 20]);
        let part = || Some(answer.slice(7..10));
        let mut record = ConsumerRecord::new("t", 0, 0, part(), part());
        record.headers.push(("h".to_owned(), part()));
        let before = record.clone();
        let letter = Letter { record, fault: None, size: 9, assignment: 0, failed: 1, failures: Vec::new() };
        let mut state = InboxState::default();
        state.wait(letter, Duration::from_secs(1));
        let kept = &state.waiting.first_key_value().unwrap().1.record;
        assert_eq!((&kept.key, &kept.value, &kept.headers), (&before.key, &before.value, &before.headers));
        drop(before);
        assert!(answer.is_unique());
    }
}
