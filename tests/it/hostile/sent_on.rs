//! A message that is retried or given up is sent on, whatever its headers hold.

use std::time::Duration;

use axum::Router;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, DecimalValue, FieldArray, FieldTable};
use tower_outbox::Consumer;
use tower_outbox::amqp091::Amqp091Source;
use tower_outbox::consumer::ConsumerSettings;
use tower_outbox::message::{Scalar, headers};
use tower_outbox::source::Source;
use tracing::Level;

use crate::amqp091::receiving::{Queue, body, header, message_of, nothing, one, table, text};
use crate::peers::{Brokers, numbered, unique};
use crate::support::logs;

fn array<const N: usize>(values: [AMQPValue; N]) -> AMQPValue {
    AMQPValue::FieldArray(FieldArray::from(Vec::from(values)))
}

/// Headers of about this many bytes.
fn large(bytes: usize) -> FieldTable {
    let part = |share: usize| text(&"x".repeat(bytes * share / 10));
    table([("mine", text("stays")), ("half", part(5)), ("third", part(3)), ("fifth", part(2))])
}

/// A frame of RabbitMQ has 131,072 bytes.
#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn headers_that_leave_no_room_for_ours_are_left_out_the_largest_first() {
    let brokers = Brokers::running();
    let queue = Queue::new(&brokers).await;
    let source = queue.source(&queue.subscription()).await;
    let properties = BasicProperties::default().with_headers(large(130_850));
    queue.publish("amq.topic", &queue.topic, properties, b"large").await;
    one(&source).await.retry(Duration::ZERO, "not now").await.unwrap();
    for attempt in 2..=13 {
        let delivery = one(&source).await;
        let view = delivery.view().unwrap();
        assert_eq!((view.attempt(), body(&delivery)), (attempt, "large"));
        let message = message_of(&delivery);
        assert_eq!(message.header("mine"), Some(&Scalar::from("stays")));
        assert_eq!(message.header("third").unwrap().to_string().len(), 39_255);
        assert_eq!(message.header(headers::LEFT_OUT), Some(&Scalar::from("half")));
        delivery.retry(Duration::ZERO, "not now ".repeat(1_000)).await.unwrap();
    }
    one(&source).await.reject("no more ".repeat(1_000)).await.unwrap();
    let dead = queue.take(&queue.dead()).await;
    assert_eq!((&dead.data[..], header(&dead, headers::LEFT_OUT)), (&b"large"[..], Some(&text("half"))));
    assert_eq!(header(&dead, headers::ATTEMPT), Some(&AMQPValue::LongInt(14)));
    assert!(header(&dead, headers::REASON).is_some());
}

/// Anyone may have chosen the name of a header.
#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn the_name_of_a_header_that_is_left_out_does_not_write_lines_into_the_log() {
    let brokers = Brokers::running();
    let queue = Queue::new(&brokers).await;
    let source = queue.source(&queue.subscription()).await;
    let log = logs::listen();
    let headers = table([("a\nERROR forged \u{1b}[2J", text(&"x".repeat(130_000)))]);
    queue.publish("amq.topic", &queue.topic, BasicProperties::default().with_headers(headers), b"x").await;
    one(&source).await.reject("no more").await.unwrap();
    queue.take(&queue.dead()).await;
    let said = log.find(Level::WARN, &["queue", "headers"]);
    assert!(said.iter().any(|event| event.get("headers").contains("forged")), "{said:?}");
    assert!(said.iter().all(|event| !event.to_string().contains(['\n', '\u{1b}'])), "{said:?}");
}

/// One of them alone, or very many.
#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn what_fills_a_frame_becomes_a_dead_letter_with_its_reason() {
    let brokers = Brokers::running();
    let queue = Queue::new(&brokers).await;
    let source = queue.source(&queue.subscription()).await;
    let one_header = table([("all", text(&"x".repeat(130_950)))]);
    let mut many = FieldTable::default();
    for number in 0..7_250 {
        many.insert(format!("number {number:05}").into(), AMQPValue::LongInt(number));
    }
    for headers in [one_header, many] {
        let properties = BasicProperties::default().with_headers(headers).with_type("kept".into());
        queue.publish("amq.topic", &queue.topic, properties, b"large").await;
        one(&source).await.reject("no more").await.unwrap();
        let dead = queue.take(&queue.dead()).await;
        assert_eq!(
            (&dead.data[..], dead.properties.kind().as_ref().unwrap().as_str()),
            (&b"large"[..], "kept")
        );
        assert_eq!(header(&dead, headers::REASON), Some(&text("no more")));
        assert!(header(&dead, headers::LEFT_OUT).is_some());
    }
    nothing(&source).await;
}

/// RabbitMQ acts on some headers, and its queues crash over the form of others.
#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn headers_that_a_broker_acts_on_neither_stop_nor_copy_a_message() {
    let brokers = Brokers::running();
    let queue = Queue::new(&brokers).await;
    let source = queue.source(&queue.subscription()).await;
    let copies = unique("copies");
    queue.declare(&copies, FieldTable::default()).await;
    let death = |queue: AMQPValue, count: AMQPValue| {
        AMQPValue::FieldTable(table([
            ("queue", queue),
            ("reason", text("expired")),
            ("count", count),
            ("exchange", text("")),
            ("routing-keys", array([text("x")])),
        ]))
    };
    let number = AMQPValue::LongInt(7);
    let odd = [
        ("x-death", array([text("odd")])),
        ("x-death", text("odd")),
        ("x-death", array([AMQPValue::FieldTable(FieldTable::default())])),
        ("x-death", array([death(text(&queue.name), AMQPValue::LongLongInt(1))])),
        ("x-death", array([death(number.clone(), text("odd"))])),
        ("x-death", array([death(text(&format!("{}.retry.1", queue.name)), text("odd"))])),
        ("x-first-death-queue", number.clone()),
        ("x-last-death-reason", array([])),
        ("x-delivery-count", text("odd")),
        ("x-acquired-count", AMQPValue::LongLongInt(i64::MAX)),
        ("x-invalid-headers", number.clone()),
        ("x-received-from", text("odd")),
        ("x-shovelled", text("odd")),
        ("x-delay", text("odd")),
        ("x-amqp-1.0-message-annotations", text("odd")),
        ("tower-outbox-failures", array([number.clone()])),
        ("tower-outbox-attempt", AMQPValue::LongLongInt(-1)),
        ("decimal", AMQPValue::DecimalValue(DecimalValue { scale: 255, value: u32::MAX })),
        ("", number.clone()),
    ];
    let copied = [("CC", array([text(&copies)])), ("BCC", array([text(&copies)]))];
    for (name, value) in odd.into_iter().chain(copied) {
        let properties = BasicProperties::default()
            .with_headers(table([(name, value.clone())]))
            .with_user_id("guest".into())
            .with_expiration("600000".into())
            .with_priority(255)
            .with_timestamp(1);
        queue.publish("amq.topic", &queue.topic, properties, b"odd").await;
        let delivery = one(&source).await;
        if delivery.view().is_ok() {
            delivery.retry(Duration::ZERO, "not now").await.expect(name);
            let delivery = one(&source).await;
            assert_eq!(delivery.view().unwrap().attempt(), 2, "{name}: {value:?}");
            delivery.reject("no more").await.expect(name);
        } else {
            delivery.reject("unreadable").await.expect(name);
        }
        let dead = queue.take(&queue.dead()).await;
        assert_eq!(dead.data, b"odd", "{name}: {value:?}");
    }
    assert_eq!(queue.look(&copies).await.unwrap().0, 0);
    nothing(&source).await;
    queue.delete(&copies).await;
}

fn quorum<const N: usize>(others: [(&str, AMQPValue); N]) -> FieldTable {
    let mut arguments = table(others);
    arguments.insert("x-queue-type".into(), text("quorum"));
    arguments
}

/// It ends with its connection, and answers nothing.
#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_message_that_ends_each_consumer_is_a_dead_letter_after_its_attempts() {
    let brokers = Brokers::running();
    let queue = Queue::new(&brokers).await;
    queue.declare(&queue.name, quorum([])).await;
    let subscription = queue.subscription().with_prefetch(1);
    let source = queue.source(&subscription).await;
    source.close(Duration::from_secs(5)).await;
    queue.publish("amq.topic", &queue.topic, BasicProperties::default(), b"poison").await;
    let source = || Amqp091Source::new(&queue.settings(), &subscription).unwrap();
    for attempt in 1..=3 {
        let source = source();
        let delivery = one(&source).await;
        assert_eq!(delivery.view().unwrap().attempt(), attempt);
        source.close(Duration::from_secs(5)).await;
        drop(delivery);
    }
    let app: Router = Router::new().fallback(async || http::StatusCode::NO_CONTENT);
    let consumer =
        Consumer::new(source(), app).with_settings(ConsumerSettings::default().with_max_attempts(3));
    let dead = async { queue.until_ready(&queue.dead(), 1).await };
    consumer.with_graceful_shutdown(dead, Duration::from_secs(5)).await;
    let dead = queue.take(&queue.dead()).await;
    let AMQPValue::LongString(reason) = header(&dead, headers::REASON).unwrap() else { panic!() };
    assert!(!reason.to_string().contains("panic"), "{reason}");
    queue.delete(&queue.name).await;
}

/// RabbitMQ drops what was handed back too often.
#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_pause_counts_against_no_message() {
    let brokers = Brokers::running();
    let queue = Queue::new(&brokers).await;
    queue.declare(&queue.name, quorum([("x-delivery-limit", AMQPValue::LongInt(3))])).await;
    let source = queue.source(&queue.subscription()).await;
    queue.send(numbered(&queue.topic, 50)).await;
    for seq in 0..8 {
        queue.until_ready(&queue.name, 0).await;
        let delivery = one(&source).await;
        assert_eq!(body(&delivery), format!("{{\"seq\":{seq}}}"));
        delivery.ack().await.unwrap();
        source.pause().await;
    }
    for seq in 8..50 {
        let delivery = one(&source).await;
        assert_eq!(
            (body(&delivery), delivery.view().unwrap().attempt()),
            (&*format!("{{\"seq\":{seq}}}"), 1)
        );
        delivery.ack().await.unwrap();
    }
    queue.send(numbered(&queue.topic, 1)).await;
    one(&source).await.ack().await.unwrap();
    queue.delete(&queue.name).await;
}

/// Nothing that travels with it says so, and a queue that is no quorum queue counts nothing.
#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn attempts_that_cannot_be_noted_in_a_message_are_counted() {
    let brokers = Brokers::running();
    let queue = Queue::new(&brokers).await;
    // Not the one that ours would be.
    let odd = format!("{}.retry.quorum.1", queue.name);
    queue.declare(&odd, FieldTable::default()).await;
    let source = queue.source(&queue.subscription()).await;
    queue.send(numbered(&queue.topic, 2)).await;
    let (first, other) = (one(&source).await, one(&source).await);
    let mut failing = first;
    for attempt in 1..=3 {
        assert_eq!((body(&failing), failing.view().unwrap().attempt()), (r#"{"seq":0}"#, attempt));
        failing.retry(Duration::ZERO, "not now").await.unwrap_err();
        failing = one(&source).await;
    }
    let last = failing;
    assert_eq!(last.view().unwrap().attempt(), 4);
    last.reject("no more").await.unwrap();
    let dead = queue.take(&queue.dead()).await;
    assert_eq!(header(&dead, headers::ATTEMPT), Some(&AMQPValue::LongInt(4)));
    assert_eq!(other.view().unwrap().attempt(), 1);
    other.ack().await.unwrap();
    queue.delete(&odd).await;
}
