//! Messages that have left take no space.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tower_outbox::Message;
use tower_outbox::message::Settlement;

use super::Harness;
use crate::support::stores::{batch, confirm, dead, depth, find, ids, ids_of, lease, lease_all, list};

/// How many files a folder has, and how many bytes they take on the disk.
fn usage(folder: &Path) -> (usize, u64) {
    use std::os::unix::fs::MetadataExt;
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().metadata());
    // A file may go while we look.
    files.flatten().fold((0, 0), |(files, bytes), file| (files + 1, bytes + file.blocks() * 512))
}

/// Waits until so little is used.
async fn assert_small(folder: &Path, files: usize, bytes: u64) {
    let begun = Instant::now();
    loop {
        let used = usage(folder);
        if used.0 <= files && used.1 <= bytes {
            return;
        }
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "files and bytes: {used:?}, not {:?}",
            (files, bytes)
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub(super) async fn space_is_given_back(harness: Harness) {
    const MESSAGES: usize = 100_000;
    let store = harness.open().await;
    let sending = tokio::spawn({
        let store = Arc::clone(&store);
        async move {
            let mut confirmed = 0;
            while confirmed < MESSAGES {
                let out = lease(&*store, 1_000).await;
                confirm(&*store, &out).await;
                confirmed += out.len();
            }
        }
    });
    for _ in 0..MESSAGES / 1_000 {
        store.append(batch("a", 1_000)).await.unwrap();
    }
    sending.await.unwrap();
    assert_eq!(depth(&*store).await, (0, 0));
    assert_eq!(store.counts().await.unwrap().bytes, 0);
    if let Some((folder, file)) = &harness.files {
        // Of 10 MB or so.
        assert_small(folder, 12, 3 * file + (256 << 10)).await;
        let store = harness.close_and_reopen(store).await;
        assert_small(folder, 12, 3 * file + (256 << 10)).await;
        assert_eq!(depth(&*store).await, (0, 0));
    }
}

pub(super) async fn stragglers_do_not_keep_what_is_around_them(harness: Harness) {
    const MESSAGES: usize = 20_000;
    let store = harness.open().await;
    let mut kept = Vec::new();
    for _ in 0..MESSAGES / 1_000 {
        let messages: Vec<_> = (0..1_000).map(|_| Message::new("a", vec![7; 300]).unwrap()).collect();
        store.append(messages).await.unwrap();
        let out = lease_all(&*store, 1_000).await;
        let settlement = |n| if n % 100 == 0 { dead("given up") } else { Settlement::Ack };
        let settled: Vec<_> = out.iter().enumerate().map(|(n, one)| (one.lease, settlement(n))).collect();
        store.settle(&settled).await.unwrap();
        kept.extend(out.into_iter().step_by(100).map(|one| one.message));
    }
    assert_eq!(depth(&*store).await, (0, 200));
    // 200 of 20,000 are left, 60 kB of 6 MB.
    if let Some((folder, file)) = &harness.files {
        assert_small(folder, 120, 3 * file + (1 << 20)).await;
    }
    let mut store = store;
    for _ in 0..2 {
        let entries = list(&*store).await;
        let messages: Vec<_> = entries.into_iter().map(|entry| entry.message.unwrap()).collect();
        assert!(messages == kept, "they are all there");
        store = harness.close_and_reopen(store).await;
    }
    let entry = find(&*store, kept[150].id()).await;
    store.requeue(&[entry.position], Duration::ZERO).await.unwrap();
    let out = lease(&*store, 1).await;
    assert_eq!(out[0].message, kept[150]);
    if let Some((folder, file)) = &harness.files {
        confirm(&*store, &out).await;
        let positions: Vec<_> = list(&*store).await.iter().map(|entry| entry.position).collect();
        assert_eq!(store.drop_messages(&positions).await.unwrap(), 199);
        assert_eq!(depth(&*store).await, (0, 0));
        let store = harness.close_and_reopen(store).await;
        assert_small(folder, 12, 3 * file + (256 << 10)).await;
        assert_eq!(depth(&*store).await, (0, 0));
    }
}

pub(super) async fn a_large_backlog_survives_a_reopen(harness: Harness) {
    const MESSAGES: usize = 50_000;
    let store = harness.open().await;
    let mut all = Vec::new();
    for _ in 0..MESSAGES / 1_000 {
        let messages = batch("a", 1_000);
        all.extend(ids(&messages));
        store.append(messages).await.unwrap();
    }
    let out = lease_all(&*store, 1_500).await;
    confirm(&*store, &out).await;
    let store = harness.close_and_reopen(store).await;
    assert_eq!(depth(&*store).await, (48_500, 0));
    let mut found = Vec::new();
    while depth(&*store).await.0 > 0 {
        let out = lease(&*store, 2_000).await;
        found.extend(ids_of(&out));
        confirm(&*store, &out).await;
    }
    assert!(found == all[1_500..], "all of it, in order");
}
