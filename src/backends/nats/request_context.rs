//! The parts of a source of requests that its task and its settlements share.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::Subject;
use bytes::Bytes;
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use rustls::ClientConfig;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::client::Generation;
use super::failure::TooLarge;
use super::incoming::Reader;
use super::replies;
use super::request::Request;
use super::settings::NatsSettings;
use super::subscription::NatsSubscription;
use crate::backends::brokers::BrokerUrl;
use crate::messenger::Failure;
use crate::reply::Reply;
use crate::source::SourceError;
use crate::util::error::Chain;
use crate::util::sync::lock;

pub(super) struct RequestContext {
    pub(super) settings: Arc<NatsSettings>,
    pub(super) urls: Vec<BrokerUrl>,
    pub(super) tls: Option<Arc<ClientConfig>>,
    pub(super) subscription: NatsSubscription,
    pub(super) filters: Vec<String>,
    pub(super) reader: Reader,
    /// How many requests may be here, and how many bytes of them.
    pub(super) places: Arc<Semaphore>,
    pub(super) bytes: Arc<Semaphore>,
    pub(super) ready: Mutex<Ready>,
    pub(super) arrived: Notify,
    /// The connection: a reply goes over any.
    pub(super) link: watch::Sender<Option<Arc<Generation>>>,
    /// Cancelled when the source is closed.
    pub(super) closed: CancellationToken,
}

/// The requests that the application may receive.
#[derive(Default)]
pub(super) struct Ready {
    requests: VecDeque<Request>,
    error: Option<Failure>,
}

impl RequestContext {
    pub(super) fn push(&self, request: Request) {
        lock(&self.ready).requests.push_back(request);
        self.arrived.notify_waiters();
    }

    /// Puts a request before the others.
    pub(super) fn push_front(&self, request: Request) {
        lock(&self.ready).requests.push_front(request);
        self.arrived.notify_waiters();
    }

    /// Sets or clears a permanent error for the next `receive`.
    pub(super) fn set_error(&self, error: Option<Failure>) {
        lock(&self.ready).error = error;
        self.arrived.notify_waiters();
    }

    /// Takes the next requests, or the permanent error.
    pub(super) fn take(&self, limit: usize) -> Option<Result<Vec<Request>, SourceError>> {
        let mut ready = lock(&self.ready);
        let count = ready.requests.len().min(limit);
        if count > 0 {
            return Some(Ok(ready.requests.drain(..count).collect()));
        }
        let failure = ready.error.take()?;
        Some(Err(SourceError::unavailable(Chain(failure.cause()).to_string())))
    }

    /// Tells the callers of all requests that nobody received that they are not handled.
    pub(super) async fn refuse_all(&self) {
        let requests = std::mem::take(&mut lock(&self.ready).requests);
        for request in requests {
            self.refuse(request.reply_to.as_ref(), "the responder stops").await;
        }
    }

    /// Tells a caller that its request is not handled now.
    pub(super) async fn refuse(&self, reply_to: Option<&Subject>, why: &'static str) {
        let Some(reply_to) = reply_to else {
            tracing::warn!(source = %self.reader.source, why, "dropped a message without a reply address");
            return;
        };
        tracing::info!(source = %self.reader.source, why, "refused a request; the caller gets 503");
        let mut reply = text(StatusCode::SERVICE_UNAVAILABLE, why);
        reply.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        let _ = self.reply(reply_to, reply).await;
    }

    /// Hands a reply over to the connection. NATS confirms none.
    pub(super) async fn reply(&self, reply_to: &Subject, reply: Reply) -> Result<(), SourceError> {
        let limit = self.settings.broker.send_timeout();
        let is_open =
            |link: &Option<Arc<Generation>>| link.as_ref().is_some_and(|it| !it.events.ended.is_cancelled());
        let mut link = Some(self.link.borrow()).filter(|link| is_open(link)).and_then(|link| link.clone());
        if link.is_none() {
            let mut next = self.link.subscribe();
            // Seldom, and large.
            let waited = Box::pin(timeout(limit, next.wait_for(is_open))).await;
            let waited = waited
                .map_err(|_| SourceError::unavailable(format!("there is no connection within {limit:?}")))?;
            link = waited.ok().and_then(|link| link.clone());
        }
        let Some(link) = link else { return Err(SourceError::Closed) };
        let (headers, body) = self.encode(&link, reply);
        let published = link.client.publish_with_headers(reply_to.clone(), headers, body);
        match timeout(limit, published).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => {
                let failure = link.events.failure();
                Err(SourceError::unavailable(Chain(failure.cause()).to_string()))
            }
            Err(_) => Err(SourceError::unavailable(format!("the connection took nothing within {limit:?}"))),
        }
    }

    /// The reply, or in its place that it is too large: the server would end the connection over it.
    fn encode(&self, link: &Generation, reply: Reply) -> (async_nats::HeaderMap, Bytes) {
        let (headers, body) = replies::encode(reply);
        let (size, limit) = (replies::size(&headers, &body), link.client.max_payload());
        if size <= limit {
            return (headers, body);
        }
        let error = TooLarge { size, limit };
        tracing::warn!(source = %self.reader.source, %error, "a reply cannot be sent; the caller gets 500");
        replies::encode(text(StatusCode::INTERNAL_SERVER_ERROR, "the reply is too large for the broker"))
    }

    /// How long a settled connection may take to close.
    pub(super) const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
}

fn text(status: StatusCode, text: &'static str) -> Reply {
    let mut reply = Reply::new(Bytes::from_static(text.as_bytes()));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    reply
}
