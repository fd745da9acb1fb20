//! The counters of the face, for `/metrics`.

use std::sync::atomic::{AtomicU64, Ordering};

/// A counter, or a gauge.
#[derive(Debug, Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    pub(super) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn take(&self, count: u64) {
        self.0.fetch_sub(count, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counters of a face.
#[derive(Debug, Default)]
pub(super) struct Counters {
    /// TLS handshakes that failed, also for want of a certificate.
    pub(super) handshakes: Count,
    /// Calls without a valid token.
    pub(super) tokens: Count,
    /// Calls, or messages of calls, that no grant covers.
    pub(super) grants: Count,
    /// Streams, transactions and requests beyond a limit.
    pub(super) limits: Count,
    /// Answers that came too late, or after another one.
    pub(super) late_answers: Count,
    /// Transactions that are open now.
    pub(super) transactions: Count,
}
