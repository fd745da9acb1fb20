//! The capacity of a store that several processes share.

use std::time::{Duration, Instant};

use crate::store::capacity::Capacity;
use crate::store::{Counts, Limits};

/// How often the messages are counted, as other processes store and send some.
const COUNT: Duration = Duration::from_secs(60);

/// A [`Capacity`] that is exact while no other process stores and sends; a count in the database corrects it.
#[derive(Debug)]
pub(crate) struct SharedCapacity {
    pub(crate) held: Capacity,
    /// Changes since the count under way began: pending, dead, bytes.
    counting: Option<(i64, i64, i64)>,
    /// When the last count began.
    count_begun: Instant,
    /// The next count begins no earlier, even if it is urgent.
    may_count: Instant,
    next_count: Instant,
    /// The next count is urgent.
    count_soon: bool,
    /// Rises with each change.
    pub(crate) changes: u64,
}

impl SharedCapacity {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            held: Capacity::new(limits),
            counting: None,
            count_begun: Instant::now(),
            may_count: Instant::now(),
            next_count: Instant::now() + COUNT,
            count_soon: false,
            changes: 0,
        }
    }

    /// Ends a reservation.
    pub(crate) fn unreserve(&mut self, (messages, bytes): (u64, u64)) {
        self.held.unreserve(messages, bytes);
        self.held.admit();
    }

    /// Ends a reservation, and adds to what the store holds, or takes away.
    pub(crate) fn change(&mut self, reserved: (u64, u64), pending: i64, dead: i64, bytes: i64) {
        self.changes += 1;
        self.held.unreserve(reserved.0, reserved.1);
        self.held.add(pending, dead, bytes);
        if let Some(counting) = &mut self.counting {
            *counting = (counting.0 + pending, counting.1 + dead, counting.2 + bytes);
        }
        self.held.admit();
    }

    /// Makes the next count urgent, as messages may have been stored that are not counted here.
    pub(crate) fn count_soon(&mut self) {
        self.count_soon = true;
    }

    /// Begins a count if one is due and none is under way. Returns whether it did.
    pub(crate) fn begin_count(&mut self) -> bool {
        let now = Instant::now();
        let due = if self.count_soon { self.may_count } else { self.next_count };
        let begins = self.counting.is_none() && due <= now;
        if begins {
            self.count_soon = false;
            self.count_begun = now;
            self.counting = Some((0, 0, 0));
        }
        begins
    }

    /// Ends a count, and adds the changes since it began. Without a result nothing changes.
    pub(crate) fn end_count(&mut self, counts: Option<&Counts>) {
        let (pending, dead, bytes) = self.counting.take().unwrap_or_default();
        // Counts take at most 5 % of the time.
        let pause = self.count_begun.elapsed() * 20;
        self.may_count = Instant::now() + pause;
        self.next_count = Instant::now() + COUNT.max(pause);
        let Some(counts) = counts else { return };
        self.held.set(counts.pending, counts.dead, counts.bytes);
        self.held.add(pending, dead, bytes);
        self.held.admit();
    }

    /// Sets what was counted while nothing has changed.
    pub(crate) fn counted(&mut self, counts: &Counts) {
        self.held.set(counts.pending, counts.dead, counts.bytes);
        self.held.admit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(pending: u64, dead: u64, bytes: u64) -> Counts {
        Counts { pending, dead, bytes, oldest: None }
    }

    fn held(capacity: &SharedCapacity) -> (u64, u64, u64) {
        (capacity.held.pending(), capacity.held.dead(), capacity.held.bytes())
    }

    /// A capacity whose count is due.
    fn capacity() -> SharedCapacity {
        let mut capacity = SharedCapacity::new(Limits { max_messages: 10, ..Limits::default() });
        assert!(!capacity.begin_count(), "not at once");
        capacity.next_count = Instant::now();
        capacity
    }

    #[test]
    fn changes_during_a_count_are_added_to_it() {
        let mut capacity = capacity();
        capacity.change((0, 0), 3, 0, 300);
        assert!(capacity.begin_count());
        assert!(!capacity.begin_count(), "one at a time");
        capacity.change((0, 0), 2, 1, 300);
        capacity.change((0, 0), -1, 0, -100);
        capacity.end_count(Some(&counts(4, 2, 1_000)));
        assert_eq!(held(&capacity), (5, 3, 1_200));
        assert!(!capacity.begin_count(), "not again at once");
    }

    #[test]
    fn a_failed_count_changes_nothing_and_is_repeated() {
        let mut capacity = capacity();
        capacity.change((0, 0), 3, 0, 300);
        assert!(capacity.begin_count());
        capacity.end_count(None);
        assert_eq!(held(&capacity), (3, 0, 300));
        capacity.next_count = Instant::now();
        assert!(capacity.begin_count());
    }

    #[test]
    fn messages_of_other_processes_close_and_open_admission() {
        let mut capacity = capacity();
        for (pending, open) in [(10, false), (3, true)] {
            capacity.next_count = Instant::now();
            assert!(capacity.begin_count());
            capacity.end_count(Some(&counts(pending, 0, 0)));
            assert_eq!(capacity.held.admission().is_open(), open);
        }
    }
}
