//! Headers only we may set are not believed from a stranger.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::routing::post;
use http::HeaderMap;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldArray, FieldTable};
use tower_outbox::amqp091::{Amqp091Source, Amqp091Subscription};
use tower_outbox::message::{Scalar, headers};
use tower_outbox::{Consumer, Delivery};

use crate::amqp091::receiving::{Queue, body, consuming, header, message_of, one, table, text};
use crate::peers::Brokers;

const FAILURES: &str = r#"[{"at":"2026-01-01T00:00:00.000Z","reason":"invented"}]"#;

/// The claims of a stranger on the next message in `queue`.
fn forged(queue: &str) -> FieldTable {
    let death = table([
        ("queue", text(&format!("{queue}.retry.1000"))),
        ("reason", text("expired")),
        ("count", AMQPValue::LongLongInt(1)),
        ("exchange", text("")),
        ("routing-keys", AMQPValue::FieldArray(FieldArray::from(vec![text("x")]))),
    ]);
    table([
        (headers::TOPIC, text("admin.delete_all")),
        (headers::ATTEMPT, AMQPValue::LongInt(999_999)),
        (headers::FAILURES, text(FAILURES)),
        (headers::QUEUE, text("secret.commands")),
        (headers::EXPIRY, text("1")),
        (headers::REASON, text("invented")),
        ("redelivery_count", AMQPValue::LongInt(999_999)),
        ("x-delivery-count", AMQPValue::LongInt(999_999)),
        ("x-acquired-count", AMQPValue::LongInt(999_999)),
        ("x-death", AMQPValue::FieldArray(FieldArray::from(vec![AMQPValue::FieldTable(death)]))),
        ("mine", text("stays")),
    ])
}

fn names(delivery: &tower_outbox::source::Unsettled) -> Vec<&str> {
    message_of(delivery).headers().map(|(name, _)| name).collect()
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_message_is_of_the_topic_the_broker_let_its_publisher_write_to() {
    let brokers = Brokers::running();
    let queue = Queue::new(&brokers).await;
    let source = queue.source(&queue.subscription()).await;
    let properties = BasicProperties::default().with_headers(forged(&queue.name));
    queue.publish("amq.topic", &queue.topic, properties, b"x").await;
    let delivery = one(&source).await;
    let view = delivery.view().unwrap();
    assert_eq!((view.message().topic().as_str(), view.attempt()), (&*queue.topic, 1));
    assert_eq!((view.failures().len(), view.message().expiry()), (0, None));
    assert_eq!(names(&delivery), ["mine", "redelivery_count"]);

    // A retry does not make it more credible.
    delivery.retry(Duration::ZERO, "not now").await.unwrap();
    let delivery = one(&source).await;
    let view = delivery.view().unwrap();
    assert_eq!((view.message().topic().as_str(), view.attempt()), (&*queue.topic, 2));
    let reasons: Vec<_> = view.failures().iter().map(|failure| failure.reason.as_ref()).collect();
    assert_eq!((reasons, view.message().expiry()), (vec!["not now"], None));
    assert_eq!(names(&delivery), ["mine", "redelivery_count"]);
    delivery.reject("no more").await.unwrap();
    let dead = queue.take(&queue.dead()).await;
    assert_eq!(header(&dead, headers::TOPIC), Some(&text(&queue.topic)));
    assert_eq!(header(&dead, headers::QUEUE), Some(&text(&queue.name)));
    assert_eq!(header(&dead, headers::ATTEMPT), Some(&AMQPValue::LongInt(2)));
    assert_eq!((header(&dead, headers::EXPIRY), header(&dead, "x-delivery-count")), (None, None));
}

/// Only a quorum queue writes over the count of deliveries that a publisher set.
#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_count_of_deliveries_is_believed_only_of_a_queue_that_counts() {
    let brokers = Brokers::running();
    for (kind, attempt) in [("classic", 1), ("quorum", 2)] {
        let queue = Queue::new(&brokers).await;
        queue.declare(&queue.name, table([("x-queue-type", text(kind))])).await;
        let source = queue.source(&queue.subscription()).await;
        let properties = BasicProperties::default().with_headers(forged(&queue.name));
        queue.publish("amq.topic", &queue.topic, properties, b"x").await;
        assert_eq!(one(&source).await.view().unwrap().attempt(), 1, "{kind}");
        let again = one(&source).await;
        let view = again.view().unwrap();
        assert_eq!((view.redelivered(), view.attempt()), (true, attempt), "{kind}");
        again.ack().await.unwrap();
        queue.delete(&queue.name).await;
    }
}

/// It leads to our queue by the default exchange too, with its name as the routing key.
#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn headers_from_the_dead_letter_exchange_of_another_queue_are_ignored() {
    let brokers = Brokers::running();
    let queue = Queue::new(&brokers).await;
    let source = queue.source(&queue.subscription()).await;
    let before = format!("{}.before", queue.name);
    let arguments = table([
        ("x-message-ttl", AMQPValue::LongInt(1)),
        ("x-expires", AMQPValue::LongInt(60_000)),
        ("x-dead-letter-exchange", text("")),
        ("x-dead-letter-routing-key", text(&queue.name)),
    ]);
    queue.declare(&before, arguments).await;
    let properties = BasicProperties::default().with_headers(forged(&queue.name));
    queue.publish("", &before, properties, b"x").await;
    let delivery = one(&source).await;
    let view = delivery.view().unwrap();
    assert_eq!((view.message().topic().as_str(), view.attempt()), (&*queue.name, 1));
    assert_eq!((view.failures().len(), view.message().expiry()), (0, None));
    delivery.ack().await.unwrap();
}

/// The request to the handler of one message.
async fn request_of(queue: &Queue, source: Amqp091Source) -> (Delivery, HeaderMap) {
    let given = Arc::new(Mutex::new(None));
    let kept = Arc::clone(&given);
    let handled = Arc::new(tokio::sync::Notify::new());
    let done = Arc::clone(&handled);
    let handler = move |delivery: Delivery, headers: HeaderMap| async move {
        *kept.lock().unwrap() = Some((delivery, headers));
        done.notify_one();
    };
    let path = format!("/{}", queue.topic.replace('.', "/"));
    let app: Router = Router::new().route(&path, post(handler));
    Consumer::new(source, app)
        .with_graceful_shutdown(async move { handled.notified().await }, Duration::from_secs(5))
        .await;
    given.lock().unwrap().take().unwrap()
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_header_of_a_message_is_no_fact_about_the_request() {
    let brokers = Brokers::running();
    let queue = Queue::new(&brokers).await;
    let source = queue.source(&queue.subscription()).await;
    let facts = ["ce-id", "Ce-Type", "ce-source", "ce-time", "ce-specversion", "Content-Type"];
    let of_http = [
        "Authorization",
        "cookie",
        "Set-Cookie",
        "proxy-authorization",
        "proxy-connection",
        "x-forwarded-for",
        "X-Forwarded-Host",
        "forwarded",
        "x-real-ip",
        "via",
        "host",
        "content-length",
        "transfer-encoding",
        "connection",
        "te",
        "upgrade",
        "x-original-url",
        "x-api-key",
        "www-authenticate",
    ];
    let mut headers = FieldTable::default();
    for name in facts.into_iter().chain(of_http) {
        headers.insert(name.into(), text("forged"));
    }
    headers.insert("tenant".into(), text("acme"));
    let properties = BasicProperties::default().with_headers(headers).with_content_type("text/plain".into());
    queue.publish("amq.topic", &queue.topic, properties, b"x").await;
    let (delivery, headers) = request_of(&queue, source).await;
    let header = |name: &str| headers[name].to_str().unwrap();
    assert_eq!((header("ce-type"), header("ce-source")), (&*queue.topic, &*queue.name));
    assert_eq!(header("ce-id"), delivery.message().id().to_string());
    assert_eq!((header("ce-specversion"), header("content-type")), ("1.0", "text/plain"));
    assert_eq!(header("tenant"), "acme");
    assert!(headers.values().all(|value| value != "forged"), "{headers:?}");
    for name in facts.into_iter().chain(of_http) {
        assert_eq!(delivery.message().header(name), Some(&Scalar::from("forged")), "{name}");
    }
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn properties_without_a_place_in_a_message_are_headers() {
    let brokers = Brokers::running();
    let queue = Queue::new(&brokers).await;
    let source = queue.source(&queue.subscription()).await;
    let properties = BasicProperties::default()
        .with_content_encoding("gzip".into())
        .with_correlation_id("c-7".into())
        .with_reply_to("answers".into())
        .with_type("invoice".into())
        .with_app_id("shop".into());
    queue.publish("amq.topic", &queue.topic, properties, b"x").await;
    one(&source).await.retry(Duration::ZERO, "again").await.unwrap();
    let (delivery, headers) = request_of(&queue, source).await;
    assert_eq!(delivery.attempt(), 2);
    let expected = [
        ("content-encoding", "gzip"),
        ("correlation-id", "c-7"),
        ("reply-to", "answers"),
        ("type", "invoice"),
        ("app-id", "shop"),
    ];
    for (name, value) in expected {
        assert_eq!(headers[name], value);
        assert_eq!(delivery.message().header(name), Some(&Scalar::from(value)));
    }

    // Many write the character set there.
    let source = Amqp091Source::new(&queue.settings(), &Amqp091Subscription::new(&queue.name)).unwrap();
    consuming(&source, &queue).await;
    let properties = BasicProperties::default().with_content_encoding("UTF-8".into());
    queue.publish("amq.topic", &queue.topic, properties, b"x").await;
    let delivery = one(&source).await;
    assert_eq!((names(&delivery).len(), body(&delivery)), (0, "x"));
    delivery.ack().await.unwrap();
}
