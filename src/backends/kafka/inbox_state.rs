//! The messages of a source: their number, their bytes, and the offsets of their partitions.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use krafka::ConsumerRecord;
use tokio::time::Instant;

use super::letter::{Letter, Partition};
use super::offsets::Offsets;
use crate::messenger::Failure;
use crate::util::deadline;

/// The messages of a source.
#[derive(Default)]
pub(super) struct InboxState {
    pub(super) ready: VecDeque<Letter>,
    pub(super) waiting: BTreeMap<(Instant, u64), Letter>,
    pub(super) partitions: HashMap<Partition, Offsets>,
    /// The messages that are ready or taken, and their bytes.
    pub(super) held: usize,
    pub(super) held_bytes: usize,
    pub(super) waiting_bytes: usize,
    pub(super) number: u64,
    pub(super) error: Option<Failure>,
}

impl InboxState {
    pub(super) fn is_current(&self, letter: &Letter) -> bool {
        let offsets = self.partitions.get(&letter.partition());
        offsets.is_some_and(|offsets| offsets.assignment == letter.assignment)
    }

    /// The offsets of a letter's partition, unless it is that of an earlier assignment.
    pub(super) fn offsets(&mut self, letter: &Letter) -> Option<&mut Offsets> {
        let offsets = self.partitions.get_mut(&letter.partition())?;
        (offsets.assignment == letter.assignment).then_some(offsets)
    }

    pub(super) fn hold(&mut self, size: usize) {
        self.held += 1;
        self.held_bytes += size;
    }

    pub(super) fn let_go(&mut self, size: usize) {
        self.held -= 1;
        self.held_bytes -= size;
    }

    /// Records that a message was read.
    pub(super) fn read(&mut self, record: &ConsumerRecord) -> &mut Offsets {
        let partition = (Arc::clone(&record.topic), record.partition);
        let known = self.partitions.get(&partition).is_some_and(|offsets| offsets.is_new(record.offset));
        if !known {
            // It was assigned again, or its topic was made anew.
            self.number += 1;
            self.partitions.remove(&partition);
            self.drop_those(|letter| letter.partition() == partition);
        }
        let number = self.number;
        let offsets = self.partitions.entry(partition).or_insert_with(|| Offsets::new(number));
        offsets.arrived(record.offset);
        offsets
    }

    /// Lets a message wait.
    pub(super) fn wait(&mut self, mut letter: Letter, after: Duration) {
        letter.detach();
        self.number += 1;
        self.waiting_bytes += letter.size;
        let due = (deadline::after(Instant::now(), after), self.number);
        self.waiting.insert(due, letter);
    }

    /// Gives a message to the application.
    pub(super) fn give(&mut self, taken: &mut Vec<Letter>, letter: Letter) {
        if let Some(offsets) = self.offsets(&letter) {
            offsets.taken += 1;
        }
        taken.push(letter);
    }

    /// Drops messages that the application does not have.
    pub(super) fn drop_those(&mut self, are: impl Fn(&Letter) -> bool) {
        let (mut count, mut bytes, mut waiting_bytes) = (0, 0, 0);
        self.ready.retain(|letter| {
            let goes = are(letter);
            count += usize::from(goes);
            bytes += if goes { letter.size } else { 0 };
            !goes
        });
        self.waiting.retain(|_, letter| {
            let goes = are(letter);
            waiting_bytes += if goes { letter.size } else { 0 };
            !goes
        });
        self.held -= count;
        self.held_bytes -= bytes;
        self.waiting_bytes -= waiting_bytes;
    }
}
