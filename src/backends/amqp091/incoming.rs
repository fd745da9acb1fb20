//! From what RabbitMQ delivered to a message.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use lapin::BasicProperties;
use lapin::types::AMQPValue;

use crate::error::BoxError;
use crate::headers::{ATTEMPT, EXPIRY, FAILURES, KEY, QUEUE, TOPIC, read_failures};
use crate::message::{Message, Scalar, foreign_id, uuid_v7};
use crate::store::FailedAttempt;
use crate::topic::Topic;

/// How many failed attempts petisco counted.
pub(super) const REDELIVERY_COUNT: &str = "redelivery_count";

/// What the messages of a bus look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    Plain,
    Fedora,
}

/// One delivery, without what answers it.
pub(super) struct Incoming {
    pub(super) routing_key: String,
    pub(super) properties: BasicProperties,
    pub(super) body: Bytes,
}

impl Incoming {
    /// The message in it. `queue` stands for the topic when there is no routing key.
    pub(super) fn decode(
        &self,
        dialect: Dialect,
        prefix: Option<&str>,
        queue: &str,
    ) -> Result<Message, BoxError> {
        let topic = Topic::new(self.topic(prefix, queue))?;
        let text = |text: &Option<_>| text.as_ref().map(ToString::to_string);
        let content_type = match (text(self.properties.content_type()), dialect) {
            (Some(content_type), _) => content_type.into(),
            (None, Dialect::Plain) => "application/octet-stream".into(),
            (None, Dialect::Fedora) => "application/json".into(),
        };
        let id = text(self.properties.message_id()).filter(|id| !id.is_empty());
        let time = self.time(dialect)?.unwrap_or_else(SystemTime::now);
        let publisher = text(self.properties.app_id()).unwrap_or_default();
        let id = id.map_or_else(|| uuid_v7(SystemTime::now()), |id| foreign_id(&publisher, &topic, &id));
        let mut message = Message::restore(id, topic, self.body.clone(), content_type, time);
        for (name, value) in self.headers() {
            match (name, scalar(value)) {
                (KEY, Some(Scalar::String(key))) => message = message.with_key(key),
                (_, Some(value)) if !is_hidden(name, dialect) => message.set_header(name.to_owned(), value),
                _ => {}
            }
        }
        if let Some(priority) = self.properties.priority() {
            message = message.with_priority(*priority);
        }
        if let Some(expiry) = self.expiry() {
            message = message.with_expiry(Duration::from_millis(expiry));
        }
        Ok(message)
    }

    /// The topic as a message of ours says it, or else the routing key without the prefix.
    pub(super) fn topic(&self, prefix: Option<&str>, queue: &str) -> String {
        if let Some(topic) = self.header(TOPIC) {
            return topic.to_string();
        }
        if self.routing_key.is_empty() {
            return queue.to_owned();
        }
        let prefix = prefix.unwrap_or_default().trim_matches('.');
        let topic = self.routing_key.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('.'));
        topic.filter(|_| !prefix.is_empty()).unwrap_or(&self.routing_key).to_owned()
    }

    fn time(&self, dialect: Dialect) -> Result<Option<SystemTime>, BoxError> {
        if let (Dialect::Fedora, Some(sent_at)) = (dialect, self.header("sent-at")) {
            return super::fedora::time_of(&sent_at.to_string()).map(Some);
        }
        let Some(seconds) = *self.properties.timestamp() else { return Ok(None) };
        // RabbitMQ 3.10 gives the milliseconds of AMQP 1.0 as if they were seconds: the year 5138 and later.
        let since = match seconds {
            ..100_000_000_000 => Duration::from_secs(seconds),
            milliseconds => Duration::from_millis(milliseconds),
        };
        let time = SystemTime::UNIX_EPOCH.checked_add(since);
        time.map(Some).ok_or_else(|| "its timestamp is out of range".into())
    }

    /// How long it is worth delivering, in milliseconds.
    pub(super) fn expiry(&self) -> Option<u64> {
        let text = match self.properties.expiration() {
            Some(expiration) => expiration.to_string(),
            None => self.header(EXPIRY)?.to_string(),
        };
        text.parse().ok()
    }

    /// How many attempts have failed.
    pub(super) fn failed(&self) -> u32 {
        let count = |name| match self.header(name)? {
            Scalar::Int(count) => u32::try_from(count).ok(),
            other => other.to_string().parse().ok(),
        };
        count(ATTEMPT).or_else(|| count(REDELIVERY_COUNT)).unwrap_or(0)
    }

    /// Those of them that are known.
    pub(super) fn failures(&self) -> Vec<FailedAttempt> {
        self.header(FAILURES).map(|failures| read_failures(&failures.to_string())).unwrap_or_default()
    }

    pub(super) fn header(&self, name: &str) -> Option<Scalar> {
        self.headers().find(|(known, _)| *known == name).and_then(|(_, value)| scalar(value))
    }

    fn headers(&self) -> impl Iterator<Item = (&str, &AMQPValue)> {
        let headers = self.properties.headers().as_ref().map(|headers| headers.inner());
        headers.into_iter().flatten().map(|(name, value)| (name.as_str(), value))
    }
}

/// What says how the message travelled, and not what it is.
fn is_hidden(name: &str, dialect: Dialect) -> bool {
    match name {
        ATTEMPT | EXPIRY | FAILURES | KEY | QUEUE | TOPIC | "x-delivery-count" => true,
        "sent-at" | "priority" => dialect == Dialect::Fedora,
        _ => name.starts_with("x-first-death-") || name.starts_with("x-last-death-"),
    }
}

/// The value of a header; none for what is more than a scalar.
fn scalar(value: &AMQPValue) -> Option<Scalar> {
    Some(match value {
        AMQPValue::Void => Scalar::Null,
        AMQPValue::Boolean(value) => Scalar::Bool(*value),
        AMQPValue::ShortShortInt(value) => Scalar::Int((*value).into()),
        AMQPValue::ShortShortUInt(value) => Scalar::Int((*value).into()),
        AMQPValue::ShortInt(value) => Scalar::Int((*value).into()),
        AMQPValue::ShortUInt(value) => Scalar::Int((*value).into()),
        AMQPValue::LongInt(value) => Scalar::Int((*value).into()),
        AMQPValue::LongUInt(value) => Scalar::Int((*value).into()),
        AMQPValue::LongLongInt(value) => Scalar::Int(*value),
        AMQPValue::Timestamp(value) => Scalar::Int(i64::try_from(*value).ok()?),
        AMQPValue::Float(value) => Scalar::Float((*value).into()),
        AMQPValue::Double(value) => Scalar::Float(*value),
        AMQPValue::ShortString(value) => Scalar::from(value.to_string()),
        AMQPValue::LongString(value) => Scalar::from(String::from_utf8_lossy(value.as_bytes()).into_owned()),
        AMQPValue::DecimalValue(_)
        | AMQPValue::FieldArray(_)
        | AMQPValue::FieldTable(_)
        | AMQPValue::ByteArray(_) => return None,
    })
}
