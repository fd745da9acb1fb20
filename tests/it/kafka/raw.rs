//! A client of its own, which sees and sends what no messenger of ours would.

use std::collections::BTreeMap;
use std::time::Duration;

use krafka::admin::NewTopic;
use krafka::consumer::{AutoOffsetReset, Consumer};
use krafka::{ConsumerRecord, Kafka as Client};
use tokio::time::timeout;
use tower_outbox::Message;
use tower_outbox::kafka::{Kafka, KafkaSettings};
use tower_outbox::message::Scalar;
use tower_outbox::testing::messenger_conformance::Received;

use super::proxy::Proxy;
use super::server::{Server, free_port};
use crate::peers::unique;

/// Longer than anything takes here.
pub const SOON: Duration = Duration::from_secs(30);
/// Long enough for nothing more to come.
pub const QUIET: Duration = Duration::from_millis(300);

/// A server and a topic of its own for a test, and a client beside ours.
pub struct Place {
    pub server: Server,
    pub topic: String,
    pub client: Client,
}

impl Place {
    /// With one partition.
    pub async fn new() -> Self {
        Self::with_partitions(1).await
    }

    pub async fn with_partitions(count: i32) -> Self {
        let server = Server::start().await;
        let client = Client::builder(server.address()).connect().await.unwrap();
        let place = Self { server, topic: unique("kafka"), client };
        place.create(&place.topic, count).await;
        place
    }

    /// A server that clients reach by a proxy only.
    pub async fn behind_proxy(count: i32) -> (Self, Proxy) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, proxied) = (free_port(), listener.local_addr().unwrap().port());
        let server = Server::advertised(port, format!("127.0.0.1:{proxied}"), &[]).await;
        let proxy = Proxy::start(listener, port);
        let client = Client::builder(server.address()).connect().await.unwrap();
        let place = Self { server, topic: unique("kafka"), client };
        place.create(&place.topic, count).await;
        (place, proxy)
    }

    pub async fn create(&self, topic: &str, partitions: i32) {
        let topics = [NewTopic::new(topic, partitions, 1).unwrap()];
        let created = self.client.admin().create_topics(topics, Default::default()).await.unwrap();
        assert!(created[topic].is_ok(), "{created:?}");
    }

    pub fn settings(&self) -> KafkaSettings {
        KafkaSettings::new([self.server.url()])
    }

    /// Settings that notice a fault soon.
    pub fn hasty(&self) -> KafkaSettings {
        let mut settings = self.settings();
        settings.broker.send_timeout = Some(Duration::from_secs(2));
        settings.broker.connection_timeout = Some(Duration::from_secs(1));
        settings.broker.idle_timeout = Duration::from_secs(2);
        settings
    }

    pub fn messenger(&self) -> Kafka {
        Kafka::new(&self.settings()).unwrap()
    }

    pub fn message(&self, body: &str) -> Message {
        Message::new(self.topic.clone(), body.to_owned()).unwrap()
    }

    /// The records of the topic, by partition and offset.
    pub async fn stored(&self) -> Vec<ConsumerRecord> {
        self.stored_in(&self.topic).await
    }

    pub async fn stored_in(&self, topic: &str) -> Vec<ConsumerRecord> {
        let consumer = self.consumer(topic).await;
        let mut all: Vec<ConsumerRecord> = Vec::new();
        let mut missing = 0;
        for (topic, partitions) in consumer.assignment().await {
            for partition in partitions {
                let (low, high) = consumer.fetch_watermarks(&topic, partition).await.unwrap();
                missing += usize::try_from(high - low).unwrap();
            }
        }
        while all.len() < missing {
            let more = timeout(SOON, async {
                loop {
                    let more = consumer.poll(Duration::from_millis(100)).await.unwrap();
                    if !more.is_empty() {
                        break more;
                    }
                }
            });
            let read = all.len();
            all.extend(more.await.unwrap_or_else(|_| panic!("{read} of {missing} records can be read")));
        }
        // The watermark of Tansu can be behind.
        loop {
            let more = consumer.poll(QUIET).await.unwrap();
            if more.is_empty() {
                break;
            }
            all.extend(more);
        }
        all.sort_by_key(|record| (record.partition, record.offset));
        let _ = consumer.close().await;
        all
    }

    pub async fn consumer(&self, topic: &str) -> Consumer {
        let client = Client::builder(self.server.address()).connect().await.unwrap();
        let consumer = client.consumer_without_group();
        let consumer = consumer.auto_offset_reset(AutoOffsetReset::Earliest).build().await.unwrap();
        consumer.subscribe([topic]).await.unwrap();
        consumer
    }

    /// The messages that arrive, for the suite of messengers.
    pub async fn inbox(&self) -> impl AsyncFnMut(usize) -> Vec<Received> + use<> {
        let consumer = self.consumer(&self.topic).await;
        async move |count| {
            let mut all = Vec::new();
            while all.len() < count {
                let record = timeout(SOON, consumer.recv()).await.expect("nothing comes").unwrap().unwrap();
                all.push(received(&record));
            }
            all
        }
    }
}

pub fn body(record: &ConsumerRecord) -> &str {
    record.value_str().unwrap()
}

fn received(record: &ConsumerRecord) -> Received {
    let types: BTreeMap<String, String> = record
        .header_str("tower-outbox-types")
        .map(|types| serde_json::from_str(types).unwrap())
        .unwrap_or_default();
    let headers = record.headers.iter().map(|(name, value)| {
        let text = String::from_utf8(value.as_ref().unwrap().to_vec()).unwrap();
        let value = match types.get(name).map(String::as_str) {
            Some("int") => Scalar::Int(text.parse().unwrap()),
            Some("bool") => Scalar::Bool(text.parse().unwrap()),
            _ => text.into(),
        };
        (name.clone(), value)
    });
    Received { body: record.value.as_ref().unwrap().to_vec(), headers: headers.collect() }
}
