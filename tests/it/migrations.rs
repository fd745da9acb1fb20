//! The tables of the transactional outbox, from version to version.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use sqlx::AssertSqlSafe;
use sqlx::sqlite::SqlitePool;
use tower_outbox::store::StoreError;
use tower_outbox::{DatabaseSettings, PostgresStore, SqliteStore};

use crate::support::databases::{Schema, sqlite};

const POSTGRES_1: &str = include_str!("../../src/stores/postgres/migrations/0001_messages.sql");
const SQLITE_1: &str = include_str!("../../src/stores/sqlite/migrations/0001_messages.sql");

/// The last version.
const LAST: u32 = 2;

fn settings() -> DatabaseSettings {
    DatabaseSettings::default()
}

async fn run_sqlite(pool: &SqlitePool, statements: &str) {
    let statements = statements.replace("{schema}", &settings().schema);
    sqlx::raw_sql(AssertSqlSafe(statements)).execute(pool).await.unwrap();
}

/// What an error says, with its causes.
fn text<T>(result: Result<T, StoreError>) -> String {
    let Err(StoreError::Unavailable(cause)) = result else { panic!("it is not refused") };
    cause.to_string()
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn what_postgres_tables_lack_is_said_with_its_cure() {
    let schema = Schema::new().await;
    let (pool, settings) = (&schema.pool, &schema.settings);
    let open = || async { text(PostgresStore::open(pool.clone(), settings).await) };
    let missing = open().await;
    assert!(missing.contains("missing") && missing.contains("call `migrate`"), "{missing}");

    assert_eq!(PostgresStore::migrate(pool, settings).await.unwrap(), LAST);
    PostgresStore::open(pool.clone(), settings).await.unwrap();

    schema.run("UPDATE {schema}.version SET version = 1").await;
    let older = open().await;
    assert!(older.contains("version 1") && older.contains("call `migrate`"), "{older}");

    schema.run("UPDATE {schema}.version SET version = 99").await;
    for newer in [open().await, text(PostgresStore::migrate(pool, settings).await)] {
        assert!(newer.contains("version 99") && newer.contains("a later one"), "{newer}");
    }
    schema.drop().await;
}

#[tokio::test]
async fn what_sqlite_tables_lack_is_said_with_its_cure() {
    let folder = tempfile::tempdir().unwrap();
    let pool = sqlite(folder.path()).await;
    let open = || async { text(SqliteStore::open(pool.clone(), &settings()).await) };
    let missing = open().await;
    assert!(missing.contains("missing") && missing.contains("call `migrate`"), "{missing}");

    assert_eq!(SqliteStore::migrate(&pool, &settings()).await.unwrap(), LAST);
    SqliteStore::open(pool.clone(), &settings()).await.unwrap();

    run_sqlite(&pool, "UPDATE {schema}_version SET version = 1").await;
    let older = open().await;
    assert!(older.contains("version 1") && older.contains("call `migrate`"), "{older}");

    run_sqlite(&pool, "UPDATE {schema}_version SET version = 99").await;
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
    // The second migration finds its table made by someone else.
    schema.run("CREATE SCHEMA {schema}; CREATE TABLE {schema}.inbox (n integer)").await;
    let said = text(PostgresStore::migrate(&schema.pool, &schema.settings).await);
    assert!(said.contains("inbox"), "{said}");
    let tables: (i64,) = sqlx::query_as("SELECT count(*) FROM pg_tables WHERE schemaname = $1")
        .bind(&schema.settings.schema)
        .fetch_one(&schema.pool)
        .await
        .unwrap();
    assert_eq!(tables, (1,));
    schema.run("DROP TABLE {schema}.inbox").await;
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

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn four_processes_migrate_a_postgres_schema_at_once() {
    let schema = Schema::new().await;
    schema.run("CREATE SCHEMA {schema}; CREATE TABLE {schema}.version (version integer NOT NULL)").await;
    schema.run("INSERT INTO {schema}.version VALUES (1)").await;
    schema.run(POSTGRES_1).await;
    schema.run(ROWS_POSTGRES).await;
    four_processes(&format!("postgres {}", schema.settings.schema));
    schema.run("SELECT 1 / (count(*) = 2)::int FROM {schema}.messages").await;
    PostgresStore::open(schema.pool.clone(), &schema.settings).await.unwrap();

    // The same from nothing.
    let new = Schema::new().await;
    four_processes(&format!("postgres {}", new.settings.schema));
    PostgresStore::open(new.pool.clone(), &new.settings).await.unwrap();
    new.drop().await;
    schema.drop().await;
}

/// One that is pending, one that waits for a retry, and one that is dead.
const ROWS_POSTGRES: &str = "
    INSERT INTO {schema}.messages (bucket, id, topic, details, body, size, due_at, attempts)
    SELECT 0, gen_random_uuid(), 'a', '{}', '', 1, due_at, attempts
    FROM (VALUES (NULL, 0), (now() + interval '1 hour', 1)) AS rows (due_at, attempts);
    INSERT INTO {schema}.dead_letters (position, bucket, id, topic, details, body, size, stored_at, attempts)
    VALUES (99, 0, gen_random_uuid(), 'a', '{}', '', 1, now(), 3)";

#[tokio::test]
async fn four_processes_migrate_an_sqlite_file_at_once() {
    if let Ok(job) = std::env::var(JOB) {
        return work(&job).await;
    }
    let folder = tempfile::tempdir().unwrap();
    let pool = sqlite(folder.path()).await;
    run_sqlite(
        &pool,
        "CREATE TABLE {schema}_version (version INTEGER); INSERT INTO {schema}_version VALUES (1)",
    )
    .await;
    run_sqlite(&pool, SQLITE_1).await;
    four_processes(&format!("sqlite {}", folder.path().display()));
    SqliteStore::open(pool, &settings()).await.unwrap();
}
