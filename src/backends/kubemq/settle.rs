//! Settling a message of a queue.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};

use super::connection::Connection;
use super::dead_letters;
use super::incoming::Incoming;
use super::receiver_link::Transaction;
use super::source_context::SourceContext;
use crate::message::Settlement;
use crate::messenger::Failure;
use crate::source::{Settle, SourceError};
use crate::util::error::Chain;

/// How long a message whose dead letter could not be sent waits before it goes back.
const HOLD: Duration = Duration::from_secs(1);

/// The handle to settle a message.
pub(super) struct MessageSettler {
    pub(super) context: Arc<SourceContext>,
    pub(super) connection: Connection,
    pub(super) transaction: Transaction,
    pub(super) incoming: Incoming,
    /// The record of its failed attempts, if there were any.
    pub(super) record: Option<u64>,
    /// Whether the broker would drop the message at the next failed attempt.
    pub(super) is_last: bool,
    /// The permits for messages that wait for their next attempt.
    pub(super) delayed: Arc<Semaphore>,
    /// Its place among the fetched messages.
    pub(super) places: (OwnedSemaphorePermit, OwnedSemaphorePermit),
}

#[async_trait]
impl Settle for MessageSettler {
    /// Runs in a task of its own, to its end also if this is dropped.
    async fn settle(self: Box<Self>, settlement: Settlement) -> Result<(), SourceError> {
        let answers = self.context.answers.clone();
        let settled = answers.spawn(self.settled(settlement)).await;
        settled.unwrap_or_else(|error| Err(SourceError::unavailable(error)))
    }

    fn is_stale(&self) -> bool {
        self.transaction.is_stale()
    }
}

impl MessageSettler {
    async fn settled(mut self: Box<Self>, settlement: Settlement) -> Result<(), SourceError> {
        match settlement {
            Settlement::Ack | Settlement::Discard => {
                if self.record.is_some() {
                    self.context.attempts().forget(self.record);
                }
                settled(self.transaction.ack().await)
            }
            Settlement::Release => {
                self.context.attempts().give_back(self.record);
                settled(self.transaction.release().await)
            }
            Settlement::Retry { reason, .. } if self.is_last => {
                self.dead_letter(&format!("{reason} (its MaxReceiveCount is reached)")).await
            }
            Settlement::Retry { after, reason } => {
                self.retry(after, reason);
                Ok(())
            }
            Settlement::Reject { reason } => self.dead_letter(&reason).await,
        }
    }

    /// Keeps the message in its open transaction until it is due: a broker delivers a failed one again at once.
    fn retry(self: Box<Self>, after: Duration, reason: Arc<str>) {
        let Self { context, mut transaction, incoming, record, delayed, places, .. } = *self;
        let record = Some(context.attempts().failed(record, incoming.content(), reason));
        drop(incoming);
        let tracker = context.answers.clone();
        let (place, _bytes) = places;
        // Without a permit it keeps its place, so that fewer messages are fetched.
        let permit = delayed.try_acquire_owned().or(Ok::<_, ()>(place));
        tracker.spawn(async move {
            let _permit = permit;
            tokio::select! {
                () = sleep(after) => {}
                () = context.closed.cancelled() => {}
            }
            context.attempts().give_back(record);
            if let Err(failure) = transaction.nack().await {
                let (channel, failure) = (&context.reader.channel, Chain(failure.cause()));
                tracing::warn!(%channel, %failure, "failed to return a message for its next attempt; the broker delivers it again");
            }
        });
    }

    /// Sends the dead letter, and removes the message after that.
    async fn dead_letter(mut self: Box<Self>, reason: &str) -> Result<(), SourceError> {
        let Self { context, connection, incoming, record, .. } = &mut *self;
        let failures = context.all_failures(*record, incoming, reason);
        let letter = incoming.clone().into_dead_letter(
            &context.reader,
            (context.settings.client_id(), context.dead_letter_queue()),
            &failures,
            reason,
        );
        match dead_letters::send(connection, letter).await {
            Ok(()) => settled(self.transaction.ack().await),
            // The reason makes it too large, perhaps.
            Err(failure) if !failure.is_transient() => {
                let queue = context.dead_letter_queue().to_owned();
                let failure = Chain(failure.cause()).to_string();
                tracing::warn!(
                    queue,
                    failure,
                    "the broker rejects a dead letter with its reason; moving it without"
                );
                settled(self.transaction.move_to(&queue).await)
            }
            Err(failure) => {
                let (queue, error) = (context.dead_letter_queue(), Chain(failure.cause()).to_string());
                tracing::warn!(queue, %error, "failed to send a dead letter; the message is delivered again");
                let _ = timeout(HOLD, context.closed.cancelled()).await;
                let _ = self.transaction.release().await;
                Err(SourceError::unavailable(error))
            }
        }
    }
}

fn settled(result: Result<(), Failure>) -> Result<(), SourceError> {
    result.map_err(|failure| SourceError::unavailable(Chain(failure.cause()).to_string()))
}
