//! Messages received from RabbitMQ, and their ends.

mod answers;
mod failover;
mod messages;
mod pausing;
mod petisco;
mod refused;

use std::time::{Duration, Instant};

use lapin::message::Delivery as Raw;
use lapin::options::{
    BasicAckOptions, BasicGetOptions, BasicPublishOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use tokio::time::timeout;
use tower_outbox::amqp091::{
    Amqp091, Amqp091Settings, Amqp091Source, Amqp091Subscription, QueueArgument, QueueType,
};
use tower_outbox::source::{Source, Unsettled};
use tower_outbox::{Message, Messenger};

use crate::peers::{Brokers, unique};

const NODE: &str = "RABBIT1_AMQP";

/// Long enough for a broker to start.
const SOON: Duration = Duration::from_secs(100);

/// Long enough for nothing more to come.
const QUIET: Duration = Duration::from_millis(300);

/// The names of a test, and a driver of its own to look into its queues.
pub struct Queue {
    pub url: String,
    pub name: String,
    pub topic: String,
    connection: Connection,
    pub channel: Channel,
}

impl Queue {
    pub async fn new(brokers: &Brokers) -> Self {
        let url = brokers.get(NODE).to_owned();
        let connection = Connection::connect(&url, ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        Self { url, name: unique("receive"), topic: unique("topic"), connection, channel }
    }

    /// The same over a new connection.
    pub async fn again(self, brokers: &Brokers) -> Self {
        Self { name: self.name, topic: self.topic, ..Self::new(brokers).await }
    }

    pub fn settings(&self) -> Amqp091Settings {
        Amqp091Settings::new([&self.url])
    }

    pub fn subscription(&self) -> Amqp091Subscription {
        Amqp091Subscription::new(&self.name).with_binding(&self.topic)
    }

    /// A source that has made the queue and consumes it.
    pub async fn source(&self, subscription: &Amqp091Subscription) -> Amqp091Source {
        let source = Amqp091Source::new(&self.settings(), subscription).unwrap();
        consuming(&source, self).await;
        source
    }

    pub async fn send(&self, messages: Vec<Message>) {
        Amqp091::new(&self.settings()).unwrap().send(messages).await.unwrap();
    }

    pub fn message(&self, body: &'static str) -> Message {
        Message::new(self.topic.clone(), body).unwrap()
    }

    /// Publishes to an exchange what no messenger of ours would.
    pub async fn publish(&self, exchange: &str, key: &str, properties: BasicProperties, body: &[u8]) {
        let options = BasicPublishOptions::default();
        self.channel.basic_publish(exchange.into(), key.into(), options, body, properties).await.unwrap();
    }

    pub async fn declare(&self, name: &str, arguments: FieldTable) {
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        self.channel.queue_declare(name.into(), options, arguments).await.unwrap();
    }

    pub async fn delete(&self, name: &str) {
        self.channel.queue_delete(name.into(), QueueDeleteOptions::default()).await.unwrap();
    }

    /// How many messages are ready in the queue of this name, and how many consume it; none if there is none.
    pub async fn look(&self, name: &str) -> Option<(u32, u32)> {
        let channel = self.connection.create_channel().await.unwrap();
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let queue = channel.queue_declare(name.into(), options, FieldTable::default()).await.ok()?;
        Some((queue.message_count(), queue.consumer_count()))
    }

    pub async fn until_ready(&self, name: &str, count: u32) {
        until(async || self.look(name).await.is_some_and(|(ready, _)| ready == count)).await;
    }

    /// Takes the one message out of the queue of this name.
    pub async fn take(&self, name: &str) -> Raw {
        self.until_ready(name, 1).await;
        self.take_first(name).await
    }

    /// Takes the first message out of the queue of this name.
    pub async fn take_first(&self, name: &str) -> Raw {
        let got = self.channel.basic_get(name.into(), BasicGetOptions::default()).await.unwrap().unwrap();
        got.delivery.ack(BasicAckOptions::default()).await.unwrap();
        got.delivery
    }

    /// Where retries wait for this many milliseconds.
    pub fn retry(&self, ms: u64) -> String {
        format!("{}.retry.quorum.{ms}", self.name)
    }

    pub fn dead(&self) -> String {
        format!("{}.dead", self.name)
    }
}

pub async fn until(condition: impl AsyncFn() -> bool) {
    let begun = Instant::now();
    while !condition().await {
        assert!(begun.elapsed() < SOON, "in time");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Receives, and drops that, until the broker counts a consumer.
pub async fn consuming(source: &Amqp091Source, queue: &Queue) {
    until(async || {
        let _ = timeout(Duration::from_millis(1), source.receive(1)).await;
        queue.look(&queue.name).await.is_some_and(|(_, consumers)| consumers == 1)
    })
    .await;
}

pub async fn some(source: &Amqp091Source, limit: usize) -> Vec<Unsettled> {
    timeout(SOON, source.receive(limit)).await.expect("in time").unwrap()
}

pub async fn one(source: &Amqp091Source) -> Unsettled {
    let mut deliveries = some(source, 1).await;
    assert_eq!(deliveries.len(), 1);
    deliveries.remove(0)
}

pub async fn nothing(source: &Amqp091Source) {
    let received = timeout(QUIET, source.receive(10)).await;
    assert!(received.is_err(), "{received:?}");
}

pub fn message_of(delivery: &Unsettled) -> &Message {
    delivery.view().unwrap().message()
}

pub fn body(delivery: &Unsettled) -> &str {
    std::str::from_utf8(message_of(delivery).body()).unwrap()
}

pub fn header<'a>(raw: &'a Raw, name: &str) -> Option<&'a AMQPValue> {
    raw.properties.headers().as_ref()?.inner().get(name)
}

pub fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.as_bytes().to_vec().into())
}

pub fn table<const N: usize>(values: [(&str, AMQPValue); N]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in values {
        table.insert(name.into(), value);
    }
    table
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_missing_queue_is_created_with_its_type_and_arguments() {
    let queue = Queue::new(&Brokers::running()).await;
    let mut subscription = queue.subscription().with_queue_type(QueueType::Quorum);
    subscription.queue_arguments.insert("x-max-length".to_owned(), QueueArgument::Int(1_000));
    let source = Amqp091Source::new(&queue.settings(), &subscription).unwrap();
    let declared = |passive, quorum: bool| {
        let mut arguments = FieldTable::default();
        if quorum {
            arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
            arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(1_000));
        }
        let options = QueueDeclareOptions { passive, durable: true, ..QueueDeclareOptions::default() };
        let (connection, name) = (&queue.connection, queue.name.as_str());
        async move {
            let channel = connection.create_channel().await.unwrap();
            channel.queue_declare(name.into(), options, arguments).await.is_ok()
        }
    };
    timeout(SOON, async {
        while !declared(true, false).await {
            let _ = timeout(QUIET, source.receive(1)).await;
        }
    })
    .await
    .unwrap();
    assert!(declared(false, true).await, "the same type and arguments");
    assert!(!declared(false, false).await, "a classic queue without arguments");
    source.close(SOON).await;
    queue.channel.queue_delete(queue.name.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
}
