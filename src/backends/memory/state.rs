//! The content of a queue in memory.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::message::{FailedAttempt, Message};
use crate::reply::Reply;

pub(super) const NAME: &str = "memory";

/// The largest number of messages.
pub(super) const CAPACITY: usize = 100_000;

/// How long a queue has no receiver before its requests are refused: a consumer that starts or restarts takes less.
const NO_RESPONDER: Duration = Duration::from_secs(1);

pub(super) struct QueueInner {
    pub(super) name: Arc<str>,
    pub(super) state: Mutex<QueueState>,
    /// Notified when there may be something to receive.
    pub(super) changed: Notify,
    /// Notified when nothing waits and nothing is being handled.
    pub(super) idle: Notify,
}

impl Default for QueueInner {
    fn default() -> Self {
        Self {
            name: NAME.into(),
            state: Mutex::default(),
            changed: Notify::default(),
            idle: Notify::default(),
        }
    }
}

#[derive(Default)]
pub(super) struct QueueState {
    pub(super) ready: VecDeque<Held>,
    /// Delayed messages, with the time they are due.
    pub(super) waiting: Vec<(Instant, Held)>,
    pub(super) dead: Vec<DeadLetter>,
    /// The number of unsettled messages.
    pub(super) out: usize,
    /// Whether the last receiver is closed, and none has begun since.
    pub(super) closed: bool,
    /// How many receivers wait for messages, and when the last one stopped waiting.
    pub(super) receivers: usize,
    pub(super) received: Option<Instant>,
    /// How many callers gave up since their requests were last swept.
    pub(super) abandoned: usize,
}

pub(super) struct Held {
    pub(super) message: Message,
    pub(super) redelivered: bool,
    pub(super) failures: Vec<FailedAttempt>,
    pub(super) request: Option<Request>,
}

/// The caller of a request.
pub(super) struct Request {
    pub(super) deadline: Instant,
    /// `None` once it has a reply.
    pub(super) caller: Option<oneshot::Sender<Reply>>,
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

impl QueueInner {
    pub(super) fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Releases the lock after messages were removed.
    pub(super) fn unlock(&self, state: MutexGuard<'_, QueueState>) {
        let is_idle = state.len() == 0;
        drop(state);
        if is_idle {
            self.idle.notify_waiters();
        }
    }
}

impl QueueState {
    pub(super) fn len(&self) -> usize {
        self.ready.len() + self.waiting.len() + self.out
    }

    /// Whether somebody may receive requests.
    pub(super) fn has_responder(&mut self, now: Instant) -> bool {
        let received = *self.received.get_or_insert(now);
        !self.closed && (self.receivers > 0 || self.out > 0 || now - received < NO_RESPONDER)
    }

    /// Removes the requests whose callers gave up, when they are the larger part of the queue; returns how many it removed.
    pub(super) fn sweep(&mut self) -> usize {
        let before = self.len();
        if self.abandoned * 2 > before - self.out {
            self.abandoned = 0;
            self.ready.retain(|held| !held.is_expired());
            self.waiting.retain(|(_, held)| !held.is_expired());
        }
        before - self.len()
    }

    /// Makes due messages ready; returns when the next one is due.
    pub(super) fn wake(&mut self) -> Option<Instant> {
        if self.waiting.is_empty() {
            return None;
        }
        let now = Instant::now();
        self.waiting.sort_by_key(|(due, _)| *due);
        let due = self.waiting.partition_point(|(due, _)| *due <= now);
        self.ready.extend(self.waiting.drain(..due).map(|(_, held)| held));
        self.waiting.first().map(|(due, _)| *due)
    }
}

impl Held {
    pub(super) fn new(message: Message) -> Self {
        Self { message, redelivered: false, failures: Vec::new(), request: None }
    }

    /// Whether it is a request whose caller no longer waits.
    pub(super) fn is_expired(&self) -> bool {
        self.request
            .as_ref()
            .is_some_and(|request| request.caller.as_ref().is_none_or(oneshot::Sender::is_closed))
    }
}
