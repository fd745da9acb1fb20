//! Messages of channels as messages of NATS.
//!
//! The body is the payload. Two headers have the rest as JSON in ASCII: `tower-outbox-content` the other fields of the content, and
//! `tower-outbox-policy` how a queue delivers the message. A message of another program, without them, has a body only.

use std::fmt::Write;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_nats::{HeaderMap, HeaderValue};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::channels::content::Content;
use crate::channels::error::EngineError;
use crate::channels::name::ChannelName;
use crate::channels::queue_types::Policy;

pub(super) const CONTENT: &str = "tower-outbox-content";
pub(super) const POLICY: &str = "tower-outbox-policy";
pub(super) const REQUEST: &str = "tower-outbox-request";
pub(super) const REPLY: &str = "tower-outbox-reply";

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Fields<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    id: std::borrow::Cow<'a, str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    client: std::borrow::Cow<'a, str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    metadata: std::borrow::Cow<'a, str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    tags: std::borrow::Cow<'a, [(String, String)]>,
}

/// How a queue delivers a message. Times are nanoseconds since 1970, and 0 is none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct QueuePolicy {
    /// When it was sent, rejected or moved.
    pub(super) time: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) expires: u64,
    /// When it becomes visible, of a message that waits.
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) due: u64,
    /// How often it was received before.
    #[serde(skip_serializing_if = "is_none")]
    pub(super) receives: u32,
    #[serde(skip_serializing_if = "is_zero")]
    expiry: u64,
    #[serde(skip_serializing_if = "is_none")]
    pub(super) max_receives: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    dead_letter: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rerouted_from: Option<String>,
}

fn is_zero(value: &u64) -> bool {
    *value == 0
}

fn is_none(value: &u32) -> bool {
    *value == 0
}

impl QueuePolicy {
    /// A message that is sent now.
    pub(super) fn new(policy: &Policy) -> Self {
        let time = now();
        let due = if policy.delay.is_zero() { 0 } else { time.saturating_add(nanos(policy.delay)) };
        let mut new = Self {
            time,
            due,
            expiry: nanos(policy.expiry),
            max_receives: policy.max_receives,
            dead_letter: policy.dead_letter.as_ref().map(ToString::to_string),
            ..Self::default()
        };
        new.expire_after(due.max(time));
        new
    }

    fn expire_after(&mut self, time: u64) {
        self.expires = if self.expiry == 0 { 0 } else { time.saturating_add(self.expiry) };
    }

    /// The message was received and not acknowledged.
    pub(super) fn rejected(mut self, delay: Duration) -> Self {
        self.time = now();
        self.due = if delay.is_zero() { 0 } else { self.time.saturating_add(nanos(delay)) };
        self.receives = self.receives.saturating_add(1);
        self
    }

    /// The message begins anew, in another queue.
    pub(super) fn requeued(mut self) -> Self {
        (self.time, self.due, self.receives, self.rerouted_from) = (now(), 0, 0, None);
        self.expire_after(self.time);
        self
    }

    /// The message goes to a dead-letter queue.
    pub(super) fn dead(from: &ChannelName) -> Self {
        Self { time: now(), rerouted_from: Some(from.to_string()), ..Self::default() }
    }

    /// The message became visible.
    pub(super) fn visible(mut self) -> Self {
        (self.time, self.due) = (now(), 0);
        self
    }

    pub(super) fn with_rerouted_from(mut self, from: Option<&ChannelName>, receives: u32) -> Self {
        self.rerouted_from = from.map(ToString::to_string);
        self.receives = receives;
        self
    }

    pub(super) fn is_worn_out(&self) -> bool {
        self.max_receives > 0 && self.receives.saturating_add(1) >= self.max_receives
    }

    pub(super) fn has_expired(&self) -> bool {
        self.expires > 0 && self.expires <= now()
    }

    pub(super) fn dead_letter(&self) -> Option<ChannelName> {
        self.dead_letter.as_ref().and_then(|name| ChannelName::new(name).ok())
    }

    pub(super) fn rerouted_from(&self) -> Option<ChannelName> {
        self.rerouted_from.as_ref().and_then(|name| ChannelName::new(name).ok())
    }

    pub(super) fn policy(&self) -> Policy {
        Policy {
            expiry: Duration::from_nanos(self.expiry),
            delay: Duration::ZERO,
            max_receives: self.max_receives,
            dead_letter: self.dead_letter(),
        }
    }

    /// The value of `Nats-TTL`: a minute after the expiry, so that the engine can count what expired first.
    pub(super) fn ttl(&self) -> Option<String> {
        let left = self.expires.checked_sub(self.time.max(self.due))?;
        (self.expires > 0).then(|| format!("{}s", Duration::from_nanos(left).as_secs().saturating_add(61)))
    }
}

pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, nanos)
}

/// The first sequence of a stream that is created now, in microseconds since 1970. No stream of the same name before had it, so that what
/// an engine holds of one that was deleted is never taken for a message of the next.
pub(super) fn first_sequence() -> u64 {
    now() / 1_000
}

pub(super) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

pub(super) fn time(nanos: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(nanos)
}

pub(super) fn optional(nanos: u64) -> Option<SystemTime> {
    (nanos > 0).then(|| time(nanos))
}

/// Inserts a value as JSON in ASCII.
pub(super) fn insert(
    headers: &mut HeaderMap,
    name: &'static str,
    value: &impl Serialize,
) -> Result<(), EngineError> {
    let invalid = |error: &dyn std::fmt::Display| {
        EngineError::Invalid(format!("the message cannot be written: {error}"))
    };
    let json = serde_json::to_string(value).map_err(|error| invalid(&error))?;
    let mut ascii = String::with_capacity(json.len());
    for c in json.chars() {
        if c.is_ascii() && c != '\u{7f}' {
            ascii.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                _ = write!(ascii, "\\u{unit:04x}");
            }
        }
    }
    let value = HeaderValue::from_str(&ascii).map_err(|error| invalid(&error))?;
    headers.insert(name, value);
    Ok(())
}

/// Reads a header that [`insert`] wrote; a missing one is the default.
pub(super) fn read<T: DeserializeOwned + Default>(headers: Option<&HeaderMap>, name: &'static str) -> T {
    let Some(value) = headers.and_then(|headers| headers.get(name)) else { return T::default() };
    serde_json::from_str(value.as_str()).unwrap_or_else(|error| {
        tracing::warn!(header = name, %error, "a message on NATS has a header that cannot be read; it is delivered without");
        T::default()
    })
}

/// Writes the fields of a content but its body.
pub(super) fn write_content(headers: &mut HeaderMap, content: &Content) -> Result<(), EngineError> {
    let fields = Fields {
        id: content.id.as_str().into(),
        client: content.client.as_str().into(),
        metadata: content.metadata.as_str().into(),
        tags: content.tags.as_slice().into(),
    };
    insert(headers, CONTENT, &fields)
}

pub(super) fn read_content(headers: Option<&HeaderMap>, body: Bytes) -> Content {
    let fields: Fields<'static> = read(headers, CONTENT);
    Content {
        id: fields.id.into_owned(),
        client: fields.client.into_owned(),
        metadata: fields.metadata.into_owned(),
        body,
        tags: fields.tags.into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_texts_cross_the_headers() {
        let content = Content {
            id: " a\r\n\0\u{7f}".to_owned(),
            client: "größe ☃ 𝄞".to_owned(),
            metadata: "\"\\".to_owned(),
            body: Bytes::from_static(&[0, 255]),
            tags: vec![("b".to_owned(), "\u{1f}".to_owned()), ("a".to_owned(), String::new())],
        };
        let mut headers = HeaderMap::new();
        write_content(&mut headers, &content).unwrap();
        assert!(headers.get(CONTENT).unwrap().as_str().bytes().all(|byte| (32..127).contains(&byte)));
        assert_eq!(read_content(Some(&headers), content.body.clone()), content);
        assert_eq!(read_content(None, content.body.clone()).id, "");
        headers.insert(CONTENT, "{");
        assert_eq!(read_content(Some(&headers), content.body).id, "");
    }

    #[test]
    fn an_expiry_counts_from_when_the_message_is_visible() {
        let (expiry, delay) = (Duration::from_secs(5), Duration::from_secs(100));
        let policy = QueuePolicy::new(&Policy { expiry, delay, ..Policy::default() });
        assert_eq!(policy.expires - policy.time, nanos(expiry + delay));
        assert_eq!(policy.ttl().as_deref(), Some("66s"));
        assert_eq!(QueuePolicy::new(&Policy::default()).ttl(), None);
    }
}
