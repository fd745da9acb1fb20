//! The contract of the transaction of a request.

use std::any::Any;

use async_trait::async_trait;

use crate::message::Message;
use crate::messenger::Failure;

/// A transaction of one request, in the database in which an outbox is.
///
/// Each of its ends is counted and logged. Dropped, it is rolled back.
#[async_trait]
pub(crate) trait Transaction: Any + Send {
    /// Stores the messages in it and commits; gives how many are stored.
    ///
    /// # Errors
    /// Why nothing of it is there; transient when the request may pass the next time. When the connection was lost while
    /// it committed, all of it may be there.
    async fn commit(self: Box<Self>, messages: Vec<Message>) -> Result<usize, Failure>;

    /// Undoes all of it.
    async fn roll_back(self: Box<Self>, reason: &'static str);
}

/// Where the transaction of a request is.
#[derive(Default)]
pub(crate) enum Slot {
    /// None was begun.
    #[default]
    Unused,
    /// Nobody uses it now.
    Here(Box<dyn Transaction>),
    /// Somebody uses it, or begins it.
    Held,
    /// None is needed: the message of this request was handled before.
    Handled,
}
