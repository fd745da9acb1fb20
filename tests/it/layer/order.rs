//! The order of layers, whose results are the table of `docs/layers.md`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use tower::{Layer, Service, ServiceExt};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::timeout::TimeoutLayer;
use tower_outbox::testing::Sent;
use tower_outbox::{MessageQueue, MessagingLayer};

use crate::support::messengers::recording;
use crate::support::{enqueue, request};

/// How the handler behaves after it has enqueued `a`.
#[derive(Clone, Copy)]
enum Handler {
    Succeeds,
    Fails,
    FailsOnce,
    Panics,
    TakesLong,
}

/// A router with this handler, and inside or outside of it, by `inside`, the layer under test.
async fn result<L>(handler: Handler, inside: bool, layer: L) -> (u16, Vec<String>)
where
    L: Layer<axum::routing::Route> + Clone + Send + Sync + 'static,
    L::Service: Service<Request, Error: Into<std::convert::Infallible> + 'static, Future: Send + 'static>
        + Clone
        + Send
        + Sync
        + 'static,
    <L::Service as Service<Request>>::Response: IntoResponse + 'static,
{
    let (messenger, sent) = recording();
    let calls = Arc::new(AtomicUsize::new(0));
    let handle = move |queue: MessageQueue| async move {
        enqueue(&queue, ["a"]);
        match (handler, calls.fetch_add(1, Ordering::SeqCst)) {
            (Handler::Succeeds, _) | (Handler::FailsOnce, 1..) => StatusCode::CREATED,
            (Handler::Fails | Handler::FailsOnce, _) => StatusCode::BAD_GATEWAY,
            (Handler::Panics, _) => panic!("of the test"),
            (Handler::TakesLong, _) => {
                tokio::time::sleep(Duration::from_secs(60)).await;
                StatusCode::CREATED
            }
        }
    };
    let routes = Router::new().route("/", axum::routing::any(handle));
    let messaging = MessagingLayer::new(messenger);
    let app =
        if inside { routes.layer(layer).layer(messaging) } else { routes.layer(messaging).layer(layer) };
    let app = app.layer(CatchPanicLayer::new());
    let status = app.oneshot(request()).await.unwrap().status().as_u16();
    (status, left(&sent).await)
}

async fn left(sent: &Sent) -> Vec<String> {
    sent.flushed().await;
    sent.topics()
}

/// Asserts the status and the number of messages, outside and then inside of the messaging layer.
macro_rules! assert_order {
    ($handler:expr, $layer:expr, outside: $outside:expr, inside: $inside:expr) => {
        for (inside, (status, messages)) in [(false, $outside), (true, $inside)] {
            let (answered, topics) = result($handler, inside, $layer).await;
            assert_eq!((answered, topics.len()), (status, messages), "inside: {inside}, {topics:?}");
        }
    };
}

#[tokio::test(start_paused = true)]
async fn a_timeout_drops_the_messages_of_a_slow_handler() {
    let layer = TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, Duration::from_secs(1));
    assert_order!(Handler::TakesLong, layer, outside: (504, 0), inside: (504, 0));
    assert_order!(Handler::Succeeds, layer, outside: (201, 1), inside: (201, 1));
}

#[tokio::test]
async fn a_caught_panic_drops_the_messages() {
    assert_order!(Handler::Panics, CatchPanicLayer::new(), outside: (500, 0), inside: (500, 0));
}

/// As `tower::retry`: the same request, with its extensions, a second time.
async fn retry(request: Request, next: Next) -> Response {
    let (parts, _) = request.into_parts();
    let first = next.clone().run(Request::from_parts(parts.clone(), Body::empty())).await;
    if first.status().is_success() {
        first
    } else {
        next.run(Request::from_parts(parts, Body::empty())).await
    }
}

#[tokio::test]
async fn a_retry_inside_sends_the_messages_of_all_calls() {
    assert_order!(Handler::FailsOnce, from_fn(retry), outside: (201, 1), inside: (201, 2));
}

async fn reject(request: Request, _: Next) -> StatusCode {
    drop(request);
    StatusCode::UNAUTHORIZED
}

#[tokio::test]
async fn a_rejected_request_has_no_messages() {
    assert_order!(Handler::Succeeds, from_fn(reject), outside: (401, 0), inside: (401, 0));
}

async fn cover_up(request: Request, next: Next) -> StatusCode {
    next.run(request).await;
    StatusCode::OK
}

#[tokio::test]
async fn a_layer_inside_that_covers_up_errors_sends_their_messages() {
    assert_order!(Handler::Fails, from_fn(cover_up), outside: (200, 0), inside: (200, 1));
}

async fn spoil(request: Request, next: Next) -> StatusCode {
    next.run(request).await;
    StatusCode::INTERNAL_SERVER_ERROR
}

#[tokio::test]
async fn a_layer_outside_that_makes_an_error_comes_too_late() {
    assert_order!(Handler::Succeeds, from_fn(spoil), outside: (500, 1), inside: (500, 0));
}
