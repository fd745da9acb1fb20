//! Requests that are turned away because their messages could not be taken over.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::Body;
use http::header::RETRY_AFTER;
use http::{Request, StatusCode};
use tower::ServiceExt;
use tower_outbox::background::{Background, BackgroundSettings};
use tower_outbox::messenger::{Admission, Capabilities};
use tower_outbox::testing::{Recording, Sent};
use tower_outbox::{Message, MessageQueue, MessagingLayer, Messenger, Unsent, async_trait};

use crate::support::counters::{counted, expect};
use crate::support::messengers::recording;
use crate::support::{app, enqueue, text};

/// A messenger with a gate.
struct Gated(Recording, Admission);

#[async_trait]
impl Messenger for Gated {
    async fn send(&self, batch: Vec<Message>) -> Result<(), Unsent> {
        self.0.send(batch).await
    }

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities().with_admission(self.1.clone())
    }
}

fn gated() -> (Gated, Admission, Sent) {
    let (inner, sent) = recording();
    let gate = Admission::default();
    (Gated(inner, gate.clone()), gate, sent)
}

/// An app that counts the calls of its handler.
fn counting(layer: MessagingLayer) -> (Router, Arc<AtomicUsize>) {
    let calls = Arc::new(AtomicUsize::new(0));
    let app = app(layer, {
        let calls = Arc::clone(&calls);
        move |queue: MessageQueue| async move {
            calls.fetch_add(1, Ordering::SeqCst);
            enqueue(&queue, ["a"]);
        }
    });
    (app, calls)
}

async fn ask(app: &Router, method: &str) -> axum::response::Response {
    let request = Request::builder().method(method).uri("/").body(Body::empty()).unwrap();
    app.clone().oneshot(request).await.unwrap()
}

#[test]
fn while_the_gate_is_closed_no_handler_runs() {
    let counts = counted(async {
        let (messenger, gate, sent) = gated();
        let (app, calls) = counting(MessagingLayer::new(messenger));
        gate.set_open(false);
        for method in ["POST", "PUT", "PATCH", "DELETE", "MKCOL"] {
            let response = ask(&app, method).await;
            assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE, "{method}");
            let seconds: u32 = response.headers()[RETRY_AFTER].to_str().unwrap().parse().unwrap();
            assert!(seconds > 0);
            assert_eq!(text(response).await, "");
        }
        assert_eq!(calls.load(Ordering::SeqCst), 0);
        assert!(sent.topics().is_empty());
    });
    assert_eq!(counts, expect([("turned_away_total", 5)]));
}

#[tokio::test]
async fn when_the_gate_opens_requests_are_let_in() {
    let (messenger, gate, sent) = gated();
    let (app, calls) = counting(MessagingLayer::new(messenger));
    for open in [true, false, true, false] {
        gate.set_open(open);
        let expected = if open { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        assert_eq!(ask(&app, "POST").await.status(), expected);
    }
    assert_eq!(calls.load(Ordering::SeqCst), 2);
    assert_eq!(sent.topics(), ["a", "a"]);
}

#[tokio::test]
async fn safe_methods_are_let_in_all_the_same() {
    let (messenger, gate, _sent) = gated();
    let (app, calls) = counting(MessagingLayer::new(messenger));
    gate.set_open(false);
    for method in ["GET", "HEAD", "OPTIONS", "TRACE"] {
        assert_eq!(ask(&app, method).await.status(), StatusCode::OK, "{method}");
    }
    assert_eq!(calls.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn a_request_that_is_inside_is_not_turned_away() {
    let (messenger, gate, sent) = gated();
    let layer = MessagingLayer::new(messenger);
    // The inner layer joins the outer one's queue; the gate closes between the two.
    let (app, calls) = counting(layer.clone());
    let app = app.layer(axum::middleware::from_fn({
        let gate = gate.clone();
        move |request: Request<Body>, next: axum::middleware::Next| {
            gate.set_open(false);
            next.run(request)
        }
    }));
    let app = app.layer(layer);
    assert_eq!(ask(&app, "POST").await.status(), StatusCode::OK);
    assert_eq!((calls.load(Ordering::SeqCst), sent.topics()), (1, vec!["a".to_owned()]));
    assert_eq!(ask(&app, "POST").await.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn a_decorator_hands_the_gate_on() {
    let (messenger, gate, _sent) = gated();
    let (background, _worker) = Background::new(messenger, BackgroundSettings::default());
    let (app, calls) = counting(MessagingLayer::new(Arc::new(background)));
    gate.set_open(false);
    assert_eq!(ask(&app, "POST").await.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(calls.load(Ordering::SeqCst), 0);
}
