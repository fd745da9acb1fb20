//! The decoders of foreign bytes, as functions over bytes: what `fuzz/` feeds, and `tests/it/corpora.rs`. No API.
//!
//! Each panics when a promise is broken: that input is refused or read, that what is read is written as it was, that memory
//! is bounded by the input, that a stream is read the same wherever it is split.
#![allow(missing_docs, reason = "the names are clear")]

use std::path::PathBuf;

use http::{HeaderMap, HeaderName, HeaderValue, Request};

use crate::backends::amqp10::fuzzing::url;
pub use crate::backends::amqp10::fuzzing::{amqp10_frames, amqp10_sections, rhmsg};
pub use crate::backends::amqp091::fuzzing::{amqp091_frames, amqp091_properties, fedora, json_lines};
use crate::backends::brokers::BrokerSettings;
pub use crate::backends::mqtt::fuzzing::{mqtt_publish, mqtt_stream};
use crate::backends::{amqp10, amqp091};
pub use crate::channels::embedded::fuzzing::{channel_records, channels};
use crate::consumer::ConsumerSettings;
use crate::envelope::{Envelope, Origin};
pub use crate::kubemq::fuzzing::kubemq;
use crate::layer;
use crate::message::Message;
use crate::message::fuzzing::{message, shown};
use crate::message::topic::Topic;
use crate::message::trace_context::TraceContext;
use crate::settings::Settings;
pub use crate::signing::fuzzing::signatures;
pub use crate::store::fuzzing::{journal, records, store};
use crate::tls::{self, TlsSettings};
use crate::util::secret::redacted;

pub type Target = fn(&[u8]);

/// Every target, by the name of its folder in `fuzz/corpus`.
pub const TARGETS: &[(&str, Target)] = &[
    ("amqp091_frames", amqp091_frames),
    ("amqp091_properties", amqp091_properties),
    ("amqp10_frames", amqp10_frames),
    ("amqp10_sections", amqp10_sections),
    ("channel_records", channel_records),
    ("channels", channels),
    ("cloudevents", cloudevents),
    ("cloudevents_structured", cloudevents_structured),
    ("fedora", fedora),
    ("idempotency_key", idempotency_key),
    ("journal", journal),
    ("json_lines", json_lines),
    ("kubemq", kubemq),
    ("mqfactory", mqfactory),
    ("mqtt_publish", mqtt_publish),
    ("mqtt_stream", mqtt_stream),
    ("pem", pem),
    ("petisco", petisco),
    ("records", records),
    ("rhmsg", rhmsg),
    ("routing_uris", routing_uris),
    ("settings", settings),
    ("signatures", signatures),
    ("store", store),
    ("topics", topics),
    ("trace_context", trace_context),
    ("urls", urls),
    ("wavemq_config", wavemq_config),
    ("wavemq_message", wavemq_message),
];

pub fn routing_uris(data: &[u8]) {
    crate::routing::fuzzing::uris(data);
}

pub fn wavemq_config(data: &[u8]) {
    crate::wavemq::fuzzing::config(data);
}

pub fn wavemq_message(data: &[u8]) {
    crate::wavemq::fuzzing::message(data);
}

/// A message as a CloudEvent in structured mode, for the tests with the SDK of CloudEvents.
pub fn seal(message: &Message, source: &str) -> Message {
    let origin = Origin { event_source: Some(source), ..Origin::default() };
    Envelope::CloudEventsStructured.seal(message, origin).expect("the body is not too large").into_owned()
}

/// The message in a CloudEvent.
pub fn open(event: Message) -> Message {
    Envelope::CloudEventsStructured.open(event).expect("it is a CloudEvent")
}

/// A JSON value in a message of mqfactory, for the tests with Python as the peer.
pub fn mqfactory_payload(json: &str) -> String {
    let message = Message::new("a", json.to_owned()).expect("a is a topic");
    let sealed = Envelope::Mqfactory.seal(&message, Origin::default()).expect("it is JSON that Python reads");
    let text = String::from_utf8_lossy(sealed.body()).into_owned();
    let payload = text.strip_prefix("{\"payload\": ").and_then(|rest| rest.rsplit_once(", \"tags\": {"));
    payload.expect("tags follow the payload").0.to_owned()
}

/// A file with these bytes, of this thread alone.
fn file(name: &str, bytes: &[u8]) -> PathBuf {
    thread_local! {
        static FOLDER: tempfile::TempDir = tempfile::tempdir().expect("a folder can be made");
    }
    let path = FOLDER.with(|folder| folder.path().join(name));
    std::fs::write(&path, bytes).expect("a file can be written");
    path
}

/// Opens it, seals what was opened, and opens it again; and the other way round.
fn envelope(envelope: Envelope, data: &[u8]) {
    let origin = Origin { organization: Some("acme"), service: Some("users"), event_source: Some("/users") };
    let Some(message) = message(data) else { return };
    let again = |message: &Message| {
        let sealed = envelope.seal(message, origin).ok()?.into_owned();
        let opened = envelope.open(sealed).expect("what is sealed can be opened");
        assert_eq!((opened.id(), opened.topic()), (message.id(), message.topic()));
        Some(opened)
    };
    if let Some(once) = again(&message) {
        let twice = again(&once).expect("what was sealed once can be sealed again");
        assert_eq!(shown(&twice), shown(&once));
    }
    if let Ok(opened) = envelope.open(message) {
        again(&opened);
    }
}

pub fn cloudevents(data: &[u8]) {
    envelope(Envelope::CloudEvents, data);
}

pub fn cloudevents_structured(data: &[u8]) {
    envelope(Envelope::CloudEventsStructured, data);
    // Attributes as of an event, whose body is whole.
    let message =
        Message::new("a", data.to_vec()).map(|it| it.with_content_type("application/cloudevents+json"));
    if let Ok(opened) = Envelope::CloudEvents.open(message.expect("a is a topic")) {
        assert!(opened.size() <= 4 * data.len() + 64);
    }
}

pub fn petisco(data: &[u8]) {
    envelope(Envelope::Petisco, data);
    if let Ok(opened) = Envelope::Petisco.open(Message::new("a", data.to_vec()).expect("a is a topic")) {
        assert!(opened.size() <= 4 * data.len() + 64);
    }
}

pub fn mqfactory(data: &[u8]) {
    envelope(Envelope::Mqfactory, data);
    if let Ok(opened) = Envelope::Mqfactory.open(Message::new("a", data.to_vec()).expect("a is a topic")) {
        assert!(opened.size() <= 4 * data.len() + 64);
    }
}

pub fn topics(data: &[u8]) {
    let name = String::from_utf8_lossy(data);
    if let Ok(topic) = Topic::new(name.clone().into_owned()) {
        assert_eq!(topic.as_str(), name.strip_prefix('.').unwrap_or(&name));
        assert_eq!(Topic::new(topic.to_string()), Ok(topic.clone()));
        assert!(
            (1..=Topic::MAX_LEN).contains(&topic.as_str().len()) && !topic.as_str().contains(['*', '#', ' '])
        );
    }
}

pub fn urls(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    url(&text);
    // A URL is read without these.
    if text.replace(['\t', '\n', '\r'], "").contains("Geheim-") {
        return;
    }
    // A password is accepted, and printed nowhere.
    let authority = text.split_once("://").map_or(&*text, |(_, rest)| rest);
    let has_path = authority.contains(['/', '?', '#']);
    let after_text = (!has_path).then(|| format!("{text}Geheim-@h"));
    let with_password = [format!("amqp://jo:Geheim-{text}@h/v"), format!("amqps://jo:Geheim-{text}")];
    for text in with_password.into_iter().chain(after_text) {
        let printed = url(&text);
        assert!(
            !printed.contains("Geheim-") || !text.contains(':') || text.starts_with("Geheim-"),
            "{printed}"
        );
    }
    assert!(redacted(&format!("{text} amqp://jo:Geheim-1@h")).matches("Geheim-1").count() == 0);
}

pub fn settings(data: &[u8]) {
    for name in ["settings.toml", "settings.yaml", "settings.json"] {
        let file = file(name, data);
        let settings = match Settings::from_file(&file) {
            Ok(settings) => settings,
            Err(error) => {
                assert!(crate::util::error::Chain(&error).to_string().len() <= 8 * data.len() + 4_096);
                continue;
            }
        };
        let keys = &settings.backend_keys;
        drop(keys.parse_both::<BrokerSettings, amqp091::Amqp091Settings>());
        drop(keys.parse_both::<BrokerSettings, amqp10::Amqp10Settings>());
        for consumer in settings.consumers.values() {
            drop(consumer.source_keys.parse::<amqp091::Amqp091Subscription>());
            drop(consumer.source_keys.parse::<amqp10::Amqp10Subscription>());
            drop(consumer.source_keys.parse::<ConsumerSettings>());
        }
        assert!(format!("{settings:?}").len() <= 64 * data.len() + 16_384);
    }
}

pub fn pem(data: &[u8]) {
    let file = file("file.pem", data);
    for tls in [
        TlsSettings { cacert: Some(&file), ..TlsSettings::default() },
        TlsSettings { cacert: Some(&file), certificate: Some(&file), ..TlsSettings::default() },
        TlsSettings {
            cacert: Some(&file),
            certificate: Some(&file),
            private_key: Some(&file),
            ..TlsSettings::default()
        },
    ] {
        if let Err(error) = tls::client_config(&tls) {
            assert!(error.to_string().len() <= data.len() + 2_048);
        }
    }
}

/// Header fields, one a line.
fn fields(data: &[u8]) -> HeaderMap {
    let mut fields = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n') {
        let at = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let value = line.get(at + 1..).unwrap_or_default().trim_ascii();
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(&line[..at]), HeaderValue::from_bytes(value)) {
            fields.append(name, value);
        }
    }
    fields
}

pub fn trace_context(data: &[u8]) {
    let along = |fields: &HeaderMap| {
        let mut message = Message::new("a", "").expect("a is a topic");
        TraceContext::of(fields).complete(&mut message);
        message
    };
    let message = along(&fields(data));
    let mut copy = HeaderMap::new();
    for (name, value) in message.headers() {
        let value = value.as_str().expect("it is a text");
        let most = match name {
            "traceparent" => 255,
            "tracestate" => 512,
            "baggage" => 8_192,
            _ => panic!("{name} was copied"),
        };
        assert!(value.len() <= most, "{name} has {} bytes", value.len());
        copy.insert(
            HeaderName::try_from(name).expect("a name"),
            HeaderValue::from_str(value).expect("a value"),
        );
    }
    assert_eq!(shown(&along(&copy).with_id(message.id()).with_time(message.time())), shown(&message));
}

pub fn idempotency_key(data: &[u8]) {
    let seed = |fields: HeaderMap| {
        let mut request = Request::post("/users").body(()).expect("a request");
        *request.headers_mut() = fields;
        layer::idempotency::seed(&request)
    };
    let fields = fields(data);
    let given: Vec<_> = fields.get_all("idempotency-key").iter().cloned().collect();
    match (seed(fields.clone()), given.as_slice()) {
        (Ok(None), given) => assert!(given.is_empty()),
        (Ok(found), [key]) => {
            assert!(key.len() <= 512 && key.to_str().is_ok());
            assert_eq!(found, seed(fields).ok().flatten());
        }
        (Ok(_), _) => panic!("two keys are none"),
        (Err(_), given) => assert!(!given.is_empty()),
    }
}
