//! The bytes of unreceived messages in memory.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts the bytes that the guard has passed and the link has not released.
#[derive(Debug)]
pub(crate) struct HeldBytes {
    count: AtomicUsize,
    limit: AtomicUsize,
}

impl Default for HeldBytes {
    fn default() -> Self {
        Self { count: AtomicUsize::new(0), limit: AtomicUsize::new(usize::MAX) }
    }
}

impl HeldBytes {
    /// Sets the limit from which on no further message is accepted.
    pub(crate) fn limit(&self, bytes: usize) {
        self.limit.store(bytes, Ordering::Relaxed);
    }

    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    pub(crate) fn has_room(&self) -> bool {
        self.count() < self.limit.load(Ordering::Relaxed)
    }

    pub(crate) fn add(&self, bytes: usize) {
        self.count.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn subtract(&self, bytes: usize) {
        self.count.fetch_sub(bytes, Ordering::Relaxed);
    }
}
