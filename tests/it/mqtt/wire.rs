//! The shape of messages on the wire.

use std::time::Duration;

use tower_outbox::envelope::Envelope;
use tower_outbox::{Message, Messenger, mqtt};

use super::raw::{Place, body, next, property, topic};
use crate::peers::{Brokers, unique};

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_message_is_published_with_its_fields_as_properties() {
    let brokers = Brokers::running();
    let prefix = unique("shop");
    let place = Place { topic: format!("{prefix}/#"), ..Place::new(&brokers) };
    let mut raw = place.raw().await;
    let mut settings = place.settings();
    settings.broker.topic_prefix = Some(prefix.clone());
    let messenger = mqtt::Mqtt::new(&settings).unwrap();
    let message = Message::json("order.created", &serde_json::json!({"id": 7}))
        .unwrap()
        .with_header("tenant", "größe")
        .with_key("order-7")
        .with_expiry(Duration::from_secs(90));
    messenger.send(vec![message.clone()]).await.unwrap();
    let publish = raw.next().await;
    assert_eq!((topic(&publish), body(&publish)), (&*format!("{prefix}/order/created"), r#"{"id":7}"#));
    let properties = publish.properties.clone().unwrap();
    assert_eq!(properties.content_type.as_deref(), Some("application/json"));
    assert!(matches!(properties.message_expiry_interval, Some(89..=90)));
    assert_eq!(property(&publish, "tenant"), Some("größe"));
    assert_eq!(property(&publish, "tower-outbox-id"), Some(&*message.id().to_string()));
    assert_eq!(property(&publish, "tower-outbox-key"), Some("order-7"));
    assert!(property(&publish, "tower-outbox-time").unwrap().ends_with('Z'));
    assert_eq!((publish.retain, publish.qos), (false, rumqttc::QoS::AtLeastOnce));
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_retained_message_comes_to_later_subscribers() {
    let brokers = Brokers::running();
    let place = Place::new(&brokers);
    let messenger = place.messenger();
    for value in ["1", "2"] {
        messenger.send(vec![mqtt::retain(place.message(value))]).await.unwrap();
    }
    messenger.send(vec![place.message("not retained")]).await.unwrap();
    let source = mqtt::MqttSource::new(&place.settings(), &place.subscription()).unwrap();
    let last = next(&source).await;
    assert_eq!(super::raw::text(&last), "2");
    assert!(mqtt::is_retained(last.view().unwrap().message()));
    last.ack().await.unwrap();
    messenger.send(vec![mqtt::retain(place.message(""))]).await.unwrap();
    next(&source).await.ack().await.unwrap();
    place.raw().await.assert_quiet().await;
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn each_quality_of_service_arrives() {
    let brokers = Brokers::running();
    for qos in 0..=2 {
        let place = Place::new(&brokers);
        let mut raw = place.raw().await;
        let messenger = mqtt::Mqtt::new(&place.settings().with_qos(qos)).unwrap();
        messenger.send((0..20).map(|n| place.message(&n.to_string())).collect()).await.unwrap();
        for n in 0..20 {
            assert_eq!(body(&raw.next().await), n.to_string(), "QoS {qos}");
        }
    }
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn every_envelope_is_received_as_it_was_sent() {
    let brokers = Brokers::running();
    for envelope in
        [Envelope::Plain, Envelope::CloudEvents, Envelope::CloudEventsStructured, Envelope::Petisco]
    {
        let place = Place::new(&brokers);
        // Events of petisco go below the organization.
        let (mut settings, organization) = (place.settings(), unique("acme"));
        settings.broker = settings.broker.with_envelope(envelope).with_service(&organization, "shop");
        let below = format!("{organization}/#");
        let subscription = place.subscription().with_topic(&*below);
        let name = place.topic.clone();
        let mut raw = place.raw().await;
        raw.subscribe(&below).await;
        let message =
            Message::json(name, &serde_json::json!({"id": 7})).unwrap().with_header("tenant", "acme");
        let source = mqtt::MqttSource::new(&settings, &subscription).unwrap();
        // Retained, so that it does not matter when the source subscribes.
        let messenger = mqtt::Mqtt::new(&settings).unwrap();
        messenger.send(vec![mqtt::retain(message.clone())]).await.unwrap();
        let sent_to = loop {
            let publish = raw.next().await;
            let text = format!("{publish:?}");
            if text.contains(&message.id().to_string()) {
                break topic(&publish).to_owned();
            }
        };
        let got = loop {
            let got = next(&source).await;
            if got.view().is_ok_and(|view| view.message().id() == message.id()) {
                break got;
            }
            got.ack().await.unwrap();
        };
        let view = got.view().unwrap().message();
        assert_eq!((view.topic(), view.body()), (message.topic(), message.body()), "{envelope:?}");
        assert_eq!(view.header("tenant"), message.header("tenant"), "{envelope:?}");
        raw.client.publish(sent_to, "", rumqttc::PublishOptions::at_least_once().retained()).await.unwrap();
        raw.drain().await;
    }
}
