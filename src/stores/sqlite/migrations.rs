//! The tables, version by version.

use sqlx::AssertSqlSafe;
use sqlx::sqlite::SqlitePool;

/// Each brings the tables from the version before to the next; what has been released is never changed.
const MIGRATIONS: &[&str] = &[
    // AUTOINCREMENT: a position is never given twice.
    "CREATE TABLE {schema}_messages (
        position INTEGER PRIMARY KEY AUTOINCREMENT,
        id BLOB NOT NULL,
        topic TEXT NOT NULL,
        key TEXT,
        details TEXT NOT NULL,
        body BLOB NOT NULL,
        stored_at INTEGER NOT NULL DEFAULT (unixepoch()),
        due_at INTEGER,
        attempts INTEGER NOT NULL DEFAULT 0,
        failures TEXT
    );",
    "CREATE TABLE {schema}_inbox (
        source TEXT NOT NULL,
        id BLOB NOT NULL,
        handled_at INTEGER NOT NULL DEFAULT (unixepoch()),
        PRIMARY KEY (source, id)
    ) WITHOUT ROWID;
    CREATE INDEX {schema}_inbox_handled_at ON {schema}_inbox (handled_at);",
];

/// Brings the tables to the last version, one process at a time, all or nothing.
pub(super) async fn migrate(pool: &SqlitePool, schema: &str) -> Result<u32, sqlx::Error> {
    let mut transaction = pool.begin_with("BEGIN IMMEDIATE").await?;
    let prepare = format!("CREATE TABLE IF NOT EXISTS {schema}_version (version INTEGER NOT NULL)");
    sqlx::raw_sql(AssertSqlSafe(prepare)).execute(&mut *transaction).await?;
    let version: Option<(i64,)> =
        sqlx::query_as(AssertSqlSafe(format!("SELECT version FROM {schema}_version")))
            .fetch_optional(&mut *transaction)
            .await?;
    let version = version.map_or(0, |(version,)| version as usize);
    for migration in MIGRATIONS.iter().skip(version) {
        sqlx::raw_sql(AssertSqlSafe(migration.replace("{schema}", schema)))
            .execute(&mut *transaction)
            .await?;
    }
    if version < MIGRATIONS.len() {
        let record = format!(
            "DELETE FROM {schema}_version; INSERT INTO {schema}_version VALUES ({})",
            MIGRATIONS.len()
        );
        sqlx::raw_sql(AssertSqlSafe(record)).execute(&mut *transaction).await?;
    }
    transaction.commit().await?;
    Ok(version.max(MIGRATIONS.len()) as u32)
}
