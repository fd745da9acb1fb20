//! A queue in memory, for tests and experiments.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::message::{FailedAttempt, Message, Settlement};
use crate::messenger::{Failure, Messenger, Unsent};
use crate::source::{Settle, Source, SourceError, Unsettled};
use crate::util::deadline;

/// The largest number of messages.
const CAPACITY: usize = 100_000;

/// A queue in memory that is both a [`Messenger`] and a [`Source`]: sent messages are received from it.
///
/// It settles messages like a broker: retries after their delay, dead letters with their reason. It holds up
/// to 100,000 messages, and rejects more. It does not survive the process. A clone is a handle to the same queue.
#[derive(Clone, Default)]
pub struct Memory(Arc<QueueInner>);

#[derive(Default)]
struct QueueInner {
    state: Mutex<QueueState>,
    changed: Notify,
}

#[derive(Default)]
struct QueueState {
    ready: VecDeque<Held>,
    /// Delayed messages, with the time they are due.
    waiting: Vec<(Instant, Held)>,
    dead: Vec<DeadLetter>,
    /// The number of unsettled messages.
    out: usize,
    /// Whether the source is closed.
    closed: bool,
}

struct Held {
    message: Message,
    redelivered: bool,
    failures: Vec<FailedAttempt>,
}

/// A message that was rejected.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DeadLetter {
    /// The message.
    pub message: Message,
    /// Its failed attempts, oldest first; the last has the reason of the rejection.
    pub failures: Vec<FailedAttempt>,
}

impl Memory {
    /// Makes an empty queue.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the dead letters, oldest first.
    #[must_use]
    pub fn dead_letters(&self) -> Vec<DeadLetter> {
        self.0.lock().dead.clone()
    }

    /// Requeues all dead letters without their attempts; returns their number.
    pub fn requeue_dead_letters(&self) -> usize {
        let requeued = {
            let mut state = self.0.lock();
            let dead = std::mem::take(&mut state.dead);
            let requeued = dead.len();
            state.ready.extend(dead.into_iter().map(|dead| Held::new(dead.message)));
            requeued
        };
        self.0.changed.notify_waiters();
        requeued
    }

    /// Returns the number of messages that wait or are being handled.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.lock().len()
    }

    /// Whether every message was handled, or is a dead letter.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits until every message was handled, or is a dead letter.
    ///
    /// # Cancel safety
    /// It may be dropped at any time.
    pub async fn wait_idle(&self) {
        loop {
            let changed = self.0.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.is_empty() {
                return;
            }
            changed.await;
        }
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl QueueInner {
    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl QueueState {
    fn len(&self) -> usize {
        self.ready.len() + self.waiting.len() + self.out
    }

    /// Makes due messages ready; returns when the next one is due.
    fn wake(&mut self) -> Option<Instant> {
        let now = Instant::now();
        self.waiting.sort_by_key(|(due, _)| *due);
        let due = self.waiting.partition_point(|(due, _)| *due <= now);
        self.ready.extend(self.waiting.drain(..due).map(|(_, held)| held));
        self.waiting.first().map(|(due, _)| *due)
    }
}

impl Held {
    fn new(message: Message) -> Self {
        Self { message, redelivered: false, failures: Vec::new() }
    }
}

#[async_trait]
impl Messenger for Memory {
    async fn send(&self, batch: Vec<Message>) -> Result<(), Unsent> {
        let refused = {
            let mut state = self.0.lock();
            if state.len() + state.dead.len() + batch.len() > CAPACITY {
                Some(format!("the queue holds {CAPACITY} messages and is full"))
            } else {
                let now = Instant::now();
                for message in &batch {
                    let held = Held::new(message.clone());
                    match message.delay() {
                        Some(delay) => state.waiting.push((deadline::after(now, delay), held)),
                        None => state.ready.push_back(held),
                    }
                }
                None
            }
        };
        if let Some(reason) = refused {
            return Err(Unsent::new(batch, &Failure::transient(reason)));
        }
        self.0.changed.notify_waiters();
        Ok(())
    }
}

#[async_trait]
impl Source for Memory {
    async fn receive(&self, limit: usize) -> Result<Vec<Unsettled>, SourceError> {
        loop {
            let changed = self.0.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let next = {
                let mut state = self.0.lock();
                if state.closed {
                    return Err(SourceError::Closed);
                }
                let next = state.wake();
                if !state.ready.is_empty() {
                    let count = state.ready.len().min(limit);
                    state.out += count;
                    let given: Vec<_> = state.ready.drain(..count).collect();
                    drop(state);
                    return Ok(given.into_iter().map(|held| self.give(held)).collect());
                }
                next
            };
            match next {
                None => changed.await,
                Some(due) => {
                    tokio::select! {
                        () = changed => {}
                        () = sleep_until(due) => {}
                    }
                }
            }
        }
    }

    /// Stops receiving; messages can still be sent.
    async fn close(&self, _: Duration) {
        self.0.lock().closed = true;
        self.0.changed.notify_waiters();
    }

    fn name(&self) -> Arc<str> {
        "memory".into()
    }
}

impl Memory {
    fn give(&self, held: Held) -> Unsettled {
        let Held { message, redelivered, failures } = &held;
        let (message, failures, redelivered) = (message.clone(), failures.clone(), *redelivered);
        let attempt = u32::try_from(failures.len()).map_or(u32::MAX, |failed| failed + 1);
        let out = Out { queue: Arc::downgrade(&self.0), held: Some(held) };
        Unsettled::new(message, attempt, redelivered, self.name(), failures, out)
    }
}

/// An unsettled message. It is released when this is dropped.
struct Out {
    queue: Weak<QueueInner>,
    held: Option<Held>,
}

impl Out {
    fn answer(&mut self, settlement: Settlement) {
        let (Some(queue), Some(mut held)) = (self.queue.upgrade(), self.held.take()) else { return };
        {
            let mut state = queue.lock();
            state.out -= 1;
            held.redelivered = true;
            match settlement {
                Settlement::Ack | Settlement::Discard => {}
                Settlement::Release => state.ready.push_front(held),
                Settlement::Retry { after, reason } => {
                    held.failures.push(FailedAttempt::new(SystemTime::now(), reason));
                    state.waiting.push((deadline::after(Instant::now(), after), held));
                }
                Settlement::Reject { reason } => {
                    let Held { message, mut failures, .. } = held;
                    failures.push(FailedAttempt::new(SystemTime::now(), reason));
                    state.dead.push(DeadLetter { message, failures });
                }
            }
        }
        queue.changed.notify_waiters();
    }
}

impl Drop for Out {
    fn drop(&mut self) {
        self.answer(Settlement::Release);
    }
}

#[async_trait]
impl Settle for Out {
    async fn settle(mut self: Box<Self>, settlement: Settlement) -> Result<(), SourceError> {
        self.answer(settlement);
        Ok(())
    }
}
