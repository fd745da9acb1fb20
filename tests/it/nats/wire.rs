//! The shape of messages on the wire.

use std::time::Duration;

use ::time::OffsetDateTime;
use async_nats::StatusCode;
use async_nats::jetstream::consumer::pull;
use futures_util::StreamExt;
use tokio::time::timeout;
use tower_outbox::Messenger;
use tower_outbox::nats::{Nats, NatsSettings, Pattern};

use super::old_server::old_server;
use super::raw::{Place, SOON, body, header};

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_message_is_stored_with_its_id_and_headers() {
    let place = Place::new().await;
    let message = place.message("{}").with_content_type("application/json").with_header("tenant", "größe");
    let message = message.with_header("n", 7).with_key("k");
    place.messenger().send(vec![message.clone()]).await.unwrap();
    let stored = place.stored().await.remove(0);
    assert_eq!((stored.subject.as_str(), body(&stored)), (&*place.topic, "{}"));
    let id = message.id().to_string();
    for (name, value) in [
        ("Nats-Msg-Id", &*id),
        ("tower-outbox-id", &*id),
        ("Content-Type", "application/json"),
        ("tenant", "größe"),
        ("n", "7"),
        ("tower-outbox-key", "k"),
        ("tower-outbox-types", r#"{"n":"int"}"#),
    ] {
        assert_eq!(header(&stored, name), Some(value), "{name}");
    }
}

/// Trap N1 of the client library: a publish that timed out may be stored.
#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_message_that_is_sent_twice_is_stored_once() {
    let place = Place::new().await;
    let message = place.message("once");
    for _ in 0..2 {
        place.messenger().send(vec![message.clone(), message.clone()]).await.unwrap();
    }
    assert_eq!(place.stored().await.len(), 1);
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn an_event_reaches_those_who_subscribe_now() {
    let place = Place::without_stream().await;
    let messenger = Nats::new(&place.settings().with_pattern(Pattern::Events)).unwrap();
    messenger.send(vec![place.message("nobody gets it")]).await.unwrap();
    let mut subscriber = place.client.subscribe(place.topic.clone()).await.unwrap();
    place.client.flush().await.unwrap();
    // The server answers the two connections in no order; so it has the subscription for sure.
    place.client.request(place.client.new_inbox(), "".into()).await.unwrap_err();
    messenger.send((0..100).map(|n| place.message(&n.to_string())).collect()).await.unwrap();
    for n in 0..100 {
        let message = timeout(SOON, subscriber.next()).await.unwrap().unwrap();
        assert_eq!(body(&message), n.to_string());
    }
}

/// Trap N3 of the client library: its own limit of confirms blocks a caller who does not poll them.
#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_batch_larger_than_the_window_is_stored_in_order() {
    let place = Place::new().await;
    let mut settings = place.settings();
    settings.broker.window = 3;
    let messenger = Nats::new(&settings).unwrap();
    let batch = (0..200).map(|n| place.message(&n.to_string())).collect();
    timeout(SOON, messenger.send(batch)).await.expect("it hangs").unwrap();
    let bodies: Vec<_> = place.stored().await.iter().map(|stored| body(stored).to_owned()).collect();
    assert_eq!(bodies, (0..200).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn prefix_and_stream_are_those_of_the_settings() {
    let place = Place::new().await;
    let mut settings: NatsSettings = place.settings().with_expected_stream(&*place.stream);
    settings.broker.topic_prefix = Some(format!("{}.", place.topic));
    settings.broker.send_timeout = Some(Duration::from_secs(5));
    let message = tower_outbox::Message::new("order.created", "x").unwrap();
    Nats::new(&settings).unwrap().send(vec![message.clone()]).await.unwrap();
    let stored = place.stored().await.remove(0);
    assert_eq!(stored.subject.as_str(), format!("{}.order.created", place.topic));
    let other = Nats::new(&settings.with_expected_stream("other")).unwrap();
    let unsent =
        other.send(vec![tower_outbox::Message::new("order.created", "x").unwrap()]).await.unwrap_err();
    let (_, failure) = unsent.into_iter().next().unwrap();
    assert!(!failure.is_transient() && failure.to_string().contains("EXPECTED_STREAM"), "{failure}");
}

/// Without them a source would take its requests for lost.
#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_request_has_heartbeats_while_it_waits_for_whatever_reason() {
    let (old, _folder, _server) = old_server().await;
    for (place, is_new) in [(Place::new().await, true), (old, false)] {
        place.send(&["first", "second"]).await;
        let stream = place.context.get_stream(&place.stream).await.unwrap();
        let config =
            |name: &str| pull::Config { durable_name: Some(name.to_owned()), ..pull::Config::default() };
        let nothing = pull::Config { filter_subject: format!("{}.none", place.topic), ..config("nothing") };
        let held = pull::Config { max_ack_pending: 1, ..config("held") };
        let later = OffsetDateTime::now_utc() + Duration::from_secs(60);
        let paused = pull::Config { pause_until: is_new.then_some(later), ..config("paused") };
        for config in [nothing, held].into_iter().chain(is_new.then_some(paused)) {
            let name = config.durable_name.clone().unwrap();
            stream.create_consumer(config).await.unwrap();
            let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{}.{name}", place.stream);
            let inbox = place.client.new_inbox();
            let mut answers = place.client.subscribe(inbox.clone()).await.unwrap();
            let request = r#"{"batch": 5, "expires": 30000000000, "idle_heartbeat": 200000000}"#;
            place.client.publish_with_reply(subject, inbox, request.into()).await.unwrap();
            if name == "held" {
                assert_eq!(body(&timeout(SOON, answers.next()).await.unwrap().unwrap()), "first");
            }
            for _ in 0..3 {
                let answer = timeout(SOON, answers.next()).await.expect(&name).unwrap();
                assert_eq!(answer.status, Some(StatusCode::IDLE_HEARTBEAT), "{name} {is_new} {answer:?}");
            }
        }
    }
}
