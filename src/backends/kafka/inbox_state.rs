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
    /// The numbers of the assignments.
    pub(super) numbers: HashMap<Partition, u64>,
    /// The offsets of a partition by the number of its assignment.
    assigned: BTreeMap<u64, Offsets>,
    /// The messages that are ready or taken, and their bytes.
    pub(super) held: usize,
    pub(super) held_bytes: usize,
    pub(super) waiting_bytes: usize,
    pub(super) number: u64,
    pub(super) error: Option<Failure>,
}

impl InboxState {
    pub(super) fn is_current(&self, letter: &Letter) -> bool {
        self.assigned.contains_key(&letter.assignment)
    }

    /// The offsets of the partition of an assignment, while it lasts.
    pub(super) fn offsets(&mut self, assignment: u64) -> Option<&mut Offsets> {
        self.assigned.get_mut(&assignment)
    }

    pub(super) fn hold(&mut self, size: usize) {
        self.held += 1;
        self.held_bytes += size;
    }

    pub(super) fn let_go(&mut self, size: usize) {
        self.held -= 1;
        self.held_bytes -= size;
    }

    /// Records that a message was read. Returns the number of the assignment of its partition. `before` is that of the message before
    /// it, which is mostly of the same partition.
    pub(super) fn read(&mut self, record: &ConsumerRecord, before: &mut Option<(Partition, u64)>) -> u64 {
        let is_same =
            |(topic, partition): &Partition| *partition == record.partition && *topic == record.topic;
        let number = match before {
            Some((partition, number)) if is_same(partition) => *number,
            _ => {
                let partition = (Arc::clone(&record.topic), record.partition);
                let number = self.numbers.get(&partition).copied().unwrap_or_default();
                before.insert((partition, number)).1
            }
        };
        let known = self.assigned.get_mut(&number);
        if let Some(offsets) = known.filter(|offsets| offsets.is_new(record.offset)) {
            offsets.arrived(record.offset);
            return number;
        }
        // It was assigned again, or its topic was made anew.
        let partition = (Arc::clone(&record.topic), record.partition);
        self.remove(&partition);
        self.drop_those(|letter| letter.is_of(&partition));
        self.number += 1;
        let mut offsets = Offsets::new();
        offsets.arrived(record.offset);
        self.assigned.insert(self.number, offsets);
        self.numbers.insert(partition.clone(), self.number);
        *before = Some((partition, self.number));
        self.number
    }

    /// The offsets of a partition.
    pub(super) fn of(&self, partition: &Partition) -> Option<&Offsets> {
        self.assigned.get(self.numbers.get(partition)?)
    }

    pub(super) fn of_mut(&mut self, partition: &Partition) -> Option<&mut Offsets> {
        self.assigned.get_mut(self.numbers.get(partition)?)
    }

    /// Forgets a partition.
    pub(super) fn remove(&mut self, partition: &Partition) {
        if let Some(number) = self.numbers.remove(partition) {
            self.assigned.remove(&number);
        }
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
        if let Some(offsets) = self.offsets(letter.assignment) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_of_an_earlier_assignment_is_not_current() {
        let mut state = InboxState::default();
        let letter = |state: &mut InboxState, offset| {
            let record = ConsumerRecord::new("t", 0, offset, None, None);
            let assignment = state.read(&record, &mut None);
            Letter { record, fault: None, size: 0, assignment, failed: 0, failures: Vec::new() }
        };
        let (first, second) = (letter(&mut state, 5), letter(&mut state, 6));
        assert_eq!(first.assignment, second.assignment);
        assert!(state.is_current(&first));
        state.remove(&first.partition());
        assert!(!state.is_current(&first) && state.offsets(second.assignment).is_none());
        let third = letter(&mut state, 7);
        // Its topic was made anew.
        let fourth = letter(&mut state, 0);
        assert!(!state.is_current(&third) && state.is_current(&fourth));
        assert_eq!(state.numbers.get(&fourth.partition()), Some(&fourth.assignment));
    }
    #[test]
    fn messages_in_a_row_have_the_assignment_of_their_own_partition() {
        let (mut state, mut before) = (InboxState::default(), None);
        let mut read = |topic: &'static str, partition, offset| {
            state.read(&ConsumerRecord::new(topic, partition, offset, None, None), &mut before)
        };
        let numbers = [read("t", 0, 5), read("t", 0, 6), read("t", 1, 5), read("u", 1, 5), read("u", 1, 6)];
        assert_eq!(numbers, [1, 1, 2, 3, 3]);
        // The topic was made anew.
        assert_eq!([read("u", 1, 0), read("u", 1, 1), read("t", 0, 7)], [4, 4, 1]);
    }
}
