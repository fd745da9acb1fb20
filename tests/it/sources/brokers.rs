//! Queues of real brokers.

use std::any::Any;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use lapin::options::{QueueBindOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties};
use tokio::sync::Mutex;
use tokio::time::timeout;
use tower_outbox::amqp10::{Amqp10, Amqp10Settings, Amqp10Source, Amqp10Subscription};
use tower_outbox::amqp091::{Amqp091, Amqp091Settings, Amqp091Source, Amqp091Subscription};
use tower_outbox::kafka::KafkaSubscription;
use tower_outbox::nats::NatsSubscription;
use tower_outbox::source::Source;
use tower_outbox::testing::source_conformance::{Dead, SourceCapabilities, SourceHarness};

use super::texts;
use crate::mqtt::raw::Place;
use crate::peers::{Brokers, unique};

/// The messages that a second source finds among the dead letters; it keeps them.
pub(super) fn dead_in(
    source: impl Source,
) -> impl Fn() -> Pin<Box<dyn Future<Output = Vec<Dead>> + Send>> + Send + Sync + 'static {
    let (source, found) = (Arc::new(source), Arc::new(Mutex::new((Vec::new(), Vec::new()))));
    move || {
        let (source, found) = (Arc::clone(&source), Arc::clone(&found));
        Box::pin(async move {
            let mut found = found.lock().await;
            let (dead, kept) = &mut *found;
            while let Ok(received) = timeout(Duration::from_millis(100), source.receive(100)).await {
                for delivery in received.unwrap() {
                    let view = delivery.view().unwrap();
                    dead.push(Dead { id: view.message().id(), reasons: texts(view.failures()) });
                    kept.push(delivery);
                }
            }
            dead.clone()
        })
    }
}

/// A durable queue of this name bound to `amq.topic` by `topic`, and the connection that made it.
async fn declare(brokers: &Brokers, queue: &str, topic: &str) -> Connection {
    let connection = Connection::connect(brokers.get("RABBIT1_AMQP"), ConnectionProperties::default()).await;
    let connection = connection.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.into(), options, FieldTable::default()).await.unwrap();
    let (options, table) = (QueueBindOptions::default(), FieldTable::default());
    channel.queue_bind(queue.into(), "amq.topic".into(), topic.into(), options, table).await.unwrap();
    connection
}

pub async fn amqp10_activemq_queue() -> SourceHarness {
    let brokers = Brokers::running();
    let topic = unique("source");
    let mut settings = Amqp10Settings::new([brokers.get("ACTIVEMQ_AMQP")]);
    settings.address = Some("queue://{topic}".to_owned());
    let address = format!("queue://{topic}");
    amqp10_queue(&settings, &address, &format!("{address}.dead"), topic, false, Box::new(()))
}

pub async fn amqp10_rabbitmq_queue() -> SourceHarness {
    let brokers = Brokers::running();
    let (queue, topic) = (unique("source"), unique("topic"));
    let connections =
        [declare(&brokers, &queue, &topic).await, declare(&brokers, &format!("{queue}.dead"), &queue).await];
    let mut settings = Amqp10Settings::new([brokers.get("RABBIT1_AMQP")]);
    settings.address = Some("/topic/{topic}".to_owned());
    let address = format!("/amq/queue/{queue}");
    amqp10_queue(&settings, &address, &format!("{address}.dead"), topic, true, Box::new(connections))
}

fn amqp10_queue(
    settings: &Amqp10Settings,
    address: &str,
    dead: &str,
    topic: String,
    redelivered: bool,
    keep: Box<dyn Any + Send + Sync>,
) -> SourceHarness {
    let source = |subscription| Amqp10Source::new(settings, &subscription).unwrap();
    let messenger = Arc::new(Amqp10::new(settings).unwrap());
    let of_queue = Arc::new(source(Amqp10Subscription::new(address).with_dead_letter_address(dead)));
    SourceHarness::new(messenger, of_queue, topic, dead_in(source(Amqp10Subscription::new(dead))))
        .with_capabilities(SourceCapabilities::default().with_history(true).with_redelivered(redelivered))
        .with_kept(keep)
}

/// A subscription at mosquitto, and one to its dead letters.
pub async fn mosquitto_subscription() -> SourceHarness {
    let brokers = Brokers::running();
    let place = Place::new(&brokers);
    let dead = format!("{}-dead", place.topic);
    let subscription = place.subscription().with_prefetch(200).with_dead_letter_topic(&*dead);
    let source = place.source(&subscription).await;
    let of_dead = Place { topic: dead, url: place.url.clone() };
    let letters = of_dead.source(&of_dead.subscription()).await;
    let messenger = Arc::new(place.messenger());
    SourceHarness::new(messenger, Arc::new(source), place.topic.clone(), dead_in(letters))
        .with_capabilities(SourceCapabilities::default().with_history(true).with_redelivered(true))
}

/// A group that reads a topic of Tansu, and one that reads its dead letters.
pub async fn kafka_group() -> SourceHarness {
    let place = crate::kafka::raw::Place::new().await;
    let source = place.source(&place.subscription());
    let dead = format!("{}.dead", place.topic);
    place.create(&dead, 1).await;
    let session = Duration::from_secs(6);
    let letters = place.source(&KafkaSubscription::new("dead", [dead]).with_session_timeout(session));
    let (messenger, topic) = (Arc::new(place.messenger()), place.topic.clone());
    SourceHarness::new(messenger, Arc::new(source), topic, dead_in(letters))
        .with_capabilities(SourceCapabilities::default().with_history(true).with_redelivered(true))
        .with_kept(place)
}

/// A durable consumer of a stream, and one of its dead letters.
pub async fn nats_consumer() -> SourceHarness {
    let place = crate::nats::raw::Place::new().await;
    let dead = format!("dead.{}", place.topic);
    let all = NatsSubscription::new(&*place.stream, "all").with_prefetch(200);
    let source = place.source(&all.with_dead_letter_subject(&*dead));
    let of_dead = format!("{}-dead", place.stream);
    let letters = place.source(&NatsSubscription::new(of_dead, "all").with_subject(dead));
    // It creates the stream.
    let _ = timeout(Duration::from_millis(500), letters.receive(1)).await;
    let (messenger, topic) = (Arc::new(place.messenger()), place.topic.clone());
    SourceHarness::new(messenger, Arc::new(source), topic, dead_in(letters))
        .with_capabilities(SourceCapabilities::default().with_history(true).with_redelivered(true))
}

pub async fn rabbitmq_queue() -> SourceHarness {
    let brokers = Brokers::running();
    let (queue, topic) = (unique("source"), unique("topic"));
    let connection = declare(&brokers, &queue, &topic).await;
    let settings = Amqp091Settings::new([brokers.get("RABBIT1_AMQP")]);
    let source = |queue: &str| {
        let mut subscription = Amqp091Subscription::new(queue);
        // The suite holds so many at once.
        subscription.prefetch = 200;
        Amqp091Source::new(&settings, &subscription).unwrap()
    };
    let messenger = Arc::new(Amqp091::new(&settings).unwrap());
    let dead = dead_in(source(&format!("{queue}.dead")));
    SourceHarness::new(messenger, Arc::new(source(&queue)), topic, dead)
        .with_capabilities(SourceCapabilities::default().with_history(true).with_redelivered(true))
        .with_kept(connection)
}
