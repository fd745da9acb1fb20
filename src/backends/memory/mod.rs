//! A queue in memory, for tests and experiments.

mod state;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

pub use self::state::DeadLetter;
use self::state::{CAPACITY, Held, NAME, QueueInner, Request};
use crate::message::{FailedAttempt, Message, Settlement};
use crate::messenger::{Failure, Messenger, Unsent};
use crate::reply::{Reply, ReplyTo, RequestError, Requester};
use crate::source::delivery::Delivery;
use crate::source::{Settle, Source, SourceError, Unsettled};
use crate::telemetry;
use crate::util::deadline;

/// A queue in memory that is both a [`Messenger`] and a [`Source`]: sent messages are received from it. As a [`Requester`] it sends
/// requests, to which the consumers of the queue reply.
///
/// It settles messages like a broker: retries after their delay, dead letters with their reason. It holds up
/// to 100,000 messages, and rejects more. It does not survive the process. A clone is a handle to the same queue, of which each is closed by
/// itself: when a consumer has stopped, another one with a clone goes on.
pub struct Memory {
    queue: Arc<QueueInner>,
    closed: AtomicBool,
}

impl Default for Memory {
    fn default() -> Self {
        Self::of(Arc::default())
    }
}

impl Clone for Memory {
    fn clone(&self) -> Self {
        Self::of(Arc::clone(&self.queue))
    }
}

impl Memory {
    /// Makes an empty queue.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn of(queue: Arc<QueueInner>) -> Self {
        Self { queue, closed: AtomicBool::new(false) }
    }

    /// Returns the dead letters, oldest first.
    #[must_use]
    pub fn dead_letters(&self) -> Vec<DeadLetter> {
        self.queue.lock().dead.clone()
    }

    /// Requeues all dead letters without their attempts; returns their number.
    pub fn requeue_dead_letters(&self) -> usize {
        let requeued = {
            let mut state = self.queue.lock();
            let dead = std::mem::take(&mut state.dead);
            let requeued = dead.len();
            state.ready.extend(dead.into_iter().map(|dead| Held::new(dead.message)));
            requeued
        };
        self.queue.changed.notify_waiters();
        requeued
    }

    /// Returns the number of messages that wait or are being handled.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queue.lock().len()
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
            let idle = self.queue.idle.notified();
            tokio::pin!(idle);
            idle.as_mut().enable();
            if self.is_empty() {
                return;
            }
            idle.await;
        }
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").field("len", &self.len()).finish_non_exhaustive()
    }
}

#[async_trait]
impl Messenger for Memory {
    async fn send(&self, batch: Vec<Message>) -> Result<(), Unsent> {
        let refused = {
            let mut state = self.queue.lock();
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
        self.queue.changed.notify_waiters();
        Ok(())
    }
}

#[async_trait]
impl Source for Memory {
    async fn receive(&self, limit: usize) -> Result<Vec<Unsettled>, SourceError> {
        let _receiver = Receiver::new(&self.queue);
        loop {
            let changed = self.queue.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let next = {
                if self.closed.load(Ordering::SeqCst) {
                    return Err(SourceError::Closed);
                }
                let mut state = self.queue.lock();
                state.closed = false;
                let next = state.wake();
                let count = state.ready.len().min(limit);
                let taken = state.ready.drain(..count);
                let given: Vec<_> =
                    taken.filter(|held| !held.is_expired()).map(|held| self.give(held)).collect();
                state.out += given.len();
                self.queue.unlock(state);
                if count > given.len() {
                    telemetry::expired_requests(count - given.len(), NAME);
                }
                if !given.is_empty() {
                    return Ok(given);
                }
                if count > 0 {
                    continue;
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

    /// Stops receiving by this handle; messages can still be sent, and received by other handles.
    async fn close(&self, _: Duration) {
        self.closed.store(true, Ordering::SeqCst);
        let mut state = self.queue.lock();
        if state.receivers == 0 && state.out == 0 {
            // Nobody replies any more, unless another consumer begins.
            state.closed = true;
            state.ready.retain(|held| held.request.is_none());
            state.waiting.retain(|(_, held)| held.request.is_none());
        }
        self.queue.unlock(state);
        self.queue.changed.notify_waiters();
    }

    async fn backlog(&self) -> Option<u64> {
        Some(self.queue.lock().ready.len() as u64)
    }

    fn name(&self) -> Arc<str> {
        Arc::clone(&self.queue.name)
    }
}

/// A call of `receive`.
struct Receiver<'a>(&'a QueueInner);

impl<'a> Receiver<'a> {
    fn new(queue: &'a QueueInner) -> Self {
        queue.lock().receivers += 1;
        Self(queue)
    }
}

impl Drop for Receiver<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.receivers -= 1;
        if state.receivers == 0 {
            state.received = Some(Instant::now());
        }
    }
}

#[async_trait]
impl Requester for Memory {
    async fn request(&self, message: Message) -> Result<Reply, RequestError> {
        let wait = message.expiry().unwrap_or(deadline::FOR_EVER);
        let now = Instant::now();
        let deadline = deadline::after(now, wait);
        let (caller, reply) = oneshot::channel();
        {
            let mut state = self.queue.lock();
            if !state.has_responder(now) {
                return Err(RequestError::NoResponder);
            }
            if state.len() + state.dead.len() >= CAPACITY {
                return Err(RequestError::unavailable(format!(
                    "the queue holds {CAPACITY} messages and is full"
                )));
            }
            let request = Some(Request { deadline, caller: Some(caller) });
            state.ready.push_back(Held { request, ..Held::new(message) });
        }
        self.queue.changed.notify_waiters();
        let mut call = Call { queue: &self.queue, ended: false };
        let reply = reply.await;
        call.ended = true;
        // A responder drops a request at the deadline, which may be sooner than the caller does.
        reply.map_err(|_| match deadline <= Instant::now() {
            true => RequestError::NoReply(wait),
            false => RequestError::unavailable("the request was given up; see the log of its responder"),
        })
    }
}

/// A request whose caller waits.
struct Call<'a> {
    queue: &'a QueueInner,
    ended: bool,
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if !self.ended {
            let mut state = self.queue.lock();
            state.abandoned += 1;
            let swept = state.sweep();
            self.queue.unlock(state);
            if swept > 0 {
                telemetry::expired_requests(swept, NAME);
            }
        }
    }
}

impl Memory {
    fn give(&self, held: Held) -> Unsettled {
        let Held { message, redelivered, failures, request } = held;
        let attempt = u32::try_from(failures.len()).map_or(u32::MAX, |failed| failed + 1);
        let mut delivery = Delivery::new(message, attempt, redelivered, self.name(), failures);
        if let Some(request) = &request {
            delivery.set_reply_to(ReplyTo::new(self.name()).with_deadline(request.deadline));
        }
        let out = Out {
            queue: Arc::downgrade(&self.queue),
            delivery: delivery.clone(),
            request,
            is_settled: false,
        };
        Unsettled::of(delivery, out)
    }
}

/// An unsettled message. It is released when this is dropped.
struct Out {
    queue: Weak<QueueInner>,
    delivery: Delivery,
    request: Option<Request>,
    is_settled: bool,
}

impl Out {
    fn answer(&mut self, settlement: Settlement) {
        if std::mem::replace(&mut self.is_settled, true) {
            return;
        }
        let Some(queue) = self.queue.upgrade() else { return };
        let mut state = queue.lock();
        state.out -= 1;
        let message = || self.delivery.message().clone();
        let failures = |reason| {
            let failed = FailedAttempt::new(SystemTime::now(), reason);
            self.delivery.failures().iter().cloned().chain([failed]).collect()
        };
        match settlement {
            Settlement::Ack | Settlement::Discard => return queue.unlock(state),
            Settlement::Release => {
                let (failures, request) = (self.delivery.failures().to_vec(), self.request.take());
                state.ready.push_front(Held { message: message(), redelivered: true, failures, request });
            }
            Settlement::Retry { after, reason } => {
                let (failures, request) = (failures(reason), self.request.take());
                let held = Held { message: message(), redelivered: true, failures, request };
                state.waiting.push((deadline::after(Instant::now(), after), held));
            }
            Settlement::Reject { reason } => {
                state.dead.push(DeadLetter { message: message(), failures: failures(reason) });
            }
        }
        queue.unlock(state);
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

    async fn reply(&mut self, reply: Reply) -> Result<(), SourceError> {
        let caller = self.request.as_mut().and_then(|request| request.caller.take());
        if caller.is_none_or(|caller| caller.send(reply).is_err()) {
            telemetry::late_reply(NAME);
        }
        Ok(())
    }
}
