//! The router as a server.

use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::header;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity, Server, ServerTlsConfig};

use super::access::Access;
use super::config::{SecurityConfig, WavemqConfig};
use super::error::WavemqError;
use super::link::{LARGEST, Link};
use super::links::Links;
use super::local::Local;
use super::metrics;
use super::peering::Peering;
use super::seal::RouterSeal;
use crate::routing::{GrantTable, Namespace, Routing, SiteRouter};
use crate::util::no_delay::NoDelay;
use crate::wavemq_wire::wavemq_peering_server::WavemqPeeringServer;
use crate::wavemq_wire::wavemq_server::WavemqServer;

/// How long streams may take to end when the server stops.
const GRACE: Duration = Duration::from_secs(5);
/// The time between two signs of life on an idle connection, and how long the answer may take.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// A router with WAVEMQ's gRPC interface. Its links to designated routers run while it exists.
#[derive(Debug)]
pub struct Wavemq {
    config: WavemqConfig,
    router: SiteRouter,
    access: Access,
    links: Arc<Links>,
    designated: Arc<[Namespace]>,
    tls: Option<Tls>,
    running: JoinSet<()>,
}

#[derive(Debug)]
struct Tls {
    identity: Identity,
    authority: Certificate,
}

impl Wavemq {
    /// Opens the router of a configuration, and starts its links.
    ///
    /// # Errors
    /// [`WavemqError`], if the configuration is wrong, or a file or folder cannot be used.
    pub async fn open(config: WavemqConfig) -> Result<Self, WavemqError> {
        config.warn();
        let security = &config.security;
        let grants = match security.grants.is_empty() {
            true => None,
            false => Some(GrantTable::open(Vec::new(), security.grants.clone())?),
        };
        let tls = Tls::read(security)?;
        let (uplinks, designated) = (config.uplinks()?, config.designated()?.into());
        let endpoints = uplinks
            .into_iter()
            .map(|(namespace, address)| Ok((namespace, endpoint(&address, tls.as_ref())?)));
        let endpoints: Vec<_> = endpoints.collect::<Result<_, WavemqError>>()?;
        let router = SiteRouter::open_with(config.settings()?, RouterSeal::open(security)?).await?;
        let links: HashMap<_, _> = endpoints
            .into_iter()
            .map(|(namespace, endpoint)| (namespace.clone(), Link::new(router.clone(), namespace, endpoint)))
            .collect();
        let links = Arc::new(Links::new(links));
        let mut running = JoinSet::new();
        for link in links.iter() {
            // Its queue is there before the first message.
            let opened = router.subscribe_upstream(link.namespace()).await;
            running.spawn(Arc::clone(link).run(opened.map_err(WavemqError::Queue)?));
        }
        Ok(Self { config, router, access: Access { grants }, links, designated, tls, running })
    }

    /// Returns the router behind the interface, for an app that publishes and subscribes in the same process.
    #[must_use]
    pub fn router(&self) -> &SiteRouter {
        &self.router
    }

    /// Returns the router for an app, for one namespace: a messenger, sources, and last values.
    #[must_use]
    pub fn routing(&self, namespace: Namespace) -> Routing {
        Routing::new(self.router.clone(), namespace).with_upstream(Arc::<Links>::clone(&self.links))
    }

    /// Returns the service for clients as an axum router: `/mqpb.WAVEMQ/` and `/metrics`. The server must speak HTTP/2.
    ///
    /// Its clients are authorised by grants, if there are any; without grants serve it on loopback only.
    pub fn to_router(&self) -> Router {
        let service = Local {
            router: self.router.clone(),
            access: self.access.clone(),
            links: Arc::clone(&self.links),
        };
        let service =
            WavemqServer::new(service).max_decoding_message_size(LARGEST).max_encoding_message_size(LARGEST);
        self.metrics().route_service("/mqpb.WAVEMQ/{*method}", service)
    }

    /// Returns `/metrics` alone as an axum router.
    pub fn metrics(&self) -> Router {
        let state = (self.router.clone(), Arc::clone(&self.links));
        Router::new().route("/metrics", get(answer_metrics)).with_state(state)
    }

    /// Serves clients and other routers on the listeners of the configuration until `shutdown`; then streams have 5 seconds to
    /// end, and the router is closed.
    ///
    /// # Errors
    /// [`WavemqError`], when other machines can reach a listener and nothing keeps them out, or when a listener fails.
    ///
    /// # Cancel safety
    /// Dropping the future ends all connections at once. What was confirmed is stored.
    pub async fn serve(self, shutdown: impl Future<Output = ()> + Send) -> Result<(), WavemqError> {
        let (clients, peers) = self.bind().await?;
        self.serve_on(clients, peers, shutdown).await
    }

    /// Binds the listeners of the configuration.
    ///
    /// # Errors
    /// [`WavemqError`], when other machines could reach a listener and nothing keeps them out, or it cannot be bound.
    pub async fn bind(&self) -> Result<(TcpListener, TcpListener), WavemqError> {
        let (clients, peers) = (self.config.localconfig.listenaddr, self.config.peerconfig.listenaddr);
        self.check_guards(clients, peers)?;
        Ok((bind(clients).await?, bind(peers).await?))
    }

    /// As [`serve`](Self::serve), on listeners that are bound already.
    ///
    /// # Errors
    /// As [`serve`](Self::serve).
    ///
    /// # Cancel safety
    /// As [`serve`](Self::serve).
    pub async fn serve_on(
        mut self,
        clients: TcpListener,
        peers: TcpListener,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<(), WavemqError> {
        let address =
            |listener: &TcpListener, configured: SocketAddr| listener.local_addr().unwrap_or(configured);
        let (at, peers_at) = (
            address(&clients, self.config.localconfig.listenaddr),
            address(&peers, self.config.peerconfig.listenaddr),
        );
        self.check_guards(at, peers_at)?;
        if self.access.grants.is_none() {
            tracing::warn!(clients = %at, "there are no grants: every local client may do everything; set Security.Grants");
        }
        let stop = CancellationToken::new();
        let app = self.to_router();
        let stopped = stop.clone().cancelled_owned();
        let clients = async move { axum::serve(NoDelay(clients), app).with_graceful_shutdown(stopped).await };
        let service = Peering {
            router: self.router.clone(),
            access: self.access.clone(),
            designated: Arc::clone(&self.designated),
            open: Arc::default(),
        };
        let service = WavemqPeeringServer::new(service)
            .max_decoding_message_size(LARGEST + (2 << 20))
            .max_encoding_message_size(LARGEST);
        let mut server = Server::builder()
            .http2_keepalive_interval(Some(KEEP_ALIVE))
            .http2_keepalive_timeout(Some(KEEP_ALIVE))
            .tcp_nodelay(true);
        if let Some(tls) = &self.tls {
            let tls =
                ServerTlsConfig::new().identity(tls.identity.clone()).client_ca_root(tls.authority.clone());
            server = server.tls_config(tls).map_err(WavemqError::Peers)?;
        }
        let incoming = TcpIncoming::from(peers).with_nodelay(Some(true));
        let stopped = stop.clone().cancelled_owned();
        let peers = server.add_service(service).serve_with_incoming_shutdown(incoming, stopped);
        tracing::info!(clients = %at, routers = %peers_at, id = %self.router.id(), "the router is listening");
        let serving = async {
            tokio::select! {
                served = clients => served.map_err(|source| WavemqError::Listener { address: at, source }),
                served = peers => served.map_err(WavemqError::Peers),
            }
        };
        let mut serving = std::pin::pin!(serving);
        let served = tokio::select! {
            served = &mut serving => served,
            () = shutdown => {
                stop.cancel();
                // Subscriptions never end by themselves.
                timeout(GRACE, serving).await.unwrap_or(Ok(()))
            }
        };
        self.running.shutdown().await;
        self.router.close().await;
        served
    }

    fn check_guards(&self, clients: SocketAddr, peers: SocketAddr) -> Result<(), WavemqError> {
        if self.access.grants.is_none() && !clients.ip().is_loopback() {
            let missing = "there are no grants (Security.Grants)";
            return Err(WavemqError::Unguarded { address: clients, missing });
        }
        if !peers.ip().is_loopback() && (self.tls.is_none() || self.access.grants.is_none()) {
            let missing = "there is no certificate with an authority, or there are no grants (Security.Certificate, CACert, Grants)";
            return Err(WavemqError::Unguarded { address: peers, missing });
        }
        Ok(())
    }
}

impl Tls {
    fn read(security: &SecurityConfig) -> Result<Option<Self>, WavemqError> {
        let Some(certificate) = &security.certificate else { return Ok(None) };
        let (Some(key), Some(authority)) = (&security.privatekey, &security.cacert) else {
            let reason = "set Security.PrivateKey and Security.CACert too".to_owned();
            return Err(WavemqError::Certificate { path: certificate.display().to_string(), reason });
        };
        let identity = Identity::from_pem(read(certificate)?, read(key)?);
        Ok(Some(Self { identity, authority: Certificate::from_pem(read(authority)?) }))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, WavemqError> {
    std::fs::read(path).map_err(|error| WavemqError::Certificate {
        path: path.display().to_string(),
        reason: error.to_string(),
    })
}

fn endpoint(address: &str, tls: Option<&Tls>) -> Result<Endpoint, WavemqError> {
    let fault = |error: tonic::transport::Error| WavemqError::Address {
        address: address.to_owned(),
        reason: crate::util::error::Chain(&error).to_string(),
    };
    let scheme = if tls.is_some() { "https" } else { "http" };
    let endpoint = Endpoint::from_shared(format!("{scheme}://{address}")).map_err(fault)?;
    let endpoint = endpoint
        .connect_timeout(Duration::from_secs(10))
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true)
        .tcp_nodelay(true);
    match tls {
        None => Ok(endpoint),
        Some(tls) => {
            let tls =
                ClientTlsConfig::new().ca_certificate(tls.authority.clone()).identity(tls.identity.clone());
            endpoint.tls_config(tls).map_err(fault)
        }
    }
}

async fn bind(address: SocketAddr) -> Result<TcpListener, WavemqError> {
    TcpListener::bind(address).await.map_err(|source| WavemqError::Listener { address, source })
}

async fn answer_metrics(State((router, links)): State<(SiteRouter, Arc<Links>)>) -> Response {
    let text = metrics::text(&router, &links);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}
