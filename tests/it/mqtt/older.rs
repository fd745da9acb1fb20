//! MQTT 3.1.1, by setting: at mosquitto, and at RabbitMQ 3.10 and ActiveMQ 5.17, which speak nothing else.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tower_outbox::amqp10::{Amqp10Settings, Amqp10Source, Amqp10Subscription};
use tower_outbox::amqp091::{Amqp091Settings, Amqp091Source, Amqp091Subscription};
use tower_outbox::envelope::Envelope;
use tower_outbox::mqtt::{
    BrokerSettings, Mqtt, MqttSettings, MqttSource, MqttSubscription, MqttVersion, retain,
};
use tower_outbox::source::Source;
use tower_outbox::testing::messenger_conformance::{self, MessengerCapabilities, Received};
use tower_outbox::testing::source_conformance::{SourceCapabilities, SourceHarness, settling};
use tower_outbox::{Message, Messenger};

use super::raw::{QUIET, Raw, SOON, body, next, text};
use crate::peers::{Brokers, unique};

const BROKERS: [&str; 3] = ["MOSQUITTO1_MQTT", "RABBIT1_MQTT", "ACTIVEMQ_MQTT"];

/// The brokers that run.
fn keys(brokers: &Brokers, test: &str) -> Vec<&'static str> {
    let without_activemq = brokers.without_activemq(test);
    BROKERS.into_iter().filter(|key| !(without_activemq && *key == "ACTIVEMQ_MQTT")).collect()
}

/// The names of a test at one broker.
struct Older {
    settings: MqttSettings,
    topic: String,
}

impl Older {
    fn at(brokers: &Brokers, key: &str, envelope: Envelope) -> Self {
        let broker = BrokerSettings::new([brokers.get(key)]).with_envelope(envelope);
        Self { settings: MqttSettings::from(broker).with_version(MqttVersion::V3), topic: unique("older") }
    }

    fn messenger(&self) -> Mqtt {
        Mqtt::new(&self.settings).unwrap()
    }

    fn subscription(&self) -> MqttSubscription {
        MqttSubscription::new(&self.topic).with_client_id(unique("older")).with_prefetch(200)
    }

    /// A source that is subscribed, and empty: a broker of MQTT 3.1.1 does not say that nobody subscribes.
    async fn source(&self, subscription: &MqttSubscription) -> MqttSource {
        let source = MqttSource::new(&self.settings, subscription).unwrap();
        let messenger = self.messenger();
        let received = async {
            loop {
                messenger.send(vec![self.message("probe")]).await.unwrap();
                if let Ok(probes) = timeout(Duration::from_millis(50), source.receive(1)).await {
                    return probes.unwrap();
                }
            }
        };
        let mut probes = timeout(SOON, received).await.expect("it is not subscribed");
        loop {
            for probe in probes {
                probe.ack().await.unwrap();
            }
            match timeout(QUIET, source.receive(100)).await {
                Ok(more) => probes = more.unwrap(),
                Err(_) => return source,
            }
        }
    }

    fn message(&self, body: &str) -> Message {
        Message::new(self.topic.clone(), body.to_owned()).unwrap()
    }

    async fn send(&self, bodies: &[&str]) {
        self.messenger().send(bodies.iter().map(|body| self.message(body)).collect()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn mqtt_3_1_1_conforms() {
    let brokers = Brokers::running();
    for key in keys(&brokers, "mqtt_3_1_1_conforms") {
        let older = Older::at(&brokers, key, Envelope::Plain);
        let source = older.source(&older.subscription()).await;
        let inbox = async move |count| {
            let mut all = Vec::new();
            while all.len() < count {
                let received = next(&source).await;
                all.push(Received::from(received.view().unwrap().message()));
                received.ack().await.unwrap();
            }
            all
        };
        let capabilities =
            MessengerCapabilities::default().with_arrival(true).with_any_body(true).with_closes(true);
        messenger_conformance::all(Arc::new(older.messenger()), &older.topic, capabilities, inbox).await;
    }
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn messages_of_mqtt_3_1_1_come_in_order() {
    let brokers = Brokers::running();
    for key in keys(&brokers, "messages_of_mqtt_3_1_1_come_in_order") {
        let older = Older::at(&brokers, key, Envelope::Plain);
        let source = older.source(&older.subscription()).await;
        let bodies: Vec<_> = (0..200).map(|n| n.to_string()).collect();
        older.send(&bodies.iter().map(String::as_str).collect::<Vec<_>>()).await;
        for body in bodies {
            let received = next(&source).await;
            assert_eq!(text(&received), body, "{key}");
            received.ack().await.unwrap();
        }
    }
}

/// The part of the suite that needs neither fields and reasons that MQTT 3.1.1 does not carry, nor more than 20 unacknowledged messages.
#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_source_of_mqtt_3_1_1_passes_the_suite() {
    let brokers = Brokers::running();
    for key in keys(&brokers, "a_source_of_mqtt_3_1_1_passes_the_suite") {
        let harness = async || {
            let older = Older::at(&brokers, key, Envelope::CloudEventsStructured);
            let source = older.source(&older.subscription()).await;
            let none = || std::future::ready(Vec::new());
            SourceHarness::new(Arc::new(older.messenger()), Arc::new(source), older.topic, none)
                .with_capabilities(SourceCapabilities::default().with_history(true).with_redelivered(true))
        };
        settling::a_limit_is_kept(harness().await).await;
        settling::an_acknowledged_message_is_not_delivered_again(harness().await).await;
        settling::a_released_or_dropped_delivery_comes_again_without_an_attempt(harness().await).await;
        settling::a_retry_comes_after_its_delay_as_the_next_attempt(harness().await).await;
        // RabbitMQ sends no more while ten are unacknowledged, as all waiting retries are.
        if key != "RABBIT1_MQTT" {
            settling::a_waiting_retry_does_not_delay_others(harness().await).await;
        }
        settling::a_receive_that_is_dropped_loses_nothing(harness().await).await;
        settling::a_closed_source_says_so(harness().await).await;
    }
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_session_of_mqtt_3_1_1_is_kept_or_not() {
    let brokers = Brokers::running();
    for key in keys(&brokers, "a_session_of_mqtt_3_1_1_is_kept_or_not") {
        let older = Older::at(&brokers, key, Envelope::CloudEventsStructured);
        let kept = older.subscription();
        older.source(&kept).await.close(SOON).await;
        let forgotten = older.subscription().with_session_expiry(Duration::ZERO);
        older.source(&forgotten).await.close(SOON).await;
        older.send(&["1", "2"]).await;
        let source = MqttSource::new(&older.settings, &kept).unwrap();
        let texts = async |source: &MqttSource| {
            let mut texts = Vec::new();
            while let Ok(received) = timeout(QUIET, source.receive(1)).await {
                let received = received.unwrap().remove(0);
                texts.push(text(&received));
                received.ack().await.unwrap();
            }
            texts
        };
        // The probes of the other one came meanwhile.
        let mut all = texts(&source).await;
        all.retain(|text| text != "probe");
        assert_eq!(all, ["1", "2"], "{key}");
        let source = MqttSource::new(&older.settings, &forgotten).unwrap();
        assert_eq!(texts(&source).await, [""; 0], "{key}");
    }
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_dead_letter_of_mqtt_3_1_1_is_the_bare_payload() {
    let brokers = Brokers::running();
    for key in keys(&brokers, "a_dead_letter_of_mqtt_3_1_1_is_the_bare_payload") {
        let older = Older::at(&brokers, key, Envelope::CloudEventsStructured);
        let dead = Older { topic: unique("older-dead"), settings: older.settings.clone() };
        let letters = dead.source(&dead.subscription()).await;
        let source = older.source(&older.subscription().with_dead_letter_topic(&*dead.topic)).await;
        let sent = older.message("bad").with_header("tenant", "acme").with_key("k");
        older.messenger().send(vec![sent.clone()]).await.unwrap();
        next(&source).await.reject("never").await.unwrap();
        let letter = next(&letters).await;
        let message = letter.view().unwrap().message();
        assert_eq!((message.id(), message.body(), message.key()), (sent.id(), sent.body(), Some("k")));
        assert_eq!(message.header("tenant"), sent.header("tenant"));
        assert!(letter.view().unwrap().failures().is_empty());
        letter.ack().await.unwrap();
    }
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn messages_of_any_size_are_translated() {
    let brokers = Brokers::running();
    for key in keys(&brokers, "messages_of_any_size_are_translated") {
        let older = Older::at(&brokers, key, Envelope::Plain);
        let source = older.source(&older.subscription()).await;
        for size in [0, 1, 100, 116, 117, 16_300, 3_000_000] {
            older.send(&[&"x".repeat(size)]).await;
            let received = next(&source).await;
            assert_eq!(received.view().unwrap().message().body().len(), size, "{key}");
            received.ack().await.unwrap();
        }
    }
}

/// A client of MQTT 5 sees what was sent, and what it sends is received.
#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn both_versions_meet_at_mosquitto() {
    let brokers = Brokers::running();
    let older = Older::at(&brokers, BROKERS[0], Envelope::Plain);
    let mut raw = Raw::subscribed(brokers.get(BROKERS[0]), &older.topic).await;
    older.messenger().send(vec![retain(older.message("last"))]).await.unwrap();
    let seen = raw.next().await;
    assert_eq!((body(&seen), seen.properties.clone().unwrap_or_default()), ("last", Default::default()));
    let source = MqttSource::new(&older.settings, &older.subscription()).unwrap();
    let last = next(&source).await;
    assert!(tower_outbox::mqtt::is_retained(last.view().unwrap().message()));
    last.ack().await.unwrap();
    older.messenger().send(vec![retain(older.message(""))]).await.unwrap();
    next(&source).await.ack().await.unwrap();
    let properties =
        rumqttc::PublishProperties { content_type: Some("text/plain".into()), ..Default::default() };
    raw.publish(&older.topic, "of 5", properties).await;
    let received = next(&source).await;
    assert_eq!(text(&received), "of 5");
    assert_eq!(received.view().unwrap().message().content_type(), "application/octet-stream");
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_message_of_mqtt_3_1_1_is_in_a_queue_of_rabbitmq() {
    let brokers = Brokers::running();
    let older = Older::at(&brokers, "RABBIT1_MQTT", Envelope::CloudEventsStructured);
    let topic = format!("{}.created", older.topic);
    let rabbit = BrokerSettings::new([brokers.get("RABBIT1_AMQP")]);
    let mut subscription = Amqp091Subscription::new(unique("of-mqtt"));
    subscription.bindings = vec![topic.clone()];
    let source = Amqp091Source::new(&Amqp091Settings::from(rabbit), &subscription).unwrap();
    arrives(&older, topic, source).await;
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_message_of_mqtt_3_1_1_is_in_a_queue_of_activemq() {
    let brokers = Brokers::running();
    if brokers.without_activemq("a_message_of_mqtt_3_1_1_is_in_a_queue_of_activemq") {
        return;
    }
    let mut older = Older::at(&brokers, "ACTIVEMQ_MQTT", Envelope::CloudEventsStructured);
    older.settings.broker.topic_prefix = Some("VirtualTopic".to_owned());
    let queue = Amqp10Subscription::new(format!("Consumer.mqtt.VirtualTopic.{}", older.topic));
    let source = Amqp10Source::new(&Amqp10Settings::new([brokers.get("ACTIVEMQ_AMQP")]), &queue).unwrap();
    arrives(&older, older.topic.clone(), source).await;
}

/// Waits for an event in a queue of another protocol.
async fn arrives(older: &Older, topic: String, source: impl Source) {
    let send = async {
        loop {
            older.messenger().send(vec![Message::json(topic.clone(), &7).unwrap()]).await.unwrap();
        }
    };
    let received = tokio::select! {
        received = next(&source) => received,
        () = send => unreachable!(),
    };
    let event: serde_json::Value = serde_json::from_str(&text(&received)).unwrap();
    assert_eq!((&event["type"], &event["data"]), (&serde_json::json!(topic), &serde_json::json!(7)));
    received.ack().await.unwrap();
}

#[test]
fn what_mqtt_3_1_1_lacks_is_refused() {
    let settings = || MqttSettings::new(["mqtt://h"]).with_version(MqttVersion::V3);
    let refused = |settings: &MqttSettings| Mqtt::new(settings).unwrap_err().to_string();
    assert!(refused(&settings().with_mandatory(true)).starts_with("MANDATORY needs MQTT 5"));
    let mut events = settings();
    events.broker.envelope = Envelope::CloudEvents;
    assert!(refused(&events).contains("cloudevents_structured"));
    let messenger = Mqtt::new(&settings()).unwrap();
    let message = || Message::new("a.b", "x").unwrap();
    messenger.check(&message().with_header("tenant", "lost")).unwrap();
    for name in ["signature", "ack", "confirm", "reply-to"] {
        let error = messenger.check(&message().with_header(name, "x")).unwrap_err().to_string();
        assert!(error.contains("is lost with MQTT 3.1.1"), "{error}");
    }
    let good = || MqttSubscription::new("a");
    let mut clean = good();
    clean.clean_start = true;
    for (subscription, key) in [
        (good().with_group("g"), "GROUP"),
        (clean, "CLEAN_START"),
        (good().with_reply_topic("r"), "REPLY_TOPICS"),
    ] {
        let error = MqttSource::new(&settings(), &subscription).unwrap_err().to_string();
        assert!(error.starts_with(key), "{error}");
    }
}
