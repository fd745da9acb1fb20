//! Ids of messages.

use std::time::SystemTime;

use uuid::Uuid;

#[cfg(feature = "_brokers")]
use crate::message::topic::Topic;

/// Returns the id of a received message. An id that is not a UUID is unique at best for its publisher and topic, so the
/// name that the UUID is made of contains these.
#[cfg(feature = "_brokers")]
pub(crate) fn foreign_id(publisher: &str, topic: &Topic, id: &str) -> Uuid {
    Uuid::try_parse(id).unwrap_or_else(|_| id_of(&format!("{publisher}\0{topic}\0{id}")))
}

/// Returns the id that a broker gave as a text: a UUID as it is, any other text as a name (UUIDv5; RFC 9562, section 5.5).
#[cfg_attr(not(feature = "_brokers"), allow(dead_code, reason = "only brokers give texts"))]
pub(crate) fn id_of(text: &str) -> Uuid {
    Uuid::try_parse(text).unwrap_or_else(|_| Uuid::new_v5(&Uuid::NAMESPACE_OID, text.as_bytes()))
}

/// Returns a UUIDv7 with random bits of the thread's own generator: no system call for each message.
pub(crate) fn uuid_v7(time: SystemTime) -> Uuid {
    let millis = time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    let random = rand::random::<u128>().to_le_bytes();
    let mut tail = [0; 10];
    tail.copy_from_slice(&random[..10]);
    uuid::Builder::from_unix_timestamp_millis(millis, &tail).into_uuid()
}
