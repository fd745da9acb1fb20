//! Decoding of received messages.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rumqttc::{Publish, PublishProperties};
use uuid::Uuid;

use super::names::printable;
use super::outgoing::{ATTRIBUTE, CORRELATION, ID, Outgoing, REPLY_TO, TIME, TYPES};
use super::retain::RETAIN;
use super::settings::MqttSettings;
use crate::envelope::Envelope;
use crate::message::headers::{self, start_of};
use crate::message::topic::Topic;
use crate::message::{FailedAttempt, Message, Scalar, foreign_id};
use crate::util::error::{BoxError, Chain};
use crate::util::rfc3339;

/// Headers of ours, which are ignored in received messages: no message comes back here with them.
const OURS: [&str; 7] = [
    headers::TOPIC,
    headers::QUEUE,
    headers::ATTEMPT,
    headers::FAILURES,
    headers::REASON,
    headers::EXPIRY,
    RETAIN,
];
/// The most bytes of a reason in a dead letter.
const REASON_LEN: usize = 1_000;

/// Reads the messages of one subscription.
pub(super) struct Reader {
    pub(super) settings: Arc<MqttSettings>,
    /// The name of the source.
    pub(super) source: Arc<str>,
}

impl Reader {
    /// The message, or why it cannot be read.
    ///
    /// `arrived` is the time, and the id of a message without one.
    pub(super) fn read(&self, publish: &Publish, arrived: (SystemTime, Uuid)) -> Result<Message, Arc<str>> {
        self.message(publish, arrived).map_err(|error| Chain(error.as_ref()).to_string().into())
    }

    fn message(&self, publish: &Publish, (now, id): (SystemTime, Uuid)) -> Result<Message, BoxError> {
        let envelope = self.settings.broker.envelope;
        let none = PublishProperties::default();
        let properties = publish.properties.as_ref().unwrap_or(&none);
        let value = |name: &str| value_of(properties, name);
        let topic = Topic::new(self.topic(publish)?)?;
        let content_type = match &properties.content_type {
            Some(content_type) => content_type.clone().into(),
            // MQTT 3.1.1 carries none.
            None if envelope == Envelope::CloudEventsStructured => Envelope::STRUCTURED.into(),
            None => "application/octet-stream".into(),
        };
        let time = value(TIME).and_then(|time| rfc3339::read(time).ok()).unwrap_or(now);
        let id = value(ID).map_or(id, |id| foreign_id("", &topic, id));
        let mut message = Message::restore(id, topic, publish.payload.clone(), content_type, time);
        if let Some(left) = properties.message_expiry_interval {
            // The broker counts from now, and a message from its time.
            let age = now.duration_since(time).unwrap_or_default();
            message = message.with_expiry(age + Duration::from_secs(left.into()));
        }
        if let Some(key) = value(headers::KEY) {
            message = message.with_key(key);
        }
        if let Some(priority) = value(headers::PRIORITY).and_then(|priority| priority.parse().ok()) {
            message = message.with_priority(priority);
        }
        let types = value(TYPES).map(types).unwrap_or_default();
        let of_fields = [ID, TIME, TYPES, headers::KEY, headers::PRIORITY];
        for (name, text) in &properties.user_properties {
            if OURS.contains(&name.as_str()) || of_fields.contains(&name.as_str()) {
                continue;
            }
            let name = match envelope {
                Envelope::CloudEvents | Envelope::CloudEventsStructured if is_attribute(name) => {
                    format!("{ATTRIBUTE}{name}")
                }
                _ => name.clone(),
            };
            let value = scalar(text, types.get(&name).and_then(serde_json::Value::as_str));
            message.set_received(name, value)?;
        }
        if let Some(topic) = &properties.response_topic {
            message.set_header(REPLY_TO, topic.clone());
        }
        if let Some(data) = &properties.correlation_data {
            message.set_header(CORRELATION, String::from_utf8_lossy(data).into_owned());
        }
        let mut message = envelope.open(message)?;
        if publish.retain {
            message.set_header(RETAIN, true);
        }
        Ok(message)
    }

    /// The topic of the name that a message was published to.
    fn topic(&self, publish: &Publish) -> Result<String, BoxError> {
        Ok(self.settings.topic_of(std::str::from_utf8(&publish.topic)?))
    }

    /// The failures written in a dead letter of another source, for display only: anyone may have written them, so no decision
    /// depends on them and they are not forwarded.
    pub(super) fn foreign_failures(&self, publish: &Publish) -> Vec<FailedAttempt> {
        let Some(properties) = &publish.properties else { return Vec::new() };
        let value = |name| value_of(properties, name);
        let is_dead_letter = value(headers::REASON).is_some()
            && value(headers::QUEUE).is_some_and(|from| from != &*self.source);
        value(headers::FAILURES).filter(|_| is_dead_letter).map(headers::read_failures).unwrap_or_default()
    }

    /// The dead letter of a message: unchanged, with the reason and without an expiry.
    pub(super) fn dead_letter(
        &self,
        publish: &Publish,
        topic: &str,
        attempt: u32,
        failures: &[FailedAttempt],
        reason: &str,
    ) -> Outgoing {
        let mut properties = publish.properties.clone().unwrap_or_default();
        properties.message_expiry_interval = None;
        properties.topic_alias = None;
        properties.subscription_identifiers.clear();
        let of_ours = [headers::TOPIC, headers::QUEUE, headers::ATTEMPT, headers::FAILURES, headers::REASON];
        properties.user_properties.retain(|(name, _)| !of_ours.contains(&name.as_str()));
        let from = self.topic(publish).unwrap_or_default();
        for (name, value) in [
            (headers::REASON, start_of(reason, REASON_LEN).to_owned()),
            (headers::ATTEMPT, attempt.to_string()),
            (headers::FAILURES, headers::write_failures(failures)),
            (headers::QUEUE, self.source.to_string()),
            (headers::TOPIC, from),
        ] {
            properties.user_properties.push((name.to_owned(), printable(&value)));
        }
        Outgoing { topic: topic.to_owned(), retain: false, payload: publish.payload.clone(), properties }
    }
}

/// A hash of all that no broker changes, by which a redelivered message is recognised.
pub(super) fn content(publish: &Publish) -> Uuid {
    let properties = publish.properties.as_ref();
    let named = properties.into_iter().flat_map(|properties| &properties.user_properties);
    let parts = named.flat_map(|(name, value)| [name.as_bytes(), value.as_bytes()]);
    [&publish.topic[..], &publish.payload[..]]
        .into_iter()
        .chain(parts)
        .fold(Uuid::NAMESPACE_OID, |before, part| Uuid::new_v5(&before, part))
}

/// The value of the first user property of this name.
fn value_of<'a>(properties: &'a PublishProperties, name: &str) -> Option<&'a str> {
    let mut named = properties.user_properties.iter().filter(|(known, _)| known == name);
    named.next().map(|(_, value)| value.as_str())
}

/// Whether a user property is an attribute of a CloudEvent (MQTT Protocol Binding for CloudEvents 1.0.2, 3.1.3), by its name.
fn is_attribute(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

/// The types of headers; none if they were not written by this crate.
fn types(text: &str) -> serde_json::Map<String, serde_json::Value> {
    serde_json::from_str(text).unwrap_or_default()
}

/// A text as the value of this type; the text itself if it is no such value.
fn scalar(text: &str, kind: Option<&str>) -> Scalar {
    let value = match kind {
        Some("null") => Some(Scalar::Null),
        Some("bool") => text.parse().ok().map(Scalar::Bool),
        Some("int") => text.parse().ok().map(Scalar::Int),
        Some("float") => text.parse().ok().map(Scalar::Float),
        _ => None,
    };
    value.unwrap_or_else(|| Scalar::String(text.to_owned().into()))
}

#[cfg(test)]
mod tests {
    use rumqttc::QoS;

    use super::*;
    use crate::backends::brokers::BrokerSettings;
    use crate::envelope::odd_messages::odd_messages;

    fn reader(envelope: Envelope) -> Reader {
        let broker = BrokerSettings::new(["mqtt://h"]).with_service("acme", "users").with_envelope(envelope);
        Reader { settings: Arc::new(broker.into()), source: "users".into() }
    }

    fn sent(reader: &Reader, message: &Message) -> Option<Publish> {
        let outgoing = Outgoing::new(&reader.settings, message).ok()?;
        let mut publish =
            Publish::new(outgoing.topic, QoS::AtLeastOnce, outgoing.payload, Some(outgoing.properties));
        publish.retain = outgoing.retain;
        Some(publish)
    }

    fn now() -> (SystemTime, Uuid) {
        (SystemTime::now(), Uuid::from_u128(7))
    }

    #[test]
    fn a_sent_message_is_read_as_it_was() {
        let reader = reader(Envelope::Plain);
        let mut read = 0;
        for message in odd_messages() {
            let Some(publish) = sent(&reader, &message) else { continue };
            let got = reader.read(&publish, now()).unwrap();
            assert_eq!((got.id(), got.topic(), got.body()), (message.id(), message.topic(), message.body()));
            assert_eq!((got.content_type(), got.key()), (message.content_type(), message.key()));
            assert_eq!((got.time(), got.priority()), (message.time(), message.priority()));
            let headers = |message: &Message| {
                message.headers().map(|(name, value)| format!("{name} {value:?}")).collect::<Vec<_>>()
            };
            assert_eq!(headers(&got), headers(&message));
            read += 1;
        }
        assert!(read > 50, "{read} messages were read");
    }

    #[test]
    fn a_cloud_event_is_read_in_either_mode() {
        for envelope in [Envelope::CloudEvents, Envelope::CloudEventsStructured] {
            let message = Message::json("user.created", &serde_json::json!({"id": 7})).unwrap();
            let message = message.with_header("attempts", 3).with_header("X-Tenant", "acme").with_key("u7");
            let got = reader(Envelope::CloudEvents)
                .read(&sent(&reader(envelope), &message).unwrap(), now())
                .unwrap();
            assert_eq!((got.id(), got.topic(), got.body()), (message.id(), message.topic(), message.body()));
            assert_eq!((got.key(), got.header("X-Tenant")), (message.key(), message.header("X-Tenant")));
        }
    }

    #[test]
    fn foreign_properties_are_texts_and_ours_are_not_believed() {
        let reader = reader(Envelope::Plain);
        let properties = PublishProperties {
            user_properties: [
                ("n", "7"),
                (headers::ATTEMPT, "90"),
                (headers::FAILURES, "[]"),
                (headers::TOPIC, "other"),
                (RETAIN, "true"),
                (TYPES, r#"{"n": "bool", "x": 7}"#),
                (TIME, "yesterday"),
                (headers::PRIORITY, "1000"),
                (ID, "no uuid"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
            response_topic: Some("answers".to_owned()),
            correlation_data: Some(vec![0xFF].into()),
            ..PublishProperties::default()
        };
        let publish = Publish::new("/a/b", QoS::AtLeastOnce, vec![0xFF], Some(properties));
        let got = reader.read(&publish, now()).unwrap();
        assert_eq!(got.topic().as_str(), "a.b");
        let headers: Vec<_> = got.headers().map(|(name, value)| (name, value.to_string())).collect();
        assert_eq!(
            headers,
            [
                ("n", "7".to_owned()),
                ("reply-to", "answers".to_owned()),
                ("correlation-id", "\u{fffd}".to_owned())
            ]
        );
        assert_eq!((got.id(), got.priority()), (reader.read(&publish, now()).unwrap().id(), None));
        assert!(reader.foreign_failures(&publish).is_empty());
    }

    #[test]
    fn a_topic_that_is_none_of_ours_is_poison() {
        for name in ["a//b", "sensor 1/b", "a/"] {
            let publish = Publish::new(name, QoS::AtLeastOnce, "x", None);
            assert!(
                reader(Envelope::Plain).read(&publish, now()).unwrap_err().contains("is not a topic"),
                "{name}"
            );
        }
        let many = (0..=headers::MOST).map(|n| (n.to_string(), String::new())).collect();
        let properties = PublishProperties { user_properties: many, ..PublishProperties::default() };
        let publish = Publish::new("a", QoS::AtLeastOnce, "x", Some(properties));
        assert!(reader(Envelope::Plain).read(&publish, now()).unwrap_err().contains("1,000 headers"));
    }

    #[test]
    fn a_dead_letter_can_always_be_published() {
        let reader = reader(Envelope::Plain);
        let publish = Publish::new("a b", QoS::AtLeastOnce, "x", None);
        let failures = [FailedAttempt::new(SystemTime::now(), "line\u{85}\u{7f}".into())];
        let letter = reader.dead_letter(&publish, "dead", 2, &failures, "first\nsecond\0");
        for (name, value) in &letter.properties.user_properties {
            assert_eq!(super::super::names::fault_of(value), None, "{name}");
        }
        let mut dead = Publish::new("dead", QoS::AtLeastOnce, letter.payload, Some(letter.properties));
        assert!(reader.foreign_failures(&dead).is_empty(), "a letter of this source itself");
        let other = Reader { source: "dead".into(), settings: Arc::clone(&reader.settings) };
        assert_eq!(other.foreign_failures(&dead).len(), 1);
        dead.properties = None;
        assert!(other.foreign_failures(&dead).is_empty());
    }
}
