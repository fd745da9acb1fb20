//! CloudEvents 1.0 in binary mode (AMQP Protocol Binding for CloudEvents 1.0.2, section 3.1).

use std::time::{Duration, SystemTime};

use uuid::Uuid;

use crate::message::headers::start_of;
use crate::message::topic::Topic;
use crate::message::{Message, Scalar, id_of};
use crate::util::error::BoxError;

/// The header of an id that is no UUID, as it was written.
pub(super) const EVENT_ID: &str = "ce-id";

/// The prefix of attributes among the headers; the other form is for JMS, and is only read.
const PREFIX: &str = "cloudEvents:";
const PREFIXES: [&str; 2] = [PREFIX, "cloudEvents_"];

/// The headers that are attributes without a place in a message.
const NAMED: [(&str, &str); 3] =
    [("ce-source", "source"), ("ce-subject", "subject"), ("ce-dataschema", "dataschema")];

/// Names that are no extension's.
const RESERVED: [&str; 10] = [
    "specversion",
    "id",
    "source",
    "type",
    "time",
    "subject",
    "datacontenttype",
    "dataschema",
    "data",
    "partitionkey",
];

pub(super) fn seal(message: &Message, source: &str) -> Result<Message, BoxError> {
    let mut sealed =
        message.reshaped(message.topic().clone(), message.content_type().to_owned(), message.body().clone());
    for (name, value) in attributes(message, source)? {
        sealed.set_header(format!("{PREFIX}{name}"), value);
    }
    set_others(&mut sealed, message);
    Ok(sealed)
}

pub(super) fn open(message: &Message) -> Result<Message, BoxError> {
    let found: Vec<_> = message
        .headers()
        .filter_map(|(name, value)| Some((prefixed(name)?.to_owned(), value.clone())))
        .collect();
    if found.is_empty() {
        return Err("it is not a CloudEvent: it has neither attributes nor their content type".into());
    }
    let content_type = message.content_type().to_owned();
    let mut opened = message.reshaped(message.topic().clone(), content_type, message.body().clone());
    for (name, value) in message.headers().filter(|(name, _)| prefixed(name).is_none()) {
        opened.set_header(name.to_owned(), value.clone());
    }
    restore(opened, found)
}

/// The attributes of a message, extensions among them.
pub(super) fn attributes<'a>(message: &'a Message, source: &str) -> Result<Vec<(&'a str, Scalar)>, BoxError> {
    let mut attributes: Vec<(&str, Scalar)> = vec![
        ("specversion", "1.0".into()),
        ("id", message.id().to_string().into()),
        ("source", source.to_owned().into()),
        ("type", message.topic().to_string().into()),
        ("time", crate::util::rfc3339::write(message.time())?.into()),
    ];
    if let Some(key) = message.key().filter(|key| !key.is_empty()) {
        attributes.push(("partitionkey", key.to_owned().into()));
    }
    for (name, value) in message.headers() {
        let Some(name) = attribute_of(name, value) else { continue };
        match attributes.iter_mut().find(|(known, _)| *known == name) {
            Some(known) => known.1 = value.clone(),
            None => attributes.push((name, value.clone())),
        }
    }
    Ok(attributes)
}

/// The attribute that a header of the wire is.
fn prefixed(name: &str) -> Option<&str> {
    PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix))
}

/// Sets the headers that are no attributes, and would not be taken for some.
pub(super) fn set_others(sealed: &mut Message, message: &Message) {
    for (name, value) in message
        .headers()
        .filter(|(name, value)| attribute_of(name, value).is_none() && prefixed(name).is_none())
    {
        sealed.set_header(name.to_owned(), value.clone());
    }
}

/// The attribute that a header is, if it can be one (CloudEvents 1.0.2, "Naming conventions" and "Type system").
fn attribute_of<'a>(name: &'a str, value: &Scalar) -> Option<&'a str> {
    if let Some((_, attribute)) = NAMED.iter().find(|(header, _)| *header == name) {
        return value.as_str().is_some_and(|text| !text.is_empty()).then_some(attribute);
    }
    let is_extension = !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        && !RESERVED.contains(&name);
    let has_type = match value {
        Scalar::Bool(_) | Scalar::String(_) => true,
        Scalar::Int(value) => i32::try_from(*value).is_ok(),
        _ => false,
    };
    (is_extension && has_type).then_some(name)
}

/// Applies the attributes of an event to a message with its body.
pub(super) fn restore(
    mut message: Message,
    attributes: impl IntoIterator<Item = (String, Scalar)>,
) -> Result<Message, BoxError> {
    let (mut version, mut id, mut source, mut topic) = (None, None, None, None);
    for (name, value) in attributes {
        match name.as_str() {
            "specversion" => version = Some(text(&name, &value)?),
            "id" => id = Some(text(&name, &value)?),
            "type" => topic = Some(Topic::new(text(&name, &value)?)?),
            "time" => message = message.with_time(time(&value)?),
            "partitionkey" => message = message.with_key(text(&name, &value)?),
            // It is the content type.
            "datacontenttype" => {}
            "source" => source = Some(text(&name, &value)?),
            _ => match NAMED.iter().find(|(_, attribute)| *attribute == name) {
                Some((header, _)) => message.set_received(*header, text(&name, &value)?)?,
                None => message.set_received(name, value)?,
            },
        }
    }
    let missing = |name| move || format!("it is not a CloudEvent: its attribute {name} is missing");
    let version = version.ok_or_else(missing("specversion"))?;
    if version != "1.0" {
        return Err(format!("CloudEvents {:?} are not supported, only 1.0", start_of(&version, 40)).into());
    }
    let (id, source) = (id.ok_or_else(missing("id"))?, source.ok_or_else(missing("source"))?);
    let topic = topic.ok_or_else(missing("type"))?;
    let uuid = event_id(&source, &id);
    if uuid.to_string() != id {
        message.set_header(EVENT_ID, id);
    }
    message.set_header("ce-source", source);
    Ok(message.with_id(uuid).with_topic(topic))
}

/// The id of an event as that of a message. It is unique for its source only, unless it is a UUID.
pub(super) fn event_id(source: &str, id: &str) -> Uuid {
    Uuid::try_parse(id).unwrap_or_else(|_| id_of(&format!("{source} {id}")))
}

fn text(name: &str, value: &Scalar) -> Result<String, BoxError> {
    match value.as_str() {
        Some(text) if !text.is_empty() => Ok(text.to_owned()),
        _ => Err(format!("the attribute {name} of the CloudEvent is not a text, or is empty").into()),
    }
}

/// Numbers are what is left of a timestamp of AMQP: milliseconds in 1.0, seconds in 0-9-1.
fn time(value: &Scalar) -> Result<SystemTime, BoxError> {
    let number = match value {
        Scalar::String(text) => return crate::util::rfc3339::read(text),
        Scalar::Int(number) => *number,
        _ => return Err("the attribute time of the CloudEvent is not a time".into()),
    };
    let since = match number.unsigned_abs() {
        seconds @ 0..100_000_000_000 => Duration::from_secs(seconds),
        milliseconds => Duration::from_millis(milliseconds),
    };
    let time = match number {
        0.. => SystemTime::UNIX_EPOCH.checked_add(since),
        _ => SystemTime::UNIX_EPOCH.checked_sub(since),
    };
    time.ok_or_else(|| "the attribute time is too far away".into())
}

#[cfg(test)]
mod tests {
    use super::super::{Envelope, Origin};
    use super::*;

    fn message() -> Message {
        Message::json("user.created", &serde_json::json!({"id": 7}))
            .unwrap()
            .with_time(SystemTime::UNIX_EPOCH + Duration::from_micros(1_795_240_571_788_524))
            .with_key("user-7")
            .with_header("traceparent", "00-ab-cd-01")
            .with_header("attempts", 3)
            .with_header("urgent", true)
            .with_header("correlation_id", "abc")
            .with_header("large", 1_i64 << 40)
            .with_header("ratio", 0.5)
            .with_header("id", "mine")
            .with_header("ce-subject", "users/7")
            .with_header("ce-dataschema", "https://example.com/user")
    }

    /// The message after encoding and decoding, which add the source.
    fn expected() -> Message {
        message().with_header("ce-source", "/tower-outbox")
    }

    fn sorted(message: &Message) -> Vec<(String, String)> {
        let mut headers: Vec<_> =
            message.headers().map(|(name, value)| (name.to_owned(), format!("{value:?}"))).collect();
        headers.sort();
        headers
    }

    #[track_caller]
    fn assert_same(found: &Message, expected: &Message) {
        assert_eq!(sorted(found), sorted(expected));
        let bare = |message: &Message| {
            message.reshaped(
                message.topic().clone(),
                message.content_type().to_owned(),
                message.body().clone(),
            )
        };
        assert_eq!(bare(found), bare(expected));
    }

    fn received(attributes: &[(&'static str, &'static str)]) -> Message {
        let mut message = Message::new("routed.by", "body").unwrap();
        attributes.iter().for_each(|(name, value)| message.set_header(format!("cloudEvents_{name}"), *value));
        message
    }

    const REQUIRED: [(&str, &str); 4] =
        [("specversion", "1.0"), ("id", "A-1"), ("source", "/s"), ("type", "com.example.made")];

    #[test]
    fn an_empty_key_is_no_attribute() {
        let message = message().with_key("");
        let opened = open(&seal(&message, "/tower-outbox").unwrap()).unwrap();
        assert_same(&opened, &expected().with_id(message.id()).with_key(""));
    }

    #[test]
    fn a_header_named_as_attributes_are_on_the_wire_overrides_none() {
        let message = message().with_header("cloudEvents:type", "other").with_header("cloudEvents_id", 1.5);
        let sealed = seal(&message, "/tower-outbox").unwrap();
        assert_same(&open(&sealed).unwrap(), &expected().with_id(message.id()));
    }

    #[test]
    fn attributes_are_headers_of_their_own() {
        let sealed = seal(&message(), "/me").unwrap();
        let text = |name: &str| sealed.header(name).map(ToString::to_string);
        for (name, value) in [
            ("cloudEvents:specversion", "1.0"),
            ("cloudEvents:source", "/me"),
            ("cloudEvents:type", "user.created"),
            ("cloudEvents:time", "2026-11-21T05:56:11.788524Z"),
            ("cloudEvents:partitionkey", "user-7"),
            ("cloudEvents:subject", "users/7"),
            ("cloudEvents:dataschema", "https://example.com/user"),
            ("cloudEvents:traceparent", "00-ab-cd-01"),
            ("cloudEvents:attempts", "3"),
            ("cloudEvents:urgent", "true"),
            ("correlation_id", "abc"),
            ("ratio", "0.5"),
            ("id", "mine"),
        ] {
            assert_eq!(text(name).as_deref(), Some(value), "{name}");
        }
        assert_eq!(text("cloudEvents:id"), Some(message_id(&sealed)));
        assert_eq!((sealed.content_type(), sealed.body()), (message().content_type(), message().body()));
    }

    fn message_id(message: &Message) -> String {
        message.id().to_string()
    }

    #[test]
    fn what_is_sealed_in_either_mode_opens_in_either() {
        for (sealing, opening) in [
            (Envelope::CloudEvents, Envelope::CloudEventsStructured),
            (Envelope::CloudEventsStructured, Envelope::CloudEvents),
        ] {
            let message = message();
            let sealed = sealing.seal(&message, Origin::default()).unwrap().into_owned();
            assert_same(&opening.open(sealed).unwrap(), &expected().with_id(message.id()));
        }
    }

    #[test]
    fn any_body_survives_either_mode() {
        for (content_type, body) in [
            ("application/json", &br#"{"z": 1.50, "a": [1,  2]}"#[..]),
            ("application/vnd.acme+json; charset=utf-8", b"7"),
            ("application/json", b"not json"),
            ("application/json", b""),
            ("text/plain", b"\"text\""),
            ("application/octet-stream", &[0, 255, 1]),
        ] {
            for envelope in [Envelope::CloudEvents, Envelope::CloudEventsStructured] {
                let message = Message::new("a.b", body).unwrap().with_content_type(content_type);
                let sealed = envelope.seal(&message, Origin::default()).unwrap().into_owned();
                let opened = envelope.open(sealed).unwrap();
                assert_eq!((opened.content_type(), opened.body()), (content_type, message.body()));
            }
        }
    }

    #[test]
    fn the_form_for_jms_is_read_and_the_topic_is_the_type() {
        let opened =
            open(&received(&[&REQUIRED[..], &[("myext", "x"), ("time", "2026-11-21T05:56:11Z")]].concat()));
        let opened = opened.unwrap();
        assert_eq!(opened.topic().as_str(), "com.example.made");
        assert_eq!(
            (opened.header("myext"), opened.header("ce-source")),
            (Some(&"x".into()), Some(&"/s".into()))
        );
        assert_eq!(opened.time(), crate::util::rfc3339::read("2026-11-21T05:56:11Z").unwrap());
        let other = open(&received(&[&REQUIRED[..2], &[("source", "/t"), ("type", "a")]].concat())).unwrap();
        assert_ne!(opened.id(), other.id(), "an id is unique for its source only");
    }

    #[test]
    fn what_is_no_event_is_an_error() {
        assert!(open(&Message::new("a", "x").unwrap()).is_err());
        for missing in 0..4 {
            let attributes: Vec<_> = REQUIRED
                .into_iter()
                .enumerate()
                .filter(|(n, _)| *n != missing)
                .map(|(_, pair)| pair)
                .collect();
            assert!(open(&received(&attributes)).is_err(), "{missing}");
        }
        for wrong in
            [("specversion", "0.3"), ("id", ""), ("type", "a b"), ("time", "yesterday"), ("source", "")]
        {
            assert!(open(&received(&[&REQUIRED[..], &[wrong]].concat())).is_err(), "{wrong:?}");
        }
    }
}
