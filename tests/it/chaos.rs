//! Faults on purpose.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::Router;
use axum::routing::post;
use tokio::time::Instant;
use tower::Layer;
use tower_outbox::chaos::{ChaosLayer, ChaosSettings};
use tower_outbox::consumer::ConsumerSettings;
use tower_outbox::testing::{Memory, Recording};
use tower_outbox::{Consumer, Message, Messenger};

use crate::support::{MINUTE, message, soon};

/// Consumes this message with chaos, until it is handled or dead; says how often the handler was called, and the time it took.
async fn consume(
    chaos: ChaosSettings,
    settings: ConsumerSettings,
    message: Message,
) -> (u32, Memory, Duration) {
    let (calls, queue) = (Arc::new(AtomicU32::new(0)), Memory::new());
    let handler = {
        let calls = Arc::clone(&calls);
        move || async move {
            calls.fetch_add(1, Ordering::SeqCst);
        }
    };
    queue.send(vec![message]).await.unwrap();
    let app: Router = Router::new().route("/a", post(handler)).layer(ChaosLayer::new(chaos));
    let (begun, done) = (Instant::now(), queue.clone());
    let consumer = Consumer::new(queue.clone(), app).with_settings(settings);
    soon(consumer.with_graceful_shutdown(async move { done.wait_idle().await }, MINUTE)).await;
    (calls.load(Ordering::SeqCst), queue, begun.elapsed())
}

fn two_attempts() -> ConsumerSettings {
    ConsumerSettings::default().with_max_attempts(2)
}

#[tokio::test(start_paused = true)]
async fn by_default_nothing_fails() {
    let (calls, queue, _) = consume(ChaosSettings::default(), two_attempts(), message("a")).await;
    assert_eq!((calls, queue.dead_letters().len()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_failed_message_uses_up_its_attempts_without_a_call() {
    let chaos = ChaosSettings::default().with_failed(1.0);
    let (calls, queue, _) = consume(chaos, two_attempts(), message("a")).await;
    let dead = queue.dead_letters();
    assert_eq!((calls, dead.len(), dead[0].failures.len()), (0, 1, 2));
    assert!(dead[0].failures[0].reason.contains("500"));
}

#[tokio::test(start_paused = true)]
async fn what_is_nacked_comes_again_and_uses_up_nothing() {
    let chaos = ChaosSettings::default().with_nacked(0.9);
    let (calls, queue, _) = consume(chaos, two_attempts().with_max_attempts(1), message("a")).await;
    assert_eq!((calls, queue.dead_letters().len()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_delay_comes_before_the_handler() {
    let chaos = ChaosSettings::default().with_delay(Duration::from_secs(5));
    let (calls, _, took) = consume(chaos, two_attempts(), message("a")).await;
    assert_eq!(calls, 1);
    assert!(took >= Duration::from_secs(5), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn nothing_happens_to_a_protected_topic() {
    let chaos = ChaosSettings::default().with_failed(1.0).with_nacked(1.0).with_protected("a");
    let (calls, queue, _) = consume(chaos.clone(), two_attempts(), message("a")).await;
    assert_eq!((calls, queue.dead_letters().len()), (1, 0));

    let recording = Recording::new();
    let sent = recording.listen();
    let messenger = ChaosLayer::new(chaos).layer(recording);
    let unsent = messenger.send(vec![message("a"), message("b")]).await.unwrap_err();
    assert_eq!((sent.topics(), unsent.len()), (vec!["a".to_owned()], 1));
}

#[tokio::test(start_paused = true)]
async fn a_messenger_hands_back_what_fails() {
    for (chaos, transient) in [
        (ChaosSettings::default().with_nacked(1.0), true),
        (ChaosSettings::default().with_failed(1.0), false),
    ] {
        let recording = Recording::new();
        let sent = recording.listen();
        let unsent = ChaosLayer::new(chaos).layer(recording).send(vec![message("a")]).await.unwrap_err();
        assert!(unsent.iter().all(|(_, failure)| failure.is_transient() == transient), "{unsent}");
        assert!(sent.topics().is_empty());
    }
}
