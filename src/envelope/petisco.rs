//! The messages of petisco, as its versions 1.9 and 2.2 write and read them.

use std::borrow::Cow;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::{Origin, json};
use crate::error::BoxError;
use crate::headers::KEY;
use crate::message::{Message, Scalar, id_of};
use crate::topic::Topic;

/// What a message is: `domain_event` (default), `command` or `message`.
const TYPE: &str = "petisco-type";
/// Its version, 1 by default.
const VERSION: &str = "petisco-version";

const EVENT: &str = "domain_event";

/// What a message of petisco says beside its body; other buses carry it as plain headers.
///
/// ```
/// use tower_outbox::{Message, PetiscoMessage};
///
/// let command = Message::json("persist.user", &serde_json::json!({"user_id": 7}))?.as_command().with_version(2);
/// # Ok::<(), tower_outbox::MessageError>(())
/// ```
pub trait PetiscoMessage: Sized {
    /// Makes it a command; it is a domain event by default.
    #[must_use]
    fn as_command(self) -> Self;

    /// Sets the version; 1 by default.
    #[must_use]
    fn with_version(self, version: u32) -> Self;
}

impl PetiscoMessage for Message {
    fn as_command(self) -> Self {
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

/// It leaves without headers: those would keep petisco's consumer from counting its attempts.
pub(super) fn seal(message: &Message, origin: Origin<'_>) -> Result<Message, BoxError> {
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
    let mut meta: IndexMap<_, _> = message
        .headers()
        .filter(|(name, _)| ![TYPE, VERSION].contains(name))
        .map(|(name, value)| (name.to_owned(), json::value(value)))
        .collect();
    if let Some(key) = message.key() {
        meta.insert(KEY.to_owned(), key.into());
    }
    let time = super::rfc3339::write(message.time())?;
    let data = Data {
        id: Some(message.id().to_string().into()),
        r#type: message.topic().as_str().into(),
        type_message: Some(kind.into()),
        version: Some(version.into()),
        occurred_on: Some(time.trim_end_matches('Z').replace('T', " ").into()),
        attributes: Some(attributes),
        meta: Some(meta),
    };
    let (organization, service) =
        (origin.organization.unwrap_or_default(), origin.service.unwrap_or_default());
    let (kind, name) =
        (if kind == EVENT { "event" } else { kind }, message.topic().as_str().replace('.', "_"));
    let routing_key = Topic::new(format!("{organization}.{service}.{version}.{kind}.{name}"))?;
    let sealed =
        message.reshaped(routing_key, "application/json", serde_json::to_vec(&Wire { data })?.into());
    Ok(sealed.without_key())
}

pub(super) fn open(message: Message) -> Result<Message, BoxError> {
    let Wire { data } = serde_json::from_slice(message.body())
        .map_err(|error| format!("it is no message of petisco: {error}"))?;
    let body = data.attributes.map_or("{}", RawValue::get);
    if !body.starts_with('{') {
        return Err("the attributes of a message of petisco are no object".into());
    }
    let topic = Topic::new(data.r#type.into_owned())?;
    let mut opened = message.reshaped(topic, "application/json", body.to_owned().into());
    for (name, value) in message.headers() {
        opened.set_header(name.to_owned(), value.clone());
    }
    for (name, value) in data.meta.unwrap_or_default() {
        match json::scalar(value) {
            Scalar::String(key) if name == KEY => opened = opened.with_key(key),
            value => opened.set_header(name, value),
        }
    }
    if let Some(id) = data.id {
        opened = opened.with_id(id_of(&id));
    }
    if let Some(time) = data.occurred_on {
        opened = opened.with_time(super::rfc3339::read(&time)?);
    }
    if let Some(kind) = data.type_message.filter(|kind| kind != EVENT) {
        opened.set_header(TYPE, kind.into_owned());
    }
    let version = match data.version {
        None => Some(1),
        Some(Value::String(text)) => text.parse().ok(),
        Some(version) => version.as_i64(),
    };
    let version = version.ok_or("the version of the message of petisco is no whole number")?;
    if version != 1 {
        opened.set_header(VERSION, version);
    }
    Ok(opened)
}
