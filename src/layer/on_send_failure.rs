//! The answer to a client whose messages could not be sent.

use http::header::RETRY_AFTER;
use http::{HeaderValue, Response, StatusCode};

use super::body::ResponseBody;
use crate::store::admission::RejectedForCapacity;

/// The answer to the client when the messages of its successful request could not be sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "settings", derive(serde::Deserialize), serde(rename_all = "lowercase"))]
pub enum OnSendFailure {
    /// The client gets the response of the handler, as in PDC, even a 2xx whose messages are lost. They are logged.
    Log,
    /// The client gets 503 with `Retry-After`; the messages are logged. The default.
    #[default]
    Reject,
}

/// How sending the messages of a request ended, as far as its response depends on it.
pub(super) enum SendOutcome {
    Sent,
    Unsent,
    /// The messenger is full: 503 whatever [`OnSendFailure`] is.
    Overloaded,
    /// The transaction is not committed, and another try may succeed: 503.
    Unavailable,
    /// The transaction is not committed: 500.
    Failed,
}

/// A reason to answer a request without calling its handler.
#[derive(Clone, Copy)]
pub(super) enum Refusal {
    /// The messenger is full: 503.
    Overloaded,
    /// The header `Idempotency-Key` is invalid: 400.
    BadKey,
}

/// How many seconds a client should wait before it tries again.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("5");

impl OnSendFailure {
    /// Returns the response of a request whose sending ended so; `success` is whether its handler succeeded.
    pub(super) fn answer<B>(
        self,
        response: Response<B>,
        success: bool,
        outcome: &SendOutcome,
    ) -> Response<ResponseBody<B>> {
        let replaced = match outcome {
            SendOutcome::Sent => false,
            SendOutcome::Unsent => self == Self::Reject,
            SendOutcome::Overloaded | SendOutcome::Unavailable | SendOutcome::Failed => true,
        };
        if !(replaced && success) {
            return response.map(ResponseBody::new);
        }
        match outcome {
            SendOutcome::Overloaded => overloaded(),
            SendOutcome::Failed => status(StatusCode::INTERNAL_SERVER_ERROR),
            _ => unavailable(),
        }
    }
}

impl Refusal {
    pub(super) fn answer<B>(self) -> Response<ResponseBody<B>> {
        match self {
            Self::Overloaded => overloaded(),
            Self::BadKey => status(StatusCode::BAD_REQUEST),
        }
    }
}

fn overloaded<B>() -> Response<ResponseBody<B>> {
    let mut response = unavailable();
    response.extensions_mut().insert(RejectedForCapacity);
    response
}

fn unavailable<B>() -> Response<ResponseBody<B>> {
    let mut response = status(StatusCode::SERVICE_UNAVAILABLE);
    response.headers_mut().insert(RETRY_AFTER, RETRY_AFTER_SECONDS);
    response
}

fn status<B>(status: StatusCode) -> Response<ResponseBody<B>> {
    let mut response = Response::new(ResponseBody::empty());
    *response.status_mut() = status;
    response
}
