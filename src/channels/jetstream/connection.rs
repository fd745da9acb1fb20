//! The connection of an engine. The client library connects again by itself; a request whose answer a lost connection took is made again.
//! Over a header with a carriage return the client panics: another one takes its place.

use std::error::Error;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::client::{Request, RequestErrorKind};
use async_nats::{
    Client, ConnectErrorKind, ConnectOptions, Event, HeaderMap, Message, ServerAddr, Subscriber,
};
use bytes::Bytes;
use rustls::ClientConfig;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use super::error::{Fault, JetstreamError, Refusal};
use super::settings::JetstreamEngineSettings;
use super::suspects::Suspects;
use crate::backends::brokers::BrokerUrl;
use crate::channels::error::EngineError;
use crate::tls;
use crate::util::error::Chain;
use crate::util::sync::lock;

/// How long a request waits for its answer before it is made again.
const ATTEMPT: Duration = Duration::from_secs(2);
/// The pause before a request that no server can answer now is made again.
const PAUSE: Duration = Duration::from_millis(100);

/// A connection to one of the servers. All requests may be made twice: those that change something carry an id.
pub(super) struct Connection {
    /// The client, and its end.
    client: Mutex<(Client, CancellationToken)>,
    settings: JetstreamEngineSettings,
    api_prefix: String,
    link: Arc<watch::Sender<Link>>,
    /// The consumers that may have delivered what cannot be read.
    pub(super) suspects: Suspects,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Link {
    lost: u64,
    is_up: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Answer<T> {
    Refused { error: Refusal },
    Done(T),
}

/// The confirm of a stream.
#[derive(Debug, Deserialize)]
pub(super) struct Stored {
    #[serde(default)]
    pub(super) seq: u64,
}

impl Connection {
    pub(super) async fn open(settings: &JetstreamEngineSettings) -> Result<Self, JetstreamError> {
        let link = Arc::new(watch::Sender::new(Link { lost: 0, is_up: true }));
        let (client, ended) = open_client(settings, &link).await?;
        if !client.is_server_compatible(2, 12, 0) {
            return Err(JetstreamError::TooOld(client.server_info().version));
        }
        Ok(Self {
            client: Mutex::new((client, ended)),
            settings: settings.clone(),
            api_prefix: settings.api_prefix(),
            link,
            suspects: Suspects::default(),
        })
    }

    pub(super) fn client(&self) -> Client {
        lock(&self.client).0.clone()
    }

    /// Opens another client whenever the client has ended. It never completes.
    pub(super) async fn renew_client(&self) {
        loop {
            let ended = lock(&self.client).1.clone();
            ended.cancelled().await;
            tracing::error!(
                "the client of NATS has panicked, as over a message that it cannot read; connecting the channels anew"
            );
            match open_client(&self.settings, &self.link).await {
                Ok(opened) => *lock(&self.client) = opened,
                Err(error) => {
                    tracing::warn!(%error, "failed to connect the channels; trying again");
                    sleep(PAUSE * 10).await;
                }
            }
        }
    }

    /// When a request that is made now is given up.
    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.settings.broker.send_timeout()
    }

    pub(super) fn is_up(&self) -> bool {
        self.link.borrow().is_up
    }

    /// Completes when the connection is lost after `since`, a number of [`losses`](Self::losses).
    pub(super) async fn lost(&self, since: u64) {
        let _ = self.link.subscribe().wait_for(|link| link.lost != since).await;
    }

    /// Returns how often the connection was lost.
    pub(super) fn losses(&self) -> u64 {
        self.link.borrow().lost
    }

    /// Completes when the connection is up.
    pub(super) async fn up(&self) {
        let _ = self.link.subscribe().wait_for(|link| link.is_up).await;
    }

    /// Subscribes to a subject, as a member of a group or alone.
    pub(super) async fn subscribe(
        &self,
        subject: &str,
        group: Option<&str>,
    ) -> Result<Subscriber, EngineError> {
        let (client, subject) = (self.client(), subject.to_owned());
        let subscribed = match group {
            Some(group) => client.queue_subscribe(subject, group.to_owned()).await,
            None => client.subscribe(subject).await,
        };
        subscribed.map_err(EngineError::unavailable)
    }

    /// Makes a request until it is answered, or known to have no responder.
    pub(super) async fn request(
        &self,
        subject: &str,
        headers: Option<HeaderMap>,
        payload: Bytes,
        deadline: Instant,
    ) -> Result<Message, Fault> {
        loop {
            if timeout_at(deadline, self.up()).await.is_err() {
                return Err(EngineError::unavailable("there is no connection to a NATS server").into());
            }
            let (client, losses) = (self.client(), self.losses());
            let wait = ATTEMPT.min(deadline.saturating_duration_since(Instant::now()));
            let mut request = Request::new().payload(payload.clone()).timeout(Some(wait));
            if let Some(headers) = &headers {
                request = request.headers(headers.clone());
            }
            let answer = tokio::select! {
                biased;
                answer = client.send_request(subject.to_owned(), request) => answer,
                () = self.lost(losses) => continue,
            };
            let error = match answer {
                Ok(message) => return Ok(message),
                Err(error) => error,
            };
            match error.kind() {
                RequestErrorKind::NoResponders => return Err(Fault::NoResponders),
                RequestErrorKind::MaxPayloadExceeded => return Err(self.too_large(0).into()),
                RequestErrorKind::InvalidSubject => {
                    return Err(EngineError::Invalid(format!("NATS refuses the subject {subject:?}")).into());
                }
                _ if Instant::now() >= deadline => {
                    return Err(EngineError::unavailable("the NATS server gave no answer in time").into());
                }
                RequestErrorKind::TimedOut => {}
                // The client has ended.
                _ => sleep_until((Instant::now() + PAUSE).min(deadline)).await,
            }
        }
    }

    /// Makes a request to JetStream, also while it elects a leader.
    pub(super) async fn api<T: DeserializeOwned>(
        &self,
        subject: &str,
        payload: &(impl Serialize + Sync),
    ) -> Result<T, Fault> {
        let payload = serde_json::to_vec(payload).map_err(EngineError::unavailable)?;
        self.answered(&format!("{}.{subject}", self.api_prefix), None, payload.into()).await
    }

    /// Publishes to a stream. The headers must have an id, by which a second attempt is known.
    pub(super) async fn store(
        &self,
        subject: &str,
        headers: HeaderMap,
        body: Bytes,
        deadline: Instant,
    ) -> Result<Stored, Fault> {
        let message = self.request(subject, Some(headers), body, deadline).await?;
        read(&message.payload)
    }

    async fn answered<T: DeserializeOwned>(
        &self,
        subject: &str,
        headers: Option<HeaderMap>,
        payload: Bytes,
    ) -> Result<T, Fault> {
        let deadline = self.deadline();
        loop {
            let answer = self.request(subject, headers.clone(), payload.clone(), deadline).await;
            let fault = match answer.and_then(|message| read(&message.payload)) {
                Ok(done) => return Ok(done),
                Err(fault) => fault,
            };
            if !fault.is_transient() || Instant::now() + PAUSE >= deadline {
                return Err(fault);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// The subject at which a consumer takes requests for messages.
    pub(super) fn next_subject(&self, stream: &str, consumer: &str) -> String {
        format!("{}.CONSUMER.MSG.NEXT.{stream}.{consumer}", self.api_prefix)
    }

    pub(super) fn too_large(&self, size: usize) -> EngineError {
        let limit = self.client().max_payload() as u64;
        EngineError::TooLarge {
            size: (size as u64).max(limit + 1),
            limit,
            setting: "max_payload of the NATS server",
        }
    }

    /// Refuses a message that the server does not take.
    pub(super) fn check_size(&self, headers: &HeaderMap, body: &Bytes) -> Result<(), EngineError> {
        let of_header = |(name, values): (&async_nats::HeaderName, &Vec<async_nats::HeaderValue>)| {
            let name: &str = name.as_ref();
            values.iter().map(|value| name.len() + value.as_str().len() + 4).sum::<usize>()
        };
        // The id and the expected sequence come on top.
        let size = headers.iter().map(of_header).sum::<usize>() + body.len() + 256;
        if size > self.client().max_payload() { Err(self.too_large(size)) } else { Ok(()) }
    }
}

fn read<T: DeserializeOwned>(payload: &[u8]) -> Result<T, Fault> {
    match serde_json::from_slice(payload) {
        Ok(Answer::Done(done)) => Ok(done),
        Ok(Answer::Refused { error }) => Err(Fault::Refused(error)),
        Err(error) => {
            Err(EngineError::unavailable(format!("NATS gave an answer that cannot be read: {error}")).into())
        }
    }
}

/// Opens a client, and gives the token that is cancelled at its end.
async fn open_client(
    settings: &JetstreamEngineSettings,
    link: &Arc<watch::Sender<Link>>,
) -> Result<(Client, CancellationToken), JetstreamError> {
    let (urls, tls) = settings.check().map_err(JetstreamError::Settings)?;
    let limit = settings.broker.connection_timeout().saturating_mul(u32::try_from(urls.len()).unwrap_or(8));
    let seen = Seen { link: Arc::clone(link), ended: CancellationToken::new() };
    let ended = seen.ended.clone();
    let connecting = connect(settings, &urls, tls.as_ref(), seen);
    match tokio::time::timeout(limit, connecting).await {
        Ok(client) => Ok((client?, ended)),
        Err(_) => Err(JetstreamError::NoConnection(format!("no server answered within {limit:?}"))),
    }
}

/// The events of a client, which drops it at its end.
struct Seen {
    link: Arc<watch::Sender<Link>>,
    ended: CancellationToken,
}

impl Seen {
    fn lost(&self) {
        self.link.send_modify(|link| {
            link.lost += 1;
            link.is_up = false;
        });
    }
}

impl Drop for Seen {
    fn drop(&mut self) {
        self.lost();
        self.ended.cancel();
    }
}

async fn connect(
    settings: &JetstreamEngineSettings,
    urls: &[BrokerUrl],
    tls: Option<&Arc<ClientConfig>>,
    seen: Seen,
) -> Result<Client, JetstreamError> {
    let broker = &settings.broker;
    let addresses: Result<Vec<ServerAddr>, _> = urls.iter().map(address).collect();
    let addresses = addresses.map_err(|error| JetstreamError::NoConnection(error.to_string()))?;
    let mut options = ConnectOptions::new()
        .name("tower-outbox channels")
        .connection_timeout(broker.connection_timeout())
        // The third ping without an answer ends a connection.
        .ping_interval(broker.idle_timeout / 3)
        .client_capacity(1 << 14)
        .reconnect_delay_callback(|attempts| {
            Duration::from_millis(50).saturating_mul(u32::try_from(attempts.min(20)).unwrap_or(20))
        })
        .event_callback(move |event| {
            match &event {
                Event::Connected => seen.link.send_modify(|link| link.is_up = true),
                Event::Disconnected | Event::Closed => seen.lost(),
                _ => {}
            }
            match event {
                Event::Connected => tracing::info!("connected the channels to a NATS server"),
                Event::Disconnected => {
                    tracing::warn!("lost the connection of the channels to NATS; trying the servers again")
                }
                Event::ServerError(error) => tracing::warn!(%error, "a NATS server reported an error"),
                Event::SlowConsumer(_) => {
                    tracing::warn!("the channels do not keep up with NATS; events are lost")
                }
                _ => {}
            }
            std::future::ready(())
        });
    if let Some((user, password)) = urls.iter().find_map(BrokerUrl::credentials) {
        options = options.user_and_password(user.to_owned(), password.expose().to_owned());
    }
    if let Some(token) = settings.token() {
        options = options.token(token.to_owned());
    }
    let read = |key, file: &std::path::Path| {
        std::fs::read_to_string(file).map_err(|error| {
            let problem = format!("{} cannot be read ({error}): check the path", file.display());
            JetstreamError::Settings(crate::backends::brokers::BrokersError::setting(key, problem))
        })
    };
    if let Some(file) = &settings.nkey_file {
        options = options.nkey(read("NKEY_FILE", file)?.trim().to_owned());
    }
    if let Some(file) = &settings.credentials_file {
        options = options.credentials(&read("CREDENTIALS_FILE", file)?).map_err(|_| {
            let problem = "is not a credentials file: it has no JWT and seed of an nkey";
            JetstreamError::Settings(crate::backends::brokers::BrokersError::setting(
                "CREDENTIALS_FILE",
                problem,
            ))
        })?;
    }
    if let Some(tls) = tls {
        options = options.tls_client_config((**tls).clone());
    }
    options.connect(addresses).await.map_err(|error| {
        let mut cause = Error::source(&error);
        while let Some(inner) = cause {
            if let Some(explained) = inner.downcast_ref::<io::Error>().and_then(tls::explain) {
                return JetstreamError::NoConnection(explained.to_string());
            }
            cause = inner.source();
        }
        match error.kind() {
            ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => {
                JetstreamError::Unauthorized
            }
            _ => JetstreamError::NoConnection(Chain(&error).to_string()),
        }
    })
}

fn address(url: &BrokerUrl) -> io::Result<ServerAddr> {
    let scheme = if url.is_tls() { "tls" } else { "nats" };
    match url.host() {
        host if host.contains(':') => format!("{scheme}://[{host}]:{}", url.port()),
        host => format!("{scheme}://{host}:{}", url.port()),
    }
    .parse()
}
