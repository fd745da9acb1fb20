//! Behaviour of stores in a database only.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::postgres::PgPool;
use sqlx::sqlite::SqlitePool;
use tempfile::TempDir;
use tokio::time::timeout;
use tower_outbox::Message;
use tower_outbox::message::Settlement;
use tower_outbox::store::{
    EntryState, PostgresStore, SqlStoreSettings, SqliteStore, Store, StoreError, WhenFull,
};
use uuid::Uuid;

use crate::support::databases::{self, Schema};
use crate::support::message;
use crate::support::stores::{
    STUCK, assert_nothing_due, batch, confirm, depth, ids, ids_of, keyed, lease, lease_all, list, settle,
    until,
};
use crate::support::tables::Tables;

/// A database with the tables of a store.
enum Database {
    Postgres(PgPool, SqlStoreSettings),
    Sqlite(SqlitePool, SqlStoreSettings, #[expect(dead_code, reason = "kept until the end")] TempDir),
}

impl Database {
    async fn postgres() -> Self {
        let Schema { pool, settings } = Schema::new().await;
        PostgresStore::migrate(&pool, &settings).await.unwrap();
        Self::Postgres(pool, settings)
    }

    async fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (pool, settings) = (databases::sqlite(folder.path()).await, SqlStoreSettings::default());
        SqliteStore::migrate(&pool, &settings).await.unwrap();
        Self::Sqlite(pool, settings, folder)
    }

    async fn migrate(&self) -> Result<u32, StoreError> {
        match self {
            Self::Postgres(pool, settings) => PostgresStore::migrate(pool, settings).await,
            Self::Sqlite(pool, settings, _) => SqliteStore::migrate(pool, settings).await,
        }
    }

    async fn try_open(&self) -> Result<Arc<dyn Store>, StoreError> {
        Ok(match self {
            Self::Postgres(pool, settings) => Arc::new(PostgresStore::open(pool.clone(), settings).await?),
            Self::Sqlite(pool, settings, _) => Arc::new(SqliteStore::open(pool.clone(), settings).await?),
        })
    }

    /// A store that has found out that there is nothing.
    async fn open(&self) -> Arc<dyn Store> {
        let store = self.try_open().await.unwrap();
        assert_nothing_due(&*store).await;
        store
    }

    fn tables(&self) -> Tables {
        match self {
            Self::Postgres(pool, settings) => Tables::postgres(pool, settings),
            Self::Sqlite(pool, settings, _) => Tables::sqlite(pool, settings),
        }
    }
}

/// Each of these on both databases.
macro_rules! on_both {
    ($($behaviour:ident)*) => {
        mod postgres { $(
            #[tokio::test]
            #[ignore = "needs brokers: ./scripts/test"]
            async fn $behaviour() {
                super::$behaviour(super::Database::postgres().await).await;
            }
        )* }

        mod sqlite { $(
            #[tokio::test]
            async fn $behaviour() {
                super::$behaviour(super::Database::sqlite().await).await;
            }
        )* }
    };
}

on_both! {
    new_messages_are_sent_without_being_read
    messages_beyond_the_memory_limit_are_read_from_the_table
    a_key_may_have_a_nul_character
    a_message_that_cannot_be_read_is_a_dead_letter
    the_place_has_no_password
    a_database_refuses_to_drop_the_oldest_messages
}

async fn new_messages_are_sent_without_being_read(database: Database) {
    let store = database.open().await;
    // Now and then a store looks through everything, which may be just then.
    let mut left_unread = false;
    for _ in 0..20 {
        let messages = batch("a", 100);
        store.append(messages.clone()).await.unwrap();
        database.tables().hide_messages().await;
        let leased = timeout(STUCK, store.lease(100)).await.unwrap();
        database.tables().show_messages().await;
        let out = leased.unwrap_or_default();
        left_unread = ids_of(&out) == ids(&messages);
        confirm(&*store, &out).await;
        if left_unread {
            break;
        }
        confirm(&*store, &lease_all(&*store, 100 - out.len()).await).await;
    }
    assert!(left_unread);
    // A message with a key is read: an earlier one may have come.
    store.append(vec![keyed("a", "k")]).await.unwrap();
    database.tables().hide_messages().await;
    let read = timeout(STUCK, store.lease(1)).await.unwrap();
    assert!(matches!(read, Err(StoreError::Unavailable(_))), "{read:?}");
    database.tables().show_messages().await;
    assert_eq!(lease(&*store, 10).await.len(), 1);
    assert_eq!(depth(&*store).await, (1, 0));
}

async fn messages_beyond_the_memory_limit_are_read_from_the_table(database: Database) {
    let store = database.open().await;
    let mut messages = Vec::new();
    for _ in 0..30 {
        let some = batch("a", 100);
        messages.extend(ids(&some));
        store.append(some).await.unwrap();
    }
    let mut out = Vec::new();
    while out.len() < 3_000 {
        let some = lease(&*store, 250).await;
        confirm(&*store, &some).await;
        out.extend(ids_of(&some));
    }
    assert!(out == messages, "each once, and in order");
    assert_nothing_due(&*store).await;
    // And again as at the beginning.
    store.close().await;
    new_messages_are_sent_without_being_read(database).await;
}

async fn a_key_may_have_a_nul_character(database: Database) {
    let store = database.open().await;
    let messages = [
        keyed("a", "\0").with_header("h\0", "v\0"),
        keyed("a", ""),
        keyed("a", "\0").with_content_type("\0"),
        Message::new("a", "\0").unwrap(),
    ];
    store.append(messages.to_vec()).await.unwrap();
    let first = lease(&*store, 1).await;
    assert_eq!(first[0].message, messages[0]);
    let out = lease_all(&*store, 2).await;
    assert_eq!(out.iter().map(|one| &one.message).collect::<Vec<_>>(), [&messages[1], &messages[3]]);
    confirm(&*store, &first).await;
    assert_eq!(lease(&*store, 10).await[0].message, messages[2]);
    let listed: Vec<_> = list(&*store).await.into_iter().map(|entry| entry.message.unwrap()).collect();
    assert_eq!(listed, messages[1..]);
}

async fn a_message_that_cannot_be_read_is_a_dead_letter(database: Database) {
    let store = database.open().await;
    let messages = [keyed("a", "k"), keyed("a", "k"), message("a"), message("a")];
    store.append(messages.to_vec()).await.unwrap();
    store.close().await;
    for position in [1, 3] {
        database.tables().damage_message(position).await;
    }
    let store = database.try_open().await.unwrap();
    let out = lease_all(&*store, 2).await;
    assert_eq!(ids_of(&out), [messages[1].id(), messages[3].id()]);
    assert_nothing_due(&*store).await;
    let entries = list(&*store).await;
    assert_eq!(depth(&*store).await, (2, 2));
    for entry in [&entries[0], &entries[2]] {
        assert!(entry.state == EntryState::Dead && entry.message.is_none());
        assert!(entry.explain().contains("can no longer be read"), "{}", entry.explain());
    }
}

async fn the_place_has_no_password(database: Database) {
    let place = database.open().await.location();
    assert!(place.contains("tower_outbox") || place.contains("schema test_"), "{place}");
    assert!(!place.contains('@'), "{place}");
}

async fn a_database_refuses_to_drop_the_oldest_messages(mut database: Database) {
    let (Database::Postgres(_, settings) | Database::Sqlite(_, settings, _)) = &mut database;
    settings.limits.when_full = WhenFull::DropOldest;
    for error in [database.migrate().await.unwrap_err(), database.try_open().await.err().unwrap()] {
        let StoreError::Unavailable(cause) = &error else { panic!("{error}") };
        for part in ["committed", "OUTBOX.WHEN_FULL = \"refuse\"", "DELIVERY = \"durable\""] {
            assert!(cause.to_string().contains(part), "{cause}");
        }
    }
}

/// A row that stands in a transaction of another process, of the key of the first message.
async fn insert_like_the_first(database: &Database) -> sqlx::Transaction<'static, sqlx::Postgres> {
    let Database::Postgres(pool, _) = database else { unreachable!() };
    let mut transaction = pool.begin().await.unwrap();
    database.tables().copy_first_message(&mut transaction, Uuid::from_u128(7)).await;
    // Others come in between, more than are looked at again.
    database.tables().skip_to(&mut transaction, 100_000).await;
    transaction
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_late_commit_of_a_key_is_sent_before_a_later_message() {
    let database = Database::postgres().await;
    let store = database.open().await;
    let messages = [keyed("a", "k"), keyed("a", "k")];
    store.append(messages[..1].to_vec()).await.unwrap();
    let out = lease(&*store, 10).await;
    let late = insert_like_the_first(&database).await;
    // The later one is known, and waits for the first.
    store.append(messages[1..].to_vec()).await.unwrap();
    assert_nothing_due(&*store).await;
    late.commit().await.unwrap();
    confirm(&*store, &out).await;
    let out = lease_all(&*store, 2).await;
    assert_eq!(ids_of(&out), [Uuid::from_u128(7), messages[1].id()]);
    assert!(out[0].lease.position < 100_000 && out[1].lease.position > 100_000);
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_late_commit_is_found() {
    let database = Database::postgres().await;
    let store = database.open().await;
    let messages = [message("a"), keyed("a", "k")];
    store.append(messages[..1].to_vec()).await.unwrap();
    let late = insert_like_the_first(&database).await;
    store.append(messages[1..].to_vec()).await.unwrap();
    assert_eq!(ids_of(&lease_all(&*store, 2).await), ids(&messages));
    late.commit().await.unwrap();
    let begun = Instant::now();
    let found = lease(&*store, 10).await;
    assert_eq!(found[0].message.id(), Uuid::from_u128(7));
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn partitions_lost_and_regained_during_a_read_keep_the_order() {
    let mut database = Database::postgres().await;
    let Database::Postgres(pool, settings) = &mut database else { unreachable!() };
    settings.lease = Duration::from_millis(900);
    let pool = pool.clone();
    let tables = database.tables();
    let store = database.open().await;
    let first = [keyed("a", "k"), keyed("a", "k")];
    store.append(first[..1].to_vec()).await.unwrap();
    let out = lease(&*store, 10).await;
    store.append(first[1..].to_vec()).await.unwrap();
    // The second is known, and waits for the first.
    assert_nothing_due(&*store).await;
    let mut lock = pool.begin().await.unwrap();
    tables.lock_messages(&mut lock).await;
    settle(&*store, &out, Settlement::Release).await;
    let reading = {
        let store = Arc::clone(&store);
        tokio::spawn(async move { lease_all(&*store, 3).await })
    };
    until("the messages of the key are read", async || tables.waiting_for_messages().await > 0).await;
    tables.orphan_partitions().await;
    until("it has all partitions again", async || tables.are_partitions_owned_again().await).await;
    // It sees its share before it stores.
    let storing = {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.append(vec![message("b")]).await })
    };
    until("it stores", async || tables.waiting_for_messages().await > 1).await;
    tables.copy_first_message(&mut lock, Uuid::from_u128(7)).await;
    lock.commit().await.unwrap();
    storing.await.unwrap().unwrap();
    let mut of_key: Vec<_> = reading.await.unwrap();
    of_key.retain(|one| one.message.key().is_some());
    while of_key.len() < 3 {
        of_key.extend(lease(&*store, 10).await.into_iter().filter(|one| one.message.key().is_some()));
    }
    assert_eq!(ids_of(&of_key), [first[0].id(), first[1].id(), Uuid::from_u128(7)]);
}
