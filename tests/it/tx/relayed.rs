//! With a relay: what is sent is what is committed.

use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::Path;
use axum::routing::any;
use http::{Request, StatusCode};
use serde_json::json;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use tower::ServiceExt;
use tower_outbox::outbox::{Outbox, RelaySettings};
use tower_outbox::store::{Counts, Store};
use tower_outbox::testing::Sent;
use tower_outbox::{Message, MessageQueue, MessagingLayer, Tx};

use super::place::{Place, both, created, insert, post, quiet};
use crate::support::messengers::recording;
use crate::support::stores::{QUIET, STUCK, depth, until};

/// A layer whose relay runs.
struct RunningRelay {
    layer: MessagingLayer,
    sent: Sent,
    store: Arc<dyn Store>,
    relay: JoinHandle<Counts>,
    stop: oneshot::Sender<()>,
}

impl RunningRelay {
    async fn on<P: Place>(place: &P) -> Self {
        let ((recording, sent), store) = (recording(), place.store().await);
        let (outbox, relay) = Outbox::new(recording, Arc::clone(&store), RelaySettings::default());
        let (stop, stopped) = oneshot::channel();
        let relay = tokio::spawn(relay.with_graceful_shutdown(async { drop(stopped.await) }, STUCK));
        Self { layer: MessagingLayer::new(outbox), sent, store, relay, stop }
    }

    /// Ends it when all is sent.
    async fn end(self) -> Sent {
        quiet(&self.layer).await;
        until("all is sent", async || depth(&*self.store).await == (0, 0)).await;
        self.stop.send(()).unwrap();
        assert_eq!(self.relay.await.unwrap().pending, 0);
        self.sent
    }
}

pub async fn rows_and_sent_events_agree_whatever_happened<P: Place>(place: P) {
    let running = RunningRelay::on(&place).await;
    let handler = async |Path(number): Path<usize>, mut tx: Tx<P::Kind>, queue: MessageQueue| {
        insert::<P>(&mut tx, &format!("user {number:03}")).await;
        let event = Message::json("user.created", &json!({"name": format!("user {number:03}")})).unwrap();
        // Half of them in order.
        queue.enqueue(if number % 2 == 0 { event.with_key("users") } else { event }).unwrap();
        match number % 9 {
            0..=3 => StatusCode::CREATED,
            4 => StatusCode::CONFLICT,
            5 => panic!("the handler panics"),
            6 => pending().await,
            7 => {
                P::execute(&mut tx, "INSERT INTO orders VALUES ('nobody')").await.unwrap();
                StatusCode::CREATED
            }
            _ => {
                tokio::spawn(async move {
                    tokio::time::sleep(QUIET).await;
                    drop(tx);
                });
                StatusCode::CREATED
            }
        }
    };
    let app = Router::new().route("/{number}", any(handler)).layer(running.layer.clone());
    let mut requests = JoinSet::new();
    for number in 0..90 {
        let request = app.clone().oneshot(Request::post(format!("/{number}")).body(Body::empty()).unwrap());
        // Each has its connection some time.
        let limit = if number % 9 == 6 { QUIET } else { STUCK };
        requests.spawn(async move {
            timeout(limit, request).await.map(|answer| (number, answer.unwrap().status()))
        });
    }
    let mut expected = Vec::new();
    while let Some(answered) = requests.join_next().await {
        if let Ok(Ok((number, StatusCode::CREATED))) = answered {
            expected.push(format!("user {number:03}"));
        }
    }
    expected.sort();
    assert!(expected.len() >= 40, "{expected:?}");
    let sent = running.end().await;
    let sent = sent.json("user.created");
    let mut events: Vec<_> = sent.iter().map(|body| body["name"].as_str().unwrap().to_owned()).collect();
    events.sort();
    assert_eq!(
        (place.texts("SELECT name FROM users ORDER BY name").await, events),
        (expected.clone(), expected)
    );
}

pub async fn what_is_committed_is_sent_at_once<P: Place>(place: P) {
    let running = RunningRelay::on(&place).await;
    let handler = async |mut tx: Tx<P::Kind>, queue: MessageQueue| both::<P>(&mut tx, &queue).await;
    let app = Router::new().route("/", any(handler)).layer(running.layer.clone());
    let mut fastest = Duration::MAX;
    for sent in 1..=5 {
        let begun = Instant::now();
        assert_eq!(post(&app).await.status(), StatusCode::OK);
        until("it is sent", async || running.sent.topics().len() == sent).await;
        fastest = fastest.min(begun.elapsed());
        place.clear_rows().await;
    }
    // A message that is only looked for is sent two seconds later.
    assert!(fastest < Duration::from_secs(1), "{fastest:?}");
    running.end().await;
}

pub async fn what_is_persisted_is_sent_when_the_response_is_there<P: Place>(place: P) {
    let running = RunningRelay::on(&place).await;
    for (commit, events) in [(false, 0), (true, 1)] {
        let handler = {
            let place = place.clone();
            move |queue: MessageQueue| async move {
                created(&queue);
                place.own(&queue, commit).await.unwrap();
            }
        };
        let app = Router::new().route("/", any(handler)).layer(running.layer.clone());
        let begun = Instant::now();
        assert_eq!(post(&app).await.status(), StatusCode::OK);
        until("it is sent", async || running.sent.topics().len() == events).await;
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    }
    running.end().await;
}
