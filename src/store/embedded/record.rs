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
//! flipped byte costs one record: the next is found by its header. Both begin with what a [`Key`] makes of the store's
//! random number, and the second with the place of the record too: no body that looks like a record is one, and no record
//! counts in another place or file.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize, Serializer};
use uuid::Uuid;

use crate::message::topic::Topic;
use crate::message::{Message, Scalar};
use crate::store::epoch::{from_epoch, since_epoch};
use crate::util::error::BoxError;

pub(super) const HEADER: usize = 24;
const MAGIC: [u8; 2] = [0xB7, 0x0B];

/// The largest position there may be: with a margin, so that counting on from it does not overflow.
pub(super) const MAX_POSITION: u64 = 1 << 62;

/// What the checksums of a file's records begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    /// For payloads: that of the store, since a payload is made before its file is known.
    pub(super) payload: u32,
    header: u64,
}

impl Key {
    /// From the random number of a store, and the place of a file in it.
    pub(super) fn new(store: u64, place: u64) -> Self {
        Self { payload: mix(store) as u32, header: mix(store.rotate_left(32) ^ mix(place)) }
    }

    fn of_header(&self, header: &[u8], offset: u64) -> u32 {
        checksum((mix(self.header ^ offset) >> 32) as u32, header)
    }
}

/// The last steps of SplitMix64.
fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}

fn checksum(seed: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(seed);
    hasher.update(bytes);
    hasher.finalize()
}

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) ends_batch: bool,
    pub(super) len: u32,
    pub(super) position: u64,
    payload_crc: u32,
}

impl Header {
    /// `None` when these bytes are not a whole header of this place.
    pub(super) fn read(bytes: &[u8], key: &Key, offset: u64) -> Option<Self> {
        let bytes = bytes.first_chunk::<HEADER>()?;
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        if bytes[..2] != MAGIC || word(20) != key.of_header(&bytes[..20], offset) {
            return None;
        }
        let position = u64::from(word(8)) | u64::from(word(12)) << 32;
        Some(Self { ends_batch: bytes[2] == 1, len: word(4), position, payload_crc: word(16) })
    }

    pub(super) fn is_of(&self, payload: &[u8], key: &Key) -> bool {
        self.payload_crc == checksum(key.payload, payload)
    }
}

/// Appends a record whose position and place are not known yet; `seed` is [`Key::payload`].
pub(super) fn push(
    records: &mut Vec<u8>,
    seed: u32,
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
    header[16..20].copy_from_slice(&checksum(seed, payload).to_le_bytes());
    Ok(())
}

/// Gives the records their positions, from `position` on, and with the places from `offset` on their last checksum; says
/// the position after them.
pub(super) fn place(records: &mut [u8], key: &Key, mut offset: u64, mut position: u64) -> u64 {
    let mut rest = records;
    while !rest.is_empty() {
        let header = &mut rest[..HEADER];
        header[8..16].copy_from_slice(&position.to_le_bytes());
        let crc = key.of_header(&header[..20], offset);
        header[20..24].copy_from_slice(&crc.to_le_bytes());
        let len = HEADER + u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize;
        rest = &mut rest[len..];
        offset += len as u64;
        position += 1;
    }
    position
}

/// Appends a batch.
pub(super) fn push_batch(records: &mut Vec<u8>, seed: u32, batch: &[Message]) -> Result<(), BoxError> {
    for (index, message) in batch.iter().enumerate() {
        push(records, seed, index + 1 == batch.len(), |records| {
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

    const KEY: Key = Key { payload: 7, header: 9 };

    #[test]
    fn a_message_comes_back_as_it_was() {
        let batch = [full(), Message::json("user.created", &7).unwrap()];
        let mut records = Vec::new();
        push_batch(&mut records, KEY.payload, &batch).unwrap();
        assert_eq!(place(&mut records, &KEY, 80, MAX_POSITION - 2), MAX_POSITION);
        let (mut rest, mut offset) = (records.as_slice(), 80);
        for (index, wanted) in batch.iter().enumerate() {
            let header = Header::read(rest, &KEY, offset).unwrap();
            let payload = &rest[HEADER..HEADER + header.len as usize];
            assert_eq!(header.position, MAX_POSITION - 2 + index as u64);
            assert_eq!(header.ends_batch, index == 1);
            assert!(header.is_of(payload, &KEY) && has_id(payload, wanted.id()));
            assert_eq!(message(payload).unwrap(), *wanted);
            rest = &rest[HEADER + header.len as usize..];
            offset += (HEADER + header.len as usize) as u64;
        }
        assert!(rest.is_empty());
    }

    fn is_whole(records: &[u8], key: &Key, offset: u64) -> bool {
        Header::read(records, key, offset).is_some_and(|header| {
            let payload = records.get(HEADER..HEADER + header.len as usize);
            payload.is_some_and(|payload| header.is_of(payload, key))
        })
    }

    #[test]
    fn every_flipped_byte_of_a_record_is_seen() {
        let mut records = Vec::new();
        push_batch(&mut records, KEY.payload, &[full()]).unwrap();
        place(&mut records, &KEY, 0, 9);
        assert!(is_whole(&records, &KEY, 0));
        for at in 0..records.len() {
            records[at] ^= 0x10;
            assert!(!is_whole(&records, &KEY, 0), "byte {at}");
            records[at] ^= 0x10;
        }
    }

    #[test]
    fn a_record_counts_only_in_its_place_in_its_file_in_its_store() {
        let key = Key::new(5, 1);
        let mut records = Vec::new();
        push_batch(&mut records, key.payload, &[full()]).unwrap();
        place(&mut records, &key, 80, 9);
        assert!(is_whole(&records, &key, 80));
        for (other, offset) in [(key, 81), (key, 80 + (1 << 32)), (Key::new(5, 2), 80), (Key::new(6, 1), 80)]
        {
            assert!(!is_whole(&records, &other, offset));
            assert_eq!(Header::read(&records, &other, offset), None);
        }
    }
}
