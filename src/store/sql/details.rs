//! A message as columns: id, topic, key and body have their own; `details` has the rest as JSON.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::message::topic::Topic;
use crate::message::{Message, Scalar};
use crate::store::epoch::{from_epoch, since_epoch};
use crate::util::error::BoxError;

#[derive(Serialize, Deserialize)]
struct Details<'a> {
    #[serde(borrow)]
    content_type: Cow<'a, str>,
    /// The ordering key, if its column cannot hold it.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    key: Option<Cow<'a, str>>,
    /// Seconds since 1970, and nanoseconds.
    time: (i64, u32),
    #[serde(default, skip_serializing_if = "Option::is_none")]
    priority: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expiry: Option<(u64, u32)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    delay: Option<(u64, u32)>,
    #[serde(borrow, default, skip_serializing_if = "Vec::is_empty")]
    headers: Vec<(Cow<'a, str>, Value<'a>)>,
}

/// A float is a text, `{"float": ".."}`, so that no bit is lost. All others are JSON values.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
    String(#[serde(borrow)] Cow<'a, str>),
    Float { float: String },
}

/// Returns the key for its column, if that can hold it: a text in Postgres has no NUL character.
pub(crate) fn column_key(key: Option<&str>) -> Option<&str> {
    key.filter(|key| !key.contains('\0'))
}

/// Returns the hash of topic and key, the same in every process (FNV-1a).
pub(crate) fn key_hash(message: &Message) -> Option<i64> {
    let bytes = message.topic().as_str().bytes().chain([0]).chain(message.key()?.bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    Some(hash as i64)
}

/// Returns about how many bytes the row of a message takes.
pub(crate) fn size(message: &Message) -> u64 {
    message.size() as u64 + 128
}

/// Returns the column `details` of a message.
pub(crate) fn details(message: &Message) -> String {
    let headers = message.headers().map(|(name, value)| {
        let value = match value {
            Scalar::Null => Value::Null,
            Scalar::Bool(value) => Value::Bool(*value),
            Scalar::Int(value) => Value::Int(*value),
            Scalar::Float(value) => Value::Float { float: value.to_string() },
            Scalar::String(value) => Value::String(Cow::Borrowed(value)),
        };
        (Cow::Borrowed(name), value)
    });
    let span = |span: Duration| (span.as_secs(), span.subsec_nanos());
    let details = Details {
        content_type: Cow::Borrowed(message.content_type()),
        key: message.key().filter(|key| column_key(Some(key)).is_none()).map(Cow::Borrowed),
        time: since_epoch(message.time()),
        priority: message.priority(),
        expiry: message.expiry().map(span),
        delay: message.delay().map(span),
        headers: headers.collect(),
    };
    serde_json::to_string(&details).expect("JSON can represent it")
}

/// Returns the message of these columns.
pub(crate) fn message(
    id: Uuid,
    topic: String,
    key: Option<String>,
    details: &str,
    body: Vec<u8>,
) -> Result<Message, BoxError> {
    let details: Details<'_> = serde_json::from_str(details)?;
    let time = from_epoch(details.time).ok_or("its time cannot be represented")?;
    let content_type = match details.content_type.as_ref() {
        "application/json" => Cow::Borrowed("application/json"),
        other => Cow::Owned(other.to_owned()),
    };
    let mut message = Message::restore(id, Topic::new(topic)?, Bytes::from(body), content_type, time);
    for (name, value) in details.headers {
        let value = match value {
            Value::Null => Scalar::Null,
            Value::Bool(value) => Scalar::Bool(value),
            Value::Int(value) => Scalar::Int(value),
            Value::Float { float } => Scalar::Float(float.parse()?),
            Value::String(value) => Scalar::String(Cow::Owned(value.into_owned())),
        };
        message.set_header(name.into_owned(), value);
    }
    if let Some(key) = details.key.map(Cow::into_owned).or(key) {
        message = message.with_key(key);
    }
    if let Some(priority) = details.priority {
        message = message.with_priority(priority);
    }
    if let Some(expiry) = details.expiry {
        message = message.with_expiry(span(expiry)?);
    }
    Ok(match details.delay {
        Some(delay) => message.with_delay(span(delay)?),
        None => message,
    })
}

fn span((seconds, nanos): (u64, u32)) -> Result<Duration, BoxError> {
    let span = Duration::from_secs(seconds).checked_add(Duration::from_nanos(nanos.into()));
    span.ok_or_else(|| "its expiry or delay cannot be represented".into())
}

/// Returns the time of a message from its `details`.
pub(crate) fn time_in(details: &str) -> Option<SystemTime> {
    from_epoch(serde_json::from_str::<Details<'_>>(details).ok()?.time)
}
