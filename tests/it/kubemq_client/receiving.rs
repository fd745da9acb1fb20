//! Receiving from queues.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tower_outbox::kubemq_client::{KubemqSettings, KubemqSubscription};
use tower_outbox::kubemq_wire::{QueueMessage, QueueMessagePolicy, QueuesDownstreamRequestType as Kind};
use tower_outbox::message::Scalar;
use tower_outbox::source::{Source, SourceError};
use tower_outbox::testing::source_conformance::{self, Dead, SourceCapabilities, SourceHarness};

use super::imitation::Imitation;
use super::proxy::Proxy;
use super::{STUCK, body, message, messenger, numbered, receive, receive_one, send, settings, source, until};

const QUEUE: &str = "order.created";

/// The dead letters of a queue, with their reasons.
pub fn dead(messages: &[QueueMessage]) -> Vec<Dead> {
    let reasons = |text: &str| -> Vec<String> {
        let failures: serde_json::Value = serde_json::from_str(text).unwrap();
        failures.as_array().unwrap().iter().map(|it| it["reason"].as_str().unwrap().to_owned()).collect()
    };
    let letter = |message: &QueueMessage| Dead {
        id: message.message_id.parse().unwrap(),
        reasons: reasons(&message.tags["tower-outbox-failures"]),
    };
    messages.iter().map(letter).collect()
}

fn harness(server: Imitation) -> SourceHarness {
    let settings = settings(&server);
    let subscription = KubemqSubscription::new(QUEUE).with_prefetch(256);
    let source = Arc::new(source(&settings, &subscription));
    let letters = move || std::future::ready(dead(&server.waiting("order.created.dead")));
    SourceHarness::new(messenger(&settings), source, QUEUE, letters)
        .with_capabilities(SourceCapabilities::default().with_history(true))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_source_conforms_on_the_imitation() {
    source_conformance::all(async || harness(Imitation::start().await)).await;
}

/// An open transaction with room keeps new messages from all consumers at the real server.
#[tokio::test]
async fn each_transaction_is_full() {
    let server = Imitation::start().await;
    let settings = settings(&server);
    send(&messenger(&settings), numbered(0..5)).await;
    let source = source(&settings, &KubemqSubscription::new(QUEUE));
    let unsettled = receive(&source, 5).await;
    send(&messenger(&settings), numbered(5..6)).await;
    assert_eq!(body(&receive_one(&source).await), "5", "it is not kept by the others");
    let gets = server.asked().into_iter().filter(|(kind, _)| *kind == Kind::Get);
    assert!(gets.map(|(_, items)| items).all(|items| items == 1));
    drop(unsettled);
}

#[tokio::test]
async fn an_acknowledgement_is_confirmed_by_the_request_behind_it() {
    let server = Imitation::start().await;
    let settings = settings(&server);
    send(&messenger(&settings), numbered(0..2)).await;
    let source = source(&settings, &KubemqSubscription::new(QUEUE));
    for delivery in receive(&source, 2).await {
        delivery.ack().await.unwrap();
    }
    // Dropping the connection right after it brings nothing back.
    source.close(STUCK).await;
    drop(source);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(server.waiting(QUEUE).is_empty());
    let kinds: Vec<_> = server.asked().into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(kinds.iter().filter(|kind| **kind == Kind::ActiveOffsets).count(), 2, "{kinds:?}");
}

#[tokio::test]
async fn a_message_of_a_lost_connection_is_stale_and_comes_again() {
    let server = Imitation::start().await;
    let proxy = Proxy::start(server.address).await;
    send(&messenger(&settings(&server)), numbered(0..1)).await;
    let source = source(&KubemqSettings::new([proxy.url()]), &KubemqSubscription::new(QUEUE));
    let lost = receive_one(&source).await;
    proxy.cut();
    let again = receive_one(&source).await;
    assert_eq!(body(&again), "0");
    assert!(lost.is_stale() && !again.is_stale());
    assert!(matches!(lost.ack().await, Err(SourceError::Unavailable(_))));
    again.ack().await.unwrap();
    source.close(STUCK).await;
    assert!(server.waiting(QUEUE).is_empty());
}

/// A server that is stuck counts as lost after IDLE_TIMEOUT.
#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_server_is_noticed_while_receiving() {
    let server = Imitation::start().await;
    let proxy = Proxy::start(server.address).await;
    send(&messenger(&settings(&server)), numbered(0..2)).await;
    let mut settings = KubemqSettings::new([proxy.url()]);
    settings.broker.idle_timeout = Duration::from_secs(1);
    let source = source(&settings, &KubemqSubscription::new(QUEUE));
    let held = receive_one(&source).await;
    proxy.freeze(true);
    let begun = Instant::now();
    until("it is stale", || held.is_stale()).await;
    assert!(begun.elapsed() < Duration::from_secs(4), "it took {:?}", begun.elapsed());
    proxy.cut();
    proxy.freeze(false);
    for delivery in receive(&source, 2).await {
        delivery.ack().await.unwrap();
    }
}

/// The whole queue, while connections are cut: each message is handled, and leaves it.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_while_connections_are_cut() {
    const MESSAGES: usize = 300;
    let server = Imitation::start().await;
    let proxy = Arc::new(Proxy::start(server.address).await);
    send(&messenger(&settings(&server)), numbered(0..MESSAGES as u64)).await;
    let source = source(&KubemqSettings::new([proxy.url()]), &KubemqSubscription::new(QUEUE));
    let cutting = {
        let proxy = Arc::clone(&proxy);
        tokio::spawn(async move {
            for _ in 0..4 {
                tokio::time::sleep(Duration::from_millis(30)).await;
                proxy.cut();
            }
        })
    };
    let (mut acknowledged, mut unknown) = (BTreeSet::new(), BTreeSet::new());
    // The last ones may wait for a new connection.
    while let Ok(received) = tokio::time::timeout(Duration::from_secs(2), source.receive(8)).await {
        for delivery in received.unwrap() {
            let body = body(&delivery);
            assert!(!acknowledged.contains(&body), "an acknowledged message came again");
            match delivery.ack().await {
                Ok(()) => drop(acknowledged.insert(body)),
                Err(_) => drop(unknown.insert(body)),
            }
        }
    }
    cutting.await.unwrap();
    assert_eq!(acknowledged.union(&unknown).count(), MESSAGES);
    source.close(STUCK).await;
    assert!(server.waiting(QUEUE).is_empty());
}

#[tokio::test]
async fn a_message_at_the_last_attempt_of_the_server_becomes_our_dead_letter() {
    let server = Imitation::start().await;
    let put = |id: &str, queue: &str| {
        let policy = QueueMessagePolicy {
            max_receive_count: 2,
            max_receive_queue: queue.to_owned(),
            ..Default::default()
        };
        server.put(QueueMessage {
            message_id: id.to_owned(),
            client_id: "other".to_owned(),
            channel: QUEUE.to_owned(),
            body: "x".into(),
            policy: Some(policy),
            ..Default::default()
        });
    };
    put("0123456789abcdef0001", "");
    let source = source(&settings(&server), &KubemqSubscription::new(QUEUE));
    receive_one(&source).await.retry(Duration::ZERO, "first").await.unwrap();
    let last = receive_one(&source).await;
    assert_eq!(last.view().unwrap().attempt(), 2);
    last.retry(Duration::ZERO, "second").await.unwrap();
    let letters = server.waiting("order.created.dead");
    assert!(letters[0].tags["tower-outbox-reason"].contains("MaxReceiveCount"), "{letters:?}");
    // A queue that its publisher has named gets it.
    put("0123456789abcdef0002", "theirs");
    for _ in 0..2 {
        receive_one(&source).await.retry(Duration::ZERO, "again").await.unwrap();
    }
    until("it is moved", || server.waiting("theirs").len() == 1).await;
}

#[tokio::test]
async fn a_message_of_another_client_is_read() {
    let server = Imitation::start().await;
    let tags =
        [("color", "red"), ("tower-outbox-attempt", "99"), ("tower-outbox-types", "{\"color\":\"int\"}")];
    let foreign = |id: &str| QueueMessage {
        message_id: id.to_owned(),
        client_id: "python".to_owned(),
        channel: QUEUE.to_owned(),
        metadata: "some-metadata".to_owned(),
        body: "hello".into(),
        tags: tags.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        ..Default::default()
    };
    server.put(foreign("7"));
    server.put(foreign("7"));
    let subscription = KubemqSubscription::new(QUEUE).with_content_type("text/plain");
    let source = source(&settings(&server), &subscription);
    let received = receive(&source, 2).await;
    let view = received[0].view().unwrap();
    let message = view.message();
    assert_eq!((message.topic().as_str(), message.content_type()), (QUEUE, "text/plain"));
    assert_eq!(message.header("metadata"), Some(&Scalar::from("some-metadata")));
    assert_eq!(message.header("color"), Some(&Scalar::from("red")));
    assert_eq!((view.attempt(), message.header("tower-outbox-attempt")), (1, None));
    // The ids of old clients are counters that begin again.
    assert_ne!(message.id(), received[1].view().unwrap().message().id());
}

#[tokio::test]
async fn many_unsettled_messages_share_streams() {
    let server = Imitation::start().await;
    let settings = settings(&server);
    send(&messenger(&settings), numbered(0..300)).await;
    let source = source(&settings, &KubemqSubscription::new(QUEUE).with_prefetch(300));
    let received = receive(&source, 300).await;
    let expected: Vec<_> = (0..300).map(|n| n.to_string()).collect();
    assert_eq!(received.iter().map(body).collect::<Vec<_>>(), expected);
    let acks = received.into_iter().map(|delivery| tokio::spawn(delivery.ack()));
    for ack in acks.collect::<Vec<_>>() {
        ack.await.unwrap().unwrap();
    }
    assert!(server.waiting(QUEUE).is_empty());
}

#[tokio::test]
async fn no_more_bytes_are_fetched_than_allowed() {
    let server = Imitation::start().await;
    let settings = settings(&server);
    for n in 0..6 {
        send(&messenger(&settings), vec![message(&n.to_string().repeat(400 << 10))]).await;
    }
    let source = source(&settings, &KubemqSubscription::new(QUEUE).with_prefetch_bytes(1 << 20));
    let held = receive(&source, 2).await;
    assert!(tokio::time::timeout(Duration::from_millis(300), source.receive(1)).await.is_err());
    assert!(server.waiting(QUEUE).len() >= 3, "one may wait in memory");
    for delivery in held {
        delivery.ack().await.unwrap();
    }
    assert_eq!(receive(&source, 2).await.len(), 2);
}

#[tokio::test]
async fn a_paused_source_gives_back_what_it_fetched() {
    let server = Imitation::start().await;
    let settings = settings(&server);
    let source = source(&settings, &KubemqSubscription::new(QUEUE));
    send(&messenger(&settings), numbered(0..20)).await;
    let first = receive_one(&source).await;
    source.pause().await;
    until("they are back", || server.waiting(QUEUE).len() == 19).await;
    first.ack().await.unwrap();
    assert_eq!(body(&receive_one(&source).await), "1");
}

#[tokio::test]
async fn a_delayed_retry_is_counted_when_the_source_closes() {
    let server = Imitation::start().await;
    let settings = settings(&server);
    let source = source(&settings, &KubemqSubscription::new(QUEUE));
    send(&messenger(&settings), numbered(0..1)).await;
    receive_one(&source).await.retry(Duration::from_secs(3_600), "not yet").await.unwrap();
    source.close(STUCK).await;
    let waiting = server.waiting(QUEUE);
    assert_eq!(waiting[0].attributes.as_ref().unwrap().receive_count, 1);
}

#[tokio::test]
async fn a_wrong_token_is_an_error_of_receive() {
    let server = Imitation::with_token(Some("secret")).await;
    let source = source(&settings(&server), &KubemqSubscription::new(QUEUE));
    let error = source.receive(1).await.unwrap_err();
    assert!(format!("{error:?}").contains("check TOKEN and CERTIFICATE"), "{error:?}");
}
