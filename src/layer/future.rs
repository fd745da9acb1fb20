//! The future of a response that went through the layer.

use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::header::RETRY_AFTER;
use http::{HeaderValue, Response, StatusCode, response};
use pin_project_lite::pin_project;
use tokio::task::JoinHandle;
use tracing::Instrument;

use super::body::ResponseBody;
use super::flush::{Config, End, Fate, Flush, OnSendFailure};
use crate::queue::{Call, TurnedAway};

/// How many seconds a client is told to wait before it asks again.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("5");

pin_project! {
    /// The future of [`MessagingService`](super::MessagingService).
    pub struct ResponseFuture<F, B> {
        // None when the request was refused.
        #[pin]
        inner: Option<F>,
        refusal: Refusal,
        // None when the queue belongs to an outer layer.
        flush: Option<Flush>,
        joined: Option<Joined>,
        sending: Option<Box<Sending<B>>>,
    }
}

/// Why a request was not let in.
#[derive(Clone, Copy)]
pub(super) enum Refusal {
    /// Its messages could not be kept: 503.
    TurnedAway,
    /// Its `Idempotency-Key` is none: 400.
    BadKey,
}

/// A call that shares the queue of an outer layer; dropped, it has failed.
#[derive(Debug)]
pub(super) struct Joined {
    pub(super) call: Call,
    pub(super) config: Arc<Config>,
}

impl Joined {
    fn end(self, response: &response::Parts) {
        self.call.end((self.config.success)(response));
    }
}

struct Sending<B> {
    task: JoinHandle<Fate>,
    response: Response<B>,
    success: bool,
}

impl<F, B> ResponseFuture<F, B> {
    #[inline]
    pub(super) fn new(inner: F, flush: Option<Flush>) -> Self {
        Self { inner: Some(inner), refusal: Refusal::TurnedAway, flush, joined: None, sending: None }
    }

    /// A call that shares the queue of an outer layer.
    pub(super) fn joined(inner: F, joined: Joined) -> Self {
        Self { joined: Some(joined), ..Self::new(inner, None) }
    }

    /// An answer without a call of the inner service.
    pub(super) fn refused(refusal: Refusal) -> Self {
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
            let Some(inner) = this.inner.as_pin_mut() else { return Poll::Ready(Ok(refused(*this.refusal))) };
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
        let fate = ready!(Pin::new(&mut sending.task).poll(cx)).unwrap_or(Fate::Unsent);
        let Sending { response, success, .. } = *this.sending.take().expect("set above");
        let on_send_failure =
            this.flush.as_ref().map_or_else(OnSendFailure::default, |flush| flush.config().on_send_failure);
        Poll::Ready(Ok(answer(response, success, &fate, on_send_failure)))
    }
}

enum Begun<B> {
    Done(Response<ResponseBody<B>>),
    Sending(Box<Sending<B>>),
}

/// Closes the queue and begins to send: to the end if the messenger needs no waiting, else in a
/// task, so that nothing that must happen is left in the request's future.
fn begin<B>(flush: &mut Flush, response: Response<B>, cx: &mut Context<'_>) -> Begun<B> {
    let Some(closed) = flush.close() else {
        return Begun::Done(response.map(ResponseBody::new));
    };
    let (parts, body) = response.into_parts();
    let end = flush.decide(closed, &parts);
    let response = Response::from_parts(parts, body);
    let config = flush.config();
    let (work, messages, success) = match end {
        End::Done => return Begun::Done(response.map(ResponseBody::new)),
        End::Known(fate) => return Begun::Done(answer(response, true, &fate, config.on_send_failure)),
        End::Work { work, messages, success } => (work, messages, success),
    };
    let in_flight = &config.queue.in_flight;
    let token = in_flight.token();
    let mut work: Pin<Box<dyn Future<Output = Fate> + Send>> = if tracing::enabled!(tracing::Level::DEBUG) {
        Box::pin(work.instrument(tracing::debug_span!("send", messages)))
    } else {
        work
    };
    match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx))) {
        Ok(Poll::Pending) => {
            let task = in_flight.spawn(work.in_current_span());
            drop(token);
            Begun::Sending(Box::new(Sending { task, response, success }))
        }
        Ok(Poll::Ready(fate)) => Begun::Done(answer(response, success, &fate, config.on_send_failure)),
        Err(_panic) => Begun::Done(answer(response, success, &Fate::Unsent, config.on_send_failure)),
    }
}

fn answer<B>(
    response: Response<B>,
    success: bool,
    fate: &Fate,
    on_send_failure: OnSendFailure,
) -> Response<ResponseBody<B>> {
    let reject = match fate {
        Fate::Sent => false,
        Fate::Unsent => on_send_failure == OnSendFailure::Reject,
        Fate::Overloaded | Fate::Unavailable | Fate::Failed => true,
    };
    if !(reject && success) {
        return response.map(ResponseBody::new);
    }
    match fate {
        Fate::Overloaded => turned_away(),
        Fate::Failed => status(StatusCode::INTERNAL_SERVER_ERROR),
        _ => unavailable(),
    }
}

fn refused<B>(refusal: Refusal) -> Response<ResponseBody<B>> {
    match refusal {
        Refusal::TurnedAway => turned_away(),
        Refusal::BadKey => status(StatusCode::BAD_REQUEST),
    }
}

/// 503 because the messages of a request could not be kept.
fn turned_away<B>() -> Response<ResponseBody<B>> {
    let mut response = unavailable();
    response.extensions_mut().insert(TurnedAway);
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
