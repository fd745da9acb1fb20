//! The JSON API behind the pages: the admin router, here or in another process.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::FromRequestParts;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{Method, Request, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::OnceCell;
use tower_service::Service;

use super::drops::notices;
use super::error::PageError;
use super::layout::Page;
use crate::admin::{LaterDrop, LaterDropsListed, Operator, PartsReport};
use crate::settings::TraceUrl;

/// How long a drop can be undone by default.
const UNDO: Duration = Duration::from_secs(30);

/// Something that answers as the admin router does.
#[async_trait]
pub(crate) trait Answering: Send + Sync {
    /// Calls a route; the path begins with a slash and may have a query. An error says why there is no answer.
    async fn call(&self, request: Request<Bytes>) -> Result<(StatusCode, Bytes), String>;
}

/// The JSON API, as the operator of a request uses it; a clone is another handle.
#[derive(Clone)]
pub(super) struct Api {
    answering: Arc<dyn Answering>,
    operator: Option<Operator>,
    trace_url: Option<TraceUrl>,
    /// How long a drop can be undone.
    undo: Duration,
    /// The parts of the app, once it has answered.
    parts: Arc<OnceCell<PartsReport>>,
    /// The drops that can still be undone.
    waiting: Vec<LaterDrop>,
}

impl FromRequestParts<Self> for Api {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, api: &Self) -> Result<Self, Infallible> {
        let mut api = Self { operator: parts.extensions.get().cloned(), ..api.clone() };
        // Without an answer the page itself says why.
        let _ = api.parts.get_or_try_init(|| api.get("/parts", &[])).await;
        if parts.method == Method::GET {
            api.waiting = api.drops().await.unwrap_or_default();
        }
        Ok(api)
    }
}

impl Api {
    pub(super) fn of(admin: Router) -> Self {
        Self::answered_by(Arc::new(Local(admin)))
    }

    pub(super) fn answered_by(answering: Arc<dyn Answering>) -> Self {
        Self {
            answering,
            operator: None,
            trace_url: None,
            undo: UNDO,
            parts: Arc::default(),
            waiting: Vec::new(),
        }
    }

    pub(super) fn with_trace_url(mut self, trace_url: Option<TraceUrl>) -> Self {
        self.trace_url = trace_url;
        self
    }

    pub(super) fn with_undo(mut self, undo: Duration) -> Self {
        self.undo = undo;
        self
    }

    /// Returns the frame of a page below this one of the navigation.
    pub(super) fn page<'a>(&self, title: &'a str, current: &'a str) -> Page<'a> {
        Page::new(title, current).with_parts(self.parts()).with_notices(notices(&self.waiting))
    }

    /// Returns the drops that can be undone now.
    pub(super) async fn drops(&self) -> Result<Vec<LaterDrop>, PageError> {
        let LaterDropsListed { drops } = self.get("/drops", &[]).await?;
        Ok(drops)
    }

    /// Whether a drop can still be undone.
    pub(super) fn is_waiting(&self, drop: u64) -> bool {
        self.waiting.iter().any(|waiting| waiting.id == drop)
    }

    /// Returns the parts of the app, as far as they are known.
    pub(super) fn parts(&self) -> PartsReport {
        self.parts.get().copied().unwrap_or_default()
    }

    /// Returns how long a drop can be undone.
    pub(super) fn undo(&self) -> Duration {
        self.undo
    }

    /// Returns the address of a trace, if the settings have one.
    pub(super) fn trace(&self, id: &str) -> Option<String> {
        self.trace_url.as_ref().map(|url| url.of(id))
    }

    pub(super) async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, String)],
    ) -> Result<T, PageError> {
        let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(query).finish();
        let request = Request::builder().method(Method::GET).uri(format!("{path}?{query}"));
        self.call(request.body(Bytes::new())).await
    }

    pub(super) async fn post<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Result<T, PageError> {
        let request = Request::builder().method(Method::POST).uri(path);
        self.call(request.header(CONTENT_TYPE, "application/json").body(body.to_string().into())).await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        request: Result<Request<Bytes>, http::Error>,
    ) -> Result<T, PageError> {
        #[derive(Deserialize)]
        struct Refusal {
            error: String,
        }
        let mut request = request.map_err(|error| PageError::bad_request(error.to_string()))?;
        if let Some(operator) = &self.operator {
            request.extensions_mut().insert(operator.clone());
        }
        let (status, body) = self.answering.call(request).await.map_err(PageError::unavailable)?;
        if status.is_success() {
            let foreign = |error| format!("this is no answer of an admin router of this version: {error}");
            return serde_json::from_slice(&body).map_err(|error| PageError::unavailable(foreign(error)));
        }
        match serde_json::from_slice(&body) {
            Ok(Refusal { error }) => Err(PageError::new(status, error)),
            Err(_) => Err(PageError::unavailable(format!("the admin router answered {status}"))),
        }
    }
}

/// The admin router of this process.
pub(crate) struct Local(pub(crate) Router);

#[async_trait]
impl Answering for Local {
    async fn call(&self, request: Request<Bytes>) -> Result<(StatusCode, Bytes), String> {
        let Ok(response) = self.0.clone().call(request.map(Body::from)).await;
        let (head, body) = response.into_parts();
        let body = to_bytes(body, usize::MAX).await.map_err(|error| error.to_string())?;
        Ok((head.status, body))
    }
}
