//! Received messages: how they are read, and what they become as dead letters.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use uuid::Uuid;

use super::outgoing::{CONTENT_TYPE, TIME, TYPES};
use crate::envelope::Envelope;
use crate::kubemq_wire::{EventReceive, QueueMessage, Request};
use crate::message::headers::{
    ATTEMPT, EXPIRY, FAILURES, KEY, MOST, PRIORITY, QUEUE, REASON, TOPIC, read_failures, start_of,
    write_failures,
};
use crate::message::topic::Topic;
use crate::message::{FailedAttempt, Message, Scalar, foreign_id};
use crate::util::error::{BoxError, Chain};
use crate::util::rfc3339;

/// The header with the metadata of a message that was not sent by this crate.
const METADATA: &str = "metadata";
/// An id of fewer bytes is a counter, which begins again with each process of its publisher.
const UNIQUE: usize = 16;
/// The longest reason of a dead letter, in bytes.
const REASON_LEN: usize = 1_000;

/// The facts that a source needs to read messages.
pub(super) struct Reader {
    pub(super) channel: Arc<str>,
    pub(super) topic_prefix: Option<String>,
    pub(super) envelope: Envelope,
    pub(super) content_type: Option<String>,
}

/// A received message of a queue, or an event.
#[derive(Clone)]
pub(super) struct Incoming {
    id: String,
    client_id: String,
    channel: String,
    metadata: String,
    pub(super) body: Bytes,
    pub(super) tags: BTreeMap<String, String>,
    pub(super) sequence: u64,
    /// Nanoseconds since 1970.
    timestamp: i64,
    expires_at: i64,
}

impl From<EventReceive> for Incoming {
    fn from(event: EventReceive) -> Self {
        Self {
            id: event.event_id,
            client_id: String::new(),
            channel: event.channel,
            metadata: event.metadata,
            body: event.body,
            tags: event.tags,
            sequence: event.sequence,
            timestamp: event.timestamp,
            expires_at: 0,
        }
    }
}

impl From<Request> for Incoming {
    fn from(request: Request) -> Self {
        Self {
            id: request.request_id,
            client_id: request.client_id,
            channel: request.channel,
            metadata: request.metadata,
            body: request.body,
            tags: request.tags,
            sequence: 0,
            timestamp: 0,
            expires_at: 0,
        }
    }
}

impl From<QueueMessage> for Incoming {
    fn from(message: QueueMessage) -> Self {
        let attributes = message.attributes.unwrap_or_default();
        Self {
            id: message.message_id,
            client_id: message.client_id,
            channel: message.channel,
            metadata: message.metadata,
            body: message.body,
            tags: message.tags,
            sequence: attributes.sequence,
            timestamp: attributes.timestamp,
            expires_at: attributes.expiration_at,
        }
    }
}

impl Reader {
    /// Reads the message in it.
    pub(super) fn read(&self, incoming: &Incoming) -> Result<Message, Arc<str>> {
        let opened = self.plain(incoming).and_then(|message| self.envelope.open(message));
        opened.map_err(|error| Chain(error.as_ref()).to_string().into())
    }

    fn plain(&self, incoming: &Incoming) -> Result<Message, BoxError> {
        let Incoming { tags, channel, .. } = incoming;
        if tags.len() > MOST {
            return Err(format!("it has {} tags; {MOST} are the most", tags.len()).into());
        }
        let topic = self.topic(incoming)?;
        let tag = |name| tags.get(name).map(String::as_str);
        let content_type = tag(CONTENT_TYPE).or_else(|| tag("content-type")).or(self.content_type.as_deref());
        let content_type = content_type.unwrap_or("application/octet-stream").to_owned();
        let received = time(incoming.timestamp).unwrap_or_else(SystemTime::now);
        let written = tag(TIME).and_then(|text| rfc3339::read(text).ok());
        let id = match incoming.id.len() < UNIQUE {
            true => foreign_id(
                &format!("{channel}\0{}\0{}", incoming.sequence, incoming.client_id),
                &topic,
                &incoming.id,
            ),
            false => foreign_id("", &topic, &incoming.id),
        };
        let time = written.unwrap_or(received);
        let mut message = Message::restore(id, topic, incoming.body.clone(), content_type.into(), time);
        let types: HashMap<String, String> =
            tag(TYPES).and_then(|types| serde_json::from_str(types).ok()).unwrap_or_default();
        for (name, value) in tags.iter().filter(|(name, _)| !is_own(name)) {
            message.set_received(name.clone(), scalar(value, types.get(name).map(String::as_str)))?;
        }
        if tag(TIME).is_none() && !incoming.metadata.is_empty() {
            message.set_received(METADATA, incoming.metadata.clone())?;
        }
        if let Some(key) = tag(KEY) {
            message = message.with_key(key);
        }
        if let Some(priority) = tag(PRIORITY).and_then(|priority| priority.parse().ok()) {
            message = message.with_priority(priority);
        }
        if let Some(expiry) = self::time(incoming.expires_at).and_then(|at| at.duration_since(time).ok()) {
            message = message.with_expiry(expiry);
        }
        Ok(message)
    }

    /// The topic in its tag, or else the name of the channel; without `TOPIC_PREFIX`.
    pub(super) fn topic(&self, incoming: &Incoming) -> Result<Topic, BoxError> {
        let prefix = self.topic_prefix.as_deref().unwrap_or_default().trim_matches('.');
        let named = |name: &str| {
            let rest = name.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('.'));
            Topic::new(rest.filter(|_| !prefix.is_empty()).unwrap_or(name).to_owned())
        };
        let tagged = incoming.tags.get(TOPIC).and_then(|topic| named(topic).ok());
        tagged.map_or_else(|| named(&incoming.channel).map_err(Into::into), Ok)
    }
}

impl Incoming {
    /// Identifies its content, whatever the attempt.
    pub(super) fn content(&self) -> Uuid {
        let mut bytes = Vec::with_capacity(self.body.len() + 200);
        let tags = self.tags.iter().flat_map(|(name, value)| [name, value]);
        for text in [&self.id, &self.client_id, &self.metadata].into_iter().chain(tags) {
            bytes.extend_from_slice(text.as_bytes());
            bytes.push(0);
        }
        bytes.extend_from_slice(&self.body);
        Uuid::new_v5(&Uuid::NAMESPACE_OID, &bytes)
    }

    /// The failures in a dead letter of another channel. Anyone may have written them; no decision depends on them.
    pub(super) fn foreign_failures(&self, channel: &str) -> Vec<FailedAttempt> {
        let tag = |name| self.tags.get(name).map(String::as_str);
        let is_dead_letter = tag(REASON).is_some() && tag(QUEUE).is_some_and(|from| from != channel);
        tag(FAILURES).filter(|_| is_dead_letter).map(read_failures).unwrap_or_default()
    }

    /// The message of a dead letter as a new one, without its failed attempts.
    #[cfg(feature = "admin")]
    pub(super) fn into_requeued(mut self, client_id: &str, queue: &str) -> QueueMessage {
        self.tags.retain(|name, _| !OF_DEAD_LETTERS.contains(&name.as_str()));
        QueueMessage {
            message_id: self.id,
            client_id: client_id.to_owned(),
            channel: queue.to_owned(),
            metadata: self.metadata,
            body: self.body,
            tags: self.tags,
            attributes: None,
            policy: None,
        }
    }

    pub(super) fn size(&self) -> usize {
        let tags: usize = self.tags.iter().map(|(name, value)| name.len() + value.len()).sum();
        self.body.len() + self.metadata.len() + tags
    }

    /// The dead letter: unchanged, but without limits, and with the reason and the failures.
    pub(super) fn into_dead_letter(
        mut self,
        reader: &Reader,
        (client_id, queue): (&str, &str),
        failures: &[FailedAttempt],
        reason: &str,
    ) -> QueueMessage {
        let topic = reader.topic(&self).map(|topic| match &reader.topic_prefix {
            Some(prefix) if !prefix.trim_matches('.').is_empty() => {
                format!("{}.{topic}", prefix.trim_matches('.'))
            }
            _ => topic.to_string(),
        });
        let mut set = |name: &str, value: String| self.tags.insert(name.to_owned(), value);
        if let Ok(topic) = topic {
            set(TOPIC, topic);
        }
        set(REASON, start_of(reason, REASON_LEN).to_owned());
        set(QUEUE, reader.channel.to_string());
        set(ATTEMPT, failures.len().to_string());
        set(FAILURES, write_failures(failures));
        if self.metadata.is_empty() && self.body.is_empty() {
            self.metadata.push('-');
        }
        QueueMessage {
            message_id: self.id,
            client_id: client_id.to_owned(),
            channel: queue.to_owned(),
            metadata: self.metadata,
            body: self.body,
            tags: self.tags,
            attributes: None,
            policy: None,
        }
    }
}

/// The tags that a dead letter has more than its message.
#[cfg(feature = "admin")]
const OF_DEAD_LETTERS: [&str; 4] = [REASON, QUEUE, ATTEMPT, FAILURES];

/// Whether a tag is no header of the app.
fn is_own(name: &str) -> bool {
    matches!(name, TOPIC | KEY | PRIORITY | EXPIRY | ATTEMPT | FAILURES | CONTENT_TYPE | TIME | TYPES)
}

fn scalar(value: &str, kind: Option<&str>) -> Scalar {
    let typed = match kind {
        Some("null") => Some(Scalar::Null),
        Some("bool") => value.parse().ok().map(Scalar::Bool),
        Some("int") => value.parse().ok().map(Scalar::Int),
        Some("float") => value.parse().ok().map(Scalar::Float),
        _ => None,
    };
    typed.unwrap_or_else(|| value.to_owned().into())
}

fn time(nanos: i64) -> Option<SystemTime> {
    let nanos = u64::try_from(nanos).ok().filter(|nanos| *nanos > 0)?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_nanos(nanos))
}
