//! Decoding of received records, and the records that they become when they are not handled.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use krafka::{ConsumerRecord, Record};
use uuid::Uuid;

use super::letter::{Earlier, Letter};
use super::outgoing::{ATTRIBUTE, CONTENT_TYPE, ID, Outgoing, TIME, TYPES};
use super::scalars::scalar;
use super::settings::KafkaSettings;
use crate::envelope::Envelope;
use crate::message::headers::{self, start_of};
use crate::message::topic::Topic;
use crate::message::{FailedAttempt, Message, foreign_id};
use crate::util::deadline::after;
use crate::util::error::{BoxError, Chain};
use crate::util::rfc3339;

/// Headers of ours, which are ignored in messages of others.
const OURS: [&str; 7] = [
    headers::TOPIC,
    headers::QUEUE,
    headers::ATTEMPT,
    headers::FAILURES,
    headers::REASON,
    headers::EXPIRY,
    DUE,
];
/// The headers with fields of a message.
const OF_FIELDS: [&str; 5] = [ID, TIME, TYPES, CONTENT_TYPE, headers::PRIORITY];
/// The header with the time at which a retry is due (RFC 3339), on topics of retries.
const DUE: &str = "tower-outbox-due";
/// The most bytes of a reason in a dead letter.
const REASON_LEN: usize = 1_000;

/// Reads the records of one subscription.
pub(super) struct Reader {
    pub(super) settings: Arc<KafkaSettings>,
    /// The name of the source: the group.
    pub(super) source: Arc<str>,
    /// The topics of its own retries.
    pub(super) retry_names: Vec<String>,
}

/// The parts of a message that its dead letter keeps beside the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parts {
    All,
    WithoutHeaders,
    /// Without a reason too.
    BodyAlone,
}

/// Keeps the first headers of a record that has more than a message of ours can have, with all that we add. Returns the reason why
/// it cannot be read.
pub(super) fn shorten(record: &mut ConsumerRecord) -> Option<String> {
    let count = record.headers.len();
    if count <= headers::MOST + OURS.len() + OF_FIELDS.len() {
        return None;
    }
    record.headers.truncate(headers::MOST);
    record.headers.shrink_to_fit();
    let most = headers::MOST;
    Some(format!("it has {count} headers, more than {most}: only the first {most} are kept"))
}

/// The first header with this name, as a text.
pub(super) fn value<'a>(record: &'a ConsumerRecord, name: &str) -> Option<&'a str> {
    let (_, value) = record.headers.iter().find(|(known, _)| known == name)?;
    std::str::from_utf8(value.as_ref()?).ok()
}

/// A text as it is, other bytes in base64.
fn text(bytes: &[u8]) -> String {
    std::str::from_utf8(bytes).map_or_else(|_| STANDARD.encode(bytes), str::to_owned)
}

/// The record of a message again, in another topic and without headers of ours.
pub(super) fn again(record: &ConsumerRecord, topic: &str) -> Record {
    let mut again = Record::new(topic, Bytes::new());
    again.value.clone_from(&record.value);
    again.key.clone_from(&record.key);
    // One that could not be read has none. With the time 0 the brokers would soon remove it as an old one.
    again.timestamp = (record.timestamp >= 0).then_some(record.timestamp);
    again.headers =
        record.headers.iter().filter(|(name, _)| !OURS.contains(&name.as_str())).cloned().collect();
    again
}

fn put(record: &mut Record, name: &str, value: String) {
    record.headers.push((name.to_owned(), Some(value.into())));
}

impl Reader {
    /// The message, or why it cannot be read.
    pub(super) fn read(&self, letter: &Letter) -> Result<Message, Arc<str>> {
        if let Some(fault) = &letter.fault {
            return Err(Arc::clone(fault));
        }
        self.message(&letter.record).map_err(|error| Chain(error.as_ref()).to_string().into())
    }

    pub(super) fn message(&self, record: &ConsumerRecord) -> Result<Message, BoxError> {
        let envelope = self.settings.broker.envelope;
        let topic = Topic::new(self.settings.topic_of(self.name_of(record)).to_owned())?;
        let content_type = match value(record, CONTENT_TYPE) {
            None => Cow::Borrowed("application/octet-stream"),
            Some("application/json") => Cow::Borrowed("application/json"),
            Some(other) => Cow::Owned(other.to_owned()),
        };
        let millis = Duration::from_millis(u64::try_from(record.timestamp).unwrap_or_default());
        let time = value(record, TIME).and_then(|time| rfc3339::read(time).ok());
        let time = time.unwrap_or_else(|| after(SystemTime::UNIX_EPOCH, millis));
        let id = self.id(record, &topic);
        let body = record.value.clone().unwrap_or_default();
        let mut message = Message::restore(id, topic, body, content_type, time);
        let types = value(record, TYPES).and_then(|types| serde_json::from_str(types).ok());
        let types: serde_json::Map<String, serde_json::Value> = types.unwrap_or_default();
        if let Some(key) = &record.key {
            message = message.with_key(text(key));
        }
        if let Some(priority) = value(record, headers::PRIORITY).and_then(|priority| priority.parse().ok()) {
            message = message.with_priority(priority);
        }
        for (name, value) in &record.headers {
            if name.is_empty() || OURS.contains(&name.as_str()) || OF_FIELDS.contains(&name.as_str()) {
                continue;
            }
            let renamed = match envelope {
                Envelope::CloudEvents | Envelope::CloudEventsStructured => {
                    name.strip_prefix(ATTRIBUTE.1).map(|attribute| format!("{}{attribute}", ATTRIBUTE.0))
                }
                _ => None,
            };
            let name_here = renamed.as_deref().unwrap_or(name);
            // Kafka keeps several of one name, of which the first counts.
            if message.header(name_here).is_some() {
                continue;
            }
            let kind = types.get(name).and_then(serde_json::Value::as_str);
            let value = value.as_deref().map(text);
            let value = value.map_or(crate::message::Scalar::Null, |value| scalar(&value, kind));
            message.set_received(name_here.to_owned(), value)?;
        }
        envelope.open(message)
    }

    /// The id of a message; of one without, it is made of its place.
    fn id(&self, record: &ConsumerRecord, topic: &Topic) -> Uuid {
        match value(record, ID) {
            Some(id) => foreign_id("", topic, id),
            None => {
                let place = format!("{}/{}/{}", record.partition, record.offset, record.timestamp);
                foreign_id(&record.topic, topic, &place)
            }
        }
    }

    fn is_retry(&self, record: &ConsumerRecord) -> bool {
        self.retry_names.iter().any(|name| **name == *record.topic)
            && value(record, headers::QUEUE) == Some(&*self.source)
    }

    /// The name of the topic that a message was published to.
    pub(super) fn name_of<'a>(&self, record: &'a ConsumerRecord) -> &'a str {
        let named = value(record, headers::TOPIC).filter(|_| self.is_retry(record));
        named.unwrap_or(&record.topic)
    }

    /// Whether a message in a topic of retries is that of another group.
    pub(super) fn is_of_others(&self, record: &ConsumerRecord) -> bool {
        self.retry_names.iter().any(|name| **name == *record.topic)
            && value(record, headers::QUEUE).is_some_and(|queue| queue != &*self.source)
    }

    /// The attempts that a retry of ours had. Those of other messages are not believed.
    pub(super) fn earlier(&self, record: &ConsumerRecord) -> Earlier {
        if !self.is_retry(record) {
            return Earlier::default();
        }
        let due = value(record, DUE).and_then(|due| rfc3339::read(due).ok());
        Earlier {
            failed: value(record, headers::ATTEMPT)
                .and_then(|attempt| attempt.parse().ok())
                .unwrap_or_default(),
            failures: value(record, headers::FAILURES).map(headers::read_failures).unwrap_or_default(),
            due: due.and_then(|due| due.duration_since(SystemTime::now()).ok()),
        }
    }

    /// The failures written in a dead letter of another source, for display only: anyone may have written them, so no decision
    /// depends on them and they are not forwarded.
    pub(super) fn foreign_failures(&self, record: &ConsumerRecord) -> Vec<FailedAttempt> {
        let is_dead_letter = value(record, headers::REASON).is_some()
            && value(record, headers::QUEUE).is_some_and(|from| from != &*self.source);
        value(record, headers::FAILURES)
            .filter(|_| is_dead_letter)
            .map(headers::read_failures)
            .unwrap_or_default()
    }

    /// A message for the topic of retries.
    pub(super) fn retry(&self, letter: &Letter, topic: &str, after: Duration) -> Outgoing {
        let mut record = again(&letter.record, topic);
        self.identify(letter, &mut record);
        let due = crate::util::deadline::after(SystemTime::now(), after);
        put(&mut record, DUE, rfc3339::write(due).unwrap_or_default());
        Outgoing(record)
    }

    /// The dead letter of a message: unchanged, with the reason.
    pub(super) fn dead_letter(&self, letter: &Letter, topic: &str, reason: &str, parts: Parts) -> Outgoing {
        let mut record = again(&letter.record, topic);
        if parts != Parts::All {
            record.headers.clear();
        }
        if parts != Parts::BodyAlone {
            put(&mut record, headers::REASON, start_of(reason, REASON_LEN).to_owned());
            self.identify(letter, &mut record);
        }
        Outgoing(record)
    }

    /// Adds the source of a message, its topic and its attempts.
    fn identify(&self, letter: &Letter, record: &mut Record) {
        let name = self.name_of(&letter.record);
        if value(&letter.record, ID).is_none()
            && let Ok(topic) = Topic::new(self.settings.topic_of(name).to_owned())
        {
            put(record, ID, self.id(&letter.record, &topic).to_string());
        }
        put(record, headers::ATTEMPT, letter.failed.to_string());
        put(record, headers::FAILURES, headers::write_failures(&letter.failures));
        put(record, headers::QUEUE, self.source.to_string());
        put(record, headers::TOPIC, name.to_owned());
    }
}
