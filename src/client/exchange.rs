//! One request and its reply.

use std::sync::Arc;

use axum_core::body::Body;
use axum_core::response::{IntoResponse, Response};
use http::header::RETRY_AFTER;
use http::{HeaderValue, StatusCode};
use tokio::time::{Instant, timeout_at};

#[cfg(feature = "client-cache")]
use super::cache::{ReplyCache, Target};
use super::message::message;
use super::settings::{ClientSettings, ReplyTimeout};
use super::topic::PathFault;
use crate::message::Message;
use crate::message::headers::MOST;
use crate::reply::{Reply, RequestError, Requester, headers};
use crate::util::body::{BodyFault, collect};
use crate::util::deadline::after;
use crate::util::error::Chain;
use crate::{telemetry, trace};

/// How many bytes the headers of a reply may have.
const MOST_BYTES: usize = 64 << 10;

/// The parts that all clones of a client share.
pub(super) struct Exchange {
    pub(super) requester: Arc<dyn Requester>,
    pub(super) settings: ClientSettings,
    #[cfg(feature = "client-cache")]
    pub(super) cache: Option<ReplyCache>,
}

impl Exchange {
    /// Sends the request, and returns the reply or the response of the failure.
    pub(super) async fn send(&self, parts: &http::request::Parts, body: Body) -> Response {
        let begun = Instant::now();
        let wait = parts.extensions.get().map_or(self.settings.timeout, |ReplyTimeout(wait)| *wait);
        let deadline = after(begun, wait);
        let counted = Counted(Some(begun));
        let sent = timeout_at(deadline, self.reply(parts, body, deadline)).await;
        let no_reply = || Fault::from(RequestError::NoReply(wait));
        match sent.unwrap_or_else(|_| Err(no_reply())) {
            Ok((reply, outcome)) => {
                counted.ended(outcome);
                reply.map(Body::from)
            }
            Err(fault) => {
                // A transport with a timer of its own knows only what was left of the wait.
                let is_late = matches!(fault, Fault::Request(RequestError::NoReply(_)));
                let fault = if is_late { no_reply() } else { fault };
                counted.ended(fault.kind());
                fault.into_response(parts.uri.path())
            }
        }
    }

    async fn reply(
        &self,
        parts: &http::request::Parts,
        body: Body,
        deadline: Instant,
    ) -> Result<(Reply, &'static str), Fault> {
        let most = self.settings.max_bytes;
        let body = collect(body, most).await.map_err(|fault| match fault {
            BodyFault::TooLarge => Fault::TooLarge(most),
            BodyFault::Failed(_) => Fault::Body,
        })?;
        let wait = deadline.saturating_duration_since(Instant::now());
        #[cfg(feature = "client-cache")]
        if let Some(cache) = &self.cache {
            return self.kept_reply(cache, parts, body, wait).await;
        }
        let request = message(parts, body, wait)?;
        Ok((self.request(request).await?, "replied"))
    }

    /// Returns the reply that is kept for the request, or else sends it.
    #[cfg(feature = "client-cache")]
    async fn kept_reply(
        &self,
        cache: &ReplyCache,
        parts: &http::request::Parts,
        body: bytes::Bytes,
        wait: std::time::Duration,
    ) -> Result<(Reply, &'static str), Fault> {
        let target = Target::new(parts, body.clone());
        if let Some(reply) = cache.get(&target, &parts.headers) {
            return Ok((reply, "cached"));
        }
        let reply = self.request(message(parts, body, wait)?).await?;
        cache.keep(target, &parts.headers, &reply);
        Ok((reply, "replied"))
    }

    async fn request(&self, mut request: Message) -> Result<Reply, RequestError> {
        if trace::is_on() {
            trace::attach(&mut request);
        }
        // The trait object itself: the implementation for `Arc` makes another box.
        let requester = &*self.requester;
        let mut reply = requester.request(request).await?;
        if reply.body().len() > self.settings.max_bytes {
            return Err(RequestError::bad_reply(format!(
                "its body is larger than {} bytes",
                self.settings.max_bytes
            )));
        }
        let size: usize = reply.headers().iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        if reply.headers().len() > MOST || size > MOST_BYTES {
            return Err(RequestError::bad_reply(format!(
                "it has more than {MOST} headers, or more than {MOST_BYTES} bytes of them"
            )));
        }
        headers::retain_travelling(reply.headers_mut());
        reply.extensions_mut().clear();
        Ok(reply)
    }
}

/// Why a request has no reply.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("the body of the request is larger than {0} bytes")]
    TooLarge(usize),
    #[error("the body of the request ended with an error")]
    Body,
    #[error(transparent)]
    Path(#[from] PathFault),
    #[error(transparent)]
    Request(#[from] RequestError),
}

impl Fault {
    fn kind(&self) -> &'static str {
        match self {
            Self::Request(error) => error.kind(),
            _ => "refused",
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Body | Self::Path(_) => StatusCode::BAD_REQUEST,
            Self::Request(RequestError::NoReply(_)) => StatusCode::GATEWAY_TIMEOUT,
            Self::Request(RequestError::NoResponder | RequestError::Unavailable(_)) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Request(_) => StatusCode::BAD_GATEWAY,
        }
    }

    /// The response does not show causes, which may name hosts.
    fn into_response(self, path: &str) -> Response {
        let status = self.status();
        tracing::warn!(path, error = %Chain(&self), "a request got no reply; the caller gets {status}");
        let mut response = (status, self.to_string()).into_response();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if let Self::Request(error) = self {
            response.extensions_mut().insert(error);
        }
        response
    }
}

/// Counts a request, also when its caller drops it.
struct Counted(Option<Instant>);

impl Counted {
    fn ended(mut self, outcome: &'static str) {
        if let Some(begun) = self.0.take() {
            telemetry::requested(outcome, begun.elapsed());
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(begun) = self.0 {
            telemetry::requested("cancelled", begun.elapsed());
        }
    }
}
