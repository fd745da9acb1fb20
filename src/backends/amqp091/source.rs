//! What receives from RabbitMQ.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rand::seq::SliceRandom;
use rustls::ClientConfig;
use tokio::sync::{Mutex, OnceCell, watch};
use tokio::task::JoinError;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use super::incoming::{Dialect, Incoming};
use super::kind::Kind;
use super::link::{Link, Received};
use super::messenger::checked;
use super::session::{NoSession, Session};
use super::settings::Amqp091Settings;
use super::settle::Unanswered;
use super::subscription::Amqp091Subscription;
use super::tally::Tally;
use crate::backends::brokers::{BrokerUrl, BrokersError};
use crate::source::{Source, SourceError, Unsettled};
use crate::util::backoff::Backoff;
use crate::util::error::Chain;

/// Receives from a queue of RabbitMQ: what [`Amqp091`](super::Amqp091) and others send. See the [module](super).
pub struct Amqp091Source {
    shared: Arc<Shared>,
    state: Mutex<State>,
    /// Whether messages are to come.
    wanted: watch::Sender<bool>,
}

/// What sessions and answers share.
pub(super) struct Shared {
    pub(super) settings: Arc<Amqp091Settings>,
    pub(super) subscription: Amqp091Subscription,
    pub(super) tls: Option<Arc<ClientConfig>>,
    /// Of which kind the queue is, once that is known.
    pub(super) kind: OnceCell<Option<Kind>>,
    pub(super) tally: Tally,
    pub(super) closed: CancellationToken,
    /// The answers under way.
    pub(super) answers: TaskTracker,
    urls: Vec<BrokerUrl>,
    dialect: Dialect,
    name: Arc<str>,
}

#[derive(Default)]
struct State {
    session: Phase,
    /// How often in a row it came to nothing.
    failures: u32,
}

#[derive(Default)]
enum Phase {
    #[default]
    Idle,
    /// It leads to a session that consumes nothing yet.
    Opening(Task),
    Paused(Session),
    Resuming(Task),
    Consuming(Session),
    Pausing(Task),
}

type Task = AbortOnDropHandle<Result<Session, NoSession>>;

impl Amqp091Source {
    /// Reads and checks everything the settings name. No connection is made before the first `receive`.
    ///
    /// # Errors
    /// [`BrokersError`] says which setting or file is wrong, and what to do.
    pub fn new(settings: &Amqp091Settings, subscription: &Amqp091Subscription) -> Result<Self, BrokersError> {
        Self::with_dialect(settings, subscription, Dialect::Plain)
    }

    /// As [`new`](Self::new), for what [`Fedmsg`](super::Fedmsg) and others send to Fedora Messaging.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn fedora(
        settings: &Amqp091Settings,
        subscription: &Amqp091Subscription,
    ) -> Result<Self, BrokersError> {
        Self::with_dialect(settings, subscription, Dialect::Fedora)
    }

    fn with_dialect(
        settings: &Amqp091Settings,
        subscription: &Amqp091Subscription,
        dialect: Dialect,
    ) -> Result<Self, BrokersError> {
        let (settings, urls, tls) = checked(settings, dialect == Dialect::Plain)?;
        let subscription = subscription.filled(&settings)?;
        let name = subscription.queue.as_str().into();
        let shared = Shared {
            settings,
            subscription,
            tls,
            kind: OnceCell::new(),
            tally: Tally::default(),
            closed: CancellationToken::new(),
            answers: TaskTracker::new(),
            urls,
            dialect,
            name,
        };
        Ok(Self { shared: Arc::new(shared), state: Mutex::default(), wanted: watch::Sender::new(false) })
    }
}

#[async_trait]
impl Source for Amqp091Source {
    async fn receive(&self, limit: usize) -> Result<Vec<Unsettled>, SourceError> {
        self.wanted.send_replace(true);
        let mut wanted = self.wanted.subscribe();
        loop {
            tokio::select! {
                biased;
                () = self.shared.closed.cancelled() => return Err(SourceError::Closed),
                _ = wanted.wait_for(|wanted| *wanted) => {}
            }
            let received = async { self.state.lock().await.receive(&self.shared, limit.max(1)).await };
            tokio::select! {
                biased;
                () = self.shared.closed.cancelled() => return Err(SourceError::Closed),
                // Gives way to `pause`.
                _ = wanted.wait_for(|wanted| !wanted) => {}
                received = received => return received,
            }
        }
    }

    async fn pause(&self) {
        self.wanted.send_replace(false);
        self.state.lock().await.pause(&self.shared).await;
    }

    async fn close(&self, deadline: Duration) {
        self.shared.closed.cancel();
        self.shared.answers.close();
        let close = async {
            let mut state = self.state.lock().await;
            state.pause(&self.shared).await;
            self.shared.answers.wait().await;
            if let Phase::Paused(session) = std::mem::take(&mut state.session) {
                session.link.close().await;
            }
        };
        if timeout(deadline, close).await.is_err() {
            tracing::warn!(queue = %self.shared.name, ?deadline, "receiving did not end in time");
            if let Ok(mut state) = self.state.try_lock() {
                *state = State::default();
            }
        }
    }

    fn name(&self) -> Arc<str> {
        Arc::clone(&self.shared.name)
    }
}

impl State {
    async fn receive(&mut self, shared: &Arc<Shared>, limit: usize) -> Result<Vec<Unsettled>, SourceError> {
        loop {
            match &mut self.session {
                Phase::Idle => self.session = Phase::Opening(open(Arc::clone(shared), self.failures)),
                Phase::Opening(task) | Phase::Pausing(task) => {
                    let outcome = task.await;
                    self.session = self.got(shared, outcome)?.map_or(Phase::Idle, Phase::Paused);
                }
                Phase::Paused(_) => {
                    if let Phase::Paused(session) = std::mem::take(&mut self.session) {
                        self.session =
                            Phase::Resuming(AbortOnDropHandle::new(tokio::spawn(session.consume())));
                    }
                }
                Phase::Resuming(resuming) => {
                    let resumed = resuming.await;
                    self.session = self.got(shared, resumed)?.map_or(Phase::Idle, Phase::Consuming);
                }
                Phase::Consuming(session) => match session.next(limit).await {
                    Ok(deliveries) => {
                        self.failures = 0;
                        let link = &session.link;
                        return Ok(deliveries.into_iter().map(|raw| shared.delivery(link, raw)).collect());
                    }
                    Err(error) => {
                        let error = Chain(error.as_ref());
                        tracing::warn!(queue = %shared.name, %error, "receiving broke off; connecting again");
                        self.failures = self.failures.saturating_add(1);
                        self.session = Phase::Idle;
                    }
                },
            }
        }
    }

    /// What a task came to: a session, nothing for now, or what a person has to mend.
    fn got(
        &mut self,
        shared: &Shared,
        outcome: Result<Result<Session, NoSession>, JoinError>,
    ) -> Result<Option<Session>, SourceError> {
        self.session = Phase::Idle;
        let NoSession { error, is_refusal } = match outcome {
            Ok(Ok(session)) => return Ok(Some(session)),
            Ok(Err(failed)) => failed,
            Err(error) => NoSession { error: error.into(), is_refusal: false },
        };
        self.failures = self.failures.saturating_add(1);
        tracing::warn!(queue = %shared.name, %error, "cannot receive; trying again");
        if is_refusal { Err(SourceError::Unavailable(error)) } else { Ok(None) }
    }

    /// In a task: dropped half-way, it goes on to its end. What is being opened consumes nothing yet.
    async fn pause(&mut self, shared: &Shared) {
        if let Phase::Resuming(resuming) = &mut self.session {
            let resumed = resuming.await;
            let session = self.got(shared, resumed).ok().flatten();
            self.session = session.map_or(Phase::Idle, Phase::Consuming);
        }
        self.session = match std::mem::take(&mut self.session) {
            Phase::Consuming(session) => {
                Phase::Pausing(AbortOnDropHandle::new(tokio::spawn(session.pause())))
            }
            other => other,
        };
        if let Phase::Pausing(pausing) = &mut self.session {
            let paused = pausing.await;
            let session = self.got(shared, paused).ok().flatten();
            self.session = session.map_or(Phase::Idle, Phase::Paused);
        }
    }
}

/// Tries each broker once, in a random order, after the backoff.
fn open(shared: Arc<Shared>, failures: u32) -> Task {
    AbortOnDropHandle::new(tokio::spawn(async move {
        if let Some(attempt) = failures.checked_sub(1) {
            tokio::time::sleep(Backoff::default().delay(attempt)).await;
        }
        let mut urls: Vec<_> = shared.urls.iter().collect();
        urls.shuffle(&mut rand::rng());
        let (mut reasons, mut is_refusal) = (Vec::new(), false);
        let limit = shared.settings.connection_timeout;
        for url in urls {
            match timeout(limit, Session::open(&shared, url)).await {
                Ok(Ok(session)) => {
                    tracing::info!(queue = %shared.name, broker = %url, "connected, to receive");
                    return Ok(session);
                }
                Ok(Err(failed)) => {
                    is_refusal |= failed.is_refusal;
                    reasons.push(format!("{url}: {}", Chain(failed.error.as_ref())));
                }
                Err(_) => reasons.push(format!("{url}: no connection within {limit:?}")),
            }
        }
        Err(NoSession { error: reasons.join("; ").into(), is_refusal })
    }))
}

impl Shared {
    /// Whether the queue counts the deliveries that were not acknowledged.
    pub(super) fn is_quorum(&self) -> bool {
        self.kind.get().and_then(Option::as_ref).is_some_and(|kind| kind.is_quorum)
    }

    fn delivery(&self, link: &Arc<Link>, received: Received) -> Unsettled {
        let Received { delivery: raw, fault, came_back, held } = received;
        let redelivered = raw.redelivered;
        let (mut incoming, acker) = Incoming::new(raw, &self.subscription.queue);
        incoming.unanswered = match self.is_quorum() {
            true if redelivered => incoming.delivery_count().saturating_sub(came_back.into()),
            true => 0,
            false => self.tally.of(&incoming),
        };
        let prefix = self.settings.topic_prefix.as_deref();
        let message = match fault {
            Some(fault) => Err(fault.into()),
            None => incoming.decode(self.dialect, prefix, &self.subscription.queue),
        };
        let message = message.and_then(|message| self.settings.envelope.open(message));
        let (failed, failures) = (incoming.failed(), incoming.failures());
        let unanswered = |id| Unanswered { link: Arc::clone(link), acker, incoming, id, _held: held };
        match message {
            Ok(message) => {
                let settle = unanswered(Some(message.id()));
                let attempt = failed.saturating_add(1);
                Unsettled::new(message, attempt, redelivered, Arc::clone(&self.name), failures, settle)
                    .with_event(self.settings.envelope.is_event())
            }
            Err(error) => Unsettled::poison(Chain(error.as_ref()).to_string(), unanswered(None)),
        }
    }
}

impl fmt::Debug for Amqp091Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Amqp091Source")
            .field("urls", &self.shared.urls)
            .field("queue", &self.shared.name)
            .finish_non_exhaustive()
    }
}
