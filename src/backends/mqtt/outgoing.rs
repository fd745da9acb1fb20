//! Encoding of messages to send.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use rumqttc::PublishProperties;

use super::names::{LONGEST, fault_of, fault_of_name};
use super::retain::{RETAIN, is_retained};
use super::settings::{MqttSettings, MqttVersion};
use crate::envelope::Envelope;
use crate::message::headers::{self, start_of};
use crate::message::{Message, Scalar};
use crate::util::error::BoxError;
use crate::util::rfc3339;

/// The user property with the id of a plain message.
pub(super) const ID: &str = "tower-outbox-id";
/// The user property with the time of a plain message (RFC 3339).
pub(super) const TIME: &str = "tower-outbox-time";
/// The user property with the types of headers that are no texts: a JSON object of names and types.
pub(super) const TYPES: &str = "tower-outbox-types";

/// The header of the response topic.
pub(super) const REPLY_TO: &str = "reply-to";
/// The header of the correlation data.
pub(super) const CORRELATION: &str = "correlation-id";

/// The headers without which a message means something else: MQTT 3.1.1 does not carry them.
const NEEDED: [&str; 4] = [REPLY_TO, "signature", headers::ACK, headers::CONFIRM];

/// The prefix of the attributes of a CloudEvent among the headers of a message. In MQTT they have none (MQTT Protocol Binding
/// for CloudEvents 1.0.2, 3.1.3).
pub(super) const ATTRIBUTE: &str = "cloudEvents:";

/// The largest packet (MQTT 5, 1.5.5): a byte, its length in four bytes, and so many bytes.
pub(super) const LARGEST: u32 = 268_435_455 + 5;

/// A message as it is published.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Outgoing {
    pub(super) topic: String,
    pub(super) retain: bool,
    pub(super) payload: Bytes,
    pub(super) properties: PublishProperties,
}

impl Outgoing {
    /// Seals and encodes a message.
    ///
    /// # Errors
    /// The reason why no MQTT broker takes it.
    pub(super) fn new(settings: &MqttSettings, message: &Message) -> Result<Self, BoxError> {
        let broker = &settings.broker;
        let (message, retain) = (without_mark(message), is_retained(message));
        let sealed = broker.envelope.seal(&message, broker.origin())?;
        Self::of_sealed(settings, &sealed, retain)
    }

    /// As [`new`](Self::new), with the body of `message` instead of a sealed one, which costs less.
    pub(super) fn outline(settings: &MqttSettings, message: &Message) -> Result<Self, BoxError> {
        let broker = &settings.broker;
        let (message, retain) = (without_mark(message), is_retained(message));
        let outline = broker.envelope.outline(&message, broker.origin())?;
        Self::of_sealed(settings, &outline, retain)
    }

    fn of_sealed(settings: &MqttSettings, message: &Message, retain: bool) -> Result<Self, BoxError> {
        settings.broker.check_message(message)?;
        if settings.version == MqttVersion::V3
            && let Some(name) = NEEDED.into_iter().find(|name| message.header(name).is_some())
        {
            return Err(format!(
                "the header {name:?} is lost with MQTT 3.1.1: set ENVELOPE to \"cloudevents_structured\" or \"mqfactory\""
            )
            .into());
        }
        let topic = settings.name_of(message.topic());
        if let Some(fault) = fault_of_name(&topic) {
            return Err(format!("the topic {:?} {fault}", start_of(&topic, 300)).into());
        }
        if let Some(fault) = fault_of(message.content_type()) {
            return Err(format!("the content type {fault}").into());
        }
        let text = |name| message.header(name).and_then(Scalar::as_str);
        let (response_topic, correlation) = (text(REPLY_TO), text(CORRELATION));
        if let Some(fault) = response_topic.and_then(fault_of_name) {
            return Err(format!("the header {REPLY_TO:?} {fault}").into());
        }
        if let Some(data) = correlation.filter(|data| data.len() > LONGEST) {
            return Err(format!(
                "the header {CORRELATION:?} is {} bytes long; MQTT carries {LONGEST}",
                data.len()
            )
            .into());
        }
        let properties = PublishProperties {
            response_topic: response_topic.map(str::to_owned),
            correlation_data: correlation.map(|data| Bytes::from(data.to_owned())),
            message_expiry_interval: message.expiry().or(settings.broker.ttl).map(seconds),
            user_properties: user_properties(settings.broker.envelope, message)?,
            content_type: Some(message.content_type().to_owned()),
            ..PublishProperties::default()
        };
        Ok(Self { topic, retain, payload: message.body().clone(), properties })
    }

    /// The size of its packet, with an identifier.
    pub(super) fn size(&self) -> usize {
        let properties = properties_size(&self.properties);
        let rest = 2 + self.topic.len() + 2 + number_size(properties) + properties + self.payload.len();
        1 + number_size(rest) + rest
    }
}

/// The message without the mark of [`retain`](super::retain::retain), which no envelope must see.
fn without_mark(message: &Message) -> Cow<'_, Message> {
    match message.header(RETAIN) {
        Some(_) => {
            let mut message = message.clone();
            message.remove_header(RETAIN);
            Cow::Owned(message)
        }
        None => Cow::Borrowed(message),
    }
}

fn user_properties(envelope: Envelope, message: &Message) -> Result<Vec<(String, String)>, BoxError> {
    let mut properties = Vec::with_capacity(message.headers().len() + 5);
    let mut types = serde_json::Map::new();
    if envelope == Envelope::Plain {
        properties.push((ID.to_owned(), message.id().to_string()));
        properties.push((TIME.to_owned(), rfc3339::write(message.time())?));
    }
    if let Some(key) = message.key() {
        properties.push((headers::KEY.to_owned(), key.to_owned()));
    }
    if let Some(priority) = message.priority() {
        properties.push((headers::PRIORITY.to_owned(), priority.to_string()));
    }
    let of_ours = |name: &str| [ID, TIME, TYPES, headers::KEY, headers::PRIORITY].contains(&name);
    let is_reply_field =
        |name: &str, value: &Scalar| [REPLY_TO, CORRELATION].contains(&name) && value.as_str().is_some();
    let headers = message.headers().filter(|(name, value)| !of_ours(name) && !is_reply_field(name, value));
    for (name, value) in headers {
        let name = match envelope {
            Envelope::CloudEvents => name.strip_prefix(ATTRIBUTE).unwrap_or(name),
            _ => name,
        };
        if let (Envelope::Plain, Some(kind)) = (envelope, kind(value)) {
            types.insert(name.to_owned(), kind.into());
        }
        properties.push((name.to_owned(), value.to_string()));
    }
    if !types.is_empty() {
        properties.push((TYPES.to_owned(), serde_json::Value::Object(types).to_string()));
    }
    for (name, value) in &properties {
        if let Some(fault) = fault_of(name) {
            return Err(format!("the name of the header {:?} {fault}", start_of(name, 40)).into());
        }
        if let Some(fault) = fault_of(value) {
            return Err(format!("the header {:?} {fault}", start_of(name, 40)).into());
        }
    }
    Ok(properties)
}

/// The type of a value that is no text, in [`TYPES`].
fn kind(value: &Scalar) -> Option<&'static str> {
    match value {
        Scalar::Null => Some("null"),
        Scalar::Bool(_) => Some("bool"),
        Scalar::Int(_) => Some("int"),
        Scalar::Float(_) => Some("float"),
        Scalar::String(_) => None,
    }
}

/// Whole seconds, rounded up: 0 would expire at once.
pub(super) fn seconds(expiry: Duration) -> u32 {
    let whole = expiry.as_secs().saturating_add(u64::from(expiry.subsec_nanos() > 0));
    u32::try_from(whole).unwrap_or(u32::MAX).max(1)
}

/// The size of properties on the wire (MQTT 5, 2.2.2).
fn properties_size(properties: &PublishProperties) -> usize {
    let text = |len: usize| 1 + 2 + len;
    properties.message_expiry_interval.map_or(0, |_| 5)
        + properties.payload_format_indicator.map_or(0, |_| 2)
        + properties.response_topic.as_ref().map_or(0, |topic| text(topic.len()))
        + properties.correlation_data.as_ref().map_or(0, |data| text(data.len()))
        + properties.content_type.as_ref().map_or(0, |content_type| text(content_type.len()))
        + properties
            .user_properties
            .iter()
            .map(|(name, value)| text(name.len()) + 2 + value.len())
            .sum::<usize>()
}

/// The size of a variable byte integer (MQTT 5, 1.5.5).
fn number_size(number: usize) -> usize {
    match number {
        0..128 => 1,
        128..16_384 => 2,
        16_384..2_097_152 => 3,
        _ => 4,
    }
}

#[cfg(test)]
mod tests {
    use rumqttc::Publish;
    use rumqttc::mqttbytes::QoS;

    use super::*;
    use crate::backends::brokers::BrokerSettings;
    use crate::envelope::odd_messages::odd_messages;

    fn settings(envelope: Envelope) -> MqttSettings {
        BrokerSettings::new(["mqtt://h"]).with_service("acme", "registration").with_envelope(envelope).into()
    }

    #[test]
    fn the_size_is_that_on_the_wire() {
        for len in [0, 100, 127, 128, 16_000, 2_097_000, 2_098_000] {
            let message = Message::new("a.b", vec![0; len]).unwrap().with_header("größe", 7);
            let message = message.with_key("a key").with_expiry(Duration::from_millis(1));
            let outgoing = Outgoing::new(&settings(Envelope::Plain), &message).unwrap();
            let mut publish = Publish::new(
                outgoing.topic.clone(),
                QoS::AtLeastOnce,
                outgoing.payload.clone(),
                Some(outgoing.properties.clone()),
            );
            publish.pkid = 1;
            assert_eq!(outgoing.size(), publish.size());
            assert_eq!(outgoing.properties.message_expiry_interval, Some(1));
        }
    }

    #[test]
    fn a_retained_message_has_no_property_for_that() {
        for envelope in
            [Envelope::Plain, Envelope::CloudEvents, Envelope::CloudEventsStructured, Envelope::Petisco]
        {
            let message =
                crate::backends::mqtt::retain(Message::json("a.b", &serde_json::json!({})).unwrap());
            let outgoing = Outgoing::new(&settings(envelope), &message).unwrap();
            assert!(outgoing.retain);
            assert!(!format!("{outgoing:?}").contains(RETAIN), "{outgoing:?}");
        }
    }

    #[test]
    fn the_attributes_of_a_cloud_event_have_no_prefix() {
        let message = Message::new("user.created", "x").unwrap().with_header("X-Tenant", "acme");
        let outgoing = Outgoing::new(&settings(Envelope::CloudEvents), &message).unwrap();
        let value = |name: &str| {
            let mut found = outgoing.properties.user_properties.iter().filter(|(known, _)| known == name);
            found.next().map(|(_, value)| value.clone())
        };
        assert_eq!(value("type").as_deref(), Some("user.created"));
        assert_eq!(value("id"), Some(message.id().to_string()));
        assert_eq!(value("specversion").as_deref(), Some("1.0"));
        assert_eq!((value("X-Tenant").as_deref(), value(ID)), (Some("acme"), None));
    }

    #[test]
    fn a_check_rejects_the_messages_that_sending_rejects() {
        let text = |result: Result<Outgoing, BoxError>| result.err().map(|error| error.to_string());
        for envelope in
            [Envelope::Plain, Envelope::CloudEvents, Envelope::CloudEventsStructured, Envelope::Petisco]
        {
            let settings = settings(envelope);
            let mut rejected = 0;
            for message in odd_messages() {
                let found = text(Outgoing::outline(&settings, &message));
                assert_eq!(found, text(Outgoing::new(&settings, &message)), "{message:?}");
                rejected += usize::from(found.is_some());
            }
            assert!(rejected > 50, "{rejected} messages were rejected");
        }
    }

    #[test]
    fn a_text_over_which_brokers_hang_up_is_rejected() {
        let good = Message::new("a.b", "x").unwrap();
        for message in [
            good.clone().with_header("a\nb", "x"),
            good.clone().with_header("a", "x\0"),
            good.clone().with_header("a", "\u{ffff}"),
            good.clone().with_header("a", "x".repeat(65_536)),
            good.clone().with_content_type("text/plain\r"),
            good.clone().with_key("a\0"),
            good.clone().with_delay(Duration::from_secs(1)),
        ] {
            assert!(Outgoing::outline(&settings(Envelope::Plain), &message).is_err(), "{message:?}");
        }
    }
}
