//! The messages of petisco, as its versions 1.9 and 2.2 write and read them.

use std::borrow::Cow;

use bytes::Bytes;
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::json;
use super::origin::Origin;
use crate::message::headers::KEY;
use crate::message::topic::Topic;
use crate::message::{Message, Scalar, id_of};
use crate::util::error::BoxError;

/// The type of a message: `domain_event` (default), `command` or `message`.
const TYPE: &str = "petisco-type";
/// Its version, 1 by default.
const VERSION: &str = "petisco-version";

const EVENT: &str = "domain_event";

/// The fields of a message of petisco beside its body; other brokers carry them as plain headers.
///
/// ```
/// use tower_outbox::envelope::PetiscoMessage;
/// use tower_outbox::Message;
///
/// let command = Message::json("persist.user", &serde_json::json!({"user_id": 7}))?.into_command().with_version(2);
/// # Ok::<(), tower_outbox::message::MessageError>(())
/// ```
pub trait PetiscoMessage: Sized {
    /// Makes it a command; it is a domain event by default.
    #[must_use]
    fn into_command(self) -> Self;

    /// Sets the version; 1 by default.
    #[must_use]
    fn with_version(self, version: u32) -> Self;
}

impl PetiscoMessage for Message {
    fn into_command(self) -> Self {
        self.with_header(TYPE, "command")
    }

    fn with_version(self, version: u32) -> Self {
        self.with_header(VERSION, version)
    }
}

#[derive(Serialize, Deserialize)]
struct Wire<'a> {
    #[serde(borrow)]
    data: Data<'a>,
}

#[derive(Serialize, Deserialize)]
struct Data<'a> {
    #[serde(borrow)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    r#type: Cow<'a, str>,
    #[serde(borrow)]
    type_message: Option<Cow<'a, str>>,
    version: Option<Value>,
    #[serde(borrow)]
    occurred_on: Option<Cow<'a, str>>,
    #[serde(borrow)]
    attributes: Option<&'a RawValue>,
    meta: Option<IndexMap<String, Value>>,
}

pub(super) fn check_origin(origin: Origin<'_>) -> Result<(), (&'static str, String)> {
    for (key, word) in [("ORGANIZATION", origin.organization), ("SERVICE", origin.service)] {
        let is_word = word.is_some_and(|word| Topic::new(word.to_owned()).is_ok() && !word.contains('.'));
        if !is_word {
            return Err((key, "must be one word without dots for ENVELOPE \"petisco\"".to_owned()));
        }
    }
    Ok(())
}

pub(super) fn seal(message: &Message, origin: Origin<'_>) -> Result<Message, BoxError> {
    let Checked { attributes, kind, version, time, routing_key } = check(message, origin)?;
    let mut meta: IndexMap<_, _> = message
        .headers()
        .filter(|(name, _)| ![TYPE, VERSION].contains(name))
        .map(|(name, value)| (name.to_owned(), value.to_json()))
        .collect();
    if let Some(key) = message.key() {
        meta.insert(KEY.to_owned(), key.into());
    }
    let data = Data {
        id: Some(message.id().to_string().into()),
        r#type: message.topic().as_str().into(),
        type_message: Some(kind.into()),
        version: Some(version.into()),
        occurred_on: Some(time.trim_end_matches('Z').replace('T', " ").into()),
        attributes: Some(attributes),
        meta: Some(meta),
    };
    Ok(sealed(message, routing_key, serde_json::to_vec(&Wire { data })?.into()))
}

/// As [`seal`], without the document.
pub(super) fn outline(message: &Message, origin: Origin<'_>) -> Result<Message, BoxError> {
    let Checked { routing_key, .. } = check(message, origin)?;
    Ok(sealed(message, routing_key, message.body().clone()))
}

/// It leaves without headers: those would keep petisco's consumer from counting its attempts.
fn sealed(message: &Message, routing_key: Topic, body: Bytes) -> Message {
    message.reshaped(routing_key, "application/json", body).without_key()
}

/// The parts of a message that can be at fault.
struct Checked<'a> {
    attributes: &'a RawValue,
    kind: &'a str,
    version: i64,
    time: String,
    routing_key: Topic,
}

fn check<'a>(message: &'a Message, origin: Origin<'_>) -> Result<Checked<'a>, BoxError> {
    let fault = |error| format!("a message for petisco must be a JSON object: {error}");
    let attributes: &RawValue = serde_json::from_slice(message.body()).map_err(fault)?;
    if !attributes.get().starts_with('{') {
        return Err("a message for petisco must be a JSON object".into());
    }
    let kind = message.header(TYPE).map_or(Some(EVENT), Scalar::as_str);
    let kind = kind.filter(|kind| [EVENT, "command", "message"].contains(kind));
    let kind = kind.ok_or("the header petisco-type is not domain_event, command or message")?;
    let version = match message.header(VERSION) {
        None => 1,
        Some(Scalar::Int(version)) => *version,
        Some(_) => return Err("the header petisco-version is not a whole number".into()),
    };
    let time = crate::util::rfc3339::write(message.time())?;
    let (organization, service) =
        (origin.organization.unwrap_or_default(), origin.service.unwrap_or_default());
    let (word, name) =
        (if kind == EVENT { "event" } else { kind }, message.topic().as_str().replace('.', "_"));
    let routing_key = Topic::new(format!("{organization}.{service}.{version}.{word}.{name}"))?;
    Ok(Checked { attributes, kind, version, time, routing_key })
}

pub(super) fn open(message: &Message) -> Result<Message, BoxError> {
    let Wire { data } = serde_json::from_slice(message.body())
        .map_err(|error| format!("it is not a message of petisco: {error}"))?;
    let body = data.attributes.map_or("{}", RawValue::get);
    if !body.starts_with('{') {
        return Err("the attributes of a message of petisco are not an object".into());
    }
    let topic = Topic::new(data.r#type.into_owned())?;
    let mut opened = message.reshaped(topic, "application/json", body.to_owned().into());
    for (name, value) in message.headers() {
        opened.set_header(name.to_owned(), value.clone());
    }
    for (name, value) in data.meta.unwrap_or_default() {
        match json::scalar(value) {
            Scalar::String(key) if name == KEY => opened = opened.with_key(key),
            value => opened.set_received(name, value)?,
        }
    }
    if let Some(id) = data.id {
        opened = opened.with_id(id_of(&id));
    }
    if let Some(time) = data.occurred_on {
        opened = opened.with_time(crate::util::rfc3339::read(&time)?);
    }
    if let Some(kind) = data.type_message.filter(|kind| kind != EVENT) {
        opened.set_header(TYPE, kind.into_owned());
    }
    let version = match data.version {
        None => Some(1),
        Some(Value::String(text)) => text.parse().ok(),
        Some(version) => version.as_i64(),
    };
    let version = version.ok_or("the version of the message of petisco is not a whole number")?;
    if version != 1 {
        opened.set_header(VERSION, version);
    }
    Ok(opened)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    const ORIGIN: Origin<'_> =
        Origin { organization: Some("acme"), service: Some("registration"), event_source: None };

    fn message(body: &str) -> Message {
        Message::new("user.created", body.to_owned())
            .unwrap()
            .with_content_type("application/json")
            .with_time(SystemTime::UNIX_EPOCH + Duration::from_micros(1_795_240_571_788_524))
    }

    fn received(body: impl Into<String>) -> Message {
        Message::new("acme.registration.1.event.user_created", body.into()).unwrap()
    }

    #[test]
    fn a_message_is_written_as_petisco_writes_it() {
        let message =
            message(r#"{"user_id":  "7"}"#).with_header("correlation_id", "abc").with_header("n", 1);
        let sealed = seal(&message, ORIGIN).unwrap();
        assert_eq!(sealed.topic().as_str(), "acme.registration.1.event.user_created");
        let expected = format!(
            r#"{{"data":{{"id":"{}","type":"user.created","type_message":"domain_event","version":1,"occurred_on":"2026-11-21 05:56:11.788524","attributes":{{"user_id":  "7"}},"meta":{{"correlation_id":"abc","n":1}}}}}}"#,
            message.id()
        );
        assert_eq!(sealed.body(), expected.as_bytes());
        assert_eq!(sealed.headers().len(), 0, "petisco counts no attempts of a message with headers");
        assert_eq!(open(&sealed).unwrap(), message);
    }

    #[test]
    fn commands_versions_and_keys_travel() {
        let message = message("{}").into_command().with_version(2).with_key("user-7");
        let sealed = seal(&message, ORIGIN).unwrap();
        assert_eq!(sealed.topic().as_str(), "acme.registration.2.command.user_created");
        assert_eq!(sealed.key(), None);
        let opened = open(&sealed).unwrap();
        assert_eq!((opened.key(), opened.header(TYPE)), (Some("user-7"), Some(&"command".into())));
        assert_eq!(opened.header(VERSION), Some(&Scalar::Int(2)));
    }

    #[test]
    fn what_petisco_wrote_is_read() {
        // Taken from the wire of petisco 2.2.3.
        let opened = open(&received(
            r#"{"data": {"id": "203f8b80-5d00-47c6-af29-d89df2ba8559", "type": "persist.user", "type_message": "command", "version": 1, "occurred_on": "2026-11-21 06:15:24.947409", "attributes": {"user_id": "b7249c76"}, "meta": {"correlation_id": "abc", "roles": ["a"], "big": 18446744073709551615}}}"#,
        ))
        .unwrap();
        assert_eq!(
            (opened.topic().as_str(), opened.body().as_ref()),
            ("persist.user", &br#"{"user_id": "b7249c76"}"#[..])
        );
        assert_eq!(opened.id().to_string(), "203f8b80-5d00-47c6-af29-d89df2ba8559");
        assert_eq!(opened.time(), crate::util::rfc3339::read("2026-11-21T06:15:24.947409Z").unwrap());
        let headers: Vec<_> = opened.headers().map(|(name, value)| (name, value.to_string())).collect();
        let expected = [
            ("correlation_id", "abc"),
            ("roles", r#"["a"]"#),
            ("big", "18446744073709551615"),
            ("petisco-type", "command"),
        ];
        assert_eq!(headers, expected.map(|(name, value)| (name, value.to_owned())));
    }

    #[test]
    fn what_may_be_missing_may_be_missing() {
        let raw = received(r#"{"data": {"type": "user.created", "meta": null}, "more": 1}"#);
        let opened = open(&raw).unwrap();
        assert_eq!((opened.id(), opened.time()), (raw.id(), raw.time()));
        assert_eq!((opened.topic().as_str(), opened.body().as_ref()), ("user.created", &b"{}"[..]));
    }

    #[test]
    fn what_petisco_itself_could_not_read_is_read_where_it_has_a_meaning() {
        let opened = open(&received(
            r#"{"data": {"id": "order 7", "type": "a.b", "version": "2", "occurred_on": "2026-11-21T07:15:24+01:00"}}"#,
        ))
        .unwrap();
        assert_eq!(opened.id(), id_of("order 7"));
        assert_eq!(opened.time(), crate::util::rfc3339::read("2026-11-21T06:15:24Z").unwrap());
        assert_eq!(opened.header(VERSION), Some(&Scalar::Int(2)));
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        for body in [
            "",
            "not json",
            "7",
            "{}",
            r#"{"data": {}}"#,
            r#"{"data": {"type": ""}}"#,
            r#"{"data": {"type": "a b"}}"#,
            r#"{"data": {"type": "a", "attributes": [1]}}"#,
            r#"{"data": {"type": "a", "occurred_on": "yesterday"}}"#,
            r#"{"data": {"type": "a", "version": "new"}}"#,
            r#"{"data": {"type": "a", "id": 7}}"#,
        ] {
            assert!(open(&received(body)).is_err(), "{body}");
        }
    }

    #[test]
    fn what_cannot_be_sealed_is_an_error() {
        for body in ["[1]", "7", "", "\"text\"", "{", "{} {}"] {
            let error = seal(&message(body), ORIGIN).unwrap_err().to_string();
            assert!(error.contains("must be a JSON object"), "{error}");
        }
        assert!(seal(&message("{}").with_header(TYPE, "order"), ORIGIN).is_err());
        assert!(seal(&message("{}").with_header(VERSION, "new"), ORIGIN).is_err());
        assert!(seal(&Message::new("x".repeat(250), "{}").unwrap(), ORIGIN).is_err());
    }

    #[test]
    fn who_sends_must_be_said() {
        assert!(check_origin(ORIGIN).is_ok());
        for (organization, service, key) in [
            (None, Some("s"), "ORGANIZATION"),
            (Some("a.b"), Some("s"), "ORGANIZATION"),
            (Some("a"), Some(""), "SERVICE"),
        ] {
            assert_eq!(
                check_origin(Origin { organization, service, event_source: None }).unwrap_err().0,
                key
            );
        }
    }
}
