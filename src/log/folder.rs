//! The folder of a log: private, and locked while it is open.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;

use super::error::OpenError;
use super::files;

/// The name of the file that is locked.
pub(crate) const LOCK: &str = "lock";

/// The lock of a folder. Dropping it releases the folder.
#[derive(Debug)]
pub(crate) struct FolderLock(File);

impl FolderLock {
    /// Creates the folder if it does not exist, makes it private, and locks it. `is_known` recognises the file names of the
    /// log: a folder with other files keeps its permissions.
    pub(crate) fn open(folder: &Path, is_known: impl Fn(&str) -> bool) -> Result<Self, OpenError> {
        match files::create_folder(folder) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => {
                files::tighten_folder(folder, |name| name == LOCK || is_known(name));
            }
            created => created.map_err(OpenError::io("create", folder))?,
        }
        let path = folder.join(LOCK);
        let file = files::writable().create(true).truncate(false).open(&path);
        let file = file.map_err(OpenError::io("write", &path))?;
        files::tighten(&path, &file);
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => Err(OpenError::InUse { path: folder.to_owned() }),
            Err(TryLockError::Error(error)) => Err(OpenError::io("lock", &path)(error)),
        }
    }
}

/// A process that is being forked may hold a copy of the file, which would keep the lock for a moment.
impl Drop for FolderLock {
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}
