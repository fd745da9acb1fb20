//! The target of a command: the outbox of a stopped app, or the admin router of a running one.
//!
//! Both are the same JSON API: a stopped outbox is served by the router inside this process.

use std::path::absolute;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::body::{Body, to_bytes};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue, Method, Request, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;
use tower_service::Service;
use ureq::Agent;
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use url::Url;

use super::context::Context;
use super::error::CliError;
use crate::admin::{Admin, AppState, LaterDrops, OPERATOR, Operator, Parts};
use crate::backends::dummy::Dummy;
use crate::bus::{DeadLettersOfBroker, Description};
use crate::dashboard::{Answering, Local};
use crate::messenger::Messenger;
use crate::outbox::{Outbox, OutboxHandle, RelaySettings};
use crate::settings::{DeliveryMode, Settings};
use crate::store::{EmbeddedStore, OpenError, Store};
use crate::util::error::Chain;

/// How long closing a store may take.
const CLOSE: Duration = Duration::from_secs(10);

pub(super) enum Target {
    Running(App),
    Stopped(Stopped),
}

/// A running app, by its admin router.
#[derive(Clone)]
pub(super) struct App {
    agent: Agent,
    url: Url,
    headers: Vec<(HeaderName, HeaderValue)>,
    operator: String,
}

/// The outbox of a stopped app.
pub(super) struct Stopped {
    router: Router,
    messenger: Arc<dyn Messenger>,
    runtime: Handle,
    operator: String,
}

impl Drop for Stopped {
    fn drop(&mut self) {
        self.runtime.block_on(self.messenger.close(CLOSE));
    }
}

impl Target {
    /// The running app, or the outbox of the settings.
    pub(super) fn of(context: &Context) -> Result<Self, CliError> {
        match Self::app(context) {
            Some(app) => Ok(app),
            None => Self::stopped(context, &context.settings()?, false),
        }
    }

    /// The same, for storing messages: the outbox of a stopped app may be created.
    pub(super) fn to_store(context: &Context) -> Result<Self, CliError> {
        match Self::app(context) {
            Some(app) => Ok(app),
            None => Self::stopped(context, &context.settings()?, true),
        }
    }

    /// The running app; `None` without a URL.
    pub(super) fn app(context: &Context) -> Option<Self> {
        let url = context.global.url.as_ref()?;
        Some(Self::running(url, &context.global.http_header, context.operator()))
    }

    fn running(url: &Url, headers: &[(HeaderName, HeaderValue)], operator: String) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_connect(Some(Duration::from_secs(10)))
            .timeout_recv_response(Some(Duration::from_secs(600)))
            .user_agent(concat!("tower-outbox/", env!("CARGO_PKG_VERSION")));
        let config = if url.scheme() == "https" { config.tls_config(tls()) } else { config };
        Self::Running(App {
            agent: config.build().new_agent(),
            url: url.clone(),
            headers: headers.to_vec(),
            operator,
        })
    }

    /// Opens the outbox of the settings, which must exist unless messages are stored in it.
    pub(super) fn stopped(context: &Context, settings: &Settings, to_store: bool) -> Result<Self, CliError> {
        let runtime = context.runtime.handle();
        let (messenger, outbox): (Arc<dyn Messenger>, _) = match settings.delivery {
            DeliveryMode::Durable => {
                let (messenger, handle) = open(context, settings, to_store)?;
                (messenger, Some(handle))
            }
            #[cfg(feature = "_sql")]
            DeliveryMode::Transactional => {
                let (messenger, handle) = open_database(context, settings, to_store)?;
                (messenger, Some(handle))
            }
            _ => (Arc::new(Dummy), None),
        };
        // Only a durable outbox is ours alone.
        let app = match settings.delivery {
            DeliveryMode::Durable => AppState::Stopped,
            _ => AppState::Unknown,
        };
        let admin = Admin {
            delivery: settings.delivery,
            app,
            messenger: Arc::clone(&messenger),
            outbox,
            destination: Description::of(settings).destination(),
            consumers: Arc::default(),
            later: LaterDrops::default(),
            parts: Parts::default().with_dead_letters(DeadLettersOfBroker::of(
                settings,
                #[cfg(feature = "channels")]
                None,
            )),
        };
        let (router, operator) = (admin.router(), context.operator());
        Ok(Self::Stopped(Stopped { router, messenger, runtime: runtime.clone(), operator }))
    }

    /// The JSON API of the target.
    pub(super) fn answering(&self) -> Arc<dyn Answering> {
        match self {
            Self::Running(app) => Arc::new(app.clone()),
            Self::Stopped(stopped) => Arc::new(Local(stopped.router.clone())),
        }
    }

    /// Whether this is a running app.
    pub(super) fn is_running(&self) -> bool {
        matches!(self, Self::Running(_))
    }

    pub(super) fn get<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &[(&str, String)],
    ) -> Result<T, CliError> {
        self.call(&Method::GET, path, query, Vec::new())
    }

    pub(super) fn post<T: DeserializeOwned>(&self, path: &str, body: Vec<u8>) -> Result<T, CliError> {
        self.call(&Method::POST, &[path], &[], body)
    }

    fn call<T: DeserializeOwned>(
        &self,
        method: &Method,
        path: &[&str],
        query: &[(&str, String)],
        body: Vec<u8>,
    ) -> Result<T, CliError> {
        let (status, body) = match self {
            Self::Running(app) => app.call(method, path, query, body)?,
            Self::Stopped(stopped) => stopped.call(method, path, query, body)?,
        };
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(|error| self.no_answer(status, &error.to_string()));
        }
        #[derive(Deserialize)]
        struct Refusal {
            error: String,
        }
        match serde_json::from_slice::<Refusal>(&body) {
            Ok(Refusal { error }) if status == StatusCode::NOT_FOUND => Err(CliError::not_found(error)),
            Ok(Refusal { error }) if !is_of_auth(status) => Err(CliError::failed(error)),
            _ => Err(self.no_answer(status, "")),
        }
    }

    /// The fault of an answer that is not of an admin router, or of a proxy before it.
    fn no_answer(&self, status: StatusCode, problem: &str) -> CliError {
        let Self::Running(App { url, .. }) = self else { return CliError::failed(problem) };
        CliError::unreachable(match status {
            _ if is_of_auth(status) => {
                format!(
                    "{url} answered {status}: send credentials, such as --http-header 'authorization: Bearer ..'"
                )
            }
            _ if status.is_success() => {
                format!("{url} did not answer as an admin router of this version: {problem}")
            }
            _ => format!("{url} answered {status}: write the address where the app nests bus.admin()"),
        })
    }
}

fn is_of_auth(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::PROXY_AUTHENTICATION_REQUIRED
    )
}

impl App {
    fn call(
        &self,
        method: &Method,
        path: &[&str],
        query: &[(&str, String)],
        body: Vec<u8>,
    ) -> Result<(StatusCode, Vec<u8>), CliError> {
        let mut url = self.url.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let mut request = Request::builder().method(method).uri(url.as_str());
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let away = |error: &(dyn std::error::Error + 'static)| {
            CliError::unreachable(format!("the app at {} cannot be reached: {}", self.url, Chain(error)))
        };
        let response = if method == Method::GET {
            request
                .body(())
                .map_err(|error| away(&error))
                .and_then(|request| self.agent.run(request).map_err(|error| away(&error)))
        } else {
            // The app's own authentication may know better.
            let name: String = url::form_urlencoded::byte_serialize(self.operator.as_bytes()).collect();
            let request = request.header(OPERATOR, name.replace('+', "%20"));
            let request = request.header(CONTENT_TYPE, "application/json").body(body);
            request
                .map_err(|error| away(&error))
                .and_then(|request| self.agent.run(request).map_err(|error| away(&error)))
        };
        let (head, mut body) = response?.into_parts();
        let body = body.with_config().limit(u64::MAX).read_to_vec().map_err(|error| away(&error))?;
        Ok((head.status, body))
    }
}

#[async_trait]
impl Answering for App {
    async fn call(&self, request: Request<Bytes>) -> Result<(StatusCode, Bytes), String> {
        let (head, body) = request.into_parts();
        let app = self.clone();
        let called = spawn_blocking(move || {
            let path: Vec<_> = head.uri.path().split('/').filter(|part| !part.is_empty()).collect();
            let pairs: Vec<_> =
                url::form_urlencoded::parse(head.uri.query().unwrap_or_default().as_bytes()).collect();
            let query: Vec<_> =
                pairs.iter().map(|(name, value)| (name.as_ref(), value.to_string())).collect();
            Self::call(&app, &head.method, &path, &query, body.into())
        });
        let (status, body) = called
            .await
            .map_err(|error| error.to_string())?
            .map_err(|error| error.message.unwrap_or_default())?;
        Ok((status, body.into()))
    }
}

impl Stopped {
    fn call(
        &self,
        method: &Method,
        path: &[&str],
        query: &[(&str, String)],
        body: Vec<u8>,
    ) -> Result<(StatusCode, Vec<u8>), CliError> {
        let mut uri = format!("/{}", path.join("/"));
        if !query.is_empty() {
            let mut pairs = url::form_urlencoded::Serializer::new(String::new());
            uri = format!("{uri}?{}", pairs.extend_pairs(query).finish());
        }
        let mut request = Request::builder()
            .method(method)
            .uri(uri)
            .header(CONTENT_TYPE, "application/json")
            .body(Body::from(body))
            .map_err(|error| CliError::error(&error))?;
        request.extensions_mut().insert(Operator::new(self.operator.clone()));
        self.runtime.block_on(async {
            let Ok(response) = self.router.clone().call(request).await;
            let (head, body) = response.into_parts();
            let body = to_bytes(body, usize::MAX).await.map_err(|error| CliError::error(&error))?;
            Ok((head.status, body.into()))
        })
    }
}

fn open(
    context: &Context,
    settings: &Settings,
    to_store: bool,
) -> Result<(Arc<dyn Messenger>, OutboxHandle), CliError> {
    let runtime = context.runtime.handle();
    let path = &settings.outbox.path;
    if !to_store && matches!(path.try_exists(), Ok(false)) {
        let path = absolute(path).unwrap_or_else(|_| path.clone());
        return Err(CliError::not_found(format!(
            "there is no outbox {}: the app creates it when it starts; use the --settings file of the app, in \
             the folder where it runs",
            path.display()
        )));
    }
    let store =
        runtime.block_on(EmbeddedStore::open(&settings.outbox.store())).map_err(|error| match error {
            OpenError::InUse { .. } => CliError::unreachable(error),
            error => CliError::error(&error),
        })?;
    Ok(stopped(context, settings, Arc::new(store), to_store))
}

/// Opens the outbox in the database, whose tables must exist. The app may run.
#[cfg(feature = "_sql")]
fn open_database(
    context: &Context,
    settings: &Settings,
    to_store: bool,
) -> Result<(Arc<dyn Messenger>, OutboxHandle), CliError> {
    let mut outbox = settings.outbox.clone();
    outbox.migrate = false;
    let store = context.runtime.block_on(async {
        let database = context.database(settings).await?;
        database.open(&outbox).await.map_err(|error| Chain(&error).to_string())
    });
    let store = store.map_err(CliError::unreachable)?;
    Ok(stopped(context, settings, store.into_store(), to_store))
}

/// An outbox without its relay.
fn stopped(
    context: &Context,
    settings: &Settings,
    store: Arc<dyn Store>,
    to_store: bool,
) -> (Arc<dyn Messenger>, OutboxHandle) {
    let _runtime = context.runtime.enter();
    // The messenger only checks messages; nothing is sent.
    let mut builder = context.builder(settings);
    let bus = if to_store { context.runtime.block_on(builder.messenger()).ok() } else { None };
    let bus = bus.map_or_else(|| Arc::new(Dummy) as _, |(bus, _)| bus);
    let (outbox, _relay) = Outbox::new(bus, store, RelaySettings::default());
    let handle = outbox.handle();
    (Arc::new(outbox), handle)
}

/// The roots of the system, or of `SSL_CERT_FILE`.
fn tls() -> TlsConfig {
    let roots = rustls_native_certs::load_native_certs().certs;
    let roots: Vec<_> = roots.iter().map(|root| Certificate::from_der(root).to_owned()).collect();
    TlsConfig::builder()
        .root_certs(RootCerts::new_with_certs(&roots))
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .build()
}
