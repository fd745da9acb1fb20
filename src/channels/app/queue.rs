//! A queue as a messenger and a source.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::message;
use super::sender::{ChannelMessenger, SendPattern};
use crate::channels::engine::Engine;
use crate::channels::error::EngineError;
use crate::channels::info::ChannelKind;
use crate::channels::name::ChannelName;
use crate::channels::queue_types::{
    Policy, QueueDelivery, QueueMessage, Receipt, Receive, Settle as Settled, Which,
};
use crate::message::{FailedAttempt, Message, Settlement};
use crate::messenger::{Health, Messenger, Unsent};
use crate::source::{Settle, Source, SourceError, Unsettled};
use crate::util::error::BoxError;

/// How long one call waits at the engine.
const WAIT: Duration = Duration::from_secs(60 * 60);

/// A queue: a [`Messenger`] that sends to it, and a [`Source`] that receives from it. A clone is a handle to the same queue.
///
/// - A message that is retried waits as a new message of the queue, with its attempts and their reasons.
/// - A message that is rejected goes to the dead-letter queue, with its reasons: the one of its policy, or else
///   [`with_dead_letter`](Self::with_dead_letter).
///
/// [`engine`](super::Channels::engine) has the other operations of queues: peek, purge, and settling by hand.
#[derive(Clone)]
pub struct ChannelQueue {
    engine: Arc<dyn Engine>,
    messenger: ChannelMessenger,
    name: ChannelName,
    dead_letter: Option<ChannelName>,
    visibility: Option<Duration>,
    /// Cancelled when the source is closed.
    closed: CancellationToken,
}

impl ChannelQueue {
    pub(super) fn new(engine: Arc<dyn Engine>, name: ChannelName) -> Self {
        let dead_letter = ChannelName::new(format!("{name}.dead")).ok();
        let messenger = ChannelMessenger::new(Arc::clone(&engine), SendPattern::Queue, Some(name.clone()));
        Self { engine, messenger, name, dead_letter, visibility: None, closed: CancellationToken::new() }
    }

    /// Sets the dead-letter queue; by default the name of the queue with `.dead`.
    #[must_use]
    pub fn with_dead_letter(mut self, queue: ChannelName) -> Self {
        self.dead_letter = Some(queue);
        self
    }

    /// Sets how long a message may be handled before it goes to the tail of the queue; by default as long as the consumer holds it.
    /// [`Unsettled::extend`] sets it anew.
    #[must_use]
    pub fn with_visibility(mut self, visibility: Duration) -> Self {
        self.visibility = Some(visibility);
        self
    }

    /// Removes all messages that wait and are not delayed; returns how many.
    ///
    /// # Errors
    /// [`EngineError`].
    ///
    /// # Cancel safety
    /// Dropping the future leaves all of them removed or none.
    pub async fn purge(&self) -> Result<u64, EngineError> {
        self.engine.purge(&self.name).await
    }

    /// Returns messages from the head of the queue, without taking them.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn peek(&self, max: usize) -> Result<Vec<QueueDelivery>, EngineError> {
        Ok(self.engine.peek(&self.name, max, Duration::ZERO).await?.messages)
    }

    /// Sends a message with a policy: expiry, delay, and how often it may be received.
    ///
    /// # Errors
    /// [`EngineError`].
    ///
    /// # Cancel safety
    /// Dropping the future leaves the message sent or not.
    pub async fn send_with(&self, message: &Message, policy: Policy) -> Result<(), EngineError> {
        let content = message::write(message).map_err(|error| EngineError::Invalid(error.to_string()))?;
        let messages = vec![(self.name.clone(), QueueMessage { content, policy })];
        self.engine.send(messages).await.pop().unwrap_or(Err(EngineError::Closed)).map(drop)
    }

    fn give(&self, receipt: Receipt, delivery: QueueDelivery) -> Unsettled {
        // Only this crate counts attempts; before the first one a sender may have written anything.
        let has_failed = delivery.receives > 1 || delivery.rerouted_from.is_some();
        let failures = if has_failed { message::failures(&delivery.content) } else { Vec::new() };
        let read = message::read(&delivery.content, &self.name, delivery.sequence, delivery.time);
        let (attempt, redelivered) = (delivery.receives, delivery.redelivered);
        let out = Out { queue: self.clone(), receipt, delivery, failures: failures.clone() };
        match read {
            Ok(message) => Unsettled::new(message, attempt, redelivered, self.name.shared(), failures, out),
            Err(reason) => Unsettled::poison(reason.to_string(), out),
        }
    }
}

impl fmt::Debug for ChannelQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChannelQueue").field("name", &self.name).finish_non_exhaustive()
    }
}

#[async_trait]
impl Messenger for ChannelQueue {
    async fn send(&self, batch: Vec<Message>) -> Result<(), Unsent> {
        self.messenger.send(batch).await
    }

    fn check(&self, message: &Message) -> Result<(), BoxError> {
        self.messenger.check(message)
    }

    async fn health(&self) -> Health {
        self.messenger.health().await
    }

    /// Closes the channels, for all handles.
    async fn close(&self, deadline: Duration) {
        self.messenger.close(deadline).await;
    }
}

#[async_trait]
impl Source for ChannelQueue {
    async fn receive(&self, limit: usize) -> Result<Vec<Unsettled>, SourceError> {
        let receive =
            Receive { max: limit.max(1), wait: WAIT, visibility: self.visibility, ..Receive::default() };
        loop {
            let received = tokio::select! {
                biased;
                () = self.closed.cancelled() => return Err(SourceError::Closed),
                received = self.engine.receive(&self.name, receive) => received.map_err(source_error)?,
            };
            if !received.messages.is_empty() {
                let receipt = received.receipt;
                return Ok(received
                    .messages
                    .into_iter()
                    .map(|message| self.give(receipt, message))
                    .collect());
            }
        }
    }

    /// Stops receiving. Messages can still be sent.
    async fn close(&self, _: Duration) {
        self.closed.cancel();
    }

    async fn backlog(&self) -> Option<u64> {
        let info = self.engine.info(ChannelKind::Queue, &self.name).await.ok()??;
        Some(info.messages.saturating_sub(info.held))
    }

    fn name(&self) -> Arc<str> {
        self.name.shared()
    }
}

/// A message that is to be settled.
struct Out {
    queue: ChannelQueue,
    receipt: Receipt,
    delivery: QueueDelivery,
    failures: Vec<FailedAttempt>,
}

impl Out {
    /// Returns the settlement of a message that is tried again, or given up on.
    fn failed(self, after: Option<Duration>, reason: &Arc<str>) -> Settled {
        let Self { queue, delivery, mut failures, .. } = self;
        failures.push(FailedAttempt::new(SystemTime::now(), Arc::clone(reason)));
        let QueueDelivery { content, policy, receives, expires_at, rerouted_from, .. } = delivery;
        let is_last = policy.max_receives > 0 && receives >= policy.max_receives;
        match after.filter(|_| !is_last) {
            Some(delay) => {
                let content = message::with_failures(content, &failures, None);
                let left = expires_at.map(|at| at.duration_since(SystemTime::now()).unwrap_or_default());
                let expiry = left
                    .map_or(Duration::ZERO, |left| left.saturating_sub(delay).max(Duration::from_nanos(1)));
                let message = Box::new(QueueMessage { content, policy: Policy { expiry, delay, ..policy } });
                Settled::Replace { to: queue.name, message, rerouted_from, receives }
            }
            None => {
                let content = message::with_failures(content, &failures, Some(reason));
                let to = policy.dead_letter.or(queue.dead_letter).unwrap_or_else(|| queue.name.clone());
                let message = Box::new(QueueMessage { content, policy: Policy::default() });
                Settled::Replace { to, message, rerouted_from: Some(queue.name), receives: 0 }
            }
        }
    }
}

#[async_trait]
impl Settle for Out {
    async fn settle(self: Box<Self>, settlement: Settlement) -> Result<(), SourceError> {
        let (engine, receipt) = (Arc::clone(&self.queue.engine), self.receipt);
        let which = Which::Sequences(vec![self.delivery.sequence]);
        let settled = match settlement {
            Settlement::Ack | Settlement::Discard => Settled::Ack,
            Settlement::Release => Settled::Release,
            Settlement::Retry { after, reason } => self.failed(Some(after), &reason),
            Settlement::Reject { reason } => self.failed(None, &reason),
        };
        engine.settle(receipt, which, settled).await.map(drop).map_err(source_error)
    }

    async fn extend(&mut self, visibility: Duration) -> Result<(), SourceError> {
        let which = Which::Sequences(vec![self.delivery.sequence]);
        self.queue.engine.extend(self.receipt, which, visibility).await.map_err(source_error)
    }
}

pub(super) fn source_error(error: EngineError) -> SourceError {
    match error {
        EngineError::Closed => SourceError::Closed,
        error => SourceError::unavailable(error),
    }
}
