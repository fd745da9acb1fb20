//! Additions of the layer to messages on their way out.

use axum::routing::post;
use http::{Request, StatusCode};
use serde_json::json;
use tower::ServiceExt;
use tower_outbox::message::Scalar;
use tower_outbox::{Message, MessageQueue, MessagingLayer};

use crate::support::messengers::recording;
use crate::support::{MINUTE, answering, app, enqueue, get, message};

const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// As in PDC: who did it, and why.
fn pdc(request: &http::request::Parts, _: &http::response::Parts, message: &mut Message) {
    let header = |name: &str| request.headers.get(name).and_then(|value| value.to_str().ok());
    message.set_field("author", header("x-user").unwrap_or("anonymous")).unwrap();
    if let Some(comment) = header("PDC-Change-Comment") {
        message.set_field("comment", comment).unwrap();
    }
}

#[tokio::test]
async fn a_field_at_the_root_comes_from_the_request() {
    let (messenger, sent) = recording();
    let app = app(MessagingLayer::new(messenger).with_enrich(pdc), |queue: MessageQueue| async move {
        enqueue(&queue, ["compose.created", "compose.changed"]);
    });
    let request = Request::get("/").header("x-user", "jo").header("PDC-Change-Comment", "a \"reason\"");
    app.clone().oneshot(request.body(axum::body::Body::empty()).unwrap()).await.unwrap();
    get(app).await;
    let body = json!({"topic": "compose.created", "author": "jo", "comment": "a \"reason\""});
    let without = json!({"topic": "compose.created", "author": "anonymous"});
    assert_eq!(sent.json("compose.created"), [body, without]);
    assert_eq!(sent.json("compose.changed")[0]["comment"], "a \"reason\"");
}

#[tokio::test]
async fn the_hook_sees_the_request_as_it_came_and_the_response() {
    let (messenger, sent) = recording();
    let layer = MessagingLayer::new(messenger).with_enrich(|request, response, message| {
        message.set_header("method", request.method.to_string());
        message.set_header("path", request.uri.path().to_owned());
        message.set_header("status", response.status.as_u16());
        message.set_header("location", response.headers["location"].to_str().unwrap().to_owned());
    });
    let inner = axum::Router::new().route(
        "/users",
        post(|queue: MessageQueue| async move {
            enqueue(&queue, ["a"]);
            (StatusCode::CREATED, [("location", "/users/7")])
        }),
    );
    let app = axum::Router::new().nest("/api", inner).layer(layer);
    app.oneshot(Request::post("/api/users").body(axum::body::Body::empty()).unwrap()).await.unwrap();
    let [message] = &sent.messages()[..] else { panic!("one message") };
    for (name, value) in [("method", "POST"), ("path", "/api/users"), ("location", "/users/7")] {
        assert_eq!(message.header(name), Some(&Scalar::from(value)));
    }
    assert_eq!(message.header("status"), Some(&Scalar::Int(201)));
}

#[tokio::test]
async fn what_is_dropped_is_not_enriched_and_what_leaves_always_is() {
    let (messenger, sent) = recording();
    let layer = MessagingLayer::new(messenger).with_enrich(|_, response, message| {
        assert_eq!(message.topic().as_str(), "audit");
        message.set_header("status", response.status.as_u16());
    });
    get(answering(layer, StatusCode::FORBIDDEN)).await;
    assert_eq!(sent.messages()[0].header("status"), Some(&Scalar::Int(403)));
}

#[tokio::test(start_paused = true)]
async fn without_a_response_audit_events_leave_as_they_are() {
    let (messenger, sent) = recording();
    let layer = MessagingLayer::new(messenger).with_enrich(|_, _, _| panic!("there is no response"));
    let app = app(layer, |queue: MessageQueue| async move {
        enqueue(&queue.always(), ["audit"]);
        tokio::time::sleep(MINUTE).await;
    });
    assert!(tokio::time::timeout(MINUTE / 2, get(app)).await.is_err());
    sent.flushed().await;
    assert_eq!(sent.topics(), ["audit"]);
}

/// The `traceparent` a message leaves with.
async fn traceparent(request: Option<&str>, message: Message) -> Option<Scalar> {
    let (messenger, sent) = recording();
    let app = app(MessagingLayer::new(messenger), move |queue: MessageQueue| async move {
        queue.enqueue(message).unwrap();
    });
    let mut builder = Request::get("/");
    if let Some(traceparent) = request {
        builder = builder.header("traceparent", traceparent);
    }
    app.oneshot(builder.body(axum::body::Body::empty()).unwrap()).await.unwrap();
    sent.messages()[0].header("traceparent").cloned()
}

#[tokio::test]
async fn the_traceparent_of_the_request_goes_on_in_its_messages() {
    assert_eq!(traceparent(Some(TRACEPARENT), message("a")).await, Some(Scalar::from(TRACEPARENT)));
}

#[tokio::test]
async fn without_a_traceparent_a_new_trace_begins() {
    let begun = traceparent(None, message("a")).await.unwrap();
    assert_eq!(begun.as_str().unwrap().len(), TRACEPARENT.len());
    assert_ne!(traceparent(None, message("a")).await.unwrap(), begun);
}

#[tokio::test]
async fn a_traceparent_set_by_hand_stays() {
    let own = message("a").with_header("traceparent", "00-own");
    assert_eq!(traceparent(Some(TRACEPARENT), own.clone()).await, Some(Scalar::from("00-own")));
    assert_eq!(traceparent(None, own).await, Some(Scalar::from("00-own")));
}
