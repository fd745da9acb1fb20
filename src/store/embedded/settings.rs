//! The settings of an embedded store.

use std::path::PathBuf;

use crate::store::Limits;

/// The settings of an [`EmbeddedStore`](super::EmbeddedStore).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EmbeddedStoreSettings {
    /// The folder of the store. It is created if its parent exists. Only this user may read the folder and its files (0700
    /// and 0600). The permissions of an existing folder are tightened if it has files of the store only; else a warning
    /// names the cure.
    pub path: PathBuf,
    /// The limits of the store.
    pub limits: Limits,
    /// The size of one file in bytes; 64 MiB by default. A file is deleted when all its messages were confirmed or dropped.
    pub segment_bytes: u64,
    /// The name of this process for operators; by default its host and process id.
    pub instance_name: Option<String>,
}

impl EmbeddedStoreSettings {
    /// Settings for a store in this folder, with the default limits.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), limits: Limits::default(), segment_bytes: 64 << 20, instance_name: None }
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

    /// Sets [`instance_name`](Self::instance_name).
    #[must_use]
    pub fn with_instance_name(mut self, name: impl Into<String>) -> Self {
        self.instance_name = Some(name.into());
        self
    }
}
