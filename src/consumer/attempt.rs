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
use crate::trace::{Received, Settled};
use crate::util::backoff::Backoff;
use crate::util::caught::caught;
use crate::util::error::{BoxError, Chain};
use crate::util::repeated::Repeated;
use crate::{telemetry, trace};

/// The first wait before another attempt.
const BASE: Duration = Duration::from_secs(1);

/// The settings and counters that all attempts of a consumer share.
pub(super) struct Worker {
    pub(super) settings: ConsumerSettings,
    pub(super) handle: ConsumerHandle,
    /// The header `ce-source` of requests.
    pub(super) source: HeaderValue,
    pub(super) consumer: Arc<str>,
    pub(super) backend: Option<Arc<str>>,
    /// The log lines about failed attempts: one at once, then one a minute with a count.
    pub(super) faults: Repeated,
}

impl Worker {
    /// Calls the service, unless it panicked while being cloned, and settles the message by the response.
    pub(super) async fn handle<S, B>(self: Arc<Self>, service: Option<S>, mut delivery: source::Unsettled)
    where
        S: Service<Request<Body>, Response = Response<B>, Error: Into<BoxError>>,
        B: http_body::Body,
    {
        let begun = Instant::now();
        let span = delivery.view().map_or_else(|_| Span::none(), |view| self.span(view));
        let disposition = match delivery.view() {
            Ok(view) if view.reply_to().is_some() => {
                let view = view.clone();
                self.answer(service, &mut delivery, &view, (begun, &span)).await
            }
            Ok(view) => self.judge(service, view, &span).await,
            Err(reason) => Disposition::Reject { reason: format!("the message cannot be read: {reason}") },
        };
        let error = disposition.error_type();
        error.into_iter().for_each(|error| trace::failed(&span, error));
        if let Some(system) = self.system() {
            telemetry::processed(&self.consumer, system, error, begun.elapsed());
        }
        let answered = match disposition {
            Disposition::Ack => {
                self.handle.acked();
                self.handled(&delivery, "ack", begun);
                let settling = self.settling(&span, &delivery, Settled::Ack);
                delivery.ack().instrument(settling).await
            }
            Disposition::Answered => {
                self.handle.acked();
                self.handled(&delivery, "answered", begun);
                let settling = self.settling(&span, &delivery, Settled::Ack);
                delivery.ack().instrument(settling).await
            }
            Disposition::Expired => {
                telemetry::expired_requests(1, &self.consumer);
                let settling = self.settling(&span, &delivery, Settled::Discard);
                delivery.discard().instrument(settling).await
            }
            // Seldom, and large.
            Disposition::Reject { reason } => Box::pin(self.reject(delivery, reason, begun, &span)).await,
            Disposition::Retry { after, reason } => {
                Box::pin(self.retry(delivery, after, reason, begun, &span)).await
            }
            Disposition::NotNow { after } => {
                self.handled(&delivery, "not_now", begun);
                tokio::time::sleep(after).await;
                let settling = self.settling(&span, &delivery, Settled::Release);
                delivery.release().instrument(settling).await
            }
        };
        if let Err(error) = answered
            && !matches!(error, SourceError::Closed)
        {
            tracing::warn!(error = %Chain(&error), "failed to settle a message; it will be delivered again");
        }
    }

    /// Returns the span of an attempt: the log lines of its handler carry the fields of it.
    fn span(&self, view: &Delivery) -> Span {
        trace::process(Received {
            message: view.message(),
            attempt: view.attempt(),
            source: view.source(),
            consumer: &self.consumer,
            system: self.system(),
        })
    }

    fn settling(&self, span: &Span, delivery: &source::Unsettled, settled: Settled) -> Span {
        let topic = delivery.view().map_or("", |view| view.message().topic().as_str());
        trace::settle(span, settled, topic, self.system())
    }

    fn handled(&self, delivery: &source::Unsettled, outcome: &'static str, begun: Instant) {
        let message = delivery.view().ok().map(Delivery::message);
        telemetry::handled(&self.consumer, message, outcome, begun.elapsed());
    }

    pub(super) fn system(&self) -> Option<&str> {
        self.backend.as_deref().map(telemetry::system)
    }

    async fn judge<S, B>(&self, service: Option<S>, view: &Delivery, span: &Span) -> Disposition
    where
        S: Service<Request<Body>, Response = Response<B>, Error: Into<BoxError>>,
        B: http_body::Body,
    {
        let mut request = match self.prepare(view) {
            Ok(request) => request,
            Err(Refused { reason, .. }) => return Disposition::Reject { reason },
        };
        trace::pass_on(span, request.headers_mut());
        let Some(service) = service else {
            return Disposition::failed("the handler panicked while being cloned");
        };
        let handled = async {
            match call(service, request).await {
                Ok(response) => Disposition::of(response).await,
                Err(error) => Disposition::error(error),
            }
        };
        match timeout(self.settings.timeout, caught(handled.instrument(span.clone()))).await {
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
        span: &Span,
    ) -> Result<(), SourceError> {
        let attempt = delivery.view().map_or(1, Delivery::attempt);
        if attempt >= self.settings.max_attempts {
            return self
                .reject(delivery, format!("given up after {attempt} attempts: {reason}"), begun, span)
                .await;
        }
        let after = after.unwrap_or_else(|| self.backoff(attempt));
        if let Ok(view) = delivery.view() {
            let (id, topic, consumer) = (view.message().id(), view.message().topic(), &self.consumer);
            match self.faults.occurred() {
                Some(line) => tracing::warn!(
                    %id, %topic, attempt, %consumer, reason, ?after, times = line.times,
                    "failed to handle a message; it will be retried"
                ),
                None => {
                    tracing::debug!(%id, %topic, attempt, %consumer, reason, ?after, "failed to handle a message")
                }
            }
        }
        self.handle.retried();
        self.handled(&delivery, "retry", begun);
        let settling = self.settling(span, &delivery, Settled::Retry);
        delivery.retry(after, reason).instrument(settling).await
    }

    async fn reject(
        &self,
        delivery: source::Unsettled,
        reason: String,
        begun: Instant,
        span: &Span,
    ) -> Result<(), SourceError> {
        let received = delivery.view().ok().map(|view| (view.message(), view.attempt()));
        telemetry::dead_received(&self.consumer, received, &reason);
        self.handle.dead();
        self.handled(&delivery, "dead", begun);
        let settling = self.settling(span, &delivery, Settled::Reject);
        delivery.reject(reason).instrument(settling).await
    }
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
