//! The operations of operators on a store.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

/// An operation of an operator, for people to read later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct OperationRecord {
    /// When it was done.
    pub at: SystemTime,
    /// The operator; `None` if the app did not say.
    pub by: Option<String>,
    /// The operation: `requeue`, `drop`.
    pub action: String,
    /// How many messages it touched.
    pub messages: u64,
    /// Which messages: a filter, or positions.
    pub which: String,
}

impl OperationRecord {
    /// An operation of this moment.
    #[must_use]
    pub fn new(
        action: impl Into<String>,
        messages: u64,
        which: impl Into<String>,
        by: Option<String>,
    ) -> Self {
        Self { at: SystemTime::now(), by, action: action.into(), messages, which: which.into() }
    }
}
