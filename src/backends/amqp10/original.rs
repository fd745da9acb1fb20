//! A received message as it was, for its reply and its dead letter.

use std::time::Duration;

use bytes::Bytes;
use fe2o3_amqp_types::messaging::annotations::OwnedKey;
use fe2o3_amqp_types::messaging::message::DecodeIntoMessage;
use fe2o3_amqp_types::messaging::{AmqpValue, Body, Data, Header, MessageId, Properties};
use fe2o3_amqp_types::primitives::{Binary, OrderedMap, SimpleValue, Symbol, Timestamp, Value};
use serde_amqp::read::SliceReader;
use uuid::Uuid;

use super::guard;
use super::outgoing::{AmqpMessage, assemble};
use crate::message::topic::Topic;
use crate::message::{self, FailedAttempt, headers};

/// Below it, a time is one of seconds that was taken for milliseconds: 1973, or the year 5138.
const FEW_MILLISECONDS: i64 = 100_000_000_000;
/// Headers of ours, which are ignored in received messages: no message comes back here with them.
pub(super) const OURS: [&str; 6] =
    [headers::KEY, headers::TOPIC, headers::QUEUE, headers::ATTEMPT, headers::FAILURES, headers::REASON];

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
    /// The message in these bytes, or why there is none.
    pub(super) fn read(received: &[u8]) -> Result<Self, String> {
        decode(received).map(Self::new)
    }

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
    pub(super) fn undecoded(received: Bytes) -> Self {
        let properties = Properties {
            content_type: Some(Symbol::from("application/octet-stream")),
            ..Properties::default()
        };
        let rest = assemble(Header::default(), Some(properties), OrderedMap::new(), Body::Empty);
        Self { rest, body: OriginalBody::Data(received) }
    }

    /// The id that its sender gave it, if any.
    pub(super) fn id(&self, topic: &Topic) -> Option<Uuid> {
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

    pub(super) fn read_seconds(&mut self) {
        let time = self.rest.properties.as_mut().and_then(|properties| properties.creation_time.as_mut());
        if let Some(time) = time.filter(|time| (0..FEW_MILLISECONDS).contains(&time.milliseconds())) {
            *time = Timestamp::from_milliseconds(time.milliseconds() * 1_000);
        }
    }

    /// The routing key at RabbitMQ 4. At the default exchange that is only the name of a queue.
    pub(super) fn routing_key(&self) -> Option<&str> {
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
        let body: &[u8] = self.body().map_or(&[], |body| body);
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

    pub(super) fn header_section(&self) -> Option<&Header> {
        self.rest.header.as_ref()
    }

    pub(super) fn is_text(&self) -> bool {
        matches!(self.body, OriginalBody::Text(_))
    }

    pub(super) fn properties(&self) -> Option<&Properties> {
        self.rest.properties.as_ref()
    }

    /// How long it is still valid.
    pub(super) fn ttl(&self) -> Option<Duration> {
        self.rest.header.as_ref()?.ttl.map(|ttl| Duration::from_millis(ttl.into()))
    }

    /// The body; none if it is neither data nor text.
    pub(super) fn body(&self) -> Option<&Bytes> {
        match &self.body {
            OriginalBody::Data(bytes) | OriginalBody::Binary(bytes) | OriginalBody::Text(bytes) => {
                Some(bytes)
            }
            OriginalBody::Unread => None,
        }
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
        address: &str,
        topic: Option<&Topic>,
        attempt: u32,
        failures: &[FailedAttempt],
        reason: &str,
    ) -> AmqpMessage {
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
        if let Some(topic) = topic {
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
        insert(headers::QUEUE, SimpleValue::String(address.to_owned()));
        if let Some(topic) = topic {
            insert(headers::TOPIC, SimpleValue::String(topic.to_string()));
        }
        whole
    }

    /// The message of a dead letter as it was, without our headers.
    #[cfg(feature = "admin")]
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
