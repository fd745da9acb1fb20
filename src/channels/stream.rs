//! The contract of streams.

use std::time::Duration;

use async_trait::async_trait;

use super::content::Content;
use super::error::EngineError;
use super::name::ChannelName;
use super::stream_types::{Appended, StreamMessage, Subscribe};

/// Streams: messages are kept up to the retention of the stream, and every subscription reads them from the place it likes.
///
/// # Contract
/// - **Sequences** begin at 1 in each stream and have no gaps when they are given.
/// - **Retention** deletes the oldest messages, by age, number and bytes. A subscription that is behind continues with the
///   oldest message that is there.
/// - **Subscriptions are paced**: a slow one reads later, and loses nothing but what the retention deletes.
/// - **A durable subscription** continues after its last acknowledged message, wherever it is opened again; its
///   [`Start`](super::Start) counts the first time only.
#[async_trait]
pub trait Streams: Send + Sync + 'static {
    /// Appends messages, each to its own stream; returns a result for each, in their order.
    ///
    /// # Cancel safety
    /// Dropping the future leaves each message appended or not.
    async fn append(&self, messages: Vec<(ChannelName, Content)>) -> Vec<Result<Appended, EngineError>>;

    /// Opens a subscription. Dropping it ends it; what it had not acknowledged goes to the other members of its group, or
    /// comes again when a durable one is opened again.
    ///
    /// # Errors
    /// [`EngineError::InUse`], [`EngineError::Invalid`].
    ///
    /// # Cancel safety
    /// It may be dropped at any time.
    async fn subscribe_stream(
        &self,
        channel: &ChannelName,
        subscribe: Subscribe,
    ) -> Result<Box<dyn StreamSubscription>, EngineError>;
}

/// A subscription of a stream.
///
/// Up to 1,024 messages may be received and not acknowledged; then `receive` waits.
#[async_trait]
pub trait StreamSubscription: Send + Sync + 'static {
    /// Waits for messages; returns at least one and at most `max` of them, in order. Released messages come first. Messages of
    /// more than 64 MiB are not read at once: it returns fewer then.
    ///
    /// # Errors
    /// [`EngineError::Closed`]; [`EngineError::Unavailable`] when the stream cannot be read now.
    ///
    /// # Cancel safety
    /// Dropping the future delivers nothing.
    async fn receive(&self, max: usize) -> Result<Vec<StreamMessage>, EngineError>;

    /// Acknowledges a message; returns once that is stored, if the subscription is durable. A message that is not
    /// outstanding is none of its business.
    ///
    /// # Errors
    /// [`EngineError`]: the message may come again.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the message acknowledged or not.
    async fn ack(&self, sequence: u64) -> Result<(), EngineError>;

    /// Acknowledges a message without waiting until that is stored.
    fn ack_soon(&self, sequence: u64);

    /// Hands a message back, which is delivered again after `after`, to this member of the group or another one. `counts` says
    /// whether the delivery counts as an attempt.
    fn release(&self, sequence: u64, after: Duration, counts: bool);
}
