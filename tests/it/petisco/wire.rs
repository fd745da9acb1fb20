//! Messages from us to petisco.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tower_outbox::amqp091::Amqp091;
use tower_outbox::envelope::PetiscoMessage;
use tower_outbox::{Message, Messenger};

use super::{Vhost, lasting, mail};
use crate::peers::Brokers;

fn user_created() -> Message {
    Message::json("user.created", &json!({"n": 7, "name": "größe ☃"}))
        .unwrap()
        .with_time(SystemTime::UNIX_EPOCH + Duration::from_micros(1_795_240_571_788_524))
        .with_header("correlation_id", "abc")
        .with_key("user-7")
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn the_subscribers_of_petisco_get_what_we_send() {
    let brokers = Brokers::running();
    let vhost = Vhost::create(&brokers).await;
    lasting().topology().apply(&vhost.settings()).await.unwrap();
    let mut consumer = vhost.petisco_consumer(2, 0).await;
    let event = user_created();
    let command = Message::json("persist.user", &json!({"n": 8})).unwrap().into_command();
    let messenger = Amqp091::new(&vhost.settings()).unwrap();
    messenger.send(vec![event.clone(), command.clone()]).await.unwrap();
    let mut received = [consumer.event("message").await, consumer.event("message").await];
    received.sort_by_key(|message| message["name"] != "user.created");
    let [found, found_command] = received;
    assert_eq!(found["by"], "mail");
    assert_eq!(found["id"], event.id().to_string());
    assert_eq!((&found["name"], &found["version"]), (&json!("user.created"), &json!(1)));
    assert_eq!(found["occurred_on"], "2026-11-21 05:56:11.788524+00:00");
    assert_eq!(found["attributes"], json!({"n": 7, "name": "größe ☃"}));
    assert_eq!(found["meta"], json!({"correlation_id": "abc", "tower-outbox-key": "user-7"}));
    assert_eq!(found["type"], "domain_event");
    assert_eq!((&found_command["by"], &found_command["type"]), (&json!("persist"), &json!("command")));
    assert_eq!(found_command["attributes"], json!({"n": 8}));
    // The store gets both.
    let stored = vhost.drain("store").await;
    assert_eq!(stored.len(), 2);
    assert_eq!((&stored[0]["headers"], &stored[0]["delivery_mode"]), (&json!({}), &json!(2)));
    let bodies: Vec<Value> = stored
        .iter()
        .map(|message| serde_json::from_str(message["body"].as_str().unwrap()).unwrap())
        .collect();
    assert_eq!(bodies[1]["data"]["id"], command.id().to_string());
    vhost.delete().await;
}

/// It counts attempts in a header, and loses a message that comes with other headers.
#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn petisco_tries_again_what_we_send() {
    let brokers = Brokers::running();
    let vhost = Vhost::create(&brokers).await;
    lasting().topology().apply(&vhost.settings()).await.unwrap();
    let mut consumer = vhost.petisco_consumer(2, 2).await;
    Amqp091::new(&vhost.settings()).unwrap().send(vec![user_created()]).await.unwrap();
    for failed in [true, true, false] {
        let found = consumer.event("message").await;
        assert_eq!((&found["failed"], &found["attributes"]["n"]), (&json!(failed), &json!(7)));
    }
    vhost.delete().await;
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn what_is_no_object_is_refused_and_the_rest_is_sent() {
    let brokers = Brokers::running();
    let vhost = Vhost::create(&brokers).await;
    lasting().topology().apply(&vhost.settings()).await.unwrap();
    let messenger = Amqp091::new(&vhost.settings()).unwrap();
    let list = Message::json("user.created", &json!([1])).unwrap();
    assert!(messenger.check(&list).unwrap_err().to_string().contains("must be a JSON object"));
    messenger.check(&user_created()).unwrap();
    let nobodys =
        Message::json("user.deleted.twice", &json!({})).unwrap().with_header("petisco-type", "message");
    let unsent = messenger
        .send(vec![list.clone(), user_created(), nobodys.clone(), list.clone(), user_created()])
        .await
        .unwrap_err();
    assert!(unsent.iter().all(|(_, failure)| !failure.is_transient()), "{unsent}");
    let ids: Vec<_> = unsent.iter().map(|(message, _)| message.id()).collect();
    assert_eq!(ids, [list.id(), nobodys.id(), list.id()]);
    assert_eq!(vhost.drain(&lasting().queue_of(&mail())).await.len(), 2);
    vhost.delete().await;
}
