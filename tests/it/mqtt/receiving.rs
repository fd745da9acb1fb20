//! Messages received from mosquitto, and how they are settled.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use tokio::time::timeout;
use tower_outbox::Message;
use tower_outbox::mqtt::{MqttSettings, MqttSource, MqttSubscription};
use tower_outbox::source::Source;
use tracing::Level;

use super::raw::{Place, Raw, SOON, assert_quiet, body, next, property, text};
use crate::peers::{Brokers, unique};
use crate::support::logs::{Event, listen};

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_session_keeps_messages_while_nobody_is_connected() {
    let brokers = Brokers::running();
    let place = Place::new(&brokers);
    let subscription = place.subscription();
    let source = place.source(&subscription).await;
    place.send(&["1", "2", "3"]).await;
    let first = next(&source).await;
    assert_eq!(text(&first), "1");
    first.ack().await.unwrap();
    let second = next(&source).await;
    source.close(SOON).await;
    second.ack().await.unwrap_err();
    place.send(&["4"]).await;
    let source = MqttSource::new(&place.settings(), &subscription).unwrap();
    for expected in ["2", "3", "4"] {
        let received = next(&source).await;
        assert_eq!(text(&received), expected);
        received.ack().await.unwrap();
    }
    source.close(SOON).await;
    let source = MqttSource::new(&place.settings(), &subscription).unwrap();
    assert_quiet(&source).await;
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn brokers_that_are_no_cluster_are_warned_about() {
    let logs = listen();
    let brokers = Brokers::running();
    let one = Place::new(&brokers);
    let other = Place::at(&brokers, "MOSQUITTO2_MQTT");
    for (second, level) in
        [(one.url.replace("127.0.0.1", "localhost"), Level::DEBUG), (other.url, Level::WARN)]
    {
        let topic = unique("cluster");
        let source = MqttSource::new(
            &MqttSettings::new([one.url.clone(), second]),
            &MqttSubscription::new(&*topic).with_client_id(unique("client")),
        );
        let source = source.unwrap();
        let checked = async {
            loop {
                let of_check = |event: &Event| event.get("source") == topic && event.text.contains("URLS");
                if let Some(found) = logs.events().into_iter().find(of_check) {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let found = tokio::select! {
            found = timeout(SOON, checked) => found.expect("it is not checked"),
            received = source.receive(1) => panic!("{received:?}"),
        };
        assert_eq!(found.level, level, "{found}");
    }
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_topic_that_is_added_is_subscribed_in_a_kept_session() {
    let brokers = Brokers::running();
    let place = Place::new(&brokers);
    let other = unique("other");
    let subscription = place.subscription();
    place.source(&subscription).await.close(SOON).await;
    let source = MqttSource::new(&place.settings(), &subscription.with_topic(&*other)).unwrap();
    super::raw::subscribed(&source, &place.settings(), &other).await;
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_clean_start_forgets_what_the_broker_kept() {
    let brokers = Brokers::running();
    let place = Place::new(&brokers);
    let mut subscription = place.subscription();
    place.source(&subscription).await.close(SOON).await;
    place.send(&["kept"]).await;
    subscription.clean_start = true;
    let source = place.source(&subscription).await;
    assert_quiet(&source).await;
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_group_shares_the_messages() {
    let brokers = Brokers::running();
    let place = Place::new(&brokers);
    let of_group = || place.subscription().with_group("g");
    let one = place.source(&of_group()).await;
    let two = MqttSource::new(&place.settings(), &of_group()).unwrap();
    assert!(timeout(Duration::from_millis(200), two.receive(1)).await.is_err());
    let bodies: Vec<_> = (0..40).map(|n| n.to_string()).collect();
    place.send(&bodies.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let mut seen = HashSet::new();
    let mut counts = [0, 0];
    while seen.len() < 40 {
        let received = tokio::select! {
            received = next(&one) => { counts[0] += 1; received }
            received = next(&two) => { counts[1] += 1; received }
        };
        assert!(seen.insert(text(&received)), "each comes once");
        received.ack().await.unwrap();
    }
    assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn no_more_than_prefetch_are_unsettled() {
    let brokers = Brokers::running();
    let place = Place::new(&brokers);
    let source = place.source(&place.subscription().with_prefetch(5)).await;
    let bodies: Vec<_> = (0..20).map(|n| n.to_string()).collect();
    place.send(&bodies.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let mut held = Vec::new();
    while held.len() < 5 {
        held.push(next(&source).await);
    }
    assert_quiet(&source).await;
    // Out of order.
    held.remove(3).ack().await.unwrap();
    held.push(next(&source).await);
    assert_quiet(&source).await;
    held.drain(..2).for_each(drop);
    assert_eq!([text(&next(&source).await).parse::<u32>().is_ok(), held.len() == 3], [true, true]);
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn large_messages_come_one_by_one() {
    let brokers = Brokers::running();
    let place = Place::new(&brokers);
    let source = place.source(&place.subscription().with_prefetch_bytes(1 << 20)).await;
    let large = "x".repeat(700 << 10);
    place.send(&[&large, &large, "small"]).await;
    let first = next(&source).await;
    assert_quiet(&source).await;
    first.ack().await.unwrap();
    next(&source).await.ack().await.unwrap();
    assert_eq!(text(&next(&source).await), "small");
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_paused_source_lets_nothing_in() {
    let brokers = Brokers::running();
    let place = Place::new(&brokers);
    let source = place.source(&place.subscription().with_prefetch(2)).await;
    source.pause().await;
    place.send(&["1", "2", "3", "4"]).await;
    for expected in ["1", "2", "3", "4"] {
        let received = next(&source).await;
        assert_eq!(text(&received), expected);
        received.ack().await.unwrap();
        source.pause().await;
    }
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn all_places_may_wait_for_retries_and_others_come() {
    let brokers = Brokers::running();
    let place = Place::new(&brokers);
    let source = place.source(&place.subscription().with_prefetch(3)).await;
    place.send(&["1", "2", "3", "4"]).await;
    let begun = Instant::now();
    for _ in 0..3 {
        next(&source).await.retry(Duration::from_millis(1_500), "not yet").await.unwrap();
    }
    let fourth = next(&source).await;
    assert_eq!(text(&fourth), "4");
    assert!(begun.elapsed() < Duration::from_millis(1_500));
    fourth.ack().await.unwrap();
    for expected in ["1", "2", "3"] {
        let again = next(&source).await;
        assert_eq!((text(&again).as_str(), again.view().unwrap().attempt()), (expected, 2));
        again.ack().await.unwrap();
    }
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_dead_letter_is_the_message_with_its_reason() {
    let brokers = Brokers::running();
    let place = Place::new(&brokers);
    let dead = format!("{}/dead", place.topic);
    let mut letters = Raw::subscribed(&place.url, &dead).await;
    let source = place.source(&place.subscription().with_dead_letter_topic(&*dead)).await;
    let message = Message::json(place.topic.clone(), &serde_json::json!({"n": 1})).unwrap();
    let message = message.with_header("tenant", "acme").with_expiry(Duration::from_secs(60));
    tower_outbox::Messenger::send(&place.messenger(), vec![message.clone()]).await.unwrap();
    next(&source).await.retry(Duration::ZERO, "first\nfailure").await.unwrap();
    next(&source).await.reject("never\0").await.unwrap();
    let letter = letters.next().await;
    assert_eq!((body(&letter), property(&letter, "tenant")), (r#"{"n":1}"#, Some("acme")));
    assert_eq!(property(&letter, "tower-outbox-reason"), Some("never "));
    assert_eq!(property(&letter, "tower-outbox-attempt"), Some("2"));
    assert_eq!(property(&letter, "tower-outbox-queue"), Some(&*place.topic));
    assert!(property(&letter, "tower-outbox-failures").unwrap().contains("first"));
    assert_eq!(property(&letter, "tower-outbox-id"), Some(&*message.id().to_string()));
    assert_eq!(letter.properties.unwrap().message_expiry_interval, None);
    assert_quiet(&source).await;
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_dead_letter_that_nobody_gets_keeps_its_message() {
    let brokers = Brokers::running();
    let place = Place::new(&brokers);
    let dead = format!("{}/dead", place.topic);
    let source = place.source(&place.subscription().with_dead_letter_topic(&*dead)).await;
    place.send(&["1"]).await;
    let error = next(&source).await.reject("never").await.unwrap_err();
    assert!(format!("{error:?}").contains("nobody subscribes"), "{error:?}");
    let again = next(&source).await;
    let mut letters = Raw::subscribed(&place.url, &dead).await;
    again.reject("never").await.unwrap();
    assert_eq!(body(&letters.next().await), "1");
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_message_without_retries_left_ends_as_one_dead_letter() {
    use axum::Router;
    use axum::http::StatusCode;
    use axum::routing::any;
    use tower_outbox::Consumer;
    use tower_outbox::consumer::ConsumerSettings;

    let brokers = Brokers::running();
    let place = Place::new(&brokers);
    let dead = format!("{}/dead", place.topic);
    let mut letters = Raw::subscribed(&place.url, &dead).await;
    let source = place.source(&place.subscription().with_dead_letter_topic(&*dead)).await;
    let mut settings = ConsumerSettings::default();
    settings.max_attempts = 3;
    settings.max_backoff = Duration::from_millis(10);
    let app = Router::new().fallback(any(|| async { StatusCode::INTERNAL_SERVER_ERROR }));
    let consumer = Consumer::new(source, app).with_settings(settings);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(consumer.with_graceful_shutdown(
        async {
            let _ = stopped.await;
        },
        SOON,
    ));
    place.send(&["1", "2"]).await;
    let mut bodies = [letters.next().await, letters.next().await].map(|letter| {
        assert_eq!(property(&letter, "tower-outbox-attempt"), Some("3"));
        body(&letter).to_owned()
    });
    bodies.sort();
    assert_eq!(bodies, ["1", "2"]);
    drop(stop);
    timeout(SOON, running).await.unwrap().unwrap();
    letters.assert_quiet().await;
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn two_processes_with_one_client_id_are_told_so() {
    let brokers = Brokers::running();
    let place = Place::new(&brokers);
    let subscription = MqttSubscription::new(&place.topic).with_client_id(unique("client"));
    let first = place.source(&subscription).await;
    let second = MqttSource::new(&place.settings(), &subscription).unwrap();
    let (one, _) =
        tokio::join!(timeout(SOON, first.receive(1)), timeout(Duration::from_secs(2), second.receive(1)));
    let error = one.expect("it waits").unwrap_err();
    assert!(format!("{error:?}").contains("CLIENT_ID"), "{error:?}");
}
