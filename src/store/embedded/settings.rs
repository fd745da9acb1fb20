//! Where an embedded store is, and how large it may get.

use std::path::PathBuf;

use crate::store::Limits;

/// Where an [`EmbeddedStore`](super::EmbeddedStore) store is, and how large it may get.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EmbeddedStoreSettings {
    /// The folder, which is created if its parent exists. Folder and files are for this user alone (0700 and 0600): a
    /// folder that was there is tightened if only files of the store are in it, else a warning says the cure.
    pub path: PathBuf,
    /// How much it may hold.
    pub limits: Limits,
    /// How large one of its files gets; 64 MiB by default. A file is deleted when all its messages have left.
    pub segment_bytes: u64,
}

impl EmbeddedStoreSettings {
    /// A store in this folder, with the default limits.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), limits: Limits::default(), segment_bytes: 64 << 20 }
    }

    /// Sets [`limits`](Self::limits).
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets [`segment_bytes`](Self::segment_bytes).
    #[must_use]
    pub fn with_segment_bytes(mut self, segment_bytes: u64) -> Self {
        self.segment_bytes = segment_bytes;
        self
    }
}
