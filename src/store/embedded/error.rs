//! Why a store could not be opened.

use std::io;
use std::path::{Path, PathBuf};

use crate::util::error::debug_as_display;

/// Why an [`EmbeddedStore`](super::EmbeddedStore) store could not be opened.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process, or another store of this one, has it open.
    #[error(
        "the outbox {} is in use by another process: give each process a PATH of its own, or ask the running one (tower-outbox --url)",
        path.display()
    )]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// A file or folder cannot be used.
    #[error("the outbox cannot {action} {}: {}", path.display(), cure(source))]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It was written by another version.
    #[error("{} was written by another version of tower-outbox: open it with that, and let it run empty", path.display())]
    Version {
        /// The file.
        path: PathBuf,
    },
}

debug_as_display!(OpenError);

impl OpenError {
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }
}

/// What to do about it.
fn cure(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "create the folder it is to be in, or correct PATH",
        io::ErrorKind::PermissionDenied => {
            "give this process the right to read and write there, or correct PATH"
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            "it is on a read-only file system; correct PATH, or mount it writable"
        }
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => "PATH must be a folder",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "make room on that file system",
        _ => "check the file system",
    }
}
