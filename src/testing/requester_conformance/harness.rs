//! A transport under test, and responders without a router.

use std::any::Any;
use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum_core::body::Body;
use axum_core::response::{IntoResponse, Response};
use http::{Request, StatusCode};
use tokio::task::{JoinHandle, yield_now};
use tokio::time::timeout;
use tower_service::Service;

use crate::client::{Client, ReplyTimeout};
use crate::consumer::{Consumer, ConsumerSettings};
use crate::reply::Requester;
use crate::source::Source;
use crate::testing::support::stores::STUCK;
use crate::util::body::collect;

/// How long a caller waits where it waits in vain.
pub(super) const SHORT: Duration = Duration::from_millis(300);

/// The path that every responder answers.
const READY: &str = "/suite/ready";

/// A transport under test, without responders.
pub struct RequesterHarness {
    requester: Arc<dyn Requester>,
    source: Box<dyn Fn() -> Arc<dyn Source> + Send + Sync>,
    pub(super) redelivers: bool,
    knows_responders: bool,
    _kept: Box<dyn Any + Send + Sync>,
}

impl RequesterHarness {
    /// A harness for this requester. `source` makes a source of its requests; several sources share them.
    pub fn new(
        requester: Arc<dyn Requester>,
        source: impl Fn() -> Arc<dyn Source> + Send + Sync + 'static,
    ) -> Self {
        let source = Box::new(source);
        Self { requester, source, redelivers: false, knows_responders: true, _kept: Box::new(()) }
    }

    /// Promises that the request of a killed responder goes to another one.
    #[must_use]
    pub fn with_redelivery(self) -> Self {
        Self { redelivers: true, ..self }
    }

    /// Says that the transport does not know whether there is a responder: a request without one gets 504.
    #[must_use]
    pub fn without_knowledge_of_responders(self) -> Self {
        Self { knows_responders: false, ..self }
    }

    /// Keeps a value, such as a guard of a server, as long as the harness.
    #[must_use]
    pub fn with_kept(self, kept: impl Any + Send + Sync) -> Self {
        Self { _kept: Box::new(kept), ..self }
    }

    /// The status of a request without a responder.
    pub(super) fn no_responder(&self) -> StatusCode {
        if self.knows_responders { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::GATEWAY_TIMEOUT }
    }

    pub(super) fn client(&self) -> Client {
        Client::new(Arc::clone(&self.requester))
    }

    /// Starts a responder, and waits until it receives.
    pub(super) async fn responder<F, A>(&self, handler: F) -> Responder
    where
        F: Fn(Request<Body>) -> A + Send + Sync + 'static,
        A: Future<Output = Response> + Send + 'static,
    {
        self.responder_with(ConsumerSettings::default(), handler).await
    }

    pub(super) async fn responder_with<F, A>(&self, settings: ConsumerSettings, handler: F) -> Responder
    where
        F: Fn(Request<Body>) -> A + Send + Sync + 'static,
        A: Future<Output = Response> + Send + 'static,
    {
        let handler = Handler(Arc::new(move |request: Request<Body>| match request.uri().path() {
            READY => Box::pin(std::future::ready(StatusCode::OK.into_response())) as Answer,
            _ => Box::pin(handler(request)),
        }));
        let consumer = Consumer::new((self.source)(), handler).with_settings(settings);
        let responder = Responder(tokio::spawn(consumer.into_future()));
        let client = self.client();
        let ready = async {
            while call(&client, within(post(READY, ""), SHORT)).await.status() != StatusCode::OK {
                yield_now().await;
            }
        };
        timeout(STUCK, ready).await.expect("a responder answers");
        responder
    }
}

impl fmt::Debug for RequesterHarness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequesterHarness").field("redelivers", &self.redelivers).finish_non_exhaustive()
    }
}

/// A responder, which ends when this is dropped.
pub(super) struct Responder(JoinHandle<usize>);

impl Drop for Responder {
    fn drop(&mut self) {
        self.0.abort();
    }
}

type Answer = Pin<Box<dyn Future<Output = Response> + Send>>;

#[derive(Clone)]
struct Handler(Arc<dyn Fn(Request<Body>) -> Answer + Send + Sync>);

impl Service<Request<Body>> for Handler {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let handler = Arc::clone(&self.0);
        Box::pin(async move { Ok(handler(request).await) })
    }
}

/// A handler that answers with the body of the request.
pub(super) async fn echo(request: Request<Body>) -> Response {
    request.into_body().into_response()
}

pub(super) fn post(path: &str, body: impl Into<Body>) -> Request<Body> {
    Request::post(path).body(body.into()).unwrap()
}

pub(super) fn within(mut request: Request<Body>, wait: Duration) -> Request<Body> {
    request.extensions_mut().insert(ReplyTimeout(wait));
    request
}

pub(super) async fn call(client: &Client, request: Request<Body>) -> Response {
    let Ok(response) = client.clone().call(request).await;
    response
}

/// The body as a text.
pub(super) async fn text(body: impl Into<Body>) -> String {
    let bytes = collect(body.into(), 2 << 20).await.ok().expect("the body is whole");
    String::from_utf8(bytes.to_vec()).unwrap()
}
