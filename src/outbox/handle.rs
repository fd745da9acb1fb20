//! A handle to look into an outbox and to operate on it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::status::{OutboxStatus, Status};
use crate::message::Message;
use crate::messenger::OutboxStore;
use crate::store::{Entry, EntryState, Filter, Instance, OperationRecord, Page, Store, StoreError, Unstored};

/// How many entries one page has.
const PAGE: usize = 500;

/// A handle to an outbox: status, lists, requeue and drop. A clone is another handle.
#[derive(Clone)]
pub struct OutboxHandle {
    outbox: OutboxStore,
    status: Arc<Status>,
}

impl fmt::Debug for OutboxHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutboxHandle").field("store", &self.location()).finish_non_exhaustive()
    }
}

impl OutboxHandle {
    pub(super) fn new(outbox: OutboxStore, status: Arc<Status>) -> Self {
        Self { outbox, status }
    }

    /// A handle to a store without a relay, such as the store of a stopped app.
    #[must_use]
    pub fn stopped(store: Arc<dyn Store>) -> Self {
        Self { outbox: OutboxStore::new(store), status: Arc::default() }
    }

    /// Returns the place of the store.
    #[must_use]
    pub fn location(&self) -> String {
        self.store().location()
    }

    /// Returns its status.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    pub async fn status(&self) -> Result<OutboxStatus, StoreError> {
        let counts = self.store().counts().await?;
        Ok(self.status.snapshot(self.location(), counts, self.outbox.stored_per_second()))
    }

    /// Returns a page of the stored messages: see [`Store::list`].
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    pub async fn list(&self, filter: &Filter, after: Option<u64>, limit: usize) -> Result<Page, StoreError> {
        self.store().list(filter, after, limit).await
    }

    /// Returns the first entry that matches, if there is one.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    pub async fn find(&self, filter: &Filter) -> Result<Option<Entry>, StoreError> {
        let mut after = None;
        loop {
            let mut page = self.store().list(filter, after, 1).await?;
            if let Some(entry) = page.entries.pop() {
                return Ok(Some(entry));
            }
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(None),
            }
        }
    }

    /// Stores messages, which the relay sends in order.
    ///
    /// # Errors
    /// [`Unstored`]: no message is stored then.
    pub async fn append(&self, messages: Vec<Message>) -> Result<(), Unstored> {
        let count = messages.len();
        self.store().append(messages).await?;
        self.outbox.record(count);
        Ok(())
    }

    /// Returns how many entries match.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    pub async fn count(&self, filter: &Filter) -> Result<usize, StoreError> {
        let (mut count, mut after) = (0, None);
        loop {
            let page = self.store().list(filter, after, PAGE).await?;
            count += page.entries.len();
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(count),
            }
        }
    }

    /// Requeues dead letters, one each `pace`; returns how many.
    ///
    /// A filter without a state matches dead letters only.
    ///
    /// # Errors
    /// [`StoreError`]; messages requeued before the error stay requeued.
    pub async fn requeue(&self, filter: &Filter, pace: Duration) -> Result<usize, StoreError> {
        let filter = Filter { state: filter.state.or(Some(EntryState::Dead)), ..filter.clone() };
        // All positions are found first: a requeued message may become a dead letter again meanwhile.
        let positions = self.positions(&filter).await?;
        self.store().requeue(&positions, pace).await
    }

    /// Drops messages except those being sent; returns how many.
    ///
    /// # Errors
    /// [`StoreError`]; messages dropped before the error stay dropped.
    pub async fn drop_messages(&self, filter: &Filter) -> Result<usize, StoreError> {
        let positions = self.positions(filter).await?;
        self.store().drop_messages(&positions).await
    }

    /// Requeues the messages at these positions, one each `pace`; returns how many: see [`Store::requeue`].
    ///
    /// # Errors
    /// [`StoreError`] when the change could not be recorded.
    pub async fn requeue_positions(&self, positions: &[u64], pace: Duration) -> Result<usize, StoreError> {
        self.store().requeue(positions, pace).await
    }

    /// Drops the messages at these positions, except those being sent; returns how many.
    ///
    /// # Errors
    /// [`StoreError`] when the change could not be recorded.
    pub async fn drop_positions(&self, positions: &[u64]) -> Result<usize, StoreError> {
        self.store().drop_messages(positions).await
    }

    /// Keeps a record of what an operator did: see [`Store::record_operation`].
    ///
    /// # Errors
    /// [`StoreError`] when it could not be kept.
    pub async fn record_operation(&self, record: &OperationRecord) -> Result<(), StoreError> {
        self.store().record_operation(record).await
    }

    /// Returns what operators did, the last operation first.
    ///
    /// # Errors
    /// [`StoreError`] when the records cannot be read.
    pub async fn operations(&self, limit: usize) -> Result<Vec<OperationRecord>, StoreError> {
        self.store().operations(limit).await
    }

    /// Returns the instances that send what is stored; none if the store does not know them.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    pub async fn instances(&self) -> Result<Vec<Instance>, StoreError> {
        self.store().instances().await
    }

    /// Returns how many messages were stored and confirmed in each minute of the last hour, oldest first.
    #[cfg(feature = "admin")]
    pub(crate) fn by_minute(&self) -> (Vec<u64>, Vec<u64>) {
        (self.outbox.stored_by_minute(), self.status.confirmed.by_minute())
    }

    fn store(&self) -> &Arc<dyn Store> {
        self.outbox.store()
    }

    pub(crate) async fn positions(&self, filter: &Filter) -> Result<Vec<u64>, StoreError> {
        let (mut positions, mut after) = (Vec::new(), None);
        loop {
            let page = self.store().list(filter, after, PAGE).await?;
            positions.extend(page.entries.iter().map(|entry| entry.position));
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(positions),
            }
        }
    }
}
