//! The particulars of SQLite, except the statements.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::sqlite::{Sqlite, SqliteConnection, SqlitePool};
use sqlx::{SqlStr, Transaction};
use tokio::sync::Notify;

use super::membership::SqliteMembership;
use super::tables::SqliteTables;
use crate::store::ThisInstance;
use crate::store::sql::{Dialect, Membership, SqlStoreSettings, Tables};
use crate::util::error::BoxError;

#[async_trait]
impl Dialect for Sqlite {
    const NAME: &'static str = "Sqlite";

    const MIGRATIONS: &'static [&'static str] = &[
        include_str!("migrations/0001_messages.sql"),
        include_str!("migrations/0002_inbox.sql"),
        include_str!("migrations/0003_trusted_keys.sql"),
        include_str!("migrations/0004_audit.sql"),
        include_str!("migrations/0005_instances.sql"),
    ];

    const PREPARE: &'static str = "-- The version of the tables of tower-outbox with this prefix.
         CREATE TABLE IF NOT EXISTS {schema}_version (version INTEGER NOT NULL);
         INSERT INTO {schema}_version SELECT 0 WHERE NOT EXISTS (SELECT * FROM {schema}_version)";

    const VERSION_TABLE: &'static str = "{schema}_version";

    type Tables = SqliteTables;

    fn tables(pool: SqlitePool, settings: &SqlStoreSettings) -> SqliteTables {
        SqliteTables::new(pool, settings)
    }

    /// Other processes see changes of the file by themselves.
    fn membership(tables: &SqliteTables, _: &Arc<Notify>, this: ThisInstance) -> Arc<dyn Membership> {
        Arc::new(SqliteMembership::new(tables.pool(), tables.permits().clone(), tables.schema(), this))
    }

    fn quoted(schema: &str) -> String {
        schema.to_owned()
    }

    fn describe(schema: &str) -> String {
        format!("the SQLite file, with the prefix {schema}")
    }

    async fn check(_: &SqlitePool) -> Result<(), BoxError> {
        Ok(())
    }

    async fn begin_migration(
        pool: &SqlitePool,
        _schema: &str,
    ) -> Result<Transaction<'static, Self>, sqlx::Error> {
        pool.begin_with("BEGIN IMMEDIATE").await
    }

    async fn execute(connection: &mut SqliteConnection, statements: SqlStr) -> Result<(), sqlx::Error> {
        sqlx::raw_sql(statements).execute(connection).await.map(drop)
    }

    async fn version(
        connection: &mut SqliteConnection,
        statement: SqlStr,
    ) -> Result<Option<i32>, sqlx::Error> {
        match sqlx::query_scalar(statement).fetch_optional(connection).await {
            // SQLite has no code of its own for a missing table.
            Err(sqlx::Error::Database(error)) if error.message().starts_with("no such table") => Ok(None),
            version => version,
        }
    }

    #[cfg(feature = "signing")]
    const KEY_TABLE: &'static str = "{schema}_trusted_keys";

    const AUDIT_TABLE: &'static str = "{schema}_audit";

    const INSTANCES: &'static str = "SELECT lower(hex(members.id)),
            json_object('name', name, 'version', version, 'age', now - opened_at, 'heartbeat_age', now - heartbeat_at,
                'expires_in', expires_at - now, 'partitions', count(partition))
        FROM (SELECT CAST(unixepoch('subsec') * 1000 AS INTEGER) AS now), {schema}_members AS members LEFT JOIN {schema}_partitions ON owner = members.id
        GROUP BY members.id ORDER BY members.id LIMIT 1000";

    async fn pairs(
        pool: &SqlitePool,
        statement: SqlStr,
        values: Option<[&str; 2]>,
    ) -> Result<Vec<(String, String)>, sqlx::Error> {
        let query =
            values.into_iter().flatten().fold(sqlx::query_as(statement), |query, value| query.bind(value));
        query.fetch_all(pool).await
    }

    /// It takes the lock at once: a transaction that reads first could fail to write later.
    const BEGIN: &'static str = "BEGIN IMMEDIATE";

    /// Some errors end the transaction, such as `RAISE(ROLLBACK)` and a full disk. Later statements would then commit alone.
    async fn is_over(connection: &mut SqliteConnection) -> bool {
        sqlx::raw_sql("BEGIN").execute(connection).await.is_ok()
    }

    /// [`is_over`](Self::is_over) is enough.
    async fn check_open(_: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        Ok(())
    }

    /// `SQLITE_BUSY`, `SQLITE_LOCKED`, `SQLITE_READONLY`, `SQLITE_INTERRUPT`, `SQLITE_IOERR`, `SQLITE_FULL`, `SQLITE_CANTOPEN` and
    /// `SQLITE_PROTOCOL`, with their extensions in the higher bits.
    fn is_transient(code: &str) -> bool {
        code.parse::<u32>().is_ok_and(|code| matches!(code & 0xff, 5 | 6 | 8 | 9 | 10 | 13 | 14 | 15))
    }
}
