//! Why an operation of a store failed.

use crate::message::Message;
use crate::util::error::{BoxError, debug_as_display};

/// Why an operation of a store failed.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A limit is reached.
    #[error(
        "the outbox is full: {what}; messages leave it when the broker confirms them, dead letters when they are requeued or dropped"
    )]
    Full {
        /// The limit.
        what: String,
    },
    /// The store is closed.
    #[error("the outbox is closed")]
    Closed,
    /// The store cannot be used now: no space, no connection.
    #[error("the outbox cannot be used now")]
    Unavailable(#[source] BoxError),
}

debug_as_display!(StoreError);

impl StoreError {
    /// For implementors of a store.
    pub fn unavailable(cause: impl Into<BoxError>) -> Self {
        Self::Unavailable(cause.into())
    }
}

/// A batch that could not be stored, with the reason.
#[derive(thiserror::Error)]
#[error("{} messages are not stored", batch.len())]
#[non_exhaustive]
pub struct Unstored {
    /// The reason.
    pub source: StoreError,
    /// The batch.
    pub batch: Vec<Message>,
}

debug_as_display!(Unstored);

impl Unstored {
    /// For implementors of a store.
    #[must_use]
    pub fn new(source: StoreError, batch: Vec<Message>) -> Self {
        Self { source, batch }
    }
}
