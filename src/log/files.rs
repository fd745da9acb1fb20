//! Files and folders that only this user may read, since records are stored in clear text; and access to them by offset.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::path::Path;

use crate::util::error::BoxError;

/// Returns the options that open a file for reading and writing.
pub(crate) fn writable() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Creates a file, or truncates it.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    let file = writable().create(true).truncate(true).open(path)?;
    tighten(path, &file);
    Ok(file)
}

/// Removes the permissions of other users from a file. A file system without permissions is no error.
pub(crate) fn tighten(path: &Path, file: &File) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;

        let wide = file.metadata().is_ok_and(|metadata| metadata.permissions().mode() & 0o077 != 0);
        if wide && let Err(error) = file.set_permissions(fs::Permissions::from_mode(0o600)) {
            tracing::debug!(path = %path.display(), %error, "could not remove the permissions of other users from a file; they may read it");
        }
    }
    #[cfg(not(unix))]
    let _ = (path, file);
}

/// Creates the folder of a log.
pub(crate) fn create_folder(path: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// Removes the permissions of other users from an existing folder if it holds files of the log only; else warns.
pub(crate) fn tighten_folder(path: &Path, is_known: impl Fn(&str) -> bool) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;

        let wide = fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o077 != 0);
        if !wide {
            return;
        }
        let only_known = fs::read_dir(path).is_ok_and(|mut entries| {
            entries.all(|entry| entry.is_ok_and(|entry| entry.file_name().to_str().is_some_and(&is_known)))
        });
        if !only_known || fs::set_permissions(path, fs::Permissions::from_mode(0o700)).is_err() {
            tracing::warn!(
                folder = %path.display(),
                "other users may list this folder, but not read its files; run chmod 700 on it to prevent that"
            );
        }
    }
    #[cfg(not(unix))]
    let _ = (path, is_known);
}

/// Makes the names in a folder durable.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

#[cfg(unix)]
pub(crate) fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}

#[cfg(windows)]
pub(crate) fn write_at(mut file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    io::Seek::seek(&mut file, io::SeekFrom::Start(offset))?;
    io::Write::write_all(&mut file, bytes)
}

/// Reads until the buffer is full or the file ends; returns the number of bytes read.
pub(crate) fn read_full(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match read_at(file, &mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(unix)]
pub(crate) fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, buffer, offset)
}

#[cfg(windows)]
pub(crate) fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, buffer, offset)
}

/// Whether the file system has no room for a write.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Explains why a file or folder could not be written, with the cure.
pub(crate) fn write_error(what: &dyn std::fmt::Display, error: &io::Error) -> BoxError {
    let cure = if is_full(error) { "; make room on that file system" } else { "" };
    format!("{what} cannot be written: {error}{cure}").into()
}
