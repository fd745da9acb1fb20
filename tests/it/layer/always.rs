//! Messages that leave whatever the outcome.

use std::time::Duration;

use http::StatusCode;
use tokio::time::timeout;
use tower::ServiceExt;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::timeout::TimeoutLayer;
use tower_outbox::{MessageQueue, MessagingLayer};

use crate::support::messengers::{held, recording};
use crate::support::{MINUTE, answering, app, enqueue, get, service};

/// Enqueues, in this order: `a`, always `audit.1`, `b`, always `audit.2`.
fn enqueue_mixed(queue: &MessageQueue) {
    enqueue(queue, ["a"]);
    enqueue(&queue.always(), ["audit.1"]);
    enqueue(queue, ["b"]);
    enqueue(&queue.always(), ["audit.2"]);
}

#[tokio::test]
async fn on_success_they_leave_once_in_order_with_the_others() {
    let (messenger, sent) = recording();
    let app = app(MessagingLayer::new(messenger), |queue: MessageQueue| async move { enqueue_mixed(&queue) });
    get(app).await;
    sent.flushed().await;
    assert_eq!(sent.topics(), ["a", "audit.1", "b", "audit.2"]);
}

#[tokio::test]
async fn on_any_other_response_they_leave_alone() {
    for status in [101, 304, 400, 404, 500, 503] {
        let (messenger, sent) = recording();
        let app = app(MessagingLayer::new(messenger), move |queue: MessageQueue| async move {
            enqueue_mixed(&queue);
            StatusCode::from_u16(status).unwrap()
        });
        assert_eq!(get(app).await.status(), status);
        sent.flushed().await;
        assert_eq!(sent.topics(), ["audit.1", "audit.2"], "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_response_that_is_no_success_waits_for_them_too() {
    let (messenger, gate, sent) = held();
    let app = answering(MessagingLayer::new(messenger), StatusCode::NOT_FOUND);
    let mut response = std::pin::pin!(get(app));
    assert!(timeout(MINUTE, &mut response).await.is_err());
    gate.open();
    assert_eq!(response.await.status(), StatusCode::NOT_FOUND);
    assert_eq!(sent.topics(), ["audit"]);
}

#[tokio::test]
async fn they_leave_on_an_error_of_the_inner_service() {
    let (messenger, sent) = recording();
    let layer = MessagingLayer::new(messenger);
    let service = service(&layer, |queue| async move {
        enqueue_mixed(&queue);
        Err("broken".into())
    });
    assert!(service.oneshot(http::Request::new(())).await.is_err());
    sent.flushed().await;
    assert_eq!(sent.topics(), ["audit.1", "audit.2"]);
}

#[tokio::test]
async fn they_leave_after_a_panic_caught_or_not() {
    async fn handler(queue: MessageQueue) -> StatusCode {
        enqueue_mixed(&queue);
        panic!("the handler panics")
    }
    let (messenger, sent) = recording();
    let layer = MessagingLayer::new(messenger);
    let outside = app(layer.clone(), handler).layer(CatchPanicLayer::new());
    let inside = axum::Router::new()
        .route("/", axum::routing::get(handler))
        .layer(CatchPanicLayer::new())
        .layer(layer.clone());
    for app in [outside, inside] {
        assert_eq!(get(app).await.status(), StatusCode::INTERNAL_SERVER_ERROR);
    }
    assert!(tokio::spawn(get(app(layer, handler))).await.unwrap_err().is_panic());
    sent.flushed().await;
    assert_eq!(sent.topics(), ["audit.1", "audit.2"].repeat(3));
}

#[tokio::test(start_paused = true)]
async fn they_leave_when_a_timeout_layer_or_the_client_gives_up() {
    let (messenger, sent) = recording();
    let app = app(MessagingLayer::new(messenger), |queue: MessageQueue| async move {
        enqueue_mixed(&queue);
        tokio::time::sleep(MINUTE).await;
        enqueue(&queue.always(), ["too.late"]);
    });
    let second = Duration::from_secs(1);
    let timed = app.clone().layer(TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, second));
    assert_eq!(get(timed).await.status(), StatusCode::REQUEST_TIMEOUT);
    assert!(timeout(second, get(app)).await.is_err());
    tokio::time::sleep(2 * MINUTE).await;
    assert_eq!(sent.topics(), ["audit.1", "audit.2"].repeat(2));
}

#[tokio::test(start_paused = true)]
async fn they_are_in_flight_after_their_request_has_gone() {
    let (messenger, gate, sent) = held();
    let layer = MessagingLayer::new(messenger);
    let app = app(layer.clone(), |queue: MessageQueue| async move {
        enqueue_mixed(&queue);
        std::future::pending::<()>().await;
    });
    assert!(timeout(Duration::from_secs(1), get(app)).await.is_err());
    gate.begun().await;
    assert_eq!(layer.in_flight().len(), 1);
    gate.open();
    layer.in_flight().wait_idle().await;
    assert_eq!(sent.topics(), ["audit.1", "audit.2"]);
}

#[tokio::test]
async fn a_handle_made_always_does_not_change_the_one_it_came_from() {
    let (messenger, sent) = recording();
    let app = app(MessagingLayer::new(messenger), |queue: MessageQueue| async move {
        let always = queue.always();
        enqueue(&always.clone(), ["audit"]);
        enqueue(&queue, ["a"]);
        assert_eq!((queue.len(), always.len()), (2, 2));
        StatusCode::BAD_REQUEST
    });
    get(app).await;
    assert_eq!(sent.topics(), ["audit"]);
}
