//! Retries and dead letters as petisco has them.

use std::time::{Duration, Instant};

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, ExchangeKind};
use tower_outbox::amqp091::{Amqp091Source, Amqp091Subscription, RetryBy};
use tower_outbox::source::Source;

use super::{Queue, body, consuming, header, nothing, one, table, text};
use crate::peers::{Brokers, unique};

const TTL: u32 = 500;

/// The queues that petisco declares for one subscriber, with a shorter delay.
async fn declare(queue: &Queue, organization: &str, service: &str, key: &str) {
    let name = queue.name.as_str();
    let (main, retry, dead) = (
        format!("{organization}.registration"),
        format!("retry.{organization}.{service}"),
        format!("dead_letter.{organization}.{service}"),
    );
    let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    for exchange in [&main, &retry, &dead] {
        let declared = queue.channel.exchange_declare(
            exchange.as_str().into(),
            ExchangeKind::Topic,
            options,
            FieldTable::default(),
        );
        declared.await.unwrap();
    }
    let ttl = || AMQPValue::LongInt(TTL as i32);
    let (retry_queue, dead_queue) = (format!("retry.{name}"), format!("dead_letter.{name}"));
    queue.declare(name, FieldTable::default()).await;
    let arguments = [
        ("x-dead-letter-exchange", text(&main)),
        ("x-dead-letter-routing-key", text(&retry_queue)),
        ("x-message-ttl", ttl()),
    ];
    queue.declare(&retry_queue, table(arguments)).await;
    queue.declare(&dead_queue, FieldTable::default()).await;
    for (name, exchange, key) in [
        (name, &main, key),
        (name, &main, &retry_queue),
        (&retry_queue, &retry, &retry_queue),
        (&dead_queue, &dead, &dead_queue),
    ] {
        let bound = queue.channel.queue_bind(
            name.into(),
            exchange.as_str().into(),
            key.into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        );
        bound.await.unwrap();
    }
}

async fn fails_three_times(queue: &Queue, organization: &str, key: &str) {
    let retry =
        RetryBy::Petisco { organization: organization.to_owned(), service: "registration".to_owned() };
    let subscription = Amqp091Subscription::new(&queue.name).with_retry(retry).with_prefetch(1);
    let source = Amqp091Source::new(&queue.settings(), &subscription).unwrap();
    consuming(&source, queue).await;
    let sent = r#"{"data": {"id": "7"}}"#;
    queue
        .publish(
            &format!("{organization}.registration"),
            key,
            BasicProperties::default().with_delivery_mode(2),
            sent.as_bytes(),
        )
        .await;
    for attempt in 1..=3 {
        let delivery = one(&source).await;
        assert_eq!((body(&delivery), delivery.view().unwrap().attempt()), (sent, attempt));
        let begun = Instant::now();
        match attempt {
            3 => delivery.reject("no more").await.unwrap(),
            _ => {
                delivery.retry(Duration::from_secs(3_000), "again").await.unwrap();
                queue.until_ready(&queue.name, 0).await;
                queue.until_ready(&format!("retry.{}", queue.name), 0).await;
                assert!(
                    begun.elapsed() >= Duration::from_millis((TTL - 100).into()),
                    "{:?}",
                    begun.elapsed()
                );
            }
        }
    }
    nothing(&source).await;
    let raw = queue.take(&format!("dead_letter.{}", queue.name)).await;
    assert_eq!(
        (raw.data.as_slice(), raw.routing_key.as_str()),
        (sent.as_bytes(), &*format!("dead_letter.{}", queue.name))
    );
    assert_eq!(header(&raw, "redelivery_count"), Some(&AMQPValue::LongInt(3)));
    assert_eq!(header(&raw, "queue"), Some(&text(&queue.name)));
    assert!(
        matches!(header(&raw, "x-death"), Some(AMQPValue::FieldArray(deaths)) if deaths.as_slice().len() == 1)
    );
    let headers = raw.properties.headers().as_ref().unwrap();
    assert!(headers.inner().keys().all(|name| !name.as_str().starts_with("tower")), "{headers:?}");
    assert_eq!((raw.properties.message_id(), raw.properties.content_type()), (&None, &None));
    source.close(Duration::from_secs(5)).await;
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_third_failure_is_a_dead_letter_that_petisco_knows() {
    let brokers = Brokers::running();
    let queue = Queue::new(&brokers).await;
    let organization = unique("acme");
    let key = format!("{organization}.registration.1.event.user_created");
    declare(&queue, &organization, "registration", &key).await;
    fails_three_times(&queue, &organization, &key).await;
}

/// The queue of all messages has exchanges of its own.
#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn the_store_queue_retries_through_its_own_exchanges() {
    let brokers = Brokers::running();
    let mut queue = Queue::new(&brokers).await;
    queue.name = "store".to_owned();
    for name in ["store", "retry.store", "dead_letter.store"] {
        queue.delete(name).await;
    }
    let organization = unique("acme");
    declare(&queue, &organization, "store", "*.*.*.event.*").await;
    fails_three_times(&queue, &organization, &format!("{organization}.registration.1.event.user_created"))
        .await;
    for name in ["store", "retry.store", "dead_letter.store"] {
        queue.delete(name).await;
    }
}
