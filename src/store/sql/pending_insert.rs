//! Messages inserted by a transaction that has not ended.

use std::fmt;
use std::sync::Arc;

use tokio::time::Instant;

use super::engine_shared::EngineShared;
use super::placed::Placed;
use crate::message::Message;

/// Messages inserted by a transaction that has not ended. Its end resolves it by [`committed`](Self::committed) or
/// [`unknown`](Self::unknown); dropping it means that the transaction was probably rolled back.
#[must_use]
pub(crate) struct PendingInsert {
    shared: Arc<EngineShared>,
    placed: Vec<Placed>,
    /// Messages and bytes of the capacity that was reserved for them.
    capacity: (u64, u64),
}

impl PendingInsert {
    pub(super) fn new(shared: Arc<EngineShared>, placed: Vec<Placed>, capacity: (u64, u64)) -> Self {
        Self { shared, placed, capacity }
    }

    /// Moves the reserved capacity to another guard.
    pub(super) fn take_capacity(&mut self) -> (u64, u64) {
        std::mem::take(&mut self.capacity)
    }

    pub(super) fn set_placed(&mut self, placed: Vec<Placed>) {
        self.placed = placed;
    }

    /// Hands over the messages, in their order, to be leased: the transaction was committed.
    pub(crate) fn committed(mut self, messages: Vec<Message>) {
        let placed = std::mem::take(&mut self.placed);
        let (count, bytes) = (placed.len() as i64, placed.iter().map(|one| one.size).sum::<u64>());
        let reserved = self.take_capacity();
        let mut others = false;
        {
            let mut schedule = self.shared.lock();
            let now = Instant::now();
            schedule.capacity.change(reserved, count, 0, bytes as i64);
            drop(schedule.capacity.held.admission().own());
            for (placed, message) in placed.into_iter().zip(messages) {
                others |= schedule.is_of_other_instance(placed.partition);
                schedule.hand_over(&placed, message, now);
            }
        }
        self.shared.notify(others);
    }

    /// Lets the engine look for the messages: whether the transaction was committed is not known here.
    pub(crate) fn unknown(self) {
        let mut schedule = self.shared.lock();
        let (now, mut others) = (Instant::now(), false);
        for placed in &self.placed {
            others |= schedule.is_of_other_instance(placed.partition);
            schedule.look_for_due(now + placed.wait);
        }
        schedule.wake();
        schedule.count_soon();
        drop(schedule);
        self.shared.notify(others);
    }
}

impl Drop for PendingInsert {
    fn drop(&mut self) {
        if self.placed.is_empty() && self.capacity == (0, 0) {
            return;
        }
        let mut schedule = self.shared.lock();
        schedule.capacity.unreserve(self.capacity);
        let mut read = false;
        for placed in &self.placed {
            read |= placed.reserved;
            schedule.unreserve(placed.position);
        }
        drop(schedule);
        if read {
            self.shared.changed.notify_waiters();
        }
    }
}

impl fmt::Debug for PendingInsert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingInsert").field("placed", &self.placed).finish_non_exhaustive()
    }
}
