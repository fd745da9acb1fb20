//! Hostile content in the files of the embedded store.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use tower_outbox::message::Settlement;
use tower_outbox::store::{EmbeddedStore, OpenError, Store};
use tower_outbox::{Bus, Message, Settings};
use uuid::Uuid;

use crate::faults::{StoreFolder, assert_works, cut, drain, flip, unreadable, without, written};
use crate::support::format::{NEWER_SEGMENT, OLDER_SEGMENT, RECORD_MAGIC};
use crate::support::logs::{self, Logs};
use crate::support::stores::{batch, confirm, depth, ids, lease_all, settle};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o777
}

fn assert_private(folder: &Path) {
    assert_eq!(mode(folder), 0o700, "{}", folder.display());
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        // The store may delete a file between the listing and the look at it.
        let Ok(file) = fs::metadata(&path) else { continue };
        assert_eq!(file.mode() & 0o777, 0o600, "{}", path.display());
    }
}

#[tokio::test]
async fn files_of_an_outbox_are_private() {
    let folder = StoreFolder::new().with_segment_bytes(400);
    let store = folder.open().await;
    for message in batch("a", 40) {
        store.append(vec![message]).await.unwrap();
    }
    let out = lease_all(&store, 40).await;
    settle(&store, &out[..1], Settlement::Reject { reason: "no".into() }).await;
    confirm(&store, &out[1..]).await;
    store.drop_messages(&[99]).await.unwrap();
    assert!(fs::read_dir(folder.path()).unwrap().count() >= 4);
    assert_private(folder.path());
    store.close().await;
    assert_private(folder.path());
}

#[tokio::test]
async fn permissions_of_existing_files_are_tightened() {
    let folder = StoreFolder::new();
    folder.open().await.close().await;
    for entry in fs::read_dir(folder.path()).unwrap() {
        fs::set_permissions(entry.unwrap().path(), fs::Permissions::from_mode(0o644)).unwrap();
    }
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let log = logs::listen();
    let store = folder.open().await;
    assert_private(folder.path());
    assert!(log.alarms(folder.path().to_str().unwrap()).is_empty());
    store.close().await;
}

#[tokio::test]
async fn a_folder_with_foreign_files_keeps_its_permissions_with_a_warning() {
    let folder = StoreFolder::new();
    fs::create_dir(folder.path()).unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(folder.path().join("notes.txt"), "").unwrap();
    let log = logs::listen();
    let store = folder.open().await;
    assert_eq!(mode(folder.path()), 0o755);
    assert_eq!(mode(&folder.journal()), 0o600);
    assert_eq!(mode(&folder.last_log()), 0o600);
    let said = log.alarms(folder.path().to_str().unwrap());
    assert!(said.len() == 1 && said[0].has("folder"), "{said:?}");
    store.close().await;
}

#[tokio::test]
async fn a_database_file_that_the_bus_creates_is_private() {
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

/// Opens the store and confirms all messages; returns how many of `ids` are missing, and asserts that each is counted.
async fn missing(folder: &StoreFolder, ids: &[Uuid], log: &Logs, what: &str) -> usize {
    let store = folder.open().await;
    let left = drain(&store).await;
    assert!(without(&left, ids).is_empty(), "{what}: something else is sent");
    assert!(left.is_sorted_by_key(|id| ids.iter().position(|other| other == id)), "{what}: in order");
    let missing = without(ids, &left).len();
    assert_eq!(left.len() + missing, ids.len(), "{what}: nothing is sent twice");
    let said = log.alarms(folder.path().to_str().unwrap());
    let lost =
        said.iter().filter(|event| event.has("cause")).map(|event| event.get("messages").parse::<usize>());
    let lost = lost.map(Result::unwrap);
    let (lost, dead) = (lost.sum::<usize>(), unreadable(&store).await);
    assert_eq!(lost + dead, missing, "{what}: {said:?}");
    assert_works(&store).await;
    store.close().await;
    missing
}

/// Returns a segment of a store with `before` messages and one more, to be used as a body; and the id of that one.
async fn forged(folder: &StoreFolder, before: usize) -> (Vec<u8>, Uuid) {
    let store = folder.open().await;
    store.append(batch("a", before)).await.unwrap();
    let message = Message::new("admin.delete_all", "forged").unwrap();
    store.append(vec![message.clone()]).await.unwrap();
    store.close().await;
    (fs::read(folder.last_log()).unwrap(), message.id())
}

#[tokio::test]
async fn a_body_that_looks_like_a_record_is_never_read_as_one() {
    let log = logs::listen();
    for (close, before) in [(true, 2), (false, 2), (true, 0), (false, 0)] {
        // The forged record has the position of the true one.
        let (body, forged) = forged(&StoreFolder::new(), before).await;
        let folder = StoreFolder::new();
        let store = folder.open().await;
        let messages =
            [batch("a", before), vec![Message::new("a", body.clone()).unwrap()], batch("a", 2)].concat();
        store.append(messages[..before].to_vec()).await.unwrap();
        let begins = written(&folder.last_log()).len();
        for message in &messages[before..] {
            store.append(vec![message.clone()]).await.unwrap();
        }
        if close {
            store.close().await;
        }
        let ids = ids(&messages);
        assert!(!ids.contains(&forged));
        let bytes = written(&folder.last_log());
        let body_begins = bytes.windows(body.len()).position(|window| window == body).unwrap();
        for at in (begins..body_begins).step_by(7) {
            let damaged = folder.copy();
            flip(&damaged.last_log(), at, 0x41);
            let what = format!("close: {close}, {before} before, byte {at}");
            // Without earlier messages the range has the head of the body, too.
            let missing = missing(&damaged, &ids, &log, &what).await;
            assert!(missing <= 1, "{what}: {missing} missing");
        }
    }
}

#[tokio::test]
async fn a_record_of_the_same_store_in_a_body_is_never_read_as_one() {
    let log = logs::listen();
    let folder = StoreFolder::new();
    let first = folder.open().await;
    let messages = batch("a", 2);
    first.append(messages.clone()).await.unwrap();
    first.close().await;
    // Two copies of one store continue; the body is a segment of the first.
    let (one, other) = (folder.copy(), folder.copy());
    let store = one.open().await;
    store.append(vec![Message::new("admin.delete_all", "forged").unwrap()]).await.unwrap();
    store.close().await;
    let begins = written(&other.last_log()).len();
    let store = other.open().await;
    let body = Message::new("a", fs::read(one.last_log()).unwrap()).unwrap();
    let messages = [messages, vec![body], batch("a", 3)].concat();
    store.append(messages[2..].to_vec()).await.unwrap();
    store.close().await;
    for at in begins..begins + 60 {
        let damaged = other.copy();
        flip(&damaged.last_log(), at, 0x41);
        assert_eq!(missing(&damaged, &ids(&messages), &log, &format!("byte {at}")).await, 1);
    }
}

/// Fills several segments, and closes the store; returns the ids of its messages.
async fn of_several_files(folder: &StoreFolder) -> Vec<Uuid> {
    let store = folder.open().await;
    let messages = batch("a", 12);
    for message in &messages {
        store.append(vec![message.clone()]).await.unwrap();
    }
    store.close().await;
    assert!(folder.logs().len() >= 4);
    ids(&messages)
}

#[tokio::test]
async fn a_file_of_another_store_is_neither_read_nor_deleted() {
    let log = logs::listen();
    let folder = StoreFolder::new().with_segment_bytes(300);
    let ids = of_several_files(&folder).await;
    let foreign = StoreFolder::new().with_segment_bytes(300);
    of_several_files(&foreign).await;
    for file in 0..folder.logs().len() {
        let damaged = folder.copy();
        let bytes = fs::read(&foreign.logs()[file]).unwrap();
        fs::write(&damaged.logs()[file], &bytes).unwrap();
        missing(&damaged, &ids, &log, &format!("file {file}")).await;
        let kept = fs::read_dir(damaged.path())
            .unwrap()
            .any(|entry| fs::read(entry.unwrap().path()).unwrap() == bytes);
        assert!(kept, "file {file} is not kept");
    }
    // A foreign journal is set aside: every message is sent.
    let damaged = folder.copy();
    fs::copy(foreign.journal(), damaged.journal()).unwrap();
    assert_eq!(missing(&damaged, &ids, &log, "journal").await, 0);
}

#[tokio::test]
async fn a_file_in_place_of_another_costs_only_the_messages_of_that_one() {
    let log = logs::listen();
    let folder = StoreFolder::new().with_segment_bytes(300);
    let ids = of_several_files(&folder).await;
    let files = folder.logs().len();
    for (from, to) in [(0, 1), (1, 0), (0, files - 1), (files - 2, 0)] {
        let damaged = folder.copy();
        fs::copy(&damaged.logs()[from], &damaged.logs()[to]).unwrap();
        let cost = missing(&damaged, &ids, &log, &format!("a copy of {from} in the folder of {to}")).await;
        assert!((usize::from(to + 1 < files)..=4).contains(&cost), "{cost}");
        let damaged = folder.copy();
        fs::copy(&damaged.logs()[from], damaged.journal()).unwrap();
        assert_eq!(missing(&damaged, &ids, &log, "a log in the folder of the journal").await, 0);
    }
}

#[tokio::test]
async fn the_name_of_a_renamed_file_is_restored() {
    let log = logs::listen();
    let folder = StoreFolder::new().with_segment_bytes(300);
    let ids = of_several_files(&folder).await;
    for (file, name) in [
        (0, "09000000000000000000.log"),
        (3, "backup.log"),
        (1, "00000000000000000001-09000000000000000000.log"),
        (2, "00000000000000000777.log"),
    ] {
        let damaged = folder.copy();
        fs::rename(&damaged.logs()[file], damaged.path().join(name)).unwrap();
        assert_eq!(missing(&damaged, &ids, &log, name).await, 0);
    }
    // Two files with each other's names.
    let damaged = folder.copy();
    let (one, other) = (damaged.logs()[0].clone(), damaged.logs()[2].clone());
    fs::rename(&one, damaged.path().join("x")).unwrap();
    fs::rename(&other, &one).unwrap();
    fs::rename(damaged.path().join("x"), &other).unwrap();
    assert_eq!(missing(&damaged, &ids, &log, "exchanged").await, 0);
}

#[tokio::test]
async fn a_file_cut_short_costs_its_messages_and_they_are_counted() {
    let log = logs::listen();
    let folder = StoreFolder::new().with_segment_bytes(300);
    let ids = of_several_files(&folder).await;
    let files = folder.logs().len();
    for file in 0..files {
        let len = fs::metadata(&folder.logs()[file]).unwrap().len() as usize;
        for cut_at in [0, 1, 7, 8, 30, len / 2, len - 1] {
            let damaged = folder.copy();
            cut(&damaged.logs()[file], cut_at.min(len));
            let cost = missing(&damaged, &ids, &log, &format!("file {file} cut at {cut_at} of {len}")).await;
            assert!(cost >= usize::from(file + 1 < files), "file {file} cut at {cut_at}: nothing is missing");
        }
    }
}

#[tokio::test]
async fn file_names_that_claim_every_position_cost_nothing() {
    let log = logs::listen();
    let folder = StoreFolder::new().with_segment_bytes(300);
    let ids = of_several_files(&folder).await;
    for name in [
        "00000000000000000000-18446744073709551615.log",
        "00000000000000000001-04611686018427387904.log",
        "18446744073709551615.log",
        "04611686018427387904.log",
        "99999999999999999999.log",
        "1.log",
    ] {
        for content in [&b""[..], b"nothing of ours", &[0; 5_000], &[RECORD_MAGIC[0]; 300]] {
            let damaged = folder.copy();
            fs::write(damaged.path().join(name), content).unwrap();
            assert_eq!(missing(&damaged, &ids, &log, &format!("{name}, {} bytes", content.len())).await, 0);
        }
    }
}

#[tokio::test]
async fn random_damage_causes_no_panic_and_lost_messages_are_counted() {
    let log = logs::listen();
    let folder = StoreFolder::new().with_segment_bytes(600);
    let store = folder.open().await;
    let messages = batch("a", 12);
    for message in &messages {
        store.append(vec![message.clone()]).await.unwrap();
    }
    let out = lease_all(&store, 12).await;
    settle(&store, &out[..1], Settlement::Reject { reason: "no".into() }).await;
    settle(&store, &out[1..], Settlement::Release).await;
    store.close().await;
    let ids = ids(&messages);
    let mut word = 1_u64;
    let mut random = |below: usize| {
        word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (word >> 33) as usize % below
    };
    for round in 0..150 {
        let damaged = folder.copy();
        let mut paths = damaged.logs();
        paths.push(damaged.journal());
        paths.push(damaged.path().join("reasons-00000000000000000000"));
        for _ in 0..=random(3) {
            let source = fs::read(&paths[random(paths.len())]).unwrap();
            let target = &paths[random(paths.len())];
            let mut bytes = fs::read(target).unwrap();
            let (from, to) = (random(source.len().max(1)), random(bytes.len().max(1)));
            let len =
                random(200).min(source.len() - from.min(source.len())).min(bytes.len() - to.min(bytes.len()));
            match random(5) {
                0 => bytes[to..to + len].copy_from_slice(&source[from..from + len]),
                1 => bytes[to..to + len].fill(0xFF),
                2 => bytes[to..to + len].fill(0),
                3 => drop(bytes.splice(to..to, source[from..from + len].iter().copied())),
                _ => bytes.truncate(to),
            }
            fs::write(target, bytes).unwrap();
        }
        let store: EmbeddedStore = damaged.open().await;
        let left = drain(&store).await;
        assert!(without(&left, &ids).is_empty(), "round {round}: something else is sent");
        let gone = without(&ids, &left).len();
        let said = log.alarms(damaged.path().to_str().unwrap());
        let (pending, dead) = depth(&store).await;
        assert!(
            pending == 0 && (gone as u64 <= dead || !said.is_empty()),
            "round {round}: {gone} {dead} {said:?}"
        );
        assert_works(&store).await;
        store.close().await;
    }
}

#[tokio::test]
async fn a_store_of_another_version_is_refused_and_left_unchanged() {
    for (name, content) in [
        ("00000000000000000001.log", &[&OLDER_SEGMENT[..], &RECORD_MAGIC, b"\x01\x00rest"].concat()[..]),
        ("00000000000000000001.log", &[&NEWER_SEGMENT[..], b" and more"].concat()),
        ("state", &[&RECORD_MAGIC[..], b"\x01\x00\x05\x00\x00\x00"].concat()),
    ] {
        let folder = StoreFolder::new();
        fs::create_dir(folder.path()).unwrap();
        fs::write(folder.path().join(name), content).unwrap();
        match EmbeddedStore::open(&folder.settings).await {
            Err(error @ OpenError::Version { .. }) => assert!(error.to_string().contains(name), "{error}"),
            other => panic!("{name}: {other:?}"),
        }
        assert_eq!(fs::read(folder.path().join(name)).unwrap(), content);
    }
}
