//! The messages in flight, and their limits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::message::Message;

/// The messages of a layer that are being sent, including those of clients that have gone. A clone shares the count.
#[derive(Clone, Debug, Default)]
pub(super) struct Flight(Arc<Count>);

#[derive(Debug, Default)]
struct Count {
    messages: AtomicUsize,
    bytes: AtomicUsize,
    /// Whether a batch did not fit: no request is admitted before another batch has ended.
    refused: AtomicBool,
}

/// The limits of messages in flight.
#[derive(Clone, Copy, Debug)]
pub(super) struct FlightLimits {
    pub(super) messages: usize,
    pub(super) bytes: usize,
}

impl Flight {
    /// Whether one more message would exceed the limits.
    #[inline]
    pub(super) fn is_full(&self, limits: FlightLimits) -> bool {
        let messages = self.0.messages.load(Ordering::Relaxed);
        messages >= limits.messages
            || self.0.bytes.load(Ordering::Relaxed) >= limits.bytes
            || (messages > 0 && self.0.refused.load(Ordering::Relaxed))
    }

    /// Counts a batch until the guard is dropped; `None` when it does not fit. A batch larger than the limits is sent alone.
    pub(super) fn take(&self, batch: &[Message], limits: FlightLimits) -> Option<InTheAir> {
        let (messages, bytes) = (batch.len(), batch.iter().map(Message::size).sum());
        let before = (
            self.0.messages.fetch_add(messages, Ordering::Relaxed),
            self.0.bytes.fetch_add(bytes, Ordering::Relaxed),
        );
        let taken = InTheAir { flight: self.clone(), messages, bytes };
        let fits = before.0.saturating_add(messages) <= limits.messages
            && before.1.saturating_add(bytes) <= limits.bytes;
        if fits || before.0 == 0 {
            return Some(taken);
        }
        drop(taken);
        self.0.refused.store(true, Ordering::Relaxed);
        None
    }
}

/// A batch in flight.
#[derive(Debug)]
pub(super) struct InTheAir {
    flight: Flight,
    messages: usize,
    bytes: usize,
}

impl Drop for InTheAir {
    fn drop(&mut self) {
        self.flight.0.messages.fetch_sub(self.messages, Ordering::Relaxed);
        self.flight.0.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.flight.0.refused.store(false, Ordering::Relaxed);
    }
}
