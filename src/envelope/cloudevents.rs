//! CloudEvents 1.0 in binary mode (AMQP Protocol Binding for CloudEvents 1.0.2, section 3.1).

use std::time::{Duration, SystemTime};

use crate::error::BoxError;
use crate::headers::start_of;
use crate::message::{Message, Scalar, id_of};
use crate::topic::Topic;

/// What attributes are called among the headers; the other form is for JMS, and is read only.
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

pub(super) fn open(message: Message) -> Result<Message, BoxError> {
    let attribute =
        |name: &str| PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix)).map(str::to_owned);
    let found: Vec<_> =
        message.headers().filter_map(|(name, value)| Some((attribute(name)?, value.clone()))).collect();
    if found.is_empty() {
        return Err("it is no CloudEvent: it has neither attributes nor their content type".into());
    }
    let content_type = message.content_type().to_owned();
    let mut opened = message.reshaped(message.topic().clone(), content_type, message.body().clone());
    for (name, value) in message.headers().filter(|(name, _)| attribute(name).is_none()) {
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
        ("time", super::rfc3339::write(message.time())?.into()),
    ];
    if let Some(key) = message.key() {
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

/// Sets the headers that are no attributes.
pub(super) fn set_others(sealed: &mut Message, message: &Message) {
    for (name, value) in message.headers().filter(|(name, value)| attribute_of(name, value).is_none()) {
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

/// Gives a message with its body what its attributes say.
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
                Some((header, _)) => message.set_header(*header, text(&name, &value)?),
                None => message.set_header(name, value),
            },
        }
    }
    let missing = |name| move || format!("it is no CloudEvent: its attribute {name} is missing");
    let version = version.ok_or_else(missing("specversion"))?;
    if version != "1.0" {
        return Err(format!("CloudEvents {:?} are not understood, only 1.0", start_of(&version, 40)).into());
    }
    let (id, source) = (id.ok_or_else(missing("id"))?, source.ok_or_else(missing("source"))?);
    let topic = topic.ok_or_else(missing("type"))?;
    // An id is unique for its source only, unless it is a UUID.
    let id = uuid::Uuid::try_parse(&id).unwrap_or_else(|_| id_of(&format!("{source} {id}")));
    message.set_header("ce-source", source);
    Ok(message.with_id(id).with_topic(topic))
}

fn text(name: &str, value: &Scalar) -> Result<String, BoxError> {
    match value.as_str() {
        Some(text) if !text.is_empty() => Ok(text.to_owned()),
        _ => Err(format!("the attribute {name} of the CloudEvent is not a text, or is empty").into()),
    }
}

/// Numbers are what is left of a timestamp of AMQP: milliseconds in 1.0, seconds in 0-9-1.
fn time(value: &Scalar) -> Result<SystemTime, BoxError> {
    let since = match value {
        Scalar::String(text) => return super::rfc3339::read(text),
        Scalar::Int(value) => match u64::try_from(*value)? {
            seconds @ 0..100_000_000_000 => Duration::from_secs(seconds),
            milliseconds => Duration::from_millis(milliseconds),
        },
        _ => return Err("the attribute time of the CloudEvent is not a time".into()),
    };
    SystemTime::UNIX_EPOCH.checked_add(since).ok_or_else(|| "the attribute time is too far away".into())
}
