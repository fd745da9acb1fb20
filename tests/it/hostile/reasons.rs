//! Many and long reasons of failures: they are truncated, kept on disk, and counted.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tower_outbox::message::Settlement;
use tower_outbox::store::{
    EmbeddedStore, EmbeddedStoreSettings, Entry, EntryState, Filter, Store, StoreError, WhenFull,
};

use crate::faults::{StoreFolder, again, assert_works, cut, flip, part};
use crate::support::format::HEAD;
use crate::support::logs;
use crate::support::stores::{batch, dead, depth, lease_all, limits, list, list_by, open, settle, until};

/// The bytes that are kept of a reason, and the reasons that are kept of a message.
const REASON_BYTES: usize = 1_024;
const REASONS: usize = 5;

const LOST: &str = "the reason can no longer be read";

fn retry(reason: &str) -> Settlement {
    Settlement::Retry { after: Duration::ZERO, reason: reason.into() }
}

fn reasons(entry: &Entry) -> Vec<Arc<str>> {
    entry.failures.iter().map(|failure| Arc::clone(&failure.reason)).collect()
}

/// The files of reasons.
fn files(folder: &StoreFolder) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("reasons-")).collect()
}

/// Waits until the journal is written.
async fn written(store: &EmbeddedStore) {
    store.drop_messages(&[]).await.unwrap();
}

#[tokio::test]
async fn a_long_reason_is_truncated_and_the_last_five_survive_a_restart() {
    let folder = StoreFolder::new();
    let store = folder.open().await;
    store.append(batch("a", 2)).await.unwrap();
    for attempt in 0..7 {
        let out = lease_all(&store, 2).await;
        let long = format!("{attempt}{}", "ä".repeat(100_000));
        settle(&store, &out[..1], retry(&long)).await;
        settle(&store, &out[1..], retry("short")).await;
        if attempt % 2 == 0 {
            written(&store).await;
        }
    }
    settle(&store, &lease_all(&store, 1).await[..1], dead("at last")).await;
    let before = list(&store).await;
    for entry in &before {
        assert_eq!(entry.failures.len(), REASONS);
        assert_eq!(entry.attempts, 7);
        assert!(entry.failures.iter().all(|failure| failure.reason.len() <= REASON_BYTES));
    }
    let dead = before.iter().find(|entry| entry.state == EntryState::Dead).unwrap();
    assert_eq!(&*reasons(dead)[REASONS - 1], "at last");
    let cut = before.iter().flat_map(reasons).find(|reason| reason.starts_with('6')).unwrap();
    assert!(cut.len() >= REASON_BYTES - 1, "no more is cut than must be");
    store.close().await;
    // Opening writes them again, unchanged.
    for _ in 0..2 {
        let store = folder.open().await;
        let after = list(&store).await;
        assert_eq!(format!("{before:?}"), format!("{after:?}"));
        store.close().await;
    }
}

#[tokio::test]
async fn reasons_count_as_bytes_of_the_outbox_until_their_messages_are_removed() {
    let folder = StoreFolder::new();
    let mut settings = folder.settings.clone();
    settings.limits = limits(100, WhenFull::Refuse);
    settings.limits.max_bytes = 20_000;
    let store = open(&settings).await.unwrap();
    store.append(batch("a", 10)).await.unwrap();
    let empty = store.counts().await.unwrap().bytes;
    for _ in 0..9 {
        let out = lease_all(&store, 10).await;
        settle(&store, &out, retry(&"x".repeat(400))).await;
    }
    let full = store.counts().await.unwrap().bytes;
    assert!((10 * 5 * 400..10 * 5 * 500).contains(&(full - empty)), "{empty} {full}");
    let refused = store.append(batch("b", 1)).await.unwrap_err();
    assert!(matches!(refused.source, StoreError::Full { .. }), "{refused:?}");
    store.close().await;
    let store = open(&settings).await.unwrap();
    // After a restart the head of the file counts.
    assert!((full..full + 100).contains(&store.counts().await.unwrap().bytes));
    let all: Vec<u64> = list(&store).await.iter().map(|entry| entry.position).collect();
    store.drop_messages(&all).await.unwrap();
    assert_eq!(store.counts().await.unwrap().bytes, 0);
    store.append(batch("b", 1)).await.unwrap();
    store.close().await;
}

#[tokio::test]
async fn the_room_of_unneeded_reasons_is_freed() {
    let folder = StoreFolder::new();
    let store = folder.open().await;
    store.append(batch("a", 40)).await.unwrap();
    let out = lease_all(&store, 40).await;
    settle(&store, &out[..20], dead("kept")).await;
    settle(&store, &out[20..], retry("first")).await;
    // 20 MB of reasons.
    for attempt in 0..1_000 {
        let out = lease_all(&store, 20).await;
        settle(&store, &out, retry(&format!("{attempt} {}", "x".repeat(2_000)))).await;
        if attempt % 20 == 0 {
            written(&store).await;
        }
    }
    written(&store).await;
    until("the file is small", || async {
        written(&store).await;
        files(&folder).iter().map(|file| fs::metadata(file).unwrap().len()).sum::<u64>() < 6 << 20
    })
    .await;
    let check = |entries: Vec<Entry>| {
        assert_eq!(entries.len(), 40);
        for entry in entries {
            match entry.state {
                EntryState::Dead => assert_eq!(reasons(&entry), ["kept".into()]),
                EntryState::Pending => {
                    let begins: Vec<_> =
                        reasons(&entry).iter().map(|reason| reason[..3].to_owned()).collect();
                    assert_eq!(begins, ["995", "996", "997", "998", "999"]);
                }
            }
        }
    };
    check(list(&store).await);
    let killed = folder.copy();
    store.close().await;
    for folder in [folder, killed] {
        let store = folder.open().await;
        assert_eq!(files(&folder).len(), 1);
        check(list(&store).await);
        store.close().await;
    }
}

type Damage = Box<dyn Fn(&PathBuf)>;

#[tokio::test]
async fn a_damaged_missing_or_foreign_file_of_reasons_costs_only_reasons() {
    let log = logs::listen();
    let folder = StoreFolder::new();
    let store = folder.open().await;
    store.append(batch("a", 3)).await.unwrap();
    let out = lease_all(&store, 3).await;
    for one in 0..3 {
        settle(&store, &out[one..=one], dead(&format!("because of {one}"))).await;
    }
    store.close().await;
    let file = files(&folder).pop().unwrap();
    let len = fs::metadata(&file).unwrap().len() as usize;
    let foreign = StoreFolder::new();
    let store = foreign.open().await;
    store.append(batch("a", 1)).await.unwrap();
    settle(&store, &lease_all(&store, 1).await, dead("forged")).await;
    store.close().await;
    let mut trials: Vec<(String, Damage, usize)> = vec![
        ("gone".into(), Box::new(|file| fs::remove_file(file).unwrap()), 3),
        ("empty".into(), Box::new(|file| cut(file, 0)), 3),
        ("a head".into(), Box::new(|file| cut(file, HEAD)), 3),
        ("half".into(), Box::new(move |file| cut(file, len - 5)), 1),
    ];
    let bytes = fs::read(files(&foreign).pop().unwrap()).unwrap();
    trials.push(("foreign".into(), Box::new(move |file| fs::write(file, &bytes).unwrap()), 3));
    for at in (0..len).step_by(3) {
        let name = format!("byte {at}");
        trials.push((name, Box::new(move |file| flip(file, at, 0x41)), usize::from(at >= HEAD)));
    }
    for (name, damage, lost) in trials {
        let damaged = folder.copy();
        damage(&files(&damaged).pop().unwrap());
        let store = damaged.open().await;
        let entries = list_by(&store, &Filter::state(EntryState::Dead), 100).await;
        assert_eq!(entries.len(), 3, "{name}");
        let mut unknown = 0;
        for (at, entry) in entries.iter().enumerate() {
            match &*reasons(entry)[0] {
                reason if reason.starts_with(LOST) => unknown += 1,
                reason => assert_eq!(reason, format!("because of {at}"), "{name}"),
            }
        }
        assert_eq!(unknown, lost, "{name}");
        let said = log.alarms(damaged.path().to_str().unwrap());
        assert!(["gone", "foreign"].contains(&name.as_str()) <= !said.is_empty(), "{name}: {said:?}");
        let all: Vec<u64> = entries.iter().map(|entry| entry.position).collect();
        assert_eq!(store.requeue(&all, Duration::ZERO).await.unwrap(), 3);
        let out = lease_all(&store, 3).await;
        settle(&store, &out, dead("once more")).await;
        for entry in list(&store).await {
            assert_eq!(reasons(&entry).last().unwrap().as_ref(), "once more", "{name}");
        }
        store.drop_messages(&all).await.unwrap();
        assert_works(&store).await;
        store.close().await;
    }
}

/// Returns the resident memory of this process in bytes.
fn resident() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
}

/// Another process makes this many dead letters with reasons of 300 bytes, opens the store again, and prints the memory that
/// they take.
fn memory_of(test: &str, count: usize) -> (usize, usize) {
    let folder = tempfile::tempdir().unwrap();
    let output = again(test, &format!("{count} {}", folder.path().display())).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let line = said.lines().find_map(|line| line.split_once("memory: ")).expect(&said).1;
    println!("{count} dead letters take {line} bytes, before and after a restart");
    let (held, opened) = line.split_once(' ').unwrap();
    (held.parse().unwrap(), opened.parse().unwrap())
}

async fn many_dead_letters(part: &str) {
    let (count, folder) = part.split_once(' ').unwrap();
    let mut settings = EmbeddedStoreSettings::new(format!("{folder}/outbox"));
    settings.limits = limits(u64::MAX, WhenFull::Refuse);
    settings.limits.max_bytes = u64::MAX;
    let store = open(&settings).await.unwrap();
    let reason = "x".repeat(300);
    let (before, count) = (resident(), count.parse::<usize>().unwrap());
    for at in (0..count).step_by(1_000) {
        store.append(batch("a", 1_000)).await.unwrap();
        let out = lease_all(&store, 1_000).await;
        for (n, one) in out.iter().enumerate() {
            settle(&store, &[one.clone()][..], dead(&format!("{} {reason}", at + n))).await;
        }
        written(&store).await;
    }
    assert_eq!(depth(&store).await, (0, count as u64));
    let held = resident().saturating_sub(before);
    store.close().await;
    drop(store);
    let before = resident().saturating_sub(held);
    let store = open(&settings).await.unwrap();
    assert_eq!(depth(&store).await, (0, count as u64));
    let opened = resident().saturating_sub(before);
    let page = store.list(&Filter::state(EntryState::Dead), Some(count as u64 - 10), 100).await.unwrap();
    let last = reasons(page.entries.last().unwrap()).pop().unwrap();
    assert_eq!(*last, format!("{} {reason}", count - 1));
    store.close().await;
    println!("memory: {held} {opened}");
}

#[tokio::test]
async fn a_hundred_thousand_dead_letters_take_little_memory() {
    if let Some(part) = part() {
        return many_dead_letters(&part).await;
    }
    let test = "hostile::reasons::a_hundred_thousand_dead_letters_take_little_memory";
    let (few, many) = (memory_of(test, 20_000), memory_of(test, 100_000));
    // Their reasons alone take 24 MB more.
    assert!(many.0 < few.0 + (16 << 20), "held: {few:?} {many:?}");
    assert!(many.1 < few.1 + (16 << 20), "after a restart: {few:?} {many:?}");
}
