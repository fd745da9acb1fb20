//! Folders that cannot be used: the error at start names the path and the cure.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;

use tower_outbox::store::{EmbeddedStore, EmbeddedStoreSettings, OpenError, Store};
use tower_outbox::{Bus, Settings, SettingsError};

use super::full::Disk;
use super::{again, part};
use crate::support::stores::{batch, open};

/// Asserts that the store cannot be opened, directly and by settings, and that the error has the path and the cure.
async fn assert_refused(path: &Path, names: &Path, cure: &str) {
    let error = EmbeddedStore::open(&EmbeddedStoreSettings::new(path)).await.unwrap_err();
    let OpenError::Io { path: named, .. } = &error else { panic!("{error:?}") };
    assert_eq!(named, names);
    let text = error.to_string();
    assert!(text.contains(names.to_str().unwrap()) && text.contains(cure), "{text}");

    let settings = format!("DELIVERY = \"durable\"\n[OUTBOX]\nPATH = {:?}", path.to_str().unwrap());
    let settings: Settings = toml::from_str(&settings).unwrap();
    let error = Bus::start(&settings).await.unwrap_err();
    assert!(matches!(error, SettingsError::Outbox { .. }), "{error}");
    assert!(error.to_string().contains(&text), "{error}");
}

#[tokio::test]
async fn a_missing_parent_folder_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("missing").join("outbox");
    assert_refused(&path, &path, "create its parent folder, or correct PATH").await;
    assert!(!path.parent().unwrap().exists(), "nothing was created");
}

#[tokio::test]
async fn a_file_in_place_of_the_folder_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("outbox");
    fs::write(&path, "precious").unwrap();
    assert_refused(&path, &path, "PATH must be a folder").await;
    let below = path.join("below");
    assert_refused(&below, &below, "PATH must be a folder").await;
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[tokio::test]
#[ignore = "needs root to mount: ./scripts/test"]
async fn a_read_only_file_system_is_an_error() {
    let disk = Disk::mount("size=2m");
    let (new, old) = (disk.path().join("new"), disk.path().join("old"));
    let store = open(&EmbeddedStoreSettings::new(&old)).await.unwrap();
    store.append(batch("a", 2)).await.unwrap();
    store.close().await;
    drop(store);
    disk.remount("ro");
    let cure = "it is on a read-only file system; correct PATH, or mount it writable";
    assert_refused(&new, &new, cure).await;
    assert_refused(&old, &old.join("lock"), cure).await;
    disk.remount("rw");
    let store = open(&EmbeddedStoreSettings::new(&old)).await.unwrap();
    assert_eq!(super::drain(&store).await.len(), 2);
}

#[tokio::test]
#[ignore = "needs root to become another user: ./scripts/test"]
async fn a_lack_of_permission_is_an_error() {
    let cure = "allow this process to read and write there, or correct PATH";
    if let Some(path) = part() {
        let path = Path::new(&path);
        let (new, old) = (path.join("new"), path.join("old"));
        assert_refused(&new, &new, cure).await;
        assert_refused(&old, &old.join("lock"), cure).await;
        println!("refused as it should be");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    // Other users may list it, and no more.
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let store = open(&EmbeddedStoreSettings::new(folder.path().join("old"))).await.unwrap();
    store.close().await;
    drop(store);
    // Another user may not be allowed to read the binary of this test.
    let binary = folder.path().join("it");
    fs::copy(std::env::current_exe().unwrap(), &binary).unwrap();
    let command = again("faults::opening::a_lack_of_permission_is_an_error", folder.path().to_str().unwrap());
    let mut other = std::process::Command::new(&binary);
    other.args(command.get_args()).envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    other.env_remove("TMPDIR").current_dir("/").uid(65_534).gid(65_534);
    let output = other.output().unwrap_or_else(|error| panic!("becoming another user needs root: {error}"));
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("refused as it should be"), "{said}");
}
