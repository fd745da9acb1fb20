//! The differences between the databases, except their statements.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::{Database, Pool, SqlStr, Transaction};
use tokio::sync::Notify;

use super::membership::Membership;
use super::settings::SqlStoreSettings;
use super::tables::Tables;
use crate::store::ThisInstance;
use crate::util::error::BoxError;

/// A database that can hold a [`SqlStore`](super::SqlStore): `sqlx::Postgres` and `sqlx::Sqlite`.
#[async_trait]
pub(crate) trait Dialect: Database {
    /// The name of the database, in texts.
    const NAME: &'static str;

    /// Each brings the tables from the version before to the next, and is never changed after its release.
    const MIGRATIONS: &'static [&'static str];

    /// Creates the table of the version, with version 0, unless it exists.
    const PREPARE: &'static str;

    /// The name of the table of the version.
    const VERSION_TABLE: &'static str;

    type Tables: Tables<Database = Self>;

    /// Prepares the statements for the tables that these settings name.
    fn tables(pool: Pool<Self>, settings: &SqlStoreSettings) -> Self::Tables;

    /// Prepares the statements by which instances share the tables. It notifies other instances of new messages when
    /// `other_instances` is notified.
    fn membership(
        tables: &Self::Tables,
        other_instances: &Arc<Notify>,
        this: ThisInstance,
    ) -> Arc<dyn Membership>;

    // --- migrations

    /// Returns the text that replaces `{schema}` in statements.
    fn quoted(schema: &str) -> String;

    /// Describes where the tables are, for errors.
    fn describe(schema: &str) -> String;

    /// Fails if the database or its pool cannot be used at all.
    async fn check(pool: &Pool<Self>) -> Result<(), BoxError>;

    /// Begins a transaction that no other migration of this schema can run beside.
    async fn begin_migration(
        pool: &Pool<Self>,
        schema: &str,
    ) -> Result<Transaction<'static, Self>, sqlx::Error>;

    /// Executes statements.
    async fn execute(connection: &mut Self::Connection, statements: SqlStr) -> Result<(), sqlx::Error>;

    /// Reads the version that the statement selects; `None` if its table does not exist.
    async fn version(
        connection: &mut Self::Connection,
        statement: SqlStr,
    ) -> Result<Option<i32>, sqlx::Error>;

    // --- trusted keys

    /// The name of the table of trusted keys.
    #[cfg(feature = "signing")]
    const KEY_TABLE: &'static str;

    // --- operations

    /// The name of the table of what operators did.
    const AUDIT_TABLE: &'static str;

    /// Selects the instances: the id, then an object in JSON with `name`, `version`, `partitions`, and in milliseconds `age`,
    /// `heartbeat_age` and `expires_in`.
    const INSTANCES: &'static str;

    /// Executes a statement with these values, and returns its rows of two texts.
    async fn pairs(
        pool: &Pool<Self>,
        statement: SqlStr,
        values: Option<[&str; 2]>,
    ) -> Result<Vec<(String, String)>, sqlx::Error>;

    // --- transactions of requests

    /// Begins a transaction into which messages can be inserted.
    const BEGIN: &'static str;

    /// Whether the database has ended the transaction by itself. If so, an empty one is begun in its place.
    async fn is_over(connection: &mut Self::Connection) -> bool;

    /// Fails if the transaction, into which no message is inserted any more, cannot be committed.
    async fn check_open(connection: &mut Self::Connection) -> Result<(), sqlx::Error>;

    /// Whether another try may pass after an error of the database with this code.
    fn is_transient(code: &str) -> bool;
}

/// Returns the error of a transaction that is over before it is committed.
pub(crate) fn transaction_is_over() -> sqlx::Error {
    let error = "the transaction is over: the handler ended it by COMMIT or ROLLBACK, or the database rolled it back (in SQLite \
        RAISE(ROLLBACK) or a full disk); leave the end of a Tx to MessagingLayer, and use savepoints (sqlx::Acquire::begin) inside it";
    sqlx::Error::InvalidArgument(error.to_owned())
}
