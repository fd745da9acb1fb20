//! A stored message as JSON: the form of the admin router, `--json`, export and import.

use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use indexmap::IndexMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::header::Header;
use super::timestamp;
use crate::message::Message;
use crate::source::dead_letters::DeadLetter;
use crate::store::{Entry, EntryState, Wait};
use crate::util::error::BoxError;

/// A message, its failed attempts, and why it is still stored.
///
/// To write one, give a topic and a body; fields of the store are ignored then.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct StoredMessage {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) position: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) state: Option<EntryState>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<Uuid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) topic: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<String>,
    #[serde(with = "timestamp::optional", skip_serializing_if = "Option::is_none")]
    pub(crate) time: Option<SystemTime>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) priority: Option<u8>,
    #[serde(with = "span", skip_serializing_if = "Option::is_none")]
    pub(crate) expiry: Option<Duration>,
    #[serde(with = "span", skip_serializing_if = "Option::is_none")]
    pub(crate) delay: Option<Duration>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) attempts: Option<u32>,
    /// Oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) failures: Vec<FailedAttempt>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) explain: Option<String>,
    #[serde(with = "timestamp::optional", skip_serializing_if = "Option::is_none")]
    pub(crate) next_attempt: Option<SystemTime>,
    #[serde(skip_serializing_if = "IndexMap::is_empty")]
    pub(crate) headers: IndexMap<String, Header>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) content_type: Option<String>,
    /// How many bytes the body has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) body_bytes: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "json_body")]
    pub(crate) body: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) body_text: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) body_base64: Option<String>,
}

/// One failed attempt.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FailedAttempt {
    #[serde(with = "timestamp")]
    pub(crate) at: SystemTime,
    pub(crate) reason: String,
}

impl StoredMessage {
    /// An entry without headers and body, for lists.
    pub(crate) fn listed(entry: &Entry) -> Self {
        let failed = entry
            .failures
            .iter()
            .map(|failure| FailedAttempt { at: failure.at, reason: failure.reason.to_string() });
        let mut stored = Self {
            position: Some(entry.position),
            state: Some(entry.state),
            attempts: Some(entry.attempts),
            failures: failed.collect(),
            explain: Some(entry.explain()),
            next_attempt: match entry.wait {
                Some(Wait::Delayed { until } | Wait::Retry { until }) => Some(until),
                _ => None,
            },
            ..Self::default()
        };
        if let Some(message) = &entry.message {
            stored.id = Some(message.id());
            stored.topic = Some(message.topic().to_string());
            stored.key = message.key().map(str::to_owned);
            stored.time = Some(message.time());
            stored.priority = message.priority();
            stored.expiry = message.expiry();
            stored.delay = message.delay();
            stored.content_type = Some(message.content_type().to_owned());
            stored.body_bytes = Some(message.body().len());
        }
        stored
    }

    /// Returns the number of failed attempts. A message that was rejected at once counts none in the store, and has its reason.
    #[cfg(feature = "dashboard")]
    pub(crate) fn tried(&self) -> u64 {
        u64::from(self.attempts.unwrap_or_default()).max(self.failures.len() as u64)
    }

    /// The same, with the reason why a message that is due was not sent, when the app was not asked.
    pub(crate) fn unsent_because(mut self, reason: &str) -> Self {
        let waits = self.state == Some(EntryState::Pending) && self.next_attempt.is_none();
        if waits && self.explain.is_some() {
            self.explain = Some(reason.to_owned());
        }
        self
    }

    /// An entry with headers and body.
    pub(crate) fn whole(entry: &Entry) -> Self {
        let mut stored = Self::listed(entry);
        if let Some(message) = &entry.message {
            stored.set_headers_and_body(message);
        }
        stored
    }

    /// A dead letter of a broker; with `whole` headers and body too.
    pub(crate) fn of_dead_letter(letter: &DeadLetter, whole: bool) -> Self {
        let reason = letter.reason.as_deref().unwrap_or("no reason was kept");
        let explain = match &letter.message {
            Ok(_) => reason.to_owned(),
            Err(why) => format!("it cannot be read: {why}; it became a dead letter: {reason}"),
        };
        let entry = Entry {
            attempts: letter.attempts,
            failures: letter.failures.clone(),
            ..Entry::new(0, EntryState::Dead, letter.message.as_ref().ok().cloned())
        };
        let stored = if whole { Self::whole(&entry) } else { Self::listed(&entry) };
        Self { position: None, explain: Some(explain), ..stored }
    }

    /// A message that is not stored yet.
    #[cfg(any(feature = "cli", feature = "dashboard", test))]
    pub(crate) fn new(message: &Message) -> Self {
        let entry = Entry::new(0, EntryState::Pending, Some(message.clone()));
        let mut stored = Self::whole(&entry);
        (stored.position, stored.state, stored.attempts, stored.explain) = (None, None, None, None);
        stored
    }

    fn set_headers_and_body(&mut self, message: &Message) {
        self.headers =
            message.headers().map(|(name, value)| (name.to_owned(), Header(value.clone()))).collect();
        let body = message.body();
        match std::str::from_utf8(body) {
            Ok(text) => match json(message.content_type(), text) {
                Some(raw) => self.body = Some(raw),
                None => self.body_text = Some(text.to_owned()),
            },
            Err(_) => self.body_base64 = Some(BASE64_STANDARD.encode(body)),
        }
    }

    /// The message itself.
    pub(crate) fn into_message(self) -> Result<Message, BoxError> {
        let topic = self.topic.ok_or("a message needs a topic")?;
        let (body, content_type): (Bytes, _) = match (self.body, self.body_text, self.body_base64) {
            (Some(json), None, None) => (Box::<str>::from(json).into_string().into(), "application/json"),
            (None, Some(text), None) => (text.into(), "text/plain; charset=utf-8"),
            (None, None, Some(text)) => {
                let decoded = BASE64_STANDARD.decode(text);
                let bytes = decoded.map_err(|error| format!("body_base64 is not Base64: {error}"))?;
                (bytes.into(), "application/octet-stream")
            }
            (None, None, None) => {
                return Err("a message needs a body: body as JSON, body_text or body_base64".into());
            }
            _ => return Err("a message has one body: body, body_text or body_base64".into()),
        };
        let mut message = Message::new(topic, body)?;
        message = match self.content_type {
            Some(content_type) => message.with_content_type(content_type),
            None => message.with_content_type(content_type),
        };
        for (name, Header(value)) in self.headers {
            message.set_header(name, value);
        }
        if let Some(id) = self.id {
            message = message.with_id(id);
        }
        if let Some(time) = self.time {
            message = message.with_time(time);
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
        if let Some(delay) = self.delay {
            message = message.with_delay(delay);
        }
        Ok(message)
    }
}

/// The text as JSON, if the content type is JSON and the text survives the round trip on one line.
fn json(content_type: &str, text: &str) -> Option<Box<RawValue>> {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if essence != "application/json" && !essence.ends_with("+json") || text.contains(['\n', '\r']) {
        return None;
    }
    let raw: Box<RawValue> = serde_json::from_str(text).ok()?;
    (raw.get() == text).then_some(raw)
}

/// A body may be `null`.
fn json_body<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::deserialize(deserializer).map(Some)
}

/// Durations in readable form.
mod span {
    use super::*;

    #[allow(clippy::ref_option, reason = "serde calls it so")]
    pub(super) fn serialize<S: Serializer>(
        span: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match span {
            Some(span) => serializer.collect_str(&humantime::format_duration(*span)),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        crate::util::units::optional_duration(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Scalar;

    fn round(message: &Message) -> Message {
        let entry = Entry::new(7, EntryState::Pending, Some(message.clone()));
        let text = serde_json::to_string(&StoredMessage::whole(&entry)).unwrap();
        assert!(!text.contains('\n'), "{text}");
        let read: StoredMessage = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), text);
        read.into_message().unwrap()
    }

    #[test]
    fn a_message_survives_the_round() {
        let message = Message::json("user.created", &serde_json::json!({"id": 7}))
            .unwrap()
            .with_key("user-7 ☃")
            .with_time(SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000, 123_456_789))
            .with_priority(9)
            .with_expiry(Duration::MAX)
            .with_delay(Duration::new(90_061, 1))
            .with_header("null", Scalar::Null)
            .with_header("true", true)
            .with_header("int", i64::MIN)
            .with_header("float", 1.0)
            .with_header("exact", 2.225_073_858_507_201_4e-308)
            .with_header("huge", f64::INFINITY)
            .with_header("zero", -0.0)
            .with_header("text", "17")
            .with_header("empty", "");
        assert_eq!(round(&message), message);
        let zero = round(&message).header("zero").cloned();
        assert!(matches!(zero, Some(Scalar::Float(zero)) if zero.is_sign_negative()));
        let nan = round(&message.with_header("nan", f64::NAN)).header("nan").cloned();
        assert!(matches!(nan, Some(Scalar::Float(nan)) if nan.is_nan()));
    }

    #[test]
    fn a_body_comes_back_byte_for_byte() {
        let long = format!("[{}]", "[".repeat(500) + &"]".repeat(500));
        for (content_type, body) in [
            ("application/json", r#"{"z": 1.50,  "a":123456789012345678901}"#.as_bytes()),
            ("application/json", b"null"),
            ("application/json", b" null"),
            ("application/json", b"{\n  \"x\": 1\n}"),
            ("application/json", b"{"),
            ("application/json", b""),
            ("application/json", b"\xff"),
            ("application/json", long.as_bytes()),
            ("application/cloudevents+json; charset=utf-8", b"[1, 2]"),
            ("text/plain", b"7"),
            ("text/plain", "größe\r\n\u{0} ☃".as_bytes()),
            ("application/octet-stream", b"\x00\xff\xfe"),
            ("", b"{}"),
        ] {
            let message =
                Message::new("a", body.to_vec()).unwrap().with_content_type(content_type.to_owned());
            assert_eq!(round(&message), message, "{content_type} {}", String::from_utf8_lossy(body));
        }
    }

    #[test]
    fn json_is_shown_as_json_and_text_as_text() {
        let shown = |content_type: &'static str, body: &'static [u8]| {
            let message = Message::new("a", body).unwrap().with_content_type(content_type);
            serde_json::to_value(StoredMessage::new(&message)).unwrap()
        };
        assert_eq!(shown("application/json", b"{\"a\": 1}")["body"]["a"], 1);
        assert_eq!(shown("text/plain", b"hello")["body_text"], "hello");
        assert_eq!(shown("image/png", b"\xff\x00")["body_base64"], "/wA=");
    }

    #[test]
    fn a_list_shows_neither_body_nor_headers() {
        let message = Message::new("a", "geheim").unwrap().with_header("token", "geheim");
        let entry = Entry::new(7, EntryState::Dead, Some(message));
        assert!(!serde_json::to_string(&StoredMessage::listed(&entry)).unwrap().contains("geheim"));
    }

    #[test]
    fn a_message_that_cannot_be_read_is_shown_all_the_same() {
        let stored = StoredMessage::whole(&Entry::new(7, EntryState::Dead, None));
        let shown = serde_json::to_value(&stored).unwrap();
        assert_eq!((&shown["position"], &shown["state"]), (&7.into(), &"dead".into()));
        assert_eq!(stored.into_message().unwrap_err().to_string(), "a message needs a topic");
    }

    #[test]
    fn what_is_no_message_says_why() {
        for (text, why) in [
            (r#"{"body": 1}"#, "needs a topic"),
            (r#"{"topic": "a"}"#, "needs a body"),
            (r#"{"topic": "a", "body": 1, "body_text": "1"}"#, "one body"),
            (r#"{"topic": "a b", "body": 1}"#, "topic"),
            (r#"{"topic": "a", "body_base64": "?"}"#, "not Base64"),
            (r#"{"topic": "a", "bodi": 1}"#, "unknown field `bodi`"),
            (r#"{"topic": "a", "body": 1, "headers": {"x": [1]}}"#, "a header is"),
            (r#"{"topic": "a", "body": 1, "headers": {"x": 9223372036854775808}}"#, "out of range"),
            (r#"{"topic": "a", "body": 1, "time": "now"}"#, "not a time"),
            (r#"{"topic": "a", "body": 1, "expiry": "soon"}"#, "not a duration"),
        ] {
            let read = serde_json::from_str::<StoredMessage>(text).map_err(BoxError::from);
            let error = read.and_then(StoredMessage::into_message).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn little_is_enough() {
        let stored: StoredMessage =
            serde_json::from_str(r#"{"topic": "a", "body": {"x": 1}, "expiry": 90, "delay": "1h"}"#).unwrap();
        let message = stored.into_message().unwrap();
        assert_eq!(
            (message.body().as_ref(), message.content_type()),
            (&b"{\"x\": 1}"[..], "application/json")
        );
        assert_eq!(message.expiry(), Some(Duration::from_secs(90)));
        assert_eq!(message.delay(), Some(Duration::from_secs(3_600)));
    }
}
