//! Encoding of messages to send.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use krafka::Record;

use super::names::fault_of_topic;
use super::scalars::typed;
use super::settings::KafkaSettings;
use crate::envelope::Envelope;
use crate::message::Message;
use crate::message::headers::{self, start_of};
use crate::util::error::BoxError;
use crate::util::rfc3339;

/// The header with the id of a plain message.
pub(super) const ID: &str = "tower-outbox-id";
/// The header with the time of a plain message (RFC 3339); that of the record has milliseconds.
pub(super) const TIME: &str = "tower-outbox-time";
/// The header with the types of headers that are no texts: a JSON object of names and types.
pub(super) const TYPES: &str = "tower-outbox-types";
/// The header with the media type (Kafka Protocol Binding for CloudEvents 1.0.2, 3.2.1).
pub(super) const CONTENT_TYPE: &str = "content-type";
/// The prefix of the attributes of a CloudEvent among the headers of a message, and on the wire (Kafka Protocol Binding for
/// CloudEvents 1.0.2, 3.2.3.1).
pub(super) const ATTRIBUTE: (&str, &str) = ("cloudEvents:", "ce_");
/// The most bytes that a batch of one record adds to it.
pub(super) const BATCH: usize = 61;

/// A message as it is published.
#[derive(Clone, Debug)]
pub(super) struct Outgoing(pub(super) Record);

impl Outgoing {
    /// Seals and encodes a message.
    ///
    /// # Errors
    /// The reason why no broker takes it.
    pub(super) fn new(settings: &KafkaSettings, message: &Message) -> Result<Self, BoxError> {
        let broker = &settings.broker;
        Self::of_sealed(settings, &*broker.envelope.seal(message, broker.origin())?)
    }

    /// As [`new`](Self::new), with the body of `message` instead of a sealed one, which costs less.
    pub(super) fn outline(settings: &KafkaSettings, message: &Message) -> Result<Self, BoxError> {
        let broker = &settings.broker;
        Self::of_sealed(settings, &*broker.envelope.outline(message, broker.origin())?)
    }

    fn of_sealed(settings: &KafkaSettings, message: &Message) -> Result<Self, BoxError> {
        settings.broker.check_size(message)?;
        if message.delay().is_some() {
            return Err("Kafka does not delay messages: send it without a delay".into());
        }
        if message.expiry().is_some() {
            return Err("Kafka does not expire single messages: send it without an expiry".into());
        }
        let name = settings.name_of(message.topic());
        if let Some(fault) = fault_of_topic(&name) {
            return Err(format!("its topic {fault}").into());
        }
        let mut record = Record::new(name, message.body().clone());
        record.timestamp = Some(milliseconds(message.time()));
        record.key = message.key().map(|key| Bytes::copy_from_slice(key.as_bytes()));
        record.headers = headers_of(settings.broker.envelope, message)?;
        Ok(Self(record))
    }

    /// The bytes of the record and a batch of its own, never less than they are.
    pub(super) fn size(&self) -> usize {
        self.0.estimated_size() + BATCH
    }

    /// Rejects a message that is too large.
    pub(super) fn check_size(&self, settings: &KafkaSettings) -> Result<(), TooLarge> {
        let (size, limit) = (self.size(), settings.max_message_bytes);
        if size > limit { Err(TooLarge { size, limit }) } else { Ok(()) }
    }
}

/// The time of a record; times before 1970 are not possible there.
fn milliseconds(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn headers_of(envelope: Envelope, message: &Message) -> Result<krafka::Headers, BoxError> {
    let plain = envelope == Envelope::Plain;
    let mut all = krafka::Headers::with_capacity(message.headers().len() + 4);
    let mut types = serde_json::Map::new();
    let mut put = |name: &str, value: String| all.push((name.to_owned(), Some(Bytes::from(value))));
    if plain {
        put(ID, message.id().to_string());
        put(TIME, rfc3339::write(message.time())?);
    }
    put(CONTENT_TYPE, message.content_type().to_owned());
    if let Some(priority) = message.priority() {
        put(headers::PRIORITY, priority.to_string());
    }
    let of_ours = [ID, TIME, TYPES, CONTENT_TYPE, headers::PRIORITY];
    for (name, value) in message.headers() {
        if of_ours.contains(&name) {
            continue;
        }
        if name.is_empty() || name.len() > usize::from(i16::MAX as u16) {
            let name = start_of(name, 40);
            return Err(format!("the name of the header {name:?} must have 1 to 32767 bytes").into());
        }
        if !plain {
            let attribute = name.strip_prefix(ATTRIBUTE.0);
            let renamed = attribute.map(|attribute| format!("{}{attribute}", ATTRIBUTE.1));
            put(renamed.as_deref().unwrap_or(name), value.to_string());
            continue;
        }
        let (kind, text) = typed(value);
        if let Some(kind) = kind {
            types.insert(name.to_owned(), kind.into());
        }
        put(name, text);
    }
    if !types.is_empty() {
        put(TYPES, serde_json::Value::Object(types).to_string());
    }
    Ok(all)
}

#[derive(Debug, thiserror::Error)]
#[error(
    "it has {size} bytes with its headers, and the brokers take {limit} (MAX_MESSAGE_BYTES): shorten the message"
)]
pub(super) struct TooLarge {
    size: usize,
    limit: usize,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backends::brokers::BrokerSettings;
    use crate::envelope::odd_messages::odd_messages;

    fn settings(envelope: Envelope) -> KafkaSettings {
        BrokerSettings::new(["kafka://h"]).with_service("acme", "users").with_envelope(envelope).into()
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
    fn a_message_that_no_broker_takes_is_rejected() {
        let good = Message::new("a.b", "x").unwrap();
        let mut small = settings(Envelope::Plain);
        small.max_message_bytes = 1_024;
        for message in [
            good.clone().with_delay(Duration::from_secs(1)),
            good.clone().with_expiry(Duration::from_secs(1)),
            good.clone().with_header("x".repeat(40_000), "1"),
            Message::new("größe", "x").unwrap(),
            Message::new("x".repeat(250), "x").unwrap(),
        ] {
            assert!(Outgoing::outline(&small, &message).is_err(), "{message:?}");
        }
        assert!(Outgoing::outline(&small, &good).unwrap().check_size(&small).is_ok());
        let large = Message::new("a.b", vec![0; 1_024]).unwrap();
        let error = Outgoing::outline(&small, &large).unwrap().check_size(&small).unwrap_err();
        assert!(error.to_string().contains("MAX_MESSAGE_BYTES"), "{error}");
    }

    #[test]
    fn the_key_chooses_the_partition_and_the_time_is_that_of_the_record() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_micros(7_500);
        let message = Message::new("a.b", "x").unwrap().with_key("k").with_time(time);
        let Outgoing(record) = Outgoing::new(&settings(Envelope::Plain), &message).unwrap();
        assert_eq!((record.key.as_deref(), record.timestamp), (Some(&b"k"[..]), Some(7)));
        let before = message.with_time(SystemTime::UNIX_EPOCH - Duration::from_secs(1));
        assert_eq!(Outgoing::new(&settings(Envelope::Plain), &before).unwrap().0.timestamp, Some(0));
    }

    #[test]
    fn a_cloud_event_has_the_headers_of_its_binding() {
        let message = Message::new("a.b", "x").unwrap();
        let Outgoing(record) = Outgoing::new(&settings(Envelope::CloudEvents), &message).unwrap();
        let names: Vec<_> = record.headers.iter().map(|(name, _)| name.as_str()).collect();
        for name in ["content-type", "ce_id", "ce_type", "ce_source", "ce_specversion"] {
            assert!(names.contains(&name), "{name} in {names:?}");
        }
    }
}
