//! A failed attempt at a message.

use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

/// A failed attempt to send or handle a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FailedAttempt {
    /// When the attempt failed.
    pub at: SystemTime,
    /// Why the attempt failed.
    pub reason: Arc<str>,
}

impl FailedAttempt {
    /// Makes a failed attempt; for stores and sources.
    #[must_use]
    pub fn new(at: SystemTime, reason: Arc<str>) -> Self {
        Self { at, reason }
    }
}
