//! Transactions that are not the store's own, and hooks that are not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqlitePool, SqlitePoolOptions};
use tempfile::TempDir;
use tokio::time::timeout;

use super::SqliteStore;
use crate::message::{Message, Settlement};
use crate::store::sql::{PendingInsert, SqlStoreSettings};
use crate::store::{Leased, Store};

const QUIET: Duration = Duration::from_millis(150);

async fn open() -> (TempDir, SqlitePool, SqliteStore) {
    let folder = tempfile::tempdir().unwrap();
    let options = SqliteConnectOptions::new().filename(folder.path().join("app.db")).create_if_missing(true);
    let pool = SqlitePoolOptions::new().max_connections(4).connect_with(options).await.unwrap();
    let settings = SqlStoreSettings::default();
    SqliteStore::migrate(&pool, &settings).await.unwrap();
    let store = SqliteStore::open(pool.clone(), &settings).await.unwrap();
    // Once it has read to the end what is its to send, it takes what is handed over.
    store.append(messages(1)).await.unwrap();
    let first = lease(&store, 1).await;
    store.settle(&[(first[0].lease, Settlement::Ack)]).await.unwrap();
    assert!(timeout(QUIET, store.lease(1)).await.is_err(), "there is nothing");
    (folder, pool, store)
}

fn messages(count: usize) -> Vec<Message> {
    (0..count).map(|_| Message::new("a", "x").unwrap()).collect()
}

async fn lease(store: &SqliteStore, limit: usize) -> Vec<Leased> {
    timeout(Duration::from_secs(10), store.lease(limit)).await.expect("nothing is due").unwrap()
}

/// Inserts messages, as the app does before its COMMIT.
async fn insert(
    store: &SqliteStore,
    connection: &mut SqliteConnection,
    messages: &[Message],
) -> PendingInsert {
    store.insert(connection, &mut messages.to_vec()).await.unwrap().unwrap()
}

fn are(leased: &[Leased], messages: &[Message]) -> bool {
    leased.iter().map(|one| &one.message).eq(messages)
}

#[tokio::test]
async fn committed_messages_are_leased_without_being_read() {
    let (_folder, pool, store) = open().await;
    let messages = messages(3);
    let mut transaction = pool.begin_with("BEGIN IMMEDIATE").await.unwrap();
    let pending = insert(&store, &mut transaction, &messages).await;
    assert!(timeout(QUIET, store.lease(1)).await.is_err(), "it is not committed");
    transaction.commit().await.unwrap();
    // Nor is it read by who does not know whether it is handed over.
    assert!(timeout(QUIET, store.lease(1)).await.is_err(), "it is handed over later");
    let update = "UPDATE tower_outbox_messages SET topic = 'read'";
    sqlx::query(update).execute(&pool).await.unwrap();
    pending.committed(messages.clone());
    assert!(are(&lease(&store, 10).await, &messages));
    assert_eq!(store.counts().await.unwrap().pending, 3);
}

#[tokio::test]
async fn rolled_back_messages_are_forgotten() {
    let (_folder, pool, store) = open().await;
    let gone = messages(3);
    let mut transaction = pool.begin_with("BEGIN IMMEDIATE").await.unwrap();
    let pending = insert(&store, &mut transaction, &gone).await;
    transaction.rollback().await.unwrap();
    // These get the same positions.
    let stored = messages(2);
    store.append(stored.clone()).await.unwrap();
    drop(pending);
    let out = lease(&store, 10).await;
    assert!(are(&out, &stored), "{out:?}");
    assert!(timeout(QUIET, store.lease(1)).await.is_err(), "nothing else is there");
    let settled: Vec<_> = out.iter().map(|one| (one.lease, Settlement::Ack)).collect();
    store.settle(&settled).await.unwrap();
    assert_eq!(store.known(), 0, "no position is kept in mind");
}

#[tokio::test]
async fn committed_messages_are_found_without_a_notice() {
    let (_folder, pool, store) = open().await;
    let messages = messages(3);
    let mut transaction = pool.begin_with("BEGIN IMMEDIATE").await.unwrap();
    let pending = insert(&store, &mut transaction, &messages).await;
    transaction.commit().await.unwrap();
    drop(pending);
    assert!(are(&lease(&store, 10).await, &messages));
}

#[tokio::test]
async fn a_panic_while_messages_are_stored_gives_them_back() {
    let panics = Arc::new(AtomicBool::new(false));
    let hook = Arc::clone(&panics);
    let folder = tempfile::tempdir().unwrap();
    let options = SqliteConnectOptions::new().filename(folder.path().join("app.db")).create_if_missing(true);
    // A connection that is new is not asked about: there is one.
    let pool = SqlitePoolOptions::new().max_connections(1).before_acquire(move |_, _| {
        assert!(!hook.load(Ordering::SeqCst), "a hook of the app panics");
        Box::pin(async { Ok(true) })
    });
    let (pool, settings) = (pool.connect_with(options).await.unwrap(), SqlStoreSettings::default());
    SqliteStore::migrate(&pool, &settings).await.unwrap();
    let store = SqliteStore::open(pool, &settings).await.unwrap();
    let messages = messages(3);
    panics.store(true, Ordering::SeqCst);
    let unstored = store.append(messages.clone()).await.unwrap_err();
    assert_eq!(unstored.batch, messages);
    panics.store(false, Ordering::SeqCst);
    store.append(unstored.batch).await.unwrap();
    assert_eq!(store.counts().await.unwrap().pending, 3);
}
