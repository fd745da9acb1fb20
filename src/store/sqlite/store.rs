//! The store in SQLite itself.

use std::sync::Arc;

use sqlx::sqlite::{SqliteConnection, SqlitePool};

use super::inbox::Inbox;
use super::leases::SqliteLeases;
use super::migrations;
use super::tables::SqliteTables;
use super::writers::Writers;
use crate::message::Message;
use crate::store::StoreError;
use crate::store::sql::{Engine, Handle, Inserted, SqlStoreSettings, Turn, store_of_engine};

/// Keeps messages in tables beside the app's own, so that one COMMIT stores both.
///
/// A message is one row of `messages`: position, id, topic, key, details as JSON, body. It costs **one INSERT, in
/// the transaction of whoever stores it, and one DELETE**, which many share, when the bus has confirmed it; no
/// UPDATE unless an attempt fails. So the table stays as small as what waits in it: SQLite uses the pages of
/// deleted rows again. Dead letters stand in a table of their own, where they are in nobody's way.
///
/// What was just stored by this process, and has no key, is sent from memory: nothing is read. All else is read in
/// order, and all over now and then. What has a key is read when the turn of its key has come, so that an earlier
/// message of the key that was committed late leaves before a later one. Memory is bounded: about a thousand
/// messages wait in it, 8 MiB at most, and the positions of some more.
///
/// **Any number of instances of the app** may open the same tables: one of them sends, and another when that one
/// has ended. An instance that dies is replaced when its [`lease`](SqlStoreSettings::lease) has run out, and one
/// that was taken for dead changes nothing any more: each statement asks whether its holder still is the holder. So
/// order holds for each topic and key, at least once, whatever the instances do. Limits are counted by each
/// instance: exact for one, and about a minute late for what others do. An operator's
/// drop may meet a message that another instance is sending.
/// [`WhenFull::DropOldest`](crate::store::WhenFull::DropOldest) is refused: committed messages are not dropped.
///
/// SQLite has one writer at a time, so a transaction of the app that is going to write must begin with `BEGIN
/// IMMEDIATE`. What this crate writes in one process, each [`Tx`](crate::tx::Tx) included, takes turns: first come, first
/// served, for at most the pool's `acquire_timeout`. The app's own transactions and other processes are waited for as
/// SQLite does it: without any order, for at most the pool's `busy_timeout`.
///
/// A clone is a handle to the same store. Dropping the last gives up what it holds, without waiting.
///
/// # Cancel safety
/// What was begun goes on to its end in tasks of the store; [`close`](crate::store::Store::close) waits for them.
#[derive(Clone)]
pub struct SqliteStore {
    pub(super) engine: Arc<Handle<SqliteTables>>,
}

impl SqliteStore {
    /// Installs the tables, or brings them up to date; gives their version. Any number of processes may do it at once; when
    /// the tables are up to date, it is one query.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the database refuses, or the tables are of a later version than this crate knows;
    /// nothing is changed then.
    pub async fn migrate(pool: &SqlitePool, settings: &SqlStoreSettings) -> Result<u32, StoreError> {
        let schema = settings.checked_schema().map_err(StoreError::unavailable)?;
        migrations::migrate(pool, schema).await.map_err(StoreError::unavailable)
    }

    /// Opens it; the tables must be there: see [`migrate`](Self::migrate).
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when they are not, or are of another version.
    pub async fn open(pool: SqlitePool, settings: &SqlStoreSettings) -> Result<Self, StoreError> {
        let schema = settings.checked_schema().map_err(StoreError::unavailable)?;
        migrations::check(&pool, schema).await.map_err(StoreError::unavailable)?;
        let writers = Writers::of(&pool);
        let leases = SqliteLeases::new(&pool, writers.clone(), schema);
        let tables = SqliteTables::new(pool, writers, settings);
        let engine = Engine::open(tables, Arc::new(leases), Arc::default(), settings).await?;
        Ok(Self { engine: Arc::new(engine) })
    }

    /// The pool it was opened with.
    #[must_use]
    pub fn pool(&self) -> &SqlitePool {
        self.engine.tables().pool()
    }

    pub(crate) fn inbox(&self) -> &Inbox {
        self.engine.tables().inbox()
    }

    /// The turn to write, to be waited for before a transaction is begun.
    pub(crate) async fn turn(&self) -> Result<Turn, sqlx::Error> {
        self.engine.tables().writers().turn().await
    }

    /// Stores messages in the transaction of this connection.
    pub(crate) async fn insert(
        &self,
        connection: &mut SqliteConnection,
        messages: &[Message],
    ) -> Result<Inserted, sqlx::Error> {
        self.engine.insert(connection, messages, (0, 0)).await
    }
}

store_of_engine!(SqliteStore);
