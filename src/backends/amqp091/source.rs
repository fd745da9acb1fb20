//! The source for RabbitMQ.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use rand::seq::SliceRandom;
use tokio::sync::{Mutex, OnceCell, watch};
use tokio::task::JoinError;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use super::attempts::Attempts;
use super::incoming::Dialect;
use super::messenger::checked;
use super::settings::Amqp091Settings;
use super::source_context::SourceContext;
use super::source_session::{SessionError, SourceSession, unsettled};
use super::subscription::Amqp091Subscription;
use crate::backends::brokers::BrokersError;
use crate::source::{Source, SourceError, Unsettled};
use crate::util::backoff::Backoff;
use crate::util::error::Chain;
use crate::util::repeated::Repeated;
use crate::util::sync::lock;

/// Receives from a queue of RabbitMQ. The [module](super) documents how messages are read and settled.
pub struct Amqp091Source {
    context: Arc<SourceContext>,
    state: Mutex<SourceState>,
    /// Whether the source receives; false during a pause.
    wanted: watch::Sender<bool>,
}

#[derive(Default)]
struct SourceState {
    session: Phase,
    /// The failures in a row.
    failures: u32,
    /// The log lines about them.
    unreachable: Repeated,
}

#[derive(Default)]
enum Phase {
    #[default]
    Idle,
    /// Opens a session that does not consume yet.
    Opening(Task),
    Paused(SourceSession),
    Resuming(Task),
    Consuming(SourceSession),
    Pausing(Task),
}

type Task = AbortOnDropHandle<Result<SourceSession, SessionError>>;

impl Amqp091Source {
    /// Reads and checks the settings and their files. It connects with the first `receive`.
    ///
    /// # Errors
    /// [`BrokersError`] names the wrong setting or file, and the cure.
    pub fn new(settings: &Amqp091Settings, subscription: &Amqp091Subscription) -> Result<Self, BrokersError> {
        Self::with_dialect(settings, subscription, Dialect::Plain)
    }

    /// As [`new`](Self::new), for messages of Fedora Messaging, such as those of [`Fedmsg`](super::Fedmsg).
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
        let (settings, (urls, tls)) = checked(settings, dialect == Dialect::Plain)?;
        let subscription = subscription.filled(&settings)?;
        let name = subscription.queue.as_str().into();
        let context = SourceContext {
            settings,
            subscription,
            tls,
            kind: OnceCell::new(),
            attempts: Attempts::default(),
            closed: CancellationToken::new(),
            answers: TaskTracker::new(),
            urls,
            dialect,
            name,
            looking: std::sync::Mutex::default(),
        };
        Ok(Self { context: Arc::new(context), state: Mutex::default(), wanted: watch::Sender::new(false) })
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
                () = self.context.closed.cancelled() => return Err(SourceError::Closed),
                _ = wanted.wait_for(|wanted| *wanted) => {}
            }
            let received = async { self.state.lock().await.receive(&self.context, limit.max(1)).await };
            tokio::select! {
                biased;
                () = self.context.closed.cancelled() => return Err(SourceError::Closed),
                // Gives way to `pause`.
                _ = wanted.wait_for(|wanted| !wanted) => {}
                received = received => return received,
            }
        }
    }

    async fn pause(&self) {
        self.wanted.send_replace(false);
        self.state.lock().await.pause(&self.context).await;
    }

    async fn close(&self, deadline: Duration) {
        self.context.closed.cancel();
        self.context.answers.close();
        let close = async {
            let mut state = self.state.lock().await;
            state.pause(&self.context).await;
            self.context.answers.wait().await;
            if let Phase::Paused(session) = std::mem::take(&mut state.session) {
                session.link.close().await;
            }
        };
        if timeout(deadline, close).await.is_err() {
            tracing::warn!(queue = %self.context.name, ?deadline, "could not stop receiving within the deadline");
            if let Ok(mut state) = self.state.try_lock() {
                *state = SourceState::default();
            }
        }
    }

    /// The messages that are ready in the queue.
    async fn backlog(&self) -> Option<u64> {
        let (channel, queue) =
            (lock(&self.context.looking).clone()?, self.context.subscription.queue.as_str());
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let declared = channel.queue_declare(queue.into(), passive, FieldTable::default()).await;
        Some(declared.ok()?.message_count().into())
    }

    fn name(&self) -> Arc<str> {
        Arc::clone(&self.context.name)
    }
}

impl SourceState {
    async fn receive(
        &mut self,
        context: &Arc<SourceContext>,
        limit: usize,
    ) -> Result<Vec<Unsettled>, SourceError> {
        loop {
            match &mut self.session {
                Phase::Idle => self.session = Phase::Opening(open(Arc::clone(context), self.failures)),
                Phase::Opening(task) | Phase::Pausing(task) => {
                    let outcome = task.await;
                    self.session = self.got(context, outcome)?.map_or(Phase::Idle, Phase::Paused);
                }
                Phase::Paused(_) => {
                    if let Phase::Paused(session) = std::mem::take(&mut self.session) {
                        self.session =
                            Phase::Resuming(AbortOnDropHandle::new(tokio::spawn(session.consume())));
                    }
                }
                Phase::Resuming(resuming) => {
                    let resumed = resuming.await;
                    self.session = self.got(context, resumed)?.map_or(Phase::Idle, Phase::Consuming);
                }
                Phase::Consuming(session) => match session.next(limit).await {
                    Ok(deliveries) => {
                        self.failures = 0;
                        self.unreachable.over();
                        let link = &session.link;
                        return Ok(deliveries.into_iter().map(|raw| unsettled(context, link, raw)).collect());
                    }
                    Err(error) => {
                        let error = Chain(error.as_ref());
                        tracing::warn!(queue = %context.name, %error, "lost the connection while receiving; reconnecting");
                        self.failures = self.failures.saturating_add(1);
                        self.session = Phase::Idle;
                    }
                },
            }
        }
    }

    /// The result of a task: a session, none for now, or a permanent error.
    fn got(
        &mut self,
        context: &SourceContext,
        outcome: Result<Result<SourceSession, SessionError>, JoinError>,
    ) -> Result<Option<SourceSession>, SourceError> {
        self.session = Phase::Idle;
        let SessionError { error, is_permanent } = match outcome {
            Ok(Ok(session)) => return Ok(Some(session)),
            Ok(Err(failed)) => failed,
            Err(error) => SessionError { error: error.into(), is_permanent: false },
        };
        self.failures = self.failures.saturating_add(1);
        if let Some(line) = self.unreachable.occurred() {
            tracing::warn!(queue = %context.name, %error, times = line.times, "failed to start receiving; retrying");
        }
        if is_permanent { Err(SourceError::Unavailable(error)) } else { Ok(None) }
    }

    /// Pauses in a task, which runs to its end if this is dropped. A session that is being opened does not consume yet.
    async fn pause(&mut self, context: &SourceContext) {
        if let Phase::Resuming(resuming) = &mut self.session {
            let resumed = resuming.await;
            let session = self.got(context, resumed).ok().flatten();
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
            let session = self.got(context, paused).ok().flatten();
            self.session = session.map_or(Phase::Idle, Phase::Paused);
        }
    }
}

/// Tries each broker once, in a random order, after the backoff.
fn open(context: Arc<SourceContext>, failures: u32) -> Task {
    AbortOnDropHandle::new(tokio::spawn(async move {
        if let Some(attempt) = failures.checked_sub(1) {
            tokio::time::sleep(Backoff::default().delay(attempt)).await;
        }
        let mut urls: Vec<_> = context.urls.iter().collect();
        urls.shuffle(&mut rand::rng());
        let (mut reasons, mut is_permanent) = (Vec::new(), false);
        let limit = context.settings.broker.connection_timeout();
        for url in urls {
            match timeout(limit, SourceSession::open(&context, url)).await {
                Ok(Ok(session)) => {
                    tracing::info!(queue = %context.name, broker = %url, "connected for receiving");
                    return Ok(session);
                }
                Ok(Err(failed)) => {
                    is_permanent |= failed.is_permanent;
                    reasons.push(format!("{url}: {}", Chain(failed.error.as_ref())));
                }
                Err(_) => reasons.push(format!("{url}: no connection within {limit:?}")),
            }
        }
        Err(SessionError { error: reasons.join("; ").into(), is_permanent })
    }))
}

impl fmt::Debug for Amqp091Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Amqp091Source")
            .field("urls", &self.context.urls)
            .field("queue", &self.context.name)
            .finish_non_exhaustive()
    }
}
