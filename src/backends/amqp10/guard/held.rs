//! How many bytes of messages are here.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts what the guard lets through and the link has not let go of yet.
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
    /// Lets no message begin while this much is here.
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
