//! Encoding of messages to send.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use async_nats::header::{HeaderName, IntoHeaderName};
use async_nats::{HeaderMap, HeaderValue};
use bytes::Bytes;

use super::names::fault_of_subject;
use super::settings::{NatsSettings, Pattern};
use crate::envelope::Envelope;
use crate::message::headers::{self, start_of};
use crate::message::{Message, Scalar};
use crate::util::deadline::after;
use crate::util::error::BoxError;
use crate::util::rfc3339;

/// The header with the id of a plain message. `Nats-Msg-Id` is missing from a message that was delayed.
pub(super) const ID: &str = "tower-outbox-id";
/// The header with the time of a plain message (RFC 3339).
pub(super) const TIME: &str = "tower-outbox-time";
/// The header with the types of headers that are no texts: a JSON object of names and types.
pub(super) const TYPES: &str = "tower-outbox-types";
pub(super) const CONTENT_TYPE: &str = "Content-Type";

pub(super) const TTL: &str = "Nats-TTL";
pub(super) const MESSAGE_ID: &str = "Nats-Msg-Id";
const EXPECTED_STREAM: &str = "Nats-Expected-Stream";
const SCHEDULE: &str = "Nats-Schedule";
const SCHEDULE_TARGET: &str = "Nats-Schedule-Target";
const SCHEDULE_TTL: &str = "Nats-Schedule-TTL";

/// The prefix of the attributes of a CloudEvent among the headers of a message, and on the wire (NATS Protocol Binding for
/// CloudEvents 1.0.2, 3.1.3).
pub(super) const ATTRIBUTE: (&str, &str) = ("cloudEvents:", "ce-");

/// The most bytes of headers that a stream stores.
const MOST_HEADERS: usize = 65_535;
/// The longest lifetime and delay, ten years, which fit every clock of the server.
const LONGEST: Duration = Duration::from_secs(315_360_000);

/// A message as it is published.
#[derive(Clone, Debug)]
pub(super) struct Outgoing {
    pub(super) subject: String,
    pub(super) headers: HeaderMap,
    pub(super) payload: Bytes,
    pub(super) needs: Needs,
}

/// The abilities that a message needs of the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Needs {
    pub(super) delay: bool,
    pub(super) expiry: bool,
}

/// The facts about a message that is not encoded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outline {
    pub(super) needs: Needs,
    /// The bytes that count against the `max_payload` of a server.
    pub(super) size: usize,
}

impl Outgoing {
    /// Seals and encodes a message.
    ///
    /// # Errors
    /// The reason why no server takes it.
    pub(super) fn new(settings: &NatsSettings, message: &Message) -> Result<Self, BoxError> {
        let broker = &settings.broker;
        let sealed = broker.envelope.seal(message, broker.origin())?;
        let mut encoder = Encoder { headers: HeaderMap::new(), size: NO_HEADERS };
        let (subject, needs) = encoder.write(settings, &sealed)?;
        Ok(Self { subject, headers: encoder.headers, payload: sealed.body().clone(), needs })
    }

    /// Checks a message as [`new`](Self::new) does, with its own body instead of a sealed one, which costs less.
    pub(super) fn outline(settings: &NatsSettings, message: &Message) -> Result<Outline, BoxError> {
        let broker = &settings.broker;
        let outline = broker.envelope.outline(message, broker.origin())?;
        let mut encoder = Encoder { headers: Nowhere, size: NO_HEADERS };
        let (_, needs) = encoder.write(settings, &outline)?;
        Ok(Outline { needs, size: encoder.size + outline.body().len() })
    }

    /// The bytes that count against the `max_payload` of a server.
    pub(super) fn size(&self) -> usize {
        let of_header = |name: &HeaderName, value: &HeaderValue| {
            AsRef::<[u8]>::as_ref(name).len() + 2 + value.as_str().len() + 2
        };
        let all = self
            .headers
            .iter()
            .flat_map(|(name, values)| values.iter().map(move |value| of_header(name, value)));
        NO_HEADERS + all.sum::<usize>() + self.payload.len()
    }
}

/// The size of headers without a header.
const NO_HEADERS: usize = "NATS/1.0\r\n\r\n".len();

/// Writes the headers of a message.
struct Encoder<H> {
    headers: H,
    size: usize,
}

/// The place where headers are written.
trait Headers {
    /// Adds a header, whose name and value are valid.
    fn put(&mut self, name: Name<'_>, value: Cow<'_, str>);
}

/// The name of a header.
#[derive(Clone, Copy)]
enum Name<'a> {
    Ours(&'static str),
    Theirs(&'a str),
}

impl Headers for HeaderMap {
    fn put(&mut self, name: Name<'_>, value: Cow<'_, str>) {
        let name = match name {
            Name::Ours(name) => HeaderName::from_static(name),
            Name::Theirs(name) => name.into_header_name(),
        };
        self.insert(name, value.into_owned());
    }
}

/// Headers that are only checked.
struct Nowhere;

impl Headers for Nowhere {
    fn put(&mut self, _: Name<'_>, _: Cow<'_, str>) {}
}

impl<H: Headers> Encoder<H> {
    fn put<'a>(&mut self, name: Name<'_>, value: impl Into<Cow<'a, str>>) -> Result<(), BoxError> {
        let value = value.into();
        let (Name::Ours(text) | Name::Theirs(text)) = name;
        if text.is_empty() || text.bytes().any(|byte| !byte.is_ascii_graphic() || byte == b':') {
            let name = start_of(text, 40);
            return Err(format!(
                "the name of the header {name:?} is not for NATS: use visible ASCII characters without a colon"
            )
            .into());
        }
        if value.bytes().any(|byte| matches!(byte, b'\r' | b'\n')) {
            let name = start_of(text, 40);
            return Err(format!(
                "the header {name:?} has a line break, which NATS does not carry: remove it"
            )
            .into());
        }
        self.size += text.len() + 2 + value.len() + 2;
        self.headers.put(name, value);
        Ok(())
    }

    /// Writes all headers; returns the subject, and what the message needs.
    fn write(&mut self, settings: &NatsSettings, message: &Message) -> Result<(String, Needs), BoxError> {
        settings.broker.check_size(message)?;
        let mut subject = settings.subject_of(message.topic());
        if let Some(fault) = fault_of_subject(&subject, false) {
            return Err(format!("its subject {fault}").into());
        }
        let mut id = [0; uuid::fmt::Hyphenated::LENGTH];
        let id = &*message.id().hyphenated().encode_lower(&mut id);
        self.write_own(settings.broker.envelope, id, message)?;
        let mut needs = Needs::default();
        if settings.pattern == Pattern::Events {
            if message.delay().is_some() {
                return Err("PATTERN is \"events\", which delays no messages: send it without a delay".into());
            }
        } else {
            self.put(Name::Ours(MESSAGE_ID), id)?;
            if let Some(stream) = &settings.expected_stream {
                self.put(Name::Ours(EXPECTED_STREAM), stream)?;
            }
            let expiry = message.expiry().or(settings.broker.ttl);
            if let Some(expiry) = expiry {
                needs.expiry = true;
                let name = if message.delay().is_some() { SCHEDULE_TTL } else { TTL };
                self.put(Name::Ours(name), seconds(expiry).to_string())?;
            }
            if let Some(delay) = message.delay() {
                needs.delay = true;
                let Some(waits_at) = &settings.delay_subject else {
                    return Err(
                        "delayed messages need DELAY_SUBJECT: set it, or send it without a delay".into()
                    );
                };
                let due = after(SystemTime::now(), delay.min(LONGEST));
                self.put(Name::Ours(SCHEDULE), format!("@at {}", rfc3339::write(due)?))?;
                self.put(Name::Ours(SCHEDULE_TARGET), subject)?;
                // A second schedule at a subject replaces the first one.
                subject = format!("{waits_at}.{id}");
            }
        }
        if self.size > MOST_HEADERS {
            let size = self.size;
            return Err(
                format!("its headers have {size} bytes; NATS carries {MOST_HEADERS}: shorten them").into()
            );
        }
        Ok((subject, needs))
    }

    /// Writes the headers of the message itself.
    fn write_own(&mut self, envelope: Envelope, id: &str, message: &Message) -> Result<(), BoxError> {
        let mut types = serde_json::Map::new();
        let plain = envelope == Envelope::Plain;
        if plain {
            self.put(Name::Ours(ID), id)?;
            self.put(Name::Ours(TIME), rfc3339::write(message.time())?)?;
        }
        self.put(Name::Ours(CONTENT_TYPE), message.content_type())?;
        if let Some(key) = message.key() {
            let exact = is_exact(key);
            if plain && !exact {
                types.insert(headers::KEY.to_owned(), TEXT.into());
            }
            let value = if plain && !exact { quoted(key).into() } else { Cow::Borrowed(key) };
            self.put(Name::Ours(headers::KEY), value)?;
        }
        if let Some(priority) = message.priority() {
            self.put(Name::Ours(headers::PRIORITY), priority.to_string())?;
        }
        let of_ours = [ID, TIME, TYPES, CONTENT_TYPE, headers::KEY, headers::PRIORITY];
        for (name, value) in message.headers() {
            if of_ours.iter().any(|known| known.eq_ignore_ascii_case(name)) {
                continue;
            }
            if is_of_server(name) {
                let name = start_of(name, 40);
                return Err(format!("the header {name:?} is one that the server acts on: remove it").into());
            }
            if !plain {
                let attribute = name.strip_prefix(ATTRIBUTE.0);
                let renamed = attribute.map(|attribute| format!("{}{attribute}", ATTRIBUTE.1));
                self.put(Name::Theirs(renamed.as_deref().unwrap_or(name)), value.to_string())?;
                continue;
            }
            let (kind, text) = typed(value);
            if let Some(kind) = kind {
                types.insert(name.to_owned(), kind.into());
            }
            self.put(Name::Theirs(name), text)?;
        }
        if !types.is_empty() {
            self.put(Name::Ours(TYPES), serde_json::Value::Object(types).to_string())?;
        }
        Ok(())
    }
}

/// Whether the server itself acts on a header.
pub(super) fn is_of_server(name: &str) -> bool {
    name.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("nats-"))
}

/// Whole seconds, rounded up: 0 is no lifetime.
fn seconds(expiry: Duration) -> u64 {
    let expiry = expiry.min(LONGEST);
    (expiry.as_secs() + u64::from(expiry.subsec_nanos() > 0)).max(1)
}

/// The type of a text that is sent as a JSON string, since NATS would change it.
pub(super) const TEXT: &str = "text";

/// The type of a value in [`TYPES`], and its text.
fn typed(value: &Scalar) -> (Option<&'static str>, Cow<'_, str>) {
    match value {
        Scalar::Null => (Some("null"), "".into()),
        Scalar::Bool(value) => (Some("bool"), value.to_string().into()),
        Scalar::Int(value) => (Some("int"), value.to_string().into()),
        Scalar::Float(value) => (Some("float"), value.to_string().into()),
        Scalar::String(text) if is_exact(text) => (None, Cow::Borrowed(text)),
        Scalar::String(text) => (Some(TEXT), quoted(text).into()),
    }
}

/// Whether a text arrives as it is: blanks at its ends and line breaks do not.
fn is_exact(text: &str) -> bool {
    text.trim().len() == text.len() && !text.contains(char::is_control)
}

fn quoted(text: &str) -> String {
    // U+0085 and the like are in no escape of JSON, and are carried as they are.
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backends::brokers::BrokerSettings;
    use crate::envelope::odd_messages::odd_messages;

    fn settings(envelope: Envelope) -> NatsSettings {
        let broker = BrokerSettings::new(["nats://h"]).with_service("acme", "users").with_envelope(envelope);
        NatsSettings::from(broker).with_delay_subject("delayed")
    }

    #[test]
    fn a_check_rejects_the_messages_that_sending_rejects() {
        fn text<T>(result: Result<T, BoxError>) -> Option<String> {
            result.err().map(|error| error.to_string())
        }
        for envelope in
            [Envelope::Plain, Envelope::CloudEvents, Envelope::CloudEventsStructured, Envelope::Petisco]
        {
            let settings = settings(envelope);
            let mut rejected = 0;
            for message in odd_messages() {
                let found = text(Outgoing::outline(&settings, &message));
                assert_eq!(found, text(Outgoing::new(&settings, &message)), "{message:?}");
                rejected += usize::from(found.is_some());
            }
            assert!(rejected > 50, "{rejected} messages were rejected");
        }
    }

    #[test]
    fn what_the_server_acts_on_is_rejected() {
        let good = Message::new("a.b", "x").unwrap();
        for message in [
            good.clone().with_header("Nats-Rollup", "all"),
            good.clone().with_header("nats-ttl", "1"),
            good.clone().with_header("a b", "1"),
            good.clone().with_header("a:b", "1"),
            good.clone().with_header("größe", "1"),
            good.clone().with_header("long", "x".repeat(70_000)),
            Message::new("$JS.API.STREAM.DELETE.orders", "x").unwrap(),
        ] {
            assert!(Outgoing::outline(&settings(Envelope::Plain), &message).is_err(), "{message:?}");
        }
    }

    #[test]
    fn a_delayed_message_waits_at_a_subject_of_its_own() {
        let message = Message::new("a.b", "x").unwrap();
        let delayed =
            message.clone().with_delay(Duration::from_secs(1)).with_expiry(Duration::from_millis(1));
        let outgoing = Outgoing::new(&settings(Envelope::Plain), &delayed).unwrap();
        assert_eq!(outgoing.subject, format!("delayed.{}", message.id()));
        assert_eq!(outgoing.headers.get(SCHEDULE_TARGET).unwrap().as_str(), "a.b");
        assert_eq!(outgoing.headers.get(SCHEDULE_TTL).unwrap().as_str(), "1");
        assert_eq!(outgoing.needs, Needs { delay: true, expiry: true });
        let mut without = settings(Envelope::Plain);
        without.delay_subject = None;
        assert!(Outgoing::new(&without, &delayed).unwrap_err().to_string().contains("DELAY_SUBJECT"));
        assert_eq!(Outgoing::new(&without, &message).unwrap().needs, Needs::default());
    }
}
