//! The messages of mqfactory 0.0.4: `{"payload": .., "tags": {..}}`, as Python writes it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;
use indexmap::IndexMap;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::{json, mqfactory_json};
use crate::message::headers::KEY;
use crate::message::{Message, Scalar, id_of};
use crate::util::error::BoxError;

/// The tag with the id; also the header that keeps an id that is no UUID.
const ID: &str = "id";
/// The tag with the signature.
pub(crate) const SIGNATURE: &str = "signature";

#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(borrow)]
    tags: Option<IndexMap<Cow<'a, str>, &'a RawValue>>,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
}

impl<'a> Wire<'a> {
    fn read(body: &'a [u8]) -> Result<Self, BoxError> {
        serde_json::from_slice(body)
            .map_err(|error| format!("it is not a message of mqfactory: {error}").into())
    }
}

/// Returns the JSON of the signature in the body of a received message.
#[cfg(feature = "signing")]
pub(crate) fn signature(body: &[u8]) -> Result<Option<&str>, BoxError> {
    let tags = Wire::read(body)?.tags.unwrap_or_default();
    Ok(tags.get(SIGNATURE).map(|signature| signature.get()))
}

/// The text of a message, and the place in it for the `hash` of its signature.
pub(crate) struct Text {
    pub(crate) text: String,
    #[cfg_attr(not(feature = "signing"), allow(dead_code, reason = "only signatures have it"))]
    pub(crate) hash_at: usize,
}

/// Writes a message, with the origin and the time of a signature.
pub(crate) fn write(message: &Message, signature: Option<(&str, &str)>) -> Result<Text, BoxError> {
    let payload: &RawValue = serde_json::from_slice(message.body())
        .map_err(|error| format!("a message for mqfactory must be JSON: {error}"))?;
    if message.header(SIGNATURE).is_some() {
        return Err("a message for mqfactory has its signature in the place of the header signature: rename the header".into());
    }
    let mut text = "{\"payload\": ".to_owned();
    mqfactory_json::write(payload, &mut text)
        .map_err(|error| format!("a message for mqfactory must be JSON that Python reads: {error}"))?;
    text.push_str(", \"tags\": {");
    let mut hash_at = 0;
    for (at, (name, tag)) in tags(message, signature).into_iter().enumerate() {
        text.push_str(if at == 0 { "" } else { ", " });
        mqfactory_json::string(name, &mut text);
        text.push_str(": ");
        match tag {
            Tag::Text(value) => mqfactory_json::string(&value, &mut text),
            Tag::Signature { origin, at } => {
                text.push('{');
                hash_at = text.len();
                text.push_str("\"origin\": ");
                mqfactory_json::string(origin, &mut text);
                text.push_str(", \"ts\": ");
                mqfactory_json::string(at, &mut text);
                text.push('}');
            }
            Tag::Scalar(Scalar::Null) => text.push_str("null"),
            Tag::Scalar(Scalar::String(value)) => mqfactory_json::string(value, &mut text),
            Tag::Scalar(Scalar::Float(value)) => mqfactory_json::float(*value, &mut text)
                .map_err(|error| format!("the header {name:?} cannot be sent: {error}"))?,
            Tag::Scalar(value) => text.push_str(&value.to_string()),
        }
    }
    text.push_str("}}");
    Ok(Text { text, hash_at })
}

enum Tag<'a> {
    Text(Cow<'a, str>),
    Scalar(&'a Scalar),
    Signature { origin: &'a str, at: &'a str },
}

/// The tags, in Python's order.
fn tags<'a>(message: &'a Message, signature: Option<(&'a str, &'a str)>) -> BTreeMap<&'a str, Tag<'a>> {
    let mut tags: BTreeMap<_, _> =
        message.headers().map(|(name, value)| (name, Tag::Scalar(value))).collect();
    // A received id that is no UUID is sent as it was.
    let given = message.header(ID).and_then(Scalar::as_str).filter(|id| id_of(id) == message.id());
    let id = given.map_or_else(|| Cow::Owned(message.id().to_string()), Cow::Borrowed);
    tags.insert(ID, Tag::Text(id));
    if let Some(key) = message.key() {
        tags.insert(KEY, Tag::Text(key.into()));
    }
    if let Some((origin, at)) = signature {
        tags.insert(SIGNATURE, Tag::Signature { origin, at });
    }
    tags
}

pub(super) fn seal(message: &Message) -> Result<Message, BoxError> {
    write(message, None).map(|Text { text, .. }| sealed(message, text))
}

/// A message with this text as its body. Its headers and its key are in the text.
pub(crate) fn sealed(message: &Message, text: String) -> Message {
    message.reshaped(message.topic().clone(), "application/json", text.into()).without_key()
}

pub(crate) fn open(message: &Message) -> Result<Message, BoxError> {
    let Wire { tags, payload } = Wire::read(message.body())?;
    let body = match payload {
        Some(payload) => {
            // The rest of the syntax is checked already.
            if payload.get().contains("\\u") {
                serde_json::from_str::<Value>(payload.get()).map_err(|error| {
                    format!("the payload of a message of mqfactory cannot be read: {error}")
                })?;
            }
            message.body().slice_ref(payload.get().as_bytes())
        }
        None => Bytes::from_static(b"\"\""),
    };
    let mut opened = message.reshaped(message.topic().clone(), "application/json", body);
    for (name, value) in message.headers() {
        opened.set_header(name.to_owned(), value.clone());
    }
    for (name, value) in tags.unwrap_or_default() {
        let tag = json::scalar(serde_json::from_str(value.get())?);
        match (name.as_ref(), tag) {
            // It counts only where signatures are verified.
            (SIGNATURE, _) => {}
            (ID, Scalar::String(id)) => {
                opened = opened.with_id(id_of(&id));
                if opened.id().to_string() != id {
                    opened.set_received(ID, id)?;
                }
            }
            (KEY, Scalar::String(key)) => opened = opened.with_key(key),
            (_, value) => opened.set_received(name.into_owned(), value)?,
        }
    }
    Ok(opened)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(body: &str) -> Message {
        Message::new("order/created", body.to_owned()).unwrap()
    }

    #[test]
    fn a_message_is_written_as_mqfactory_writes_it() {
        let message = message(r#"{"b":[1,2.50],"a":"é"}"#)
            .with_header("sent", 1_551_018_742_502_i64)
            .with_header("ack", "mq/ack")
            .with_header("ratio", 1e-5)
            .with_key("k");
        let sealed = seal(&message).unwrap();
        let expected = format!(
            r#"{{"payload": {{"a": "\u00e9", "b": [1, 2.5]}}, "tags": {{"ack": "mq/ack", "id": "{}", "ratio": 1e-05, "sent": 1551018742502, "tower-outbox-key": "k"}}}}"#,
            message.id()
        );
        assert_eq!((sealed.body(), sealed.content_type()), (&Bytes::from(expected), "application/json"));
        assert_eq!((sealed.headers().len(), sealed.key()), (0, None));
        let opened = open(&sealed).unwrap();
        assert_eq!((opened.id(), opened.key(), opened.topic()), (message.id(), Some("k"), message.topic()));
        assert_eq!(opened.header("sent"), Some(&Scalar::Int(1_551_018_742_502)));
        assert_eq!(opened.body(), r#"{"a": "\u00e9", "b": [1, 2.5]}"#);
    }

    #[test]
    fn an_id_that_is_no_uuid_is_sent_back_as_it_was() {
        for id in ["order 7", "0196C1A0-0000-7000-8000-00000000ABCD"] {
            let opened = open(&message(&format!(r#"{{"tags": {{"id": "{id}"}}, "payload": 1}}"#))).unwrap();
            assert_eq!(opened.id(), id_of(id));
            let again = seal(&opened).unwrap();
            assert!(again.body().ends_with(format!(r#"{{"id": "{id}"}}}}"#).as_bytes()), "{again:?}");
        }
        let mine = message("1").with_header("id", "mine");
        assert_eq!(open(&seal(&mine).unwrap()).unwrap().id(), mine.id());
    }

    #[test]
    fn what_is_missing_may_be_missing() {
        let received = message("{}");
        let opened = open(&received).unwrap();
        assert_eq!((opened.id(), opened.body().as_ref()), (received.id(), &b"\"\""[..]));
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        for body in [
            "",
            "not json",
            "7",
            r#"{"payload": Infinity}"#,
            r#"{"payload": "\ud800"}"#,
            r#"{"payload": 1, "payload": 2}"#,
            r#"{"tags": {"a": "\ud800"}}"#,
            r#"{"tags": [1]}"#,
            "{} {}",
        ] {
            assert!(open(&message(body)).is_err(), "{body}");
        }
    }

    #[test]
    fn what_mqfactory_cannot_read_is_not_sent() {
        for body in ["", "text", "{} {}", "1e400", r#""\ud800""#, "\u{feff}1"] {
            assert!(seal(&message(body)).is_err(), "{body}");
        }
        assert!(seal(&message("1").with_header("x", f64::INFINITY)).is_err());
        let error = seal(&message("1").with_header("signature", "mine")).unwrap_err().to_string();
        assert!(error.contains("rename"), "{error}");
    }
}
