//! One attempt to handle one message.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use axum_core::body::Body;
use http::{HeaderValue, Request, Response, StatusCode};
use tokio::time::{Instant, timeout};
use tower_service::Service;
use tracing::{Instrument, Span};

use super::disposition::Disposition;
use super::handle::ConsumerHandle;
use super::request::{NoRequest, request};
use super::settings::ConsumerSettings;
use crate::source::delivery::Delivery;
use crate::source::{self, SourceError};
use crate::telemetry;
use crate::util::backoff::Backoff;
use crate::util::caught::caught;
use crate::util::error::{BoxError, Chain};

/// The first wait before another attempt.
const BASE: Duration = Duration::from_secs(1);

/// The settings and counters that all attempts of a consumer share.
pub(super) struct Worker {
    pub(super) settings: ConsumerSettings,
    pub(super) handle: ConsumerHandle,
    /// The header `ce-source` of requests.
    pub(super) source: HeaderValue,
}

impl Worker {
    /// Calls the service, unless it panicked while being cloned, and settles the message by the response.
    pub(super) async fn handle<S, B>(self: Arc<Self>, service: Option<S>, mut delivery: source::Unsettled)
    where
        S: Service<Request<Body>, Response = Response<B>, Error: Into<BoxError>>,
        B: http_body::Body,
    {
        let begun = Instant::now();
        let disposition = match delivery.view() {
            Ok(view) if view.reply_to().is_some() => {
                let view = view.clone();
                self.answer(service, &mut delivery, &view).await
            }
            Ok(view) => self.judge(service, view).await,
            Err(reason) => Disposition::Reject { reason: format!("the message cannot be read: {reason}") },
        };
        let answered = match disposition {
            Disposition::Ack => {
                self.handle.acked();
                telemetry::handled("ack", begun.elapsed());
                delivery.ack().await
            }
            Disposition::Answered => {
                self.handle.acked();
                telemetry::handled("answered", begun.elapsed());
                delivery.ack().await
            }
            Disposition::Expired => {
                let source = delivery.view().map_or("", Delivery::source);
                telemetry::expired_requests(1, source);
                delivery.discard().await
            }
            Disposition::Reject { reason } => self.reject(delivery, reason, begun).await,
            Disposition::Retry { after, reason } => self.retry(delivery, after, reason, begun).await,
            Disposition::NotNow { after } => {
                telemetry::handled("not_now", begun.elapsed());
                tokio::time::sleep(after).await;
                delivery.release().await
            }
        };
        if let Err(error) = answered
            && !matches!(error, SourceError::Closed)
        {
            tracing::warn!(error = %Chain(&error), "failed to settle a message; it will be delivered again");
        }
    }

    async fn judge<S, B>(&self, service: Option<S>, view: &Delivery) -> Disposition
    where
        S: Service<Request<Body>, Response = Response<B>, Error: Into<BoxError>>,
        B: http_body::Body,
    {
        let request = match self.prepare(view) {
            Ok(request) => request,
            Err(Refused { reason, .. }) => return Disposition::Reject { reason },
        };
        let Some(service) = service else {
            return Disposition::failed("the handler panicked while being cloned");
        };
        let handled = async {
            match call(service, request).await {
                Ok(response) => Disposition::of(response).await,
                Err(error) => Disposition::error(error),
            }
        };
        match timeout(self.settings.timeout, caught(handled.instrument(span(view)))).await {
            Ok(Some(disposition)) => disposition,
            Ok(None) => Disposition::failed("the handler panicked"),
            Err(_) => Disposition::failed(format!("no answer within {:?}", self.settings.timeout)),
        }
    }

    /// Makes the request for the handler.
    pub(super) fn prepare(&self, view: &Delivery) -> Result<Request<Body>, Refused> {
        let (message, most) = (view.message(), self.settings.max_bytes);
        if message.body().len() > most {
            let reason = format!("the body is larger than {most} bytes");
            return Err(Refused { status: StatusCode::PAYLOAD_TOO_LARGE, reason });
        }
        if view.attempt() > self.settings.max_attempts {
            let attempts = view.attempt() - 1;
            let reason = format!(
                "{attempts} attempts ended without a recorded result; handling this message may kill the process"
            );
            return Err(Refused { status: StatusCode::INTERNAL_SERVER_ERROR, reason });
        }
        request(view, &self.source).map_err(|error| {
            let status = match error {
                NoRequest::Topic | NoRequest::Method => StatusCode::BAD_REQUEST,
                NoRequest::ManyHeaders | NoRequest::LargeHeaders => {
                    StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
                }
            };
            Refused { status, reason: error.to_string() }
        })
    }

    /// Returns how long a message waits for its next attempt.
    pub(super) fn backoff(&self, attempt: u32) -> Duration {
        Backoff::new(BASE, self.settings.max_backoff).delay(attempt - 1)
    }

    async fn retry(
        &self,
        delivery: source::Unsettled,
        after: Option<Duration>,
        reason: String,
        begun: Instant,
    ) -> Result<(), SourceError> {
        let attempt = delivery.view().map_or(1, Delivery::attempt);
        if attempt >= self.settings.max_attempts {
            return self
                .reject(delivery, format!("given up after {attempt} attempts: {reason}"), begun)
                .await;
        }
        let after = after.unwrap_or_else(|| self.backoff(attempt));
        if let Ok(view) = delivery.view() {
            let (id, topic) = (view.message().id(), view.message().topic());
            tracing::warn!(%id, %topic, attempt, reason, ?after, "failed to handle a message; it will be retried");
        }
        self.handle.retried();
        telemetry::handled("retry", begun.elapsed());
        delivery.retry(after, reason).await
    }

    async fn reject(
        &self,
        delivery: source::Unsettled,
        reason: String,
        begun: Instant,
    ) -> Result<(), SourceError> {
        telemetry::dead_received(delivery.view().ok().map(|view| (view.message(), view.source())), &reason);
        self.handle.dead();
        telemetry::handled("dead", begun.elapsed());
        delivery.reject(reason).await
    }
}

/// Returns the span of a handler: its log lines carry these fields.
pub(super) fn span(view: &Delivery) -> Span {
    let (message, attempt, source) = (view.message(), view.attempt(), view.source());
    // At the level of errors: a filter of lesser lines does not take the fields away from the others.
    tracing::error_span!("process", id = %message.id(), topic = %message.topic(), attempt, source)
}

/// A message that is not tried.
pub(super) struct Refused {
    pub(super) status: StatusCode,
    pub(super) reason: String,
}

pub(super) async fn call<S, B>(mut service: S, request: Request<Body>) -> Result<Response<B>, BoxError>
where
    S: Service<Request<Body>, Response = Response<B>, Error: Into<BoxError>>,
{
    poll_fn(|cx| service.poll_ready(cx)).await.map_err(Into::into)?;
    service.call(request).await.map_err(Into::into)
}
