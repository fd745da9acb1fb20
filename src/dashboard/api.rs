//! The JSON API behind the pages: the admin router, here or in another process.

use std::sync::Arc;

use async_trait::async_trait;
use axum::Router;
use axum::body::{Body, to_bytes};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Method, Request, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tower_service::Service;

use super::error::PageError;

/// Something that answers as the admin router does.
#[async_trait]
pub(crate) trait Answering: Send + Sync {
    /// Calls a route; the path begins with a slash and may have a query. An error says why there is no answer.
    async fn call(&self, request: Request<Bytes>) -> Result<(StatusCode, Bytes), String>;
}

/// The JSON API; a clone is another handle.
#[derive(Clone)]
pub(super) struct Api(Arc<dyn Answering>);

impl Api {
    pub(super) fn of(admin: Router) -> Self {
        Self(Arc::new(Local(admin)))
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
        let request = request.map_err(|error| PageError::bad_request(error.to_string()))?;
        let (status, body) = self.0.call(request).await.map_err(PageError::unavailable)?;
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
struct Local(Router);

#[async_trait]
impl Answering for Local {
    async fn call(&self, request: Request<Bytes>) -> Result<(StatusCode, Bytes), String> {
        let Ok(response) = self.0.clone().call(request.map(Body::from)).await;
        let (head, body) = response.into_parts();
        let body = to_bytes(body, usize::MAX).await.map_err(|error| error.to_string())?;
        Ok((head.status, body))
    }
}
