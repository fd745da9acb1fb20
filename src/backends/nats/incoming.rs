//! Decoding of received messages.

use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::header::{HeaderName, HeaderValue};
use bytes::Bytes;
use uuid::Uuid;

use super::ack_subject::AckSubject;
use super::outgoing::{
    ATTRIBUTE, CONTENT_TYPE, ID, MESSAGE_ID, Needs, Outgoing, TEXT, TIME, TTL, TYPES, is_of_server,
};
use super::settings::NatsSettings;
use crate::envelope::Envelope;
use crate::message::headers::{self, start_of};
use crate::message::topic::Topic;
use crate::message::{FailedAttempt, Message, Scalar, foreign_id};
use crate::util::error::{BoxError, Chain};
use crate::util::rfc3339;

/// Headers of ours, which are ignored in received messages: no message comes back here with them.
const OURS: [&str; 6] =
    [headers::TOPIC, headers::QUEUE, headers::ATTEMPT, headers::FAILURES, headers::REASON, headers::EXPIRY];
/// The most bytes of a reason in a dead letter.
const REASON_LEN: usize = 1_000;

/// The headers that are fields of a message.
const FIELDS: [&str; 8] = [ID, TIME, TYPES, CONTENT_TYPE, headers::KEY, headers::PRIORITY, MESSAGE_ID, TTL];

/// Reads the messages of one subscription.
pub(super) struct Reader {
    pub(super) settings: Arc<NatsSettings>,
    pub(super) stream: String,
    /// The name of the source.
    pub(super) source: Arc<str>,
}

/// A message as it came.
#[derive(Clone)]
pub(super) struct Raw {
    pub(super) subject: String,
    pub(super) headers: Option<HeaderMap>,
    pub(super) payload: Bytes,
}

/// The headers of a message, read in one pass.
#[derive(Default)]
struct HeadersRead<'a> {
    /// The values of [`FIELDS`].
    fields: [Option<&'a str>; FIELDS.len()],
    /// Those of the application, by name: the client library keeps no order.
    others: Vec<(&'a str, &'a str)>,
}

impl<'a> HeadersRead<'a> {
    fn of(raw: &'a Raw) -> Self {
        let mut read = Self::default();
        for (name, values) in raw.headers.iter().flat_map(HeaderMap::iter) {
            let (name, Some(value)) = (known_as(name), values.first()) else { continue };
            let is_one = |known: &&str| known.eq_ignore_ascii_case(name);
            if let Some(field) = FIELDS.iter().position(is_one) {
                read.fields[field].get_or_insert(value.as_str());
            } else if !is_of_server(name) && !OURS.iter().any(is_one) {
                read.others.push((name, value.as_str()));
            }
        }
        read.others.sort_unstable();
        read
    }

    /// The value of one of [`FIELDS`].
    fn get(&self, name: &str) -> Option<&'a str> {
        FIELDS.iter().zip(self.fields).find(|(known, _)| **known == name)?.1
    }
}

/// Why a message is a dead letter, and where it goes.
pub(super) struct DeadLetter<'a> {
    pub(super) subject: &'a str,
    pub(super) attempt: u32,
    pub(super) failures: &'a [FailedAttempt],
    pub(super) reason: &'a str,
}

/// The parts of a message that its dead letter keeps beside the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parts {
    All,
    WithoutHeaders,
    /// Without a reason too.
    BodyAlone,
}

impl Raw {
    /// Returns all headers, as texts.
    #[cfg(feature = "admin")]
    pub(super) fn texts(&self) -> std::collections::BTreeMap<String, String> {
        let headers = self.headers.iter().flat_map(HeaderMap::iter);
        let text = |(name, values): (&HeaderName, &Vec<HeaderValue>)| {
            Some((known_as(name).to_owned(), values.first()?.as_str().to_owned()))
        };
        headers.filter_map(text).collect()
    }

    pub(super) fn value(&self, name: &str) -> Option<&str> {
        let headers = self.headers.as_ref()?;
        headers
            .iter()
            .find(|(known, _)| known_as(known).eq_ignore_ascii_case(name))
            .and_then(|(_, values)| values.first())
            .map(HeaderValue::as_str)
    }
}

/// The headers of a dead letter that is sent again: those of its message.
#[cfg(feature = "admin")]
pub(super) fn requeued(raw: &Raw) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, values) in raw.headers.iter().flat_map(HeaderMap::iter).filter(|(name, _)| is_theirs(name)) {
        values.iter().for_each(|value| map.append(name.clone(), value.clone()));
    }
    map
}

/// Whether a header is neither of the server nor of a dead letter.
fn is_theirs(name: &HeaderName) -> bool {
    let known = known_as(name);
    !is_of_server(known) && !OURS.contains(&known)
}

fn known_as(name: &HeaderName) -> &str {
    name.as_ref()
}

impl Reader {
    /// The message, or why it cannot be read.
    pub(super) fn read(&self, raw: &Raw, ack: AckSubject) -> Result<Message, Arc<str>> {
        self.message(raw, ack).map_err(|error| Chain(error.as_ref()).to_string().into())
    }

    fn message(&self, raw: &Raw, ack: AckSubject) -> Result<Message, BoxError> {
        let envelope = self.settings.broker.envelope;
        let topic = Topic::new(self.settings.topic_of(&raw.subject).to_owned())?;
        let read = HeadersRead::of(raw);
        let content_type = read.get(CONTENT_TYPE).unwrap_or("application/octet-stream").to_owned();
        let time = read.get(TIME).and_then(|time| rfc3339::read(time).ok()).unwrap_or(ack.stored);
        let id = self.id(read.get(ID).or_else(|| read.get(MESSAGE_ID)), &topic, ack);
        let mut message = Message::restore(id, topic, raw.payload.clone(), content_type.into(), time);
        if let Some(seconds) = read.get(TTL).and_then(|ttl| ttl.parse().ok()) {
            // The server counts from when it stored the message, and a message from its time.
            let age = ack.stored.duration_since(time).unwrap_or_default();
            message = message.with_expiry(age.saturating_add(Duration::from_secs(seconds)));
        }
        let types = read.get(TYPES).map(types).unwrap_or_default();
        let kind = |name: &str| types.get(name).and_then(serde_json::Value::as_str);
        if let Some(key) = read.get(headers::KEY) {
            message = message.with_key(scalar(key, kind(headers::KEY)).to_string());
        }
        if let Some(priority) = read.get(headers::PRIORITY).and_then(|priority| priority.parse().ok()) {
            message = message.with_priority(priority);
        }
        for (name, value) in read.others {
            let value = scalar(value, kind(name));
            let renamed = match envelope {
                Envelope::CloudEvents | Envelope::CloudEventsStructured => {
                    name.strip_prefix(ATTRIBUTE.1).map(|attribute| format!("{}{attribute}", ATTRIBUTE.0))
                }
                _ => None,
            };
            message.set_received(renamed.unwrap_or_else(|| name.to_owned()), value)?;
        }
        envelope.open(message)
    }

    /// The id of a message; of one without, it is made of its sequence and time in the stream.
    fn id(&self, written: Option<&str>, topic: &Topic, ack: AckSubject) -> Uuid {
        match written {
            Some(id) => foreign_id("", topic, id),
            None => foreign_id(&self.stream, topic, &ack.identity()),
        }
    }

    /// The failures written in a dead letter of another source, for display only: anyone may have written them, so no decision
    /// depends on them and they are not forwarded.
    pub(super) fn foreign_failures(&self, raw: &Raw) -> Vec<FailedAttempt> {
        let is_dead_letter = raw.value(headers::REASON).is_some()
            && raw.value(headers::QUEUE).is_some_and(|from| from != &*self.source);
        raw.value(headers::FAILURES)
            .filter(|_| is_dead_letter)
            .map(headers::read_failures)
            .unwrap_or_default()
    }

    /// The dead letter of a message: unchanged, with the reason, and without what the server acts on.
    pub(super) fn dead_letter(
        &self,
        raw: &Raw,
        ack: AckSubject,
        dead: &DeadLetter<'_>,
        parts: Parts,
    ) -> Outgoing {
        let mut map = HeaderMap::new();
        let subject = dead.subject.to_owned();
        if parts == Parts::BodyAlone {
            let payload = raw.payload.clone();
            return Outgoing { subject, headers: map, payload, needs: Needs::default() };
        }
        let theirs = raw.headers.iter().filter(|_| parts == Parts::All);
        for (name, values) in theirs.flat_map(HeaderMap::iter) {
            if is_theirs(name) {
                values.iter().for_each(|value| map.append(name.clone(), value.clone()));
            }
        }
        let topic = self.settings.topic_of(&raw.subject).to_owned();
        if raw.value(ID).is_none()
            && let Ok(topic) = Topic::new(topic.clone())
        {
            let id = self.id(raw.value(MESSAGE_ID), &topic, ack);
            map.insert(ID, printable(&id.to_string()));
        }
        // A letter whose confirm was lost is stored once.
        map.insert("Nats-Msg-Id", printable(&format!("dead-{}-{}", self.source, ack.identity())));
        for (name, value) in [
            (headers::REASON, start_of(dead.reason, REASON_LEN).to_owned()),
            (headers::ATTEMPT, dead.attempt.to_string()),
            (headers::FAILURES, headers::write_failures(dead.failures)),
            (headers::QUEUE, self.source.to_string()),
            (headers::TOPIC, topic),
        ] {
            map.insert(name, printable(&value));
        }
        Outgoing { subject, headers: map, payload: raw.payload.clone(), needs: Needs::default() }
    }
}

/// A text that is a value of a header.
fn printable(text: &str) -> HeaderValue {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    text.parse().unwrap_or_default()
}

/// The types of headers; none if they were not written by this crate.
fn types(text: &str) -> serde_json::Map<String, serde_json::Value> {
    serde_json::from_str(text).unwrap_or_default()
}

/// A text as the value of this type; the text itself if it is no such value.
fn scalar(text: &str, kind: Option<&str>) -> Scalar {
    let value = match kind {
        Some("null") => Some(Scalar::Null),
        Some("bool") => text.parse().ok().map(Scalar::Bool),
        Some("int") => text.parse().ok().map(Scalar::Int),
        Some("float") => text.parse().ok().map(Scalar::Float),
        Some(TEXT) => serde_json::from_str::<String>(text).ok().map(Scalar::from),
        _ => None,
    };
    value.unwrap_or_else(|| Scalar::String(text.to_owned().into()))
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::backends::brokers::BrokerSettings;
    use crate::envelope::odd_messages::odd_messages;

    const ACK: AckSubject = AckSubject { delivered: 1, sequence: 7, stored: SystemTime::UNIX_EPOCH };

    fn reader(envelope: Envelope) -> Reader {
        let broker = BrokerSettings::new(["nats://h"]).with_service("acme", "users").with_envelope(envelope);
        Reader { settings: Arc::new(broker.into()), stream: "users".into(), source: "users/all".into() }
    }

    fn sent(reader: &Reader, message: &Message) -> Option<Raw> {
        let Outgoing { subject, headers, payload, .. } = Outgoing::new(&reader.settings, message).ok()?;
        Some(Raw { subject, headers: Some(headers), payload })
    }

    fn shown(message: &Message) -> Vec<String> {
        let mut headers: Vec<_> =
            message.headers().map(|(name, value)| format!("{name} {value:?}")).collect();
        headers.sort();
        headers
    }

    #[test]
    fn a_sent_message_is_read_as_it_was() {
        let reader = reader(Envelope::Plain);
        let odd = Message::new("a.b", "x").unwrap().with_header("a", " x ").with_header("b", "1\r\n2");
        // Times travel with microseconds.
        let odd = odd.with_time(SystemTime::UNIX_EPOCH + std::time::Duration::from_micros(7));
        let mut read = 0;
        for message in odd_messages().into_iter().chain([odd.with_key(" k\n")]) {
            let Some(raw) = sent(&reader, &message) else { continue };
            let got = reader.read(&raw, ACK).unwrap();
            assert_eq!((got.id(), got.topic(), got.body()), (message.id(), message.topic(), message.body()));
            assert_eq!((got.content_type(), got.key()), (message.content_type(), message.key()));
            assert_eq!((got.time(), got.priority()), (message.time(), message.priority()));
            assert_eq!(shown(&got), shown(&message));
            read += 1;
        }
        assert!(read > 50, "{read} messages were read");
    }

    #[test]
    fn a_cloud_event_is_read_in_either_mode() {
        for envelope in [Envelope::CloudEvents, Envelope::CloudEventsStructured] {
            let message = Message::json("user.created", &serde_json::json!({"id": 7})).unwrap();
            let message = message.with_header("attempts", 3).with_header("X-Tenant", "acme").with_key("u7");
            let raw = sent(&reader(envelope), &message).unwrap();
            if envelope == Envelope::CloudEvents {
                assert_eq!(raw.value("ce-type"), Some("user.created"));
            }
            let got = reader(Envelope::CloudEvents).read(&raw, ACK).unwrap();
            assert_eq!((got.id(), got.topic(), got.body()), (message.id(), message.topic(), message.body()));
            assert_eq!((got.key(), got.header("X-Tenant")), (message.key(), message.header("X-Tenant")));
        }
    }

    #[test]
    fn headers_that_only_we_set_are_not_believed() {
        let reader = reader(Envelope::Plain);
        let mut map = HeaderMap::new();
        for (name, value) in [
            ("n", "7"),
            (headers::ATTEMPT, "90"),
            (headers::FAILURES, "[]"),
            (headers::TOPIC, "other"),
            (TYPES, r#"{"n": "bool", "x": 7}"#),
            (TIME, "yesterday"),
            (headers::PRIORITY, "1000"),
            (ID, "no uuid"),
            ("Nats-Stream", "x"),
        ] {
            map.insert(name, value);
        }
        let raw = Raw { subject: "a.b".into(), headers: Some(map), payload: Bytes::new() };
        let got = reader.read(&raw, ACK).unwrap();
        assert_eq!((got.topic().as_str(), shown(&got)), ("a.b", vec![r#"n String("7")"#.to_owned()]));
        assert_eq!((got.id(), got.priority()), (reader.read(&raw, ACK).unwrap().id(), None));
        assert!(reader.foreign_failures(&raw).is_empty());
        let plain = Raw { headers: None, ..raw };
        let id = reader.read(&plain, ACK).unwrap().id();
        assert_eq!(reader.read(&plain, ACK).unwrap().id(), id, "one without an id keeps the one it is given");
        assert_ne!(reader.read(&plain, AckSubject { sequence: 8, ..ACK }).unwrap().id(), id);
        let later = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
        assert_ne!(
            reader.read(&plain, AckSubject { stored: later, ..ACK }).unwrap().id(),
            id,
            "a new stream"
        );
    }

    #[test]
    fn a_dead_letter_can_always_be_published() {
        let reader = reader(Envelope::Plain);
        let raw = Raw { subject: "a.b".into(), headers: None, payload: Bytes::new() };
        let failures = [FailedAttempt::new(SystemTime::now(), "line\u{85}\u{7f}".into())];
        let why = DeadLetter { subject: "dead", attempt: 2, failures: &failures, reason: "first\nsecond\0" };
        let letter = reader.dead_letter(&raw, ACK, &why, Parts::All);
        let dead =
            Raw { subject: "dead".into(), headers: Some(letter.headers), payload: letter.payload.clone() };
        assert!(reader.foreign_failures(&dead).is_empty(), "a letter of this source itself");
        let other =
            Reader { source: "dead".into(), settings: Arc::clone(&reader.settings), stream: "d".into() };
        assert_eq!(other.foreign_failures(&dead).len(), 1);
        assert_eq!(other.read(&dead, ACK).unwrap().id(), reader.read(&raw, ACK).unwrap().id());
    }
}
