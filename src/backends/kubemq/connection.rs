//! One connection to one broker, and whether it still works.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use rand::seq::SliceRandom;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::Request;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tower_service::Service;

use super::failure;
use super::settings::KubemqSettings;
use crate::backends::brokers::{BrokerUrl, Dialer, Stream};
use crate::kubemq_wire::Empty;
use crate::kubemq_wire::kubemq_client::KubemqClient;
use crate::messenger::Failure;
use crate::tls;
use crate::util::error::{BoxError, Chain};

/// The largest received message: that of a server with its own defaults, and room around it.
const MOST_RECEIVED: usize = 128 << 20;

/// A connection that is kept open, with a heartbeat. A clone is a handle to it.
#[derive(Clone)]
pub(super) struct Connection {
    pub(super) client: KubemqClient<Channel>,
    authorization: Option<MetadataValue<Ascii>>,
    /// Cancelled when the broker no longer answers, or the connection is closed.
    pub(super) lost: CancellationToken,
    /// Whether the broker did not answer in time.
    given_up: Arc<AtomicBool>,
    pub(super) send_timeout: Duration,
    _heartbeat: Arc<AbortOnDropHandle<()>>,
}

/// Why a connection could not be opened.
pub(super) struct OpenError {
    pub(super) error: BoxError,
    /// Whether a person has to mend it.
    pub(super) is_permanent: bool,
}

impl OpenError {
    fn may_pass(error: impl Into<BoxError>) -> Self {
        Self { error: error.into(), is_permanent: false }
    }
}

/// Dials, and waits for the answer to a ping. It sets no time limit: the caller does.
pub(super) async fn open(
    settings: &KubemqSettings,
    dialer: &Arc<Dialer>,
    url: &BrokerUrl,
) -> Result<Connection, OpenError> {
    let authorization = settings
        .authorization()
        .map_err(|problem| OpenError { error: format!("TOKEN {problem}").into(), is_permanent: true })?;
    let host = if url.host().contains(':') { format!("[{}]", url.host()) } else { url.host().to_owned() };
    let authority = format!("{host}:{}", url.port());
    let scheme = if url.is_tls() { "https" } else { "http" };
    let origin: Uri = format!("{scheme}://{authority}").parse().map_err(OpenError::may_pass)?;
    // TLS is that of the dialer: tonic must not expect its own.
    let endpoint = Endpoint::from_shared(format!("http://{authority}"))
        .and_then(|endpoint| endpoint.user_agent("tower-outbox"))
        .map_err(OpenError::may_pass)?
        .origin(origin)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(8 << 20);
    let dial = Dial { dialer: Arc::clone(dialer), url: url.clone() };
    let channel = endpoint.connect_with_connector(dial).await.map_err(|error| explained(&error))?;
    let client = KubemqClient::new(channel)
        .max_decoding_message_size(MOST_RECEIVED)
        .max_encoding_message_size(usize::MAX);
    let lost = CancellationToken::new();
    let idle = settings.broker.idle_timeout;
    let heartbeat = heartbeat(client.clone(), authorization.clone(), url.clone(), idle, lost.clone());
    let mut connection = Connection {
        client,
        authorization,
        lost,
        given_up: Arc::default(),
        send_timeout: settings.broker.send_timeout(),
        _heartbeat: Arc::new(AbortOnDropHandle::new(tokio::spawn(heartbeat))),
    };
    let ping = connection.request(Empty {});
    match connection.client.ping(ping).await {
        Ok(_) => Ok(connection),
        Err(status) => Err(OpenError {
            error: failure::describe(&status).into(),
            is_permanent: failure::is_permanent(&status),
        }),
    }
}

/// Tries each broker once, in a random order; returns the connection and its broker. A failure that a person has to mend is
/// `Rejected`.
pub(super) async fn open_any<'a>(
    settings: &KubemqSettings,
    dialer: &Arc<Dialer>,
    urls: &'a [BrokerUrl],
) -> Result<(Connection, &'a BrokerUrl), Failure> {
    let mut urls: Vec<_> = urls.iter().collect();
    urls.shuffle(&mut rand::rng());
    let (mut reasons, mut is_permanent) = (Vec::new(), false);
    let limit = settings.broker.connection_timeout();
    for url in urls {
        match timeout(limit, open(settings, dialer, url)).await {
            Ok(Ok(connection)) => return Ok((connection, url)),
            Ok(Err(failed)) => {
                is_permanent |= failed.is_permanent;
                reasons.push(format!("{url}: {}", Chain(failed.error.as_ref())));
            }
            Err(_) => reasons.push(format!("{url}: no connection within {limit:?}")),
        }
    }
    let reasons = reasons.join("; ");
    Err(if is_permanent { Failure::rejected(reasons) } else { Failure::transient(reasons) })
}

/// The cause of a failed dial, or its explanation if TLS is the cause.
fn explained(error: &tonic::transport::Error) -> OpenError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            let text =
                tls::explain(io).map_or_else(|| Chain(io).to_string(), |explained| explained.to_string());
            return OpenError::may_pass(format!("cannot connect: {text}"));
        }
        cause = error.source();
    }
    OpenError::may_pass(Chain(error).to_string())
}

/// Pings the broker, and cancels `lost` when it does not answer. KubeMQ's own pings would not show a server that is stuck,
/// and gRPC servers in Go end a connection that sends HTTP/2 pings often.
async fn heartbeat(
    mut client: KubemqClient<Channel>,
    authorization: Option<MetadataValue<Ascii>>,
    url: BrokerUrl,
    idle: Duration,
    lost: CancellationToken,
) {
    loop {
        sleep(idle / 2).await;
        let ping = with_token(Empty {}, authorization.as_ref());
        let problem = match timeout(idle / 2, client.ping(ping)).await {
            Ok(Ok(_)) => continue,
            Ok(Err(status)) => failure::describe(&status),
            Err(_) => format!("no answer within {:?}", idle / 2),
        };
        if !lost.is_cancelled() {
            tracing::warn!(broker = %url, %problem, "lost the connection to a broker; its messages are sent again");
        }
        return lost.cancel();
    }
}

fn with_token<T>(message: T, authorization: Option<&MetadataValue<Ascii>>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(authorization) = authorization {
        request.metadata_mut().insert("authorization", authorization.clone());
    }
    request
}

impl Connection {
    /// A request with the token.
    pub(super) fn request<T>(&self, message: T) -> Request<T> {
        with_token(message, self.authorization.as_ref())
    }

    /// Ends the connection of a broker that does not answer.
    pub(super) fn give_up(&self) {
        self.given_up.store(true, Ordering::Relaxed);
        self.lost.cancel();
    }

    pub(super) fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::Relaxed)
    }
}

/// Opens the byte stream of a connection once; tonic may ask again after it is lost.
#[derive(Clone)]
struct Dial {
    dialer: Arc<Dialer>,
    url: BrokerUrl,
}

impl Service<Uri> for Dial {
    type Response = TokioIo<Stream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Self { dialer, url } = self.clone();
        Box::pin(async move { dialer.dial(&url).await.map(TokioIo::new) })
    }
}
