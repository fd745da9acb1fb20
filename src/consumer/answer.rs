//! The reply to a request.

use std::time::Duration;

use axum_core::body::Body;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Request, Response, StatusCode};
use tokio::time::{Instant, timeout, timeout_at};
use tower_service::Service;
use tracing::{Instrument, Span};

use super::attempt::{Refused, Worker, call};
use super::disposition::{Disposition, may_pass, retry_after};
use crate::reply::{Reply, ReplyTo, headers};
use crate::source::Unsettled;
use crate::source::delivery::Delivery;
use crate::trace;
use crate::util::body::{BodyFault, collect};
use crate::util::caught::caught;
use crate::util::deadline::after;
use crate::util::error::{BoxError, Chain};

/// How long sending a reply may take.
const SENT: Duration = Duration::from_secs(5);

impl Worker {
    /// Sends the response of the service as the reply, whatever its status.
    ///
    /// Handling ends at the caller's deadline: the handler is dropped, and so are its messages.
    pub(super) async fn answer<S, B>(
        &self,
        service: Option<S>,
        delivery: &mut Unsettled,
        view: &Delivery,
        (begun, span): (Instant, &Span),
    ) -> Disposition
    where
        S: Service<Request<Body>, Response = Response<B>, Error: Into<BoxError>>,
        B: http_body::Body,
    {
        let deadline = view.reply_to().and_then(ReplyTo::deadline);
        let until = after(begun, self.settings.timeout);
        let until = deadline.map_or(until, |deadline| deadline.min(until));
        let is_expired = |now| deadline.is_some_and(|deadline| deadline <= now);
        if is_expired(begun) {
            return Disposition::Expired;
        }
        let attempt = view.attempt();
        let (reply, refused) = match self.prepare(view) {
            Err(refused) => (text(refused.status, &refused.reason), Some(refused)),
            Ok(mut request) => {
                trace::pass_on(span, request.headers_mut());
                let handled = respond(service, request, self.settings.max_bytes);
                let handled = caught(handled.instrument(span.clone()));
                let failed = match timeout_at(until, handled).await {
                    Ok(Some(Ok(reply))) => Ok(reply),
                    Ok(Some(Err(reason))) => Err((StatusCode::INTERNAL_SERVER_ERROR, reason)),
                    Ok(None) => Err((StatusCode::INTERNAL_SERVER_ERROR, "the handler panicked".to_owned())),
                    Err(_) if is_expired(Instant::now()) => return Disposition::Expired,
                    Err(_) => {
                        let reason = format!("no answer within {:?}", self.settings.timeout);
                        Err((StatusCode::GATEWAY_TIMEOUT, reason))
                    }
                };
                let reply = failed.unwrap_or_else(|(status, reason)| {
                    let (id, topic, consumer) = (view.message().id(), view.message().topic(), &self.consumer);
                    match self.faults.occurred() {
                        Some(line) => tracing::warn!(
                            %id, %topic, attempt, %consumer, reason, times = line.times,
                            "failed to handle a request; the caller gets {status}"
                        ),
                        None => tracing::debug!(%id, %topic, attempt, %consumer, reason, "failed to handle a request"),
                    }
                    text(status, "the responder failed")
                });
                (reply, None)
            }
        };
        if self.settings.retry_requests
            && refused.is_none()
            && may_pass(reply.status())
            && attempt < self.settings.max_attempts
        {
            let wait = retry_after(reply.headers()).unwrap_or_else(|| self.backoff(attempt));
            if deadline.is_none_or(|deadline| after(Instant::now(), wait) < deadline) {
                return Disposition::Retry { after: Some(wait), reason: reply.status().to_string() };
            }
        }
        let sent = match timeout(SENT, delivery.reply(reply)).await {
            Ok(sent) => sent.map_err(|error| Chain(&error).to_string()),
            Err(_) => Err(format!("no confirm within {SENT:?}")),
        };
        match (sent, refused) {
            (Err(reason), _) => Disposition::failed(format!("the reply could not be sent: {reason}")),
            (Ok(()), Some(Refused { status: StatusCode::INTERNAL_SERVER_ERROR, reason })) => {
                Disposition::Reject { reason }
            }
            (Ok(()), _) => Disposition::Answered,
        }
    }
}

/// Calls the service, and collects its response. The error is the reason of the failure.
async fn respond<S, B>(service: Option<S>, request: Request<Body>, max_bytes: usize) -> Result<Reply, String>
where
    S: Service<Request<Body>, Response = Response<B>, Error: Into<BoxError>>,
    B: http_body::Body,
{
    let service = service.ok_or("the handler panicked while being cloned")?;
    let response = call(service, request).await.map_err(|error| Chain(&*error).to_string())?;
    let (mut parts, body) = response.into_parts();
    let body = collect(body, max_bytes).await.map_err(|fault| match fault {
        BodyFault::TooLarge => format!("the response is larger than {max_bytes} bytes"),
        BodyFault::Failed(_) => "the body of the response ended with an error".to_owned(),
    })?;
    headers::retain_travelling(&mut parts.headers);
    let mut reply = Reply::new(body);
    *reply.status_mut() = parts.status;
    *reply.headers_mut() = parts.headers;
    Ok(reply)
}

fn text(status: StatusCode, text: &str) -> Reply {
    let mut reply = Reply::new(Bytes::copy_from_slice(text.as_bytes()));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    reply
}
