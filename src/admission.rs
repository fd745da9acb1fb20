//! The gate at which requests are turned away.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether requests are let in: while it is closed, [`MessagingLayer`](crate::MessagingLayer) answers 503 with
/// `Retry-After` before the handler runs, so that no side effect happens whose message cannot be kept.
///
/// Requests by a safe method (GET, HEAD, OPTIONS, TRACE: RFC 9110, section 9.2.1) are let in all the same.
/// A clone is a handle to the same gate, which begins open.
#[derive(Clone, Debug)]
pub struct Admission {
    gate: Arc<AtomicBool>,
    or: Option<Box<Self>>,
}

impl Default for Admission {
    fn default() -> Self {
        Self { gate: Arc::new(AtomicBool::new(true)), or: None }
    }
}

impl Admission {
    /// Whether requests are let in.
    #[must_use]
    #[inline]
    pub fn is_open(&self) -> bool {
        self.gate.load(Ordering::Relaxed) || self.or.as_ref().is_some_and(|or| or.is_open())
    }

    /// Both gates as one, which is open while one of them is. Setting it sets the first.
    #[must_use]
    pub(crate) fn or(mut self, other: Self) -> Self {
        self.or = Some(Box::new(match self.or.take() {
            Some(or) => or.or(other),
            None => other,
        }));
        self
    }

    /// Opens or closes it.
    pub fn set_open(&self, open: bool) {
        self.gate.store(open, Ordering::Relaxed);
    }
}
