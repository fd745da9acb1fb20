//! The end of a message, by its answer.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldArray};
use tower_outbox::amqp091::{Amqp091Source, Amqp091Subscription};
use tower_outbox::message::{Scalar, headers};
use tower_outbox::source::Source;

use super::{Queue, body, header, message_of, nothing, one, some, table, text};
use crate::peers::{Brokers, numbered};
use crate::support::logs;

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn an_acknowledged_message_is_removed() {
    let brokers = Brokers::running();
    let queue = Queue::new(&brokers).await;
    let source = queue.source(&queue.subscription()).await;
    queue.send(vec![queue.message("a"), queue.message("b")]).await;
    for text in ["a", "b"] {
        let delivery = one(&source).await;
        assert_eq!(body(&delivery), text);
        let view = delivery.view().unwrap();
        assert_eq!((view.attempt(), view.redelivered(), view.source()), (1, false, &*queue.name));
        delivery.ack().await.unwrap();
    }
    nothing(&source).await;
    source.close(Duration::from_secs(5)).await;
    assert_eq!(queue.look(&queue.name).await, Some((0, 0)));
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_retry_comes_after_its_delay_and_others_pass_meanwhile() {
    let brokers = Brokers::running();
    let queue = Queue::new(&brokers).await;
    // The place of the one that fails is taken until its retry queue is written down.
    let source = queue.source(&queue.subscription().with_prefetch(2)).await;
    // Its expiry does not bring it back early, and travels on.
    let fails = queue.message("fails").with_expiry(Duration::from_millis(700));
    queue.send(vec![fails.clone(), queue.message("passes")]).await;
    let begun = Instant::now();
    one(&source).await.retry(Duration::from_millis(1_000), "not now").await.unwrap();
    let delivery = one(&source).await;
    assert_eq!(body(&delivery), "passes");
    assert!(begun.elapsed() < Duration::from_millis(900), "{:?}", begun.elapsed());
    delivery.ack().await.unwrap();
    let delivery = one(&source).await;
    assert!(begun.elapsed() >= Duration::from_millis(1_000), "{:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_millis(3_000), "{:?}", begun.elapsed());
    let view = delivery.view().unwrap();
    assert_eq!((body(&delivery), view.attempt(), view.failures().len()), ("fails", 2, 1));
    assert_eq!(view.failures()[0].reason.as_ref(), "not now");
    assert_eq!(view.message().expiry(), fails.expiry());
    delivery.ack().await.unwrap();
    nothing(&source).await;
}

/// One queue for each delay: a long one is not in the way of a short one.
#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_short_delay_does_not_wait_for_a_long_one() {
    let brokers = Brokers::running();
    let queue = Queue::new(&brokers).await;
    let source = queue.source(&queue.subscription()).await;
    queue.send(vec![queue.message("long"), queue.message("short")]).await;
    one(&source).await.retry(Duration::from_secs(3_000), "later").await.unwrap();
    one(&source).await.retry(Duration::from_millis(90), "soon").await.unwrap();
    assert_eq!(body(&one(&source).await), "short");
    assert_eq!(queue.look(&queue.retry(5_000_000)).await, Some((1, 0)));
    queue.delete(&queue.retry(5_000_000)).await;
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn what_is_rejected_is_a_dead_letter_with_its_history() {
    let brokers = Brokers::running();
    let queue = Queue::new(&brokers).await;
    let source = queue.source(&queue.subscription()).await;
    let sent = queue.message("x").with_header("tenant", "acme").with_key("k");
    let sent = sent.with_expiry(Duration::from_secs(60)).with_priority(3);
    queue.send(vec![sent.clone()]).await;
    one(&source).await.retry(Duration::ZERO, "first").await.unwrap();
    one(&source).await.retry(Duration::ZERO, "second").await.unwrap();
    let delivery = one(&source).await;
    assert_eq!(delivery.view().unwrap().attempt(), 3);
    let names = |message: &tower_outbox::Message| -> Vec<_> {
        message.headers().map(|(name, _)| name.to_owned()).collect()
    };
    assert_eq!(names(message_of(&delivery)), ["tenant"]);
    delivery.reject("no more").await.unwrap();
    nothing(&source).await;

    let dead = Amqp091Source::new(&queue.settings(), &Amqp091Subscription::new(queue.dead())).unwrap();
    let delivery = one(&dead).await;
    let view = delivery.view().unwrap();
    let reasons: Vec<_> = view.failures().iter().map(|failure| failure.reason.as_ref()).collect();
    assert_eq!((view.attempt(), reasons), (4, vec!["first", "second", "no more"]));
    let message = view.message();
    assert_eq!((message.id(), message.topic(), message.key()), (sent.id(), sent.topic(), Some("k")));
    assert_eq!((message.expiry(), message.priority()), (sent.expiry(), sent.priority()));
    assert_eq!(message.header(headers::REASON), Some(&Scalar::from("no more")));
    assert_eq!(message.header("tenant"), Some(&Scalar::from("acme")));
    delivery.reject("it stays").await.unwrap();
    let raw = queue.take(&format!("{}.dead", queue.dead())).await;
    assert_eq!(header(&raw, headers::ATTEMPT), Some(&AMQPValue::LongInt(4)));
    assert_eq!(header(&raw, headers::TOPIC), Some(&text(&queue.topic)));
    assert_eq!(header(&raw, headers::QUEUE), Some(&text(&queue.dead())));
    assert_eq!(*raw.properties.expiration(), None);
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_dropped_delivery_comes_again_without_an_attempt() {
    let brokers = Brokers::running();
    let queue = Queue::new(&brokers).await;
    let source = queue.source(&queue.subscription()).await;
    queue.send(vec![queue.message("x")]).await;
    for round in 0..3 {
        let delivery = one(&source).await;
        let view = delivery.view().unwrap();
        assert_eq!((view.attempt(), view.redelivered(), view.failures().len()), (1, round > 0, 0));
    }
    // The future of an answer, dropped before it began.
    drop(one(&source).await.ack());
    one(&source).await.ack().await.unwrap();
    nothing(&source).await;
}

/// A retry whose caller goes away goes on.
#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_retry_that_is_dropped_half_way_is_neither_lost_nor_doubled() {
    let brokers = Brokers::running();
    let queue = Queue::new(&brokers).await;
    let source = queue.source(&queue.subscription()).await;
    queue.send(numbered(&queue.topic, 20)).await;
    let mut came = 0;
    for polls in 0..20 {
        let retry = one(&source).await.retry(Duration::ZERO, "again");
        crate::support::fuse::fuse(polls, retry).await;
        came += 1;
    }
    let mut again = 0;
    while again < 20 {
        let delivery = one(&source).await;
        delivery.ack().await.unwrap();
        again += 1;
    }
    assert_eq!((came, again), (20, 20));
    nothing(&source).await;
}

/// RabbitMQ takes it for a cycle, and drops it, if the header says that it expired in the queue it goes back to.
#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn what_once_expired_in_the_queue_comes_back_from_its_retry() {
    let brokers = Brokers::running();
    let queue = Queue::new(&brokers).await;
    let source = queue.source(&queue.subscription()).await;
    let death = |name: &str| {
        AMQPValue::FieldTable(table([
            ("queue", text(name)),
            ("reason", text("expired")),
            ("count", AMQPValue::LongLongInt(1)),
            ("exchange", text("")),
            ("routing-keys", AMQPValue::FieldArray(FieldArray::from(vec![text(name)]))),
        ]))
    };
    let deaths = AMQPValue::FieldArray(FieldArray::from(vec![death(&queue.name), death("another")]));
    let properties = BasicProperties::default().with_headers(table([("x-death", deaths)]));
    queue.publish("", &queue.name, properties.with_expiration("60000".into()), b"x").await;
    let delivery = one(&source).await;
    let id = message_of(&delivery).id();
    assert_eq!(message_of(&delivery).headers().len(), 0);
    delivery.retry(Duration::from_millis(100), "again").await.unwrap();
    let delivery = one(&source).await;
    assert_eq!((delivery.view().unwrap().attempt(), message_of(&delivery).id()), (2, id));
    assert_eq!(message_of(&delivery).expiry(), Some(Duration::from_secs(60)));
    delivery.ack().await.unwrap();
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_deleted_retry_or_dead_letter_queue_is_made_again() {
    let brokers = Brokers::running();
    let queue = Queue::new(&brokers).await;
    let source = queue.source(&queue.subscription()).await;
    queue.send(vec![queue.message("x")]).await;
    let mut delivery = one(&source).await;
    for _ in 0..2 {
        delivery.retry(Duration::from_millis(50), "again").await.unwrap();
        delivery = one(&source).await;
        queue.delete(&queue.retry(50)).await;
    }
    delivery.ack().await.unwrap();
    queue.send(vec![queue.message("x")]).await;
    for _ in 0..2 {
        one(&source).await.reject("no more").await.unwrap();
        queue.take(&queue.dead()).await;
        queue.delete(&queue.dead()).await;
        queue.send(vec![queue.message("x")]).await;
    }
    one(&source).await.ack().await.unwrap();
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn many_are_retried_and_rejected_at_once() {
    let brokers = Brokers::running();
    let queue = Queue::new(&brokers).await;
    let source = queue.source(&queue.subscription().with_prefetch(1_000)).await;
    queue.send(numbered(&queue.topic, 1_000)).await;
    let (mut answers, mut rejected) = (Vec::new(), 0);
    while answers.len() < 1_000 {
        answers.extend(some(&source, 1_000).await);
    }
    let answers = answers.into_iter().enumerate().map(|(n, delivery)| async move {
        match n % 4 {
            0 => delivery.reject("no more").await,
            n => delivery.retry(Duration::from_millis(10 * n as u64), "again").await,
        }
    });
    assert!(join_all(answers).await.iter().all(Result::is_ok));
    queue.until_ready(&queue.dead(), 250).await;
    while rejected < 750 {
        for delivery in some(&source, 1_000).await {
            assert_eq!(delivery.view().unwrap().attempt(), 2);
            delivery.ack().await.unwrap();
            rejected += 1;
        }
    }
    nothing(&source).await;
}

/// Nobody may write there: the answer fails, somebody is told, and the message is not lost.
#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn without_a_place_for_dead_letters_the_message_comes_again() {
    let logs = logs::listen();
    let brokers = Brokers::running();
    let queue = Queue::new(&brokers).await;
    let mut subscription = queue.subscription();
    subscription.dead_letter_exchange = Some("nosuch".to_owned());
    let source = queue.source(&subscription).await;
    queue.send(vec![queue.message("x")]).await;
    let begun = Instant::now();
    let error = one(&source).await.reject("no more").await.unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("nosuch") && cause.contains("NOT_FOUND"), "{cause}");
    assert!(begun.elapsed() > Duration::from_millis(900), "no hot loop: {:?}", begun.elapsed());
    assert_eq!(logs.alarms(&queue.name).len(), 1);

    let mut subscription = queue.subscription();
    subscription.dead_letter_exchange = Some("amq.direct".to_owned());
    source.close(Duration::from_secs(5)).await;
    let source = queue.source(&subscription).await;
    let delivery = one(&source).await;
    assert!(delivery.view().unwrap().redelivered());
    let error = delivery.reject("no more").await.unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("NO_ROUTE") && cause.contains(".dead"), "{cause}");
    one(&source).await.ack().await.unwrap();
}
