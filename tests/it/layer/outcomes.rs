//! Which outcomes of a request send its messages.

use std::pin::pin;
use std::time::Duration;

use axum::middleware::map_response;
use futures_util::{FutureExt, poll};
use http::{Response, StatusCode};
use tower::ServiceExt;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::timeout::TimeoutLayer;
use tower_layer::Layer;
use tower_outbox::{MessageQueue, MessagingLayer};
use tracing::Level;

use crate::support::messengers::recording;
use crate::support::{MINUTE, app, enqueue, enqueue_a, get, logs, request, service};

/// The topics that leave when a handler enqueues `a` and answers with this response.
async fn sent_with(
    layer: impl Fn(MessagingLayer) -> MessagingLayer,
    response: Response<String>,
) -> Vec<String> {
    let (messenger, sent) = recording();
    let service = service(&layer(MessagingLayer::new(messenger)), move |queue| {
        enqueue(&queue, ["a"]);
        let response = response.clone();
        async { Ok(response) }
    });
    service.oneshot(http::Request::new(())).await.unwrap();
    sent.flushed().await;
    sent.topics()
}

fn response(status: u16) -> Response<String> {
    Response::builder().status(status).body(String::new()).unwrap()
}

#[tokio::test]
async fn every_2xx_response_sends() {
    for status in 200..300 {
        assert_eq!(sent_with(|layer| layer, response(status)).await, ["a"], "{status}");
    }
}

#[tokio::test]
async fn any_other_response_sends_nothing() {
    for status in (100..200).chain(300..=999) {
        assert!(sent_with(|layer| layer, response(status)).await.is_empty(), "{status}");
    }
}

#[tokio::test]
async fn a_redirect_that_drops_messages_is_a_warning_that_names_status_and_topics() {
    let log = logs::listen();
    for (status, level) in [(303, Level::WARN), (409, Level::INFO)] {
        sent_with(|layer| layer, response(status)).await;
        let dropped = log.find(level, &["status", "topics"]);
        let [event] = &dropped[..] else { panic!("{status}: {:?}", log.events()) };
        assert_eq!((event.get("status"), event.get("topics")), (status.to_string().as_str(), "a"));
        assert_eq!(event.text.contains("SUCCESS = \"2xx,3xx\""), status == 303, "{event}");
    }
}

#[tokio::test]
async fn the_rule_of_success_can_be_changed() {
    let pdc = |layer: MessagingLayer| layer.with_success(|response| response.status.as_u16() < 400);
    for status in [100, 200, 204, 301, 304, 399] {
        assert_eq!(sent_with(pdc, response(status)).await, ["a"], "{status}");
    }
    for status in [400, 404, 500, 503] {
        assert!(sent_with(pdc, response(status)).await.is_empty(), "{status}");
    }
}

#[tokio::test]
async fn the_rule_of_success_sees_the_headers() {
    let rule = |layer: MessagingLayer| layer.with_success(|response| response.headers.contains_key("x-done"));
    let mut done = response(500);
    done.headers_mut().insert("x-done", "1".parse().unwrap());
    assert_eq!(sent_with(rule, done).await, ["a"]);
    assert!(sent_with(rule, response(200)).await.is_empty());
}

#[tokio::test]
async fn a_200_with_a_grpc_error_sends_nothing() {
    let grpc = |status: &str| {
        let mut response = response(200);
        response.headers_mut().insert("grpc-status", status.parse().unwrap());
        response
    };
    assert_eq!(sent_with(|layer| layer, grpc("0")).await, ["a"]);
    for status in ["1", "13", "00", ""] {
        assert!(sent_with(|layer| layer, grpc(status)).await.is_empty(), "grpc-status {status:?}");
    }
}

#[tokio::test]
async fn an_error_of_the_inner_service_sends_nothing_and_stays_itself() {
    let (messenger, sent) = recording();
    let layer = MessagingLayer::new(messenger);
    let service = service(&layer, |queue| async move {
        enqueue(&queue, ["a"]);
        Err("broken".into())
    });
    let error = service.oneshot(http::Request::new(())).await.unwrap_err();
    assert_eq!(error.to_string(), "broken");
    layer.in_flight().wait_idle().await;
    assert!(sent.topics().is_empty());
}

async fn enqueue_and_panic(queue: MessageQueue) -> StatusCode {
    enqueue(&queue, ["a"]);
    panic!("the handler panics")
}

#[tokio::test]
async fn a_panic_of_the_handler_sends_nothing() {
    let (messenger, sent) = recording();
    let app = app(MessagingLayer::new(messenger), enqueue_and_panic);
    let panicked = tokio::spawn(get(app)).await.unwrap_err();
    assert!(panicked.is_panic());
    sent.flushed().await;
    assert!(sent.topics().is_empty());
}

#[tokio::test]
async fn a_panic_caught_outside_or_inside_the_layer_sends_nothing() {
    let (messenger, sent) = recording();
    let layer = MessagingLayer::new(messenger);
    let outside = app(layer.clone(), enqueue_and_panic).layer(CatchPanicLayer::new());
    let inside = axum::Router::new()
        .route("/", axum::routing::get(enqueue_and_panic))
        .layer(CatchPanicLayer::new())
        .layer(layer);
    for app in [outside, inside] {
        assert_eq!(get(app).await.status(), StatusCode::INTERNAL_SERVER_ERROR);
        sent.flushed().await;
        assert!(sent.topics().is_empty());
    }
}

#[tokio::test]
async fn a_service_that_panics_before_it_gives_a_future_sends_nothing() {
    let (messenger, sent) = recording();
    let layer = MessagingLayer::new(messenger);
    let mut service = layer.layer(tower::service_fn(|request: http::Request<()>| {
        let queue: &MessageQueue = request.extensions().get().unwrap();
        enqueue(queue, ["a"]);
        enqueue(&queue.always(), ["audit"]);
        assert!(request.uri().path() != "/", "the service panics");
        std::future::ready(Ok::<_, tower_outbox::BoxError>(Response::new(String::new())))
    }));
    let call = || drop(tower::Service::call(&mut service, http::Request::new(())));
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(call)).is_err());
    sent.flushed().await;
    assert_eq!(sent.topics(), ["audit"]);
}

#[tokio::test(start_paused = true)]
async fn a_timeout_layer_outside_sends_nothing() {
    let (messenger, sent) = recording();
    let app = app(MessagingLayer::new(messenger), |queue: MessageQueue| async move {
        enqueue(&queue, ["a"]);
        tokio::time::sleep(MINUTE).await;
    })
    .layer(TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, Duration::from_secs(1)));
    assert_eq!(get(app).await.status(), StatusCode::GATEWAY_TIMEOUT);
    tokio::time::sleep(2 * MINUTE).await;
    assert!(sent.topics().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_client_gone_before_the_handler_is_done_sends_nothing() {
    let (messenger, sent) = recording();
    let app = app(MessagingLayer::new(messenger), |queue: MessageQueue| async move {
        enqueue(&queue, ["a"]);
        tokio::time::sleep(MINUTE).await;
    });
    assert!(tokio::time::timeout(Duration::from_secs(1), get(app)).await.is_err());
    tokio::time::sleep(2 * MINUTE).await;
    assert!(sent.topics().is_empty());
}

#[tokio::test]
async fn a_request_dropped_before_its_first_poll_sends_nothing() {
    let (messenger, sent) = recording();
    let layer = MessagingLayer::new(messenger);
    let (kept, mut handles) = tokio::sync::mpsc::unbounded_channel();
    let service = service(&layer, move |queue| {
        enqueue(&queue, ["a"]);
        kept.send(queue).unwrap();
        async { Ok(response(200)) }
    });
    let mut service = pin!(service);
    drop(tower::Service::call(&mut *service, http::Request::new(())));
    layer.in_flight().wait_idle().await;
    assert!(sent.topics().is_empty());
    assert!(handles.recv().await.unwrap().is_closed());
}

#[tokio::test]
async fn the_response_counts_as_the_layer_sees_it() {
    let (messenger, sent) = recording();
    let layer = MessagingLayer::new(messenger);
    let to_500 = map_response(|_: axum::response::Response| async { StatusCode::INTERNAL_SERVER_ERROR });

    let changed_inside = axum::Router::new()
        .route("/", axum::routing::get(enqueue_a))
        .layer(to_500.clone())
        .layer(layer.clone());
    assert_eq!(get(changed_inside).await.status(), 500);
    assert!(sent.topics().is_empty());

    let changed_outside = app(layer, enqueue_a).layer(to_500);
    assert_eq!(get(changed_outside).await.status(), 500);
    assert_eq!(sent.topics(), ["a"]);
}

#[tokio::test]
async fn a_request_that_enqueues_nothing_does_not_reach_the_messenger() {
    let layer = MessagingLayer::new(crate::support::messengers::panicking(false));
    let app = app(layer, |queue: MessageQueue| async move {
        assert!(queue.is_empty());
        "body"
    });
    let response = get(app).await;
    assert_eq!(response.status(), 200);
    assert_eq!(crate::support::text(response).await, "body");
}

#[tokio::test]
async fn a_messenger_that_does_not_wait_needs_no_task() {
    let (messenger, sent) = recording();
    let layer = MessagingLayer::new(messenger);
    let app = app(layer.clone(), enqueue_a);
    let mut response = pin!(app.oneshot(request()));
    assert!(poll!(&mut response).is_ready());
    assert_eq!(sent.topics(), ["a"]);
    assert!(layer.in_flight().wait_idle().now_or_never().is_some());
}
