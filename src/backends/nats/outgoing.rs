//! Encoding of messages to send.

use std::time::{Duration, SystemTime};

use async_nats::header::HeaderName;
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
/// The beginning of the headers that the server itself acts on.
pub(super) const OF_SERVER: &str = "nats-";

pub(super) const TTL: &str = "Nats-TTL";
const MESSAGE_ID: &str = "Nats-Msg-Id";
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

impl Outgoing {
    /// Seals and encodes a message.
    ///
    /// # Errors
    /// The reason why no server takes it.
    pub(super) fn new(settings: &NatsSettings, message: &Message) -> Result<Self, BoxError> {
        let broker = &settings.broker;
        Self::of_sealed(settings, &*broker.envelope.seal(message, broker.origin())?)
    }

    /// As [`new`](Self::new), with the body of `message` instead of a sealed one, which costs less.
    pub(super) fn outline(settings: &NatsSettings, message: &Message) -> Result<Self, BoxError> {
        let broker = &settings.broker;
        Self::of_sealed(settings, &*broker.envelope.outline(message, broker.origin())?)
    }

    fn of_sealed(settings: &NatsSettings, message: &Message) -> Result<Self, BoxError> {
        settings.broker.check_size(message)?;
        let mut subject = settings.subject_of(message.topic());
        if let Some(fault) = fault_of_subject(&subject, false) {
            return Err(format!("its subject {fault}").into());
        }
        let mut headers = headers_of(settings.broker.envelope, message)?;
        let mut needs = Needs::default();
        let mut set = |name: &'static str, value: String| -> Result<(), BoxError> {
            headers.insert(name, value.parse::<HeaderValue>()?);
            Ok(())
        };
        if settings.pattern == Pattern::Events {
            if message.delay().is_some() {
                return Err("PATTERN is \"events\", which delays no messages: send it without a delay".into());
            }
        } else {
            set(MESSAGE_ID, message.id().to_string())?;
            if let Some(stream) = &settings.expected_stream {
                set(EXPECTED_STREAM, stream.clone())?;
            }
            let expiry = message.expiry().or(settings.broker.ttl);
            if let Some(expiry) = expiry {
                needs.expiry = true;
                let name = if message.delay().is_some() { SCHEDULE_TTL } else { TTL };
                set(name, seconds(expiry).to_string())?;
            }
            if let Some(delay) = message.delay() {
                needs.delay = true;
                let Some(waits_at) = &settings.delay_subject else {
                    return Err(
                        "delayed messages need DELAY_SUBJECT: set it, or send it without a delay".into()
                    );
                };
                let due = after(SystemTime::now(), delay.min(LONGEST));
                set(SCHEDULE, format!("@at {}", rfc3339::write(due)?))?;
                set(SCHEDULE_TARGET, subject)?;
                // A second schedule at a subject replaces the first one.
                subject = format!("{waits_at}.{}", message.id());
            }
        }
        let outgoing = Self { subject, headers, payload: message.body().clone(), needs };
        let size = outgoing.headers_size();
        if size > MOST_HEADERS {
            return Err(
                format!("its headers have {size} bytes; NATS carries {MOST_HEADERS}: shorten them").into()
            );
        }
        Ok(outgoing)
    }

    /// The bytes that count against the `max_payload` of a server.
    pub(super) fn size(&self) -> usize {
        self.headers_size() + self.payload.len()
    }

    fn headers_size(&self) -> usize {
        let header = |name: &HeaderName, value: &HeaderValue| {
            AsRef::<[u8]>::as_ref(name).len() + 2 + value.as_str().len() + 2
        };
        let all = self
            .headers
            .iter()
            .flat_map(|(name, values)| values.iter().map(move |value| header(name, value)));
        "NATS/1.0\r\n\r\n".len() + all.sum::<usize>()
    }
}

/// Whole seconds, rounded up: 0 is no lifetime.
fn seconds(expiry: Duration) -> u64 {
    let expiry = expiry.min(LONGEST);
    (expiry.as_secs() + u64::from(expiry.subsec_nanos() > 0)).max(1)
}

fn headers_of(envelope: Envelope, message: &Message) -> Result<HeaderMap, BoxError> {
    let mut map = HeaderMap::new();
    let mut types = serde_json::Map::new();
    let plain = envelope == Envelope::Plain;
    let mut put = |name: &str, value: String| -> Result<(), BoxError> {
        let known = name.parse::<HeaderName>().ok().filter(|_| !name.is_empty());
        let Some(known) = known else {
            let name = start_of(name, 40);
            return Err(format!(
                "the name of the header {name:?} is not for NATS: use visible ASCII characters without a colon"
            )
            .into());
        };
        let Ok(value) = value.parse::<HeaderValue>() else {
            let name = start_of(name, 40);
            return Err(format!(
                "the header {name:?} has a line break, which NATS does not carry: remove it"
            )
            .into());
        };
        map.insert(known, value);
        Ok(())
    };
    if plain {
        put(ID, message.id().to_string())?;
        put(TIME, rfc3339::write(message.time())?)?;
    }
    put(CONTENT_TYPE, message.content_type().to_owned())?;
    if let Some(key) = message.key() {
        let exact = is_exact(key);
        if plain && !exact {
            types.insert(headers::KEY.to_owned(), TEXT.into());
        }
        put(headers::KEY, if plain && !exact { quoted(key) } else { key.to_owned() })?;
    }
    if let Some(priority) = message.priority() {
        put(headers::PRIORITY, priority.to_string())?;
    }
    let of_ours = [ID, TIME, TYPES, CONTENT_TYPE, headers::KEY, headers::PRIORITY];
    for (name, value) in message.headers() {
        if of_ours.iter().any(|known| known.eq_ignore_ascii_case(name)) {
            continue;
        }
        if name.get(..OF_SERVER.len()).is_some_and(|start| start.eq_ignore_ascii_case(OF_SERVER)) {
            let name = start_of(name, 40);
            return Err(format!("the header {name:?} is one that the server acts on: remove it").into());
        }
        if !plain {
            let attribute = name.strip_prefix(ATTRIBUTE.0);
            let renamed = attribute.map(|attribute| format!("{}{attribute}", ATTRIBUTE.1));
            put(renamed.as_deref().unwrap_or(name), value.to_string())?;
            continue;
        }
        let (kind, text) = typed(value);
        if let Some(kind) = kind {
            types.insert(name.to_owned(), kind.into());
        }
        put(name, text)?;
    }
    if !types.is_empty() {
        put(TYPES, serde_json::Value::Object(types).to_string())?;
    }
    Ok(map)
}

/// The type of a text that is sent as a JSON string, since NATS would change it.
pub(super) const TEXT: &str = "text";

/// The type of a value in [`TYPES`], and its text.
fn typed(value: &Scalar) -> (Option<&'static str>, String) {
    match value {
        Scalar::Null => (Some("null"), String::new()),
        Scalar::Bool(value) => (Some("bool"), value.to_string()),
        Scalar::Int(value) => (Some("int"), value.to_string()),
        Scalar::Float(value) => (Some("float"), value.to_string()),
        Scalar::String(text) if is_exact(text) => (None, text.to_string()),
        Scalar::String(text) => (Some(TEXT), quoted(text)),
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
        let text = |result: Result<Outgoing, BoxError>| result.err().map(|error| error.to_string());
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
