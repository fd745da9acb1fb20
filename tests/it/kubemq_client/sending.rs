//! Sending to queues.

use std::time::{Duration, Instant};

use tonic::Status;
use tower_outbox::kubemq_client::BrokerSettings;
use tower_outbox::messenger::Health;
use tower_outbox::testing::messenger_conformance::{self, MessengerCapabilities, Received};
use tower_outbox::{Failure, Message, Messenger};

use super::imitation::{Act, Imitation};
use super::proxy::Proxy;
use super::{STUCK, message, messenger, numbered, send, settings, source};
use tower_outbox::kubemq_client::{KubemqSettings, KubemqSubscription};
use tower_outbox::source::Source;

fn bodies(server: &Imitation, queue: &str) -> Vec<String> {
    let waiting = server.waiting(queue);
    waiting.iter().map(|message| String::from_utf8(message.body.to_vec()).unwrap()).collect()
}

/// The messages of a queue as they arrive, through our own source.
pub fn inbox(settings: &KubemqSettings, queue: &str) -> impl AsyncFnMut(usize) -> Vec<Received> + use<> {
    let source = source(settings, &KubemqSubscription::new(queue));
    async move |count| {
        let mut received = Vec::new();
        while received.len() < count {
            for delivery in
                tokio::time::timeout(STUCK, source.receive(count - received.len())).await.unwrap().unwrap()
            {
                received.push(Received::from(delivery.view().unwrap().message()));
                delivery.ack().await.unwrap();
            }
        }
        received
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kubemq_conforms_on_the_imitation() {
    let server = Imitation::start().await;
    let capabilities = MessengerCapabilities::default()
        .with_arrival(true)
        .with_any_body(true)
        .with_headers(true)
        .with_closes(true);
    let inbox = inbox(&settings(&server), "order.created");
    messenger_conformance::all(messenger(&settings(&server)), "order.created", capabilities, inbox).await;
}

#[tokio::test]
async fn batches_keep_their_order_although_requests_run_side_by_side() {
    let server = Imitation::start().await;
    let few = KubemqSettings::from(BrokerSettings::new([server.url()]).with_window(7));
    send(&messenger(&few), numbered(0..200)).await;
    let expected: Vec<_> = (0..200).map(|n| n.to_string()).collect();
    assert_eq!(bodies(&server, "order.created"), expected);
}

#[tokio::test]
async fn one_refused_message_does_not_take_its_neighbours_along() {
    let server = Imitation::start().await;
    let settings = settings(&server).with_channel("q");
    let later = message("full");
    let batch = vec![message("a"), later.clone(), message("b")];
    let unsent = messenger(&settings).send(batch).await.unwrap_err();
    let (unsent, failure) = unsent.iter().next().unwrap();
    assert!(unsent.id() == later.id() && failure.is_transient(), "{failure}");
    assert!(failure.to_string().contains("nats: timeout"), "{failure}");
    assert_eq!(bodies(&server, "q"), ["a", "b"]);
}

#[tokio::test]
async fn a_message_that_no_server_takes_is_rejected_at_once() {
    let server = Imitation::start().await;
    let messenger = messenger(&settings(&server));
    let days = Duration::from_secs(3 * 86_400);
    for (odd, why) in [
        (message("x").with_expiry(days), "expiry is above 12 hours"),
        (message("x").with_delay(days), "delay is above 12 hours"),
        (message(&"x".repeat(101 << 20)), "KubeMQ takes"),
    ] {
        let error = messenger.check(&odd).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
        let unsent = messenger.send(vec![odd, message("good")]).await.unwrap_err();
        assert!(unsent.len() == 1 && !unsent.iter().next().unwrap().1.is_transient(), "{unsent}");
    }
    assert_eq!(bodies(&server, "order.created"), ["good", "good", "good"]);
}

#[tokio::test]
async fn a_reply_for_another_request_confirms_nothing() {
    let server = Imitation::start().await;
    let mut settings = settings(&server);
    settings.broker.send_timeout = Some(Duration::from_millis(300));
    let messenger = messenger(&settings);
    server.then([Act::WrongRequest]);
    let unsent = messenger.send(vec![message("a")]).await.unwrap_err();
    assert!(unsent.to_string().contains("SEND_TIMEOUT"), "{unsent}");
    send(&messenger, vec![message("b")]).await;
}

#[tokio::test]
async fn a_late_reply_is_not_that_of_the_next_request() {
    let server = Imitation::start().await;
    let mut settings = settings(&server);
    settings.broker.send_timeout = Some(Duration::from_millis(300));
    let messenger = messenger(&settings);
    server.then([Act::Late(Duration::from_millis(400)), Act::NoResults]);
    let late = messenger.send(vec![message("a")]).await.unwrap_err();
    assert!(late.iter().all(|(_, failure)| failure.is_transient()));
    let none = messenger.send(vec![message("b")]).await.unwrap_err();
    assert!(none.to_string().contains("gave no result for it"), "{none}");
    send(&messenger, vec![message("c")]).await;
}

#[tokio::test]
async fn a_stream_that_ends_is_opened_again() {
    let server = Imitation::start().await;
    let messenger = messenger(&settings(&server));
    send(&messenger, vec![message("a")]).await;
    server.then([Act::End(Status::unavailable("socket closed"))]);
    send(&messenger, vec![message("b")]).await;
    assert_eq!(bodies(&server, "order.created"), ["a", "b"]);
}

/// The server ends the stream over it: its decoder takes 2 MiB.
#[tokio::test]
async fn a_message_over_the_limit_of_the_server_is_rejected_alone() {
    let server = Imitation::start().await;
    let messenger = messenger(&settings(&server));
    let large = message(&"x".repeat(3 << 20));
    let batch = vec![message("a"), large.clone(), message("b")];
    let unsent = messenger.send(batch).await.unwrap_err();
    let found: Vec<_> =
        unsent.iter().map(|(message, failure)| (message.id(), failure.is_transient())).collect();
    assert_eq!(found, [(large.id(), false)], "{unsent}");
    assert_eq!(bodies(&server, "order.created"), ["a", "b"]);
}

#[tokio::test]
async fn the_next_broker_takes_over_when_one_is_gone() {
    let (first, second) = (Imitation::start().await, Imitation::start().await);
    let proxy = Proxy::start(first.address).await;
    let messenger = messenger(&KubemqSettings::new([proxy.url(), second.url()]));
    send(&messenger, numbered(0..10)).await;
    drop(proxy);
    send(&messenger, numbered(10..20)).await;
    assert_eq!(messenger.health().await, Health::Up);
    assert_eq!(
        first.waiting("order.created").len() + second.waiting("order.created").len(),
        20,
        "each message is at one of them"
    );
}

/// Cut over and over while messages are sent.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_confirmed_is_lost_while_connections_are_cut() {
    let server = Imitation::start().await;
    let proxy = Proxy::start(server.address).await;
    let messenger = messenger(&KubemqSettings::new([proxy.url()]));
    let senders: Vec<_> = (0..4)
        .map(|sender| {
            let messenger = messenger.clone();
            tokio::spawn(async move {
                let mut confirmed = Vec::new();
                for n in 0..200 {
                    let batch: Vec<_> = (0..5).map(|m| message(&format!("{sender}-{n}-{m}"))).collect();
                    let bodies: Vec<_> = batch
                        .iter()
                        .map(|message| String::from_utf8(message.body().to_vec()).unwrap())
                        .collect();
                    if messenger.send(batch).await.is_ok() {
                        confirmed.extend(bodies);
                    }
                }
                confirmed
            })
        })
        .collect();
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        proxy.cut();
    }
    let stored: std::collections::HashSet<_> = {
        let mut confirmed = Vec::new();
        for sender in senders {
            confirmed.extend(sender.await.unwrap());
        }
        let stored: std::collections::HashSet<_> = bodies(&server, "order.created").into_iter().collect();
        assert!(confirmed.len() > 100, "{} were confirmed", confirmed.len());
        assert!(confirmed.iter().all(|body| stored.contains(body)), "a confirmed message is missing");
        stored
    };
    assert!(!stored.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_server_is_noticed_within_the_idle_timeout() {
    let server = Imitation::start().await;
    let proxy = Proxy::start(server.address).await;
    let mut settings = KubemqSettings::new([proxy.url()]);
    settings.broker.idle_timeout = Duration::from_secs(1);
    settings.broker.connection_timeout = Some(Duration::from_millis(300));
    let messenger = messenger(&settings);
    send(&messenger, vec![message("a")]).await;
    proxy.freeze(true);
    let begun = Instant::now();
    let unsent = messenger.send(vec![message("b")]).await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(4), "it took {:?}", begun.elapsed());
    assert!(unsent.iter().all(|(_, failure)| failure.is_transient()), "{unsent}");
    proxy.freeze(false);
    send(&messenger, vec![message("c")]).await;
}

#[tokio::test]
async fn a_wrong_token_is_named() {
    let server = Imitation::with_token(Some("secret")).await;
    let unsent = messenger(&settings(&server)).send(vec![message("a")]).await.unwrap_err();
    let text = unsent.to_string();
    assert!(text.contains("check TOKEN and CERTIFICATE") && !text.contains("secret"), "{text}");
    send(&messenger(&settings(&server).with_token("secret")), vec![message("a")]).await;
}

#[tokio::test]
async fn a_message_is_what_others_expect_on_the_wire() {
    let server = Imitation::start().await;
    let mut settings = settings(&server).with_channel("shop.{topic}").with_client_id("orders");
    settings.broker.topic_prefix = Some("eu".to_owned());
    let sent = Message::json("order.created", &7)
        .unwrap()
        .with_header("n", -7)
        .with_key("k")
        .with_delay(Duration::from_millis(1_500))
        .with_expiry(Duration::from_secs(60));
    send(&messenger(&settings), vec![sent.clone()]).await;
    let found = server.waiting("shop.eu.order.created").remove(0);
    assert_eq!((found.message_id, found.client_id.as_str()), (sent.id().to_string(), "orders"));
    assert_eq!((found.metadata.as_str(), &found.body[..]), ("order.created", &b"7"[..]));
    let tags: Vec<_> = found.tags.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(tags[0], ("n", "-7"));
    assert_eq!(found.tags["tower-outbox-topic"], "eu.order.created");
    assert_eq!(found.tags["tower-outbox-types"], r#"{"n":"int"}"#);
    let policy = found.policy.unwrap();
    assert_eq!((policy.delay_seconds, policy.expiration_seconds), (2, 60));
}

#[tokio::test]
async fn a_closed_messenger_sends_nothing() {
    let server = Imitation::start().await;
    let messenger = messenger(&settings(&server));
    send(&messenger, vec![message("a")]).await;
    messenger.close(STUCK).await;
    let unsent = messenger.send(vec![message("b")]).await.unwrap_err();
    assert!(matches!(unsent.iter().next(), Some((_, Failure::Transient(_)))));
}
