//! Errors of the admin router.

use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::response::{IntoResponse, Response};
use http::header::RETRY_AFTER;
use http::{HeaderValue, StatusCode};
use serde_json::json;

use super::answer::answer;
use crate::messenger::Unsent;
use crate::store::StoreError;
use crate::util::error::Chain;

/// A status, and a text for people: `{"error": ".."}`.
#[derive(Debug)]
pub(super) struct AdminError {
    status: StatusCode,
    error: String,
}

impl AdminError {
    pub(super) fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self { status, error: error.into() }
    }

    pub(super) fn bad_request(error: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error)
    }

    pub(super) fn not_found(error: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, error)
    }

    pub(super) fn conflict(error: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, error)
    }
}

impl IntoResponse for AdminError {
    fn into_response(self) -> Response {
        let mut response = answer(self.status, &json!({"error": self.error}));
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("5"));
        }
        response
    }
}

/// A store that is full, closed or unavailable may recover.
impl From<StoreError> for AdminError {
    fn from(error: StoreError) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, Chain(&error).to_string())
    }
}

impl From<Unsent> for AdminError {
    fn from(unsent: Unsent) -> Self {
        let reason = unsent.iter().next().map(|(_, failure)| Chain(failure.cause()).to_string());
        Self::new(StatusCode::SERVICE_UNAVAILABLE, reason.unwrap_or_else(|| unsent.to_string()))
    }
}

impl From<QueryRejection> for AdminError {
    fn from(rejection: QueryRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text())
    }
}

impl From<BytesRejection> for AdminError {
    fn from(rejection: BytesRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text())
    }
}
