//! The worker that empties a background buffer.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::permits::{Permit, Permits};
use crate::message::Message;
use crate::messenger::in_flight::InFlightToken;
use crate::messenger::{Failure, Messenger, Unsent};
use crate::telemetry;
use crate::util::backoff::Backoff;
use crate::util::caught::caught;
use crate::util::repeated::Repeated;

/// How many messages the worker hands to the inner messenger at once.
const BATCH: usize = 500;

/// Empties the buffer of a [`Background`](super::Background): see [`with_graceful_shutdown`](Self::with_graceful_shutdown).
pub struct BackgroundWorker<M> {
    pub(super) inner: Arc<M>,
    pub(super) batches: mpsc::UnboundedReceiver<Batch>,
    pub(super) permits: Arc<Permits>,
    pub(super) backend: Option<Arc<str>>,
    /// The log lines about failed sends.
    pub(super) retries: Repeated,
}

/// The messages of one `send`; dropping it frees their capacity.
pub(super) struct Batch {
    pub(super) messages: Vec<Message>,
    pub(super) _permit: Permit,
    pub(super) _in_flight: InFlightToken,
}

impl Drop for Batch {
    fn drop(&mut self) {
        if !self.messages.is_empty() {
            telemetry::lost(self.messages.len(), &"the background worker was dropped");
        }
    }
}

impl<M> fmt::Debug for BackgroundWorker<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackgroundWorker").field("waiting", &self.batches.len()).finish_non_exhaustive()
    }
}

impl<M: Messenger> BackgroundWorker<M> {
    /// Sends buffered messages until `signal`, then the rest for at most `deadline` more.
    ///
    /// Returns the messages that are left. Each is also logged and counted as unsent.
    ///
    /// # Cancel safety
    /// Dropping the future loses the buffered messages; the loss is logged and counted.
    pub async fn with_graceful_shutdown(
        mut self,
        signal: impl Future<Output = ()>,
        deadline: Duration,
    ) -> Vec<Message> {
        let permits = Arc::clone(&self.permits);
        let stopping = CancellationToken::new();
        let mut pending = Pending::default();
        {
            let work = self.work_on(&mut pending, &stopping);
            tokio::pin!(work);
            tokio::select! {
                () = &mut work => {}
                () = signal => {
                    permits.close();
                    stopping.cancel();
                    let _ = tokio::time::timeout(deadline, work).await;
                }
            }
        }
        self.batches.close();
        while let Ok(batch) = self.batches.try_recv() {
            pending.push(batch);
        }
        pending.give_up()
    }

    /// Works; starts again after a panic.
    async fn work_on(&mut self, pending: &mut Pending, stopping: &CancellationToken) {
        let mut ended = 0;
        while caught(self.work(pending, stopping)).await.is_none() {
            let delay = Backoff::default().delay(ended);
            ended = ended.saturating_add(1);
            tracing::error!(?delay, "the background worker panicked; restarting it");
            tokio::time::sleep(delay).await;
        }
    }

    /// Sends until the buffer is closed and empty. Whenever this is dropped, `pending` holds the unconfirmed messages.
    async fn work(&mut self, pending: &mut Pending, stopping: &CancellationToken) {
        let backoff = Backoff::default();
        let mut attempt = 0;
        loop {
            if pending.is_empty() {
                tokio::select! {
                    biased;
                    batch = self.batches.recv() => match batch {
                        Some(batch) => pending.push(batch),
                        None => return,
                    },
                    () = stopping.cancelled() => return,
                }
            }
            while pending.messages < BATCH
                && let Ok(batch) = self.batches.try_recv()
            {
                pending.push(batch);
            }
            match self.send(pending).await {
                Ok(()) => {
                    attempt = 0;
                    self.retries.over();
                }
                Err(cause) => {
                    let delay = backoff.delay(attempt);
                    attempt = attempt.saturating_add(1);
                    telemetry::retried(&self.retries, pending.messages, &cause);
                    tokio::time::sleep(delay).await;
                }
            }
        }
    }

    /// Sends all pending messages; keeps those that are worth another try.
    async fn send(&self, pending: &mut Pending) -> Result<(), Failure> {
        // The messages stay in `pending` while they are sent, so that a dropped future leaves them there.
        let (batch, begun) = (pending.out(), Instant::now());
        let sent = batch.len();
        let Some(result) = caught(async { self.inner.send(batch).await }).await else {
            pending.blame();
            return Ok(());
        };
        let unsent = result.err().unwrap_or_default();
        if unsent.len() < sent {
            telemetry::confirmed(self.backend.as_ref(), sent - unsent.len(), begun.elapsed());
        }
        let (transient, rejected) = unsent.split();
        rejected.log();
        let failure = transient.iter().next().map(|(_, failure)| failure.clone());
        pending.keep(&transient.iter().map(|(message, _)| message.id()).collect());
        failure.map_or(Ok(()), Err)
    }
}

/// The batches taken from the buffer and not yet confirmed, oldest first.
#[derive(Default)]
struct Pending {
    batches: VecDeque<Batch>,
    messages: usize,
    /// Whether batches are sent one by one, to find the one that makes the messenger panic.
    one_by_one: bool,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    fn push(&mut self, batch: Batch) {
        self.messages += batch.messages.len();
        self.batches.push_back(batch);
    }

    /// Returns how many batches are sent together.
    fn together(&self) -> usize {
        if self.one_by_one { 1 } else { self.batches.len() }
    }

    fn out(&self) -> Vec<Message> {
        let batches = self.batches.iter().take(self.together());
        batches.flat_map(|batch| &batch.messages).cloned().collect()
    }

    /// Keeps these of the sent messages, in their order, and frees the capacity of finished batches.
    fn keep(&mut self, unsent: &HashSet<Uuid>) {
        let together = self.together();
        for batch in self.batches.iter_mut().take(together) {
            batch.messages.retain(|message| unsent.contains(&message.id()));
        }
        self.batches.retain(|batch| !batch.messages.is_empty());
        self.messages = self.batches.iter().map(|batch| batch.messages.len()).sum();
        self.one_by_one &= !self.is_empty();
    }

    /// Gives up the batch that made the messenger panic, once it is known which one.
    fn blame(&mut self) {
        if self.together() > 1 {
            self.one_by_one = true;
        } else if let Some(mut batch) = self.batches.pop_front() {
            let messages = std::mem::take(&mut batch.messages).len();
            self.messages -= messages;
            telemetry::lost(messages, &"the messenger panicked");
            self.one_by_one &= !self.is_empty();
        }
    }

    fn give_up(mut self) -> Vec<Message> {
        let left: Vec<Message> =
            self.batches.drain(..).flat_map(|mut batch| std::mem::take(&mut batch.messages)).collect();
        let failure = Failure::transient("the process shut down before the broker confirmed it");
        Unsent::new(left.clone(), &failure).log();
        left
    }
}
