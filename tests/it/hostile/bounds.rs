//! Memory and work stay bounded, whatever clients do.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::post;
use http::header::RETRY_AFTER;
use http::{Request, StatusCode};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tower::ServiceExt;
use tower_outbox::background::{Background, BackgroundSettings, WhenFull};
use tower_outbox::outbox::{Outbox, RelaySettings};
use tower_outbox::store;
use tower_outbox::store::{EmbeddedStoreSettings, SqlStoreSettings, SqliteStore};
use tower_outbox::testing::Memory;
use tower_outbox::{Consumer, Message, MessageQueue, MessagingLayer, Messenger};

use crate::support::messengers::{fake, held};
use crate::support::stores::{limits, open, until};
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
    soon(Consumer::new(bus, router).with_graceful_shutdown(async move { idle.wait_idle().await }, MINUTE))
        .await;
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
                tokio::spawn(worker.with_graceful_shutdown(std::future::pending(), MINUTE));
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
            soon(layer.in_flight().wait_idle()).await;
            assert_eq!(sent.topics().len(), calls - after + usize::from(wraps));
            let request = Request::post("/").body(Body::empty()).unwrap();
            assert_eq!(soon(app.oneshot(request)).await.unwrap().status(), StatusCode::OK);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn safe_requests_do_not_accumulate() {
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
        soon(layer.in_flight().wait_idle()).await;
        assert_eq!(sent.topics().len(), bound / count * count);
        // One that is larger than the bound goes alone.
        let (large, _) = enqueuing(layer, 100);
        assert_eq!(
            soon(large.oneshot(Request::post("/").body(Body::empty()).unwrap())).await.unwrap().status(),
            200
        );
    }
}

/// A messenger that has room for this many messages, and sends none of them on.
async fn with_room_for(place: &str, max: u32, folder: &Path) -> MessagingLayer {
    let hanging = fake(|_| std::future::pending());
    let limits = limits(u64::from(max), store::WhenFull::Refuse);
    match place {
        "background" => {
            let settings =
                BackgroundSettings::default().with_max_messages(max).with_when_full(WhenFull::Refuse);
            let (background, worker) = Background::new(hanging, settings);
            tokio::spawn(worker.with_graceful_shutdown(std::future::pending(), MINUTE));
            MessagingLayer::new(background)
        }
        "embedded" => {
            let store = open(&EmbeddedStoreSettings::new(folder).with_limits(limits)).await.unwrap();
            MessagingLayer::new(Outbox::new(hanging, Arc::new(store), RelaySettings::default()).0)
        }
        "sqlite" => {
            use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};
            let options = SqliteConnectOptions::new().filename(folder.join("app.db")).create_if_missing(true);
            let pool = SqlitePoolOptions::new().connect_with(options).await.unwrap();
            let settings = SqlStoreSettings::default().with_limits(limits);
            SqliteStore::migrate(&pool, &settings).await.unwrap();
            let store = SqliteStore::open(pool, &settings).await.unwrap();
            MessagingLayer::new(Outbox::new(hanging, Arc::new(store), RelaySettings::default()).0)
        }
        other => panic!("{other}"),
    }
}

const PLACES: &[&str] = &["background", "embedded", "sqlite"];

/// Asks as often as this, at once; those let in wait for each other, and enqueue as many messages as the header says.
async fn ask_at_once(layer: &MessagingLayer, counts: &[usize], refused: usize) -> (usize, Vec<StatusCode>) {
    let (calls, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
    let app = app(layer.clone(), {
        let (calls, gate) = (Arc::clone(&calls), Arc::clone(&gate));
        move |queue: MessageQueue, headers: http::HeaderMap| async move {
            calls.fetch_add(1, Ordering::SeqCst);
            drop(gate.acquire().await);
            let count: usize = headers["count"].to_str().unwrap().parse().unwrap();
            for _ in 0..count {
                queue.enqueue(message("a")).unwrap();
            }
        }
    });
    let asked: Vec<_> = counts
        .iter()
        .map(|count| {
            let request = Request::post("/").header("count", count.to_string()).body(Body::empty()).unwrap();
            let app = app.clone();
            tokio::spawn(async move { app.oneshot(request).await.unwrap().status() })
        })
        .collect();
    until("all have come", async || {
        let ended = asked.iter().filter(|asked| asked.is_finished()).count();
        calls.load(Ordering::SeqCst) + ended == counts.len()
    })
    .await;
    assert_eq!(asked.iter().filter(|asked| asked.is_finished()).count(), refused);
    gate.close();
    let mut statuses = Vec::new();
    for asked in asked {
        statuses.push(asked.await.unwrap());
    }
    (calls.load(Ordering::SeqCst), statuses)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_many_requests_are_let_in_as_there_is_room_for() {
    for place in PLACES {
        let folder = tempfile::tempdir().unwrap();
        let layer = with_room_for(place, 100, folder.path()).await;
        // A request that enqueues nothing, or ends in another way, leaves its room to others.
        let nothing = ask_at_once(&layer, &[0; 100], 0).await;
        assert_eq!(nothing, (100, vec![StatusCode::OK; 100]), "{place}");
        let (calls, statuses) = ask_at_once(&layer, &[1; 400], 300).await;
        let ok = statuses.iter().filter(|status| status.is_success()).count();
        assert_eq!((calls, ok), (100, 100), "{place}: {statuses:?}");
        assert_eq!(ask_at_once(&layer, &[1; 10], 10).await.0, 0, "{place}: it is full");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_of_more_messages_does_not_take_the_room_of_others() {
    for place in PLACES {
        let folder = tempfile::tempdir().unwrap();
        let layer = with_room_for(place, 4, folder.path()).await;
        let (calls, statuses) = ask_at_once(&layer, &[4, 1, 1, 1], 0).await;
        assert_eq!(calls, 4);
        assert_eq!(statuses[1..], [StatusCode::OK; 3], "{place}");
        assert_eq!(statuses[0], StatusCode::SERVICE_UNAVAILABLE, "{place}: counted as unsent");
        // Its own room, and no more, is left.
        assert_eq!(ask_at_once(&layer, &[1, 1], 1).await.0, 1, "{place}");
    }
}
