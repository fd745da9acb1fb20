//! Memory and work stay bounded, whatever clients do.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::post;
use http::header::RETRY_AFTER;
use http::{Request, StatusCode};
use tokio::time::Instant;
use tower::ServiceExt;
use tower_outbox::{
    Background, BackgroundSettings, Consumer, Memory, Message, MessageQueue, MessagingLayer, Messenger,
};

use crate::support::messengers::held;
use crate::support::{MINUTE, app, message, soon};

#[tokio::test(start_paused = true)]
async fn a_key_with_many_slow_messages_does_not_hold_up_others() {
    let bus = Memory::new();
    let slow = (0..60).map(|_| message("slow").with_key("standing"));
    bus.send(slow.collect()).await.unwrap();
    bus.send((0..10).map(|n| message("fast").with_key(format!("other-{n}"))).collect()).await.unwrap();
    let begun = Instant::now();
    let last = Arc::new(std::sync::Mutex::new(None));
    let fast = {
        let last = Arc::clone(&last);
        move || async move { *last.lock().unwrap() = Some(begun.elapsed()) }
    };
    let slow = || async { tokio::time::sleep(Duration::from_millis(500)).await };
    let router = Router::new().route("/slow", post(slow)).route("/fast", post(fast));
    let idle = bus.clone();
    soon(Consumer::new(bus, router).run(async move { idle.idle().await }, MINUTE)).await;
    let last = last.lock().unwrap().unwrap();
    assert!(last < Duration::from_secs(1), "{last:?}");
    assert_eq!(begun.elapsed().as_secs(), 30, "those of one key follow each other");
}

/// Asks, and hangs up as soon as it has to wait; gives the status of an answer that came before.
async fn ask_and_hang_up(app: &Router, method: &str) -> Option<StatusCode> {
    let request = Request::builder().method(method).uri("/").body(Body::empty()).unwrap();
    tokio::select! {
        biased;
        response = app.clone().oneshot(request) => Some(response.unwrap().status()),
        () = tokio::task::yield_now() => None,
    }
}

/// Enqueues `count` messages of 1,000 bytes, and counts the calls.
fn enqueuing(layer: MessagingLayer, count: usize) -> (Router, Arc<AtomicUsize>) {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let app = app(layer, move |queue: MessageQueue| async move {
        counted.fetch_add(1, Ordering::SeqCst);
        for _ in 0..count {
            queue.enqueue(Message::new("a", vec![b'x'; 1_000]).unwrap()).unwrap();
        }
    });
    (app, calls)
}

#[tokio::test(start_paused = true)]
async fn clients_that_hang_up_while_the_bus_hangs_do_not_gather() {
    for limit in ["messages", "bytes"] {
        for wraps in [false, true] {
            let (messenger, gate, sent) = held();
            let messenger: Arc<dyn Messenger> = if wraps {
                let settings = BackgroundSettings::default().with_max_messages(1);
                let (background, worker) = Background::new(messenger, settings);
                tokio::spawn(worker.run(std::future::pending(), MINUTE));
                background.send(vec![message("first")]).await.unwrap();
                Arc::new(background)
            } else {
                Arc::new(messenger)
            };
            let layer = MessagingLayer::new(messenger);
            let layer = match limit {
                "messages" => layer.with_max_messages_in_flight(100),
                _ => layer.with_max_bytes_in_flight(100_000),
            };
            let (app, calls) = enqueuing(layer.clone(), 1);
            let mut refused = 0;
            for _ in 0..50_000 {
                match ask_and_hang_up(&app, "POST").await {
                    None => {}
                    Some(StatusCode::SERVICE_UNAVAILABLE) => refused += 1,
                    Some(other) => panic!("{other}"),
                }
            }
            let (calls, in_flight) = (calls.load(Ordering::SeqCst), layer.in_flight().len());
            assert!((90..=100).contains(&calls), "{limit}: {calls} handlers ran");
            // The others were refused before it, but for one that did not fit.
            let after = calls + refused - 50_000;
            assert!(after <= usize::from(limit == "bytes"), "{limit}: {after}");
            assert!(in_flight <= 101, "{limit}: {in_flight}");
            gate.open();
            soon(layer.in_flight().idle()).await;
            assert_eq!(sent.topics().len(), calls - after + usize::from(wraps));
            let request = Request::post("/").body(Body::empty()).unwrap();
            assert_eq!(soon(app.oneshot(request)).await.unwrap().status(), StatusCode::OK);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn those_let_in_all_the_same_do_not_gather_either() {
    // By a safe method; by more messages than were left.
    for (method, count, bound) in [("GET", 1, 10), ("POST", 4, 10)] {
        let (messenger, gate, sent) = held();
        let layer = MessagingLayer::new(messenger).with_max_messages_in_flight(bound);
        let (app, calls) = enqueuing(layer.clone(), count);
        for _ in 0..1_000 {
            ask_and_hang_up(&app, method).await;
        }
        assert_eq!(layer.in_flight().len(), bound / count);
        // One of them found that its messages do not fit; after it, nobody was let in.
        assert_eq!(calls.load(Ordering::SeqCst), if method == "GET" { 1_000 } else { 3 });
        let request = Request::builder().method(method).uri("/").body(Body::empty()).unwrap();
        let response = app.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(response.headers().contains_key(RETRY_AFTER));
        gate.open();
        soon(layer.in_flight().idle()).await;
        assert_eq!(sent.topics().len(), bound / count * count);
        // One that is larger than the bound goes alone.
        let (large, _) = enqueuing(layer, 100);
        assert_eq!(
            soon(large.oneshot(Request::post("/").body(Body::empty()).unwrap())).await.unwrap().status(),
            200
        );
    }
}
