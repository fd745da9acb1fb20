//! The error of opening a folder.

use std::io;
use std::path::{Path, PathBuf};

use crate::util::error::debug_as_display;

/// The reason why the folder of a store could not be opened.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process, or another store of this process, has the folder open.
    #[error(
        "{} is in use by another process: give each process a PATH of its own, or ask the running one (tower-outbox --url)",
        path.display()
    )]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// A file or folder cannot be used.
    #[error("cannot {action} {}: {}", path.display(), cure(source))]
    Io {
        /// The action that failed.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// Another version of this crate wrote the file.
    #[error("{} was written by another version of tower-outbox: open it with that version, and let the store run empty", path.display())]
    Version {
        /// The file.
        path: PathBuf,
    },
}

debug_as_display!(OpenError);

impl OpenError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }
}

/// Returns the cure of an error of the operating system.
fn cure(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "create its parent folder, or correct PATH",
        io::ErrorKind::PermissionDenied => "allow this process to read and write there, or correct PATH",
        io::ErrorKind::ReadOnlyFilesystem => {
            "it is on a read-only file system; correct PATH, or mount it writable"
        }
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => "PATH must be a folder",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "make room on that file system",
        _ => "check the file system",
    }
}
