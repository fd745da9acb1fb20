//! A layer within a layer, and requests made of other requests.

use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::IntoResponse;
use http::StatusCode;
use tower_outbox::{MessageQueue, MessagingLayer};

use crate::support::messengers::recording;
use crate::support::{app, enqueue, get, request};

#[tokio::test]
async fn the_inner_layer_joins_the_queue_of_the_outer_one() {
    let (outer, sent_outer) = recording();
    let (inner, sent_inner) = recording();
    let middle = from_fn(|queue: MessageQueue, request: Request, next: Next| async move {
        enqueue(&queue, ["before"]);
        let response = next.run(request).await;
        enqueue(&queue, ["after"]);
        response
    });
    let app =
        app(MessagingLayer::new(inner), |queue: MessageQueue| async move { enqueue(&queue, ["handler"]) })
            .layer(middle)
            .layer(MessagingLayer::new(outer));
    assert_eq!(get(app).await.status(), 200);
    assert_eq!(sent_outer.topics(), ["before", "handler", "after"]);
    assert!(sent_inner.topics().is_empty());
}

#[tokio::test]
async fn the_outer_outcome_decides() {
    let (messenger, sent) = recording();
    let layer = MessagingLayer::new(messenger);
    let to_500 = from_fn(|request: Request, next: Next| async {
        next.run(request).await;
        StatusCode::INTERNAL_SERVER_ERROR.into_response()
    });
    let handler = |queue: MessageQueue| async move {
        enqueue(&queue, ["a"]);
        enqueue(&queue.always(), ["audit"]);
    };
    let app = app(layer.clone(), handler).layer(to_500).layer(layer);
    assert_eq!(get(app).await.status(), 500);
    assert_eq!(sent.topics(), ["audit"]);
}

#[tokio::test]
async fn the_closed_queue_of_another_request_does_not_capture_a_new_one() {
    let (messenger, sent) = recording();
    let (keep, mut kept) = tokio::sync::mpsc::unbounded_channel();
    let app = app(MessagingLayer::new(messenger), move |queue: MessageQueue, request: Request| async move {
        enqueue(&queue, ["a"]);
        keep.send(request.extensions().clone()).unwrap();
    });
    get(app.clone()).await;
    let mut second = request();
    *second.extensions_mut() = kept.recv().await.unwrap();
    assert!(second.extensions().get::<MessageQueue>().unwrap().is_closed());
    let response = tower::ServiceExt::oneshot(app, second).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(sent.topics(), ["a", "a"]);
}

#[tokio::test]
async fn a_request_made_by_a_handler_with_its_extensions_joins() {
    let (messenger, sent) = recording();
    let layer = MessagingLayer::new(messenger);
    let inner = app(layer.clone(), |queue: MessageQueue| async move { enqueue(&queue, ["inner"]) });
    let outer = app(layer, move |queue: MessageQueue, outer: Request| async move {
        enqueue(&queue, ["outer"]);
        let mut request = request();
        *request.extensions_mut() = outer.extensions().clone();
        get_with(inner, request).await;
        StatusCode::BAD_GATEWAY
    });
    assert_eq!(get(outer).await.status(), StatusCode::BAD_GATEWAY);
    assert!(sent.topics().is_empty());
}

async fn get_with(app: axum::Router, request: Request) -> axum::response::Response {
    tower::ServiceExt::oneshot(app, request).await.unwrap()
}
