//! A flipped byte is detected and logged, and all other messages stay readable.

use std::collections::{BTreeSet, HashSet};
use std::fs;

use tower_outbox::Message;
use tower_outbox::message::Settlement;
use tower_outbox::store::{EmbeddedStore, Store};
use uuid::Uuid;

use super::{StoreFolder, assert_works, drain, flip, unreadable, without, written};
use crate::support::format::HEAD;
use crate::support::logs::{self, Event, Logs};
use crate::support::stores::{confirm, depth, ids, ids_of, lease_all, settle};

/// Eight small messages.
fn small() -> Vec<Message> {
    (0..8).map(|n| Message::new("a", vec![n; 5]).unwrap()).collect()
}

/// Stores eight messages, the last three in one batch, and confirms the first two; returns the ids of the others.
async fn six_of_eight(folder: &StoreFolder) -> (EmbeddedStore, Vec<Uuid>) {
    let store = folder.open().await;
    let messages = small();
    for message in &messages[..5] {
        store.append(vec![message.clone()]).await.unwrap();
    }
    store.append(messages[5..].to_vec()).await.unwrap();
    let leased = lease_all(&store, 2).await;
    confirm(&store, &leased).await;
    // The first waits until the journal is written, the second until empty segments are deleted.
    for _ in 0..2 {
        assert_eq!(store.drop_messages(&[99]).await.unwrap(), 0);
    }
    (store, ids(&messages[2..]))
}

/// Opens the store, confirms all messages, and opens it again; returns the ids that are missing.
async fn check(folder: &StoreFolder, ids: &[Uuid], log: &Logs, what: &str) -> Vec<Uuid> {
    let store = folder.open().await;
    let left = drain(&store).await;
    assert_eq!(left.iter().collect::<HashSet<_>>().len(), left.len(), "{what}: nothing is sent twice");
    assert!(without(&left, ids).is_empty(), "{what}: nothing else is sent");
    assert!(left.is_sorted_by_key(|id| ids.iter().position(|other| other == id)), "{what}: in order");
    let missing = without(ids, &left);
    let dead = unreadable(&store).await;
    let said = log.alarms(folder.path().to_str().unwrap());
    assert!(
        dead == missing.len()
            // Lost, or truncated.
            || said.iter().any(|event| event.has("messages") || event.has("bytes")),
        "{what}: {} are missing, and {dead} dead letters; {said:?}",
        missing.len()
    );
    assert_eq!(depth(&store).await, (0, dead as u64), "{what}");
    assert_works(&store).await;
    drop(store);
    let store = folder.open().await;
    assert_eq!(depth(&store).await, (0, dead as u64), "{what}: nothing comes back");
    missing
}

/// Whether an event reports damage of a file as a whole, not of a range of messages.
fn is_of_head(event: &Event) -> bool {
    event.is_error() && event.fields.keys().eq(["path"])
}

/// Flips every `step`th byte of this file, each in a copy. Each may cost one message, or the messages in `torn`.
async fn flip_bytes(folder: &StoreFolder, (file, step): (usize, usize), ids: &[Uuid], torn: &[Uuid]) {
    let log = logs::listen();
    let len = written(&folder.logs()[file]).len();
    let mut missed = BTreeSet::new();
    for at in (0..len).step_by(step) {
        let damaged = folder.copy();
        flip(&damaged.logs()[file], at, 0x41);
        let what = format!("file {file}, byte {at}");
        let missing = check(&damaged, ids, &log, &what).await;
        assert!(missing.len() <= 1 || missing == torn, "{what}: {} are missing", missing.len());
        if missing.is_empty() {
            let of_head = log.alarms(damaged.path().to_str().unwrap());
            assert_eq!(at < HEAD, of_head.iter().any(is_of_head), "{what}: {of_head:?}");
        }
        missed.extend(missing);
    }
    assert!(!missed.is_empty() || file == 0, "each byte counts");
    if folder.logs().len() == 1 {
        assert_eq!(missed.len(), ids.len(), "each message has its bytes");
    }
}

#[tokio::test]
async fn a_flipped_byte_costs_one_message_after_an_orderly_close() {
    let folder = StoreFolder::new();
    let (store, ids) = six_of_eight(&folder).await;
    store.close().await;
    flip_bytes(&folder, (0, 1), &ids, &[]).await;
}

#[tokio::test]
async fn a_flipped_byte_costs_one_message_or_the_torn_batch_after_a_kill() {
    let folder = StoreFolder::new();
    let (_store, ids) = six_of_eight(&folder).await;
    flip_bytes(&folder, (0, 1), &ids, &ids[3..]).await;
}

#[tokio::test]
async fn a_flipped_byte_in_any_of_several_files_costs_one_message() {
    for close in [true, false] {
        let folder = StoreFolder::new().with_segment_bytes(60);
        let (store, ids) = six_of_eight(&folder).await;
        if close {
            store.close().await;
        }
        let files = folder.logs().len();
        assert!(files >= 3, "{files} files");
        for file in 0..files {
            let torn: &[Uuid] = if close || file + 1 < files { &[] } else { &ids[3..] };
            flip_bytes(&folder, (file, 3), &ids, torn).await;
        }
    }
}

#[tokio::test]
async fn a_flipped_bit_in_the_head_of_a_file_costs_nothing() {
    let log = logs::listen();
    let folder = StoreFolder::new();
    let (_store, ids) = six_of_eight(&folder).await;
    for at in 0..8 {
        for bit in 0..8 {
            let damaged = folder.copy();
            flip(&damaged.last_log(), at, 1 << bit);
            let what = format!("bit {bit} of byte {at}");
            assert!(check(&damaged, &ids, &log, &what).await.is_empty(), "{what}");
            let said = log.alarms(damaged.path().to_str().unwrap());
            assert!(said.iter().any(is_of_head), "{what}: {said:?}");
        }
    }
}

#[tokio::test]
async fn a_flipped_byte_in_a_large_store_costs_one_message() {
    const MESSAGES: usize = 2_000;
    let log = logs::listen();
    let folder = StoreFolder::new().with_segment_bytes(64 << 10);
    let store = folder.open().await;
    let messages: Vec<_> = (0..MESSAGES).map(|n| Message::new("a", vec![n as u8; 150]).unwrap()).collect();
    for batch in messages.chunks(10) {
        store.append(batch.to_vec()).await.unwrap();
    }
    let ids = ids(&messages);
    store.close().await;
    let mut at = HEAD;
    for file in 0..folder.logs().len() {
        let len = written(&folder.logs()[file]).len();
        while at < len {
            let damaged = folder.copy();
            flip(&damaged.logs()[file], at, 0xFF);
            let missing = check(&damaged, &ids, &log, &format!("file {file}, byte {at}")).await;
            assert_eq!(missing.len(), 1, "file {file}, byte {at}");
            at += 30_011;
        }
        at -= len;
    }
}

#[tokio::test]
async fn a_flipped_byte_in_the_journal_loses_nothing() {
    for close in [true, false] {
        let log = logs::listen();
        let folder = StoreFolder::new();
        let (store, pending) = six_of_eight(&folder).await;
        let out = lease_all(&store, 6).await;
        settle(&store, &out[..1], Settlement::Reject { reason: "given up".into() }).await;
        settle(&store, &out[3..4], Settlement::Ack).await;
        settle(&store, &out[1..3], Settlement::Release).await;
        assert_eq!(store.drop_messages(&[99]).await.unwrap(), 0);
        let (dead, left) = (ids_of(&out[..1]), ids_of(&out[3..4]));
        let wanted = without(&without(&pending, &dead), &left);
        if close {
            store.close().await;
        }
        let mut again = 0;
        for at in 0..fs::read(folder.journal()).unwrap().len() {
            let damaged = folder.copy();
            flip(&damaged.journal(), at, 0x41);
            let store = damaged.open().await;
            let (_, still_dead) = depth(&store).await;
            let sent = drain(&store).await;
            assert!(without(&wanted, &sent).is_empty(), "byte {at}: nothing pending is lost");
            assert_eq!(
                sent.iter().collect::<HashSet<_>>().len(),
                sent.len(),
                "byte {at}: nothing is sent twice"
            );
            assert!(still_dead == 1 || sent.contains(&dead[0]), "byte {at}: the dead letter is lost");
            let said = log.alarms(damaged.path().to_str().unwrap());
            if sent.len() > wanted.len() {
                again += 1;
                // A damaged last event looks like one that a crash has cut off.
                let last = !close && sent.len() == wanted.len() + 1;
                assert!(last || said.iter().any(Event::is_error), "byte {at}: {said:?}");
            }
            assert_works(&store).await;
            assert_eq!(unreadable(&store).await, 0);
        }
        assert!(again > 0, "the bytes of the journal count");
    }
}
