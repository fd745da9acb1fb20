//! An instance of an app that shares a store.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// An instance of an app that shares a store with others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Instance {
    /// The id. An instance that was away for too long returns with a new one.
    pub id: String,
    /// The time until others take its partitions, unless its next heartbeat comes before.
    pub expires_in: Duration,
    /// The number of the partitions whose messages it sends.
    pub partitions: u64,
}

impl Instance {
    /// An instance with its partitions.
    #[must_use]
    pub fn new(id: String, expires_in: Duration, partitions: u64) -> Self {
        Self { id, expires_in, partitions }
    }
}
