//! The output of a router: the messages of a queue, and last values.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::Notify;

use super::error::RouteError;
use super::message::RoutedMessage;
use super::queue::{Outcome, Queue, Taken};
use super::record::{QueueId, Record};
use super::router_shared::RouterShared;
use crate::message::FailedAttempt;
use crate::telemetry;
use crate::util::sync::lock;

/// The number of last values that are read at once.
const VALUES: usize = 64;

/// A subscription to the queue of a subscriber. Dropping it hands its unsettled messages to the next subscription.
#[derive(Debug)]
pub struct Subscription {
    router: Arc<RouterShared>,
    queue: QueueId,
    subscriber: u64,
    changed: Arc<Notify>,
}

/// A message that must be settled.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Leased {
    /// The number of the message in this router.
    pub seq: u64,
    /// The number of failed attempts since the start of the router.
    pub attempts: u32,
    /// The last of them, oldest first.
    pub failures: Vec<FailedAttempt>,
    /// Whether the message may have been handed out before.
    pub redelivered: bool,
    /// The message; the last of its drops is that of this queue.
    pub message: RoutedMessage,
}

impl Subscription {
    pub(super) fn new(router: Arc<RouterShared>, queue: QueueId, subscriber: u64) -> Self {
        let changed = lock(&router.state).queue(queue).map(|queue| Arc::clone(queue.changed()));
        Self { router, queue, subscriber, changed: changed.unwrap_or_default() }
    }

    pub(super) fn queue(&self) -> QueueId {
        self.queue
    }

    /// Waits for messages; returns at least one and at most `limit` of them, in order.
    ///
    /// # Errors
    /// [`RouteError::Unsubscribed`], when another subscription has the queue, or it was removed.
    ///
    /// # Cancel safety
    /// Dropping the future hands out nothing and loses nothing.
    pub async fn lease(&self, limit: usize) -> Result<Vec<Leased>, RouteError> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let taken = {
                let mut state = lock(&self.router.state);
                let queue = state.queue_mut(self.queue).filter(|queue| queue.is_subscriber(self.subscriber));
                queue.ok_or(RouteError::Unsubscribed)?.take(limit.max(1), Instant::now())
            };
            match taken {
                Ok(taken) => {
                    let mut returning =
                        Returning { subscription: self, seqs: taken.iter().map(|it| it.seq).collect() };
                    let leased = self.read(taken).await;
                    returning.seqs.clear();
                    if !leased.is_empty() {
                        return Ok(leased);
                    }
                }
                Err(None) => changed.await,
                Err(Some(due)) => {
                    tokio::select! {
                        () = changed => {}
                        () = tokio::time::sleep_until(due.into()) => {}
                    }
                }
            }
        }
    }

    async fn read(&self, taken: Vec<Taken>) -> Vec<Leased> {
        let messages = read(&self.router, taken.iter().map(|taken| taken.seq).collect()).await;
        let leased = taken.into_iter().zip(messages).filter_map(|(taken, message)| {
            let mut message = message?;
            message.drops.push(i64::try_from(taken.drops).unwrap_or(i64::MAX));
            let Taken { seq, attempts, failures, redelivered, .. } = taken;
            Some(Leased { seq, attempts, failures, redelivered, message })
        });
        leased.collect()
    }

    /// Removes messages from the queue. A crash within the next tenth of a second may bring them back.
    pub fn ack(&self, seqs: &[u64]) {
        self.router.counters.committed.add(seqs.len());
        self.settle(seqs, &Outcome::Done);
    }

    /// Hands messages out again, in their order.
    pub fn release(&self, seqs: &[u64]) {
        self.settle(seqs, &Outcome::Returned);
    }

    /// Hands all messages out again that are not acknowledged, from the oldest on.
    pub fn restart(&self) {
        let mut state = lock(&self.router.state);
        let queue = state.queue_mut(self.queue).filter(|queue| queue.is_subscriber(self.subscriber));
        queue.into_iter().for_each(Queue::restart);
    }

    /// Hands a message out again after this time, as the next attempt. The reason is that of the failed one.
    pub fn retry(&self, seq: u64, after: Duration, reason: impl Into<Arc<str>>) {
        let due =
            Instant::now().checked_add(after).unwrap_or_else(|| Instant::now() + Duration::from_secs(86_400));
        self.settle(&[seq], &Outcome::Failed(due, reason.into()));
    }

    /// Whether no other subscription has the queue, and it was not removed.
    #[must_use]
    pub fn is_current(&self) -> bool {
        lock(&self.router.state).queue(self.queue).is_some_and(|queue| queue.is_subscriber(self.subscriber))
    }

    fn settle(&self, seqs: &[u64], outcome: &Outcome) {
        let mut state = lock(&self.router.state);
        let is_current = state.queue(self.queue).is_some_and(|queue| queue.is_subscriber(self.subscriber));
        // A later subscription has these messages too; that it handles one that is done is avoided, no more.
        if is_current || matches!(outcome, Outcome::Done) {
            seqs.iter().for_each(|seq| state.settle(self.queue, *seq, outcome.clone()));
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut state = lock(&self.router.state);
        if let Some(queue) = state.queue_mut(self.queue) {
            queue.unsubscribe(self.subscriber);
            state.mark_dirty(self.queue);
        }
    }
}

/// Returns messages that were taken, unless they reach the subscriber.
struct Returning<'a> {
    subscription: &'a Subscription,
    seqs: Vec<u64>,
}

impl Drop for Returning<'_> {
    fn drop(&mut self) {
        if !self.seqs.is_empty() {
            self.subscription.release(&self.seqs);
        }
    }
}

/// The last values that a query has found.
#[derive(Debug)]
pub struct Values {
    router: Arc<RouterShared>,
    seqs: std::vec::IntoIter<u64>,
}

impl Values {
    pub(super) fn new(router: Arc<RouterShared>, seqs: Vec<u64>) -> Self {
        router.counters.queried.add(seqs.len());
        Self { router, seqs: seqs.into_iter() }
    }

    /// Returns the next values; none at the end. A value that was replaced meanwhile is left out.
    pub async fn next(&mut self) -> Vec<RoutedMessage> {
        loop {
            let seqs: Vec<_> = self.seqs.by_ref().take(VALUES).collect();
            if seqs.is_empty() {
                return Vec::new();
            }
            let found: Vec<_> = read(&self.router, seqs).await.into_iter().flatten().collect();
            if !found.is_empty() {
                return found;
            }
        }
    }
}

/// Reads messages; `None` for one that is gone or damaged.
async fn read(router: &Arc<RouterShared>, seqs: Vec<u64>) -> Vec<Option<RoutedMessage>> {
    let (mut messages, mut missing): (Vec<Option<Bytes>>, Vec<usize>) = (Vec::new(), Vec::new());
    {
        let state = lock(&router.state);
        for (at, seq) in seqs.iter().enumerate() {
            let stored = state.message(*seq);
            let cached = stored.and_then(|stored| stored.cached.clone());
            if cached.is_none() && stored.is_some() {
                missing.push(at);
            }
            messages.push(cached);
        }
    }
    if !missing.is_empty() {
        let (router, seqs) = (Arc::clone(router), seqs.clone());
        let fetch =
            move || -> Vec<_> { missing.into_iter().map(|at| (at, fetch(&router, seqs[at]))).collect() };
        for (at, found) in tokio::task::spawn_blocking(fetch).await.unwrap_or_default() {
            messages[at] = found;
        }
    }
    let decoded = |(seq, bytes): (u64, Option<Bytes>)| {
        let bytes = bytes?;
        let decoded = RoutedMessage::decode(&bytes);
        decoded
            .map_err(|error| tracing::error!(seq, %error, "a stored message cannot be decoded; it is lost"))
            .ok()
    };
    seqs.into_iter().zip(messages).map(decoded).collect()
}

/// Reads a message from the disk. Blocks.
fn fetch(router: &RouterShared, seq: u64) -> Option<Bytes> {
    let mut tried = None;
    loop {
        let position = lock(&router.state).message(seq)?.position?;
        // It may have been written again meanwhile.
        if tried == Some(position) {
            tracing::error!(seq, "a stored message is damaged; it is lost");
            router.counters.damaged.add(1);
            telemetry::routing_dropped("damaged", 1);
            lock(&router.state).forget(seq);
            return None;
        }
        tried = Some(position);
        match router.log.get(position) {
            Ok(Some(payload)) => {
                if let Ok(Record::Message(record)) = Record::decode(&payload)
                    && record.seq == seq
                {
                    return Some(Bytes::from(record.message.into_owned()));
                }
            }
            Ok(None) => {}
            Err(error) => {
                // The disk may recover; the message is handed out again later.
                tracing::error!(seq, %error, "could not read a stored message; it stays in its queues");
                return None;
            }
        }
    }
}
