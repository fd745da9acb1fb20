//! The worker that sends stored messages.

use std::collections::HashSet;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use indexmap::IndexMap;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::batch::{BatchOutcome, Worker, panicked};
use super::breaker::{Gate, RelayBreaker};
use super::settings::RelaySettings;
use super::status::Status;
use crate::message::Settlement;
use crate::messenger::{Health, Messenger};
use crate::store::{Counts, Lease, Leased, Store, StoreError};
use crate::telemetry;
use crate::util::backoff::Backoff;
use crate::util::caught::caught;
use crate::util::deadline::after;
use crate::util::error::Chain;
use crate::util::repeated::Repeated;

/// How many messages go out in one `send`.
const BATCH: usize = 256;

/// How long a store may take, at shutdown, to lease due messages.
const LAST_LEASE: Duration = Duration::from_millis(200);

/// Sends the messages that an [`Outbox`](super::Outbox) stores: see [`with_graceful_shutdown`](Self::with_graceful_shutdown).
///
/// Up to [`window`](RelaySettings::window) messages are out at a time, in order for each topic and key.
///
/// | result | effect |
/// |---|---|
/// | confirmed | removed from the store |
/// | rejected, or refused by [`check`](Messenger::check) before it is sent | a dead letter at once, with the reason |
/// | transient | another attempt, after exponential backoff with full jitter; a dead letter after [`max_attempts`](RelaySettings::max_attempts) |
/// | transient, and [`health`](Messenger::health) is down | the breaker opens: no attempt is counted, nothing is sent; the broker is probed after a backoff, then one message is sent first |
/// | the messenger panics | each message is sent alone, and the one that makes it panic becomes a dead letter |
/// | (expired in the store) | a dead letter or dropped, by [`when_expired`](RelaySettings::when_expired) |
///
/// While no message is due the relay sleeps.
pub struct Relay<M> {
    worker: Arc<Worker<M>>,
}

impl<M> fmt::Debug for Relay<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relay").field("settings", &self.worker.settings).finish_non_exhaustive()
    }
}

/// The result of a task beside the loop.
enum Done {
    /// With the positions of messages that were to be sent one by one, and were not.
    Sent {
        messages: usize,
        outcome: BatchOutcome,
        untried: Vec<u64>,
    },
    Probed(Health),
}

impl<M: Messenger> Relay<M> {
    pub(super) fn new(
        inner: Arc<M>,
        store: Arc<dyn Store>,
        status: Arc<Status>,
        mut settings: RelaySettings,
    ) -> Self {
        settings.window = settings.window.max(1);
        let (backend, retries) = (inner.capabilities().backend, Repeated::default());
        Self { worker: Arc::new(Worker { inner, store, status, settings, backend, retries }) }
    }

    /// Sends stored messages until `signal`, then messages that are due for at most `deadline` more, unless the broker is down.
    ///
    /// Returns the counts of the messages that are left in the store; the next start sends them.
    ///
    /// # Cancel safety
    /// Dropping the future loses no message: one that was being sent may be sent again.
    pub async fn with_graceful_shutdown(
        self,
        signal: impl Future<Output = ()>,
        deadline: Duration,
    ) -> Counts {
        self.run_until(async move {
            signal.await;
            after(Instant::now(), deadline)
        })
        .await
    }

    /// As [`with_graceful_shutdown`](Self::with_graceful_shutdown); `shutdown` gives the time to end by.
    pub(crate) async fn run_until(self, shutdown: impl Future<Output = Instant>) -> Counts {
        let worker = self.worker;
        let mut state = Running {
            worker: Arc::clone(&worker),
            tasks: JoinSet::new(),
            out: 0,
            breaker: RelayBreaker::default(),
            unread: 0,
            suspects: HashSet::new(),
        };
        tokio::pin!(shutdown);
        worker.status.set_down(None);
        telemetry::breaker(false);
        let ending = Ending(Some(Arc::clone(&worker.status)));
        let mut ended = 0;
        let until = loop {
            let delay = tokio::select! {
                until = &mut shutdown => break until,
                worked = caught(state.work(None)) => match worked {
                    Some(()) => break Instant::now(),
                    None => Backoff::default().delay(ended),
                },
            };
            ended = ended.saturating_add(1);
            worker.status.set_down(Some("the relay panicked and restarts soon".to_owned()));
            tracing::error!(?delay, "the relay panicked; restarting it");
            tokio::select! {
                until = &mut shutdown => break until,
                () = sleep(delay) => worker.status.set_down(None),
            }
        };
        ending.expected();
        let _ = tokio::time::timeout_at(until, caught(state.work(Some(LAST_LEASE)))).await;
        // A batch that did not end in time may be sent once more after the next start.
        state.tasks.shutdown().await;
        let counts = caught(worker.store.counts()).await.unwrap_or_else(|| Err(panicked()));
        counts.unwrap_or_else(|error| {
            tracing::error!(error = %Chain(&error), "failed to count the messages left in the outbox");
            Counts::default()
        })
    }
}

/// Sends stored messages until the future is dropped or its runtime stops.
impl<M: Messenger> IntoFuture for Relay<M> {
    type Output = Counts;
    type IntoFuture = Pin<Box<dyn Future<Output = Counts> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run_until(std::future::pending()))
    }
}

/// Reports that the relay was dropped, unless its end was expected.
struct Ending(Option<Arc<Status>>);

impl Ending {
    fn expected(mut self) {
        self.0 = None;
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        if let Some(status) = &self.0 {
            tracing::error!("the relay was dropped; stored messages wait until it runs again");
            status.set_down(Some("the relay was dropped before its shutdown".to_owned()));
        }
    }
}

struct Running<M> {
    worker: Arc<Worker<M>>,
    tasks: JoinSet<Done>,
    /// How many messages are out.
    out: usize,
    breaker: RelayBreaker,
    /// How many reads of the store failed in a row.
    unread: u32,
    /// Positions of messages that are sent alone, since the messenger panicked while it sent them together.
    suspects: HashSet<u64>,
}

impl<M: Messenger> Running<M> {
    /// Works until the store is closed; with `quiet`, until nothing is out, and nothing due for that long, or the broker is down.
    async fn work(&mut self, quiet: Option<Duration>) {
        loop {
            let gate = self.breaker.gate();
            let room = match gate {
                Gate::Closed => (self.worker.settings.window - self.out).min(BATCH),
                Gate::HalfOpen if self.out == 0 => 1,
                _ => 0,
            };
            if quiet.is_some() && self.out == 0 && matches!(gate, Gate::Open { .. } | Gate::Probing) {
                return;
            }
            let next_probe = match gate {
                Gate::Open { next_probe } => Some(next_probe),
                _ => None,
            };
            let worker = Arc::clone(&self.worker);
            tokio::select! {
                biased;
                Some(done) = self.tasks.join_next(), if !self.tasks.is_empty() => match done {
                    Ok(Done::Sent { messages, outcome, untried }) => {
                        self.out -= messages;
                        self.suspects.extend(untried);
                        self.breaker.judge(&outcome, &self.worker.status);
                        if let BatchOutcome::Panicked(positions) = outcome {
                            self.suspects.extend(positions);
                        }
                    }
                    Ok(Done::Probed(health)) => self.breaker.probed(&health, &self.worker.status),
                    Err(error) => {
                        // Only a drop that panics ends so: its messages stay leased until the next start.
                        tracing::error!(%error, "a task of the relay panicked");
                        if self.tasks.is_empty() {
                            self.out = 0;
                        }
                    }
                },
                leased = lease(&worker, room, quiet.filter(|_| self.out == 0)), if room > 0 => match leased {
                    Ok(leased) if leased.is_empty() => return,
                    Ok(leased) => {
                        if self.unread > 0 {
                            self.unread = 0;
                            self.worker.status.set_down(None);
                        }
                        self.send(leased);
                    }
                    Err(StoreError::Closed) => return,
                    Err(error) => {
                        let reason = Chain(&error).to_string();
                        tracing::error!(error = %reason, "failed to read the outbox; retrying");
                        self.worker.status.set_down(Some(format!("the outbox cannot be read: {reason}")));
                        self.worker.status.failed(reason);
                        sleep(Backoff::default().delay(self.unread)).await;
                        self.unread = self.unread.saturating_add(1);
                    }
                },
                () = sleep_until(next_probe.unwrap_or_else(Instant::now)), if next_probe.is_some() => {
                    self.breaker.probing();
                    self.tasks.spawn(async move { Done::Probed(worker.health().await) });
                }
            }
        }
    }

    /// Sends leased messages: together, or [one by one](RelaySettings::one_by_one).
    fn send(&mut self, leased: Vec<Leased>) {
        if !self.worker.settings.one_by_one {
            return self.send_together(leased);
        }
        let mut keys: IndexMap<_, Vec<Leased>> = IndexMap::new();
        for one in leased {
            match one.message.key() {
                None => self.send_together(vec![one]),
                Some(key) => {
                    let key = (one.message.topic().clone(), key.to_owned());
                    keys.entry(key).or_default().push(one);
                }
            }
        }
        keys.into_values().for_each(|leased| self.send_together(leased));
    }

    fn send_together(&mut self, leased: Vec<Leased>) {
        self.out += leased.len();
        let messages = leased.len();
        // All are removed: a message that is leased again was sent without a panic.
        let alone = leased.iter().filter(|one| self.suspects.remove(&one.lease.position)).count() > 0;
        let later = self.breaker.retry_wait();
        let worker = Arc::clone(&self.worker);
        self.tasks.spawn(async move {
            let leases: Vec<Lease> = leased.iter().map(|one| one.lease).collect();
            let sent = caught(async {
                if alone {
                    worker.send_one_by_one(leased, later).await
                } else {
                    (worker.send(leased, later).await, Vec::new())
                }
            });
            if let Some((outcome, untried)) = sent.await {
                return Done::Sent { messages, outcome, untried };
            }
            tracing::error!(messages, "sending panicked; sending the messages one by one");
            let released: Vec<_> = leases.iter().map(|lease| (*lease, Settlement::Release)).collect();
            worker.settle(&released).await;
            let positions = leases.iter().map(|lease| lease.position).collect();
            Done::Sent { messages, outcome: BatchOutcome::Panicked(positions), untried: Vec::new() }
        });
    }
}

/// Leases; with `quiet`, gives none when nothing is due for that long.
async fn lease<M>(
    worker: &Worker<M>,
    room: usize,
    quiet: Option<Duration>,
) -> Result<Vec<Leased>, StoreError> {
    let lease = async {
        match caught(worker.store.lease(room)).await {
            // It is to wait until there is something: asked again at once, it may keep a core busy.
            Some(Ok(leased)) if leased.is_empty() && quiet.is_none() => {
                Err(StoreError::unavailable("the store leased nothing"))
            }
            Some(leased) => leased,
            None => Err(panicked()),
        }
    };
    match quiet {
        None => lease.await,
        Some(quiet) => timeout(quiet, lease).await.unwrap_or_else(|_| Ok(Vec::new())),
    }
}
