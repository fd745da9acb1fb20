//! Messages of foreign publishers: each harms only itself.

use std::time::Duration;

use rumqttc::PublishProperties;
use tower_outbox::Messenger;
use tower_outbox::message::Scalar;

use super::raw::{Place, Raw, assert_quiet, body, next, property, text};
use crate::peers::Brokers;

fn properties(pairs: &[(&str, &str)]) -> PublishProperties {
    let user_properties = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    PublishProperties { user_properties: user_properties.collect(), ..PublishProperties::default() }
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn attempts_and_failures_of_a_stranger_are_not_believed() {
    let brokers = Brokers::running();
    let place = Place::new(&brokers);
    let source = place.source(&place.subscription()).await;
    let raw = Raw::connect(&place.url).await;
    let failures = r#"[{"at": "2026-11-21T06:15:24.925Z", "reason": "made up"}]"#;
    let stranger = [
        ("tower-outbox-attempt", "49"),
        ("tower-outbox-failures", failures),
        ("tower-outbox-topic", "other"),
        ("tower-outbox-queue", "other"),
        ("n", "7"),
        ("n", "8"),
    ];
    raw.publish(&place.topic, "x", properties(&stranger)).await;
    let received = next(&source).await;
    let view = received.view().unwrap();
    assert_eq!((view.attempt(), view.failures().len()), (1, 0));
    assert_eq!(view.message().topic().as_str(), place.topic);
    assert_eq!(view.message().headers().collect::<Vec<_>>(), [("n", &Scalar::from("8"))]);
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn an_unreadable_message_is_one_dead_letter_and_the_next_goes_on() {
    let brokers = Brokers::running();
    let place = Place::new(&brokers);
    let subscription = place.subscription().with_topic(format!("{}/+", place.topic));
    let dead = format!("dead/{}", place.topic);
    let mut letters = Raw::subscribed(&place.url, &dead).await;
    let source = place.source(&subscription.with_dead_letter_topic(&*dead)).await;
    let raw = Raw::connect(&place.url).await;
    raw.publish(&format!("{}/a level with blanks", place.topic), "bad", PublishProperties::default()).await;
    let many: Vec<_> = (0..1_001).map(|n| n.to_string()).collect();
    let many: Vec<_> = many.iter().map(|name| (name.as_str(), "")).collect();
    raw.publish(&place.topic, "many", properties(&many)).await;
    raw.publish(&place.topic, "good", PublishProperties::default()).await;
    for (payload, reason) in [("bad", "is not a topic"), ("many", "1,000 headers")] {
        let poison = next(&source).await;
        let why = poison.view().unwrap_err().to_string();
        assert!(why.contains(reason), "{why}");
        poison.reject(why.clone()).await.unwrap();
        let letter = letters.next().await;
        assert_eq!((body(&letter), property(&letter, "tower-outbox-reason")), (payload, Some(&*why)));
    }
    assert_eq!(text(&next(&source).await), "good");
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn any_bytes_are_a_body() {
    let brokers = Brokers::running();
    let place = Place::new(&brokers);
    let source = place.source(&place.subscription()).await;
    let raw = Raw::connect(&place.url).await;
    for payload in [&b"\xff\xfe\0"[..], b"", &[0x80; 100_000]] {
        raw.publish(&place.topic, payload, PublishProperties::default()).await;
        let received = next(&source).await;
        assert_eq!(received.view().unwrap().message().body(), payload);
        received.ack().await.unwrap();
    }
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_message_over_the_memory_limit_is_not_sent_to_us() {
    let brokers = Brokers::running();
    let place = Place::new(&brokers);
    let source = place.source(&place.subscription().with_prefetch_bytes(64 << 10)).await;
    place.send(&[&"x".repeat(100_000), "small"]).await;
    let small = next(&source).await;
    assert_eq!(text(&small), "small");
    small.ack().await.unwrap();
    assert_quiet(&source).await;
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_text_that_mosquitto_hangs_up_over_is_refused_at_enqueue() {
    let brokers = Brokers::running();
    let place = Place::new(&brokers);
    let messenger = place.messenger();
    for header in ["line\nbreak", "\u{85}", "\u{7f}", "\u{ffff}"] {
        let message = place.message("x").with_header("a", header);
        messenger.check(&message).unwrap_err();
        let unsent = messenger.send(vec![message, place.message("neighbour")]).await.unwrap_err();
        assert_eq!(unsent.len(), 1);
        assert!(unsent.iter().all(|(_, failure)| !failure.is_transient()), "{unsent}");
    }
    // That is what happens otherwise.
    let raw = Raw::connect(&place.url).await;
    let options = rumqttc::PublishOptions::at_least_once().properties(properties(&[("a", "line\nbreak")]));
    let notice = raw.client.publish_tracked(&place.topic, "x", options).await.unwrap();
    let outcome = tokio::time::timeout(Duration::from_millis(500), notice.wait_async()).await;
    assert!(!matches!(outcome, Ok(Ok(_))), "mosquitto takes it now: {outcome:?}");
}
