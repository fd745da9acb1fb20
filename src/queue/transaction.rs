//! The contract of the transaction of a request.

use std::any::Any;

use async_trait::async_trait;

use crate::message::Message;
use crate::messenger::Failure;

/// A transaction of one request, in the database of an outbox.
///
/// Every commit and rollback is counted and logged. Dropping it rolls back.
#[async_trait]
pub(crate) trait Transaction: Any + Send {
    /// Stores the messages in the transaction and commits it; returns how many messages are stored.
    ///
    /// # Errors
    /// The reason why nothing is committed; transient when the request may succeed the next time. When the connection was
    /// lost during the commit, everything may be committed.
    async fn commit(self: Box<Self>, messages: Vec<Message>) -> Result<usize, Failure>;

    /// Rolls back.
    async fn roll_back(self: Box<Self>, reason: &'static str);
}

/// The place of a request's transaction.
#[derive(Default)]
pub(crate) enum TransactionSlot {
    /// No transaction was begun.
    #[default]
    Empty,
    /// The transaction is begun, and no `Tx` holds it.
    Idle(Box<dyn Transaction>),
    /// A `Tx` holds the transaction, or begins it.
    InUse,
    /// The message of this request was handled before; no transaction is needed.
    AlreadyHandled,
}
