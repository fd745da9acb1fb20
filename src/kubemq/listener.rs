//! Serving the face alone: TCP or TLS, and the order of stopping.

use std::future::{Future, IntoFuture};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, Request};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::serve::{IncomingStream, Listener};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::counters::Counters;
use super::error::KubemqError;
use super::peer::Peer;
use super::router::Kubemq;
use crate::tls::{self, ServerTls};
use crate::util::no_delay::NoDelay;

/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// The most handshakes at once.
const HANDSHAKES: usize = 256;
/// How long requests may take to end when the server stops.
const GRACE: Duration = Duration::from_secs(5);

impl Kubemq {
    /// Serves KubeMQ clients until `shutdown`; then waits and streams are ended, and requests have 5 seconds to end.
    ///
    /// The engine stays open: close it afterwards.
    ///
    /// # Errors
    /// [`KubemqError`] when the certificates cannot be used, when other machines can reach the listener and nothing keeps them
    /// out, or when the server fails.
    ///
    /// # Cancel safety
    /// Dropping the future is as `shutdown`, without waiting for requests.
    pub async fn serve(
        self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<(), KubemqError> {
        self.serve_and_say(listener, shutdown, || Ok(())).await
    }

    /// As [`serve`](Self::serve); calls `ready` once the settings are accepted and clients can connect.
    pub(crate) async fn serve_and_say<E: From<KubemqError>>(
        self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()> + Send,
        ready: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        let address = listener.local_addr().map_err(KubemqError::from)?;
        let tls = self.tls(address)?;
        ready()?;
        Ok(self.run(listener, address, tls, shutdown).await?)
    }

    /// Returns the TLS of the server; or why it must not listen.
    fn tls(&self, address: SocketAddr) -> Result<Option<Arc<ServerConfig>>, KubemqError> {
        let settings = &self.settings;
        let is_guarded = settings.token_key.is_some() || settings.client_cacert.is_some();
        if !address.ip().is_loopback() && !is_guarded && !settings.allow_anyone {
            return Err(KubemqError::Open { address });
        }
        let tls = match &settings.certificate {
            None => None,
            Some(certificate) => Some(tls::server_config(&ServerTls {
                certificate,
                private_key: settings.private_key.as_deref(),
                client_cacert: settings.client_cacert.as_deref(),
            })?),
        };
        if tls.is_none() && settings.token_key.is_some() && !address.ip().is_loopback() {
            tracing::warn!(%address, "clients send their tokens without TLS: set CERTIFICATE");
        }
        Ok(tls)
    }

    async fn run(
        self,
        listener: TcpListener,
        address: SocketAddr,
        tls: Option<Arc<ServerConfig>>,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<(), KubemqError> {
        let counters = Arc::clone(&self.face.counters);
        let stop = self.face.stop.clone();
        let router = self.into_router().layer(middleware::from_fn(name_peer));
        let stopped = stop.clone().cancelled_owned();
        let stopping = stop.drop_guard();
        tracing::info!(%address, tls = tls.is_some(), "listening for KubeMQ clients");
        let server = async move {
            match tls {
                None => {
                    let service = router.into_make_service_with_connect_info::<Peer>();
                    let listener = NoDelay(listener);
                    axum::serve(listener, service).with_graceful_shutdown(stopped).into_future().await
                }
                Some(config) => {
                    let service = router.into_make_service_with_connect_info::<Peer>();
                    let listener = TlsListener::new(NoDelay(listener), config, counters);
                    axum::serve(listener, service).with_graceful_shutdown(stopped).into_future().await
                }
            }
        };
        let mut server = std::pin::pin!(server);
        tokio::select! {
            served = &mut server => return Ok(served?),
            () = shutdown => drop(stopping),
        }
        match timeout(GRACE, server).await {
            Ok(served) => Ok(served?),
            Err(_) => {
                tracing::warn!("stopped the server while requests of KubeMQ clients were running");
                Ok(())
            }
        }
    }
}

/// Passes the peer of a connection on to the requests.
async fn name_peer(ConnectInfo(peer): ConnectInfo<Peer>, mut request: Request, next: Next) -> Response {
    request.extensions_mut().insert(peer);
    next.run(request).await
}

impl Connected<IncomingStream<'_, NoDelay>> for Peer {
    fn connect_info(_stream: IncomingStream<'_, NoDelay>) -> Self {
        Self::default()
    }
}

impl Connected<IncomingStream<'_, TlsListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, TlsListener>) -> Self {
        let (_, session) = stream.io().get_ref();
        let certificate = session.peer_certificates().and_then(|chain| chain.first());
        Self::new(certificate.and_then(|certificate| tls::common_name(certificate)))
    }
}

/// Accepts TLS connections, many at once: a slow handshake holds up no other.
struct TlsListener {
    ready: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
    address: io::Result<SocketAddr>,
    _accepting: JoinSet<()>,
}

impl TlsListener {
    fn new(listener: NoDelay, config: Arc<ServerConfig>, counters: Arc<Counters>) -> Self {
        let address = Listener::local_addr(&listener);
        let (sender, ready) = mpsc::channel(16);
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, TlsAcceptor::from(config), sender, counters));
        Self { ready, address, _accepting: accepting }
    }
}

async fn accept(
    mut listener: NoDelay,
    acceptor: TlsAcceptor,
    ready: mpsc::Sender<(TlsStream<TcpStream>, SocketAddr)>,
    counters: Arc<Counters>,
) {
    let mut handshakes = JoinSet::new();
    loop {
        tokio::select! {
            (stream, peer) = listener.accept(), if handshakes.len() < HANDSHAKES => {
                let (acceptor, ready, counters) = (acceptor.clone(), ready.clone(), Arc::clone(&counters));
                handshakes.spawn(async move {
                    let accepted = timeout(HANDSHAKE, acceptor.accept(stream)).await;
                    match accepted {
                        Ok(Ok(stream)) => return drop(ready.send((stream, peer)).await),
                        Ok(Err(error)) => tracing::debug!(%peer, %error, "a TLS handshake failed"),
                        Err(_) => tracing::debug!(%peer, "a TLS handshake took too long"),
                    }
                    counters.handshakes.add();
                });
            }
            _done = handshakes.join_next(), if !handshakes.is_empty() => {}
        }
    }
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            if let Some(accepted) = self.ready.recv().await {
                return accepted;
            }
            // The accepting task cannot end before this listener.
            sleep(Duration::from_secs(1)).await;
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.address
            .as_ref()
            .map(|address| *address)
            .map_err(|error| io::Error::new(error.kind(), error.to_string()))
    }
}
