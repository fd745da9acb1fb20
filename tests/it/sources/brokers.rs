//! Queues of real brokers.

use std::sync::Arc;
use std::time::Duration;

use lapin::options::{QueueBindOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties};
use tokio::sync::Mutex;
use tokio::time::timeout;
use tower_outbox::amqp091::{Amqp091, Amqp091Settings, Amqp091Source, Amqp091Subscription};
use tower_outbox::source::Source;

use super::{Capabilities, Dead, Dying, Place};
use crate::peers::{Brokers, unique};

/// What a second source finds among the dead letters; it keeps them.
fn dead_in(source: impl Source) -> Dying {
    let (source, found) = (Arc::new(source), Arc::new(Mutex::new((Vec::new(), Vec::new()))));
    Box::new(move || {
        let (source, found) = (Arc::clone(&source), Arc::clone(&found));
        Box::pin(async move {
            let mut found = found.lock().await;
            let (dead, kept) = &mut *found;
            while let Ok(received) = timeout(Duration::from_millis(100), source.receive(100)).await {
                for delivery in received.unwrap() {
                    let view = delivery.view().unwrap();
                    let reasons = view.failures().iter().map(|failure| failure.reason.to_string()).collect();
                    dead.push(Dead { id: view.message().id(), reasons });
                    kept.push(delivery);
                }
            }
            dead.clone()
        })
    })
}

pub(super) async fn rabbitmq_place() -> Place {
    let brokers = Brokers::running();
    let (queue, topic) = (unique("source"), unique("topic"));
    let connection = Connection::connect(brokers.get("RABBIT1_AMQP"), ConnectionProperties::default()).await;
    let connection = connection.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.as_str().into(), durable, FieldTable::default()).await.unwrap();
    let bind = QueueBindOptions::default();
    channel
        .queue_bind(
            queue.as_str().into(),
            "amq.topic".into(),
            topic.as_str().into(),
            bind,
            FieldTable::default(),
        )
        .await
        .unwrap();
    let settings = Amqp091Settings::new([brokers.get("RABBIT1_AMQP")]);
    let source = |queue: &str| Amqp091Source::new(&settings, &Amqp091Subscription::new(queue)).unwrap();
    Place {
        messenger: Arc::new(Amqp091::new(&settings).unwrap()),
        source: Arc::new(source(&queue)),
        dead: dead_in(source(&format!("{queue}.dead"))),
        topic,
        capabilities: Capabilities { history: true },
        _keep: Box::new(connection),
    }
}
