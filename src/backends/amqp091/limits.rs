//! The limits of AMQP 0-9-1, and those of the broker in use.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};

use super::incoming::DEATHS;
use super::outgoing::Publish;
use super::settings::MAX_EXPIRY;
use crate::message::headers::start_of;
use crate::message::topic::Topic;
use crate::message::{Message, Scalar};

/// The longest short string (AMQP 0-9-1, 4.2.5.3).
const SHORT: usize = 255;

/// The largest frame of a broker that was not reached yet: RabbitMQ's default.
const FRAME_MAX: u32 = 131_072;

/// The bytes of a content header beside the properties: type, channel, size and end of the frame, then class, weight,
/// size of the body and flags (AMQP 0-9-1, 4.2.3 and 4.2.6.1).
const OVERHEAD: usize = 8 + 14;

/// More than an envelope adds to the headers of a message.
const OF_ENVELOPE: usize = 1_024;

/// The first second after 9999, which no broker's client writes as a date.
const END: Duration = Duration::from_secs(253_402_300_800);

/// The headers in which RabbitMQ looks for a list. It closes the channel over another value of the first two, and over one
/// of the last its queue crashes when the message expires.
const IN_LISTS: [&str; 3] = ["CC", "BCC", DEATHS];

/// The reason why a message can never be sent: the field, its size, and the limit.
#[derive(Debug, thiserror::Error)]
pub(super) enum CannotCarry {
    #[error("{field} is {len} bytes long, and AMQP 0-9-1 carries {SHORT}: shorten it")]
    Short { field: String, len: usize },
    #[error("the header {0:?} is {1}, which brokers cannot read: send a finite number")]
    Number(String, f64),
    #[error(
        "the header {0:?} is reserved for brokers, and a plain value in it stops a queue or a channel: use another name"
    )]
    OfBroker(String),
    #[error("the expiry is {0} ms, and brokers take {max}: shorten it", max = MAX_EXPIRY.as_millis())]
    Expiry(u128),
    #[error("the time is before 1970 or after 9999, which AMQP 0-9-1 cannot carry: set another")]
    Time,
    #[error(
        "properties and headers take {size} bytes, and a frame of the broker holds {limit} (frame_max): shorten them{}",
        .largest.as_ref().map(|(name, len)| format!("; the header {name:?} takes {len}")).unwrap_or_default()
    )]
    Frame { size: usize, limit: usize, largest: Option<(String, usize)> },
    #[error("the body is {size} bytes long, and the broker takes {limit} (max_message_size): shorten it")]
    Body { size: usize, limit: usize },
}

/// The limits of the broker in use. A clone is a handle to the same limits.
#[derive(Clone, Debug)]
pub(super) struct Limits(Arc<BrokerLimits>);

#[derive(Debug)]
struct BrokerLimits {
    frame: AtomicU32,
    body: AtomicUsize,
}

impl Default for Limits {
    fn default() -> Self {
        Self(Arc::new(BrokerLimits { frame: AtomicU32::new(FRAME_MAX), body: AtomicUsize::new(usize::MAX) }))
    }
}

impl Limits {
    /// Resets the limits for a new connection, whose broker may be configured differently.
    pub(super) fn renew(&self, frame_max: u32) {
        self.0.frame.store(frame_max, Ordering::Relaxed);
        self.0.body.store(usize::MAX, Ordering::Relaxed);
    }

    /// Reads the largest body from the text of RabbitMQ about a larger one.
    pub(super) fn largest_body(text: &str) -> Option<usize> {
        let (_, limit) = text.split_once("message size ")?.1.split_once("max size ")?;
        let digits = limit.find(|c: char| !c.is_ascii_digit()).unwrap_or(limit.len());
        limit[..digits].parse().ok()
    }

    pub(super) fn set_largest_body(&self, limit: usize) {
        self.0.body.store(limit, Ordering::Relaxed);
    }

    /// Checks a message that leaves with a body of this length, and the properties that `encode` makes of it. Neither is asked
    /// for unless a limit of the broker is near.
    pub(super) fn check(
        &self,
        message: &Message,
        body_len: impl FnOnce() -> usize,
        encode: impl FnOnce() -> BasicProperties,
    ) -> Result<(), CannotCarry> {
        let about = fields(message)?;
        if self.0.body.load(Ordering::Relaxed) < usize::MAX {
            self.body(body_len())?;
        }
        let limit = self.0.frame.load(Ordering::Relaxed) as usize;
        // Only a message that comes near the limit is measured as it leaves.
        if about + OF_ENVELOPE > limit { frame(&encode(), limit) } else { Ok(()) }
    }

    /// Checks what is about to leave over a connection with this largest frame.
    pub(super) fn check_publish(&self, publish: &Publish, frame_max: u32) -> Result<(), CannotCarry> {
        short("the name of the exchange", publish.exchange.len())?;
        short("the routing key", publish.routing_key.len())?;
        self.body(publish.body.len())?;
        frame(&publish.properties, frame_max as usize)
    }

    fn body(&self, size: usize) -> Result<(), CannotCarry> {
        let limit = self.0.body.load(Ordering::Relaxed);
        if size > limit { Err(CannotCarry::Body { size, limit }) } else { Ok(()) }
    }
}

/// Checks each field by itself; gives about how many bytes they take.
pub(super) fn fields(message: &Message) -> Result<usize, CannotCarry> {
    short("the content type", message.content_type().len())?;
    let mut about = message.content_type().len() + message.key().map_or(0, str::len) + Topic::MAX_LEN;
    for (name, value) in message.headers() {
        if name.len() > SHORT {
            short(&format!("the name of the header {:?}", start_of(name, 40)), name.len())?;
        }
        if IN_LISTS.contains(&name) {
            return Err(CannotCarry::OfBroker(name.to_owned()));
        }
        about += name.len() + 6;
        about += match value {
            Scalar::Float(value) if !value.is_finite() => {
                return Err(CannotCarry::Number(name.to_owned(), *value));
            }
            Scalar::String(text) => text.len(),
            _ => 8,
        };
    }
    if let Some(expiry) = message.expiry().filter(|expiry| *expiry > MAX_EXPIRY) {
        return Err(CannotCarry::Expiry(expiry.as_millis()));
    }
    match message.time().duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) if since < END => Ok(about),
        _ => Err(CannotCarry::Time),
    }
}

fn short(field: &str, len: usize) -> Result<(), CannotCarry> {
    if len > SHORT { Err(CannotCarry::Short { field: field.to_owned(), len }) } else { Ok(()) }
}

fn frame(properties: &BasicProperties, limit: usize) -> Result<(), CannotCarry> {
    let size = size_of(properties);
    if size <= limit {
        return Ok(());
    }
    let headers = properties.headers().iter().flat_map(|headers| headers.inner());
    let largest = headers.map(|(name, value)| (name, value_size(value))).max_by_key(|(_, size)| *size);
    let largest = largest.map(|(name, size)| (start_of(name.as_str(), 40).to_owned(), size));
    Err(CannotCarry::Frame { size, limit, largest })
}

/// How large the frame of a content header with these properties is.
pub(super) fn size_of(properties: &BasicProperties) -> usize {
    let short = |text: &Option<ShortString>| text.as_ref().map_or(0, |text| 1 + text.as_str().len());
    OVERHEAD
        + short(properties.content_type())
        + short(properties.content_encoding())
        + properties.headers().as_ref().map_or(0, table_size)
        + usize::from(properties.delivery_mode().is_some())
        + usize::from(properties.priority().is_some())
        + short(properties.correlation_id())
        + short(properties.reply_to())
        + short(properties.expiration())
        + short(properties.message_id())
        + properties.timestamp().map_or(0, |_| 8)
        + short(properties.kind())
        + short(properties.user_id())
        + short(properties.app_id())
        + short(properties.cluster_id())
}

fn table_size(table: &FieldTable) -> usize {
    4 + table.inner().iter().map(entry_size).sum::<usize>()
}

/// How many bytes a header takes.
pub(super) fn entry_size((name, value): (&ShortString, &AMQPValue)) -> usize {
    2 + name.as_str().len() + value_size(value)
}

fn value_size(value: &AMQPValue) -> usize {
    match value {
        AMQPValue::Void => 0,
        AMQPValue::Boolean(_) | AMQPValue::ShortShortInt(_) | AMQPValue::ShortShortUInt(_) => 1,
        AMQPValue::ShortInt(_) | AMQPValue::ShortUInt(_) => 2,
        AMQPValue::LongInt(_) | AMQPValue::LongUInt(_) | AMQPValue::Float(_) => 4,
        AMQPValue::DecimalValue(_) => 5,
        AMQPValue::LongLongInt(_) | AMQPValue::Double(_) | AMQPValue::Timestamp(_) => 8,
        AMQPValue::ShortString(text) => 1 + text.as_str().len(),
        AMQPValue::LongString(text) => 4 + text.as_bytes().len(),
        AMQPValue::ByteArray(bytes) => 4 + bytes.len(),
        AMQPValue::FieldArray(array) => {
            4 + array.as_slice().iter().map(|value| 1 + value_size(value)).sum::<usize>()
        }
        AMQPValue::FieldTable(table) => table_size(table),
    }
}

#[cfg(test)]
mod tests {
    use lapin::types::{ByteArray, FieldArray};

    use super::*;

    #[test]
    fn the_size_is_that_on_the_wire() {
        let text = |text: &str| AMQPValue::LongString(text.as_bytes().to_vec().into());
        let mut inner = FieldTable::default();
        inner.insert("deep".into(), text("value"));
        let mut headers = FieldTable::default();
        for (name, value) in [
            ("void", AMQPValue::Void),
            ("bool", AMQPValue::Boolean(true)),
            ("short", AMQPValue::ShortInt(7)),
            ("int", AMQPValue::LongInt(7)),
            ("long", AMQPValue::LongLongInt(7)),
            ("double", AMQPValue::Double(0.5)),
            ("time", AMQPValue::Timestamp(7)),
            ("text", text("größe")),
            ("bytes", AMQPValue::ByteArray(ByteArray::from(vec![1, 2, 3]))),
            ("array", AMQPValue::FieldArray(FieldArray::from(vec![text("a"), AMQPValue::Boolean(false)]))),
            ("table", AMQPValue::FieldTable(inner)),
        ] {
            headers.insert(name.into(), value);
        }
        let properties = BasicProperties::default()
            .with_content_type("text/plain".into())
            .with_content_encoding("utf-8".into())
            .with_headers(headers)
            .with_delivery_mode(2)
            .with_priority(3)
            .with_expiration("1000".into())
            .with_message_id("an id".into())
            .with_timestamp(7)
            .with_app_id("app".into());
        let mut wire = [0; 4_096];
        let wire = std::io::Cursor::new(&mut wire[..]);
        let written = lapin::protocol::basic::gen_properties(&properties)(wire.into()).unwrap();
        // The flags are among what is written.
        assert_eq!(size_of(&properties) - OVERHEAD, written.position as usize - 2);
    }

    #[test]
    fn what_the_broker_says_of_a_large_body_is_read() {
        let text = "PRECONDITION_FAILED - message size 200 is larger than configured max size 100";
        assert_eq!(Limits::largest_body(text), Some(100));
        for text in ["PRECONDITION_FAILED - invalid expiration '100'", "max size 7", ""] {
            assert_eq!(Limits::largest_body(text), None);
        }
    }
}
