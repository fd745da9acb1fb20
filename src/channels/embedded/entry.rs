//! The entry in memory of a stored message: where it is on disk, and what has changed since it was written.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Where a record is. 16 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Location {
    /// The position of the record in the log.
    pub(super) position: u64,
    /// Its offset in the file.
    pub(super) offset: u32,
    /// Its length with the header; 0 for a message that is gone.
    pub(super) len: u32,
}

impl Location {
    pub(super) fn is_gone(self) -> bool {
        self.len == 0
    }
}

/// A message of a queue. 32 bytes, since there may be millions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) sequence: u64,
    pub(super) place: Location,
    pub(super) extra: Option<Box<Extra>>,
}

/// The parts that most messages do not have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Extra {
    /// When the message expires, in nanoseconds since 1970; 0 for never.
    pub(super) expires: u64,
    /// How often it was received, and rejected.
    pub(super) receives: u32,
    /// When it was rejected or moved, in nanoseconds since 1970; 0 if the record has its time.
    pub(super) time: u64,
    /// The queue that gave up on it.
    pub(super) rerouted_from: Option<Arc<str>>,
    /// Whether its policy does not count any more.
    pub(super) is_free: bool,
}

impl Entry {
    /// Returns when the message expires; 0 for never.
    pub(super) fn expires(&self) -> u64 {
        self.extra.as_ref().map_or(0, |extra| extra.expires)
    }

    pub(super) fn receives(&self) -> u32 {
        self.extra.as_ref().map_or(0, |extra| extra.receives)
    }

    /// Changes what most messages do not have.
    pub(super) fn change(&mut self, change: impl FnOnce(&mut Extra)) {
        let mut extra = self.extra.take().unwrap_or_default();
        change(&mut extra);
        self.extra = (*extra != Extra::default()).then_some(extra);
    }
}
