//! Messages that RabbitMQ refuses, returns or does not take, one by one.

use std::sync::Arc;

use tower_outbox::amqp091::{Amqp091, Amqp091Settings};
use tower_outbox::{Message, Messenger, Unsent};

use crate::peers::{Brokers, RabbitQueue, numbered, sequence, unique};

/// The failure kinds and the text of what came back.
fn failures(result: Result<(), Unsent>) -> Vec<(&'static str, String)> {
    let unsent = result.expect_err("something came back");
    unsent.iter().map(|(_, failure)| (failure.kind(), failure.to_string())).collect()
}

fn settings(brokers: &Brokers) -> Amqp091Settings {
    Amqp091Settings::new([brokers.get("RABBIT1_AMQP")])
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn without_the_exchange_it_is_rejected() {
    let brokers = Brokers::running();
    let mut settings = settings(&brokers);
    settings.exchange = Some("nosuch".to_owned());
    let messenger = Amqp091::new(&settings).unwrap();
    // Often, as the channel may close between any two of a batch.
    for _ in 0..50 {
        let failures = failures(messenger.send(numbered("a", 20)).await);
        assert_eq!(failures.len(), 20);
        for (kind, text) in failures {
            assert!(
                kind == "rejected"
                    && text.contains("no exchange 'nosuch'")
                    && text.contains("check EXCHANGE"),
                "{text}"
            );
        }
    }
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_writer_without_the_right_is_rejected() {
    let brokers = Brokers::running();
    let settings = Amqp091Settings::new([brokers.get("RABBIT1_AMQP").replace("://", "://limited:limited@")]);
    for (kind, text) in failures(Amqp091::new(&settings).unwrap().send(numbered("a", 3)).await) {
        assert!(kind == "rejected" && text.contains("ACCESS_REFUSED"), "{text}");
    }
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn unroutable_is_rejected_only_if_asked_for() {
    let brokers = Brokers::running();
    let topic = unique("unbound");
    let queue = RabbitQueue::declare(&brokers, "RABBIT1_AMQP", &format!("{topic}.bound")).await;
    let mut settings = settings(&brokers);
    Amqp091::new(&settings).unwrap().send(numbered(&topic, 2)).await.unwrap();
    settings.mandatory = true;
    let batch =
        [numbered(&format!("{topic}.bound"), 2), numbered(&topic, 2), numbered(&format!("{topic}.bound"), 1)]
            .concat();
    let failures = failures(Amqp091::new(&settings).unwrap().send(batch).await);
    assert_eq!(failures.len(), 2);
    for (kind, text) in failures {
        assert!(kind == "rejected" && text.contains("NO_ROUTE") && text.contains(&topic), "{text}");
    }
    assert_eq!(sequence(&queue.drain().await), [0, 1, 0]);
}

/// Each message gets its own confirm or return when many threads publish over one connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "needs brokers: ./scripts/test"]
async fn of_many_sends_at_once_just_the_unroutable_are_rejected() {
    let brokers = Brokers::running();
    let topic = unique("mixed");
    let queue = RabbitQueue::declare(&brokers, "RABBIT1_AMQP", &format!("{topic}.bound")).await;
    let mut settings = settings(&brokers);
    settings.mandatory = true;
    let messenger = Arc::new(Amqp091::new(&settings).unwrap());
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..8 {
        let (messenger, topic) = (Arc::clone(&messenger), topic.clone());
        tasks.spawn(async move {
            for round in 0..40 {
                let name = |bound| format!("{topic}.{}", if bound { "bound" } else { "unbound" });
                let batch: Vec<Message> =
                    (0..5).flat_map(|n| numbered(&name((task + round + n) % 3 != 0), 1)).collect();
                let unbound = batch.iter().filter(|message| message.topic().as_str().ends_with("unbound"));
                let unbound: Vec<_> = unbound.map(Message::id).collect();
                let unsent = messenger.send(batch).await.err().unwrap_or_default();
                let rejected: Vec<_> = unsent.iter().map(|(message, _)| message.id()).collect();
                assert_eq!(rejected, unbound);
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    queue.drain().await;
}

/// A confirmed message is there: a nack is given to the message it is meant for, whoever else publishes.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "needs brokers: ./scripts/test"]
async fn of_many_sends_at_once_just_what_a_full_queue_refuses_comes_back() {
    let brokers = Brokers::running();
    let topic = unique("mixed");
    let full = RabbitQueue::declare_limited(&brokers, "RABBIT1_AMQP", &format!("{topic}.full"), 1).await;
    let messenger = Arc::new(Amqp091::new(&settings(&brokers)).unwrap());
    messenger.send(numbered(&format!("{topic}.full"), 1)).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..16 {
        let (messenger, topic) = (Arc::clone(&messenger), topic.clone());
        tasks.spawn(async move {
            for _ in 0..500 {
                let name = if task % 2 == 0 { "full" } else { "free" };
                let sent = messenger.send(numbered(&format!("{topic}.{name}"), 1)).await;
                assert_eq!(sent.is_err(), task % 2 == 0, "{name}: {sent:?}");
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    assert_eq!(full.drain().await.len(), 1);
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_full_queue_is_a_transient_failure() {
    let brokers = Brokers::running();
    let topic = unique("full");
    let queue = RabbitQueue::declare_limited(&brokers, "RABBIT1_AMQP", &topic, 2).await;
    let failures = failures(Amqp091::new(&settings(&brokers)).unwrap().send(numbered(&topic, 5)).await);
    assert_eq!(failures.len(), 3);
    for (kind, text) in failures {
        assert!(kind == "transient" && text.contains("basic.nack"), "{text}");
    }
    assert_eq!(sequence(&queue.drain().await), [0, 1]);
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_refused_connection_reports_the_reason() {
    let brokers = Brokers::running();
    let plain = brokers.get("RABBIT1_AMQP");
    let tls = |certificate: &str, ca: &str| {
        let mut settings = Amqp091Settings::new([brokers.get("RABBIT1_AMQPS")]);
        settings.broker.certificate = Some(brokers.certificate(certificate));
        settings.broker.cacert = Some(brokers.certificate(ca));
        settings
    };
    for (settings, text) in [
        (Amqp091Settings::new([plain.replace("://", "://guest:geheim@")]), "check user and password"),
        (Amqp091Settings::new([format!("{plain}/nosuch")]), "vhost"),
        (tls("client-unknown.pem", "ca.pem"), "SASL EXTERNAL"),
        (tls("foreign-client.pem", "ca.pem"), "does not trust our client certificate"),
        (tls("client.pem", "foreign-ca.pem"), "not signed by a CA we trust"),
    ] {
        let unsent = Amqp091::new(&settings).unwrap().send(numbered("a", 1)).await.unwrap_err().to_string();
        assert!(unsent.contains(text) && !unsent.contains("geheim"), "{text}: {unsent}");
    }
}
