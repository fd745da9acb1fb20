//! The store in Postgres itself.

use std::sync::Arc;

use sqlx::postgres::{PgConnection, PgPool};
use tokio::sync::Notify;

use super::inbox::Inbox;
use super::leases::PgLeases;
use super::migrations;
use super::shedder::Shedder;
use super::tables::PostgresTables;
use crate::message::Message;
use crate::store::StoreError;
use crate::store::sql::{Engine, Handle, Inserted, SqlStoreSettings, store_of_engine};

/// Keeps messages in tables beside the app's own, so that one COMMIT stores both.
///
/// A message is one row of `messages`: position, bucket, id, topic, key, details as JSON, body. It costs **one
/// INSERT, in the transaction of whoever stores it, and one DELETE**, which many share, when the bus has confirmed
/// it; no UPDATE unless an attempt fails. So the table stays as small as what waits in it: it is vacuumed after
/// 10,000 deleted rows, whatever its size, and a message without a key and delay stands in one index only. Dead
/// letters stand in a table of their own, where they are in nobody's way.
///
/// Measured: 10 million messages of 300 bytes, stored and sent at 5,000 a second, Postgres 15 as it comes (2026-11-22, 2 cores;
/// `cargo bench -p tower-outbox-benches --bench transactional -- bloat`). Dead rows are those of a minute, as autovacuum looks once a minute:
///
/// | millions | table | indexes | dead rows | rows | autovacuums |
/// |---|---|---|---|---|---|
/// | 0.5 | 146 MB | 7 MB | 90,710 | 0 | 2 |
/// | 1 | 148 MB | 9 MB | 290,807 | 0 | 3 |
/// | 2 | 147 MB | 9 MB | 92,357 | 0 | 7 |
/// | 4 | 148 MB | 9 MB | 289,888 | 25 | 13 |
/// | 6 | 149 MB | 14 MB | 189,294 | 0 | 20 |
/// | 8 | 149 MB | 14 MB | 89,260 | 0 | 27 |
/// | 10 | 149 MB | 14 MB | 287,442 | 25 | 33 |
///
/// What was just stored by this process, and has no key, is sent from memory: nothing is read. All else is read in
/// order, along the first index, some positions back from where the last read ended, and all over now and then, as
/// transactions may commit in another order than they began. What has a key is read when the turn of its key has
/// come, so that an earlier message of the key that was committed late leaves before a later one. Memory is
/// bounded: about a thousand messages wait in it, 8 MiB at most, and the positions of some more.
///
/// **Any number of instances of the app** may open the same tables: the messages are in 16 buckets, and each
/// instance holds its part of them. An instance that dies is replaced when its [`lease`](SqlStoreSettings::lease)
/// has run out, and one that was taken for dead changes nothing any more: each statement asks whether its holder
/// still is the holder. So order holds for each topic and key, at least once, whatever the instances do. Limits are
/// counted by each instance: exact for one, and about a minute late for what others do.
/// [`WhenFull::DropOldest`](crate::store::WhenFull::DropOldest) is refused: committed messages are not dropped.
///
/// Confirms of messages without a key are written down together, five milliseconds after the first, as each statement costs
/// more than storing a message did: what a crash of the app catches in that time is sent once more.
/// That a message has left is not waited for on the disk of the server (`synchronous_commit = off` for this
/// alone): a crash of the server may have it sent once more. What is stored, requeued or dropped by hand is
/// as durable as every other COMMIT.
///
/// **Behind a pooler** such as PgBouncer it works with `pool_mode = session`. With `transaction` or `statement` it does not start, and
/// says so: prepared statements and `LISTEN` need a connection that stays.
///
/// A clone is a handle to the same store. Dropping the last gives up what it holds, without waiting.
///
/// # Cancel safety
/// What was begun goes on to its end in tasks of the store; [`close`](crate::store::Store::close) waits for them.
#[derive(Clone)]
pub struct PostgresStore {
    engine: Arc<Handle<PostgresTables>>,
}

impl PostgresStore {
    /// Installs the tables, or brings them up to date; gives their version. Any number of processes may do it at once; when
    /// the tables are up to date, it is one query.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the database refuses, or the tables are of a later version than this crate knows;
    /// nothing is changed then.
    pub async fn migrate(pool: &PgPool, settings: &SqlStoreSettings) -> Result<u32, StoreError> {
        let schema = settings.checked_schema().map_err(StoreError::unavailable)?;
        migrations::migrate(pool, schema).await.map_err(StoreError::unavailable)
    }

    /// Opens it; the tables must be there: see [`migrate`](Self::migrate).
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when they are not, or are of another version.
    pub async fn open(pool: PgPool, settings: &SqlStoreSettings) -> Result<Self, StoreError> {
        let schema = settings.checked_schema().map_err(StoreError::unavailable)?;
        migrations::check(&pool, schema).await.map_err(StoreError::unavailable)?;
        let elsewhere = Arc::new(Notify::new());
        let leases = PgLeases::new(&pool, schema, Arc::clone(&elsewhere));
        let tables = PostgresTables::new(pool, settings);
        let engine = Engine::open(tables, Arc::new(leases), elsewhere, settings).await?;
        Ok(Self { engine: Arc::new(engine) })
    }

    /// The pool it was opened with.
    #[must_use]
    pub fn pool(&self) -> &PgPool {
        self.engine.tables().pool()
    }

    pub(crate) fn inbox(&self) -> &Inbox {
        self.engine.tables().inbox()
    }

    /// Closes connections to a server that has become read-only.
    pub(crate) fn shedder(&self) -> &Shedder {
        self.engine.tables().shedder()
    }

    /// Stores messages in the transaction of this connection.
    pub(crate) async fn insert(
        &self,
        connection: &mut PgConnection,
        messages: &[Message],
    ) -> Result<Inserted, sqlx::Error> {
        self.engine.insert(connection, messages, (0, 0)).await
    }
}

store_of_engine!(PostgresStore);
