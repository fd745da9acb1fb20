//! Sending one batch of leased messages, and settling it.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::settings::{RelaySettings, WhenExpired};
use super::status::Status;
use crate::message::{Message, Settlement};
use crate::messenger::{Failure, Health, Messenger, Unacknowledged, Unsent};
use crate::store::{Lease, Leased, Store, StoreError};
use crate::telemetry;
use crate::util::backoff::Backoff;
use crate::util::caught::caught;
use crate::util::crash;
use crate::util::error::Chain;
use crate::util::repeated::Repeated;

/// How one batch ended, as far as the breaker depends on it.
pub(super) enum BatchOutcome {
    /// The broker confirmed at least one message, also if the consumer of it did not.
    Passed,
    /// No message was to be sent.
    Nothing,
    /// No message was confirmed, although the broker is up.
    Failed,
    /// The broker is down.
    Down,
    /// The messenger panicked while it sent the messages at these positions together.
    Panicked(Vec<u64>),
    /// The messenger panicked while it sent one message alone.
    Poisoned,
}

/// The state that the tasks of a relay share.
pub(super) struct Worker<M> {
    pub(super) inner: Arc<M>,
    pub(super) store: Arc<dyn Store>,
    pub(super) status: Arc<Status>,
    pub(super) settings: RelaySettings,
    pub(super) backend: Option<Arc<str>>,
    /// The log lines about failed attempts.
    pub(super) retries: Repeated,
}

impl<M: Messenger> Worker<M> {
    /// A health check that panics counts as down.
    pub(super) async fn health(&self) -> Health {
        let panicked = || Health::Down { reason: "its health check panicked".to_owned() };
        caught(self.inner.health()).await.unwrap_or_else(panicked)
    }

    /// Sends and settles each message alone, until one comes back: later messages of its key wait for it, and the broker may be
    /// down. Returns the positions of untried messages.
    pub(super) async fn send_one_by_one(
        &self,
        leased: Vec<Leased>,
        later: Duration,
    ) -> (BatchOutcome, Vec<u64>) {
        let mut rest = leased.into_iter();
        let mut outcome = BatchOutcome::Nothing;
        for one in rest.by_ref() {
            outcome = self.send(vec![one], later).await;
            if matches!(outcome, BatchOutcome::Failed | BatchOutcome::Down) {
                break;
            }
        }
        let released: Vec<_> = rest.map(|one| (one.lease, Settlement::Release)).collect();
        if !released.is_empty() {
            self.settle(&released).await;
        }
        (outcome, released.iter().map(|(lease, _)| lease.position).collect())
    }

    /// Sends and settles one batch; a message to be retried waits for at least `later`.
    pub(super) async fn send(&self, leased: Vec<Leased>, later: Duration) -> BatchOutcome {
        let now = SystemTime::now();
        let mut settled = Vec::with_capacity(leased.len());
        let (mut leases, mut messages) = (Vec::with_capacity(leased.len()), Vec::with_capacity(leased.len()));
        for Leased { lease, message, attempts } in leased {
            if self.has_expired(&message, now) {
                settled.push((lease, self.expire(&message)));
                continue;
            }
            let message = if message.delay().is_some() { message.without_delay() } else { message };
            // Messages may have been stored without `enqueue`, or under other settings.
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
            return BatchOutcome::Nothing;
        }
        crash::point("leased_before_send");
        let begun = Instant::now();
        let sent = caught(self.inner.send(messages)).await;
        crash::point("sent_before_settle");
        let outcome = match sent {
            Some(Ok(())) => {
                settled.extend(leases.iter().map(|(lease, ..)| (*lease, Settlement::Ack)));
                self.confirmed(leases.len(), begun.elapsed());
                BatchOutcome::Passed
            }
            Some(Err(unsent)) => self.unsent(&leases, unsent, begun.elapsed(), later, &mut settled).await,
            None if leases.len() > 1 => {
                tracing::error!(
                    messages = leases.len(),
                    "the messenger panicked; sending the messages again one by one"
                );
                settled.extend(leases.iter().map(|(lease, ..)| (*lease, Settlement::Release)));
                BatchOutcome::Panicked(leases.iter().map(|(lease, ..)| lease.position).collect())
            }
            None => {
                let (lease, id, _) = leases[0];
                let reason: Arc<str> = "the messenger panicked while it sent this message".into();
                self.status.failed(reason.to_string());
                telemetry::dead(&id, &reason);
                settled.push((lease, Settlement::Reject { reason }));
                BatchOutcome::Poisoned
            }
        };
        self.settle(&settled).await;
        outcome
    }

    fn confirmed(&self, messages: usize, took: Duration) {
        self.status.confirmed.add(messages);
        telemetry::confirmed(self.backend.as_ref(), messages, took);
    }

    /// Decides the settlements of a batch that was not confirmed as a whole.
    async fn unsent(
        &self,
        leases: &[(Lease, Uuid, u32)],
        unsent: Unsent,
        took: Duration,
        later: Duration,
        settled: &mut Vec<(Lease, Settlement)>,
    ) -> BatchOutcome {
        let transient = unsent.iter().filter(|(_, failure)| failure.is_transient()).count();
        let failed = unsent
            .iter()
            .filter(|(_, failure)| failure.is_transient() && !is_unacknowledged(failure))
            .count();
        if let Some((_, failure)) = unsent.iter().next() {
            self.status.failed(failure.to_string());
        }
        let down = transient > 0 && !self.health().await.is_up();
        let confirmed = leases.len() - unsent.len().min(leases.len());
        if confirmed > 0 {
            self.confirmed(confirmed, took);
        }
        // By id. When one of several messages with the same id comes back, none of them counts as confirmed.
        let mut failures: HashMap<Uuid, VecDeque<Failure>> = HashMap::new();
        for (message, failure) in unsent {
            failures.entry(message.id()).or_default().push_back(failure);
        }
        let (mut retried, mut cause) = (0, None);
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
                    let reason: Arc<str> = Chain(failure.cause()).to_string().into();
                    cause.get_or_insert_with(|| Arc::clone(&reason));
                    Settlement::Retry { after, reason }
                }
            };
            settled.push((*lease, settlement));
        }
        if let Some(cause) = cause.filter(|_| retried > 0) {
            telemetry::retried(&self.retries, retried, &cause);
        }
        match (down, confirmed) {
            (true, _) => BatchOutcome::Down,
            (false, 0) if failed == leases.len() => BatchOutcome::Failed,
            _ => BatchOutcome::Passed,
        }
    }

    fn has_expired(&self, message: &Message, now: SystemTime) -> bool {
        let expiry = message.expiry().into_iter().chain(self.settings.expiry).min();
        expiry.is_some_and(|expiry| now.duration_since(message.time()).is_ok_and(|age| age > expiry))
    }

    fn expire(&self, message: &Message) -> Settlement {
        match self.settings.when_expired {
            WhenExpired::DeadLetter => {
                let reason: Arc<str> = "it expired before it could be sent".into();
                telemetry::dead(&message.id(), &reason);
                Settlement::Reject { reason }
            }
            WhenExpired::Drop => {
                telemetry::expired(message);
                Settlement::Discard
            }
        }
    }

    /// Settles; retries until the store accepts it or is closed.
    pub(super) async fn settle(&self, settled: &[(Lease, Settlement)]) {
        let mut attempt = 0;
        let settle = async || caught(self.store.settle(settled)).await.unwrap_or_else(|| Err(panicked()));
        while let Err(error) = settle().await {
            if matches!(error, StoreError::Closed) {
                return;
            }
            tracing::error!(error = %Chain(&error), messages = settled.len(), "failed to record delivery results; retrying");
            sleep(Backoff::default().delay(attempt)).await;
            attempt += 1;
        }
    }
}

pub(super) fn panicked() -> StoreError {
    StoreError::unavailable("the store panicked")
}

/// Whether the broker has the message, and only the confirmation of its consumer is missing.
fn is_unacknowledged(failure: &Failure) -> bool {
    failure.cause().is::<Unacknowledged>()
}

/// Logs and counts a dead letter; returns its settlement.
fn dead(id: &Uuid, failure: &Failure) -> Settlement {
    let reason: Arc<str> = failure.to_string().into();
    telemetry::dead(id, &reason);
    Settlement::Reject { reason }
}
