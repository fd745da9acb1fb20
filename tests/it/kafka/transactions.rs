//! Transactions of other producers. Tansu isolates none, so it is the broker of the client library's test kit.

use std::time::Duration;

use krafka::producer::TransactionalProducer;
use krafka::{Kafka as Client, Record};
use tokio::time::timeout;
use tower_outbox::Messenger;
use tower_outbox::kafka::{Kafka, KafkaSource, KafkaSubscription};
use tower_outbox::source::Source;

use super::faults::{cluster, messages, settings};
use super::raw::{QUIET, SOON};
use super::receiving::{receive, text};

async fn send(producer: &TransactionalProducer, value: &'static str) {
    producer.begin().unwrap();
    let _ = producer.send(Record::new("t", value)).await.unwrap();
    producer.flush().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_a_transaction_arrive_when_it_is_committed_and_never_when_it_is_aborted() {
    let broker = cluster(1, 1).await;
    let client = Client::builder(broker.bootstrap_servers()).connect().await.unwrap();
    let producer = client.producer().build_transactional("other").await.unwrap();
    send(&producer, "aborted").await;
    producer.abort().await.unwrap();
    send(&producer, "committed").await;
    let source = KafkaSource::new(&settings(&broker), &KafkaSubscription::new("g", ["t"])).unwrap();
    if let Ok(early) = timeout(3 * QUIET, source.receive(1)).await {
        panic!("it comes before its end: {early:?}");
    }
    assert_eq!(source.backlog().await, Some(0), "none of them can be received");
    Kafka::new(&settings(&broker)).unwrap().send(messages(0..1)).await.unwrap();
    producer.commit().await.unwrap();
    let mut found = Vec::new();
    for delivery in receive(&source, 2).await {
        found.push(text(&delivery).to_owned());
        delivery.ack().await.unwrap();
    }
    assert_eq!(found, ["committed", "0"]);
    let empty = async {
        while source.backlog().await != Some(0) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(SOON, empty).await.expect("the marks of transactions count as messages");
    source.close(SOON).await;
}
