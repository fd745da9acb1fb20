//! Shared by the tests.

pub mod counters;
pub mod databases;
pub mod format;
pub mod frames;
pub mod logs;
pub mod memory;
pub mod messengers;
pub mod stores;
pub mod tables;

use std::future::Future;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::handler::Handler;
use axum::response::Response;
use axum::routing::any;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use tower::{Service, ServiceExt, service_fn};
use tower_layer::Layer;
use tower_outbox::layer::ResponseBody;
pub use tower_outbox::testing::support::stores::{message, topics};
pub use tower_outbox::testing::support::{fuse, random};
use tower_outbox::{BoxError, Message, MessageQueue, MessagingLayer};

/// Long enough to call something stuck; the clock of the tests is paused.
pub const MINUTE: Duration = Duration::from_secs(60);

/// The result of a future that must not be stuck.
pub async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(10 * MINUTE, future).await.expect("it is stuck")
}

pub fn messages<const N: usize>(topics: [&'static str; N]) -> Vec<Message> {
    topics.map(message).into()
}

pub fn enqueue<const N: usize>(queue: &MessageQueue, topics: [&'static str; N]) {
    for topic in topics {
        queue.enqueue(message(topic)).unwrap();
    }
}

pub async fn enqueue_a(queue: MessageQueue) {
    enqueue(&queue, ["a"]);
}

/// A router with one handler on `/` and the layer around it.
pub fn app<H: Handler<T, ()>, T: 'static>(layer: MessagingLayer, handler: H) -> Router {
    Router::new().route("/", any(handler)).layer(layer)
}

/// An app that enqueues `a` and, always, `audit`, and answers with this status.
pub fn answering(layer: MessagingLayer, status: StatusCode) -> Router {
    app(layer, move |queue: MessageQueue| async move {
        enqueue(&queue, ["a"]);
        enqueue(&queue.always(), ["audit"]);
        (status, "body")
    })
}

pub fn request() -> Request<Body> {
    Request::get("/").body(Body::empty()).unwrap()
}

pub async fn get(app: Router) -> Response {
    app.oneshot(request()).await.unwrap()
}

pub async fn text(response: Response) -> String {
    let body = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.into()).unwrap()
}

pub type Answer = Result<http::Response<String>, BoxError>;

/// A plain tower service with the layer around it, which may fail; its handler is given the queue.
pub fn service<F, Fut>(
    layer: &MessagingLayer,
    handler: F,
) -> impl Service<
    Request<()>,
    Response = http::Response<ResponseBody<String>>,
    Error = BoxError,
    Future: Send + 'static,
> + Clone
+ Send
+ use<F, Fut>
where
    F: Fn(MessageQueue) -> Fut + Clone + Send,
    Fut: Future<Output = Answer> + Send + 'static,
{
    layer.layer(service_fn(move |request: Request<()>| handler(request.extensions().get().cloned().unwrap())))
}
