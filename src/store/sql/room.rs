//! How much is stored, as this process knows it, and how much may be.

use std::time::{Duration, Instant};

use crate::store::admission::{Admission, Admitted, room_for};
use crate::store::{Counts, Limits, StoreError, WhenFull};
use crate::telemetry;

/// How often is counted what other processes stored and sent.
const COUNT: Duration = Duration::from_secs(60);

/// Exact while no other process stores and sends; a count sets it right.
#[derive(Debug)]
pub(crate) struct Room {
    limits: Limits,
    pub(crate) admission: Admission,
    pending: u64,
    dead: u64,
    bytes: u64,
    /// Messages and bytes on their way to the database.
    queued: (u64, u64),
    /// Messages and bytes of a batch that did not fit: requests are let in when it would.
    refused: (u64, u64),
    /// What has changed since a count began: pending, dead, bytes.
    counting: Option<(i64, i64, i64)>,
    /// When the count began, when the next may begin, and when it is due.
    count_begun: Instant,
    may_count: Instant,
    next_count: Instant,
    /// It is due as soon as it may be.
    count_soon: bool,
    /// Rises with each change.
    pub(crate) changes: u64,
    closed: bool,
}

/// By how much a batch is too large for what is free.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Over {
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
}

impl Room {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            admission: Admission::default(),
            pending: 0,
            dead: 0,
            bytes: 0,
            queued: (0, 0),
            refused: (0, 0),
            counting: None,
            count_begun: Instant::now(),
            may_count: Instant::now(),
            next_count: Instant::now() + COUNT,
            count_soon: false,
            changes: 0,
            closed: false,
        }
    }

    pub(crate) fn close(&mut self) {
        self.closed = true;
        self.admit();
    }

    /// Takes room for a batch; none if it does not fit unless others go.
    pub(crate) fn queue(
        &mut self,
        messages: u64,
        bytes: u64,
        own: Option<Admitted>,
    ) -> Result<Option<Over>, StoreError> {
        let over = self.over(messages, bytes);
        let (free, left) = (self.free_messages(), self.free(messages, bytes));
        let refuses = self.limits.when_full == WhenFull::Refuse;
        let fits = self.admission.take_over(own, |room| {
            let fits = !refuses || (over.is_none() && room.fits(messages, free));
            if fits {
                room.free = left;
            }
            fits
        });
        if !fits || messages > self.limits.max_messages || bytes > self.limits.max_bytes {
            return Err(self.full(messages, bytes));
        }
        if over.is_none() {
            self.queued = (self.queued.0 + messages, self.queued.1 + bytes);
        }
        Ok(over)
    }

    fn free_messages(&self) -> u64 {
        self.limits.max_messages.saturating_sub(self.pending + self.dead + self.queued.0)
    }

    /// For how many messages there is room when so much more comes.
    fn free(&self, messages: u64, bytes: u64) -> u64 {
        if self.limits.when_full == WhenFull::DropOldest {
            return u64::MAX;
        }
        let held = (self.pending + self.dead + self.queued.0 + messages, self.bytes + self.queued.1 + bytes);
        let free = self.limits.max_bytes.saturating_sub(held.1);
        room_for(self.free_messages().saturating_sub(messages), free, held)
    }

    /// Takes room for a batch for which others go.
    pub(crate) fn queue_anyway(&mut self, messages: u64, bytes: u64) {
        self.queued = (self.queued.0 + messages, self.queued.1 + bytes);
    }

    /// What is too much when so much more comes.
    pub(crate) fn over(&self, messages: u64, bytes: u64) -> Option<Over> {
        let has = (self.pending + self.dead + self.queued.0, self.bytes + self.queued.1);
        let over = Over {
            messages: (has.0 + messages).saturating_sub(self.limits.max_messages),
            bytes: (has.1 + bytes).saturating_sub(self.limits.max_bytes),
        };
        (over.messages > 0 || over.bytes > 0).then_some(over)
    }

    /// Whether the oldest have to go, for what has come without being asked.
    pub(crate) fn is_overfull(&self) -> bool {
        self.limits.when_full == WhenFull::DropOldest && self.over(0, 0).is_some()
    }

    pub(crate) fn full(&mut self, messages: u64, bytes: u64) -> StoreError {
        let Limits { max_messages, max_bytes, .. } = self.limits;
        // One large batch that does not fit is no reason to turn others away.
        if messages <= max_messages.div_ceil(4) && bytes <= max_bytes.div_ceil(4) {
            self.refused = (messages, bytes);
        }
        self.admit();
        StoreError::Full {
            what: format!(
                "it holds {} messages, {} of them dead letters, of {max_messages}, and {} bytes of {max_bytes}",
                self.pending + self.dead,
                self.dead,
                self.bytes
            ),
        }
    }

    /// What was queued is stored, or is not.
    pub(crate) fn unqueue(&mut self, messages: u64, bytes: u64) {
        self.queued = (self.queued.0.saturating_sub(messages), self.queued.1.saturating_sub(bytes));
        self.admission.set_free(self.free(0, 0));
    }

    /// Notes what came and went.
    pub(crate) fn change(&mut self, pending: i64, dead: i64, bytes: i64) {
        self.changes += 1;
        self.pending = self.pending.saturating_add_signed(pending);
        self.dead = self.dead.saturating_add_signed(dead);
        self.bytes = self.bytes.saturating_add_signed(bytes);
        if let Some(counting) = &mut self.counting {
            *counting = (counting.0 + pending, counting.1 + dead, counting.2 + bytes);
        }
        self.admit();
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
        self.pending = counts.pending.saturating_add_signed(pending);
        self.dead = counts.dead.saturating_add_signed(dead);
        self.bytes = counts.bytes.saturating_add_signed(bytes);
        self.admit();
    }

    /// Takes what was counted while nothing has changed.
    pub(crate) fn counted(&mut self, counts: &Counts) {
        (self.pending, self.dead, self.bytes) = (counts.pending, counts.dead, counts.bytes);
        self.admit();
    }

    /// Opens or closes the gate for requests.
    pub(crate) fn admit(&mut self) {
        telemetry::depth(self.pending, self.dead, self.bytes);
        self.admission.set_free(self.free(0, 0));
        let Limits { max_messages, max_bytes, when_full, .. } = self.limits;
        // Once closed, it opens when a twentieth is free again, lest it flutter.
        let share = if self.admission.is_open() { 0 } else { 20 };
        let below = |has: u64, more: u64, max: u64| {
            has < max - max.checked_div(share).unwrap_or(0) && has.saturating_add(more) <= max
        };
        let room = when_full == WhenFull::DropOldest
            || (below(self.pending + self.dead, self.refused.0, max_messages)
                && below(self.bytes, self.refused.1, max_bytes));
        if room {
            self.refused = (0, 0);
        }
        let open = room && !self.closed;
        if open != self.admission.is_open() {
            if !open && !self.closed {
                tracing::error!(
                    pending = self.pending,
                    dead = self.dead,
                    bytes = self.bytes,
                    "the outbox takes no more: requests are turned away"
                );
            } else if open {
                tracing::info!("the outbox takes messages again");
            }
            self.admission.set_open(open);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(pending: u64, dead: u64, bytes: u64) -> Counts {
        Counts { pending, dead, bytes, oldest: None }
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
        room.change(3, 0, 300);
        assert!(room.begin_count());
        assert!(!room.begin_count(), "one at a time");
        room.change(2, 1, 300);
        room.change(-1, 0, -100);
        room.end_count(Some(&counts(4, 2, 1_000)));
        assert_eq!((room.pending, room.dead, room.bytes), (5, 3, 1_200));
        assert!(!room.begin_count(), "not again at once");
    }

    #[test]
    fn a_count_that_failed_changes_nothing_and_is_made_again() {
        let mut room = room();
        room.change(3, 0, 300);
        assert!(room.begin_count());
        room.end_count(None);
        assert_eq!((room.pending, room.dead, room.bytes), (3, 0, 300));
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
            assert_eq!(room.admission.is_open(), open);
        }
    }
}
