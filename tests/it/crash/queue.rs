//! The queue at the broker in which everything ends up.

use std::time::Duration;

use futures_util::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicQosOptions, QueueBindOptions,
    QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, Connection, ConnectionProperties};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::ledger::Arrival;
use crate::peers::unique;

/// A durable queue bound to `amq.topic`.
pub struct Queue {
    url: String,
    name: String,
}

/// The part of a body that counts.
#[derive(Deserialize)]
struct Body {
    request: u64,
    seq: u64,
}

impl Queue {
    /// A broker that is killed right after may have forgotten it.
    pub async fn declare(url: &str, topic: &str) -> Self {
        let queue = Self { url: url.to_owned(), name: unique("chaos") };
        let (connection, channel) = queue.open().await;
        let table = FieldTable::default();
        let options = QueueDeclareOptions::durable();
        channel.queue_declare(queue.name(), options, table.clone()).await.unwrap();
        let options = QueueBindOptions::default();
        channel.queue_bind(queue.name(), "amq.topic".into(), topic.into(), options, table).await.unwrap();
        connection.close(200, "declared".into()).await.unwrap();
        queue
    }

    pub fn name(&self) -> ShortString {
        self.name.as_str().into()
    }

    /// How many messages wait in it.
    pub async fn ready(&self) -> u32 {
        let (connection, channel) = self.open().await;
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let queue = channel.queue_declare(self.name(), options, FieldTable::default()).await.unwrap();
        connection.close(200, "counted".into()).await.unwrap();
        queue.message_count()
    }

    async fn open(&self) -> (Connection, Channel) {
        let connection = Connection::connect(&self.url, ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        (connection, channel)
    }

    /// Gives what came to it, in order. Nobody must send meanwhile.
    pub async fn drain(&self) -> Vec<Arrival> {
        let bodies = self.drain_bodies::<Body>().await;
        bodies.into_iter().map(|body| (body.request, body.seq)).collect()
    }

    /// As [`drain`](Self::drain), with other bodies.
    pub async fn drain_bodies<T: DeserializeOwned>(&self) -> Vec<T> {
        let (connection, channel) = self.open().await;
        let mut arrivals = Vec::new();
        channel.basic_qos(5_000, BasicQosOptions::default()).await.unwrap();
        loop {
            let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
            let queue = channel.queue_declare(self.name(), options, FieldTable::default()).await.unwrap();
            let ready = queue.message_count();
            if ready == 0 {
                break;
            }
            let (tag, table) = ("drain", FieldTable::default());
            let options = BasicConsumeOptions::default();
            let mut consumer = channel.basic_consume(self.name(), tag.into(), options, table).await.unwrap();
            for left in (0..ready).rev() {
                let delivery =
                    timeout(Duration::from_secs(60), consumer.next()).await.expect("the next message");
                let delivery = delivery.expect("the broker goes on").unwrap();
                arrivals.push(serde_json::from_slice(&delivery.data).unwrap());
                if left % 1_000 == 0 {
                    delivery.ack(BasicAckOptions { multiple: true }).await.unwrap();
                }
            }
            channel.basic_cancel(tag.into(), BasicCancelOptions::default()).await.unwrap();
        }
        connection.close(200, "drained".into()).await.unwrap();
        arrivals
    }

    pub async fn delete(self) {
        let (connection, channel) = self.open().await;
        channel.queue_delete(self.name(), QueueDeleteOptions::default()).await.unwrap();
        connection.close(200, "deleted".into()).await.unwrap();
    }
}
