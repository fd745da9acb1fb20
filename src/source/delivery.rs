//! The delivery of a message to a handler, and its extractors.

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
use crate::reply::ReplyTo;
use crate::util::error::debug_as_display;

/// The message that a [`Consumer`](crate::consumer::Consumer) turned into this request, and how it was delivered; an extractor.
///
/// The status of the response settles the message, not this value. A clone is a handle to the same delivery.
///
/// ```
/// use axum::http::StatusCode;
/// use tower_outbox::Delivery;
///
/// async fn on_user_created(delivery: Delivery, body: String) -> StatusCode {
///     if delivery.attempt() > 1 {
///         tracing::warn!(id = %delivery.message().id(), attempt = delivery.attempt(), "once more");
///     }
///     // .. do it; after any status but a success the message is retried, or becomes a dead letter ..
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
    /// Whether the message is a CloudEvent.
    is_event: bool,
    reply_to: Option<ReplyTo>,
}

impl Delivery {
    pub(crate) fn new(
        message: Message,
        attempt: u32,
        redelivered: bool,
        source: Arc<str>,
        failures: Vec<FailedAttempt>,
    ) -> Self {
        Self(Arc::new(Received {
            message,
            attempt,
            redelivered,
            source,
            failures,
            is_event: false,
            reply_to: None,
        }))
    }

    /// Makes the first delivery of a message, for tests; its source is `test`. [`testing::request`](crate::testing::request) makes the
    /// request of it that a consumer makes.
    #[cfg(feature = "testing")]
    #[cfg_attr(docsrs, doc(cfg(feature = "testing")))]
    #[must_use]
    pub fn of(message: Message) -> Self {
        Self::new(message, 1, false, "test".into(), Vec::new())
    }

    /// Sets the number of the attempt, for tests; a later one is redelivered, after failures without a reason.
    #[cfg(feature = "testing")]
    #[cfg_attr(docsrs, doc(cfg(feature = "testing")))]
    #[must_use]
    pub fn with_attempt(self, attempt: u32) -> Self {
        let failed = FailedAttempt::new(SystemTime::now(), "a test".into());
        let failures = vec![failed; attempt.saturating_sub(1) as usize];
        Self::new(self.0.message.clone(), attempt, attempt > 1, Arc::clone(&self.0.source), failures)
    }

    /// The same delivery with another message.
    pub(crate) fn with_message(&self, message: Message) -> Self {
        let Received { attempt, redelivered, is_event, .. } = *self.0;
        let (source, failures) = (Arc::clone(&self.0.source), self.0.failures.clone());
        let reply_to = self.0.reply_to.clone();
        Self(Arc::new(Received { message, attempt, redelivered, source, failures, is_event, reply_to }))
    }

    /// Marks the message as a CloudEvent, whose source is in its header `ce-source`. It has no effect on a clone.
    #[cfg_attr(not(feature = "_brokers"), allow(dead_code, reason = "only brokers open envelopes"))]
    pub(crate) fn set_event(&mut self) {
        if let Some(received) = Arc::get_mut(&mut self.0) {
            received.is_event = true;
        }
    }

    pub(crate) fn is_event(&self) -> bool {
        self.0.is_event
    }

    /// Sets where the reply goes. It has no effect on a clone.
    pub(crate) fn set_reply_to(&mut self, reply_to: ReplyTo) {
        if let Some(received) = Arc::get_mut(&mut self.0) {
            received.reply_to = Some(reply_to);
        }
    }

    pub(crate) fn reply_to(&self) -> Option<&ReplyTo> {
        self.0.reply_to.as_ref()
    }

    /// Returns the message.
    #[must_use]
    pub fn message(&self) -> &Message {
        &self.0.message
    }

    /// Returns the number of this attempt, from 1, as far as the source counts attempts.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.0.attempt
    }

    /// Whether a handler of this or another process may have got the message before.
    #[must_use]
    pub fn redelivered(&self) -> bool {
        self.0.redelivered
    }

    /// Returns the queue or address that the message was received from.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.0.source
    }

    /// Returns the address that the response is sent to as the reply; `None` if the message is no request.
    #[must_use]
    pub fn reply_address(&self) -> Option<&str> {
        self.reply_to().map(ReplyTo::address)
    }

    /// Returns the time since the event, by its [`time`](Message::time); zero if that is in the future.
    #[must_use]
    pub fn age(&self) -> Duration {
        SystemTime::now().duration_since(self.0.message.time()).unwrap_or_default()
    }

    /// Returns the failed attempts, oldest first, as far as the source keeps them.
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

/// The id of the message that a [`Consumer`](crate::consumer::Consumer) turned into this request; an extractor.
///
/// Every attempt has the same id, so a handler can detect a message that it has already handled.
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
