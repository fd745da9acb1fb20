//! Messages, which handlers enqueue and messengers send.

mod error;
mod event;
pub(crate) mod failed_attempt;
#[cfg(feature = "_fuzzing")]
pub(crate) mod fuzzing;
pub mod headers;
mod id;
mod identity;
pub(crate) mod of_http;
mod scalar;
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

pub use self::error::MessageError;
pub use self::event::Event;
pub use self::failed_attempt::FailedAttempt;
pub use self::scalar::Scalar;
pub use self::settlement::Settlement;
pub use self::topic::{Topic, TopicError};

use self::identity::Identity;

#[cfg(feature = "_brokers")]
pub(crate) use self::id::foreign_id;
#[cfg_attr(not(feature = "_brokers"), allow(unused_imports, reason = "only brokers give texts"))]
pub(crate) use self::id::{id_of, uuid_v7};

/// A message: an id, a topic, headers, a body, and options of its delivery.
///
/// The body is serialised when the message is made: later changes of the value do not change the message.
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

impl Message {
    /// Makes a message with this body, of content type `application/octet-stream`.
    ///
    /// # Errors
    /// [`MessageError::Topic`] if the topic is invalid.
    pub fn new(topic: impl Into<Cow<'static, str>>, body: impl Into<Bytes>) -> Result<Self, MessageError> {
        Ok(Self::from_parts(Topic::new(topic)?, body.into(), "application/octet-stream"))
    }

    /// Makes a message whose body is `value` as JSON, of content type `application/json`.
    ///
    /// # Errors
    /// [`MessageError`] if the topic is invalid, or the value cannot be serialised.
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

    /// Makes a message with an empty JSON object as its body.
    pub(crate) fn empty(topic: Topic) -> Self {
        Self::from_parts(topic, Bytes::from_static(b"{}"), "application/json")
    }

    fn from_parts(topic: Topic, body: Bytes, content_type: &'static str) -> Self {
        Self::fresh(topic, body, Cow::Borrowed(content_type), SystemTime::now())
    }

    /// Makes a message with a new id.
    pub(crate) fn fresh(
        topic: Topic,
        body: Bytes,
        content_type: Cow<'static, str>,
        time: SystemTime,
    ) -> Self {
        let message = Self::restore(uuid_v7(time), topic, body, content_type, time);
        Self { identity: Identity::Own, ..message }
    }

    /// Makes a message again that was stored or received.
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

    /// Returns the same message without headers and with another body, for an envelope.
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

    /// Sets the id. By default it is a new UUIDv7 (RFC 9562, section 5.7).
    #[must_use]
    pub fn with_id(mut self, id: Uuid) -> Self {
        (self.id, self.identity) = (id, Identity::Given);
        self
    }

    /// Sets the id that a retry of the request makes too, unless the caller has set one.
    pub(crate) fn set_once(&mut self, id: impl FnOnce() -> Uuid) {
        if matches!(self.identity, Identity::Own) {
            (self.id, self.identity) = (id(), Identity::Once);
        }
    }

    /// Whether the id was made with the message, here.
    pub(crate) fn has_new_id(&self) -> bool {
        matches!(self.identity, Identity::Own)
    }

    /// Whether the message is stored once, however often retries of the request make it.
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

    /// Sets the time of the event. By default it is when the message was made.
    #[must_use]
    pub fn with_time(mut self, time: SystemTime) -> Self {
        self.time = time;
        self
    }

    /// Sets the ordering key: messages of one topic and key keep their order, across requests and outages. Messages without a key have no
    /// order across requests.
    #[must_use]
    pub fn with_key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Sets the priority, higher first, for brokers that have priorities (AMQP: 0 to 9, 4 by default).
    #[must_use]
    pub fn with_priority(mut self, priority: u8) -> Self {
        self.priority = Some(priority);
        self
    }

    /// Sets how long the message is worth delivering, from its [`time`](Self::time). By default there is no limit.
    #[must_use]
    pub fn with_expiry(mut self, expiry: Duration) -> Self {
        self.expiry = Some(expiry);
        self
    }

    /// Sets how long the message is delayed before it is delivered. By default it is not delayed.
    ///
    /// If the broker cannot delay messages, enqueuing one with a delay fails.
    #[must_use]
    pub fn with_delay(mut self, delay: Duration) -> Self {
        self.delay = Some(delay);
        self
    }

    /// Removes the delay, for a store that delays the message itself.
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

    /// Removes a header.
    #[cfg(any(feature = "mqtt", feature = "signing"))]
    pub(crate) fn remove_header(&mut self, name: &str) {
        self.headers.retain(|(known, _)| known != name);
    }

    /// Sets a received header. Setting one compares all names, so a message may have at most 1,000.
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
    /// [`MessageError::Serialize`] if the body is not a JSON object, or the value cannot be serialised.
    pub fn set_field<T: Serialize + ?Sized>(&mut self, name: &str, value: &T) -> Result<(), MessageError> {
        let value = serde_json::value::to_raw_value(value).map_err(MessageError::Serialize)?;
        let mut fields: IndexMap<Cow<'_, str>, &RawValue> =
            serde_json::from_slice(&self.body).map_err(MessageError::Serialize)?;
        fields.insert(Cow::Borrowed(name), &value);
        self.body = serde_json::to_vec(&fields).map_err(MessageError::Serialize)?.into();
        Ok(())
    }

    /// Returns the id. It is unique and stays the same when the message is sent again.
    #[must_use]
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// Returns the topic.
    #[must_use]
    pub fn topic(&self) -> &Topic {
        &self.topic
    }

    /// Returns the headers, in the order they were first set.
    pub fn headers(&self) -> impl ExactSizeIterator<Item = (&str, &Scalar)> {
        self.headers.iter().map(|(name, value)| (name.as_ref(), value))
    }

    /// Returns the header of this name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&Scalar> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    /// Returns the body.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// Returns the media type of the body.
    #[must_use]
    pub fn content_type(&self) -> &str {
        &self.content_type
    }

    /// Returns the time of the event.
    #[must_use]
    pub fn time(&self) -> SystemTime {
        self.time
    }

    /// Returns the ordering key.
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// Returns the priority.
    #[must_use]
    pub fn priority(&self) -> Option<u8> {
        self.priority
    }

    /// Returns how long the message is worth delivering, from its [`time`](Self::time).
    #[must_use]
    pub fn expiry(&self) -> Option<Duration> {
        self.expiry
    }

    /// Returns how long the message is delayed before it is delivered.
    #[must_use]
    pub fn delay(&self) -> Option<Duration> {
        self.delay
    }

    /// Returns about how many bytes of memory the message takes. Limits of bytes count these.
    #[must_use]
    pub fn size(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + value.size()).sum();
        self.topic.as_str().len() + headers + self.body.len() + self.key.as_ref().map_or(0, String::len)
    }
}

/// Shows the length of the body instead of the body, which must not get into logs.
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
