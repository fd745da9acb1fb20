//! One connection to one broker: the task that owns it, and the links on it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fe2o3_amqp::Session;
use fe2o3_amqp::connection::{Connection as AmqpConnection, ConnectionHandle};
use fe2o3_amqp::session::SessionHandle;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;

use super::failure::{ConnectionClosed, LinkLost, describe};
use super::guard::{Guarded, HeldBytes, MAX_FRAME_SIZE};
use super::lifeline::Lifeline;
use super::outgoing::AmqpMessage;
use super::sasl::{self, Identity, Mechanism, SaslError};
use super::sender_link::{self, Job, LinkKind, LinkOptions, Sequence};
use super::settings::Amqp10Settings;
use crate::backends::brokers::{BrokerUrl, Dialer, Sasl};
use crate::messenger::Failure;
use crate::tls;
use crate::util::deadline::after;
use crate::util::error::BoxError;

/// The most links that are kept; the least recently used one is closed first.
const MAX_LINKS: usize = 64;
/// How long a peer may take to close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Dials, authenticates and opens a connection, with a unique container id unless one is given.
pub(super) async fn open(
    settings: &Amqp10Settings,
    dialer: &Dialer,
    url: &BrokerUrl,
    container_id: Option<&str>,
) -> Result<Connection, BoxError> {
    let opened = match try_open(settings, dialer, url, container_id, None).await {
        Err(OpenError::Sasl(SaslError::BrokenOff { mechanism: "EXTERNAL", .. }))
            if settings.broker.sasl == Sasl::Auto =>
        {
            tracing::warn!(broker = %url, "the broker disconnected during SASL EXTERNAL; retrying with ANONYMOUS");
            try_open(settings, dialer, url, container_id, Some(Mechanism::Anonymous)).await
        }
        opened => opened,
    };
    opened.map_err(OpenError::explained)
}

async fn try_open(
    settings: &Amqp10Settings,
    dialer: &Dialer,
    url: &BrokerUrl,
    container_id: Option<&str>,
    mechanism: Option<Mechanism>,
) -> Result<Connection, OpenError> {
    let mut stream = dialer.dial(url).await.map_err(OpenError::Dial)?;
    let identity = Identity {
        sasl: settings.broker.sasl,
        certificate: settings.broker.certificate.is_some() && url.is_tls(),
        credentials: url.credentials(),
        host: url.host(),
    };
    sasl::authenticate(&mut stream, &identity, mechanism).await.map_err(OpenError::Sasl)?;
    let unique = || uuid::Builder::from_random_bytes(rand::random()).into_uuid().to_string();
    let idle = u32::try_from(settings.broker.idle_timeout.as_millis()).unwrap_or(u32::MAX);
    let held = Arc::new(HeldBytes::default());
    let handle = AmqpConnection::builder()
        .container_id(container_id.map_or_else(unique, str::to_owned))
        .hostname(url.host())
        .idle_time_out(idle)
        .max_frame_size(MAX_FRAME_SIZE)
        .open_with_stream(Guarded::new(stream, Arc::clone(&held)))
        .await
        .map_err(OpenError::Open)?;

    let lifeline = Lifeline::default();
    let (sessions, requests) = mpsc::channel(1);
    tokio::spawn(own(handle, requests, lifeline.clone()));
    Ok(Connection {
        sessions,
        lifeline,
        links: Mutex::default(),
        opening: tokio::sync::Mutex::default(),
        tasks: TaskTracker::new(),
        window: settings.broker.window as usize,
        send_timeout: settings.broker.send_timeout(),
        held,
    })
}

#[derive(Debug, thiserror::Error)]
enum OpenError {
    #[error("cannot connect")]
    Dial(#[source] std::io::Error),
    #[error(transparent)]
    Sasl(SaslError),
    #[error("the broker did not open the connection")]
    Open(#[source] fe2o3_amqp::connection::OpenError),
}

impl OpenError {
    /// The error, or its explanation if TLS is the cause.
    fn explained(self) -> BoxError {
        let io = match &self {
            Self::Dial(io)
            | Self::Sasl(SaslError::Io(io) | SaslError::BrokenOff { source: io, .. })
            | Self::Open(fe2o3_amqp::connection::OpenError::Io(io)) => tls::explain(io),
            _ => None,
        };
        io.map_or_else(|| self.into(), Into::into)
    }
}

/// Whether the error is permanent: credentials or the kind of connection, not a broker that is down.
pub(super) fn is_to_mend(error: &BoxError) -> bool {
    match error.downcast_ref() {
        Some(OpenError::Dial(_)) => false,
        Some(OpenError::Sasl(error)) => !matches!(error, SaslError::BrokenOff { .. } | SaslError::Io(_)),
        Some(OpenError::Open(error)) => {
            matches!(error, fe2o3_amqp::connection::OpenError::RemoteClosedWithError(_))
        }
        // An explained TLS error.
        None => true,
    }
}

/// A connection that is open, or was.
pub(super) struct Connection {
    sessions: mpsc::Sender<oneshot::Sender<Result<SessionHandle<()>, Failure>>>,
    lifeline: Lifeline,
    links: Mutex<Links>,
    opening: tokio::sync::Mutex<()>,
    tasks: TaskTracker,
    window: usize,
    send_timeout: Duration,
    held: Arc<HeldBytes>,
}

#[derive(Default)]
struct Links {
    by_address: HashMap<String, (Jobs, u64)>,
    uses: u64,
    opened: u64,
}

type Jobs = mpsc::UnboundedSender<Job>;

/// The answer to one message.
pub(super) type Answer = oneshot::Receiver<Result<(), Failure>>;

impl Connection {
    /// A batch whose messages keep their order on each address; `joined` when it has more than one.
    pub(super) fn batch(&self, joined: bool) -> Batch<'_> {
        Batch { connection: self, joined, kind: LinkKind::Topic, links: Vec::new() }
    }

    /// A reply to a caller, whose node may be gone or stuck: only its own link ends then.
    pub(super) fn reply(&self) -> Batch<'_> {
        Batch { kind: LinkKind::Caller, ..self.batch(false) }
    }

    /// Whether no new message may go over it.
    pub(super) fn is_closed(&self) -> bool {
        self.lifeline.failure().is_some() || self.lifeline.is_retired()
    }

    /// Closes links, sessions and connection, in this order, once every outcome is known.
    pub(super) async fn close(&self) {
        self.links().by_address.clear();
        self.tasks.close();
        self.tasks.wait().await;
        self.lifeline.cut(&Failure::transient(LinkLost("the messenger is closed".to_owned())));
        self.sessions.closed().await;
    }

    fn link(&self, address: &str) -> Option<Jobs> {
        let mut links = self.links();
        links.uses += 1;
        let uses = links.uses;
        let (jobs, last_use) = links.by_address.get_mut(address)?;
        *last_use = uses;
        (!jobs.is_closed()).then(|| jobs.clone())
    }

    async fn open_link(&self, address: &str, kind: LinkKind) -> Result<Jobs, Failure> {
        let _one_at_a_time = self.opening.lock().await;
        if let Some(jobs) = self.link(address) {
            return Ok(jobs);
        }
        let session = self.begin_session().await?;
        let (jobs, receiver) = mpsc::unbounded_channel();
        let mut links = self.links();
        links.opened += 1;
        let options = LinkOptions {
            name: format!("tower-outbox-{}-{address}", links.opened),
            address: address.to_owned(),
            window: self.window,
            attach_timeout: self.send_timeout,
            kind,
        };
        self.tasks.spawn(sender_link::run(session, options, receiver, self.lifeline.clone()));
        let uses = links.uses;
        links.by_address.insert(address.to_owned(), (jobs.clone(), uses));
        if links.by_address.len() > MAX_LINKS {
            let oldest = links.by_address.iter().min_by_key(|(_, (_, last_use))| *last_use);
            if let Some(oldest) = oldest.map(|(address, _)| address.clone()) {
                // The task ends after its outcomes, as no job can arrive any more.
                links.by_address.remove(&oldest);
            }
        }
        Ok(jobs)
    }

    pub(super) fn lifeline(&self) -> &Lifeline {
        &self.lifeline
    }

    /// The bytes of messages that arrived over it and are still in memory.
    pub(super) fn held(&self) -> Arc<HeldBytes> {
        Arc::clone(&self.held)
    }

    /// A session for one link.
    pub(super) async fn begin_session(&self) -> Result<SessionHandle<()>, Failure> {
        let lost = || Failure::transient(LinkLost("the connection was closed".to_owned()));
        let begin = async {
            let (reply, session) = oneshot::channel();
            self.sessions.send(reply).await.map_err(|_| lost())?;
            session.await.map_err(|_| lost())?
        };
        match timeout(self.send_timeout, begin).await {
            Ok(session) => session.map_err(|failure| self.lifeline.failure().unwrap_or(failure)),
            Err(_) => {
                let failure =
                    Failure::transient(LinkLost("no answer to begin within SEND_TIMEOUT".to_owned()));
                self.lifeline.cut(&failure);
                Err(failure)
            }
        }
    }

    fn links(&self) -> MutexGuard<'_, Links> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The links of a batch, which it keeps so that no message overtakes another one on a newer link.
pub(super) struct Batch<'a> {
    connection: &'a Connection,
    joined: bool,
    kind: LinkKind,
    links: Vec<(String, Jobs, Option<Sequence>)>,
}

impl Batch<'_> {
    /// Sends one message, and waits for its outcome.
    pub(super) async fn deliver(mut self, address: String, message: AmqpMessage) -> Result<(), Failure> {
        let answer = self.send(address, message).await?;
        answer.await.unwrap_or_else(|_| Err(Failure::transient(LinkLost("it was closed".to_owned()))))
    }

    /// Hands one message to the link of its address.
    pub(super) async fn send(&mut self, address: String, message: AmqpMessage) -> Result<Answer, Failure> {
        let deadline = after(Instant::now(), self.connection.send_timeout);
        if let Some((_, jobs, sequence)) = self.links.iter().find(|(known, ..)| *known == address) {
            let (job, answer) = Job::new(message, deadline, sequence.clone());
            // A job that cannot be sent replies that its link was lost.
            drop(jobs.send(job));
            return Ok(answer);
        }
        let sequence = self.joined.then(Sequence::default);
        let (mut job, answer) = Job::new(message, deadline, sequence.clone());
        let jobs = loop {
            let jobs = match self.connection.link(&address) {
                Some(jobs) => jobs,
                None => self.connection.open_link(&address, self.kind).await?,
            };
            match jobs.send(job) {
                Ok(()) => break jobs,
                // The link ended in between: the first message takes a new one.
                Err(mpsc::error::SendError(unsent)) => job = unsent,
            }
        };
        if self.joined {
            self.links.push((address, jobs, sequence));
        }
        Ok(answer)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.lifeline.cut(&Failure::transient(LinkLost("the connection was dropped".to_owned())));
    }
}

/// Owns the connection: begins sessions on it, and cuts the lifeline when it ends.
async fn own(
    mut handle: ConnectionHandle<()>,
    mut requests: mpsc::Receiver<oneshot::Sender<Result<SessionHandle<()>, Failure>>>,
    lifeline: Lifeline,
) {
    loop {
        tokio::select! {
            biased;
            _ = lifeline.lost() => {
                let _ = timeout(CLOSE_TIMEOUT, handle.close()).await;
                return;
            }
            result = handle.on_close() => {
                let failure = match result {
                    Err(fe2o3_amqp::connection::Error::RemoteClosedWithError(error)) => {
                        Failure::transient(ConnectionClosed(describe(&error)))
                    }
                    Err(error) => Failure::transient(LinkLost(error.to_string())),
                    Ok(()) => Failure::transient(LinkLost("the broker closed the connection".to_owned())),
                };
                tracing::warn!(why = %failure.cause(), "lost the connection to the broker");
                return lifeline.cut(&failure);
            }
            Some(reply) = requests.recv() => {
                // A broker that never answers `begin` must not hide the loss of its connection.
                let session = tokio::select! {
                    session = Session::begin(&mut handle) => session.map_err(|error| Failure::transient(LinkLost(error.to_string()))),
                    failure = lifeline.lost() => Err(failure),
                };
                let _ = reply.send(session);
            }
        }
    }
}
