//! The tables, version by version.

use sqlx::AssertSqlSafe;
use sqlx::sqlite::SqlitePool;

use crate::store::sql::check_version;
use crate::util::error::BoxError;

/// Each brings the tables from the version before to the next; what has been released is never changed.
const MIGRATIONS: &[&str] =
    &[include_str!("migrations/0001_messages.sql"), include_str!("migrations/0002_inbox.sql")];

/// Brings the tables to the last version, one process at a time, all or nothing.
pub(super) async fn migrate(pool: &SqlitePool, schema: &str) -> Result<u32, BoxError> {
    if check(pool, schema).await.is_ok() {
        return Ok(MIGRATIONS.len() as u32);
    }
    let sql = |text: &str| AssertSqlSafe(text.replace("{schema}", schema));
    let mut transaction = pool.begin_with("BEGIN IMMEDIATE").await?;
    sqlx::raw_sql(sql("-- The version of the tables of tower-outbox with this prefix.
         CREATE TABLE IF NOT EXISTS {schema}_version (version INTEGER NOT NULL);
         INSERT INTO {schema}_version SELECT 0 WHERE NOT EXISTS (SELECT * FROM {schema}_version)"))
    .execute(&mut *transaction)
    .await?;
    let (version,): (i32,) =
        sqlx::query_as(sql("SELECT version FROM {schema}_version")).fetch_one(&mut *transaction).await?;
    if version as usize > MIGRATIONS.len() {
        check_version(Some(version), MIGRATIONS.len(), place(schema))?;
    }
    for migration in MIGRATIONS.iter().skip(version as usize) {
        sqlx::raw_sql(sql(migration)).execute(&mut *transaction).await?;
    }
    sqlx::query(sql("UPDATE {schema}_version SET version = ?"))
        .bind(MIGRATIONS.len() as i32)
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(MIGRATIONS.len() as u32)
}

/// Whether the tables are of the last version.
pub(super) async fn check(pool: &SqlitePool, schema: &str) -> Result<(), BoxError> {
    let version = format!("SELECT version FROM {schema}_version");
    let version: Option<i32> = match sqlx::query_scalar(AssertSqlSafe(version)).fetch_optional(pool).await {
        Ok(version) => version,
        // SQLite has no code of its own for that.
        Err(sqlx::Error::Database(error)) if error.message().starts_with("no such table") => None,
        Err(error) => return Err(error.into()),
    };
    Ok(check_version(version, MIGRATIONS.len(), place(schema))?)
}

fn place(schema: &str) -> String {
    format!("the SQLite file, with the prefix {schema}")
}
