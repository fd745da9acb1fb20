//! The encoding of a message as the payload of a record: [`StoredMessage`] in postcard's wire format.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize, Serializer};
use uuid::Uuid;

use crate::log::record::push_record;
use crate::message::topic::Topic;
use crate::message::{Message, Scalar};
use crate::store::epoch::{from_epoch, since_epoch};
use crate::util::error::BoxError;

/// Appends the records of a batch. `seed` is [`Key::payload`](crate::log::record::Key::payload).
pub(super) fn push_batch(records: &mut Vec<u8>, seed: u32, batch: &[Message]) -> Result<(), BoxError> {
    for (index, message) in batch.iter().enumerate() {
        push_record(records, seed, index + 1 == batch.len(), |records| {
            let taken = std::mem::take(records);
            *records = postcard::to_extend(&StoredMessage::of(message), taken)?;
            Ok(())
        })?;
    }
    Ok(())
}

/// Decodes the message in a payload.
pub(super) fn decode_message(payload: &[u8]) -> Result<Message, BoxError> {
    postcard::from_bytes::<StoredMessage<'_>>(payload)?.into_message()
}

/// Whether the message in a payload has this id. The payload begins with it.
pub(super) fn has_id(payload: &[u8], id: Uuid) -> bool {
    payload.starts_with(id.as_bytes())
}

#[derive(Serialize, Deserialize)]
struct StoredMessage<'a> {
    id: [u8; 16],
    /// Seconds since 1970, and nanoseconds.
    time: (i64, u32),
    topic: &'a str,
    content_type: &'a str,
    key: Option<&'a str>,
    priority: Option<u8>,
    expiry: Option<Duration>,
    delay: Option<Duration>,
    headers: Vec<(&'a str, Value<'a>)>,
    #[serde(serialize_with = "as_bytes")]
    body: &'a [u8],
}

#[derive(Serialize, Deserialize)]
enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    String(&'a str),
}

fn as_bytes<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bytes(bytes)
}

impl<'a> StoredMessage<'a> {
    fn of(message: &'a Message) -> Self {
        let headers = message.headers().map(|(name, value)| {
            let value = match value {
                Scalar::Null => Value::Null,
                Scalar::Bool(value) => Value::Bool(*value),
                Scalar::Int(value) => Value::Int(*value),
                Scalar::Float(value) => Value::Float(*value),
                Scalar::String(value) => Value::String(value),
            };
            (name, value)
        });
        Self {
            id: message.id().into_bytes(),
            time: since_epoch(message.time()),
            topic: message.topic().as_str(),
            content_type: message.content_type(),
            key: message.key(),
            priority: message.priority(),
            expiry: message.expiry(),
            delay: message.delay(),
            headers: headers.collect(),
            body: message.body(),
        }
    }

    fn into_message(self) -> Result<Message, BoxError> {
        let body = Bytes::copy_from_slice(self.body);
        let content_type = match self.content_type {
            "application/json" => Cow::Borrowed("application/json"),
            other => Cow::Owned(other.to_owned()),
        };
        let topic = Topic::new(self.topic.to_owned())?;
        let time = from_epoch(self.time).ok_or("its time cannot be represented")?;
        let mut message = Message::restore(Uuid::from_bytes(self.id), topic, body, content_type, time);
        for (name, value) in self.headers {
            let value = match value {
                Value::Null => Scalar::Null,
                Value::Bool(value) => Scalar::Bool(value),
                Value::Int(value) => Scalar::Int(value),
                Value::Float(value) => Scalar::Float(value),
                Value::String(value) => Scalar::String(Cow::Owned(value.to_owned())),
            };
            message.set_header(name.to_owned(), value);
        }
        if let Some(key) = self.key {
            message = message.with_key(key);
        }
        if let Some(priority) = self.priority {
            message = message.with_priority(priority);
        }
        if let Some(expiry) = self.expiry {
            message = message.with_expiry(expiry);
        }
        Ok(match self.delay {
            Some(delay) => message.with_delay(delay),
            None => message,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::log::format::{MAX_POSITION, RECORD_HEADER};
    use crate::log::record::{Header, Key, assign_positions};

    fn full() -> Message {
        Message::new("a.b", vec![0, 159, 255])
            .unwrap()
            .with_content_type("image/png")
            .with_key("schlüssel")
            .with_priority(7)
            .with_expiry(Duration::new(3, 5))
            .with_delay(Duration::from_millis(1))
            .with_time(SystemTime::UNIX_EPOCH - Duration::new(3, 7))
            .with_header("null", Scalar::Null)
            .with_header("yes", true)
            .with_header("int", i64::MIN)
            .with_header("float", -0.5)
            .with_header("text", "Grüße")
    }

    #[test]
    fn a_message_is_decoded_as_it_was_encoded() {
        let key = Key::new(7, 9);
        let batch = [full(), Message::json("user.created", &7).unwrap()];
        let mut records = Vec::new();
        push_batch(&mut records, key.payload, &batch).unwrap();
        assert_eq!(assign_positions(&mut records, &key, 80, MAX_POSITION - 2), MAX_POSITION);
        let (mut rest, mut offset) = (records.as_slice(), 80);
        for (index, wanted) in batch.iter().enumerate() {
            let header = Header::read(rest, &key, offset).unwrap();
            let payload = &rest[RECORD_HEADER..RECORD_HEADER + header.len as usize];
            assert_eq!(header.position, MAX_POSITION - 2 + index as u64);
            assert_eq!(header.ends_batch, index == 1);
            assert!(header.matches(payload, &key) && has_id(payload, wanted.id()));
            assert_eq!(decode_message(payload).unwrap(), *wanted);
            rest = &rest[RECORD_HEADER + header.len as usize..];
            offset += (RECORD_HEADER + header.len as usize) as u64;
        }
        assert!(rest.is_empty());
    }
}
