//! Bytes in the files of the embedded store that look like something else.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use tower_outbox::store::{Settlement, Store};
use tower_outbox::{Bus, Settings};

use crate::faults::Place;
use crate::support::logs;
use crate::support::stores::{batch, confirm, lease_all, settle};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o777
}

fn assert_private(folder: &Path) {
    assert_eq!(mode(folder), 0o700, "{}", folder.display());
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
}

#[tokio::test]
async fn nobody_else_may_read_the_files_of_an_outbox() {
    let place = Place::new().with_segment_bytes(400);
    let store = place.open().await;
    for message in batch("a", 40) {
        store.append(vec![message]).await.unwrap();
    }
    let out = lease_all(&store, 40).await;
    settle(&store, &out[..1], Settlement::Dead { reason: "no".into() }).await;
    confirm(&store, &out[1..]).await;
    store.drop_messages(&[99]).await.unwrap();
    assert!(fs::read_dir(place.path()).unwrap().count() >= 4);
    assert_private(place.path());
    store.close().await;
    assert_private(place.path());
}

#[tokio::test]
async fn a_folder_and_files_that_others_may_read_are_tightened() {
    let place = Place::new();
    place.open().await.close().await;
    for entry in fs::read_dir(place.path()).unwrap() {
        fs::set_permissions(entry.unwrap().path(), fs::Permissions::from_mode(0o644)).unwrap();
    }
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let log = logs::listen();
    let store = place.open().await;
    assert_private(place.path());
    assert!(log.alarms(place.path().to_str().unwrap()).is_empty());
    store.close().await;
}

#[tokio::test]
async fn a_folder_with_files_of_others_keeps_its_rights_and_the_cure_is_said() {
    let place = Place::new();
    fs::create_dir(place.path()).unwrap();
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(place.path().join("notes.txt"), "").unwrap();
    let log = logs::listen();
    let store = place.open().await;
    assert_eq!(mode(place.path()), 0o755);
    assert_eq!(mode(&place.journal()), 0o600);
    assert_eq!(mode(&place.last_log()), 0o600);
    let said = log.alarms(place.path().to_str().unwrap());
    assert!(said.len() == 1 && said[0].contains("chmod 700"), "{said:?}");
    store.close().await;
}

#[tokio::test]
async fn nobody_else_may_read_a_database_file_that_the_bus_creates() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let settings = format!(
        "BACKEND = \"dummy\"\nDELIVERY = \"transactional\"\n[OUTBOX]\nDATABASE_URL = \"sqlite:{}\"",
        path.display()
    );
    let settings: Settings = toml::from_str(&settings).unwrap();
    let bus = Bus::builder(&settings).start().await.unwrap();
    for entry in fs::read_dir(folder.path()).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
    assert_eq!(mode(&path), 0o600);
    assert!(bus.shutdown(std::time::Duration::from_secs(5)).await.is_clean());
}
