//! The subscription of a source.

use std::time::{Duration, SystemTime};

use serde::Deserialize;

use super::settings::{KubemqSettings, Pattern, is_channel};
use crate::backends::brokers::BrokersError;
#[cfg(feature = "settings")]
use crate::message::topic::Topic;
use crate::util::{rfc3339, units};

/// The largest number of unsettled messages of a queue.
const MOST_PREFETCHED: usize = 10_000;

/// The channel to receive from, and how.
///
/// ```
/// use tower_outbox::kubemq_client::{KubemqSettings, KubemqSource, KubemqSubscription};
///
/// let settings = KubemqSettings::new(["kubemq://localhost:50000"]);
/// let source = KubemqSource::new(&settings, &KubemqSubscription::new("orders"))?;
/// # Ok::<(), tower_outbox::kubemq_client::BrokersError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct KubemqSubscription {
    /// The channel. Events may be subscribed to with wildcards: `*` is one segment, `>` at the end is one or more.
    pub channel: String,
    /// The kind of the channel; by default that of the messenger.
    pub pattern: Option<Pattern>,
    /// How many messages may be fetched and not settled; 64 by default, 10,000 at most.
    pub prefetch: usize,
    /// How many bytes of messages may be fetched and not settled; 64 MiB by default. A larger message comes alone.
    #[serde(deserialize_with = "units::size")]
    pub prefetch_bytes: usize,
    /// Queues: how many messages are asked for at the same time; 1 by default. More is faster, and does not keep the order.
    pub fetches: usize,
    /// The queue for dead letters; by default the name of the channel and `.dead`. For events with wildcards it must be set.
    pub dead_letter_queue: Option<String>,
    /// The media type of messages that have none; `application/octet-stream` by default.
    pub content_type: Option<String>,
    /// Of the subscribers with one group each event or request goes to one; by default to each. Not for queues.
    pub group: Option<String>,
    /// Event store: the position of a subscriber that the broker does not know yet; [`Start::New`] by default.
    pub start: Start,
}

/// The first event for a subscriber that the broker does not know yet.
///
/// In a settings file: `"new"`, `"first"`, `"last"`, a sequence number, a time such as `"2026-01-31T12:00:00Z"`, or a span
/// of time before now such as `"1h"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Start {
    /// Events that come from now on.
    #[default]
    New,
    /// The first one that the broker has.
    First,
    /// The last one that the broker has.
    Last,
    /// The event with this sequence number, from 1.
    Sequence(u64),
    /// The first one since this time.
    Time(SystemTime),
    /// The first one of so long ago.
    Ago(Duration),
}

impl<'de> Deserialize<'de> for Start {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum NumberOrText {
            Number(u64),
            Text(String),
        }
        let text = match NumberOrText::deserialize(deserializer)? {
            NumberOrText::Number(sequence) => return Ok(Self::Sequence(sequence)),
            NumberOrText::Text(text) => text.trim().to_lowercase(),
        };
        let fault = || {
            serde::de::Error::custom(format!(
                "{text:?} is no start: write \"new\", \"first\", \"last\", a sequence number, a time or a span such as \"1h\""
            ))
        };
        match text.as_str() {
            "new" => Ok(Self::New),
            "first" => Ok(Self::First),
            "last" => Ok(Self::Last),
            digits if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                digits.parse().map(Self::Sequence).map_err(|_| fault())
            }
            other => match (humantime::parse_duration(other), rfc3339::read(other)) {
                (Ok(span), _) => Ok(Self::Ago(span)),
                (_, Ok(time)) => Ok(Self::Time(time)),
                _ => Err(fault()),
            },
        }
    }
}

impl KubemqSubscription {
    /// Everything in `channel`, and defaults for the rest.
    pub fn new(channel: impl Into<String>) -> Self {
        Self { channel: channel.into(), ..Self::default() }
    }

    /// Subscribes to the channel of the messages of a topic. With a CHANNEL of settings that all topics share it has no name.
    #[cfg(feature = "settings")]
    pub(crate) fn of_address(settings: &KubemqSettings, topic: &Topic) -> Self {
        let template = settings.channel.as_deref().unwrap_or("{topic}");
        let is_shared = !template.contains("{topic}");
        let channel = template.replace("{topic}", &settings.broker.prefixed(topic));
        Self::new(if is_shared { String::new() } else { channel })
    }

    /// Sets the kind of the channel.
    #[must_use]
    pub fn with_pattern(self, pattern: Pattern) -> Self {
        Self { pattern: Some(pattern), ..self }
    }

    /// Sets how many messages may be unsettled.
    #[must_use]
    pub fn with_prefetch(self, prefetch: usize) -> Self {
        Self { prefetch, ..self }
    }

    /// Sets how many bytes of messages may be unsettled.
    #[must_use]
    pub fn with_prefetch_bytes(self, prefetch_bytes: usize) -> Self {
        Self { prefetch_bytes, ..self }
    }

    /// Sets how many messages of a queue are asked for at the same time.
    #[must_use]
    pub fn with_fetches(self, fetches: usize) -> Self {
        Self { fetches, ..self }
    }

    /// Sets the queue for dead letters.
    #[must_use]
    pub fn with_dead_letter_queue(self, queue: impl Into<String>) -> Self {
        Self { dead_letter_queue: Some(queue.into()), ..self }
    }

    /// Sets the media type of messages that have none.
    #[must_use]
    pub fn with_content_type(self, content_type: impl Into<String>) -> Self {
        Self { content_type: Some(content_type.into()), ..self }
    }

    /// Sets the group of subscribers that share events.
    #[must_use]
    pub fn with_group(self, group: impl Into<String>) -> Self {
        Self { group: Some(group.into()), ..self }
    }

    /// Sets the first event for a new subscriber of an event store.
    #[must_use]
    pub fn with_start(self, start: Start) -> Self {
        Self { start, ..self }
    }

    /// Checks the subscription, and completes it from the settings.
    pub(super) fn filled(&self, settings: &KubemqSettings) -> Result<Self, BrokersError> {
        let fault = |key, problem: &str| Err(BrokersError::setting(key, problem));
        let mut filled = self.clone();
        let pattern = *filled.pattern.get_or_insert(settings.pattern);
        let is_queue = pattern == Pattern::Queues;
        let is_request = matches!(pattern, Pattern::Commands | Pattern::Queries);
        let is_pattern = (is_request || pattern == Pattern::Events) && self.channel.contains(['*', '>']);
        if is_pattern && !is_request && self.dead_letter_queue.is_none() {
            return fault("DEAD_LETTER_QUEUE", "is missing: CHANNEL has wildcards, so it gives it no name");
        }
        let exact = if is_pattern { self.channel.replace(['*', '>'], "x") } else { self.channel.clone() };
        if !is_channel(&exact) {
            let problem = "of the consumer must be a name without blanks, and without wildcards but for events and requests";
            return fault("CHANNEL", problem);
        }
        if !(1..=MOST_PREFETCHED).contains(&self.prefetch) {
            return fault("PREFETCH", "must be from 1 to 10000");
        }
        if self.prefetch_bytes == 0 {
            return fault("PREFETCH_BYTES", "is 0: nothing could be received; write \"1MiB\" or more");
        }
        if !(1..=64).contains(&self.fetches) {
            return fault("FETCHES", "must be from 1 to 64");
        }
        let dead = filled.dead_letter_queue.get_or_insert_with(|| format!("{}.dead", self.channel));
        if !is_channel(dead) && !is_request {
            return fault("DEAD_LETTER_QUEUE", "must be the name of a queue without blanks and wildcards");
        }
        if is_queue && *dead == self.channel {
            return fault("DEAD_LETTER_QUEUE", "is CHANNEL itself: dead letters would be received again");
        }
        if is_queue && self.group.is_some() {
            return fault(
                "GROUP",
                "is for events and requests: the consumers of a queue share its messages anyway",
            );
        }
        if self.group.as_ref().is_some_and(|group| group.trim().is_empty()) {
            return fault("GROUP", "is empty: write a name, or leave it out");
        }
        if pattern != Pattern::EventStore && self.start != Start::New {
            return fault("START", "is for PATTERN \"event_store\": nothing else keeps what was sent before");
        }
        if matches!(self.start, Start::Sequence(0) | Start::Ago(Duration::ZERO)) {
            return fault("START", "is 0: write \"first\" for the whole event store");
        }
        if pattern == Pattern::EventStore && settings.client_id.is_none() {
            let problem = "is missing: the broker remembers by it which events a subscriber has had";
            return fault("CLIENT_ID", problem);
        }
        Ok(filled)
    }
}

impl Default for KubemqSubscription {
    fn default() -> Self {
        Self {
            channel: String::new(),
            pattern: None,
            prefetch: 64,
            prefetch_bytes: 64 << 20,
            fetches: 1,
            dead_letter_queue: None,
            content_type: None,
            group: None,
            start: Start::default(),
        }
    }
}
