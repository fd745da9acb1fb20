//! Messages that come again.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::routing::post;
use http::StatusCode;
use http::header::RETRY_AFTER;
use tokio::time::{sleep, timeout};
use tower_outbox::consumer::ConsumerSettings;
use tower_outbox::store::SqlStoreSettings;
use tower_outbox::testing::Memory;
use tower_outbox::{Consumer, Delivery, Message, MessageQueue, Messenger, Tx};
use tracing::Level;

use super::place::{Place, both, created, strings};
use crate::support::stores::{QUIET, STUCK, until};
use crate::support::{enqueue, logs};

type Calls = Arc<AtomicUsize>;

/// Lets a consumer handle messages until there are none; gives how many it acknowledged.
pub async fn consume(app: &Router, messages: &[Message]) -> u64 {
    let bus = Memory::new();
    bus.send(messages.to_vec()).await.unwrap();
    let settings = ConsumerSettings::default().with_concurrency(4);
    let consumer = Consumer::new(bus.clone(), app.clone()).with_settings(settings);
    let handle = consumer.handle();
    let idle = {
        let bus = bus.clone();
        async move { bus.wait_idle().await }
    };
    timeout(STUCK, consumer.with_graceful_shutdown(idle, STUCK)).await.expect("it ends");
    assert!(bus.dead_letters().is_empty());
    handle.status().acked
}

fn message() -> Message {
    crate::support::message("user.asked")
}

pub async fn a_message_that_comes_again_is_handled_once<P: Place>(place: P) {
    let calls = Calls::default();
    let handler = {
        let calls = Arc::clone(&calls);
        move |mut tx: Tx<P::Kind>, queue: MessageQueue| async move {
            calls.fetch_add(1, Ordering::SeqCst);
            both::<P>(&mut tx, &queue).await;
        }
    };
    let app = Router::new().route("/user/asked", post(handler)).layer(place.layer().await);
    let message = [message()];
    for _ in 0..3 {
        assert_eq!(consume(&app, &message).await, 1);
    }
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    place.assert(true, "once").await;
}

pub async fn a_message_whose_handler_failed_is_handled_again<P: Place>(place: P) {
    let calls = Calls::default();
    let handler = {
        let calls = Arc::clone(&calls);
        move |mut tx: Tx<P::Kind>, queue: MessageQueue| async move {
            both::<P>(&mut tx, &queue).await;
            match calls.fetch_add(1, Ordering::SeqCst) {
                0 => (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "0")]),
                1 => panic!("the handler panics"),
                _ => (StatusCode::OK, [(RETRY_AFTER, "0")]),
            }
        }
    };
    let app = Router::new().route("/user/asked", post(handler)).layer(place.layer().await);
    assert_eq!(consume(&app, &[message()]).await, 1);
    assert_eq!(calls.load(Ordering::SeqCst), 3);
    place.assert(true, "the third time").await;
}

pub async fn of_two_deliveries_at_once_one_is_handled<P: Place>(place: P) {
    let calls = Calls::default();
    let handler = {
        let calls = Arc::clone(&calls);
        move |mut tx: Tx<P::Kind>, queue: MessageQueue| async move {
            calls.fetch_add(1, Ordering::SeqCst);
            both::<P>(&mut tx, &queue).await;
            sleep(QUIET).await;
        }
    };
    let app = Router::new().route("/user/asked", post(handler)).layer(place.layer().await);
    let message = message();
    assert_eq!(consume(&app, &[message.clone(), message]).await, 2);
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    place.assert(true, "once").await;
}

pub async fn what_was_enqueued_before_does_not_leave_again<P: Place>(place: P) {
    let before = from_fn(async |queue: MessageQueue, request: Request, next: Next| {
        enqueue(&queue, ["seen"]);
        enqueue(&queue.always(), ["audit"]);
        next.run(request).await
    });
    let handler = async |mut tx: Tx<P::Kind>, queue: MessageQueue| both::<P>(&mut tx, &queue).await;
    let app = Router::new().route("/user/asked", post(handler)).layer(before).layer(place.layer().await);
    let message = [message()];
    for _ in 0..2 {
        assert_eq!(consume(&app, &message).await, 1);
    }
    let events = strings(&["seen", "audit", "user.created", "audit"]);
    assert_eq!((place.rows().await, place.events().await), (1, events));
}

pub async fn the_same_id_from_elsewhere_is_another_message<P: Place>(place: P) {
    let handler = async |_tx: Tx<P::Kind>, delivery: Delivery, queue: MessageQueue| {
        assert!(!delivery.source().is_empty());
        created(&queue);
    };
    let app = Router::new().route("/user/asked", post(handler)).layer(place.layer().await);
    let message = [message()];
    consume(&app, &message).await;
    place.tables().move_handled_to("elsewhere").await;
    consume(&app, &message).await;
    assert_eq!(place.events().await.len(), 2);
    assert_eq!(place.tables().handled().await, 2);
}

pub async fn a_retention_shorter_than_the_retries_is_warned_about<P: Place>(place: P) {
    drop(place);
    let log = logs::listen();
    let consumer = ConsumerSettings::default().with_max_attempts(100).with_timeout(Duration::from_secs(40));
    assert_eq!(consumer.retry_span(), Duration::from_secs(10_000));
    let settings = SqlStoreSettings::default();
    assert!(settings.check_inbox_retention("users", consumer.retry_span()));
    assert!(log.events().is_empty());
    let settings = settings.with_inbox_retention(Duration::from_secs(10_000));
    assert!(!settings.check_inbox_retention("users", consumer.retry_span()));
    let said = log.find(Level::WARN, &["consumer", "inbox_retention"]);
    assert_eq!((said[0].get("consumer"), said[0].get("inbox_retention")), ("users", "10000s"));
}

pub async fn what_is_older_than_the_retention_is_forgotten<P: Place>(place: P) {
    let place = place.with_retention(Duration::from_secs(3_600));
    let app = Router::new().route("/user/asked", post(async |_: Tx<P::Kind>| {})).layer(place.layer().await);
    consume(&app, &[message()]).await;
    for seconds in [60, 7_200, 3_000_000] {
        place.tables().copy_handled_to(&seconds.to_string(), seconds).await;
    }
    // Another store has not forgotten anything a moment ago.
    let app = Router::new().route("/user/asked", post(async |_: Tx<P::Kind>| {})).layer(place.layer().await);
    consume(&app, &[message()]).await;
    until("the old ones are gone", async || place.tables().handled().await == 3).await;
    let mut sources = place.tables().handled_from().await;
    sources.retain(|source| ["60", "7200", "3000000"].contains(&source.as_str()));
    assert_eq!(sources, ["60"]);
    assert_eq!(place.tables().handled().await, 3);
}
