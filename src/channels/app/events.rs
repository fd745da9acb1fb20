//! Events as a source.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::message;
use super::queue::source_error;
use super::stream::dead_letter;
use crate::channels::engine::Engine;
use crate::channels::event_types::{Event, EventSubscription};
use crate::channels::name::{ChannelName, Pattern};
use crate::message::{FailedAttempt, Settlement};
use crate::source::{Settle, Source, SourceError, Unsettled};
use crate::util::deadline::after;
use crate::util::sync::lock;

/// The events of the channels that match a pattern, as a [`Source`].
///
/// The source subscribes when it receives for the first time, and gets the events from then on. Events that do not fit into its
/// [`buffer`](Self::buffer) are lost and counted. An event that is retried waits in memory; one that is rejected goes to the queue
/// `CHANNEL.dead`. A clone is a handle to the same subscription.
#[derive(Clone)]
pub struct ChannelEvents {
    engine: Arc<dyn Engine>,
    pattern: Pattern,
    group: Option<String>,
    buffer: usize,
    open: Arc<tokio::sync::Mutex<Option<EventSubscription>>>,
    waiting: Arc<WaitingEvents>,
    /// Cancelled when the source is closed.
    closed: CancellationToken,
}

/// The events that are delivered again.
#[derive(Default)]
struct WaitingEvents {
    events: Mutex<(u64, DueEvents)>,
    changed: Notify,
}

/// By the time they are due, and a number.
type DueEvents = BTreeMap<(Instant, u64), Tried>;

/// An event, and its failed attempts.
#[derive(Clone)]
struct Tried {
    event: Event,
    failures: Vec<FailedAttempt>,
    is_redelivered: bool,
}

impl ChannelEvents {
    pub(super) fn new(engine: Arc<dyn Engine>, pattern: Pattern) -> Self {
        Self {
            engine,
            pattern,
            group: None,
            buffer: 0,
            open: Arc::default(),
            waiting: Arc::default(),
            closed: CancellationToken::new(),
        }
    }

    /// Sets the group: each event goes to one of its members.
    #[must_use]
    pub fn group(mut self, group: impl Into<String>) -> Self {
        self.group = Some(group.into());
        self
    }

    /// Sets how many events wait before some are lost; by default as many as the engine's settings say, 1,024.
    #[must_use]
    pub fn buffer(mut self, events: usize) -> Self {
        self.buffer = events;
        self
    }

    /// Subscribes now, so that later events are received.
    ///
    /// # Errors
    /// [`SourceError`].
    ///
    /// # Cancel safety
    /// Dropping the future leaves it subscribed or not.
    pub async fn subscribe(&self) -> Result<(), SourceError> {
        self.subscribed(&mut *self.open.lock().await).await.map(drop)
    }

    async fn subscribed<'a>(
        &self,
        open: &'a mut Option<EventSubscription>,
    ) -> Result<&'a mut EventSubscription, SourceError> {
        if open.is_none() {
            let group = self.group.as_deref();
            let subscribed = self.engine.subscribe_events(&self.pattern, group, self.buffer).await;
            *open = Some(subscribed.map_err(source_error)?);
        }
        open.as_mut().ok_or(SourceError::Closed)
    }

    fn give(&self, tried: Tried) -> Unsettled {
        let Event { channel, content, time } = &tried.event;
        let read = message::read(content, channel, 0, *time);
        let (failures, name) = (tried.failures.clone(), self.name());
        let attempt = u32::try_from(failures.len() + 1).unwrap_or(u32::MAX);
        let redelivered = tried.is_redelivered;
        let out = OutOfEvents { source: self.clone(), tried };
        match read {
            Ok(message) => Unsettled::new(message, attempt, redelivered, name, failures, out),
            Err(reason) => Unsettled::poison(reason.to_string(), out),
        }
    }

    /// Delivers an event again after a time.
    fn again(&self, tried: Tried, wait: Duration) {
        let mut events = lock(&self.waiting.events);
        events.0 += 1;
        let key = (after(Instant::now(), wait), events.0);
        events.1.insert(key, Tried { is_redelivered: true, ..tried });
        drop(events);
        self.waiting.changed.notify_one();
    }

    /// Takes an event that is due; returns when the next one is, if there is none.
    fn due(&self) -> Result<Tried, Option<Instant>> {
        let mut events = lock(&self.waiting.events);
        match events.1.first_entry() {
            Some(first) if first.key().0 <= Instant::now() => Ok(first.remove()),
            Some(first) => Err(Some(first.key().0)),
            None => Err(None),
        }
    }
}

impl fmt::Debug for ChannelEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pattern, group, .. } = self;
        f.debug_struct("ChannelEvents")
            .field("pattern", pattern)
            .field("group", group)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Source for ChannelEvents {
    async fn receive(&self, limit: usize) -> Result<Vec<Unsettled>, SourceError> {
        let receiving = async {
            let mut open = self.open.lock().await;
            let subscription = self.subscribed(&mut open).await?;
            loop {
                let next = match self.due() {
                    Ok(tried) => return Ok(vec![self.give(tried)]),
                    Err(next) => next,
                };
                let mut events = Vec::new();
                tokio::select! {
                    got = subscription.next_many(&mut events, limit.max(1)) => {
                        if got == 0 {
                            return Err(SourceError::Closed);
                        }
                        let tried = |event| Tried { event, failures: Vec::new(), is_redelivered: false };
                        return Ok(events.into_iter().map(|event| self.give(tried(event))).collect());
                    }
                    () = self.waiting.changed.notified() => {}
                    () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
                }
            }
        };
        tokio::select! {
            biased;
            () = self.closed.cancelled() => Err(SourceError::Closed),
            received = receiving => received,
        }
    }

    /// Ends the subscription.
    async fn close(&self, _: Duration) {
        self.closed.cancel();
        *self.open.lock().await = None;
    }

    fn name(&self) -> Arc<str> {
        self.pattern.as_str().into()
    }
}

/// An event that is to be settled.
struct OutOfEvents {
    source: ChannelEvents,
    tried: Tried,
}

#[async_trait]
impl Settle for OutOfEvents {
    async fn settle(self: Box<Self>, settlement: Settlement) -> Result<(), SourceError> {
        let Self { source, mut tried } = *self;
        match settlement {
            Settlement::Ack | Settlement::Discard => Ok(()),
            Settlement::Release => {
                source.again(tried, Duration::ZERO);
                Ok(())
            }
            Settlement::Retry { after, reason } => {
                tried.failures.push(FailedAttempt::new(SystemTime::now(), reason));
                source.again(tried, after);
                Ok(())
            }
            Settlement::Reject { reason } => {
                tried.failures.push(FailedAttempt::new(SystemTime::now(), Arc::clone(&reason)));
                let queue = ChannelName::new(format!("{}.dead", tried.event.channel)).ok();
                let Tried { event, failures, .. } = tried;
                dead_letter(&source.engine, queue, event.content, &failures, &reason).await
            }
        }
    }
}
