//! The contract of what receives messages.

#[cfg(feature = "admin")]
#[cfg_attr(not(feature = "cli"), allow(dead_code, reason = "only the command line uses all of it"))]
pub(crate) mod dead_letters;
pub(crate) mod delivery;
mod error;
mod unsettled;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

pub use self::delivery::{Delivery, MessageId, NoDelivery};
pub use self::error::SourceError;
pub use self::unsettled::{Settle, Unsettled};

/// Receives messages from a queue, an address or a store, for a [`Consumer`](crate::consumer::Consumer).
///
/// # Contract
/// - **Every message is settled once**: [`ack`](Unsettled::ack), [`retry`](Unsettled::retry) or [`reject`](Unsettled::reject).
///   Dropping it unsettled releases it: it is delivered again.
/// - **At least once.** Messages that are unsettled when the process or the connection ends are delivered again.
/// - **A message that waits for its retry does not delay others**, also when all delivered messages wait.
/// - **Unreadable messages are delivered too**, as [poison](Unsettled::poison), so that each ends as one dead letter.
/// - **The source repairs a lost connection.** `receive` waits meanwhile; it fails only with a fault that a person may have to
///   mend, or when the source is closed. Messages fetched over the lost connection are delivered again.
/// - **Bounded**: it fetches a limited number of messages ahead.
#[async_trait]
pub trait Source: Send + Sync + 'static {
    /// Waits for messages; returns at least one and at most `limit` of them, in order.
    ///
    /// # Errors
    /// [`SourceError`]. After all but [`SourceError::Closed`] it may be called again, at once: it paces itself.
    ///
    /// # Cancel safety
    /// Dropping the future delivers nothing and loses nothing.
    async fn receive(&self, limit: usize) -> Result<Vec<Unsettled>, SourceError>;

    /// Stops fetching until `receive` is called again, and releases messages fetched ahead.
    ///
    /// By default nothing is fetched ahead.
    async fn pause(&self) {}

    /// Closes the source: releases messages fetched ahead, and waits at most `deadline` until settlements are sent. Later
    /// calls of `receive` fail.
    async fn close(&self, deadline: Duration) {
        let _ = deadline;
    }

    /// Returns how many messages wait to be received, for people to know; `None`, the default, if that is not known. It may ask the broker.
    async fn backlog(&self) -> Option<u64> {
        None
    }

    /// Returns its name for people to read: a queue, an address, a folder.
    fn name(&self) -> Arc<str>;
}

#[async_trait]
impl<S: Source + ?Sized> Source for Arc<S> {
    async fn receive(&self, limit: usize) -> Result<Vec<Unsettled>, SourceError> {
        (**self).receive(limit).await
    }

    async fn pause(&self) {
        (**self).pause().await;
    }

    async fn close(&self, deadline: Duration) {
        (**self).close(deadline).await;
    }

    async fn backlog(&self) -> Option<u64> {
        (**self).backlog().await
    }

    fn name(&self) -> Arc<str> {
        (**self).name()
    }
}
