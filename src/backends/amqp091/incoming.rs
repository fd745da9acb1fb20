//! Decoding of received messages.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use lapin::message::Delivery;
use lapin::types::AMQPValue;
use lapin::{Acker, BasicProperties};

use tokio::time::Instant;

use super::fedora::SENT_AT;
use super::replies::is_direct;
use crate::message::FailedAttempt;
use crate::message::headers::{
    self, ATTEMPT, EXPIRY, FAILURES, KEY, PRIORITY, TOPIC, is_coding, read_failures,
};
use crate::message::topic::Topic;
use crate::message::{Message, Scalar, foreign_id, uuid_v7};
use crate::reply::ReplyTo;
use crate::util::deadline::after;
use crate::util::error::BoxError;

/// The failed attempts that petisco counted.
pub(super) const REDELIVERY_COUNT: &str = "redelivery_count";

/// The queues in which RabbitMQ let the message expire, or that rejected it.
pub(super) const DEATHS: &str = "x-death";

/// The deliveries without acknowledgement that a quorum queue counted.
const DELIVERY_COUNT: &str = "x-delivery-count";

/// The shape of the messages of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    Plain,
    Fedora,
}

/// One delivery, without its acker.
pub(super) struct Incoming {
    pub(super) routing_key: String,
    pub(super) properties: BasicProperties,
    pub(super) body: Bytes,
    /// Whether it came by one of our own retries, dead letters or requeues: only then are the headers of [`headers::OWN`] trusted.
    pub(super) is_ours: bool,
    /// Whether it came from the retry queue of petisco.
    was_retried_by_petisco: bool,
    /// The attempts that ended without a settlement, as far as they are counted.
    pub(super) unanswered: u32,
}

impl Incoming {
    /// A delivery of `queue`, and its acker.
    pub(super) fn new(delivery: Delivery, queue: &str) -> (Self, Acker) {
        let (exchange, routing_key) = (delivery.exchange.as_str(), delivery.routing_key.as_str());
        let is_store = queue == "store" && routing_key == "store";
        let incoming = Self {
            is_ours: exchange.is_empty()
                && routing_key == queue
                && last_expired_in_ours(&delivery.properties, queue),
            was_retried_by_petisco: is_store || routing_key.strip_prefix("retry.") == Some(queue),
            unanswered: 0,
            routing_key: routing_key.to_owned(),
            properties: delivery.properties,
            body: Bytes::from(delivery.data),
        };
        (incoming, delivery.acker)
    }

    /// Returns the message. Without a routing key the topic is `queue`.
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
                (_, Some(value)) if !self.is_hidden(name, dialect) => {
                    message.set_received(name.to_owned(), value)?;
                }
                _ => {}
            }
        }
        for (name, value) in self.texts() {
            message.set_received(name, value)?;
        }
        if let Some(priority) = self.priority() {
            message = message.with_priority(priority);
        }
        if let Some(expiry) = self.expiry() {
            message = message.with_expiry(Duration::from_millis(expiry));
        }
        Ok(message)
    }

    /// The topic in the header of a message of ours, or else the routing key without the prefix, for which the broker checked
    /// the permission of the publisher.
    pub(super) fn topic(&self, prefix: Option<&str>, queue: &str) -> String {
        if let Some(topic) = self.own_header(TOPIC) {
            return topic.to_string();
        }
        if self.routing_key.is_empty() {
            return queue.to_owned();
        }
        let prefix = prefix.unwrap_or_default().trim_matches('.');
        let topic = self.routing_key.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('.'));
        topic.filter(|_| !prefix.is_empty()).unwrap_or(&self.routing_key).to_owned()
    }

    /// The properties without a field of the message, as headers.
    fn texts(&self) -> impl Iterator<Item = (&'static str, String)> {
        let properties = &self.properties;
        let coding = properties.content_encoding().as_ref().filter(|coding| is_coding(coding.as_str()));
        let texts = [
            ("content-encoding", coding),
            ("correlation-id", properties.correlation_id().as_ref()),
            ("reply-to", properties.reply_to().as_ref()),
            ("type", properties.kind().as_ref()),
            ("app-id", properties.app_id().as_ref()),
        ];
        texts.into_iter().filter_map(|(name, text)| Some((name, text?.to_string())))
    }

    fn time(&self, dialect: Dialect) -> Result<Option<SystemTime>, BoxError> {
        if let (Dialect::Fedora, Some(sent_at)) = (dialect, self.header(SENT_AT)) {
            return super::fedora::time_of(&sent_at.to_string()).map(Some);
        }
        let Some(seconds) = *self.properties.timestamp() else { return Ok(None) };
        // RabbitMQ 3.10 gives the milliseconds of AMQP 1.0 as if they were seconds: the year 5138 and later. Clients write
        // what is before 1970 as a number with a sign.
        let time = match seconds {
            ..100_000_000_000 => SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)),
            100_000_000_000..0x8000_0000_0000_0000 => {
                SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(seconds))
            }
            negative => SystemTime::UNIX_EPOCH.checked_sub(Duration::from_secs(negative.wrapping_neg())),
        };
        time.map(Some).ok_or_else(|| "its timestamp is out of range".into())
    }

    /// Where the reply goes, if the broker made the address; and until when its caller waits, from when the request arrived.
    pub(super) fn reply_to(&self, arrived: Option<Instant>) -> Option<ReplyTo> {
        let address = self.properties.reply_to().as_ref().filter(|address| is_direct(address.as_str()))?;
        let reply_to = ReplyTo::new(address.as_str());
        let expiry = self.properties.expiration().as_ref().and_then(|expiry| expiry.as_str().parse().ok());
        match expiry.zip(arrived) {
            Some((millis, arrived)) => {
                Some(reply_to.with_deadline(after(arrived, Duration::from_millis(millis))))
            }
            None => Some(reply_to),
        }
    }

    /// How long it is worth delivering, in milliseconds.
    pub(super) fn expiry(&self) -> Option<u64> {
        let text = match self.properties.expiration() {
            Some(expiration) => expiration.to_string(),
            None => self.own_header(EXPIRY)?.to_string(),
        };
        text.parse().ok()
    }

    pub(super) fn priority(&self) -> Option<u8> {
        let priority = || self.own_header(PRIORITY)?.to_string().parse().ok();
        self.properties.priority().or_else(priority)
    }

    /// The number of failed attempts: those that were forwarded, and those without a settlement.
    pub(super) fn failed(&self) -> u32 {
        let petisco = || self.header(REDELIVERY_COUNT).filter(|_| self.was_retried_by_petisco);
        let sent_on = self.own_header(ATTEMPT).or_else(petisco).and_then(number).unwrap_or(0);
        sent_on.saturating_add(self.unanswered)
    }

    /// The deliveries without acknowledgement that the broker counted. A quorum queue overwrites the header of a publisher
    /// when it delivers again; any other queue keeps it.
    pub(super) fn delivery_count(&self) -> u32 {
        self.header(DELIVERY_COUNT).and_then(number).unwrap_or(0)
    }

    /// The known failures.
    pub(super) fn failures(&self) -> Vec<FailedAttempt> {
        self.own_header(FAILURES).map(|failures| read_failures(&failures.to_string())).unwrap_or_default()
    }

    /// A header of [`headers::OWN`], if it is trusted.
    pub(super) fn own_header(&self, name: &str) -> Option<Scalar> {
        self.header(name).filter(|_| self.is_ours)
    }

    pub(super) fn header(&self, name: &str) -> Option<Scalar> {
        self.headers().find(|(known, _)| *known == name).and_then(|(_, value)| scalar(value))
    }

    /// Whether a header is about the way of the message, not its content.
    fn is_hidden(&self, name: &str, dialect: Dialect) -> bool {
        match name {
            headers::REASON | headers::LEFT_OUT => !self.is_ours,
            SENT_AT | "priority" => dialect == Dialect::Fedora,
            _ => headers::OWN.contains(&name) || name == KEY || is_of_broker(name),
        }
    }

    fn headers(&self) -> impl Iterator<Item = (&str, &AMQPValue)> {
        let headers = self.properties.headers().as_ref().map(|headers| headers.inner());
        headers.into_iter().flatten().map(|(name, value)| (name.as_str(), value))
    }
}

/// Whether it is for the broker to write: how the message travelled, and where else it is to go.
pub(super) fn is_of_broker(name: &str) -> bool {
    matches!(name, "CC" | "BCC" | DEATHS | DELIVERY_COUNT | "x-acquired-count")
        || name.starts_with("x-first-death-")
        || name.starts_with("x-last-death-")
}

/// Whether the last queue it expired in is one for retries of `queue`; also if it expired nowhere.
///
/// RabbitMQ puts that queue first, before whatever a publisher wrote there: what another dead-letter exchange leads here
/// is not ours.
fn last_expired_in_ours(properties: &BasicProperties, queue: &str) -> bool {
    let Some(deaths) = properties.headers().as_ref().and_then(|headers| headers.inner().get(DEATHS)) else {
        return true;
    };
    let AMQPValue::FieldArray(deaths) = deaths else { return false };
    let Some(last) = deaths.as_slice().first() else { return true };
    let AMQPValue::FieldTable(last) = last else { return false };
    let Some(AMQPValue::LongString(last)) = last.inner().get("queue") else { return false };
    let rest = last.as_bytes().strip_prefix(queue.as_bytes());
    rest.is_some_and(|rest| rest.starts_with(b".retry."))
}

fn number(value: Scalar) -> Option<u32> {
    match value {
        Scalar::Int(count) => u32::try_from(count).ok(),
        other => other.to_string().parse().ok(),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn received(properties: BasicProperties) -> Incoming {
        let body = Bytes::from_static(b"x");
        let routing_key = "a.b".to_owned();
        Incoming {
            routing_key,
            properties,
            body,
            is_ours: false,
            was_retried_by_petisco: false,
            unanswered: 0,
        }
    }

    /// RabbitMQ takes no other expiration than a number, but other brokers may.
    #[test]
    fn an_expiration_that_is_no_number_is_none() {
        for (text, expiry) in [
            ("1000", Some(Duration::from_secs(1))),
            ("abc", None),
            ("", None),
            ("-1", None),
            ("1.5", None),
            ("18446744073709551616", None),
            ("18446744073709551615", Some(Duration::from_millis(u64::MAX))),
        ] {
            let incoming = received(BasicProperties::default().with_expiration(text.into()));
            let message = incoming.decode(Dialect::Plain, None, "q").unwrap();
            assert_eq!(message.expiry(), expiry, "{text}");
        }
    }

    #[test]
    fn a_timestamp_of_any_number_is_a_time() {
        let epoch = SystemTime::UNIX_EPOCH;
        for (seconds, time) in [
            (7, Some(epoch + Duration::from_secs(7))),
            (1_700_000_000_123, Some(epoch + Duration::from_millis(1_700_000_000_123))),
            (u64::MAX, Some(epoch - Duration::from_secs(1))),
            (i64::MAX as u64, Some(epoch + Duration::from_millis(i64::MAX as u64))),
            (i64::MIN as u64, epoch.checked_sub(Duration::from_secs(1 << 63))),
        ] {
            let incoming = received(BasicProperties::default().with_timestamp(seconds));
            assert_eq!(
                incoming.decode(Dialect::Plain, None, "q").ok().map(|it| it.time()),
                time,
                "{seconds}"
            );
        }
    }
}
