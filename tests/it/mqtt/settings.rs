//! From settings to a bus over MQTT.

use std::time::Duration;

use tower_outbox::mqtt::{Mqtt, MqttSettings, MqttSource, MqttSubscription};
use tower_outbox::{Bus, Message, Messenger, Settings};

use super::raw::{Place, body};
use crate::peers::{Brokers, unique};

fn parse(text: &str) -> Settings {
    #[derive(serde::Deserialize)]
    struct File {
        #[serde(rename = "MESSAGE_BUS")]
        message_bus: Settings,
    }
    toml::from_str::<File>(text).unwrap().message_bus
}

/// Trap M3 of the client library: it sends a topic with U+0000, over which brokers close the connection.
#[tokio::test]
async fn a_topic_that_closes_connections_is_refused_at_enqueue() {
    assert!(
        Message::new("a\0b", "").is_err()
            && Message::new("a.#", "").is_err()
            && Message::new("a.+", "").is_err()
    );
    let settings = MqttSettings::new(["mqtt://127.0.0.1:1"]);
    for topic in ["a.\u{ffff}", "a.\u{fdd0}"] {
        let message = Message::new(topic, "").unwrap();
        let error = Mqtt::new(&settings).unwrap().check(&message).unwrap_err().to_string();
        assert!(error.contains("U+F"), "{error}");
    }
    for prefix in ["a\0", "a.#", "+"] {
        let mut settings = settings.clone();
        settings.broker.topic_prefix = Some(prefix.to_owned());
        assert!(Mqtt::new(&settings).unwrap_err().to_string().contains("TOPIC_PREFIX"), "{prefix:?}");
    }
    let long = settings.clone().with_separator("x".repeat(255));
    let message = Message::new(vec!["a"; 127].join("."), "").unwrap();
    Mqtt::new(&long).unwrap().check(&message).unwrap();
    let error = MqttSource::new(&settings, &MqttSubscription::new("a").with_dead_letter_topic("a\0"));
    assert!(error.unwrap_err().to_string().contains("DEAD_LETTER_TOPIC"));
}

#[test]
fn wrong_settings_are_named_at_the_start() {
    for (url, why) in [("amqp://h", "mqtt"), ("mqtt://h/path", "path"), ("mqtt://", "host"), ("h", "URL")] {
        let error = Mqtt::new(&MqttSettings::new([url])).unwrap_err().to_string();
        assert!(error.contains(why) && error.contains("mqtts://host:8883"), "{error}");
    }
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_bus_of_settings_sends_and_receives() {
    let brokers = Brokers::running();
    let place = Place::new(&brokers);
    let mut raw = place.raw().await;
    let settings = parse(&format!(
        "[MESSAGE_BUS]\nBACKEND = \"mqtt\"\nURLS = [\"{}\"]\nQOS = 1\nMANDATORY = true\nSEPARATOR = \"/\"\nCLIENT_ID = \"app\"\n\
         [MESSAGE_BUS.CONSUMERS.all]\nTOPICS = [\"{}\"]\nGROUP = \"g\"\nCLIENT_ID = \"{}\"\nSESSION_EXPIRY = \"1m\"\nPREFETCH = 7\n",
        place.url,
        place.topic,
        unique("client"),
    ));
    let bus = Bus::start(&settings).await.unwrap();
    bus.messenger().send(vec![place.message("1")]).await.unwrap();
    assert_eq!(body(&raw.next().await), "1");
    let _ = bus.shutdown(Duration::from_secs(5)).await;
}
