//! How a [`Message`] is carried by channels: id, body, metadata and tags, in the same way as over KubeMQ's wire.
//!
//! | field | content |
//! |---|---|
//! | id | the id of the message |
//! | metadata | the topic |
//! | body | the body |
//! | tags | the headers as texts; topic, content type, time, key and priority; the types of headers that are no texts |

use std::borrow::Cow;
use std::time::SystemTime;

use crate::channels::content::Content;
use crate::channels::name::ChannelName;
use crate::message::headers::{FAILURES, KEY, MOST, PRIORITY, REASON, TOPIC, read_failures, write_failures};
use crate::message::topic::Topic;
use crate::message::{FailedAttempt, Message, Scalar, id_of};
use crate::util::error::BoxError;
use crate::util::rfc3339;

/// The tag with the media type of the body.
const CONTENT_TYPE: &str = "tower-outbox-content-type";
/// The tag with the time of the event.
const TIME: &str = "tower-outbox-time";
/// The tag with the types of the headers that are no texts: JSON, `{"n": "int"}`.
const TYPES: &str = "tower-outbox-types";
/// The header with the metadata of a message that was not sent by this crate.
const METADATA: &str = "metadata";
/// An id of fewer bytes is a counter, which begins again with each process of its publisher.
const UNIQUE: usize = 16;

/// Returns what a message carries.
pub(super) fn write(message: &Message) -> Result<Content, BoxError> {
    let mut types = serde_json::Map::new();
    let mut tags: Vec<(String, String)> = Vec::new();
    for (name, value) in message.headers() {
        let kind = match value {
            Scalar::Null => Some("null"),
            Scalar::Bool(_) => Some("bool"),
            Scalar::Int(_) => Some("int"),
            Scalar::Float(_) => Some("float"),
            Scalar::String(_) => None,
        };
        if let Some(kind) = kind {
            types.insert(name.to_owned(), kind.into());
        }
        tags.push((name.to_owned(), value.to_string()));
    }
    let mut set = |name: &str, value: String| tags.push((name.to_owned(), value));
    set(TOPIC, message.topic().to_string());
    set(CONTENT_TYPE, message.content_type().to_owned());
    set(TIME, rfc3339::write(message.time())?);
    if let Some(key) = message.key() {
        set(KEY, key.to_owned());
    }
    if let Some(priority) = message.priority() {
        set(PRIORITY, priority.to_string());
    }
    if !types.is_empty() {
        set(TYPES, serde_json::Value::Object(types).to_string());
    }
    Ok(Content {
        id: message.id().to_string(),
        client: "tower-outbox".to_owned(),
        // Not empty: KubeMQ has no message with neither metadata nor body.
        metadata: message.topic().to_string(),
        body: message.body().clone(),
        tags,
    })
}

/// Returns the message in what was received. Others than this crate may have sent it: their channel is the topic then, their tags
/// are headers.
pub(super) fn read(
    content: &Content,
    channel: &ChannelName,
    sequence: u64,
    time: SystemTime,
) -> Result<Message, BoxError> {
    let topic = Topic::new(content.tag(TOPIC).unwrap_or(channel.as_str()).to_owned())?;
    let id = if content.id.len() >= UNIQUE {
        id_of(&content.id)
    } else {
        id_of(&format!("{}\0{channel}\0{}\0{sequence}", content.client, content.id))
    };
    let time = content.tag(TIME).map_or(Ok(time), rfc3339::read)?;
    let content_type = content.tag(CONTENT_TYPE).map_or("application/octet-stream", |kind| kind).to_owned();
    let mut message = Message::restore(id, topic, content.body.clone(), Cow::Owned(content_type), time);
    let types: serde_json::Map<String, serde_json::Value> =
        content.tag(TYPES).map_or_else(|| Ok(serde_json::Map::new()), serde_json::from_str)?;
    if content.tags.len() > MOST {
        return Err("it has more than 1,000 tags".into());
    }
    for (name, value) in &content.tags {
        match name.as_str() {
            TOPIC | CONTENT_TYPE | TIME | TYPES | FAILURES | REASON => {}
            KEY => message = message.with_key(value.clone()),
            PRIORITY => {
                if let Ok(priority) = value.parse() {
                    message = message.with_priority(priority);
                }
            }
            name => {
                message.set_header(
                    name.to_owned(),
                    scalar(value, types.get(name).and_then(|kind| kind.as_str())),
                );
            }
        }
    }
    if content.tag(TOPIC).is_none() && !content.metadata.is_empty() {
        message.set_header(METADATA, content.metadata.clone());
    }
    Ok(message)
}

fn scalar(text: &str, kind: Option<&str>) -> Scalar {
    let read = match kind {
        Some("null") => Some(Scalar::Null),
        Some("bool") => text.parse().ok().map(Scalar::Bool),
        Some("int") => text.parse().ok().map(Scalar::Int),
        Some("float") => text.parse().ok().map(Scalar::Float),
        _ => None,
    };
    read.unwrap_or_else(|| Scalar::String(Cow::Owned(text.to_owned())))
}

/// Returns the failed attempts that a message carries.
pub(super) fn failures(content: &Content) -> Vec<FailedAttempt> {
    content.tag(FAILURES).map(read_failures).unwrap_or_default()
}

/// Returns the content with its failed attempts, and the reason why it is a dead letter.
pub(super) fn with_failures(
    mut content: Content,
    failures: &[FailedAttempt],
    reason: Option<&str>,
) -> Content {
    content.tags.retain(|(name, _)| name != FAILURES && name != REASON);
    content.tags.push((FAILURES.to_owned(), write_failures(failures)));
    if let Some(reason) = reason {
        content.tags.push((REASON.to_owned(), reason.to_owned()));
    }
    content
}
