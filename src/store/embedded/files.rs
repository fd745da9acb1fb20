//! Files and folders that only this user may read: messages are stored in clear text.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::path::Path;

/// How files are opened to be read and written.
pub(super) fn writable() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Creates a file, or empties it.
pub(super) fn create(path: &Path) -> io::Result<File> {
    let file = writable().create(true).truncate(true).open(path)?;
    tighten(path, &file);
    Ok(file)
}

/// Takes the rights of others to a file of ours away. A file system without such rights is no reason to stop.
pub(super) fn tighten(path: &Path, file: &File) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;

        let wide = file.metadata().is_ok_and(|metadata| metadata.permissions().mode() & 0o077 != 0);
        if wide && let Err(error) = file.set_permissions(fs::Permissions::from_mode(0o600)) {
            tracing::debug!(path = %path.display(), %error, "the rights of others to a file of the outbox stay");
        }
    }
    #[cfg(not(unix))]
    let _ = (path, file);
}

/// Creates the folder of a store.
pub(super) fn create_folder(path: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// Takes the rights of others to a folder away that was there, if nothing but files of ours is in it; else warns.
pub(super) fn tighten_folder(path: &Path, is_ours: impl Fn(&str) -> bool) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;

        let wide = fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o077 != 0);
        if !wide {
            return;
        }
        let only_ours = fs::read_dir(path).is_ok_and(|mut entries| {
            entries.all(|entry| entry.is_ok_and(|entry| entry.file_name().to_str().is_some_and(&is_ours)))
        });
        if !only_ours || fs::set_permissions(path, fs::Permissions::from_mode(0o700)).is_err() {
            tracing::warn!(
                folder = %path.display(),
                "others may look into the folder of the outbox, though not into its files; chmod 700 stops them"
            );
        }
    }
    #[cfg(not(unix))]
    let _ = (path, is_ours);
}
