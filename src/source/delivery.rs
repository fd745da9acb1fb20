//! What a handler can know of the message it is given, and the extractors for it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum_core::extract::{FromRequestParts, OptionalFromRequestParts};
use axum_core::response::{IntoResponse, Response};
use http::StatusCode;
use http::request::Parts;
use uuid::Uuid;

use crate::message::Message;
use crate::message::failed_attempt::FailedAttempt;
use crate::util::error::debug_as_display;

/// The message a [`Consumer`](crate::consumer::Consumer) made this request of, and how it came; an extractor.
///
/// A clone is a handle to the same. It answers nothing: the status of the response does.
///
/// ```
/// use axum::http::StatusCode;
/// use tower_outbox::Delivery;
///
/// async fn on_user_created(delivery: Delivery, body: String) -> StatusCode {
///     if delivery.attempt() > 1 {
///         tracing::warn!(id = %delivery.message().id(), attempt = delivery.attempt(), "once more");
///     }
///     // .. do it; a status that is no success brings the message again, or makes it a dead letter ..
/// #   let _ = body;
///     StatusCode::NO_CONTENT
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Delivery(Arc<Received>);

#[derive(Debug)]
struct Received {
    message: Message,
    attempt: u32,
    redelivered: bool,
    source: Arc<str>,
    failures: Vec<FailedAttempt>,
    /// Whether it came as a CloudEvent.
    is_event: bool,
}

impl Delivery {
    pub(crate) fn new(
        message: Message,
        attempt: u32,
        redelivered: bool,
        source: Arc<str>,
        failures: Vec<FailedAttempt>,
    ) -> Self {
        Self(Arc::new(Received { message, attempt, redelivered, source, failures, is_event: false }))
    }

    /// Says that it came as a CloudEvent, whose source is in its header `ce-source`; to be said before it is cloned.
    #[cfg_attr(not(feature = "_brokers"), allow(dead_code, reason = "only brokers open envelopes"))]
    pub(crate) fn set_event(&mut self) {
        if let Some(received) = Arc::get_mut(&mut self.0) {
            received.is_event = true;
        }
    }

    pub(crate) fn is_event(&self) -> bool {
        self.0.is_event
    }

    /// The message.
    #[must_use]
    pub fn message(&self) -> &Message {
        &self.0.message
    }

    /// Which attempt this is, from 1, as far as the source counts them.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.0.attempt
    }

    /// Whether it may have been given to a handler before, here or elsewhere.
    #[must_use]
    pub fn redelivered(&self) -> bool {
        self.0.redelivered
    }

    /// Where it came from: the queue or address.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.0.source
    }

    /// How long ago the event was, by its [`time`](Message::time); zero if that is in the future.
    #[must_use]
    pub fn age(&self) -> Duration {
        SystemTime::now().duration_since(self.0.message.time()).unwrap_or_default()
    }

    /// The attempts that failed, oldest first, as far as the source keeps them.
    #[must_use]
    pub fn failures(&self) -> &[FailedAttempt] {
        &self.0.failures
    }
}

impl<S: Sync> FromRequestParts<S> for Delivery {
    type Rejection = NoDelivery;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        parts.extensions.get().cloned().ok_or(NoDelivery)
    }
}

impl<S: Sync> OptionalFromRequestParts<S> for Delivery {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Self::Rejection> {
        Ok(parts.extensions.get().cloned())
    }
}

/// The id of the message a [`Consumer`](crate::consumer::Consumer) made this request of; an extractor.
///
/// It is the same however often the message comes: what a handler needs to see that it has done the work already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MessageId(pub Uuid);

impl<S: Sync> FromRequestParts<S> for MessageId {
    type Rejection = NoDelivery;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        parts.extensions.get().map(|delivery: &Delivery| Self(delivery.message().id())).ok_or(NoDelivery)
    }
}

/// The rejection of the extractors [`Delivery`] and [`MessageId`]; answers 500.
#[derive(thiserror::Error)]
#[error("the request was not made of a message: only a tower_outbox::Consumer can call this handler")]
#[non_exhaustive]
pub struct NoDelivery;

debug_as_display!(NoDelivery);

impl IntoResponse for NoDelivery {
    fn into_response(self) -> Response {
        (StatusCode::INTERNAL_SERVER_ERROR, self.to_string()).into_response()
    }
}
