//! The store in a database of the app.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::{Database, Pool};
use tokio::sync::Notify;
use uuid::Uuid;

use super::audit::AuditTable;
use super::dialect::{Dialect, transaction_is_over};
use super::engine::{Engine, Handle};
use super::migrate::{check, migrate};
use super::pending_insert::PendingInsert;
use super::settings::SqlStoreSettings;
use super::tables::{Tables, WritePermit};
use crate::message::{Message, Settlement};
use crate::store::admission::Admission;
use crate::store::{
    Counts, Filter, Instance, Lease, Leased, OperationRecord, Page, Store, StoreError, ThisInstance, Unstored,
};

/// Keeps messages in tables beside the app's own, so that one COMMIT stores both.
///
/// This is [`PostgresStore`](crate::store::PostgresStore) and [`SqliteStore`](crate::store::SqliteStore), which describe it.
#[allow(private_bounds, reason = "no other crate can add a database")]
pub struct SqlStore<DB: Dialect> {
    engine: Arc<Handle<DB::Tables>>,
    audit: Arc<AuditTable>,
}

#[allow(private_bounds, reason = "no other crate can add a database")]
impl<DB: Dialect> SqlStore<DB> {
    /// Installs the tables, or brings them up to date, and returns their version.
    ///
    /// Any number of processes may do it at once. Tables that are up to date are not touched.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the settings cannot be used, the database refuses, or the tables have a later version than
    /// this crate knows. Nothing is changed then.
    pub async fn migrate(pool: &Pool<DB>, settings: &SqlStoreSettings) -> Result<u32, StoreError> {
        let schema = settings.checked_schema().map_err(StoreError::unavailable)?;
        migrate::<DB>(pool, schema).await.map_err(StoreError::unavailable)
    }

    /// Opens the store. The tables must exist: see [`migrate`](Self::migrate).
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the settings cannot be used, or the tables are missing or have another version.
    pub async fn open(pool: Pool<DB>, settings: &SqlStoreSettings) -> Result<Self, StoreError> {
        let schema = settings.checked_schema().map_err(StoreError::unavailable)?;
        check::<DB>(&pool, schema).await.map_err(StoreError::unavailable)?;
        let other_instances = Arc::new(Notify::new());
        let this = ThisInstance::named(settings.instance_name.as_deref());
        let tables = DB::tables(pool, settings);
        let membership = DB::membership(&tables, &other_instances, this);
        let engine = Engine::open(tables, membership, other_instances, settings).await?;
        Ok(Self { engine: Arc::new(engine), audit: Arc::new(AuditTable::new::<DB>(schema)) })
    }

    /// Returns the pool that the store was opened with.
    #[must_use]
    pub fn pool(&self) -> &Pool<DB> {
        self.engine.tables().pool()
    }

    /// Waits for the right to write, which must come before a transaction is begun.
    pub(crate) async fn write_permit(&self) -> Result<WritePermit, sqlx::Error> {
        self.engine.tables().write_permit().await
    }

    /// Inserts messages in the transaction of this connection, and removes those that an earlier try of the request has stored.
    ///
    /// Fails if the transaction cannot be committed any more.
    pub(crate) async fn insert(
        &self,
        connection: &mut <DB as Database>::Connection,
        messages: &mut Vec<Message>,
    ) -> Result<Option<PendingInsert>, sqlx::Error> {
        if DB::is_over(connection).await {
            return Err(transaction_is_over());
        }
        self.engine.retain_new(connection, messages).await?;
        match messages.is_empty() {
            true => DB::check_open(connection).await.map(|()| None),
            false => self.engine.insert(connection, messages, (0, 0)).await.map(Some),
        }
    }

    /// Prepares a transaction that the app began, so that messages can be inserted into it. With `notify`, its COMMIT notifies
    /// all instances, also this one.
    pub(crate) async fn prepare(
        &self,
        connection: &mut <DB as Database>::Connection,
        notify: bool,
    ) -> Result<(), sqlx::Error> {
        self.engine.tables().prepare(connection, notify).await
    }

    /// Records, in the transaction of this connection, that a message is handled. Returns false if it was before.
    pub(crate) async fn record_handled(
        &self,
        connection: &mut <DB as Database>::Connection,
        source: &str,
        id: Uuid,
    ) -> Result<bool, sqlx::Error> {
        self.engine.record_handled(connection, source, id).await
    }

    /// Notes that a transaction of a request was rolled back.
    pub(crate) fn rolled_back(&self) {
        self.engine.tables().rolled_back();
    }

    /// Returns how many positions are in memory.
    #[cfg(test)]
    pub(crate) fn known(&self) -> usize {
        self.engine.known()
    }
}

/// A clone is a handle to the same store.
impl<DB: Dialect> Clone for SqlStore<DB> {
    fn clone(&self) -> Self {
        Self { engine: Arc::clone(&self.engine), audit: Arc::clone(&self.audit) }
    }
}

impl<DB: Dialect> fmt::Debug for SqlStore<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqlStore").field("location", &self.location()).finish_non_exhaustive()
    }
}

#[async_trait]
impl<DB: Dialect> Store for SqlStore<DB> {
    async fn append(&self, batch: Vec<Message>) -> Result<(), Unstored> {
        self.engine.append(batch).await
    }

    async fn lease(&self, limit: usize) -> Result<Vec<Leased>, StoreError> {
        self.engine.lease(limit).await
    }

    async fn settle(&self, settled: &[(Lease, Settlement)]) -> Result<(), StoreError> {
        self.engine.settle(settled).await
    }

    async fn list(&self, filter: &Filter, after: Option<u64>, limit: usize) -> Result<Page, StoreError> {
        self.engine.list(filter, after, limit).await
    }

    async fn requeue(&self, positions: &[u64], pace: Duration) -> Result<usize, StoreError> {
        self.engine.requeue(positions, pace).await
    }

    async fn drop_messages(&self, positions: &[u64]) -> Result<usize, StoreError> {
        self.engine.drop_messages(positions).await
    }

    async fn counts(&self) -> Result<Counts, StoreError> {
        self.engine.counts().await
    }

    async fn record_operation(&self, record: &OperationRecord) -> Result<(), StoreError> {
        self.audit.insert(self.pool(), record).await.map_err(StoreError::unavailable)
    }

    async fn operations(&self, limit: usize) -> Result<Vec<OperationRecord>, StoreError> {
        self.audit.read(self.pool(), limit).await.map_err(StoreError::unavailable)
    }

    async fn instances(&self) -> Result<Vec<Instance>, StoreError> {
        self.audit.instances(self.pool()).await.map_err(StoreError::unavailable)
    }

    fn location(&self) -> String {
        self.engine.tables().location()
    }

    fn admission(&self) -> Option<Admission> {
        Some(self.engine.admission())
    }

    async fn close(&self) {
        self.engine.close().await;
    }
}
