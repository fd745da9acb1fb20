//! A message arrives as it was sent.

use std::time::{Duration, SystemTime};

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldArray, FieldTable};
use serde_json::json;
use tower_outbox::amqp091::{
    Amqp091Settings, Amqp091Source, Amqp091Subscription, Fedmsg, FedoraMessage, Severity,
};
use tower_outbox::message::{Scalar, headers};
use tower_outbox::source::Source;
use tower_outbox::{Message, Messenger};

use super::{Queue, body, consuming, header, message_of, nothing, one, some, table, text};
use crate::peers::{Brokers, numbered};

fn headers_of(message: &Message) -> Vec<(String, Scalar)> {
    let mut headers: Vec<_> =
        message.headers().map(|(name, value)| (name.to_owned(), value.clone())).collect();
    headers.sort_by(|a, b| a.0.cmp(&b.0));
    headers
}

fn whole_seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn everything_of_a_message_arrives() {
    let brokers = Brokers::running();
    let queue = Queue::new(&brokers).await;
    let mut settings = queue.settings();
    settings.broker.topic_prefix = Some("VirtualTopic.eng.".to_owned());
    let subscription = Amqp091Subscription::new(&queue.name).with_binding(format!("{}.#", queue.topic));
    let source = Amqp091Source::new(&settings, &subscription).unwrap();
    consuming(&source, &queue).await;
    let full = Message::json(format!("{}.a.b", queue.topic), &json!({"text": "größe ☃"}))
        .unwrap()
        .with_header("null", Scalar::Null)
        .with_header("bool", true)
        .with_header("int", -7_000_000_000_i64)
        .with_header("float", 1.5)
        .with_header("text", "größe ☃")
        .with_header(headers::CORRELATION_ID, "c")
        .with_key("user-7")
        .with_priority(9)
        .with_expiry(Duration::from_millis(60_001));
    let bare = Message::new(queue.topic.clone(), vec![0, 159, 146, 150]).unwrap();
    tower_outbox::amqp091::Amqp091::new(&settings)
        .unwrap()
        .send(vec![full.clone(), bare.clone()])
        .await
        .unwrap();
    for sent in [full, bare] {
        let delivery = one(&source).await;
        let came = message_of(&delivery);
        assert_eq!((came.id(), came.topic(), came.body()), (sent.id(), sent.topic(), sent.body()));
        assert_eq!((came.content_type(), came.key()), (sent.content_type(), sent.key()));
        assert_eq!((came.priority(), came.expiry()), (sent.priority(), sent.expiry()));
        assert_eq!(headers_of(came), headers_of(&sent));
        assert_eq!(whole_seconds(came.time()), whole_seconds(sent.time()));
        delivery.ack().await.unwrap();
    }
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn what_others_publish_is_read() {
    let brokers = Brokers::running();
    let queue = Queue::new(&brokers).await;
    let source = queue.source(&queue.subscription()).await;
    // Where a copy would go.
    queue.declare(&queue.topic, FieldTable::default()).await;
    let odd = table([
        ("i8", AMQPValue::ShortShortInt(-8)),
        ("u8", AMQPValue::ShortShortUInt(8)),
        ("i16", AMQPValue::ShortInt(-16)),
        ("u16", AMQPValue::ShortUInt(16)),
        ("u32", AMQPValue::LongUInt(32)),
        ("float", AMQPValue::Float(0.5)),
        ("time", AMQPValue::Timestamp(7)),
        ("table", AMQPValue::FieldTable(table([("x", text("y"))]))),
        ("CC", AMQPValue::FieldArray(FieldArray::from(vec![text(&queue.topic)]))),
        (headers::ATTEMPT, text("not a number")),
        (headers::FAILURES, text("not json")),
    ]);
    let properties = BasicProperties::default().with_headers(odd).with_message_id("order 7".into());
    queue.publish("", &queue.name, properties, b"x").await;
    queue.publish("", &queue.name, BasicProperties::default(), b"").await;
    let delivery = one(&source).await;
    let message = message_of(&delivery);
    let values: Vec<_> =
        headers_of(message).into_iter().map(|(name, value)| format!("{name} {value}")).collect();
    assert_eq!(values, ["float 0.5", "i16 -16", "i8 -8", "time 7", "u16 16", "u32 32", "u8 8"]);
    assert_eq!((message.topic().as_str(), delivery.view().unwrap().attempt()), (&*queue.name, 1));
    assert_eq!(message.content_type(), "application/octet-stream");
    let id = message.id();
    delivery.retry(Duration::ZERO, "again").await.unwrap();
    let bare = one(&source).await;
    assert_eq!((body(&bare), bare.view().unwrap().age() < Duration::from_secs(5)), ("", true));
    bare.ack().await.unwrap();
    let delivery = one(&source).await;
    // An id that is no UUID is the same however often it comes.
    assert_eq!((message_of(&delivery).id(), id.get_version_num()), (id, 5));
    delivery.ack().await.unwrap();
    // The one copy is of whoever published it first.
    queue.take(&queue.topic).await;
    queue.delete(&queue.topic).await;
}

/// Not even a topic: one dead letter, as it came, with the reason.
#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn an_unreadable_message_is_one_dead_letter() {
    let brokers = Brokers::running();
    let queue = Queue::new(&brokers).await;
    let key = format!("no topic {}", queue.name);
    let mut subscription = Amqp091Subscription::new(&queue.name).with_binding(&key);
    subscription.exchange = Some("amq.direct".to_owned());
    let source = queue.source(&subscription).await;
    let body = [0, 159, 146, 150];
    let properties = BasicProperties::default().with_expiration("60000".into());
    queue.publish("amq.direct", &key, properties, &body).await;
    let delivery = one(&source).await;
    let reason = delivery.view().unwrap_err().to_string();
    assert!(reason.contains("blank"), "{reason}");
    delivery.reject(reason.clone()).await.unwrap();
    let raw = queue.take(&queue.dead()).await;
    assert_eq!((raw.data.as_slice(), header(&raw, headers::REASON)), (&body[..], Some(&text(&reason))));
    assert_eq!(header(&raw, headers::ATTEMPT), Some(&AMQPValue::LongInt(1)));
    // A dead letter stays.
    assert_eq!(*raw.properties.expiration(), None);
    nothing(&source).await;
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_message_of_fedora_messaging_arrives() {
    let brokers = Brokers::running();
    let queue = Queue::new(&brokers).await;
    let mut settings = Amqp091Settings::new([&queue.url]);
    settings.broker.topic_prefix = Some("org.fedoraproject.prod".to_owned());
    let source = Amqp091Source::fedora(&settings, &queue.subscription()).unwrap();
    consuming(&source, &queue).await;
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let sent = Message::json(queue.topic.clone(), &json!({"text": "größe ☃"}))
        .unwrap()
        .with_time(time)
        .with_severity(Severity::Error)
        .with_schema("koji.build", "koji-messages")
        .with_rpm("bash")
        .with_user("jo")
        .with_priority(3);
    let plain = Message::json(queue.topic.clone(), &json!({})).unwrap();
    Fedmsg::new(&settings).unwrap().send(vec![sent.clone(), plain.clone()]).await.unwrap();
    let delivery = one(&source).await;
    let came = message_of(&delivery);
    assert_eq!((came.id(), came.topic(), came.body()), (sent.id(), sent.topic(), sent.body()));
    assert_eq!((came.time(), came.priority(), came.content_type()), (time, Some(3), "application/json"));
    assert_eq!((headers_of(came), came.severity()), (headers_of(&sent), Severity::Error));
    delivery.retry(Duration::ZERO, "again").await.unwrap();
    let delivery = one(&source).await;
    assert_eq!((message_of(&delivery).id(), message_of(&delivery).severity()), (plain.id(), Severity::Info));
    delivery.ack().await.unwrap();
    let delivery = one(&source).await;
    assert_eq!(headers_of(message_of(&delivery)), headers_of(&sent));
    assert_eq!((message_of(&delivery).topic(), message_of(&delivery).time()), (sent.topic(), time));
    delivery.ack().await.unwrap();
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn ten_thousand_come_in_order() {
    let brokers = Brokers::running();
    let queue = Queue::new(&brokers).await;
    let source = queue.source(&queue.subscription()).await;
    let sent = numbered(&queue.topic, 10_000);
    queue.send(sent.clone()).await;
    let mut came = Vec::new();
    while came.len() < sent.len() {
        let deliveries = some(&source, 100).await;
        assert!(deliveries.len() <= 100);
        for delivery in deliveries {
            came.push(message_of(&delivery).id());
            delivery.ack().await.unwrap();
        }
    }
    assert!(came.iter().eq(sent.iter().map(Message::id).collect::<Vec<_>>().iter()));
    source.close(Duration::from_secs(5)).await;
    assert_eq!(queue.look(&queue.name).await, Some((0, 0)));
}
