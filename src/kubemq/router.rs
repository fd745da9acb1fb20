//! The face as an axum router.

use std::fmt;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{StatusCode, header};
use tonic::Status;

use super::access::Caller;
use super::error::KubemqError;
use super::face::Face;
use super::fault;
use super::kinds::KINDS;
use super::limits;
use super::peer::Peer;
use super::report;
use super::service::Service;
use super::settings::Settings;
use super::tokens::Tokens;
use crate::channels::{Channels, Engine, Pattern};
use crate::kubemq_wire::kubemq_server::KubemqServer;

/// KubeMQ's gRPC interface over an engine.
pub struct Kubemq {
    pub(super) face: Arc<Face>,
    pub(super) settings: Settings,
    tokens: Option<Arc<Tokens>>,
}

impl Kubemq {
    /// The interface of an engine, with the default settings: neither tokens nor grants.
    #[must_use]
    pub fn new(engine: Arc<dyn Engine>) -> Self {
        let settings = Settings::default();
        Self { face: Arc::new(Face::new(engine, &settings)), settings, tokens: None }
    }

    /// Sets tokens, grants, certificates and whole waits.
    ///
    /// # Errors
    /// [`KubemqError`] when a file cannot be used, or a grant is wrong.
    pub fn with_settings(self, settings: &Settings) -> Result<Self, KubemqError> {
        check(settings)?;
        Ok(Self {
            face: Arc::new(Face::new(Arc::clone(&self.face.engine), settings)),
            tokens: Tokens::new(settings)?.map(Arc::new),
            settings: settings.clone(),
        })
    }

    /// Returns the router: the service `/kubemq.kubemq/`, `/health` and `/metrics`.
    ///
    /// Merged into an app it answers nothing else. The server must speak HTTP/2; with `axum::serve` that is axum's feature
    /// `http2`. Its connections should have `TCP_NODELAY`, as those of [`serve`](Self::serve) have: without it a call takes 40 ms. Tokens and grants are checked here; TLS is the server's.
    pub fn into_router(self) -> Router {
        let guard = Guard { face: Arc::clone(&self.face), tokens: self.tokens };
        let service = KubemqServer::new(Service(Arc::clone(&self.face)))
            .max_decoding_message_size(limits::BODY)
            .max_encoding_message_size(usize::MAX);
        let guarded = Router::new()
            .route_service("/kubemq.kubemq/{*method}", service)
            .route("/metrics", get(metrics))
            .layer(middleware::from_fn_with_state(guard, authenticate));
        guarded.route("/health", get(health)).with_state(self.face)
    }

    /// Returns the router of `/health` and `/metrics` alone, which checks no tokens.
    #[cfg(feature = "cli")]
    pub(crate) fn operation(&self) -> Router {
        let router = Router::new().route("/metrics", get(metrics)).route("/health", get(health));
        router.with_state(Arc::clone(&self.face))
    }
}

impl Channels {
    /// Returns KubeMQ's gRPC interface over these channels, to merge into an app: see [`Kubemq::into_router`]. Each client may use all
    /// channels; [`Kubemq::with_settings`] sets tokens and grants.
    #[cfg_attr(docsrs, doc(cfg(feature = "kubemq")))]
    pub fn kubemq(&self) -> Router {
        Kubemq::new(Arc::clone(self.engine())).into_router()
    }
}

impl fmt::Debug for Kubemq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kubemq").field("settings", &self.settings).finish_non_exhaustive()
    }
}

fn check(settings: &Settings) -> Result<(), KubemqError> {
    for (index, grant) in settings.grants.iter().enumerate() {
        let fault = |problem: String| KubemqError::Grant { number: index + 1, problem };
        if let Some(unknown) = grant.kinds.iter().find(|kind| !KINDS.iter().any(|(name, _)| name == kind)) {
            let known = KINDS.map(|(name, _)| name).join(", ");
            return Err(fault(format!("has the kind {unknown:?}: it is one of {known}")));
        }
        Pattern::new(&grant.channel)
            .map_err(|error| fault(format!("has the channel {:?}: {error}", grant.channel)))?;
        if !grant.read && !grant.write {
            return Err(fault("grants nothing: set READ or WRITE to true".to_owned()));
        }
    }
    if settings.certificate.is_none() {
        let set = [("PRIVATE_KEY", &settings.private_key), ("CLIENT_CACERT", &settings.client_cacert)];
        if let Some((setting, _)) = set.iter().find(|(_, value)| value.is_some()) {
            return Err(KubemqError::NoCertificate { setting });
        }
    }
    Ok(())
}

/// Finds out who calls.
#[derive(Clone, Debug)]
struct Guard {
    face: Arc<Face>,
    tokens: Option<Arc<Tokens>>,
}

async fn authenticate(State(guard): State<Guard>, mut request: Request, next: Next) -> Response {
    let certified = request.extensions().get::<Peer>().and_then(Peer::name).unwrap_or_default().to_owned();
    let caller = match &guard.tokens {
        None => Caller::new(&certified, Arc::clone(&guard.face.access), None),
        Some(tokens) => {
            let header = request.headers().get(header::AUTHORIZATION).map(|value| value.to_str());
            let verified = match header {
                None => Err("there is no token".to_owned()),
                Some(Err(_)) => Err("the token is no text".to_owned()),
                Some(Ok(header)) => tokens.verify(header),
            };
            match verified {
                Ok(verified) => {
                    Caller::new(&verified.subject, Arc::clone(&guard.face.access), Some(verified.expiry))
                }
                Err(reason) => {
                    guard.face.counters.tokens.add();
                    tracing::warn!(reason, "refused a client without a valid token");
                    return unauthenticated(&request, &reason);
                }
            }
        }
    };
    request.extensions_mut().insert(caller);
    next.run(request).await
}

fn unauthenticated(request: &Request, reason: &str) -> Response {
    let text = format!("{}{reason}", fault::TOKEN);
    if request.uri().path().starts_with("/kubemq.kubemq/") {
        return Status::unauthenticated(text).into_http();
    }
    (StatusCode::UNAUTHORIZED, text).into_response()
}

async fn health(State(face): State<Arc<Face>>) -> Response {
    match face.engine.health().await {
        Ok(()) => (StatusCode::OK, "ok\n").into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response(),
    }
}

async fn metrics(State(face): State<Arc<Face>>) -> Response {
    match report::metrics(&face).await {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response(),
    }
}
