//! One connection to one broker: how it is opened and closed, and whether the broker blocks it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::stream::StreamExt;
use lapin::runtime::default_runtime;
use lapin::tcp::{AsyncTcpStream, RustlsConnector};
use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo, SASLMechanism};
use lapin::{Channel, ConnectionProperties, ErrorKind, Event};
use rustls::ClientConfig;
use tokio::sync::{Mutex, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::guard::{self, FRAME_MAX, Findings, Guarded, GuardedRuntime};
use super::limits::Limits;
use super::quiet::{quiet, silence};
use super::settings::Amqp091Settings;
use crate::backends::brokers::{BrokerUrl, Sasl};
use crate::messenger::Failure;
use crate::tls;
use crate::util::error::BoxError;

/// How long a peer may take to close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// A connection that is open, or was. A clone is a handle to it.
#[derive(Clone)]
pub(super) struct Connection {
    connection: Arc<lapin::Connection>,
    pub(super) findings: Arc<Findings>,
    pub(super) channel: Arc<Mutex<Option<Channel>>>,
    /// The channel for finding the message at fault.
    pub(super) trial: Arc<Mutex<Option<Channel>>>,
    pub(super) window: Arc<Semaphore>,
    /// Locked while a message is numbered and queued, which lapin does separately.
    pub(super) numbering: Arc<std::sync::Mutex<()>>,
    /// Locked by a batch with mandatory messages.
    pub(super) mandatory: Arc<Mutex<()>>,
    /// The reason for which the broker blocks publishers, while it does.
    pub(super) blocked: watch::Receiver<Option<String>>,
    pub(super) limits: Limits,
    /// Set when the client closes it.
    given_up: Arc<AtomicBool>,
    pub(super) send_timeout: Duration,
}

/// Connects and authenticates; `room` is the memory for received bodies in bytes.
pub(super) async fn open(
    settings: &Amqp091Settings,
    tls: Option<Arc<ClientConfig>>,
    url: &BrokerUrl,
    room: usize,
) -> Result<Connection, BoxError> {
    let external = is_external(settings, url);
    let uri = uri(settings, url, external);
    let app = settings.app.as_deref().unwrap_or("tower-outbox");
    let properties = ConnectionProperties::default()
        .with_client_property("app".into(), app.as_bytes().to_vec().into())
        .with_connection_name(app.as_bytes().to_vec().into());
    let dialling = default_runtime()?;
    let findings = Arc::new(Findings::new(room));
    let guard_findings = Arc::clone(&findings);
    // lapin connects in a thread of its own, which would wait for a silent peer long after the timeout.
    let abandoned = CancellationToken::new();
    let waiting = abandoned.clone().drop_guard();
    let connect = async move |uri: AMQPUri, _: GuardedRuntime| {
        silence();
        let dial = async {
            let (host, port) = (uri.authority.host, uri.authority.port);
            // The runtime's own lookup panics when the runtime stops meanwhile, as at an early end of `main`.
            let addresses: Vec<_> = tokio::net::lookup_host((host.as_str(), port)).await?.collect();
            let mut stream = AsyncTcpStream::connect(&dialling, addresses).await?;
            if let (Some(config), AMQPScheme::AMQPS) = (&tls, uri.scheme) {
                stream = stream.into_rustls(&RustlsConnector::from(Arc::clone(config)), &host).await?;
            }
            lapin::Result::Ok(stream)
        };
        let stream = abandoned.run_until_cancelled(dial).await;
        let stream = stream.unwrap_or_else(|| Err(io::Error::from(io::ErrorKind::TimedOut).into()))?;
        Ok(AsyncTcpStream::Plain(Guarded::new(stream, Arc::clone(&guard_findings), abandoned.clone())))
    };
    let connection = quiet(lapin::Connection::connector(uri, guard::runtime(), connect, properties)).await;
    let connection = connection.map_err(|error| explained(error, external, url))?;
    waiting.disarm();

    let mut events = connection.events_listener();
    let (sender, blocked) = watch::channel(None);
    tokio::spawn(async move {
        while let Some(event) = events.next().await {
            match event {
                Event::ConnectionBlocked(reason) => {
                    tracing::warn!(%reason, "the broker blocks publishers");
                    sender.send_replace(Some(reason));
                }
                Event::ConnectionUnblocked => {
                    sender.send_replace(None);
                }
                _ => {}
            }
        }
    });
    Ok(Connection {
        connection: Arc::new(connection),
        findings,
        channel: Arc::default(),
        trial: Arc::default(),
        window: Arc::new(Semaphore::new(settings.broker.window as usize)),
        numbering: Arc::default(),
        mandatory: Arc::default(),
        blocked,
        limits: Limits::default(),
        given_up: Arc::default(),
        send_timeout: settings.broker.send_timeout(),
    })
}

fn is_external(settings: &Amqp091Settings, url: &BrokerUrl) -> bool {
    match settings.broker.sasl {
        Sasl::External => true,
        Sasl::Auto => settings.broker.certificate.is_some() && url.is_tls(),
        _ => false,
    }
}

fn uri(settings: &Amqp091Settings, url: &BrokerUrl, external: bool) -> AMQPUri {
    let (username, password) =
        url.credentials().map_or(("guest", "guest"), |(user, secret)| (user, secret.expose()));
    let mechanism = match (external, settings.broker.sasl) {
        (true, _) => SASLMechanism::External,
        (false, Sasl::Anonymous) => SASLMechanism::Anonymous,
        _ => SASLMechanism::Plain,
    };
    AMQPUri {
        scheme: if url.is_tls() { AMQPScheme::AMQPS } else { AMQPScheme::AMQP },
        authority: AMQPAuthority {
            userinfo: AMQPUserInfo { username: username.to_owned(), password: password.to_owned() },
            host: url.host().to_owned(),
            port: url.port(),
        },
        vhost: url.vhost().unwrap_or("/").to_owned(),
        query: AMQPQueryString {
            auth_mechanism: Some(mechanism),
            // Silence of twice this long ends the connection.
            heartbeat: Some(
                u16::try_from(settings.broker.idle_timeout.as_secs() / 2).unwrap_or(u16::MAX).max(1),
            ),
            // lapin allocates 32 frames of the size that the broker asks for.
            frame_max: u32::try_from(FRAME_MAX).ok(),
            ..AMQPQueryString::default()
        },
    }
}

/// The error, or its explanation with the cure.
fn explained(error: lapin::Error, external: bool, url: &BrokerUrl) -> BoxError {
    match error.kind() {
        ErrorKind::IOError(io) if io.kind() == io::ErrorKind::InvalidData && tls::explain(io).is_none() => {
            io.to_string().into()
        }
        ErrorKind::IOError(io) => tls::explain(io).map_or_else(|| error.into(), Into::into),
        // RabbitMQ: "NOT_ALLOWED - vhost x not found", or "access to vhost 'x' refused for user 'y'".
        ErrorKind::ProtocolError(amqp) if amqp.get_id() == 530 && amqp.get_message().as_str().contains("vhost") => {
            let (vhost, message) = (url.vhost().unwrap_or("/"), amqp.get_message());
            format!("no virtual host {vhost:?} for this client: the path of URLS names it; check its name and the permissions of the user ({message})").into()
        }
        ErrorKind::ProtocolError(amqp) if amqp.get_id() == 403 && external => {
            format!("the broker rejected SASL EXTERNAL: it has no user for the subject of the client certificate ({})", amqp.get_message()).into()
        }
        ErrorKind::ProtocolError(amqp) if amqp.get_id() == 403 => {
            format!("the broker rejected SASL PLAIN: check user and password in URLS ({})", amqp.get_message()).into()
        }
        _ => error.into(),
    }
}

impl Connection {
    pub(super) fn is_closed(&self) -> bool {
        !self.connection.status().connected()
    }

    pub(super) fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::Relaxed)
    }

    pub(super) fn blocked(&self) -> Option<String> {
        self.blocked.borrow().as_ref().map(|reason| format!("the broker blocks publishers: {reason}"))
    }

    pub(super) async fn close(&self) {
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, self.connection.close(200, "bye".into())).await;
    }

    /// The largest frame that both sides agreed on.
    pub(super) fn frame_max(&self) -> u32 {
        self.connection.configuration().frame_max()
    }

    /// A channel of its own.
    pub(super) async fn new_channel(&self) -> lapin::Result<Channel> {
        self.connection.create_channel().await
    }

    /// Closes the connection of a broker that does not respond.
    pub(super) fn give_up(&self) {
        self.given_up.store(true, Ordering::Relaxed);
        let connection = Arc::clone(&self.connection);
        tokio::spawn(async move { drop(connection.close(320, "no answer in time".into()).await) });
    }

    pub(super) fn overdue(&self) -> Failure {
        match self.blocked() {
            Some(reason) => Failure::transient(reason),
            None => Failure::transient("the broker gave no confirm within SEND_TIMEOUT"),
        }
    }
}
