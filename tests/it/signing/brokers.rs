//! Signatures through real brokers: the suite of sources with signing around it, and the fields that brokers change.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::json;
use tower_outbox::signing::{KeyKind, Signer, Signing, Verifier, Verifying};
use tower_outbox::source::Unsettled;
use tower_outbox::testing::source_conformance::{self, SourceHarness};

use super::{Keys, key, settings, signed_by};
use crate::sources;

/// The same queue with signing around it.
fn signed(mut harness: SourceHarness) -> SourceHarness {
    let (key, settings) =
        (key(KeyKind::Ed25519), settings().with_headers(["text", "yes", "int", "float", "none"]));
    let keys = Keys::of("host-1", &[&key]);
    let signer = Signer::with_key(key, &settings).unwrap();
    harness.messenger = Arc::new(Signing::new(Arc::clone(&harness.messenger), signer));
    let verifier = Verifier::with_keys(keys, &settings).unwrap();
    harness.source = Arc::new(Verifying::new(Arc::clone(&harness.source), verifier));
    harness
}

/// Brokers cut the time, count the expiry down, and send a retry by another queue.
async fn what_a_broker_changes_is_restored(harness: SourceHarness) {
    let harness = signed(harness);
    let time = SystemTime::UNIX_EPOCH + Duration::from_micros(1_795_240_571_788_524);
    let sent = harness
        .message_with(&json!({"name": "größe ☃"}))
        .with_time(time)
        .with_key("schlüssel")
        .with_expiry(Duration::from_millis(400 * 24 * 60 * 60 * 1_000 + 7))
        .with_priority(7)
        .with_header("text", "Grüße")
        .with_header("yes", true)
        .with_header("int", i64::from(i32::MAX) + 1)
        .with_header("float", 0.1);
    harness.messenger.send(vec![sent.clone()]).await.unwrap();
    let check = |delivery: &Unsettled| {
        let view = delivery.view().unwrap();
        let got = view.message();
        assert_eq!((got.id(), got.topic(), got.body()), (sent.id(), sent.topic(), sent.body()));
        assert_eq!((got.time(), got.expiry(), got.key()), (time, sent.expiry(), sent.key()));
        assert_eq!(signed_by(got), Some("host-1"));
        for (name, value) in sent.headers() {
            assert_eq!(got.header(name), Some(value), "{name}");
        }
    };
    let first = harness.receive_one().await;
    check(&first);
    first.retry(Duration::ZERO, "once more").await.unwrap();
    let second = harness.receive_one().await;
    check(&second);
    second.ack().await.unwrap();
    harness.assert_empty().await;
}

#[tokio::test]
async fn a_signed_memory_queue_passes_the_suite() {
    source_conformance::all(async || signed(sources::memory_queue().await)).await;
    what_a_broker_changes_is_restored(sources::memory_queue().await).await;
}

#[tokio::test]
async fn a_signed_embedded_queue_passes_the_suite() {
    source_conformance::all(async || signed(sources::embedded_queue().await)).await;
    what_a_broker_changes_is_restored(sources::embedded_queue().await).await;
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_signed_queue_of_rabbitmq_passes_the_suite() {
    source_conformance::all(async || signed(sources::rabbitmq_queue().await)).await;
    what_a_broker_changes_is_restored(sources::rabbitmq_queue().await).await;
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_signed_amqp10_queue_of_rabbitmq_passes_the_suite() {
    source_conformance::all(async || signed(sources::amqp10_rabbitmq_queue().await)).await;
    what_a_broker_changes_is_restored(sources::amqp10_rabbitmq_queue().await).await;
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_signed_queue_of_activemq_passes_the_suite() {
    source_conformance::all(async || signed(sources::amqp10_activemq_queue().await)).await;
    what_a_broker_changes_is_restored(sources::amqp10_activemq_queue().await).await;
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_signed_subscription_of_mosquitto_passes_the_suite() {
    source_conformance::all(async || signed(sources::mosquitto_subscription().await)).await;
    what_a_broker_changes_is_restored(sources::mosquitto_subscription().await).await;
}
