//! The worker that sends what is stored.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use uuid::Uuid;

use super::settings::{RelaySettings, WhenExpired};
use super::status::{Breaker, Status};
use crate::message::Message;
use crate::message::Settlement;
use crate::messenger::{Failure, Health, Messenger, Unsent};
use crate::store::{Counts, Lease, Leased, Store, StoreError};
use crate::telemetry;
use crate::util::backoff::Backoff;
use crate::util::caught::caught;
use crate::util::crash;
use crate::util::deadline::after;
use crate::util::error::Chain;

/// How many messages go out in one `send`.
const BATCH: usize = 256;

/// How many sends in a row must fail as a whole, on a bus that says it is up, before the breaker opens.
const FAILURES: u32 = 3;

/// How long a store may take, at shutdown, to give what is due.
const LAST_LEASE: Duration = Duration::from_millis(200);

/// Sends what an [`Outbox`](super::Outbox) has stored: see [`with_graceful_shutdown`](Self::with_graceful_shutdown).
///
/// Up to [`window`](RelaySettings::window) messages are out at a time, in order for each topic and key.
///
/// | what the bus says | then |
/// |---|---|
/// | confirmed | forgotten |
/// | rejected, or refused by [`check`](Messenger::check) before it is sent | a dead letter at once, with the reason |
/// | transient | another attempt, after exponential backoff with full jitter; a dead letter after [`max_attempts`](RelaySettings::max_attempts) |
/// | transient, and [`health`](Messenger::health) is down | the breaker opens: no attempt is counted, nothing is sent; the health is asked again after a backoff, then one message goes first |
/// | the messenger panics | each message goes out alone, and the one it panics over is a dead letter |
/// | (expired before it could leave) | a dead letter or dropped, as [`when_expired`](RelaySettings::when_expired) says |
///
/// While nothing is due it sleeps.
pub struct Relay<M> {
    worker: Arc<Worker<M>>,
}

struct Worker<M> {
    inner: Arc<M>,
    store: Arc<dyn Store>,
    status: Arc<Status>,
    settings: RelaySettings,
}

impl<M> fmt::Debug for Relay<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relay").field("settings", &self.worker.settings).finish_non_exhaustive()
    }
}

/// How one send ended, as far as the breaker cares.
enum Verdict {
    /// The bus took something.
    Passed,
    /// There was nothing to send.
    Nothing,
    /// Nothing passed, though the bus says it is up.
    Failed,
    /// The bus says it is down.
    Down,
    /// The messenger panicked over these, together.
    Panicked(Vec<u64>),
    /// The messenger panicked over this one.
    Poisoned,
}

/// What goes on beside the loop.
enum Done {
    /// With the positions of those that were to go out alone, and have not.
    Sent {
        messages: usize,
        verdict: Verdict,
        untried: Vec<u64>,
    },
    Probed(Health),
}

/// What the loop may lease now.
#[derive(Clone, Copy, PartialEq)]
enum Gate {
    /// Whatever the window holds.
    Closed,
    /// Nothing before the next probe.
    Open { next_probe: Instant },
    /// Nothing while the probe is under way.
    Probing,
    /// One message.
    HalfOpen,
}

impl<M: Messenger> Relay<M> {
    pub(super) fn new(
        inner: Arc<M>,
        store: Arc<dyn Store>,
        status: Arc<Status>,
        mut settings: RelaySettings,
    ) -> Self {
        settings.window = settings.window.max(1);
        Self { worker: Arc::new(Worker { inner, store, status, settings }) }
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
            gate: Gate::Closed,
            failures: 0,
            unread: 0,
            suspects: HashSet::new(),
        };
        tokio::pin!(shutdown);
        worker.status.set_down(None);
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
            worker.status.set_down(Some("the relay panicked, and is started again soon".to_owned()));
            tracing::error!(?delay, "the relay panicked: it is started again");
            tokio::select! {
                until = &mut shutdown => break until,
                () = sleep(delay) => worker.status.set_down(None),
            }
        };
        ending.expected();
        let _ = tokio::time::timeout_at(until, caught(state.work(Some(LAST_LEASE)))).await;
        // What did not end in time may be sent once more, the next time.
        state.tasks.shutdown().await;
        let counts = caught(worker.store.counts()).await.unwrap_or_else(|| Err(panicked()));
        counts.unwrap_or_else(|error| {
            tracing::error!(error = %Chain(&error), "cannot tell how much is left in the outbox");
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

/// Says that the relay ended before its time, unless that was expected.
struct Ending(Option<Arc<Status>>);

impl Ending {
    fn expected(mut self) {
        self.0 = None;
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        if let Some(status) = &self.0 {
            tracing::error!("the relay was dropped: nothing leaves the outbox until it runs again");
            status.set_down(Some("the relay was dropped before it was told to stop".to_owned()));
        }
    }
}

fn panicked() -> StoreError {
    StoreError::unavailable("the store panicked")
}

struct Running<M> {
    worker: Arc<Worker<M>>,
    tasks: JoinSet<Done>,
    /// How many messages are out.
    out: usize,
    gate: Gate,
    /// How many sends and probes have failed in a row.
    failures: u32,
    /// How often in a row the store could not be read.
    unread: u32,
    /// Positions of messages the messenger panicked over while they were together: they go out alone.
    suspects: HashSet<u64>,
}

impl<M: Messenger> Running<M> {
    /// Works until the store is closed; with `quiet`, until nothing is out, and nothing due for that long, or the bus is down.
    async fn work(&mut self, quiet: Option<Duration>) {
        loop {
            let room = match self.gate {
                Gate::Closed => (self.worker.settings.window - self.out).min(BATCH),
                Gate::HalfOpen if self.out == 0 => 1,
                _ => 0,
            };
            if quiet.is_some() && self.out == 0 && matches!(self.gate, Gate::Open { .. } | Gate::Probing) {
                return;
            }
            let next_probe = match self.gate {
                Gate::Open { next_probe } => Some(next_probe),
                _ => None,
            };
            let worker = Arc::clone(&self.worker);
            tokio::select! {
                biased;
                Some(done) = self.tasks.join_next(), if !self.tasks.is_empty() => match done {
                    Ok(Done::Sent { messages, verdict, untried }) => {
                        self.out -= messages;
                        self.suspects.extend(untried);
                        self.judge(verdict);
                    }
                    Ok(Done::Probed(health)) => self.probed(&health),
                    Err(error) => {
                        // Only a drop that panics ends so: what it held stays leased until the next start.
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
                        tracing::error!(error = %reason, "the outbox cannot be read");
                        self.worker.status.set_down(Some(format!("the outbox cannot be read: {reason}")));
                        self.worker.status.failed(reason);
                        sleep(Backoff::default().delay(self.unread)).await;
                        self.unread = self.unread.saturating_add(1);
                    }
                },
                () = sleep_until(next_probe.unwrap_or_else(Instant::now)), if next_probe.is_some() => {
                    self.gate = Gate::Probing;
                    self.tasks.spawn(async move { Done::Probed(worker.health().await) });
                }
            }
        }
    }

    fn send(&mut self, leased: Vec<Leased>) {
        self.out += leased.len();
        let messages = leased.len();
        // Removed one and all: those that come again have shown themselves harmless.
        let alone = leased.iter().filter(|one| self.suspects.remove(&one.lease.position)).count() > 0;
        // The next probe is to be made with another message: this one may be what is wrong.
        let later = match self.gate {
            Gate::HalfOpen => Backoff::default().ceiling(self.failures.saturating_add(2)),
            _ => Duration::ZERO,
        };
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
            if let Some((verdict, untried)) = sent.await {
                return Done::Sent { messages, verdict, untried };
            }
            tracing::error!(messages, "sending panicked: the messages go out one by one");
            let released: Vec<_> = leases.iter().map(|lease| (*lease, Settlement::Release)).collect();
            worker.settle(&released).await;
            let positions = leases.iter().map(|lease| lease.position).collect();
            Done::Sent { messages, verdict: Verdict::Panicked(positions), untried: Vec::new() }
        });
    }

    fn judge(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Nothing => {}
            Verdict::Passed => {
                if self.gate != Gate::Closed && self.gate != Gate::HalfOpen {
                    // A send from before the breaker opened.
                    return;
                }
                if self.gate == Gate::HalfOpen {
                    tracing::info!("the bus takes messages again");
                    self.worker.status.set_breaker(Breaker::Closed);
                }
                self.gate = Gate::Closed;
                self.failures = 0;
            }
            Verdict::Panicked(positions) => self.suspects.extend(positions),
            Verdict::Failed | Verdict::Poisoned => {
                self.failures = self.failures.saturating_add(1);
                if self.gate == Gate::HalfOpen || (self.gate == Gate::Closed && self.failures >= FAILURES) {
                    self.open();
                }
            }
            Verdict::Down => {
                if matches!(self.gate, Gate::Closed | Gate::HalfOpen) {
                    self.failures = self.failures.saturating_add(1);
                    self.open();
                }
            }
        }
    }

    fn probed(&mut self, health: &Health) {
        if health.is_up() {
            self.gate = Gate::HalfOpen;
            self.worker.status.set_breaker(Breaker::HalfOpen);
        } else {
            self.failures = self.failures.saturating_add(1);
            self.open();
        }
    }

    fn open(&mut self) {
        if self.gate == Gate::Closed {
            tracing::warn!("nothing leaves the outbox until the bus is back; what is stored waits");
        }
        let delay = Backoff::default().delay(self.failures);
        self.gate = Gate::Open { next_probe: Instant::now() + delay };
        self.worker.status.open_breaker(SystemTime::now() + delay);
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

impl<M: Messenger> Worker<M> {
    /// A health check that panics counts as down.
    async fn health(&self) -> Health {
        let panicked = || Health::Down { reason: "its health check panicked".to_owned() };
        caught(self.inner.health()).await.unwrap_or_else(panicked)
    }

    /// Sends and settles each alone, until one comes back: those of its key wait behind it, and the bus may be down.
    /// Gives the positions of those that were not tried.
    async fn send_one_by_one(&self, leased: Vec<Leased>, later: Duration) -> (Verdict, Vec<u64>) {
        let mut rest = leased.into_iter();
        let mut verdict = Verdict::Nothing;
        for one in rest.by_ref() {
            verdict = self.send(vec![one], later).await;
            if matches!(verdict, Verdict::Failed | Verdict::Down) {
                break;
            }
        }
        let released: Vec<_> = rest.map(|one| (one.lease, Settlement::Release)).collect();
        if !released.is_empty() {
            self.settle(&released).await;
        }
        (verdict, released.iter().map(|(lease, _)| lease.position).collect())
    }

    /// Sends and settles one batch; what is to be tried again waits for at least `later`.
    async fn send(&self, leased: Vec<Leased>, later: Duration) -> Verdict {
        let now = SystemTime::now();
        let mut settled = Vec::with_capacity(leased.len());
        let (mut leases, mut messages) = (Vec::with_capacity(leased.len()), Vec::with_capacity(leased.len()));
        for Leased { lease, message, attempts } in leased {
            if self.has_expired(&message, now) {
                settled.push((lease, self.expire(&message)));
                continue;
            }
            let message = if message.delay().is_some() { message.without_delay() } else { message };
            // What came into the store by another way than `enqueue`, or when the settings were others.
            let refused = match catch_unwind(AssertUnwindSafe(|| self.inner.check(&message))) {
                Ok(Err(error)) => Some(Failure::rejected(error)),
                _ => None,
            };
            if let Some(refused) = refused {
                self.status.failed(refused.to_string());
                settled.push((lease, dead(&message.id(), &refused)));
                continue;
            }
            leases.push((lease, message.id(), attempts));
            messages.push(message);
        }
        if messages.is_empty() {
            self.settle(&settled).await;
            return Verdict::Nothing;
        }
        crash::point("leased_before_send");
        let begun = Instant::now();
        let sent = caught(self.inner.send(messages)).await;
        crash::point("sent_before_settle");
        let verdict = match sent {
            Some(Ok(())) => {
                settled.extend(leases.iter().map(|(lease, ..)| (*lease, Settlement::Ack)));
                self.confirmed(leases.len(), begun.elapsed());
                Verdict::Passed
            }
            Some(Err(unsent)) => self.unsent(&leases, unsent, begun.elapsed(), later, &mut settled).await,
            None if leases.len() > 1 => {
                tracing::error!(
                    messages = leases.len(),
                    "the messenger panicked: they are sent again one by one"
                );
                settled.extend(leases.iter().map(|(lease, ..)| (*lease, Settlement::Release)));
                Verdict::Panicked(leases.iter().map(|(lease, ..)| lease.position).collect())
            }
            None => {
                let (lease, id, _) = leases[0];
                let reason: Arc<str> = "the messenger panicked over it".into();
                self.status.failed(reason.to_string());
                telemetry::dead(&id, &reason);
                settled.push((lease, Settlement::Reject { reason }));
                Verdict::Poisoned
            }
        };
        self.settle(&settled).await;
        verdict
    }

    fn confirmed(&self, messages: usize, took: Duration) {
        self.status.confirmed.add(messages);
        telemetry::confirmed(messages, took);
    }

    /// What is to be done with a batch of which not everything was confirmed.
    async fn unsent(
        &self,
        leases: &[(Lease, Uuid, u32)],
        unsent: Unsent,
        took: Duration,
        later: Duration,
        settled: &mut Vec<(Lease, Settlement)>,
    ) -> Verdict {
        let transient = unsent.iter().filter(|(_, failure)| failure.is_transient()).count();
        if let Some((_, failure)) = unsent.iter().next() {
            self.status.failed(failure.to_string());
        }
        let down = transient > 0 && !self.health().await.is_up();
        let confirmed = leases.len() - unsent.len().min(leases.len());
        if confirmed > 0 {
            self.confirmed(confirmed, took);
        }
        // By id. Of several with one id it cannot be told which came back: if any did, none is taken for confirmed.
        let mut failures: HashMap<Uuid, VecDeque<Failure>> = HashMap::new();
        for (message, failure) in unsent {
            failures.entry(message.id()).or_default().push_back(failure);
        }
        let mut retried = 0;
        for (lease, id, attempts) in leases {
            let failure = failures.get_mut(id).and_then(|failures| match failures.len() {
                0 | 1 => failures.front().cloned(),
                _ => failures.pop_front(),
            });
            let settlement = match failure {
                None => Settlement::Ack,
                Some(failure @ Failure::Rejected(_)) => dead(id, &failure),
                Some(_) if down => Settlement::Release,
                Some(failure) if attempts + 1 >= self.settings.max_attempts => {
                    let reason: Arc<str> =
                        format!("given up after {} attempts: {failure}", attempts + 1).into();
                    telemetry::dead(id, &reason);
                    Settlement::Reject { reason }
                }
                Some(failure) => {
                    retried += 1;
                    let after = Backoff::with_max(self.settings.max_backoff).delay(*attempts);
                    let after = after.max(later);
                    Settlement::Retry { after, reason: Chain(failure.cause()).to_string().into() }
                }
            };
            settled.push((*lease, settlement));
        }
        if retried > 0 {
            telemetry::retried(retried, &"each waits for its next attempt");
        }
        match (down, confirmed) {
            (true, _) => Verdict::Down,
            (false, 0) if transient == leases.len() => Verdict::Failed,
            _ => Verdict::Passed,
        }
    }

    fn has_expired(&self, message: &Message, now: SystemTime) -> bool {
        let expiry = message.expiry().into_iter().chain(self.settings.expiry).min();
        expiry.is_some_and(|expiry| now.duration_since(message.time()).is_ok_and(|age| age > expiry))
    }

    fn expire(&self, message: &Message) -> Settlement {
        match self.settings.when_expired {
            WhenExpired::DeadLetter => {
                let reason: Arc<str> = "it expired before it could leave".into();
                telemetry::dead(&message.id(), &reason);
                Settlement::Reject { reason }
            }
            WhenExpired::Drop => {
                telemetry::expired(message);
                Settlement::Discard
            }
        }
    }

    /// Settles, however long the store takes to accept it.
    async fn settle(&self, settled: &[(Lease, Settlement)]) {
        let mut attempt = 0;
        let settle = async || caught(self.store.settle(settled)).await.unwrap_or_else(|| Err(panicked()));
        while let Err(error) = settle().await {
            if matches!(error, StoreError::Closed) {
                return;
            }
            tracing::error!(error = %Chain(&error), messages = settled.len(), "the outbox cannot keep how messages fared");
            sleep(Backoff::default().delay(attempt)).await;
            attempt += 1;
        }
    }
}

/// Gives a message up, and says so.
fn dead(id: &Uuid, failure: &Failure) -> Settlement {
    let reason: Arc<str> = failure.to_string().into();
    telemetry::dead(id, &reason);
    Settlement::Reject { reason }
}
