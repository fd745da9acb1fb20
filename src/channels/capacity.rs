//! Bounds the bytes that wait in memory for a subscriber.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::content::MOST_BYTES;

/// The bytes that wait for one subscriber: at most 64 MiB, or one message. A clone is a handle to the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Capacity(Arc<AtomicU64>);

impl Capacity {
    /// Takes room for a message; returns whether there was some.
    pub(super) fn take(&self, size: usize) -> bool {
        let with = |waiting: u64| {
            let sum = waiting.saturating_add(size as u64);
            (waiting == 0 || sum <= MOST_BYTES).then_some(sum)
        };
        self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, with).is_ok()
    }

    /// Frees the room of a message that was received, or did not get to the subscriber.
    pub(super) fn free(&self, size: usize) {
        self.0.fetch_sub(size as u64, Ordering::AcqRel);
    }
}
