//! CloudEvents 1.0 in structured mode (AMQP Protocol Binding 1.0.2, section 3.2; JSON Event Format 1.0.2).

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use indexmap::IndexMap;
use serde_json::value::{RawValue, to_raw_value};

use super::cloudevents::{attributes, restore, set_others};
use super::json;
use crate::message::{Message, Scalar};
use crate::util::error::BoxError;

pub(super) const CONTENT_TYPE: &str = "application/cloudevents+json";
const JSON: &str = "application/json";

/// Whether it is one event in this mode, or a batch, which must not be sent unasked.
pub(super) fn is(message: &Message) -> bool {
    media_type(message.content_type()).starts_with("application/cloudevents")
}

pub(super) fn seal(message: &Message, source: &str) -> Result<Message, BoxError> {
    let mut event: IndexMap<&str, Box<RawValue>> = IndexMap::new();
    for (name, value) in attributes(message, source)? {
        event.insert(name, to_raw_value(&value.to_json())?);
    }
    event.insert("datacontenttype", to_raw_value(message.content_type())?);
    let raw =
        is_json(message.content_type()).then(|| serde_json::from_slice::<Box<RawValue>>(message.body()));
    match raw {
        Some(Ok(data)) => event.insert("data", data),
        _ => event.insert("data_base64", to_raw_value(&STANDARD.encode(message.body()))?),
    };
    Ok(sealed(message, serde_json::to_vec(&event)?.into()))
}

/// As [`seal`], without the document: of the attributes only the time can be at fault.
pub(super) fn outline(message: &Message) -> Result<Message, BoxError> {
    crate::util::rfc3339::write(message.time())?;
    Ok(sealed(message, message.body().clone()))
}

fn sealed(message: &Message, body: Bytes) -> Message {
    let mut sealed = message.reshaped(message.topic().clone(), CONTENT_TYPE, body);
    set_others(&mut sealed, message);
    sealed
}

pub(super) fn open(message: &Message) -> Result<Message, BoxError> {
    if media_type(message.content_type()) != CONTENT_TYPE {
        return Err("only CloudEvents in JSON are supported, one in a message".into());
    }
    let mut event: IndexMap<Cow<'_, str>, &RawValue> = serde_json::from_slice(message.body())
        .map_err(|error| format!("it is not a CloudEvent in JSON: {error}"))?;
    event.retain(|_, value| value.get() != "null");
    let content_type = match event.get("datacontenttype") {
        Some(value) => Some(serde_json::from_str::<String>(value.get())?),
        None => None,
    };
    let (content_type, body) =
        match (event.shift_remove("data"), event.shift_remove("data_base64"), content_type) {
            (Some(_), Some(_), _) => return Err("the CloudEvent has both data and data_base64".into()),
            (Some(data), None, content_type) => data_of(data, content_type)?,
            (None, Some(data), content_type) => {
                let data: Cow<'_, str> = serde_json::from_str(data.get())?;
                let body = STANDARD.decode(data.as_bytes())?;
                (content_type.unwrap_or_else(|| "application/octet-stream".to_owned()), body.into())
            }
            (None, None, content_type) => (content_type.unwrap_or_else(|| JSON.to_owned()), Bytes::new()),
        };
    let mut opened = message.reshaped(message.topic().clone(), content_type, body);
    for (name, value) in message.headers() {
        opened.set_header(name.to_owned(), value.clone());
    }
    let attributes = event.into_iter().map(|(name, value)| Ok((name.to_string(), scalar(&name, value)?)));
    restore(opened, attributes.collect::<Result<Vec<_>, BoxError>>()?)
}

/// JSON data unchanged; for other content types the text in a JSON string.
fn data_of(data: &RawValue, content_type: Option<String>) -> Result<(String, Bytes), BoxError> {
    let content_type = content_type.unwrap_or_else(|| JSON.to_owned());
    let body = match data.get() {
        text if !is_json(&content_type) && text.starts_with('"') => serde_json::from_str(text)?,
        text => text.to_owned(),
    };
    Ok((content_type, body.into()))
}

fn media_type(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

fn is_json(content_type: &str) -> bool {
    let media_type = media_type(content_type);
    media_type.ends_with("/json") || media_type.ends_with("+json")
}

fn scalar(name: &str, value: &RawValue) -> Result<Scalar, BoxError> {
    if value.get().starts_with(['[', '{']) {
        return Err(format!("the attribute {name} of the CloudEvent is a list or an object").into());
    }
    Ok(json::scalar(serde_json::from_str(value.get())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(body: impl Into<Bytes>) -> Message {
        Message::new("routed.by", body)
            .unwrap()
            .with_content_type("application/cloudevents+json; charset=utf-8")
    }

    #[test]
    fn what_is_no_event_is_an_error() {
        let event =
            |more: &str| format!(r#"{{"specversion": "1.0", "id": "1", "source": "/s", "type": "a"{more}}}"#);
        assert_eq!(open(&received(event(""))).unwrap().body().len(), 0);
        for body in [
            String::new(),
            "[1]".to_owned(),
            r#"{"specversion": "1.0"}"#.to_owned(),
            event(r#", "specversion": "0.3""#),
            event(r#", "data": 1, "data_base64": "AA==""#),
            event(r#", "data_base64": "?""#),
            event(r#", "x": {"y": 1}"#),
            event(r#", "time": "soon""#),
            event(r#", "datacontenttype": 7"#),
        ] {
            assert!(open(&received(body.clone())).is_err(), "{body}");
        }
        let batch = received("[]").with_content_type("application/cloudevents-batch+json");
        assert!(super::super::Envelope::CloudEvents.open(batch).is_err());
    }
}
