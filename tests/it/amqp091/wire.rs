//! The exact bytes on the wire, types and all.

use std::time::Duration;

use serde_json::{Value, json};
use tower_outbox::amqp091::{
    Amqp091, Amqp091Settings, Amqp091Source, Amqp091Subscription, Fedmsg, FedoraMessage, Severity,
};
use tower_outbox::envelope::Envelope;
use tower_outbox::source::{Source, Unsettled};
use tower_outbox::{Message, Messenger};

use crate::peers::{Brokers, RabbitQueue, unique};

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn headers_of_fedora_messaging_have_their_types() {
    let brokers = Brokers::running();
    let topic = unique("wire");
    let queue = RabbitQueue::declare(&brokers, "RABBIT1_AMQP", &topic).await;
    let message =
        Message::json(topic, &json!({"n": 1})).unwrap().with_severity(Severity::Warning).with_rpm("bash");
    Fedmsg::new(&Amqp091Settings::new([brokers.get("RABBIT1_AMQP")]))
        .unwrap()
        .send(vec![message])
        .await
        .unwrap();
    let found = queue.drain().await.remove(0);
    let types = json!({
        "fedora_messaging_schema": "S", "fedora_messaging_schema_package": "S", "fedora_messaging_severity": "I",
        "fedora_messaging_rpm_bash": "t", "sent-at": "S", "priority": "I",
    });
    assert_eq!(found["header_types"], types);
    assert_eq!(found["headers"]["fedora_messaging_schema"], "base.message");
    assert_eq!(found["headers"]["fedora_messaging_schema_package"], "fedora_messaging");
    assert_eq!((&found["content_encoding"], &found["delivery_mode"]), (&json!("utf-8"), &json!(2)));
    for unset in
        ["timestamp", "type", "app_id", "user_id", "correlation_id", "reply_to", "expiration", "priority"]
    {
        assert_eq!(found[unset], Value::Null, "{unset}");
    }
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_general_message_says_what_it_is() {
    let brokers = Brokers::running();
    let topic = unique("wire");
    let queue = RabbitQueue::declare(&brokers, "RABBIT1_AMQP", &format!("p.{topic}")).await;
    let mut settings = Amqp091Settings::new([brokers.get("RABBIT1_AMQP")]);
    settings.broker.topic_prefix = Some("p".to_owned());
    let message = Message::json(topic.clone(), &json!({"n": 1}))
        .unwrap()
        .with_header("s", "text")
        .with_header("i", 7)
        .with_header("b", true)
        .with_header("f", 1.5)
        .with_priority(9)
        .with_expiry(Duration::from_secs(60));
    let id = message.id().to_string();
    Amqp091::new(&settings).unwrap().send(vec![message]).await.unwrap();
    let found = queue.drain().await.remove(0);
    assert_eq!(found["routing_key"], format!("p.{topic}"));
    assert_eq!((&found["message_id"], &found["content_type"]), (&json!(id), &json!("application/json")));
    assert_eq!(found["header_types"], json!({"s": "S", "i": "l", "b": "t", "f": "d"}));
    assert_eq!(
        (&found["delivery_mode"], &found["priority"], &found["expiration"]),
        (&json!(2), &json!(9), &json!("60000"))
    );
    assert!(found["timestamp"].as_u64().is_some());
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn cloudevents_are_on_the_wire_in_the_mode_of_the_settings() {
    let brokers = Brokers::running();
    let topic = unique("wire");
    let queue = RabbitQueue::declare(&brokers, "RABBIT1_AMQP", &topic).await;
    let message = Message::json(topic.clone(), &json!({"n": 1}))
        .unwrap()
        .with_header("traceparent", "00-ab-cd-01")
        .with_header("correlation_id", "abc");
    for envelope in [Envelope::CloudEvents, Envelope::CloudEventsStructured] {
        let mut settings = Amqp091Settings::new([brokers.get("RABBIT1_AMQP")]);
        settings.broker.envelope = envelope;
        settings.broker.event_source = Some("/orders".to_owned());
        Amqp091::new(&settings).unwrap().send(vec![message.clone()]).await.unwrap();
    }
    let found = queue.drain().await;
    let [binary, structured] = found.as_slice() else { panic!("{found:?}") };
    let id = message.id().to_string();
    assert_eq!((&binary["routing_key"], &structured["routing_key"]), (&json!(topic), &json!(topic)));
    assert_eq!((&binary["body"], &binary["content_type"]), (&json!("{\"n\":1}"), &json!("application/json")));
    let headers = binary["headers"].as_object().unwrap();
    for (name, value) in [
        ("cloudEvents:specversion", "1.0"),
        ("cloudEvents:id", &id),
        ("cloudEvents:source", "/orders"),
        ("cloudEvents:type", &topic),
        ("cloudEvents:traceparent", "00-ab-cd-01"),
        ("correlation_id", "abc"),
    ] {
        assert_eq!(headers[name], value, "{name}");
    }
    assert_eq!(structured["content_type"], "application/cloudevents+json");
    assert_eq!(structured["headers"], json!({"correlation_id": "abc"}));
    let event: Value = serde_json::from_str(structured["body"].as_str().unwrap()).unwrap();
    assert_eq!((&event["id"], &event["data"]), (&json!(id), &json!({"n": 1})));
    assert_eq!((&event["traceparent"], &event["source"]), (&json!("00-ab-cd-01"), &json!("/orders")));
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn cloudevents_of_either_mode_are_opened_also_when_they_come_again() {
    let brokers = Brokers::running();
    let topic = unique("wire");
    let queue = RabbitQueue::declare(&brokers, "RABBIT1_AMQP", &topic).await;
    let mut settings = Amqp091Settings::new([brokers.get("RABBIT1_AMQP")]);
    let message =
        Message::json(topic.clone(), &json!({"n": 1})).unwrap().with_key("k").with_header("myext", 7);
    for envelope in [Envelope::CloudEvents, Envelope::CloudEventsStructured, Envelope::Plain] {
        settings.broker.envelope = envelope;
        Amqp091::new(&settings).unwrap().send(vec![message.clone()]).await.unwrap();
    }
    settings.broker.envelope = Envelope::CloudEvents;
    let source = Amqp091Source::new(&settings, &Amqp091Subscription::new(queue.name())).unwrap();
    let next = async || -> Unsettled { source.receive(1).await.unwrap().remove(0) };
    let assert_opened = |delivery: &Unsettled, attempt| {
        let view = delivery.view().unwrap();
        let found = view.message();
        assert_eq!(
            (found.id(), found.topic(), found.body()),
            (message.id(), message.topic(), message.body())
        );
        assert_eq!((found.key(), found.content_type()), (Some("k"), "application/json"));
        assert_eq!(
            (found.header("myext"), found.header("ce-source")),
            (Some(&7.into()), Some(&"/tower-outbox".into()))
        );
        assert_eq!(view.attempt(), attempt);
    };
    for _ in 0..2 {
        let delivery = next().await;
        assert_opened(&delivery, 1);
        delivery.retry(Duration::from_millis(50), "not now").await.unwrap();
    }
    let plain = next().await;
    assert!(plain.view().unwrap_err().contains("not a CloudEvent"));
    plain.reject("it cannot be read").await.unwrap();
    for _ in 0..2 {
        let delivery = next().await;
        assert_opened(&delivery, 2);
        delivery.ack().await.unwrap();
    }
    source.close(Duration::from_secs(5)).await;
    for made in [".dead", ".retry.quorum.50"] {
        let name = format!("{}{made}", queue.name());
        brokers.python("rabbit.py", &[brokers.get("RABBIT1_AMQP"), "delete", &name]).await;
    }
    assert!(queue.drain().await.is_empty());
}
