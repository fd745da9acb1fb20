//! A page that cannot be shown.

use axum::response::{IntoResponse, Response};
use http::StatusCode;
use maud::{Markup, Render, html};

use super::layout::Page;
use super::text::visible;

/// Why a page cannot be shown.
#[derive(Debug)]
pub(super) struct PageError {
    status: StatusCode,
    error: String,
}

impl PageError {
    pub(super) fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self { status, error: error.into() }
    }

    pub(super) fn bad_request(error: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error)
    }

    pub(super) fn is_bad_request(&self) -> bool {
        self.status == StatusCode::BAD_REQUEST
    }

    pub(super) fn not_found(error: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, error)
    }

    pub(super) fn unavailable(error: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, error)
    }
}

/// The reason, in a page that shows other things.
impl Render for PageError {
    fn render(&self) -> Markup {
        visible(&self.error)
    }
}

impl IntoResponse for PageError {
    fn into_response(self) -> Response {
        let title = match self.status {
            StatusCode::NOT_FOUND => "Not found",
            StatusCode::FORBIDDEN => "Refused",
            status if status.is_client_error() => "Not possible",
            _ => "The outbox cannot be read now",
        };
        let body = html! {
            p.note.bad { (visible(&self.error)) }
            p { a href="overview" { "Overview" } }
        };
        (self.status, Page::new(title, "").render(&body)).into_response()
    }
}
