//! Messages that stand in a transaction which is not committed yet.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::shared::Shared;
use crate::message::Message;

/// Messages inserted by a transaction: say [`committed`](Self::committed) once it is, so that they leave at once.
/// Dropped, they leave when they are found, if they are there.
#[must_use]
pub(crate) struct Inserted {
    shared: Arc<Shared>,
    places: Vec<Place>,
    /// Messages and bytes for which there was room taken before.
    queued: (u64, u64),
}

/// Where an inserted message stands.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) position: u64,
    pub(crate) bucket: i16,
    pub(crate) size: u64,
    /// How long it is held back.
    pub(crate) wait: Duration,
    /// It is not read by this process until it is known whether it was committed.
    pub(crate) reserved: bool,
}

impl Inserted {
    pub(super) fn new(shared: Arc<Shared>, places: Vec<Place>, queued: (u64, u64)) -> Self {
        Self { shared, places, queued }
    }

    /// The room that was taken is another's to give back.
    pub(super) fn take_queued(&mut self) -> (u64, u64) {
        std::mem::take(&mut self.queued)
    }

    /// Where they stand.
    pub(super) fn stands_at(&mut self, places: Vec<Place>) {
        self.places = places;
    }

    /// Takes the messages, in their order, to be sent.
    pub(crate) fn committed(mut self, messages: Vec<Message>) {
        let places = std::mem::take(&mut self.places);
        let count = places.len() as i64;
        let bytes: u64 = places.iter().map(|place| place.size).sum();
        let mut elsewhere = false;
        {
            let mut state = self.shared.lock();
            let now = Instant::now();
            state.room.change(self.queued, count, 0, bytes as i64);
            drop(state.room.capacity.admission().own());
            for (place, message) in places.into_iter().zip(messages) {
                elsewhere |= state.is_elsewhere(place.bucket);
                state.hand_over(&place, message, now);
            }
        }
        self.queued = (0, 0);
        self.shared.changed.notify_waiters();
        if elsewhere {
            self.shared.elsewhere.notify_one();
        }
    }

    /// Whether it was committed is not known here: they are looked for.
    pub(crate) fn look(self) {
        let mut state = self.shared.lock();
        let (now, mut elsewhere) = (Instant::now(), false);
        for place in &self.places {
            elsewhere |= state.is_elsewhere(place.bucket);
            state.look_for_due(now + place.wait);
        }
        state.wake();
        state.count_soon();
        drop(state);
        self.shared.changed.notify_waiters();
        if elsewhere {
            self.shared.elsewhere.notify_one();
        }
    }
}

impl Drop for Inserted {
    fn drop(&mut self) {
        if self.places.is_empty() && self.queued == (0, 0) {
            return;
        }
        let mut state = self.shared.lock();
        state.room.unreserve(self.queued);
        let mut read = false;
        for place in &self.places {
            read |= place.reserved;
            state.unreserve(place.position);
        }
        drop(state);
        if read {
            self.shared.changed.notify_waiters();
        }
    }
}

impl fmt::Debug for Inserted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inserted").field("places", &self.places).finish_non_exhaustive()
    }
}
