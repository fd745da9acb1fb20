//! A message: what a handler enqueues and a messenger sends.

pub(crate) mod failed_attempt;
#[cfg(feature = "_fuzzing")]
pub(crate) mod fuzzing;
pub mod headers;
mod settlement;
pub(crate) mod topic;
pub(crate) mod trace_context;

use std::borrow::Cow;
use std::fmt;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use indexmap::IndexMap;
use serde::Serialize;
use serde_json::value::RawValue;
use uuid::Uuid;

pub use self::failed_attempt::FailedAttempt;
pub use self::settlement::Settlement;
pub use self::topic::{Topic, TopicError};

use crate::util::error::debug_as_display;

/// One message: an id, a topic, headers and a body, with how it wants to be delivered.
///
/// The body is bytes from the start: what is enqueued is what leaves, whatever happens to the
/// value it was made from.
///
/// ```
/// use tower_outbox::Message;
///
/// let message = Message::json("user.created", &serde_json::json!({"id": 7}))?
///     .with_key("user-7")
///     .with_header("tenant", "acme");
/// assert_eq!(message.topic().as_str(), "user.created");
/// # Ok::<(), tower_outbox::message::MessageError>(())
/// ```
#[derive(Clone, PartialEq)]
pub struct Message {
    id: Uuid,
    identity: Identity,
    topic: Topic,
    headers: Vec<(Cow<'static, str>, Scalar)>,
    body: Bytes,
    content_type: Cow<'static, str>,
    time: SystemTime,
    key: Option<String>,
    priority: Option<u8>,
    expiry: Option<Duration>,
    delay: Option<Duration>,
}

/// Where the id of a message comes from.
#[derive(Clone, Copy)]
enum Identity {
    /// It was made with the message.
    Own,
    /// Somebody gave it.
    Given,
    /// A retry of the request makes the same: it is stored once.
    Once,
}

/// Two messages are the same wherever their ids come from.
impl PartialEq for Identity {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Message {
    /// A message with a body as it is, of content type `application/octet-stream`.
    ///
    /// # Errors
    /// [`MessageError::Topic`] when the topic is not one.
    pub fn new(topic: impl Into<Cow<'static, str>>, body: impl Into<Bytes>) -> Result<Self, MessageError> {
        Ok(Self::from_parts(Topic::new(topic)?, body.into(), "application/octet-stream"))
    }

    /// A message whose body is `value` as JSON, of content type `application/json`.
    ///
    /// # Errors
    /// [`MessageError`] when the topic is not one, or the value cannot be serialised.
    pub fn json<T: Serialize + ?Sized>(
        topic: impl Into<Cow<'static, str>>,
        value: &T,
    ) -> Result<Self, MessageError> {
        let topic = Topic::new(topic)?;
        thread_local! {
            static SCRATCH: std::cell::Cell<Vec<u8>> = const { std::cell::Cell::new(Vec::new()) };
        }
        let mut scratch = SCRATCH.take();
        scratch.clear();
        let result = serde_json::to_writer(&mut scratch, value);
        let body = Bytes::copy_from_slice(&scratch);
        if scratch.capacity() <= 16 << 10 {
            SCRATCH.set(scratch);
        }
        result.map_err(MessageError::Serialize)?;
        Ok(Self::from_parts(topic, body, "application/json"))
    }

    fn from_parts(topic: Topic, body: Bytes, content_type: &'static str) -> Self {
        Self::fresh(topic, body, Cow::Borrowed(content_type), SystemTime::now())
    }

    /// A message with an id of its own.
    pub(crate) fn fresh(
        topic: Topic,
        body: Bytes,
        content_type: Cow<'static, str>,
        time: SystemTime,
    ) -> Self {
        let message = Self::restore(uuid_v7(time), topic, body, content_type, time);
        Self { identity: Identity::Own, ..message }
    }

    /// A message that was made before.
    pub(crate) fn restore(
        id: Uuid,
        topic: Topic,
        body: Bytes,
        content_type: Cow<'static, str>,
        time: SystemTime,
    ) -> Self {
        Self {
            id,
            identity: Identity::Given,
            topic,
            headers: Vec::new(),
            body,
            content_type,
            time,
            key: None,
            priority: None,
            expiry: None,
            delay: None,
        }
    }

    /// The same message, to be sent or handled in another shape: without headers.
    #[cfg(feature = "_brokers")]
    pub(crate) fn reshaped(
        &self,
        topic: Topic,
        content_type: impl Into<Cow<'static, str>>,
        body: Bytes,
    ) -> Self {
        Self {
            id: self.id,
            identity: self.identity,
            topic,
            headers: Vec::new(),
            body,
            content_type: content_type.into(),
            time: self.time,
            key: self.key.clone(),
            priority: self.priority,
            expiry: self.expiry,
            delay: self.delay,
        }
    }

    #[cfg(feature = "_brokers")]
    pub(crate) fn with_topic(mut self, topic: Topic) -> Self {
        self.topic = topic;
        self
    }

    #[cfg(feature = "_brokers")]
    pub(crate) fn without_key(mut self) -> Self {
        self.key = None;
        self
    }

    /// Gives the message another id; the default is a fresh UUIDv7 (RFC 9562, section 5.7).
    #[must_use]
    pub fn with_id(mut self, id: Uuid) -> Self {
        (self.id, self.identity) = (id, Identity::Given);
        self
    }

    /// Takes the id that a retry of the request makes too, unless somebody gave it one.
    pub(crate) fn set_once(&mut self, id: impl FnOnce() -> Uuid) {
        if matches!(self.identity, Identity::Own) {
            (self.id, self.identity) = (id(), Identity::Once);
        }
    }

    /// Whether it is to be stored once only, however often a request makes it.
    #[cfg(feature = "_sql")]
    pub(crate) fn is_once(&self) -> bool {
        matches!(self.identity, Identity::Once)
    }

    /// Sets a header, replacing one of the same name.
    #[must_use]
    pub fn with_header(mut self, name: impl Into<Cow<'static, str>>, value: impl Into<Scalar>) -> Self {
        self.set_header(name, value);
        self
    }

    /// Sets the media type of the body.
    #[must_use]
    pub fn with_content_type(mut self, content_type: impl Into<Cow<'static, str>>) -> Self {
        self.content_type = content_type.into();
        self
    }

    /// Sets the time of the event; the default is when the message was made.
    #[must_use]
    pub fn with_time(mut self, time: SystemTime) -> Self {
        self.time = time;
        self
    }

    /// Sets the ordering key: messages of one topic and key keep their order.
    #[must_use]
    pub fn with_key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Sets the priority, higher first, as far as the bus knows priorities (AMQP: 0 to 9, 4 by default).
    #[must_use]
    pub fn with_priority(mut self, priority: u8) -> Self {
        self.priority = Some(priority);
        self
    }

    /// Sets how long the message is worth delivering; none by default.
    #[must_use]
    pub fn with_expiry(mut self, expiry: Duration) -> Self {
        self.expiry = Some(expiry);
        self
    }

    /// Sets how long the message is held back before it is delivered; none by default.
    ///
    /// A bus that cannot hold a message back rejects it at enqueue rather than send it early.
    #[must_use]
    pub fn with_delay(mut self, delay: Duration) -> Self {
        self.delay = Some(delay);
        self
    }

    /// As [`with_delay`](Self::with_delay), undone: for those who hold the message back themselves.
    pub(crate) fn without_delay(mut self) -> Self {
        self.delay = None;
        self
    }

    /// Sets a header in place, replacing one of the same name.
    pub fn set_header(&mut self, name: impl Into<Cow<'static, str>>, value: impl Into<Scalar>) {
        let (name, value) = (name.into(), value.into());
        match self.headers.iter_mut().find(|(known, _)| *known == name) {
            Some(header) => header.1 = value,
            None => self.headers.push((name, value)),
        }
    }

    /// Sets a header that came from elsewhere. To set each one costs a look at all of them: there may be 1,000.
    #[cfg_attr(not(feature = "_brokers"), allow(dead_code, reason = "only brokers send any"))]
    pub(crate) fn set_received(
        &mut self,
        name: impl Into<Cow<'static, str>>,
        value: impl Into<Scalar>,
    ) -> Result<(), &'static str> {
        self.set_header(name, value);
        if self.headers.len() > crate::message::headers::MOST {
            Err("it has more than 1,000 headers")
        } else {
            Ok(())
        }
    }

    /// Sets a field at the root of a JSON object body, replacing one of the same name.
    ///
    /// The other fields keep their order and their exact text.
    ///
    /// # Errors
    /// [`MessageError::Serialize`] when the body is not a JSON object, or the value cannot be serialised.
    pub fn set_field<T: Serialize + ?Sized>(&mut self, name: &str, value: &T) -> Result<(), MessageError> {
        let value = serde_json::value::to_raw_value(value).map_err(MessageError::Serialize)?;
        let mut fields: IndexMap<Cow<'_, str>, &RawValue> =
            serde_json::from_slice(&self.body).map_err(MessageError::Serialize)?;
        fields.insert(Cow::Borrowed(name), &value);
        self.body = serde_json::to_vec(&fields).map_err(MessageError::Serialize)?.into();
        Ok(())
    }

    /// The id: unique, and the same however often the message is sent.
    #[must_use]
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// The topic.
    #[must_use]
    pub fn topic(&self) -> &Topic {
        &self.topic
    }

    /// The headers, in the order they were first set.
    pub fn headers(&self) -> impl ExactSizeIterator<Item = (&str, &Scalar)> {
        self.headers.iter().map(|(name, value)| (name.as_ref(), value))
    }

    /// One header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&Scalar> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    /// The body.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The media type of the body.
    #[must_use]
    pub fn content_type(&self) -> &str {
        &self.content_type
    }

    /// The time of the event.
    #[must_use]
    pub fn time(&self) -> SystemTime {
        self.time
    }

    /// The ordering key.
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// The priority.
    #[must_use]
    pub fn priority(&self) -> Option<u8> {
        self.priority
    }

    /// How long the message is worth delivering, from its [`time`](Self::time).
    #[must_use]
    pub fn expiry(&self) -> Option<Duration> {
        self.expiry
    }

    /// How long the message is held back before it is delivered.
    #[must_use]
    pub fn delay(&self) -> Option<Duration> {
        self.delay
    }

    /// About how much memory the message holds, in bytes: what limits are counted in.
    #[must_use]
    pub fn size(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + value.size()).sum();
        self.topic.as_str().len() + headers + self.body.len() + self.key.as_ref().map_or(0, String::len)
    }
}

/// Shows everything but the body, of which it gives the length: bodies stay out of logs.
impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("id", &self.id)
            .field("topic", &self.topic.as_str())
            .field("body_len", &self.body.len())
            .field("content_type", &self.content_type)
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

/// An event type that knows its topic, for [`MessageQueue::emit`](crate::queue::MessageQueue::emit).
///
/// ```
/// use serde::Serialize;
/// use tower_outbox::Event;
///
/// #[derive(Serialize)]
/// struct UserCreated { id: u64 }
///
/// impl Event for UserCreated {
///     const TOPIC: &'static str = "user.created";
/// }
/// ```
pub trait Event: Serialize {
    /// The topic of every event of this type.
    const TOPIC: &'static str;

    /// The ordering key of this event; none by default.
    fn key(&self) -> Option<String> {
        None
    }
}

/// The value of a header.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Scalar {
    /// No value.
    Null,
    /// A truth value.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A floating-point number.
    Float(f64),
    /// A text.
    String(Cow<'static, str>),
}

impl Scalar {
    /// The text, if it is one.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn size(&self) -> usize {
        match self {
            Self::String(text) => text.len(),
            _ => 8,
        }
    }
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(value) => value.fmt(f),
            Self::Int(value) => value.fmt(f),
            Self::Float(value) => value.fmt(f),
            Self::String(value) => value.fmt(f),
        }
    }
}

macro_rules! scalar_from {
    ($($from:ty => $variant:ident),* $(,)?) => {$(
        impl From<$from> for Scalar {
            fn from(value: $from) -> Self {
                Self::$variant(value.into())
            }
        }
    )*};
}

scalar_from!(
    bool => Bool, i8 => Int, i16 => Int, i32 => Int, i64 => Int, u8 => Int, u16 => Int, u32 => Int,
    f32 => Float, f64 => Float, &'static str => String, String => String, Cow<'static, str> => String,
);

/// Why a message could not be made.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// The topic is not one.
    #[error(transparent)]
    Topic(#[from] TopicError),
    /// The value is not what JSON can carry, or the body is not a JSON object.
    #[error("the message body is not JSON that can be sent")]
    Serialize(#[source] serde_json::Error),
}

debug_as_display!(MessageError);

/// The id of a message from a bus. One that is no UUID is unique at best for its publisher and topic, so these are part of the name.
#[cfg(feature = "_brokers")]
pub(crate) fn foreign_id(publisher: &str, topic: &Topic, id: &str) -> Uuid {
    Uuid::try_parse(id).unwrap_or_else(|_| id_of(&format!("{publisher}\0{topic}\0{id}")))
}

/// The id that a bus gave as a text: a UUID as it is, anything else by its name (UUIDv5; RFC 9562, section 5.5).
#[cfg_attr(not(feature = "_brokers"), allow(dead_code, reason = "only a bus gives texts"))]
pub(crate) fn id_of(text: &str) -> Uuid {
    Uuid::try_parse(text).unwrap_or_else(|_| Uuid::new_v5(&Uuid::NAMESPACE_OID, text.as_bytes()))
}

/// A UUIDv7 with random bits from the thread's own generator: no system call a message.
pub(crate) fn uuid_v7(time: SystemTime) -> Uuid {
    let millis = time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    let random = rand::random::<u128>().to_le_bytes();
    let mut tail = [0; 10];
    tail.copy_from_slice(&random[..10]);
    uuid::Builder::from_unix_timestamp_millis(millis, &tail).into_uuid()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_uuid_v7_of_the_messages_time() {
        let message = Message::new("a.b", "x").unwrap();
        assert_eq!(message.id().get_version_num(), 7);
        let (seconds, _) = message.id().get_timestamp().unwrap().to_unix();
        assert_eq!(seconds, message.time().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs());
    }

    #[test]
    fn a_field_is_added_without_touching_the_others() {
        let mut message =
            Message::new("a", r#"{"z": 1.50, "a": [1,  2], "big": 123456789012345678901}"#).unwrap();
        message.set_field("author", "jo").unwrap();
        message.set_field("z", &2).unwrap();
        assert_eq!(message.body(), r#"{"z":2,"a":[1,  2],"big":123456789012345678901,"author":"jo"}"#);
    }

    #[test]
    fn a_field_cannot_be_added_to_what_is_not_an_object() {
        for body in ["[1]", "7", "", "not json"] {
            let mut message = Message::new("a", body).unwrap();
            assert!(message.set_field("author", "jo").is_err());
            assert_eq!(message.body(), body);
        }
    }

    #[test]
    fn a_header_set_again_is_replaced() {
        let message =
            Message::new("a", "").unwrap().with_header("x", 1).with_header("y", true).with_header("x", "2");
        let headers: Vec<_> = message.headers().collect();
        assert_eq!(headers, [("x", &Scalar::from("2")), ("y", &Scalar::Bool(true))]);
    }

    #[test]
    fn debug_does_not_show_the_body() {
        let message = Message::new("a", "the secret").unwrap();
        assert!(!format!("{message:?}").contains("secret"));
    }

    #[test]
    fn what_json_cannot_carry_is_an_error() {
        let map = std::collections::BTreeMap::from([((1, 2), 3)]);
        assert!(matches!(Message::json("a", &map), Err(MessageError::Serialize(_))));
    }
}
