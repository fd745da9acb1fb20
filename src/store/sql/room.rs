//! The capacity of a store that several processes share.

use std::time::{Duration, Instant};

use crate::store::capacity::Capacity;
use crate::store::{Counts, Limits};

/// How often is counted what other processes stored and sent.
const COUNT: Duration = Duration::from_secs(60);

/// A [`Capacity`] that is exact while no other process stores and sends; a count in the database corrects it.
#[derive(Debug)]
pub(crate) struct Room {
    pub(crate) capacity: Capacity,
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

impl Room {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            capacity: Capacity::new(limits),
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
        self.capacity.unreserve(messages, bytes);
        self.capacity.admit();
    }

    /// Ends a reservation, and adds to what the store holds, or takes away.
    pub(crate) fn change(&mut self, reserved: (u64, u64), pending: i64, dead: i64, bytes: i64) {
        self.changes += 1;
        self.capacity.unreserve(reserved.0, reserved.1);
        self.capacity.add(pending, dead, bytes);
        if let Some(counting) = &mut self.counting {
            *counting = (counting.0 + pending, counting.1 + dead, counting.2 + bytes);
        }
        self.capacity.admit();
    }

    /// Something may have come that nothing here tells of.
    pub(crate) fn count_soon(&mut self) {
        self.count_soon = true;
    }

    /// Begins a count, if it is time for one and none is under way.
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

    /// Takes what was counted, if it could be, and adds what has changed meanwhile.
    pub(crate) fn end_count(&mut self, counts: Option<&Counts>) {
        let (pending, dead, bytes) = self.counting.take().unwrap_or_default();
        // Never more than a twentieth of the time.
        let pause = self.count_begun.elapsed() * 20;
        self.may_count = Instant::now() + pause;
        self.next_count = Instant::now() + COUNT.max(pause);
        let Some(counts) = counts else { return };
        self.capacity.set(counts.pending, counts.dead, counts.bytes);
        self.capacity.add(pending, dead, bytes);
        self.capacity.admit();
    }

    /// Takes what was counted while nothing has changed.
    pub(crate) fn counted(&mut self, counts: &Counts) {
        self.capacity.set(counts.pending, counts.dead, counts.bytes);
        self.capacity.admit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(pending: u64, dead: u64, bytes: u64) -> Counts {
        Counts { pending, dead, bytes, oldest: None }
    }

    fn held(room: &Room) -> (u64, u64, u64) {
        (room.capacity.pending(), room.capacity.dead(), room.capacity.bytes())
    }

    /// One whose time for a count has come.
    fn room() -> Room {
        let mut room = Room::new(Limits { max_messages: 10, ..Limits::default() });
        assert!(!room.begin_count(), "not at once");
        room.next_count = Instant::now();
        room
    }

    #[test]
    fn a_count_knows_what_changed_meanwhile() {
        let mut room = room();
        room.change((0, 0), 3, 0, 300);
        assert!(room.begin_count());
        assert!(!room.begin_count(), "one at a time");
        room.change((0, 0), 2, 1, 300);
        room.change((0, 0), -1, 0, -100);
        room.end_count(Some(&counts(4, 2, 1_000)));
        assert_eq!(held(&room), (5, 3, 1_200));
        assert!(!room.begin_count(), "not again at once");
    }

    #[test]
    fn a_count_that_failed_changes_nothing_and_is_made_again() {
        let mut room = room();
        room.change((0, 0), 3, 0, 300);
        assert!(room.begin_count());
        room.end_count(None);
        assert_eq!(held(&room), (3, 0, 300));
        room.next_count = Instant::now();
        assert!(room.begin_count());
    }

    #[test]
    fn what_others_stored_and_sent_turns_requests_away_and_lets_them_in() {
        let mut room = room();
        for (pending, open) in [(10, false), (3, true)] {
            room.next_count = Instant::now();
            assert!(room.begin_count());
            room.end_count(Some(&counts(pending, 0, 0)));
            assert_eq!(room.capacity.admission().is_open(), open);
        }
    }
}
