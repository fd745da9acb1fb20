//! The service of the layer, and the future of its responses.

use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::{Request, Response, request, response};
use pin_project_lite::pin_project;
use tokio::task::JoinHandle;
use tower_service::Service;
use tracing::Instrument;

use super::body::ResponseBody;
use super::config::{Full, LayerConfig};
use super::flush::{Decision, Flush};
use super::idempotency::{self, BadKey};
use super::on_send_failure::{OnSendFailure, Refusal, SendOutcome};
use crate::message::trace_context::TraceContext;
use crate::queue::{Call, MessageQueue};
use crate::source::delivery::Delivery;
use crate::telemetry;

/// The service of [`MessagingLayer`](super::MessagingLayer).
#[derive(Clone, Debug)]
pub struct MessagingService<S> {
    inner: S,
    config: Arc<LayerConfig>,
}

impl<S> MessagingService<S> {
    pub(super) fn new(inner: S, config: Arc<LayerConfig>) -> Self {
        Self { inner, config }
    }
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for MessagingService<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
{
    type Response = Response<ResponseBody<ResBody>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, ResBody>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        let mut cause: Option<Delivery> = None;
        if !request.extensions().is_empty() {
            if let Some(outer) = request.extensions().get::<MessageQueue>().filter(|outer| !outer.is_closed())
            {
                let joined = Joined { call: outer.begin_call(), config: Arc::clone(&self.config) };
                request.extensions_mut().insert(joined.call.queue());
                return ResponseFuture::joined(self.inner.call(request), joined);
            }
            cause = request.extensions().get().cloned();
        }
        let mut admitted = None;
        if !request.method().is_safe() {
            admitted = match self.config.admit() {
                Ok(admitted) => admitted,
                Err(Full) => {
                    telemetry::turned_away();
                    return ResponseFuture::refused(Refusal::Overloaded);
                }
            };
        }
        let mut seed = None;
        if self.config.idempotency_key && cause.is_none() {
            seed = match idempotency::seed(&request) {
                Ok(seed) => seed,
                Err(BadKey) => return ResponseFuture::refused(Refusal::BadKey),
            };
        }
        let trace = TraceContext::of(request.headers());
        let queue = MessageQueue::new(Arc::clone(&self.config.queue), trace, cause, seed);
        request.extensions_mut().insert(queue.clone());
        let parts = self.config.enrich.as_ref().map(|_| Box::new(parts(&request)));
        let flush = Flush::new(Arc::clone(&self.config), queue, parts, admitted);
        ResponseFuture::new(self.inner.call(request), Some(flush))
    }
}

/// Copies the head without moving the request.
fn parts<B>(request: &Request<B>) -> request::Parts {
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.method = request.method().clone();
    parts.uri = request.uri().clone();
    parts.version = request.version();
    parts.headers = request.headers().clone();
    parts.extensions = request.extensions().clone();
    parts
}

pin_project! {
    /// The future of [`MessagingService`].
    pub struct ResponseFuture<F, B> {
        // None when the layer answers without calling the handler.
        #[pin]
        inner: Option<F>,
        refusal: Refusal,
        // None when the queue belongs to an outer layer.
        flush: Option<Flush>,
        joined: Option<Joined>,
        sending: Option<Box<Sending<B>>>,
    }
}

/// A call that shares the queue of an outer layer. Dropping it before its end counts as a failure.
#[derive(Debug)]
struct Joined {
    call: Call,
    config: Arc<LayerConfig>,
}

impl Joined {
    fn end(self, response: &response::Parts) {
        self.call.end((self.config.success)(response));
    }
}

struct Sending<B> {
    task: JoinHandle<SendOutcome>,
    response: Response<B>,
    success: bool,
}

impl<F, B> ResponseFuture<F, B> {
    #[inline]
    fn new(inner: F, flush: Option<Flush>) -> Self {
        Self { inner: Some(inner), refusal: Refusal::Overloaded, flush, joined: None, sending: None }
    }

    /// A call that shares the queue of an outer layer.
    fn joined(inner: F, joined: Joined) -> Self {
        Self { joined: Some(joined), ..Self::new(inner, None) }
    }

    /// An answer without a call of the inner service.
    fn refused(refusal: Refusal) -> Self {
        Self { inner: None, refusal, flush: None, joined: None, sending: None }
    }
}

impl<F, B> fmt::Debug for ResponseFuture<F, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture")
            .field("flush", &self.flush)
            .field("sending", &self.sending.is_some())
            .finish_non_exhaustive()
    }
}

impl<F, B, E> Future for ResponseFuture<F, B>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<ResponseBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if this.sending.is_none() {
            let Some(inner) = this.inner.as_pin_mut() else { return Poll::Ready(Ok(this.refusal.answer())) };
            let Some(flush) = this.flush else {
                let response = ready!(inner.poll(cx));
                let joined = this.joined.take();
                return Poll::Ready(response.map(|response| {
                    let (parts, body) = response.into_parts();
                    if let Some(joined) = joined {
                        joined.end(&parts);
                    }
                    Response::from_parts(parts, ResponseBody::new(body))
                }));
            };
            flush.polling = true;
            let response = inner.poll(cx);
            flush.polling = false;
            let response = ready!(response);
            let response = match response {
                Ok(response) => response,
                Err(error) => {
                    flush.abandon("error");
                    return Poll::Ready(Err(error));
                }
            };
            match begin(flush, response, cx) {
                Begun::Done(response) => return Poll::Ready(Ok(response)),
                Begun::Sending(sending) => *this.sending = Some(sending),
            }
        }
        let sending = this.sending.as_mut().expect("set above");
        let outcome = ready!(Pin::new(&mut sending.task).poll(cx)).unwrap_or(SendOutcome::Unsent);
        let Sending { response, success, .. } = *this.sending.take().expect("set above");
        let on_send_failure =
            this.flush.as_ref().map_or_else(OnSendFailure::default, |flush| flush.config().on_send_failure);
        Poll::Ready(Ok(on_send_failure.answer(response, success, &outcome)))
    }
}

enum Begun<B> {
    Done(Response<ResponseBody<B>>),
    Sending(Box<Sending<B>>),
}

/// Closes the queue and begins to send. A send that has to wait continues in a task, since the future of the request may
/// be dropped.
fn begin<B>(flush: &mut Flush, response: Response<B>, cx: &mut Context<'_>) -> Begun<B> {
    let Some(closed) = flush.close() else {
        return Begun::Done(response.map(ResponseBody::new));
    };
    let (parts, body) = response.into_parts();
    let decision = flush.decide(closed, &parts);
    let response = Response::from_parts(parts, body);
    let config = flush.config();
    let (work, messages, success) = match decision {
        Decision::Done => return Begun::Done(response.map(ResponseBody::new)),
        Decision::Known(outcome) => {
            return Begun::Done(config.on_send_failure.answer(response, true, &outcome));
        }
        Decision::Work { work, messages, success } => (work, messages, success),
    };
    let in_flight = &config.queue.in_flight;
    let token = in_flight.token();
    let mut work: Pin<Box<dyn Future<Output = SendOutcome> + Send>> =
        if tracing::enabled!(tracing::Level::DEBUG) {
            Box::pin(work.instrument(tracing::debug_span!("flush", messages)))
        } else {
            work
        };
    match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx))) {
        Ok(Poll::Pending) => {
            let task = in_flight.spawn(work.in_current_span());
            drop(token);
            Begun::Sending(Box::new(Sending { task, response, success }))
        }
        Ok(Poll::Ready(outcome)) => Begun::Done(config.on_send_failure.answer(response, success, &outcome)),
        Err(_panic) => Begun::Done(config.on_send_failure.answer(response, success, &SendOutcome::Unsent)),
    }
}
