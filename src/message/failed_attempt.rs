//! What is kept of an attempt that failed.

use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

/// One attempt that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FailedAttempt {
    /// When.
    pub at: SystemTime,
    /// What went wrong.
    pub reason: Arc<str>,
}

impl FailedAttempt {
    /// For stores.
    #[must_use]
    pub fn new(at: SystemTime, reason: Arc<str>) -> Self {
        Self { at, reason }
    }
}
