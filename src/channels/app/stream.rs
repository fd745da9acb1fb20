//! A stream as a messenger and a source.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::message;
use super::queue::source_error;
use super::sender::{ChannelMessenger, SendPattern};
use crate::channels::content::Content;
use crate::channels::engine::Engine;
use crate::channels::name::ChannelName;
use crate::channels::queue_types::{Policy, QueueMessage};
use crate::channels::stream::StreamSubscription;
use crate::channels::stream_types::{Start, StreamMessage, Subscribe};
use crate::message::{FailedAttempt, Message, Settlement};
use crate::messenger::{Health, Messenger, Unsent};
use crate::source::{Settle, Source, SourceError, Unsettled};
use crate::util::error::BoxError;
use crate::util::sync::lock;

/// A stream: a [`Messenger`] that appends to it, and a [`Source`] that reads from it.
///
/// The source subscribes when it receives for the first time. A message that is retried stays outstanding meanwhile; later ones go
/// on. A message that is rejected goes to a queue, by default the name of the stream with `.dead`, and counts as acknowledged.
/// A clone is a handle to the same subscription.
#[derive(Clone)]
pub struct ChannelStream {
    engine: Arc<dyn Engine>,
    messenger: ChannelMessenger,
    name: ChannelName,
    dead_letter: Option<ChannelName>,
    subscribe: Subscribe,
    open: Arc<tokio::sync::Mutex<Option<Arc<OpenStream>>>>,
    /// Cancelled when the source is closed.
    closed: CancellationToken,
}

/// The subscription of a source.
struct OpenStream {
    subscription: Box<dyn StreamSubscription>,
    /// The failed attempts of the messages that are outstanding.
    failures: Mutex<HashMap<u64, Vec<FailedAttempt>>>,
}

impl ChannelStream {
    pub(super) fn new(engine: Arc<dyn Engine>, name: ChannelName) -> Self {
        let messenger = ChannelMessenger::new(Arc::clone(&engine), SendPattern::Stream, Some(name.clone()));
        let dead_letter = ChannelName::new(format!("{name}.dead")).ok();
        let (subscribe, open, closed) = (Subscribe::default(), Arc::default(), CancellationToken::new());
        Self { engine, messenger, name, dead_letter, subscribe, open, closed }
    }

    /// Sets the first message; by default the next one that is appended.
    #[must_use]
    pub fn from(mut self, start: Start) -> Self {
        self.subscribe.start = start;
        self
    }

    /// Keeps the place in the stream under this name, over restarts. One source at a time can use a name, unless it has a group.
    #[must_use]
    pub fn durable(mut self, name: impl Into<String>) -> Self {
        self.subscribe.durable = Some(name.into());
        self
    }

    /// Sets the group: each message goes to one of its members.
    #[must_use]
    pub fn group(mut self, group: impl Into<String>) -> Self {
        self.subscribe.group = Some(group.into());
        self
    }

    /// Sets the queue of rejected messages.
    #[must_use]
    pub fn with_dead_letter(mut self, queue: ChannelName) -> Self {
        self.dead_letter = Some(queue);
        self
    }

    async fn open(&self) -> Result<Arc<OpenStream>, SourceError> {
        let mut open = self.open.lock().await;
        if let Some(open) = &*open {
            return Ok(Arc::clone(open));
        }
        let subscribed = self.engine.subscribe_stream(&self.name, self.subscribe.clone()).await;
        let subscription = subscribed.map_err(source_error)?;
        let opened = Arc::new(OpenStream { subscription, failures: Mutex::default() });
        *open = Some(Arc::clone(&opened));
        Ok(opened)
    }

    fn give(&self, open: &Arc<OpenStream>, received: StreamMessage) -> Unsettled {
        let StreamMessage { content, sequence, time, attempt } = received;
        let failures = lock(&open.failures).get(&sequence).cloned().unwrap_or_default();
        let read = message::read(&content, &self.name, sequence, time);
        let out = OutOfStream { stream: self.clone(), open: Arc::clone(open), sequence, content };
        match read {
            Ok(message) => Unsettled::new(message, attempt, attempt > 1, self.name.shared(), failures, out),
            Err(reason) => Unsettled::poison(reason.to_string(), out),
        }
    }
}

impl fmt::Debug for ChannelStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChannelStream")
            .field("name", &self.name)
            .field("subscribe", &self.subscribe)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Messenger for ChannelStream {
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
impl Source for ChannelStream {
    async fn receive(&self, limit: usize) -> Result<Vec<Unsettled>, SourceError> {
        let receiving = async {
            let open = self.open().await?;
            let messages = open.subscription.receive(limit).await.map_err(source_error)?;
            Ok(messages.into_iter().map(|message| self.give(&open, message)).collect())
        };
        tokio::select! {
            biased;
            () = self.closed.cancelled() => Err(SourceError::Closed),
            received = receiving => received,
        }
    }

    /// Ends the subscription. Messages can still be appended.
    async fn close(&self, _: Duration) {
        self.closed.cancel();
        *self.open.lock().await = None;
    }

    fn name(&self) -> Arc<str> {
        self.name.shared()
    }
}

/// A message of a stream that is to be settled.
struct OutOfStream {
    stream: ChannelStream,
    open: Arc<OpenStream>,
    sequence: u64,
    content: Content,
}

#[async_trait]
impl Settle for OutOfStream {
    async fn settle(self: Box<Self>, settlement: Settlement) -> Result<(), SourceError> {
        let Self { stream, open, sequence, content } = *self;
        match settlement {
            Settlement::Ack | Settlement::Discard => {}
            Settlement::Release => {
                open.subscription.release(sequence, Duration::ZERO, false);
                return Ok(());
            }
            Settlement::Retry { after, reason } => {
                let failure = FailedAttempt::new(SystemTime::now(), reason);
                lock(&open.failures).entry(sequence).or_default().push(failure);
                open.subscription.release(sequence, after, true);
                return Ok(());
            }
            Settlement::Reject { reason } => {
                let mut failures = lock(&open.failures).get(&sequence).cloned().unwrap_or_default();
                failures.push(FailedAttempt::new(SystemTime::now(), Arc::clone(&reason)));
                let sent = dead_letter(&stream.engine, stream.dead_letter, content, &failures, &reason).await;
                if let Err(error) = sent {
                    open.subscription.release(sequence, Duration::from_secs(1), false);
                    return Err(error);
                }
            }
        }
        lock(&open.failures).remove(&sequence);
        open.subscription.ack(sequence).await.map_err(source_error)
    }
}

/// Sends what was given up on to a queue.
pub(super) async fn dead_letter(
    engine: &Arc<dyn Engine>,
    queue: Option<ChannelName>,
    content: Content,
    failures: &[FailedAttempt],
    reason: &str,
) -> Result<(), SourceError> {
    let queue = queue.ok_or_else(|| SourceError::unavailable("it has no dead-letter queue: set one"))?;
    let content = message::with_failures(content, failures, Some(reason));
    let sent = engine.send(vec![(queue, QueueMessage { content, policy: Policy::default() })]).await;
    sent.into_iter().try_for_each(|sent| sent.map(drop)).map_err(source_error)
}
