//! The file format of fedora-messaging: one JSON object a line, as its CLI publishes and records it.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::fedora::{Fedora, SENT_AT, sent_at};
use super::outgoing::Shape;
use crate::message::{Message, MessageError, Scalar};
use crate::util::error::{BoxError, debug_as_display};

/// Fields in the order of their names, as fedora-messaging writes them.
#[derive(Serialize, Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    body: &'a RawValue,
    #[serde(default)]
    headers: BTreeMap<String, Value>,
    id: Option<String>,
    #[serde(default)]
    priority: Option<u8>,
    #[serde(default)]
    queue: Option<String>,
    topic: String,
}

/// A message as one line for `fedora-messaging publish FILE`, without the line's end.
///
/// # Errors
/// [`JsonLineError`] when the body is not a JSON object, the severity is unknown, or the time is before the year 0 or after 9999.
pub fn to_json_line(message: &Message) -> Result<String, JsonLineError> {
    Fedora::check(message).map_err(JsonLineError::Unfit)?;
    let mut headers = BTreeMap::from([
        ("fedora_messaging_schema".to_owned(), Value::from("base.message")),
        ("fedora_messaging_severity".to_owned(), Value::from(20)),
        ("priority".to_owned(), Value::from(message.priority().unwrap_or(0))),
        (SENT_AT.to_owned(), Value::from(sent_at(message).map_err(JsonLineError::Unfit)?)),
    ]);
    for (name, value) in message.headers() {
        headers.insert(name.to_owned(), json(value));
    }
    let line = Line {
        body: serde_json::from_slice(message.body())?,
        headers,
        id: Some(message.id().to_string()),
        priority: message.priority(),
        queue: None,
        topic: message.topic().to_string(),
    };
    let text = serde_json::to_string(&line)?;
    // Outside of texts, where they are escaped, line ends of the body mean nothing.
    Ok(text.replace(['\n', '\r'], " "))
}

/// A message from one line that `fedora-messaging record` or [`to_json_line`] wrote.
///
/// The time comes from the header `sent-at`; the queue is left out.
///
/// # Errors
/// [`JsonLineError`] when the line is not of this format, or its topic or id is not one.
pub fn from_json_line(line: &str) -> Result<Message, JsonLineError> {
    let Line { body, mut headers, id, priority, topic, .. } = serde_json::from_str(line)?;
    let body = Bytes::copy_from_slice(body.get().as_bytes());
    let mut message = Message::new(topic, body)?.with_content_type("application/json");
    if let Some(id) = id {
        message = message.with_id(Uuid::parse_str(&id).map_err(|error| JsonLineError::Unfit(error.into()))?);
    }
    if let Some(sent_at) = headers.remove(SENT_AT).as_ref().and_then(Value::as_str) {
        message = message.with_time(super::fedora::time_of(sent_at).map_err(JsonLineError::Unfit)?);
    }
    if let Some(priority) = priority {
        message = message.with_priority(priority);
    }
    headers.remove("priority");
    for (name, value) in headers {
        message.set_header(name, scalar(value)?);
    }
    Fedora::check(&message).map_err(JsonLineError::Unfit)?;
    Ok(message)
}

fn json(value: &Scalar) -> Value {
    match value {
        Scalar::Null => Value::Null,
        Scalar::Bool(value) => Value::from(*value),
        Scalar::Int(value) => Value::from(*value),
        Scalar::Float(value) => Value::from(*value),
        Scalar::String(value) => Value::from(value.as_ref()),
    }
}

fn scalar(value: Value) -> Result<Scalar, JsonLineError> {
    Ok(match value {
        Value::Null => Scalar::Null,
        Value::Bool(value) => value.into(),
        Value::String(value) => value.into(),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(value), _) => value.into(),
            (None, Some(value)) => value.into(),
            (None, None) => return Err(JsonLineError::Unfit("a header is out of range".into())),
        },
        // Left by federation (`x-received-from`), which publishers do not send.
        Value::Array(_) | Value::Object(_) => Scalar::Null,
    })
}

/// Why a line and a message do not fit each other.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum JsonLineError {
    /// The line is not a JSON object with a topic and a body.
    #[error("the line is not a message of fedora-messaging")]
    Json(#[from] serde_json::Error),
    /// The topic is not one.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// A value is not what Fedora Messaging allows.
    #[error("the message is not one of Fedora Messaging")]
    Unfit(#[source] BoxError),
}

debug_as_display!(JsonLineError);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backends::amqp091::{FedoraMessage, Severity};

    #[test]
    fn a_message_survives_the_round() {
        let message = Message::json("build.finished", &serde_json::json!({"id": 7, "text": "größe ☃"}))
            .unwrap()
            .with_severity(Severity::Error)
            .with_schema("koji.build", "koji-messages")
            .with_rpm("bash")
            .with_priority(3);
        let line = to_json_line(&message).unwrap();
        let read = from_json_line(&line).unwrap();
        assert_eq!((read.id(), read.topic(), read.body()), (message.id(), message.topic(), message.body()));
        assert_eq!((read.priority(), sent_at(&read).unwrap()), (Some(3), sent_at(&message).unwrap()));
        for (name, value) in message.headers() {
            assert_eq!(read.header(name), Some(value));
        }
        assert_eq!(to_json_line(&read).unwrap(), line);
    }

    #[test]
    fn a_line_is_one_line_and_its_keys_are_sorted() {
        let line = to_json_line(&Message::new("a", "{\n  \"x\": 1\n}").unwrap()).unwrap();
        assert!(!line.contains('\n'));
        let fields: indexmap::IndexMap<String, Value> = serde_json::from_str(&line).unwrap();
        let keys: Vec<_> = fields.keys().map(String::as_str).collect();
        assert_eq!(keys, ["body", "headers", "id", "priority", "queue", "topic"]);
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        assert!(to_json_line(&Message::new("a", "[1]").unwrap()).is_err());
        for line in [
            "",
            "[]",
            "{}",
            r#"{"topic": "a", "body": [1]}"#,
            r#"{"topic": "a b", "body": {}}"#,
            r#"{"topic": "a", "body": {}, "id": "7"}"#,
        ] {
            assert!(from_json_line(line).is_err(), "{line}");
        }
        assert!(from_json_line(r#"{"topic": "a", "body": {}}"#).is_ok());
    }
}
