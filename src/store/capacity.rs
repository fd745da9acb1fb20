//! How much a store holds, how much it may hold, and whether requests are admitted.

use super::admission::{Admission, Admitted, room_for};
use crate::store::{Limits, StoreError, WhenFull};
use crate::telemetry;

/// The messages and bytes of a store, its [`Limits`], and the [`Admission`] that follows from both.
#[derive(Debug)]
pub(super) struct Capacity {
    limits: Limits,
    admission: Admission,
    pending: u64,
    dead: u64,
    bytes: u64,
    /// Messages and bytes of batches that are being written.
    reserved: (u64, u64),
    /// Messages and bytes of the last batch that did not fit. Requests are admitted again once it would fit.
    refused: (u64, u64),
    /// The store cannot write now: no request is admitted, however much is free.
    paused: bool,
    closed: bool,
}

/// By how much a batch exceeds the limits. Both are zero if only requests that were admitted before are in its way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Excess {
    pub(super) messages: u64,
    pub(super) bytes: u64,
}

impl Capacity {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            admission: Admission::default(),
            pending: 0,
            dead: 0,
            bytes: 0,
            reserved: (0, 0),
            refused: (0, 0),
            paused: false,
            closed: false,
        }
    }

    pub(super) fn admission(&self) -> &Admission {
        &self.admission
    }

    /// Returns how many messages are pending.
    pub(super) fn pending(&self) -> u64 {
        self.pending
    }

    /// Returns how many messages are dead letters.
    pub(super) fn dead(&self) -> u64 {
        self.dead
    }

    /// Returns how many bytes pending messages and dead letters have.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether the oldest messages are dropped for a batch that does not fit.
    pub(super) fn drops_oldest(&self) -> bool {
        self.limits.when_full == WhenFull::DropOldest
    }

    /// Reserves capacity for a batch, and ends the reservation of the request that enqueued it.
    ///
    /// # Errors
    /// [`Excess`] if the batch does not fit. Then drop others and call [`reserve_anyway`](Self::reserve_anyway), or
    /// refuse the batch with [`full`](Self::full).
    pub(super) fn reserve(
        &mut self,
        messages: u64,
        bytes: u64,
        request: Option<Admitted>,
    ) -> Result<(), Excess> {
        let excess = self.excess(messages, bytes);
        let (free, left) = (self.free_messages(), self.free_after(messages, bytes));
        let drops_oldest = self.drops_oldest();
        let fits = self.admission.take_over(request, |room| {
            let fits = excess == Excess::default() && (drops_oldest || room.fits(messages, free));
            if fits {
                room.free = left;
            }
            fits
        });
        if !fits {
            return Err(excess);
        }
        self.reserve_anyway(messages, bytes);
        Ok(())
    }

    /// Reserves capacity for a batch without asking whether it fits.
    pub(super) fn reserve_anyway(&mut self, messages: u64, bytes: u64) {
        self.reserved = (self.reserved.0 + messages, self.reserved.1 + bytes);
    }

    /// Ends a reservation, as the batch is stored or refused. [`admit`](Self::admit) must follow.
    pub(super) fn unreserve(&mut self, messages: u64, bytes: u64) {
        self.reserved = (self.reserved.0.saturating_sub(messages), self.reserved.1.saturating_sub(bytes));
    }

    /// Adds to what the store holds, or takes away. [`admit`](Self::admit) must follow.
    pub(super) fn add(&mut self, pending: i64, dead: i64, bytes: i64) {
        self.pending = self.pending.saturating_add_signed(pending);
        self.dead = self.dead.saturating_add_signed(dead);
        self.bytes = self.bytes.saturating_add_signed(bytes);
    }

    /// Sets what the store holds. [`admit`](Self::admit) must follow.
    pub(super) fn set(&mut self, pending: u64, dead: u64, bytes: u64) {
        (self.pending, self.dead, self.bytes) = (pending, dead, bytes);
    }

    /// Returns by how much the limits would be exceeded with so much more.
    pub(super) fn excess(&self, messages: u64, bytes: u64) -> Excess {
        let held = (self.messages(), self.bytes + self.reserved.1);
        Excess {
            messages: (held.0 + messages).saturating_sub(self.limits.max_messages),
            bytes: (held.1 + bytes).saturating_sub(self.limits.max_bytes),
        }
    }

    /// Refuses a batch that does not fit, and admits no requests until it would.
    pub(super) fn full(&mut self, messages: u64, bytes: u64) -> StoreError {
        let Limits { max_messages, max_bytes, .. } = self.limits;
        // One large batch must not keep out requests with small ones.
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

    /// Admits no requests while the store cannot write.
    pub(super) fn set_paused(&mut self, paused: bool) {
        self.paused = paused;
        self.admit();
    }

    pub(super) fn close(&mut self) {
        self.closed = true;
        self.admit();
    }

    /// Opens or closes the admission of requests, by what the store holds.
    pub(super) fn admit(&mut self) {
        telemetry::depth(self.pending, self.dead, self.bytes);
        self.admission.set_free(self.free_after(0, 0));
        let Limits { max_messages, max_bytes, .. } = self.limits;
        // Hysteresis: once closed, it opens when 5 % is free.
        let share = if self.admission.is_open() { 0 } else { 20 };
        let below = |has: u64, more: u64, max: u64| {
            has < max - max.checked_div(share).unwrap_or(0) && has.saturating_add(more) <= max
        };
        let has_room = self.drops_oldest()
            || (below(self.pending + self.dead, self.refused.0, max_messages)
                && below(self.bytes, self.refused.1, max_bytes));
        if has_room {
            self.refused = (0, 0);
        }
        let open = has_room && !self.paused && !self.closed;
        if open == self.admission.is_open() {
            return;
        }
        self.admission.set_open(open);
        let Self { pending, dead, bytes, .. } = *self;
        match open {
            true => tracing::info!("outbox has room again; admitting requests"),
            false if self.closed => {}
            false if has_room => {
                tracing::error!(
                    pending,
                    dead,
                    bytes,
                    "outbox cannot be written; rejecting requests with 503"
                );
            }
            false => tracing::error!(pending, dead, bytes, "outbox is full; rejecting requests with 503"),
        }
    }

    /// Pending messages, dead letters, and those being written.
    fn messages(&self) -> u64 {
        self.pending + self.dead + self.reserved.0
    }

    fn free_messages(&self) -> u64 {
        self.limits.max_messages.saturating_sub(self.messages())
    }

    /// How many more messages fit after a batch of this size.
    fn free_after(&self, messages: u64, bytes: u64) -> u64 {
        if self.drops_oldest() {
            return u64::MAX;
        }
        let held = (self.messages() + messages, self.bytes + self.reserved.1 + bytes);
        let free = self.limits.max_bytes.saturating_sub(held.1);
        room_for(self.free_messages().saturating_sub(messages), free, held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capacity(when_full: WhenFull) -> Capacity {
        Capacity::new(Limits { max_messages: 100, max_bytes: 10_000, when_full })
    }

    fn fill(capacity: &mut Capacity, messages: u64) {
        capacity.set(messages, 0, 0);
        capacity.admit();
    }

    #[test]
    fn admission_closes_when_full_and_opens_when_a_twentieth_is_free() {
        let mut capacity = capacity(WhenFull::Refuse);
        for (messages, is_open) in [(99, true), (100, false), (95, false), (94, true), (95, true)] {
            fill(&mut capacity, messages);
            assert_eq!(capacity.admission().is_open(), is_open, "{messages}");
        }
    }

    #[test]
    fn a_refused_batch_closes_admission_until_it_fits() {
        let mut capacity = capacity(WhenFull::Refuse);
        fill(&mut capacity, 90);
        assert_eq!(capacity.reserve(20, 0, None), Err(Excess { messages: 10, bytes: 0 }));
        assert!(matches!(capacity.full(20, 0), StoreError::Full { .. }));
        assert!(!capacity.admission().is_open());
        fill(&mut capacity, 80);
        assert!(capacity.admission().is_open());
        capacity.full(26, 0);
        assert!(capacity.admission().is_open(), "one large batch keeps nobody out");
    }

    #[test]
    fn batches_being_written_count() {
        let mut capacity = capacity(WhenFull::Refuse);
        assert_eq!(capacity.reserve(60, 6_000, None), Ok(()));
        assert_eq!(capacity.reserve(60, 0, None), Err(Excess { messages: 20, bytes: 0 }));
        assert_eq!(capacity.reserve(0, 6_000, None), Err(Excess { messages: 0, bytes: 2_000 }));
        capacity.unreserve(60, 6_000);
        assert_eq!(capacity.reserve(60, 6_000, None), Ok(()));
    }

    #[test]
    fn a_store_that_drops_the_oldest_admits_all_requests_unless_it_cannot_write() {
        let mut capacity = capacity(WhenFull::DropOldest);
        fill(&mut capacity, 200);
        assert!(capacity.admission().is_open());
        for paused in [true, false] {
            capacity.set_paused(paused);
            assert_eq!(capacity.admission().is_open(), !paused);
        }
        capacity.close();
        assert!(!capacity.admission().is_open());
    }
}
