//! Decoding of received messages.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use fe2o3_amqp_types::messaging::{MessageId, Properties};
use fe2o3_amqp_types::primitives::{SimpleValue, Timestamp};
use uuid::Uuid;

use super::original::{OURS, Original};
use crate::envelope::Envelope;
use crate::message::topic::Topic;
use crate::message::{Message, Scalar, headers};
use crate::util::rfc3339;

/// The priority of messages without one (3.2.1).
const DEFAULT_PRIORITY: u8 = 4;
/// Reads the messages of one subscription.
pub(super) struct Reader {
    pub(super) address: Arc<str>,
    pub(super) topic_prefix: Option<String>,
    pub(super) envelope: Envelope,
    /// The media type of bodies without one, as data and as text.
    pub(super) content_types: [&'static str; 2],
}

impl Reader {
    pub(super) const PLAIN: [&'static str; 2] = ["application/octet-stream", "text/plain; charset=utf-8"];
    /// The body of a message of rhmsg is the text of a JSON object.
    pub(super) const RHMSG: [&'static str; 2] = ["application/json"; 2];

    /// The message, or why it cannot be read.
    ///
    /// RabbitMQ 3.10 presents the seconds of AMQP 0-9-1 as milliseconds.
    pub(super) fn read(&self, received: Bytes, is_rabbitmq_3: bool) -> (Original, Result<Message, Arc<str>>) {
        match Original::read(&received) {
            Ok(mut original) => {
                if is_rabbitmq_3 {
                    original.read_seconds();
                }
                let message = self.message(&original).map_err(Arc::from);
                (original, message)
            }
            Err(reason) => (
                Original::undecoded(received),
                Err(format!("it cannot be decoded as an AMQP message: {reason}").into()),
            ),
        }
    }

    fn message(&self, original: &Original) -> Result<Message, String> {
        let body = original.body();
        let body = body.ok_or("its body is neither data nor text: no other kinds are supported")?;
        let content_type = self.content_types[usize::from(original.is_text())];
        let none = Properties::default();
        let properties = original.properties().unwrap_or(&none);
        let topic = self.topic(original).ok_or_else(|| {
            format!("it has no topic: no subject, and the address {} is not a topic", self.address)
        })?;
        let content_type = match &properties.content_type {
            Some(given) => Cow::Owned(given.0.clone()),
            None => Cow::Borrowed(content_type),
        };
        let time = properties.creation_time.as_ref().and_then(system_time).unwrap_or_else(SystemTime::now);
        let id = original.id(&topic);
        let mut message = match id {
            Some(id) => Message::restore(id, topic, body.clone(), content_type, time),
            None => Message::fresh(topic, body.clone(), content_type, time),
        };
        let header = original.header_section();
        let expires = properties.absolute_expiry_time.as_ref().and_then(system_time);
        let expiry = expires.map(|at| at.duration_since(time).unwrap_or_default());
        if let Some(expiry) = expiry.or_else(|| original.ttl()) {
            message = message.with_expiry(expiry);
        }
        if let Some(priority) = header.map(|header| header.priority.0).filter(|it| *it != DEFAULT_PRIORITY) {
            message = message.with_priority(priority);
        }
        if let Some(key) = properties.group_id.as_deref() {
            message = message.with_key(key);
        }
        for (name, value) in original.headers().filter(|(name, _)| !OURS.contains(&name.as_str())) {
            if let Some(value) = scalar(value) {
                message.set_received(name.clone(), value)?;
            }
        }
        let coding = properties.content_encoding.as_ref().map(|coding| coding.0.as_str());
        let correlation = properties.correlation_id.as_ref().and_then(|id| match id {
            MessageId::String(text) => Some(text.clone()),
            MessageId::Ulong(number) => Some(number.to_string()),
            MessageId::Uuid(uuid) => Some(Uuid::from_bytes(uuid.clone().into_inner()).to_string()),
            MessageId::Binary(_) => None,
        });
        let texts = [
            ("content-encoding", coding.filter(|coding| headers::is_coding(coding)).map(str::to_owned)),
            ("correlation-id", correlation),
            ("reply-to", properties.reply_to.clone()),
        ];
        for (name, text) in texts {
            if let Some(text) = text {
                message.set_header(name, text);
            }
        }
        self.envelope.open(message).map_err(|error| crate::util::error::Chain(error.as_ref()).to_string())
    }

    /// The topic: the routing key of the broker, or the subject, or the address it was sent to, or the address it was received
    /// from.
    pub(super) fn topic(&self, original: &Original) -> Option<Topic> {
        let properties = original.properties();
        let candidates = [
            original.routing_key(),
            properties.and_then(|properties| properties.subject.as_deref()),
            properties.and_then(|properties| properties.to.as_deref()),
            Some(&*self.address),
        ];
        candidates.into_iter().flatten().find_map(|name| self.without_prefix(name))
    }

    fn without_prefix(&self, address: &str) -> Option<Topic> {
        let name = named(address);
        let prefix = self.topic_prefix.as_deref().map(|prefix| prefix.trim_matches('.'));
        let name = match prefix.and_then(|prefix| name.strip_prefix(prefix)) {
            Some(rest) if rest.starts_with('.') => rest,
            _ => name,
        };
        Topic::new(name.to_owned()).ok()
    }
}

/// The name in an address: that of the topic behind `Consumer.app.VirtualTopic.eng.>`, without wildcards at its end.
fn named(address: &str) -> &str {
    let name = address.split_once("://").map_or(address, |(_, name)| name);
    let name = if name.starts_with('/') { name.rsplit('/').next().unwrap_or(name) } else { name };
    let name = match name
        .strip_prefix("Consumer.")
        .and_then(|rest| rest.find(".VirtualTopic.").map(|at| &rest[at + 1..]))
    {
        Some(virtual_topic) => virtual_topic,
        None => name,
    };
    name.trim_end_matches(['.', '>', '*', '#'])
}

fn system_time(timestamp: &Timestamp) -> Option<SystemTime> {
    let since = Duration::from_millis(timestamp.milliseconds().unsigned_abs());
    match timestamp.milliseconds() {
        0.. => SystemTime::UNIX_EPOCH.checked_add(since),
        _ => SystemTime::UNIX_EPOCH.checked_sub(since),
    }
}

pub(super) fn scalar(value: &SimpleValue) -> Option<Scalar> {
    Some(match value {
        SimpleValue::Null => Scalar::Null,
        SimpleValue::Bool(value) => Scalar::Bool(*value),
        SimpleValue::Ubyte(value) => Scalar::Int((*value).into()),
        SimpleValue::Ushort(value) => Scalar::Int((*value).into()),
        SimpleValue::Uint(value) => Scalar::Int((*value).into()),
        SimpleValue::Ulong(value) => Scalar::Int(i64::try_from(*value).ok()?),
        SimpleValue::Byte(value) => Scalar::Int((*value).into()),
        SimpleValue::Short(value) => Scalar::Int((*value).into()),
        SimpleValue::Int(value) => Scalar::Int((*value).into()),
        SimpleValue::Long(value) => Scalar::Int(*value),
        SimpleValue::Float(value) => Scalar::Float(value.0.into()),
        SimpleValue::Double(value) => Scalar::Float(value.0),
        SimpleValue::String(text) => Scalar::String(text.clone().into()),
        SimpleValue::Symbol(symbol) => Scalar::String(symbol.0.clone().into()),
        SimpleValue::Timestamp(time) => rfc3339::write(system_time(time)?).ok()?.into(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_names_a_topic() {
        for (address, name) in [
            ("queue://a.b", "a.b"),
            ("topic://VirtualTopic.eng.a", "VirtualTopic.eng.a"),
            ("a.b", "a.b"),
            ("/amq/queue/a.b", "a.b"),
            ("/exchange/amq.topic/a.b.#", "a.b"),
            ("Consumer.app.VirtualTopic.eng.>", "VirtualTopic.eng"),
            ("queue://Consumer.client.name.VirtualTopic.eng.a", "VirtualTopic.eng.a"),
            ("Consumer.report", "Consumer.report"),
        ] {
            assert_eq!(named(address), name);
        }
    }

    #[test]
    fn only_a_whole_prefix_is_removed() {
        let reader = |prefix: &str| Reader {
            address: "x".into(),
            topic_prefix: Some(prefix.to_owned()),
            envelope: Envelope::default(),
            content_types: Reader::PLAIN,
        };
        for (prefix, address, topic) in [
            ("eng.", "eng.a.b", "a.b"),
            ("eng", "engine.a", "engine.a"),
            ("eng", "eng", "eng"),
            ("", "eng.a", "eng.a"),
        ] {
            assert_eq!(reader(prefix).without_prefix(address).unwrap().as_str(), topic);
        }
    }
}
