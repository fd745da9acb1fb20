//! Many stores in one process: a few threads write for all of them, and a failing one does not affect the others.

use std::fs;

use futures_util::future::join_all;
use tower_outbox::store::{EmbeddedStore, EmbeddedStoreSettings, Store, StoreError};

use super::full::Disk;
use super::{StoreFolder, assert_works, drain};
use crate::support::stores::{batch, depth, ids, open};

const STORES: usize = 200;

/// Returns the names of the threads of this process with this prefix.
fn threads(prefix: &str) -> Vec<String> {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|name| name.starts_with(prefix)).collect()
}

#[tokio::test]
async fn two_hundred_stores_share_eight_writer_threads_and_each_is_durable() {
    let folder = tempfile::tempdir().unwrap();
    let settings: Vec<_> =
        (0..STORES).map(|n| EmbeddedStoreSettings::new(folder.path().join(n.to_string()))).collect();
    let stores = join_all(settings.iter().map(EmbeddedStore::open)).await;
    let stores: Vec<_> = stores.into_iter().map(Result::unwrap).collect();
    let batches: Vec<_> = (0..STORES).map(|_| batch("a", 3)).collect();
    let appends = stores.iter().zip(&batches).map(|(store, batch)| store.append(batch.clone()));
    join_all(appends).await.into_iter().for_each(Result::unwrap);
    // Eight for each file system; other tests of this process may use others.
    let writers = threads("log-writer");
    assert!((8..=3 * 8).contains(&writers.len()), "{writers:?}");

    // A copy is like a kill: an answered append must be on disk.
    let killed = folder.path().with_extension("killed");
    assert!(
        std::process::Command::new("cp").arg("-a").args([folder.path(), &killed]).status().unwrap().success()
    );
    for (n, batch) in batches.iter().enumerate() {
        let store = open(&EmbeddedStoreSettings::new(killed.join(n.to_string()))).await.unwrap();
        assert_eq!(drain(&store).await, ids(batch), "store {n}");
    }
    fs::remove_dir_all(killed).unwrap();
    join_all(stores.iter().map(Store::close)).await;
    drop(stores);
    for (settings, batch) in settings.iter().zip(&batches) {
        let store = open(settings).await.unwrap();
        assert_eq!(drain(&store).await, ids(batch));
    }
}

#[tokio::test]
async fn a_store_whose_folder_is_gone_fails_alone() {
    let (lost, healthy) = (StoreFolder::new().with_segment_bytes(1_000), StoreFolder::new());
    let (lost_store, store) = (lost.open().await, healthy.open().await);
    lost_store.append(batch("a", 20)).await.unwrap();
    fs::remove_dir_all(lost.path()).unwrap();
    // The next segment cannot be created.
    for _ in 0..3 {
        let unstored = lost_store.append(batch("a", 1)).await.unwrap_err();
        assert!(matches!(unstored.source, StoreError::Unavailable(_)), "{unstored:?}");
        let messages = batch("b", 5);
        store.append(messages.clone()).await.unwrap();
        assert_eq!(drain(&store).await, ids(&messages));
    }
    lost_store.close().await;
    assert_works(&store).await;
}

#[tokio::test]
#[ignore = "needs root to mount: ./scripts/test"]
async fn a_store_on_a_full_disk_fails_alone() {
    let (disk, healthy) = (Disk::mount("size=2m"), StoreFolder::new());
    let full = open(&EmbeddedStoreSettings::new(disk.path().join("outbox"))).await.unwrap();
    let store = healthy.open().await;
    disk.fill();
    let refused = loop {
        if let Err(unstored) = full.append(batch("a", 100)).await {
            break unstored;
        }
    };
    assert!(matches!(refused.source, StoreError::Unavailable(_)), "{refused:?}");
    store.append(batch("b", 5)).await.unwrap();
    assert_eq!(depth(&store).await, (5, 0));
    full.close().await;
    drain(&store).await;
    assert_works(&store).await;
}
