//! One attempt to handle one message.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use axum_core::body::Body;
use http::{HeaderValue, Request, Response};
use tokio::time::{Instant, timeout};
use tower_service::Service;

use super::handle::ConsumerHandle;
use super::request::request;
use super::settings::ConsumerSettings;
use super::verdict::Verdict;
use crate::source::delivery::Delivery;
use crate::source::{self, SourceError};
use crate::telemetry;
use crate::util::backoff::Backoff;
use crate::util::caught::caught;
use crate::util::error::{BoxError, Chain};

/// The first wait before another attempt.
const BASE: Duration = Duration::from_secs(1);

/// What every attempt of a consumer shares.
pub(super) struct Worker {
    pub(super) settings: ConsumerSettings,
    pub(super) handle: ConsumerHandle,
    /// What requests say of where messages come from.
    pub(super) source: HeaderValue,
}

impl Worker {
    /// Hands the message to the service, unless that panicked as it was cloned, and answers by what that answers.
    pub(super) async fn handle<S, B>(self: Arc<Self>, service: Option<S>, delivery: source::Unsettled)
    where
        S: Service<Request<Body>, Response = Response<B>, Error: Into<BoxError>>,
        B: http_body::Body,
    {
        let begun = Instant::now();
        let verdict = match delivery.view() {
            Ok(view) => self.judge(service, view).await,
            Err(reason) => Verdict::Reject { reason: format!("it cannot be read: {reason}") },
        };
        let answered = match verdict {
            Verdict::Ack => {
                self.handle.acked();
                telemetry::handled("ack", begun.elapsed());
                delivery.ack().await
            }
            Verdict::Reject { reason } => self.reject(delivery, reason, begun).await,
            Verdict::Retry { after, reason } => self.retry(delivery, after, reason, begun).await,
            Verdict::NotNow { after } => {
                telemetry::handled("not_now", begun.elapsed());
                tokio::time::sleep(after).await;
                delivery.release().await
            }
        };
        if let Err(error) = answered
            && !matches!(error, SourceError::Closed)
        {
            tracing::warn!(error = %Chain(&error), "the answer to a message could not be given: it comes again");
        }
    }

    async fn judge<S, B>(&self, service: Option<S>, view: &Delivery) -> Verdict
    where
        S: Service<Request<Body>, Response = Response<B>, Error: Into<BoxError>>,
        B: http_body::Body,
    {
        let (message, most) = (view.message(), self.settings.max_bytes);
        if message.body().len() > most {
            return Verdict::Reject { reason: format!("its body is larger than {most} bytes") };
        }
        if view.attempt() > self.settings.max_attempts {
            let attempts = view.attempt() - 1;
            let reason = format!(
                "{attempts} attempts ended without an answer that could be kept: handling it may end the process"
            );
            return Verdict::Reject { reason };
        }
        let request = match request(view, &self.source) {
            Ok(request) => request,
            Err(error) => return Verdict::Reject { reason: error.to_string() },
        };
        let Some(service) = service else { return Verdict::failed("the handler panicked as it was cloned") };
        let attempt = timeout(self.settings.timeout, caught(call(service, request)));
        match attempt.await {
            Ok(Some(verdict)) => verdict,
            Ok(None) => Verdict::failed("the handler panicked"),
            Err(_) => Verdict::failed(format!("no answer within {:?}", self.settings.timeout)),
        }
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
        let backoff = Backoff::new(BASE, self.settings.max_backoff);
        let after = after.unwrap_or_else(|| backoff.delay(attempt - 1));
        if let Ok(view) = delivery.view() {
            let (id, topic) = (view.message().id(), view.message().topic());
            tracing::warn!(%id, %topic, attempt, reason, ?after, "message not handled: it comes again");
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
        match delivery.view() {
            Ok(view) => telemetry::dead(&view.message().id(), &reason),
            Err(_) => telemetry::dead(&"unknown", &reason),
        }
        self.handle.dead();
        telemetry::handled("dead", begun.elapsed());
        delivery.reject(reason).await
    }
}

async fn call<S, B>(mut service: S, request: Request<Body>) -> Verdict
where
    S: Service<Request<Body>, Response = Response<B>, Error: Into<BoxError>>,
    B: http_body::Body,
{
    let ready = poll_fn(|cx| service.poll_ready(cx)).await.map_err(Verdict::error);
    if let Err(verdict) = ready {
        return verdict;
    }
    let response = service.call(request).await.map_err(Verdict::error);
    match response {
        Ok(response) => Verdict::of(response).await,
        Err(verdict) => verdict,
    }
}
