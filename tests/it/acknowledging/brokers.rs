//! Over real brokers: two buses, of which one confirms to the other.

use std::collections::HashSet;
use std::path::Path;

use axum::http::StatusCode;
use tower_outbox::message::headers::ACK;
use tower_outbox::{Bus, Messenger, Settings};

use super::Handled;
use crate::nats::raw::Place;
use crate::peers::{Brokers, unique};
use crate::support::MINUTE;
use crate::support::databases::Database;
use crate::support::stores::until;

/// A sender and a receiver over one broker; the receiver's consumer gets `topic`.
async fn pair(folder: &Path, sender: &str, receiver: &str) -> (Bus, Bus) {
    let outbox = folder.join("outbox");
    let sender = format!(
        "{sender}\nDELIVERY = 'durable'\nACKNOWLEDGED = true\n[OUTBOX]\nPATH = '{}'\n",
        outbox.display()
    );
    let start = async |text: &str| Bus::start(&toml::from_str::<Settings>(text).unwrap()).await.unwrap();
    (start(&sender).await, start(receiver).await)
}

async fn is_acknowledged_end_to_end(topic: String, sender: &str, receiver: &str) {
    let folder = tempfile::tempdir().unwrap();
    let (sender, receiver) = pair(folder.path(), sender, receiver).await;
    let handled = Handled::default();
    let consumer = receiver.consumer("orders", handled.router(StatusCode::OK)).unwrap();
    let consumer = tokio::spawn(consumer.into_future());
    // Also while the queue of the consumer is being made.
    let message = || tower_outbox::Message::json(topic.clone(), &7).unwrap();
    sender.messenger().send((0..100).map(|_| message()).collect()).await.unwrap();
    until("all have left", || async { sender.outbox().unwrap().status().await.unwrap().counts.pending == 0 })
        .await;
    let mut ids: Vec<_> = handled.all().iter().map(|message| message.id()).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 100);
    assert!(sender.health().await.is_up());
    assert!(sender.shutdown(MINUTE).await.is_clean() && receiver.shutdown(MINUTE).await.is_clean());
    assert_eq!(consumer.await.unwrap(), 0);
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn rabbitmq_is_acknowledged_end_to_end() {
    let (brokers, topic) = (Brokers::running(), unique("order.created"));
    for envelope in ["plain", "cloudevents", "cloudevents_structured"] {
        let broker =
            format!("BACKEND = 'amqp091'\nURLS = '{}'\nENVELOPE = '{envelope}'", brokers.get("RABBIT1_AMQP"));
        let queue = unique("orders");
        let receiver = format!("{broker}\n[CONSUMERS.orders]\nQUEUE = '{queue}'\nBINDINGS = '{topic}'");
        is_acknowledged_end_to_end(topic.clone(), &broker, &receiver).await;
    }
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn fedora_messages_are_acknowledged_end_to_end() {
    let (brokers, topic) = (Brokers::running(), unique("order.created"));
    let broker =
        format!("BACKEND = 'fedmsg'\nURLS = '{}'\nTOPIC_PREFIX = 'org.fedora'", brokers.get("RABBIT1_AMQP"));
    let receiver =
        format!("{broker}\n[CONSUMERS.orders]\nQUEUE = '{}'\nBINDINGS = '{topic}'", unique("orders"));
    let folder = tempfile::tempdir().unwrap();
    let (sender, receiver) = pair(folder.path(), &broker, &receiver).await;
    let handled = Handled::default();
    tokio::spawn(receiver.consumer("orders", handled.router(StatusCode::OK)).unwrap().into_future());
    let message = tower_outbox::Message::json(topic, &serde_json::json!({})).unwrap();
    sender.messenger().send(vec![message]).await.unwrap();
    until("it has left", || async { sender.outbox().unwrap().status().await.unwrap().counts.pending == 0 })
        .await;
    assert!(handled.len() >= 1);
    assert!(sender.shutdown(MINUTE).await.is_clean() && receiver.shutdown(MINUTE).await.is_clean());
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn activemq_is_acknowledged_end_to_end() {
    let (brokers, topic) = (Brokers::running(), unique("order.created"));
    if brokers.without_activemq("activemq_is_acknowledged_end_to_end") {
        return;
    }
    let broker = format!("BACKEND = 'amqp10'\nURLS = '{}'", brokers.get("ACTIVEMQ_AMQP"));
    let receiver = format!("{broker}\n[CONSUMERS.orders]\nADDRESS = '{topic}'");
    is_acknowledged_end_to_end(topic, &broker, &receiver).await;
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn rabbitmq_over_amqp10_is_acknowledged_end_to_end() {
    let (brokers, topic) = (Brokers::running(), unique("order.created"));
    let broker =
        format!("BACKEND = 'amqp10'\nURLS = '{}'\nADDRESS = '/topic/{{topic}}'", brokers.get("RABBIT1_AMQP"));
    let receiver = format!("{broker}\n[CONSUMERS.orders]\nADDRESS = '/topic/{topic}'");
    is_acknowledged_end_to_end(topic, &broker, &receiver).await;
}

/// Each instance waits for the confirmations of its own messages, at an address of its own.
#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn instances_that_share_an_outbox_take_no_confirmation_from_each_other() {
    let (brokers, database, topic) = (Brokers::running(), Database::new().await, unique("order.created"));
    let broker = format!("BACKEND = 'amqp091'\nURLS = '{}'", brokers.get("RABBIT1_AMQP"));
    let receiver =
        format!("{broker}\n[CONSUMERS.orders]\nQUEUE = '{}'\nBINDINGS = '{topic}'", unique("orders"));
    let sender = format!(
        "{broker}\nDELIVERY = 'transactional'\nACKNOWLEDGED = true\nACK_TIMEOUT = '2s'\n[OUTBOX]\nDATABASE_URL = '{}'\nLEASE = '2s'\n",
        database.url
    );
    let start = async |text: &str| Bus::start(&toml::from_str::<Settings>(text).unwrap()).await.unwrap();
    let (first, second, receiver) = (start(&sender).await, start(&sender).await, start(&receiver).await);
    let handled = Handled::default();
    tokio::spawn(receiver.consumer("orders", handled.router(StatusCode::OK)).unwrap().into_future());
    let message = |n| tower_outbox::Message::json(topic.clone(), &n).unwrap();
    for n in 0..20 {
        first.messenger().send((0..5).map(|_| message(n)).collect()).await.unwrap();
        second.messenger().send((0..5).map(|_| message(n)).collect()).await.unwrap();
    }
    let pending = async || first.outbox().unwrap().status().await.unwrap().counts.pending;
    until("all have left", || async { pending().await == 0 }).await;
    let addresses: HashSet<_> =
        handled.all().iter().map(|message| super::text(message, ACK).to_owned()).collect();
    assert_eq!(addresses.len(), 2, "{addresses:?}");
    // One takes over what the other leaves.
    assert!(first.shutdown(MINUTE).await.is_clean());
    second.messenger().send((0..100).map(message).collect()).await.unwrap();
    until("all have left", || async { second.outbox().unwrap().status().await.unwrap().counts.pending == 0 })
        .await;
    assert!(second.shutdown(MINUTE).await.is_clean() && receiver.shutdown(MINUTE).await.is_clean());
    database.drop().await;
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn mosquitto_is_acknowledged_end_to_end() {
    let (brokers, topic) = (Brokers::running(), unique("order.created"));
    for (envelope, version) in
        [("plain", "5"), ("cloudevents", "5"), ("mqfactory", "5"), ("mqfactory", "3.1.1")]
    {
        let client = unique(envelope);
        let broker = format!(
            "BACKEND = 'mqtt'\nURLS = '{}'\nENVELOPE = '{envelope}'\nCLIENT_ID = '{client}'\nVERSION = '{version}'",
            brokers.get("MOSQUITTO1_MQTT")
        );
        let receiver = format!("{broker}\n[CONSUMERS.orders]\nTOPICS = '{}'", topic.replace('.', "/"));
        is_acknowledged_end_to_end(topic.clone(), &broker, &receiver).await;
    }
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn nats_is_acknowledged_end_to_end() {
    for envelope in ["plain", "cloudevents", "cloudevents_structured"] {
        let place = Place::new().await;
        let broker = format!("BACKEND = 'nats'\nURLS = '{}'\nENVELOPE = '{envelope}'", place.url);
        let receiver =
            format!("{broker}\n[CONSUMERS.orders]\nSTREAM = '{}'\nDURABLE = 'orders'", place.stream);
        is_acknowledged_end_to_end(place.topic.clone(), &broker, &receiver).await;
    }
}
