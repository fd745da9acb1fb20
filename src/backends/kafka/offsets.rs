//! The offsets of a partition that are settled.

use std::collections::VecDeque;

/// The offsets that were read of a partition, since it was assigned to this process.
#[derive(Debug)]
pub(super) struct Offsets {
    /// The offsets from the first unsettled one on, in their order, and whether each is settled.
    read: VecDeque<(i64, bool)>,
    /// The offset after the last one that was read.
    next: i64,
    /// Whether any was settled: before that there is nothing to commit.
    has_settled: bool,
    /// The last position that was handed over to be committed.
    committed: Option<i64>,
    /// How many messages the application has.
    pub(super) taken: usize,
    /// Whether the partition is about to be given to another process.
    pub(super) is_leaving: bool,
}

impl Offsets {
    pub(super) fn new() -> Self {
        Self {
            read: VecDeque::new(),
            next: i64::MIN,
            has_settled: false,
            committed: None,
            taken: 0,
            is_leaving: false,
        }
    }

    /// Whether the partition was not read up to here before.
    pub(super) fn is_new(&self, offset: i64) -> bool {
        offset >= self.next
    }

    pub(super) fn arrived(&mut self, offset: i64) {
        self.read.push_back((offset, false));
        self.next = offset.saturating_add(1);
    }

    pub(super) fn settled(&mut self, offset: i64) {
        // Most topics have no gaps.
        let first = self.position();
        let near = usize::try_from(offset.saturating_sub(first)).unwrap_or_default();
        let at = match self.read.get(near) {
            Some((known, _)) if *known == offset => near,
            _ => match self.read.binary_search_by_key(&offset, |(known, _)| *known) {
                Ok(at) => at,
                Err(_) => return,
            },
        };
        self.read[at].1 = true;
        self.has_settled = true;
        while self.read.front().is_some_and(|(_, is_settled)| *is_settled) {
            self.read.pop_front();
        }
    }

    /// The first offset that is not settled.
    fn position(&self) -> i64 {
        self.read.front().map_or(self.next, |(offset, _)| *offset)
    }

    /// How far the partition is read beyond its first unsettled message.
    pub(super) fn uncommitted(&self) -> u64 {
        self.next.abs_diff(self.position())
    }

    /// Takes the position if it moved since it was last taken.
    pub(super) fn take_position(&mut self) -> Option<i64> {
        let position = self.position();
        if !self.has_settled || self.committed == Some(position) {
            return None;
        }
        self.committed = Some(position);
        Some(position)
    }

    /// Records that the last position could not be committed.
    pub(super) fn not_committed(&mut self) {
        self.committed = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_position_stays_at_the_first_unsettled_offset() {
        let mut offsets = Offsets::new();
        // Offsets have gaps where a topic was compacted.
        for offset in [10, 11, 15, 16] {
            assert!(offsets.is_new(offset));
            offsets.arrived(offset);
        }
        assert!(!offsets.is_new(16));
        assert_eq!((offsets.take_position(), offsets.uncommitted()), (None, 7));
        offsets.settled(11);
        offsets.settled(16);
        assert_eq!(offsets.take_position(), Some(10));
        assert_eq!(offsets.take_position(), None, "it did not move");
        offsets.settled(10);
        assert_eq!((offsets.take_position(), offsets.uncommitted()), (Some(15), 2));
        offsets.settled(15);
        assert_eq!((offsets.take_position(), offsets.uncommitted()), (Some(17), 0));
        offsets.not_committed();
        assert_eq!(offsets.take_position(), Some(17));
        offsets.settled(15);
        assert_eq!(offsets.take_position(), None);
    }
}
