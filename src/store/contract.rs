//! The contract of an outbox's store.

use std::any::Any;
use std::time::Duration;

use async_trait::async_trait;

use super::admission::Admission;
use super::entry::{Counts, Page};
use super::error::{StoreError, Unstored};
use super::filter::Filter;
use super::instance::Instance;
use super::lease::{Lease, Leased};
use super::operation::OperationRecord;
use crate::message::{Message, Settlement};

/// Keeps messages until a broker has confirmed them, and dead letters until an operator requeues or drops them.
///
/// # Contract
/// - **`append` is all or nothing, and durable when it returns `Ok`**: the whole batch survives a crash of the process and
///   of the machine, or no message of it is ever leased.
/// - **Order.** Messages get rising positions, and `lease` returns the oldest first. A message with an ordering key is not
///   leased while an earlier message with the same topic and key is pending, leased or waiting for a retry. Other keys are not
///   affected, and messages without a key wait for no other message. Dead letters are skipped; a requeued one returns to
///   its original position.
/// - **A lease belongs to one holder** until it is settled. A stale lease settles nothing. Messages that are leased when the
///   process ends are pending again when the store is opened the next time, or, in a store that several processes share,
///   when the lease has expired.
/// - **At least once.** A crash may undo a settlement that just happened: the message is then leased again. The effects of
///   `requeue` and `drop_messages` are durable.
/// - **Delay** is kept by the store: a message is not leased before its [`time`](Message::time) plus its
///   [`delay`](Message::delay). Expiry is kept by the relay.
/// - **Limits** are kept by the store: when one is reached, `append` fails, or the oldest pending messages are dropped; the
///   next leased message then carries their number in the header [`DROPPED`](crate::message::headers::DROPPED).
/// - **Damage is reported**: a message that can no longer be read becomes a dead letter without a message, and all others
///   stay readable.
///
/// A store is shared as `Arc<dyn Store>`.
#[async_trait]
pub trait Store: Any + Send + Sync {
    /// Stores a batch durably, all or nothing.
    ///
    /// # Errors
    /// [`Unstored`] gives the batch back: none of it is stored.
    ///
    /// # Cancel safety
    /// Dropping the future stores the batch as a whole or not at all.
    async fn append(&self, batch: Vec<Message>) -> Result<(), Unstored>;

    /// Waits until messages are due, and leases at most `limit` of them.
    ///
    /// # Errors
    /// [`StoreError`] when the store is closed or cannot be read.
    ///
    /// # Cancel safety
    /// Dropping the future leases nothing.
    async fn lease(&self, limit: usize) -> Result<Vec<Leased>, StoreError>;

    /// Settles leased messages.
    ///
    /// # Errors
    /// [`StoreError`] when the settlements could not be recorded: the messages may be leased again.
    async fn settle(&self, settled: &[(Lease, Settlement)]) -> Result<(), StoreError>;

    /// Returns a page of the stored messages that match, in order, after the position `after`.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    async fn list(&self, filter: &Filter, after: Option<u64>, limit: usize) -> Result<Page, StoreError>;

    /// Makes dead letters pending again, without attempts, one each `pace`, and makes waiting retries due now. Returns how many
    /// of `positions` were changed.
    ///
    /// # Errors
    /// [`StoreError`] when the change could not be recorded.
    async fn requeue(&self, positions: &[u64], pace: Duration) -> Result<usize, StoreError>;

    /// Drops messages that are not leased; returns how many of `positions` it dropped.
    ///
    /// # Errors
    /// [`StoreError`] when the change could not be recorded.
    async fn drop_messages(&self, positions: &[u64]) -> Result<usize, StoreError>;

    /// Returns how much is stored.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    async fn counts(&self) -> Result<Counts, StoreError>;

    /// Keeps a record of what an operator did. By default nothing is kept. A store may keep the last ones only.
    ///
    /// # Errors
    /// [`StoreError`] when it could not be kept.
    async fn record_operation(&self, _record: &OperationRecord) -> Result<(), StoreError> {
        Ok(())
    }

    /// Returns what operators did, the last operation first.
    ///
    /// # Errors
    /// [`StoreError`] when the records cannot be read.
    async fn operations(&self, _limit: usize) -> Result<Vec<OperationRecord>, StoreError> {
        Ok(Vec::new())
    }

    /// Returns the instances that send what is stored, for people to know. By default none is known.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    async fn instances(&self) -> Result<Vec<Instance>, StoreError> {
        Ok(Vec::new())
    }

    /// Returns its place for people to read: a folder, a database.
    fn location(&self) -> String;

    /// Returns its admission control, for [`Capabilities::admission`](crate::messenger::Capabilities::admission).
    fn admission(&self) -> Option<Admission> {
        None
    }

    /// Closes the store. Later operations fail with [`StoreError::Closed`].
    async fn close(&self) {}
}
