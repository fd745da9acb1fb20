//! The tables of the transactional outbox, from version to version.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use sqlx::sqlite::SqlitePool;
use tower_outbox::message::Settlement;
use tower_outbox::store::{
    Entry, EntryState, PostgresStore, SqlStoreSettings, SqliteStore, Store, StoreError,
};

use crate::support::databases::{Schema, sqlite};
use crate::support::stores::{confirm, dead, depth, lease_all, list, retry};
use crate::support::tables::Tables;
use crate::support::{MINUTE, messages};

/// The last version.
const LAST: u32 = 5;

fn settings() -> SqlStoreSettings {
    SqlStoreSettings::default()
}

fn tables(pool: &SqlitePool) -> Tables {
    Tables::sqlite(pool, &settings())
}

/// The text of an error, with its causes.
fn text<T>(result: Result<T, StoreError>) -> String {
    let Err(StoreError::Unavailable(cause)) = result else { panic!("it is not refused") };
    cause.to_string()
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn missing_postgres_tables_are_reported_with_the_cure() {
    let schema = Schema::new().await;
    let (pool, settings) = (&schema.pool, &schema.settings);
    let open = || async { text(PostgresStore::open(pool.clone(), settings).await) };
    let missing = open().await;
    assert!(missing.contains("missing") && missing.contains("call `migrate`"), "{missing}");

    assert_eq!(PostgresStore::migrate(pool, settings).await.unwrap(), LAST);
    PostgresStore::open(pool.clone(), settings).await.unwrap();

    schema.tables().set_version(1).await;
    let older = open().await;
    assert!(older.contains("version 1") && older.contains("call `migrate`"), "{older}");

    schema.tables().set_version(99).await;
    for newer in [open().await, text(PostgresStore::migrate(pool, settings).await)] {
        assert!(newer.contains("version 99") && newer.contains("a later one"), "{newer}");
    }
    schema.drop().await;
}

#[tokio::test]
async fn missing_sqlite_tables_are_reported_with_the_cure() {
    let folder = tempfile::tempdir().unwrap();
    let pool = sqlite(folder.path()).await;
    let open = || async { text(SqliteStore::open(pool.clone(), &settings()).await) };
    let missing = open().await;
    assert!(missing.contains("missing") && missing.contains("call `migrate`"), "{missing}");

    assert_eq!(SqliteStore::migrate(&pool, &settings()).await.unwrap(), LAST);
    SqliteStore::open(pool.clone(), &settings()).await.unwrap();

    tables(&pool).set_version(1).await;
    let older = open().await;
    assert!(older.contains("version 1") && older.contains("call `migrate`"), "{older}");

    tables(&pool).set_version(99).await;
    for newer in [open().await, text(SqliteStore::migrate(&pool, &settings()).await)] {
        assert!(newer.contains("version 99") && newer.contains("a later one"), "{newer}");
    }
}

#[tokio::test]
async fn a_schema_that_cannot_stand_in_a_statement_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let pool = sqlite(folder.path()).await;
    for name in ["", "a b", "1a", "a;drop", "a-b", "ä", &"a".repeat(41)] {
        let settings = settings().with_schema(name);
        for said in [
            text(SqliteStore::migrate(&pool, &settings).await),
            text(SqliteStore::open(pool.clone(), &settings).await),
        ] {
            assert!(said.contains("letters, digits and underscores"), "{said}");
        }
    }
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn migrating_postgres_again_needs_no_right_to_create() {
    let schema = Schema::new().await;
    let (pool, settings) = (&schema.pool, &schema.settings);
    PostgresStore::migrate(pool, settings).await.unwrap();
    let mut options = (*pool.connect_options()).clone();
    options = options.options([("default_transaction_read_only", "on")]);
    let reader = sqlx::PgPool::connect_with(options).await.unwrap();
    assert_eq!(PostgresStore::migrate(&reader, settings).await.unwrap(), LAST);
    schema.drop().await;
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_migration_that_fails_changes_nothing() {
    let schema = Schema::new().await;
    schema.tables().make_foreign_inbox().await;
    let said = text(PostgresStore::migrate(&schema.pool, &schema.settings).await);
    assert!(said.contains("inbox"), "{said}");
    let tables: (i64,) = sqlx::query_as("SELECT count(*) FROM pg_tables WHERE schemaname = $1")
        .bind(&schema.settings.schema)
        .fetch_one(&schema.pool)
        .await
        .unwrap();
    assert_eq!(tables, (1,));
    schema.tables().drop_foreign_inbox().await;
    PostgresStore::migrate(&schema.pool, &schema.settings).await.unwrap();
    schema.drop().await;
}

// ---- four processes at once

/// The variable that makes [`four_processes_migrate_an_sqlite_file_at_once`] one of the processes.
const JOB: &str = "TOWER_OUTBOX_TEST_MIGRATE";

/// Migrates when it is told to.
async fn work(job: &str) {
    let go = || {
        println!("ready");
        std::io::stdin().read_exact(&mut [0]).unwrap();
    };
    let version = match job.split_once(' ').unwrap() {
        ("postgres", name) => {
            let schema = Schema::named(name).await;
            go();
            PostgresStore::migrate(&schema.pool, &schema.settings).await
        }
        (_, folder) => {
            let pool = sqlite(Path::new(folder)).await;
            go();
            SqliteStore::migrate(&pool, &settings()).await
        }
    };
    assert_eq!(version.unwrap(), LAST);
}

fn four_processes(job: &str) {
    let test = format!(
        "{}::four_processes_migrate_an_sqlite_file_at_once",
        module_path!().split_once("::").unwrap().1
    );
    let start = |_| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([&test, "--exact", "--nocapture", "--test-threads=1"]).env(JOB, job);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let mut processes = [0; 4].map(start);
    let mut told = String::new();
    for process in &mut processes {
        let stdout = process.stdout.as_mut().unwrap();
        told.clear();
        while !told.contains("ready") {
            let mut byte = [0];
            assert_eq!(stdout.read(&mut byte).unwrap(), 1, "it ended: {told}");
            told.push(byte[0] as char);
        }
    }
    for process in &mut processes {
        process.stdin.as_mut().unwrap().write_all(b"!").unwrap();
    }
    for output in processes.map(Child::wait_with_output) {
        let output = output.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// Stores one message that is pending, one that waits for a retry, and one that is dead.
async fn store_some(store: &(impl Store + ?Sized)) -> Vec<Entry> {
    store.append(messages(["pending", "retried", "dead"])).await.unwrap();
    let leased = lease_all(store, 3).await;
    let settlements = [Settlement::Release, retry(60 * MINUTE), dead("for a test")];
    let settled: Vec<_> = leased.iter().map(|one| one.lease).zip(settlements).collect();
    store.settle(&settled).await.unwrap();
    let entries = list(store).await;
    store.close().await;
    entries
}

/// They are as they were, and leave.
async fn assert_all_leave(store: &(impl Store + ?Sized), before: &[Entry]) {
    let known = |entries: &[Entry]| -> Vec<_> {
        let fields = |entry: &Entry| {
            let id = entry.message.as_ref().unwrap().id();
            (entry.position, id, entry.state, entry.attempts, entry.failures.len())
        };
        entries.iter().map(fields).collect()
    };
    let entries = list(store).await;
    assert_eq!(known(&entries), known(before));
    let states = [(EntryState::Pending, 0), (EntryState::Pending, 1), (EntryState::Dead, 1)];
    assert_eq!(entries.iter().map(|entry| (entry.state, entry.failures.len())).collect::<Vec<_>>(), states);
    confirm(store, &lease_all(store, 1).await).await;
    assert_eq!(store.requeue(&[before[1].position, before[2].position], Duration::ZERO).await.unwrap(), 2);
    confirm(store, &lease_all(store, 2).await).await;
    assert_eq!(depth(store).await, (0, 0));
    store.close().await;
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn four_processes_migrate_a_postgres_schema_at_once() {
    let old = Schema::new().await;
    PostgresStore::migrate(&old.pool, &old.settings).await.unwrap();
    let store = PostgresStore::open(old.pool.clone(), &old.settings).await.unwrap();
    let before = store_some(&store).await;
    old.tables().undo_later_migrations().await;
    four_processes(&format!("postgres {}", old.settings.schema));
    let store = PostgresStore::open(old.pool.clone(), &old.settings).await.unwrap();
    assert_all_leave(&store, &before).await;
    old.drop().await;

    // The same from nothing.
    let new = Schema::new().await;
    four_processes(&format!("postgres {}", new.settings.schema));
    PostgresStore::open(new.pool.clone(), &new.settings).await.unwrap();
    new.drop().await;
}

#[tokio::test]
async fn four_processes_migrate_an_sqlite_file_at_once() {
    if let Ok(job) = std::env::var(JOB) {
        return work(&job).await;
    }
    let old = tempfile::tempdir().unwrap();
    let pool = sqlite(old.path()).await;
    SqliteStore::migrate(&pool, &settings()).await.unwrap();
    let before = store_some(&SqliteStore::open(pool.clone(), &settings()).await.unwrap()).await;
    tables(&pool).undo_later_migrations().await;
    four_processes(&format!("sqlite {}", old.path().display()));
    assert_all_leave(&SqliteStore::open(pool, &settings()).await.unwrap(), &before).await;

    // From nothing but the file: the change to a write-ahead log does not wait for other processes.
    let new = tempfile::tempdir().unwrap();
    sqlite(new.path()).await.close().await;
    four_processes(&format!("sqlite {}", new.path().display()));
    SqliteStore::open(sqlite(new.path()).await, &settings()).await.unwrap();
}
