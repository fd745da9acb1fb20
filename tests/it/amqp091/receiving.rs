//! What is received from RabbitMQ, and what becomes of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lapin::options::{
    BasicAckOptions, BasicGetOptions, BasicPublishOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use tokio::time::timeout;
use tower_outbox::amqp091::{Amqp091, Amqp091Settings, Amqp091Source, Amqp091Subscription};
use tower_outbox::source::{Delivery, Source, SourceError};
use tower_outbox::{Message, Messenger, Scalar, headers};

use crate::peers::{Brokers, numbered, unique};

const NODE: &str = "RABBIT1_AMQP";

/// Long enough for nothing more to come.
const QUIET: Duration = Duration::from_millis(300);

/// A queue of a test, with a driver of its own to look into it; the queue and those made of it go with it.
struct Queue {
    url: String,
    name: String,
    topic: String,
    connection: Connection,
    channel: Channel,
}

impl Queue {
    async fn new(brokers: &Brokers) -> Self {
        Self::on(brokers.get(NODE)).await
    }

    async fn on(url: &str) -> Self {
        let connection = Connection::connect(url, ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        Self { url: url.to_owned(), name: unique("receive"), topic: unique("topic"), connection, channel }
    }

    fn settings(&self) -> Amqp091Settings {
        Amqp091Settings::new([&self.url])
    }

    fn subscription(&self) -> Amqp091Subscription {
        Amqp091Subscription::new(&self.name).with_binding(&self.topic)
    }

    /// A source that has made the queue and consumes it.
    async fn source(&self, subscription: &Amqp091Subscription) -> Amqp091Source {
        let source = Amqp091Source::new(&self.settings(), subscription).unwrap();
        nothing(&source).await;
        source
    }

    async fn send(&self, messages: Vec<Message>) {
        Amqp091::new(&self.settings()).unwrap().send(messages).await.unwrap();
    }

    fn message(&self, body: &'static str) -> Message {
        Message::new(self.topic.clone(), body).unwrap()
    }

    /// Publishes what no messenger of ours would.
    async fn raw(&self, properties: BasicProperties, body: &[u8]) {
        self.channel
            .basic_publish(
                "".into(),
                self.name.as_str().into(),
                BasicPublishOptions::default(),
                body,
                properties,
            )
            .await
            .unwrap();
    }

    /// How many messages are ready in the queue of this name.
    async fn ready(&self, name: &str) -> u32 {
        let channel = self.connection.create_channel().await.unwrap();
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let queue = channel.queue_declare(name.into(), options, FieldTable::default()).await;
        queue.map_or(0, |queue| queue.message_count())
    }

    async fn until_ready(&self, name: &str, count: u32) {
        until(async || self.ready(name).await == count).await;
    }

    /// Takes the next message out of the queue of this name.
    async fn take(&self, name: &str) -> lapin::message::Delivery {
        self.until_ready(name, 1).await;
        let got = self.channel.basic_get(name.into(), BasicGetOptions::default()).await.unwrap().unwrap();
        got.delivery.acker.ack(BasicAckOptions::default()).await.unwrap();
        got.delivery
    }

    fn dead(&self) -> String {
        format!("{}.dead", self.name)
    }
}

async fn until(condition: impl AsyncFn() -> bool) {
    let begun = Instant::now();
    while !condition().await {
        assert!(begun.elapsed() < Duration::from_secs(20), "in time");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn some(source: &Amqp091Source, limit: usize) -> Vec<Delivery> {
    timeout(Duration::from_secs(20), source.receive(limit)).await.expect("in time").unwrap()
}

async fn one(source: &Amqp091Source) -> Delivery {
    let mut deliveries = some(source, 1).await;
    assert_eq!(deliveries.len(), 1);
    deliveries.remove(0)
}

async fn nothing(source: &Amqp091Source) {
    let received = timeout(QUIET, source.receive(10)).await;
    assert!(received.is_err(), "{received:?}");
}

fn body(delivery: &Delivery) -> String {
    String::from_utf8(delivery.view().unwrap().message().body().to_vec()).unwrap()
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn what_is_acknowledged_is_gone() {
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
    assert_eq!(queue.ready(&queue.name).await, 0);
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_retry_comes_after_its_delay_and_others_pass_meanwhile() {
    let brokers = Brokers::running();
    let queue = Queue::new(&brokers).await;
    let source = queue.source(&queue.subscription().with_prefetch(1)).await;
    queue.send(vec![queue.message("fails"), queue.message("passes")]).await;
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
    assert_eq!((body(&delivery).as_str(), view.attempt(), view.failures().len()), ("fails", 2, 1));
    assert_eq!(view.failures()[0].reason.as_ref(), "not now");
    delivery.ack().await.unwrap();
    nothing(&source).await;
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn what_is_rejected_is_a_dead_letter_with_its_history() {
    let brokers = Brokers::running();
    let queue = Queue::new(&brokers).await;
    let source = queue.source(&queue.subscription()).await;
    let sent = queue.message("x").with_header("tenant", "acme").with_key("k");
    queue.send(vec![sent.clone()]).await;
    one(&source).await.retry(Duration::ZERO, "first").await.unwrap();
    one(&source).await.retry(Duration::ZERO, "second").await.unwrap();
    let delivery = one(&source).await;
    assert_eq!(delivery.view().unwrap().attempt(), 3);
    delivery.reject("no more").await.unwrap();
    nothing(&source).await;

    let dead = Amqp091Source::new(&queue.settings(), &Amqp091Subscription::new(queue.dead())).unwrap();
    let delivery = one(&dead).await;
    let view = delivery.view().unwrap();
    let reasons: Vec<_> = view.failures().iter().map(|failure| failure.reason.to_string()).collect();
    assert_eq!(
        (view.attempt(), reasons.as_slice()),
        (4, ["first", "second", "no more"].map(String::from).as_slice())
    );
    let message = view.message();
    assert_eq!((message.id(), message.topic(), message.key()), (sent.id(), sent.topic(), Some("k")));
    assert_eq!(message.header(headers::REASON), Some(&Scalar::from("no more")));
    assert_eq!(message.header("tenant"), Some(&Scalar::from("acme")));
    delivery.ack().await.unwrap();
}
