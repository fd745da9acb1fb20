//! The exact bytes on the wire, as an independent implementation sees them.

use std::time::Duration;

use serde_json::{Value, json};
use tower_outbox::amqp10::{Amqp10, Amqp10Settings, Amqp10Source, Amqp10Subscription, RhMsg};
use tower_outbox::envelope::Envelope;
use tower_outbox::source::Source;
use tower_outbox::{Message, Messenger};

use crate::peers::{Brokers, RabbitQueue, unique};

const EVENT: &str = r#"{"a": "b", "count": 7, "ok": true, "none": null, "f": 1.5, "list": [1], "new_value": {"c": "d", "n": 1}, "ü": "☃"}"#;

fn rhmsg_properties() -> Value {
    json!({"a": "b", "count": 7, "ok": true, "none": null, "DATA:c": "d", "DATA:n": 1, "ü": "☃"})
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn rhmsg_is_on_the_wire_as_python_rhmsg_sends_it() {
    let brokers = Brokers::running();
    let (mut peer, address) = brokers.proton(&["--sasl", "ANONYMOUS"]).await;
    let mut settings = Amqp10Settings::new([format!("amqp://{address}")]);
    settings.broker.topic_prefix = Some("VirtualTopic.eng.pdc.".to_owned());
    settings.broker.idle_timeout = Duration::from_secs(7);
    let messenger = RhMsg::new(&settings).unwrap();
    messenger.send(vec![Message::new(".compose.created", EVENT).unwrap()]).await.unwrap();

    let open = peer.event("open").await;
    assert_eq!(open["hostname"], "127.0.0.1");
    assert_eq!(open["sasl_mech"], "ANONYMOUS");
    assert_eq!(open["idle_timeout"], 3.5, "half of ours: {open}");
    let attach = peer.event("attach").await;
    assert_eq!(attach["address"], "topic://VirtualTopic.eng.pdc.compose.created");
    let message = peer.event("message").await;
    assert_eq!(message["body"], EVENT);
    assert_eq!(message["body_type"], "str");
    assert_eq!(message["properties"], rhmsg_properties());
    let types = json!({"a": "str", "count": "int", "ok": "bool", "none": "NoneType", "DATA:c": "str", "DATA:n": "int", "ü": "str"});
    assert_eq!(message["property_types"], types);
    assert_eq!(message["durable"], false);
    assert_eq!(message["priority"], 4);
    for unset in ["id", "to", "subject", "content_type", "content_encoding"] {
        assert_eq!(message[unset], Value::Null, "{unset} in {message}");
    }
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_general_message_says_what_it_is() {
    let brokers = Brokers::running();
    let (mut peer, address) = brokers.proton(&["--sasl", "ANONYMOUS"]).await;
    let mut settings = Amqp10Settings::new([format!("amqp://{address}")]);
    settings.address = Some("/exchange/amq.topic/{topic}".to_owned());
    let messenger = Amqp10::new(&settings).unwrap();
    let message = Message::json("user.created", &json!({"id": 7}))
        .unwrap()
        .with_header("s", "text")
        .with_header("i", 7)
        .with_header("b", true)
        .with_header("f", 1.5)
        .with_priority(9)
        .with_expiry(Duration::from_secs(60));
    let (id, time) = (message.id(), message.time());
    messenger.send(vec![message]).await.unwrap();

    assert_eq!(peer.event("attach").await["address"], "/exchange/amq.topic/user.created");
    let message = peer.event("message").await;
    assert_eq!(message["inferred"], true, "a data section: {message}");
    assert_eq!(message["id"], id.to_string());
    assert_eq!(message["subject"], "user.created");
    assert_eq!(message["content_type"], "application/json");
    assert_eq!(message["properties"], json!({"s": "text", "i": 7, "b": true, "f": 1.5}));
    assert_eq!((&message["durable"], &message["priority"]), (&json!(true), &json!(9)));
    assert_eq!(message["ttl"].as_f64().unwrap(), 60.0);
    let created = message["creation_time"].as_f64().unwrap();
    let expected = time.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    assert!((created - expected).abs() < 0.002, "{created} {expected}");
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn durable_priority_and_ttl_are_settable() {
    let brokers = Brokers::running();
    let (mut peer, address) = brokers.proton(&["--sasl", "ANONYMOUS"]).await;
    let mut settings = Amqp10Settings::new([format!("amqp://{address}")]);
    (settings.durable, settings.priority, settings.broker.ttl) =
        (Some(true), 7, Some(Duration::from_secs(5)));
    RhMsg::new(&settings).unwrap().send(vec![Message::new("a", "{}").unwrap()]).await.unwrap();
    let message = peer.event("message").await;
    assert_eq!(
        (&message["durable"], &message["priority"], &message["ttl"]),
        (&json!(true), &json!(7), &json!(5.0))
    );
}

/// ActiveMQ closes the second connection of a container id.
#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn every_connection_has_a_container_id_of_its_own_and_is_kept() {
    let brokers = Brokers::running();
    let (mut peer, address) = brokers.proton(&["--sasl", "ANONYMOUS"]).await;
    let settings = Amqp10Settings::new([format!("amqp://{address}")]);
    let mut ids = Vec::new();
    for _ in 0..2 {
        let messenger = Amqp10::new(&settings).unwrap();
        for _ in 0..3 {
            messenger.send(vec![Message::new("a", "x").unwrap()]).await.unwrap();
        }
        ids.push(peer.event("open").await["container_id"].clone());
        let mut attached = 0;
        for _ in 0..3 {
            loop {
                let line = peer.line().await;
                attached += usize::from(line["event"] == "attach");
                assert_ne!(line["event"], "open", "the connection is kept");
                if line["event"] == "message" {
                    break;
                }
            }
        }
        assert_eq!(attached, 1, "the link is kept");
    }
    assert_ne!(ids[0], ids[1]);
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn sasl_is_chosen_by_what_the_peer_offers() {
    let brokers = Brokers::running();
    let tls =
        ["server.pem", "server.key", "ca.pem"].map(|name| brokers.certificate(name).display().to_string());
    for (offered, user, chosen) in [
        ("EXTERNAL ANONYMOUS", "", "EXTERNAL"),
        ("ANONYMOUS", "", "ANONYMOUS"),
        ("PLAIN ANONYMOUS", "", "ANONYMOUS"),
    ] {
        let args = [
            "--sasl",
            offered,
            "--tls-cert",
            &tls[0],
            "--tls-key",
            &tls[1],
            "--tls-ca",
            &tls[2],
            "--require-client-cert",
        ];
        let (mut peer, address) = brokers.proton(&args).await;
        let mut settings = brokers.mutual_tls(&[]);
        settings.broker.urls = vec![format!("amqps://{user}{}", address.replace("127.0.0.1", "localhost"))];
        Amqp10::new(&settings).unwrap().send(vec![Message::new("a", "x").unwrap()]).await.unwrap();
        assert_eq!(peer.event("open").await["sasl_mech"], chosen, "offered {offered}");
    }
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn cloudevents_are_application_properties() {
    let brokers = Brokers::running();
    let (mut peer, address) = brokers.proton(&["--sasl", "ANONYMOUS"]).await;
    let mut settings = Amqp10Settings::new([format!("amqp://{address}")]);
    settings.broker.envelope = Envelope::CloudEvents;
    let message =
        Message::json("user.created", &json!({"id": 7})).unwrap().with_header("correlation_id", "abc");
    Amqp10::new(&settings).unwrap().send(vec![message.clone()]).await.unwrap();
    let found = peer.event("message").await;
    let properties = &found["properties"];
    assert_eq!(properties["cloudEvents:id"], message.id().to_string());
    assert_eq!(properties["cloudEvents:type"], "user.created");
    assert_eq!(properties["cloudEvents:source"], "/tower-outbox");
    assert_eq!(properties["correlation_id"], "abc");
    assert_eq!(found["content_type"], "application/json");
    settings.broker.envelope = Envelope::Petisco;
    assert!(Amqp10::new(&settings).unwrap_err().to_string().contains("ORGANIZATION"));
    settings.broker.envelope = Envelope::CloudEvents;
    assert!(RhMsg::new(&settings).unwrap_err().to_string().contains("ENVELOPE is not for this backend"));
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn envelopes_are_opened_by_the_source_of_the_same_settings() {
    let brokers = Brokers::running();
    let topic = unique("wire");
    let queue = RabbitQueue::declare(&brokers, "RABBIT1_AMQP", &topic).await;
    let mut settings = Amqp10Settings::new([brokers.get("RABBIT1_AMQP")]);
    settings.address = Some(format!("/topic/{topic}"));
    (settings.broker.organization, settings.broker.service) =
        (Some("acme".to_owned()), Some("orders".to_owned()));
    let message =
        Message::json(topic, &json!({"n": 1})).unwrap().with_key("k").with_header("correlation_id", "abc");
    for envelope in [Envelope::CloudEvents, Envelope::CloudEventsStructured, Envelope::Petisco] {
        settings.broker.envelope = envelope;
        Amqp10::new(&settings).unwrap().send(vec![message.clone()]).await.unwrap();
        let source = Amqp10Source::new(&settings, &Amqp10Subscription::new(queue.address())).unwrap();
        let delivery = source.receive(1).await.unwrap().remove(0);
        let found = delivery.view().unwrap().message().clone();
        delivery.ack().await.unwrap();
        assert_eq!(found.id(), message.id());
        assert_eq!((found.topic(), found.body(), found.key()), (message.topic(), message.body(), Some("k")));
        assert_eq!(found.header("correlation_id"), Some(&"abc".into()), "{envelope:?}");
        source.close(Duration::from_secs(5)).await;
    }
    settings.broker.envelope = Envelope::CloudEvents;
    assert!(Amqp10Source::rhmsg(&settings, &Amqp10Subscription::new("q")).is_err());
    queue.drain().await;
}
