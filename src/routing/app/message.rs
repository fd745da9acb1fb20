//! How a [`Message`] travels between routers: its body is the first object, its properties are in a second one.
//!
//! | field | content |
//! |---|---|
//! | URI | the topic, with `/` for each dot |
//! | first object | the body; its schema is the content type |
//! | second object | id, topic, time, key, priority and headers in JSON; its schema is [`PROPERTIES`] |

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::persist::{PERSIST, is_persisted};
use crate::message::headers::{
    ATTEMPT, DROPPED, EXPIRY, FAILURES, QUEUE, REASON, TOPIC, read_failures, write_failures,
};
use crate::message::topic::Topic;
use crate::message::{FailedAttempt, Message, Scalar, id_of};
use crate::routing::{Namespace, PayloadObject, RoutedMessage, Uri};
use crate::util::error::BoxError;
use crate::util::rfc3339;

/// The schema of the object with the properties.
const PROPERTIES: &str = "tower-outbox.message";
/// The schema of the object with the failed attempts of a dead letter.
const FAILED: &str = "tower-outbox.failures";
/// The largest object with properties, in bytes.
const LARGEST: usize = 256 << 10;
/// The content type of a message of others with several objects.
const OBJECTS: &str = "application/vnd.wavemq.payload+json";
/// The headers of a message of others: its URI, and the name of its schema.
const URI: &str = "uri";
const SCHEMA: &str = "schema";
/// The headers that count only on messages from a queue of this crate.
const OWN: [&str; 7] = [ATTEMPT, EXPIRY, FAILURES, PERSIST, QUEUE, REASON, TOPIC];

#[derive(Serialize, Deserialize)]
struct Properties<'a> {
    id: Uuid,
    topic: Cow<'a, str>,
    time: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    priority: Option<u8>,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    headers: Map<String, Value>,
}

/// Returns the URI of a topic.
pub(super) fn uri(topic: &Topic) -> Result<Uri, BoxError> {
    Ok(Uri::new(&topic.as_str().replace('.', "/"))?)
}

/// Returns a message as it travels.
pub(in super::super) fn write(message: &Message, namespace: &Namespace) -> Result<RoutedMessage, BoxError> {
    let headers = message.headers().filter(|(name, _)| *name != PERSIST);
    let properties = serde_json::to_vec(&Properties {
        id: message.id(),
        topic: message.topic().as_str().into(),
        time: rfc3339::write(message.time())?.into(),
        key: message.key().map(Cow::Borrowed),
        priority: message.priority(),
        headers: headers.map(|(name, value)| (name.to_owned(), value.to_json())).collect(),
    })?;
    if properties.len() > LARGEST {
        return Err("its headers have more than 256 KiB: send less in them".into());
    }
    let body = PayloadObject { schema: message.content_type().to_owned(), content: message.body().clone() };
    let properties = PayloadObject { schema: PROPERTIES.to_owned(), content: properties.into() };
    let payload = vec![body, properties];
    let routed = RoutedMessage::new(namespace.clone(), uri(message.topic())?, payload);
    Ok(routed.with_persist(is_persisted(message)))
}

/// Returns the message in what was received. Others than this crate may have sent it.
pub(in super::super) fn read(routed: &RoutedMessage) -> Result<Message, BoxError> {
    let is_ours = |object: &&PayloadObject| object.schema == PROPERTIES;
    let properties = routed.payload.iter().find(is_ours);
    let objects: Vec<_> = routed
        .payload
        .iter()
        .filter(|object| ![PROPERTIES, FAILED].contains(&object.schema.as_str()))
        .collect();
    let mut message = match (properties, &objects[..]) {
        (Some(properties), [body]) => ours(&properties.content, body)?,
        (_, objects) => of_others(routed, objects)?,
    };
    if routed.persist {
        message.set_header(PERSIST, true);
    }
    let dropped: i64 = routed.drops.iter().fold(0, |sum, drops| sum.saturating_add((*drops).max(0)));
    if dropped > 0 {
        let before = match message.header(DROPPED) {
            Some(Scalar::Int(before)) => *before,
            _ => 0,
        };
        message.set_header(DROPPED, before.saturating_add(dropped));
    }
    Ok(message)
}

fn ours(properties: &[u8], body: &PayloadObject) -> Result<Message, BoxError> {
    if properties.len() > LARGEST {
        return Err("its properties have more than 256 KiB".into());
    }
    let Properties { id, topic, time, key, priority, headers } = serde_json::from_slice(properties)?;
    let (topic, time) = (Topic::new(topic.into_owned())?, rfc3339::read(&time)?);
    let content_type = Cow::Owned(body.schema.clone());
    let mut message = Message::restore(id, topic, body.content.clone(), content_type, time);
    if let Some(key) = key {
        message = message.with_key(key);
    }
    if let Some(priority) = priority {
        message = message.with_priority(priority);
    }
    for (name, value) in headers {
        if !OWN.contains(&name.as_str()) {
            message.set_received(name, scalar(value))?;
        }
    }
    Ok(message)
}

fn scalar(value: Value) -> Scalar {
    match value {
        Value::Null => Scalar::Null,
        Value::Bool(value) => value.into(),
        Value::Number(number) => match number.as_i64() {
            Some(whole) => whole.into(),
            None => number.as_f64().unwrap_or_default().into(),
        },
        Value::String(text) => text.into(),
        other => other.to_string().into(),
    }
}

/// The message of a WAVEMQ client. Its id is made of the router, the URI and the time that it was published at, which no two
/// messages share.
fn of_others(routed: &RoutedMessage, objects: &[&PayloadObject]) -> Result<Message, BoxError> {
    let nanos = routed.timestamps.first().copied().unwrap_or_default();
    let id = id_of(&format!("{}\0{}\0{}\0{nanos}", routed.origin, routed.namespace, routed.uri));
    let time = SystemTime::UNIX_EPOCH + Duration::from_nanos(u64::try_from(nanos).unwrap_or_default());
    let (body, content_type, schema) = match objects {
        [only] if only.schema.contains('/') => (only.content.clone(), only.schema.clone(), None),
        [only] => (only.content.clone(), "application/octet-stream".to_owned(), Some(&only.schema)),
        several => {
            let object = |object: &&PayloadObject| json!({"schema": object.schema, "content": STANDARD.encode(&object.content)});
            let objects: Vec<_> = several.iter().map(object).collect();
            (serde_json::to_vec(&objects)?.into(), OBJECTS.to_owned(), None)
        }
    };
    let mut message = Message::restore(id, topic(&routed.uri)?, body, content_type.into(), time);
    message.set_header(URI, routed.uri.as_str().to_owned());
    if let Some(schema) = schema {
        message.set_header(SCHEMA, schema.clone());
    }
    Ok(message)
}

/// Returns the topic of a URI. Letters that no topic has become `_`.
fn topic(uri: &Uri) -> Result<Topic, BoxError> {
    let letter = |c: char| match c {
        '/' => '.',
        '.' | '*' | '#' | '+' | '>' => '_',
        c if c.is_whitespace() || c.is_control() => '_',
        c => c,
    };
    Ok(Topic::new(uri.as_str().chars().map(letter).collect::<String>())?)
}

/// Returns a message as a dead letter, with its failed attempts.
pub(super) fn dead_letter(routed: RoutedMessage, failures: &[FailedAttempt]) -> RoutedMessage {
    let mut payload = routed.payload;
    payload.retain(|object| object.schema != FAILED);
    let failures = write_failures(failures).into_bytes();
    payload.push(PayloadObject { schema: FAILED.to_owned(), content: failures.into() });
    RoutedMessage { payload, ..routed }
}

/// Returns the failed attempts of a dead letter.
pub(super) fn failures(routed: &RoutedMessage) -> Vec<FailedAttempt> {
    let failed = routed.payload.iter().find(|object| object.schema == FAILED);
    let text = failed.map(|object| String::from_utf8_lossy(&object.content));
    text.map(|text| read_failures(&text)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespace() -> Namespace {
        Namespace::named("site").unwrap()
    }

    fn foreign(uri: &str, objects: &[(&str, &str)]) -> RoutedMessage {
        let object = |(schema, content): &(&str, &str)| PayloadObject {
            schema: (*schema).to_owned(),
            content: content.as_bytes().to_vec().into(),
        };
        let payload = objects.iter().map(object).collect();
        let mut routed = RoutedMessage::new(namespace(), Uri::new(uri).unwrap(), payload);
        routed.timestamps = vec![1_700_000_000_000_000_007];
        routed
    }

    #[test]
    fn a_message_is_read_as_it_was_written() {
        let mut message =
            Message::new("a.b/c", "body").unwrap().with_content_type("text/plain").with_key("k");
        for (name, value) in [("n", Scalar::Null), ("f", 2.0.into()), ("i", (-7).into()), ("t", "☃".into())]
        {
            message.set_header(name, value);
        }
        let routed = write(&super::super::persist(message.clone()), &namespace()).unwrap();
        assert_eq!((routed.uri.as_str(), routed.persist), ("a/b/c", true));
        let read = read(&routed).unwrap();
        assert!(is_persisted(&read));
        assert_eq!((read.id(), read.topic(), read.key()), (message.id(), message.topic(), Some("k")));
        for (name, value) in message.headers() {
            assert_eq!(read.header(name), Some(value), "{name}");
        }
    }

    #[test]
    fn the_drops_of_all_queues_on_the_way_are_told() {
        let mut routed =
            write(&Message::new("a", "x").unwrap().with_header(DROPPED, 1), &namespace()).unwrap();
        routed.drops = vec![2, 0, i64::MIN, 3];
        assert_eq!(read(&routed).unwrap().header(DROPPED), Some(&Scalar::Int(6)));
    }

    #[test]
    fn a_message_of_others_keeps_uri_schema_and_content() {
        let read = |uri: &str, objects: &[_]| read(&foreign(uri, objects)).unwrap();
        let message = read("floor 1/a.b/c", &[("text", "x")]);
        assert_eq!((message.topic().as_str(), &message.body()[..]), ("floor_1.a_b.c", &b"x"[..]));
        assert_eq!(message.header("uri").and_then(Scalar::as_str), Some("floor 1/a.b/c"));
        assert_eq!(message.header("schema").and_then(Scalar::as_str), Some("text"));
        assert_eq!(message.id(), read("floor 1/a.b/c", &[("text", "y")]).id(), "the same publication");
        assert_eq!(read("a", &[("text/plain", "x")]).content_type(), "text/plain");
        let several = read("a", &[("s", "x"), ("t", "y")]);
        assert_eq!(several.content_type(), OBJECTS);
        assert_eq!(
            &several.body()[..],
            br#"[{"content":"eA==","schema":"s"},{"content":"eQ==","schema":"t"}]"#
        );
        assert_eq!(&read("a", &[]).body()[..], b"[]");
    }

    #[test]
    fn headers_of_this_crate_are_not_believed() {
        let text = r#"{"id": "00000000-0000-0000-0000-000000000001", "topic": "a", "time": "2026-01-01T00:00:00Z",
            "headers": {"tower-outbox-failures": "[]", "tower-outbox-persist": true, "list": [1]}}"#;
        let message = read(&foreign("a", &[("text/plain", "x"), (PROPERTIES, text)])).unwrap();
        let headers: Vec<_> = message.headers().map(|(name, _)| name.to_owned()).collect();
        assert_eq!(headers, ["list"]);
        for broken in
            ["", "{}", "[]", &text.replace("\"a\"", "\"\""), &format!("{text}{}", " ".repeat(LARGEST))]
        {
            assert!(read(&foreign("a", &[("text/plain", "x"), (PROPERTIES, broken)])).is_err());
        }
    }
}
