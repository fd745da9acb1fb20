//! Decoding of received messages.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use fe2o3_amqp_types::messaging::annotations::OwnedKey;
use fe2o3_amqp_types::messaging::message::DecodeIntoMessage;
use fe2o3_amqp_types::messaging::{AmqpValue, Body, Data, Header, MessageId, Properties};
use fe2o3_amqp_types::primitives::{Binary, OrderedMap, SimpleValue, Symbol, Timestamp, Value};
use serde_amqp::read::SliceReader;
use uuid::Uuid;

use super::guard;
use super::outgoing::{AmqpMessage, assemble};
use crate::envelope::Envelope;
use crate::message::topic::Topic;
use crate::message::{self, Message, Scalar};
use crate::message::{FailedAttempt, headers};
use crate::util::rfc3339;

/// The priority of messages without one (3.2.1).
const DEFAULT_PRIORITY: u8 = 4;
/// Below it, a time is one of seconds that was taken for milliseconds: 1973, or the year 5138.
const FEW_MILLISECONDS: i64 = 100_000_000_000;
/// Headers of ours, which are ignored in received messages: no message comes back here with them.
const OURS: [&str; 6] =
    [headers::KEY, headers::TOPIC, headers::QUEUE, headers::ATTEMPT, headers::FAILURES, headers::REASON];

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
        match decode(&received) {
            Ok(decoded) => {
                let mut original = Original::new(decoded);
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
        let (body, content_type) = match &original.body {
            OriginalBody::Data(bytes) | OriginalBody::Binary(bytes) => (bytes, self.content_types[0]),
            OriginalBody::Text(bytes) => (bytes, self.content_types[1]),
            OriginalBody::Unread => {
                return Err("its body is neither data nor text: no other kinds are supported".to_owned());
            }
        };
        let none = Properties::default();
        let properties = original.rest.properties.as_ref().unwrap_or(&none);
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
        let header = original.rest.header.as_ref();
        let ttl = header.and_then(|header| header.ttl).map(|ttl| Duration::from_millis(ttl.into()));
        let expires = properties.absolute_expiry_time.as_ref().and_then(system_time);
        if let Some(expiry) = expires.map(|at| at.duration_since(time).unwrap_or_default()).or(ttl) {
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
    fn topic(&self, original: &Original) -> Option<Topic> {
        let properties = original.rest.properties.as_ref();
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

/// The message in these bytes, or why there is none.
fn decode(received: &[u8]) -> Result<AmqpMessage, String> {
    guard::check(received).map_err(|flaw| flaw.to_string())?;
    let decoded = Body::<Value>::decode_message_from_reader(SliceReader::new(received));
    decoded.map_err(|error| error.to_string())
}

/// A received message, kept for its dead letter.
pub(super) struct Original {
    /// The sections, without a body that was read.
    rest: AmqpMessage,
    body: OriginalBody,
}

enum OriginalBody {
    Data(Bytes),
    Text(Bytes),
    Binary(Bytes),
    /// The body is among the sections.
    Unread,
}

impl Original {
    fn new(mut received: AmqpMessage) -> Self {
        let body = match std::mem::replace(&mut received.body, Body::Empty) {
            Body::Empty => OriginalBody::Data(Bytes::new()),
            Body::Value(AmqpValue(Value::String(text))) => OriginalBody::Text(text.into()),
            Body::Value(AmqpValue(Value::Binary(binary))) => OriginalBody::Binary(binary.into_vec().into()),
            Body::Data(sections) => OriginalBody::Data(joined(sections.into_iter())),
            body => {
                received.body = body;
                OriginalBody::Unread
            }
        };
        Self { rest: received, body }
    }

    /// A message that could not be decoded: its bytes are the body.
    fn undecoded(received: Bytes) -> Self {
        let properties =
            Properties { content_type: Some(Symbol::from(Reader::PLAIN[0])), ..Properties::default() };
        let rest = assemble(Header::default(), Some(properties), OrderedMap::new(), Body::Empty);
        Self { rest, body: OriginalBody::Data(received) }
    }

    /// The id that its sender gave it, if any.
    fn id(&self, topic: &Topic) -> Option<Uuid> {
        let properties = self.rest.properties.as_ref()?;
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let user = properties.user_id.as_ref().map(|user| hex(user)).unwrap_or_default();
        let named = |id: &str| message::foreign_id(&user, topic, id);
        Some(match properties.message_id.as_ref()? {
            MessageId::Uuid(id) => Uuid::from_bytes(id.clone().into_inner()),
            MessageId::String(text) => named(text),
            MessageId::Ulong(number) => named(&number.to_string()),
            MessageId::Binary(bytes) => named(&hex(bytes)),
        })
    }

    fn read_seconds(&mut self) {
        let time = self.rest.properties.as_mut().and_then(|properties| properties.creation_time.as_mut());
        if let Some(time) = time.filter(|time| (0..FEW_MILLISECONDS).contains(&time.milliseconds())) {
            *time = Timestamp::from_milliseconds(time.milliseconds() * 1_000);
        }
    }

    /// The routing key at RabbitMQ 4. At the default exchange that is only the name of a queue.
    fn routing_key(&self) -> Option<&str> {
        match self.annotation("x-exchange") {
            Some("") => None,
            _ => self.annotation("x-routing-key"),
        }
    }

    fn annotation(&self, name: &str) -> Option<&str> {
        let annotations = self.rest.message_annotations.as_ref()?;
        let named = |key: &OwnedKey| matches!(key, OwnedKey::Symbol(symbol) if symbol.0 == name);
        match annotations.0.iter().find(|(key, _)| named(key))?.1 {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// A hash of all that no broker changes, by which a redelivered message is recognised. It excludes a body that cannot be read:
    /// that message is not retried.
    pub(super) fn content(&self) -> Uuid {
        let body: &[u8] = match &self.body {
            OriginalBody::Data(bytes) | OriginalBody::Binary(bytes) | OriginalBody::Text(bytes) => bytes,
            OriginalBody::Unread => &[],
        };
        let AmqpMessage { properties, application_properties, .. } = &self.rest;
        // Decoded sections can be encoded again.
        let properties = serde_amqp::to_vec(properties).unwrap_or_default();
        let headers = serde_amqp::to_vec(application_properties).unwrap_or_default();
        [&properties, &headers, body]
            .into_iter()
            .fold(Uuid::NAMESPACE_OID, |before, part| Uuid::new_v5(&before, part))
    }

    /// The number of earlier deliveries that the broker counted.
    pub(super) fn delivery_count(&self) -> u32 {
        self.rest.header.as_ref().map_or(0, |header| header.delivery_count)
    }

    /// Whether the broker marks it as delivered for the first time.
    pub(super) fn is_first(&self) -> bool {
        self.rest.header.as_ref().is_some_and(|header| header.first_acquirer)
    }

    /// The failures written in a dead letter of another address, for display only: anyone may have written them, so no decision
    /// depends on them and they are not forwarded.
    pub(super) fn foreign_failures(&self, address: &str) -> Vec<FailedAttempt> {
        let is_dead_letter = self.header(headers::REASON).is_some()
            && self.header(headers::QUEUE).is_some_and(|from| from != address);
        let written = self.header(headers::FAILURES).filter(|_| is_dead_letter);
        written.map(headers::read_failures).unwrap_or_default()
    }

    /// The dead letter of the message: unchanged, with the reason and without an expiry.
    pub(super) fn into_dead_letter(
        mut self,
        reader: &Reader,
        attempt: u32,
        failures: &[FailedAttempt],
        reason: &str,
    ) -> AmqpMessage {
        let topic = reader.topic(&self);
        self.rest.header = Some(Header {
            durable: true,
            ttl: None,
            delivery_count: 0,
            first_acquirer: false,
            ..self.rest.header.unwrap_or_default()
        });
        if let Some(properties) = &mut self.rest.properties {
            properties.absolute_expiry_time = None;
        }
        if let Some(topic) = &topic {
            // It keeps its topic when it is sent back.
            let properties = self.rest.properties.get_or_insert_default();
            properties.subject.get_or_insert_with(|| topic.to_string());
        }
        let mut whole = self.whole();
        let headers = &mut whole.application_properties.get_or_insert_default().0;
        let mut insert = |name: &str, value| headers.insert(name.to_owned(), value);
        insert(headers::REASON, SimpleValue::String(reason.to_owned()));
        insert(headers::ATTEMPT, SimpleValue::Long(attempt.into()));
        insert(headers::FAILURES, SimpleValue::String(headers::write_failures(failures)));
        insert(headers::QUEUE, SimpleValue::String(reader.address.to_string()));
        if let Some(topic) = topic {
            insert(headers::TOPIC, SimpleValue::String(topic.to_string()));
        }
        whole
    }

    /// The message of a dead letter as it was, without our headers.
    #[cfg(feature = "cli")]
    pub(super) fn into_requeued(mut self) -> AmqpMessage {
        if let Some(headers) = &mut self.rest.application_properties {
            let kept = std::mem::take(&mut headers.0).into_iter();
            headers.0 = kept.filter(|(name, _)| !OURS.contains(&name.as_str())).collect();
        }
        let header = self.rest.header.take().unwrap_or_default();
        self.rest.header = Some(Header { durable: true, delivery_count: 0, first_acquirer: false, ..header });
        self.whole()
    }

    /// The sections with the body.
    fn whole(self) -> AmqpMessage {
        let body = match self.body {
            OriginalBody::Data(bytes) => Body::from(Data(Binary::from(bytes.to_vec()))),
            OriginalBody::Binary(bytes) => {
                Body::Value(AmqpValue(Value::Binary(Binary::from(bytes.to_vec()))))
            }
            OriginalBody::Text(bytes) => {
                Body::Value(AmqpValue(Value::String(String::from_utf8_lossy(&bytes).into_owned())))
            }
            OriginalBody::Unread => return self.rest,
        };
        AmqpMessage { body, ..self.rest }
    }

    pub(super) fn headers(&self) -> impl Iterator<Item = (&String, &SimpleValue)> {
        self.rest.application_properties.iter().flat_map(|properties| properties.0.iter())
    }

    fn header(&self, name: &str) -> Option<&str> {
        match self.rest.application_properties.as_ref()?.0.get(name)? {
            SimpleValue::String(text) => Some(text),
            _ => None,
        }
    }
}

/// The bytes of data sections.
pub(super) fn joined(mut sections: impl ExactSizeIterator<Item = Data>) -> Bytes {
    if sections.len() == 1
        && let Some(Data(only)) = sections.next()
    {
        return only.into_vec().into();
    }
    sections.flat_map(|Data(section)| section.into_vec()).collect()
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
