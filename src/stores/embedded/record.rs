//! How a message looks on disk.
//!
//! A record is a header of 24 bytes and a payload; numbers are little-endian:
//!
//! | bytes | what |
//! |---|---|
//! | 0..2 | `B7 0B` |
//! | 2 | 1 if it ends a batch, else 0 |
//! | 3 | 0 |
//! | 4..8 | length of the payload |
//! | 8..16 | position |
//! | 16..20 | CRC-32 of the payload |
//! | 20..24 | CRC-32 of the bytes 0..20 |
//!
//! The payload of a message is [`Stored`] in postcard's wire format. With the two checksums, one
//! flipped byte costs one record: the next is found by its header.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize, Serializer};
use uuid::Uuid;

use crate::error::BoxError;
use crate::message::{Message, Scalar};
use crate::stores::epoch::{from_epoch, since_epoch};
use crate::topic::Topic;

pub(super) const HEADER: usize = 24;
const MAGIC: [u8; 2] = [0xB7, 0x0B];

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) ends_batch: bool,
    pub(super) len: u32,
    pub(super) position: u64,
    payload_crc: u32,
}

impl Header {
    /// `None` when these bytes are not a whole header.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.first_chunk::<HEADER>()?;
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        if bytes[..2] != MAGIC || word(20) != crc32fast::hash(&bytes[..20]) {
            return None;
        }
        let position = u64::from(word(8)) | u64::from(word(12)) << 32;
        Some(Self { ends_batch: bytes[2] == 1, len: word(4), position, payload_crc: word(16) })
    }

    pub(super) fn is_of(&self, payload: &[u8]) -> bool {
        self.payload_crc == crc32fast::hash(payload)
    }
}

/// Appends a record whose position is not known yet.
pub(super) fn push(
    records: &mut Vec<u8>,
    ends_batch: bool,
    payload: impl FnOnce(&mut Vec<u8>) -> Result<(), BoxError>,
) -> Result<(), BoxError> {
    let start = records.len();
    records.extend_from_slice(&[0; HEADER]);
    payload(records)?;
    let (header, payload) = records[start..].split_at_mut(HEADER);
    let len = u32::try_from(payload.len()).map_err(|_| "a message must be smaller than 4 GiB")?;
    header[..2].copy_from_slice(&MAGIC);
    header[2] = u8::from(ends_batch);
    header[4..8].copy_from_slice(&len.to_le_bytes());
    header[16..20].copy_from_slice(&crc32fast::hash(payload).to_le_bytes());
    Ok(())
}

/// Gives the records their positions, from `position` on, and with them their last checksum.
pub(super) fn place(records: &mut [u8], mut position: u64) {
    let mut rest = records;
    while !rest.is_empty() {
        let header = &mut rest[..HEADER];
        header[8..16].copy_from_slice(&position.to_le_bytes());
        let crc = crc32fast::hash(&header[..20]);
        header[20..24].copy_from_slice(&crc.to_le_bytes());
        let len = u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize;
        rest = &mut rest[HEADER + len..];
        position += 1;
    }
}

/// Appends a batch.
pub(super) fn push_batch(records: &mut Vec<u8>, batch: &[Message]) -> Result<(), BoxError> {
    for (index, message) in batch.iter().enumerate() {
        push(records, index + 1 == batch.len(), |records| {
            let taken = std::mem::take(records);
            *records = postcard::to_extend(&Stored::of(message), taken)?;
            Ok(())
        })?;
    }
    Ok(())
}

/// The message of a payload.
pub(super) fn message(payload: &[u8]) -> Result<Message, BoxError> {
    postcard::from_bytes::<Stored<'_>>(payload)?.into_message()
}

/// Whether the message of a payload has this id, with which it begins.
pub(super) fn has_id(payload: &[u8], id: Uuid) -> bool {
    payload.starts_with(id.as_bytes())
}

#[derive(Serialize, Deserialize)]
struct Stored<'a> {
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

impl<'a> Stored<'a> {
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
    fn a_message_comes_back_as_it_was() {
        let batch = [full(), Message::json("user.created", &7).unwrap()];
        let mut records = Vec::new();
        push_batch(&mut records, &batch).unwrap();
        place(&mut records, u64::MAX - 2);
        let mut rest = records.as_slice();
        for (index, wanted) in batch.iter().enumerate() {
            let header = Header::read(rest).unwrap();
            let payload = &rest[HEADER..HEADER + header.len as usize];
            assert_eq!(header.position, u64::MAX - 2 + index as u64);
            assert_eq!(header.ends_batch, index == 1);
            assert!(header.is_of(payload) && has_id(payload, wanted.id()));
            assert_eq!(message(payload).unwrap(), *wanted);
            rest = &rest[HEADER + header.len as usize..];
        }
        assert!(rest.is_empty());
    }

    #[test]
    fn every_flipped_byte_of_a_record_is_seen() {
        let mut records = Vec::new();
        push_batch(&mut records, &[full()]).unwrap();
        place(&mut records, 9);
        for at in 0..records.len() {
            records[at] ^= 0x10;
            let whole = Header::read(&records).is_some_and(|header| {
                records.get(HEADER..HEADER + header.len as usize).is_some_and(|payload| header.is_of(payload))
            });
            assert!(!whole, "byte {at}");
            records[at] ^= 0x10;
        }
    }
}
