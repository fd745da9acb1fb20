//! Fail-over: the only place that chooses a broker for a batch, and keeps its connection.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

#[cfg(feature = "cli")]
use futures_util::future::join_all;
use rand::seq::SliceRandom;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until, timeout};

use super::connection::{Connection, ConnectionEnded, Connector, connect};
use super::one_by_one::{OneByOne, send_one_by_one};
use super::url::BrokerUrl;
use crate::message::Message;
use crate::messenger::{Failure, Health, Unsent};
use crate::util::backoff::Backoff;
use crate::util::error::Chain;
use crate::util::repeated::Repeated;
use crate::{telemetry, trace};

/// No broker is in use.
const NONE: usize = usize::MAX;

/// How long a health check waits for a connection.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(2);

/// Two connections of a broker that are lost with messages in flight within this time put those messages under suspicion. It covers the wait of a
/// message for its next attempt.
const SHORT_TIME: Duration = Duration::from_secs(600);

/// Sends over one of several brokers: it keeps its connection, or else tries the brokers in a new
/// random order, with recently failed ones last and after their backoff.
///
/// One `send` tries each broker once, and once more the broker whose kept connection was
/// dead. Only unconfirmed messages go to the next broker, in their order. Messages are sent one by one if they were in flight
/// when a connection ended because of a message, or when a second connection of a broker was lost within a short time.
pub(crate) struct Failover<C: Connector> {
    connector: C,
    brokers: Vec<Broker<C::Connection>>,
    connection_timeout: Duration,
    current: AtomicUsize,
    closed: AtomicBool,
}

struct Broker<T> {
    url: BrokerUrl,
    /// Locked by a batch whose messages are sent one by one.
    one_by_one: Mutex<()>,
    state: Mutex<BrokerState<T>>,
    /// Failed connection attempts in a row.
    unreachable: Repeated,
    /// The log lines about messages that another attempt sends again.
    retries: Repeated,
    /// The end of the backoff after a failed connection attempt.
    retry_at: std::sync::Mutex<Option<Instant>>,
    /// The last connection that was lost with messages in flight.
    ended: std::sync::Mutex<Option<LostConnection<T>>>,
}

struct LostConnection<T> {
    which: Weak<T>,
    at: Instant,
    /// Whether an earlier one was lost shortly before.
    is_second: bool,
}

impl<T> Broker<T> {
    fn new(url: BrokerUrl) -> Self {
        let state = BrokerState { connection: None, failures: 0, last_failure: None };
        Self {
            url,
            one_by_one: Mutex::default(),
            state: Mutex::new(state),
            unreachable: Repeated::default(),
            retries: Repeated::default(),
            retry_at: std::sync::Mutex::default(),
            ended: std::sync::Mutex::default(),
        }
    }

    /// Returns the end of the backoff, while it lasts.
    fn cooling(&self) -> Option<Instant> {
        let retry_at = *self.retry_at.lock().unwrap_or_else(PoisonError::into_inner);
        retry_at.filter(|retry_at| *retry_at > Instant::now())
    }

    /// Records that this connection was lost with messages in flight. Returns whether another one was lost shortly before.
    fn ended_before(&self, connection: &Arc<T>) -> bool {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ended) = ended.as_ref().filter(|ended| ended.which.as_ptr() == Arc::as_ptr(connection)) {
            return ended.is_second;
        }
        let is_second = ended.as_ref().is_some_and(|ended| ended.at.elapsed() < SHORT_TIME);
        *ended = Some(LostConnection { which: Arc::downgrade(connection), at: Instant::now(), is_second });
        is_second
    }

    fn cool_until(&self, retry_at: Option<Instant>) {
        *self.retry_at.lock().unwrap_or_else(PoisonError::into_inner) = retry_at;
    }
}

impl<T: Connection> Broker<T> {
    /// Returns the open connection; none also while a caller connects.
    fn kept(&self) -> Option<Arc<T>> {
        let state = self.state.try_lock().ok()?;
        state.connection.as_ref().filter(|connection| !connection.is_closed()).cloned()
    }
}

struct BrokerState<T> {
    connection: Option<Arc<T>>,
    failures: u32,
    last_failure: Option<(Instant, Arc<str>)>,
}

impl<C: Connector> Failover<C> {
    pub(crate) fn new(connector: C, urls: Vec<BrokerUrl>, connection_timeout: Duration) -> Self {
        Self {
            connector,
            brokers: urls.into_iter().map(Broker::new).collect(),
            connection_timeout,
            current: AtomicUsize::new(NONE),
            closed: AtomicBool::new(false),
        }
    }

    pub(crate) async fn send(&self, mut batch: Vec<Message>) -> Result<(), Unsent> {
        let begun = Instant::now();
        let mut rejected = Unsent::default();
        let mut reasons = Vec::new();
        let mut order = self.order();
        let mut next = 0;
        while let Some(&index) = order.get(next) {
            next += 1;
            let broker = &self.brokers[index];
            if self.closed.load(Ordering::Acquire) {
                reasons.push("the messenger is closed".to_owned());
                break;
            }
            let connected = match broker.kept() {
                Some(connection) => Ok((connection, true)),
                // Boxed as it is rare: the future of a send stays small.
                None => Box::pin(self.connection(index, begun)).await,
            };
            let (connection, kept) = match connected {
                Ok(connected) => connected,
                Err(error) => {
                    reasons.push(format!("{}: {error}", broker.url));
                    continue;
                }
            };
            trace::sending_to(broker.url.host(), broker.url.port());
            let Err(unsent) = connection.send(batch).await else {
                return rejected.into_result();
            };
            let (transient, refused) = unsent.split();
            rejected.extend(refused);
            let Some((_, failure)) = transient.iter().next() else {
                return rejected.into_result();
            };
            let reason = format!("{}: {}", broker.url, Chain(failure.cause()));
            let is_blamed = transient.iter().any(|(_, failure)| failure.cause().is::<ConnectionEnded>());
            let is_ended = connection.is_closed() && !connection.is_given_up();
            let is_second = is_ended && broker.ended_before(&connection);
            if connection.is_closed() {
                let _ = self.current.compare_exchange(index, NONE, Ordering::Relaxed, Ordering::Relaxed);
            }
            if is_blamed || is_second {
                telemetry::retried(&broker.retries, transient.len(), &reason);
                reasons.push(reason);
                let sent = Box::pin(self.send_one_by_one(index, transient.into_messages()));
                let OneByOne { unsent, untried, why } = sent.await;
                rejected.extend(unsent);
                reasons.extend(why.map(|why| format!("{}: {why}", broker.url)));
                batch = untried;
                if batch.is_empty() {
                    return rejected.into_result();
                }
                continue;
            }
            if kept && connection.is_closed() && !order[..next - 1].contains(&index) {
                order.push(index);
            }
            if next < order.len() {
                telemetry::retried(&broker.retries, transient.len(), &reason);
            }
            reasons.push(reason);
            batch = transient.into_messages();
        }
        let failure = Failure::transient(NoBroker(reasons.join("; ")));
        rejected.extend(batch.into_iter().map(|message| (message, failure.clone())));
        rejected.into_result()
    }

    /// Sends each message by itself, while no other batch of this broker does.
    async fn send_one_by_one(&self, index: usize, batch: Vec<Message>) -> OneByOne {
        let broker = &self.brokers[index];
        let Ok(_turn) = timeout(self.connection_timeout, broker.one_by_one.lock()).await else {
            let why = "other batches are sent one by one".to_owned();
            return OneByOne { unsent: Unsent::default(), untried: batch, why: Some(why) };
        };
        send_one_by_one(&self.connector, &broker.url, self.connection_timeout, batch).await
    }

    pub(crate) async fn health(&self) -> Health {
        let mut reasons = Vec::new();
        for index in self.order() {
            let broker = &self.brokers[index];
            let connected = timeout(HEALTH_TIMEOUT, async {
                if broker.cooling().is_some()
                    && let Some((_, error)) = &broker.state.lock().await.last_failure
                {
                    return Err(Arc::clone(error));
                }
                let (connection, _) = self.connection(index, Instant::now()).await?;
                connection.blocked().map_or(Ok(()), |reason| Err(reason.into()))
            });
            match connected.await {
                Ok(Ok(())) => return Health::Up,
                Ok(Err(error)) => reasons.push(format!("{}: {error}", broker.url)),
                Err(_) => reasons.push(format!("{}: still connecting", broker.url)),
            }
        }
        Health::Down { reason: reasons.join("; ") }
    }

    /// The health of each broker, by a connection of its own that is closed again.
    #[cfg(feature = "cli")]
    pub(crate) async fn brokers(&self) -> Vec<(String, Health)> {
        join_all(self.brokers.iter().map(|broker| async {
            let url = broker.url.to_string();
            match self.try_once(&broker.url).await {
                Ok(()) => (url, Health::Up),
                Err(reason) => (url, Health::Down { reason }),
            }
        }))
        .await
    }

    #[cfg(feature = "cli")]
    async fn try_once(&self, url: &BrokerUrl) -> Result<(), String> {
        let connection = connect(&self.connector, url, self.connection_timeout).await?;
        let blocked = connection.blocked();
        let _ = timeout(HEALTH_TIMEOUT, connection.close()).await;
        blocked.map_or(Ok(()), Err)
    }

    /// Closes every connection after what is outstanding has ended, for at most `deadline`.
    pub(crate) async fn close(&self, deadline: Duration) {
        self.closed.store(true, Ordering::Release);
        let close = async {
            for broker in &self.brokers {
                if let Some(connection) = broker.state.lock().await.connection.take() {
                    connection.close().await;
                }
            }
        };
        if timeout(deadline, close).await.is_err() {
            tracing::warn!(?deadline, "could not close all connections within the deadline");
        }
    }

    /// The broker in use first, then the others in a random order, those in their backoff last.
    fn order(&self) -> Vec<usize> {
        let current = self.current.load(Ordering::Relaxed);
        let mut order: Vec<usize> = (0..self.brokers.len()).collect();
        if order.len() > 1 {
            order.shuffle(&mut rand::rng());
            order.sort_by_cached_key(|&index| (index != current, self.brokers[index].cooling()));
        }
        order
    }

    /// The kept connection (`true`), or a new one (`false`). Callers that come while one connects share its result.
    async fn connection(&self, index: usize, begun: Instant) -> Result<(Arc<C::Connection>, bool), Arc<str>> {
        let broker = &self.brokers[index];
        let mut state = broker.state.lock().await;
        if let Some(connection) = state.connection.as_ref().filter(|connection| !connection.is_closed()) {
            return Ok((Arc::clone(connection), true));
        }
        state.connection = None;
        if let Some((_, error)) = state.last_failure.as_ref().filter(|(at, _)| *at > begun) {
            return Err(Arc::clone(error));
        }
        if let Some(retry_at) = broker.cooling() {
            sleep_until(retry_at).await;
        }
        match connect(&self.connector, &broker.url, self.connection_timeout).await {
            Ok(connection) => {
                tracing::info!(broker = %broker.url, "connected");
                broker.unreachable.over();
                let connection = Arc::new(connection);
                *state = BrokerState {
                    connection: Some(Arc::clone(&connection)),
                    failures: 0,
                    last_failure: None,
                };
                broker.cool_until(None);
                self.current.store(index, Ordering::Relaxed);
                Ok((connection, false))
            }
            Err(error) => {
                if let Some(line) = broker.unreachable.occurred() {
                    let next = if self.brokers.len() > 1 { "; trying the next broker" } else { "; retrying" };
                    tracing::warn!(broker = %broker.url, %error, times = line.times, "failed to connect{next}");
                }
                let error: Arc<str> = error.into();
                let at = Instant::now();
                broker.cool_until(Some(at + Backoff::default().delay(state.failures)));
                state.failures = state.failures.saturating_add(1);
                state.last_failure = Some((at, Arc::clone(&error)));
                Err(error)
            }
        }
    }
}

/// The cause of a failure when every broker was tried.
#[derive(Debug, thiserror::Error)]
#[error("no broker confirmed it: {0}")]
struct NoBroker(String);
