//! A layer within a layer, and requests made of other requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::IntoResponse;
use http::StatusCode;
use tower::ServiceExt;
use tower_outbox::{Message, MessageQueue, MessagingLayer};

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

/// Enqueues a message of the topic its path says, and one that always leaves, and answers with the status its query says.
async fn inside(queue: MessageQueue, uri: http::Uri) -> StatusCode {
    let topic = uri.path().trim_start_matches('/').to_owned();
    queue.enqueue(Message::new(topic, "x").unwrap()).unwrap();
    enqueue(&queue.always(), ["audit"]);
    tokio::task::yield_now().await;
    uri.query().unwrap_or("200").parse().unwrap()
}

/// An outer layer whose handler calls an inner one with these, at once, and answers 200.
async fn calling(uris: &'static [&'static str]) -> Vec<String> {
    let (messenger, sent) = recording();
    let layer = MessagingLayer::new(messenger);
    let inner = Router::new().fallback(inside).layer(layer.clone());
    let outer = app(layer, move |queue: MessageQueue| async move {
        enqueue(&queue, ["before"]);
        let calls = uris.iter().map(|uri| {
            let mut request = http::Request::get(*uri).body(Body::empty()).unwrap();
            request.extensions_mut().insert(queue.clone());
            inner.clone().oneshot(request)
        });
        futures_util::future::join_all(calls).await;
        enqueue(&queue, ["after"]);
    });
    assert_eq!(get(outer).await.status(), StatusCode::OK);
    sent.topics()
}

#[tokio::test]
async fn messages_of_a_failed_inner_call_are_dropped() {
    assert_eq!(calling(&["/a?500"]).await, ["before", "audit", "after"]);
    assert_eq!(calling(&["/a?200"]).await, ["before", "a", "audit", "after"]);
}

#[tokio::test]
async fn inner_calls_at_once_stand_or_fall_alone() {
    let sent = calling(&["/a", "/b?500", "/c", "/d?404", "/e"]).await;
    let others: Vec<_> = sent.iter().filter(|topic| *topic != "audit").collect();
    assert_eq!(others, ["before", "a", "c", "e", "after"]);
    assert_eq!(sent.len() - others.len(), 5, "all of those that always leave");
}

#[tokio::test]
async fn a_retry_between_two_layers_sends_the_messages_of_the_last_call() {
    let (messenger, sent) = recording();
    let layer = MessagingLayer::new(messenger);
    let tries = Arc::new(AtomicUsize::new(0));
    let handler = {
        let tries = Arc::clone(&tries);
        move |queue: MessageQueue| async move {
            enqueue(&queue, ["a", "b"]);
            if tries.fetch_add(1, Ordering::SeqCst) < 2 { StatusCode::BAD_GATEWAY } else { StatusCode::OK }
        }
    };
    let inner = app(layer.clone(), handler);
    // As `tower::retry`: the same request, with its extensions, again.
    let retry = move |queue: MessageQueue| async move {
        loop {
            let mut request = request();
            request.extensions_mut().insert(queue.clone());
            let response = inner.clone().oneshot(request).await.unwrap();
            if response.status().is_success() {
                return StatusCode::OK;
            }
        }
    };
    assert_eq!(get(app(layer, retry)).await.status(), StatusCode::OK);
    assert_eq!(tries.load(Ordering::SeqCst), 3);
    assert_eq!(sent.topics(), ["a", "b"]);
}
