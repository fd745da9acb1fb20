//! The tables, version by version.

use sqlx::AssertSqlSafe;
use sqlx::postgres::PgPool;

use super::encoding::{self, Encoding};
use super::pooler::{self, SharedConnections};
use super::statements::quoted;
use crate::store::sql::check_version;
use crate::util::error::BoxError;

/// Each brings the tables from the version before to the next; what has been released is never changed.
const MIGRATIONS: &[&str] =
    &[include_str!("migrations/0001_messages.sql"), include_str!("migrations/0002_inbox.sql")];

/// Someone who may not create a schema may be given one.
const PREPARE: &str = "DO $$ BEGIN
        IF to_regnamespace('{schema}') IS NULL THEN CREATE SCHEMA {schema}; END IF;
        IF to_regclass('{schema}.version') IS NULL THEN
            CREATE TABLE {schema}.version (version integer NOT NULL);
            COMMENT ON TABLE {schema}.version IS 'The version of the tables of tower-outbox in this schema.';
            INSERT INTO {schema}.version VALUES (0);
        END IF;
    END $$";

/// What Postgres calls a table, and a schema, that is not there.
const MISSING: [&str; 2] = ["42P01", "3F000"];

/// Brings the tables to the last version, one process at a time, all or nothing.
pub(super) async fn migrate(pool: &PgPool, schema: &str) -> Result<u32, BoxError> {
    // When nothing is to be done, no right to create anything is needed.
    match check(pool, schema).await {
        Ok(()) => return Ok(MIGRATIONS.len() as u32),
        Err(error) if error.is::<SharedConnections>() || error.is::<Encoding>() => return Err(error),
        Err(_) => {}
    }
    let quoted = quoted(schema);
    let sql = |text: &str| AssertSqlSafe(text.replace("{schema}", &quoted));
    // Each statement must see what the process before has committed.
    let mut transaction = pool.begin_with("BEGIN ISOLATION LEVEL READ COMMITTED").await?;
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('tower_outbox.' || $1, 0))")
        .bind(schema)
        .execute(&mut *transaction)
        .await?;
    sqlx::raw_sql(sql(PREPARE)).execute(&mut *transaction).await?;
    let (version,): (i32,) =
        sqlx::query_as(sql("SELECT version FROM {schema}.version")).fetch_one(&mut *transaction).await?;
    if version as usize > MIGRATIONS.len() {
        check_version(Some(version), MIGRATIONS.len(), place(schema))?;
    }
    for migration in MIGRATIONS.iter().skip(version as usize) {
        sqlx::raw_sql(sql(migration)).execute(&mut *transaction).await?;
    }
    sqlx::query(sql("UPDATE {schema}.version SET version = $1"))
        .bind(MIGRATIONS.len() as i32)
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(MIGRATIONS.len() as u32)
}

/// Whether the tables are of the last version.
pub(super) async fn check(pool: &PgPool, schema: &str) -> Result<(), BoxError> {
    pooler::refuse(pool).await?;
    encoding::check(pool).await?;
    let version = format!("SELECT version FROM {}.version", quoted(schema));
    let version: Option<i32> = match sqlx::query_scalar(AssertSqlSafe(version)).fetch_optional(pool).await {
        Ok(version) => version,
        Err(sqlx::Error::Database(error)) if error.code().is_some_and(|code| MISSING.contains(&&*code)) => {
            None
        }
        Err(error) => return Err(error.into()),
    };
    Ok(check_version(version, MIGRATIONS.len(), place(schema))?)
}

fn place(schema: &str) -> String {
    format!("the schema {schema}")
}
