//! The subscription of a source: a stream, and a durable consumer of it.

use std::time::Duration;

use serde::Deserialize;

use super::names::{fault_of_name, fault_of_subject};
use super::settings::NatsSettings;
use crate::backends::brokers::BrokersError;
#[cfg(feature = "settings")]
use crate::message::topic::Topic;

/// The subjects at which clients await replies.
const INBOXES: &str = "_INBOX.>";
/// How long the confirmations of an instance that is gone stay.
#[cfg(feature = "settings")]
const UNUSED: Duration = Duration::from_secs(24 * 60 * 60);

/// A stream of JetStream, and the durable consumer whose messages are received.
///
/// In a settings file these are keys in any case.
///
/// ```
/// use tower_outbox::nats::{NatsSettings, NatsSource, NatsSubscription};
///
/// let settings = NatsSettings::new(["nats://localhost:4222"]);
/// let subscription = NatsSubscription::new("orders", "invoices").with_subject("order.>");
/// let source = NatsSource::new(&settings, &subscription)?;
/// # Ok::<(), tower_outbox::nats::BrokersError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct NatsSubscription {
    /// The kind of messages to receive; [`SubscriptionPattern::Streams`] by default.
    #[serde(deserialize_with = "crate::util::units::word")]
    pub pattern: SubscriptionPattern,
    /// The queue group of requests, whose members share them; named as the subjects by default. Each group gets every request, and the
    /// first reply wins.
    pub group: Option<String>,
    /// The subjects to which replies may go, `_INBOX.>` by default. A server vouches for no reply address: whoever may publish names one,
    /// and the reply is published with the rights of this client.
    #[serde(deserialize_with = "crate::backends::brokers::one_or_many")]
    pub reply_subjects: Vec<String>,
    /// The stream. If it is missing and `subjects` are set, it is created with them, in files.
    pub stream: String,
    /// The name of the durable consumer; all processes with this name share the messages. It is created if it is missing; an
    /// existing one is used unchanged.
    pub durable: String,
    /// The subjects to receive, `order.created`, `order.*` (one part) or `order.>` (any number); `TOPIC_PREFIX` of the settings
    /// precedes each. None by default: all of the stream.
    #[serde(deserialize_with = "crate::backends::brokers::one_or_many")]
    pub subjects: Vec<String>,
    /// Whether a consumer that is created begins with the messages that come after it; by default with the oldest ones.
    pub only_new: bool,
    /// How many messages may be unsettled here; 64 by default, or `max_ack_pending` if it is less, and 10,000 of requests. Further requests are refused: their callers get 503.
    pub prefetch: Option<u16>,
    /// How many bytes of messages may be unsettled here, 64 MiB by default; a larger message arrives alone.
    #[serde(deserialize_with = "crate::util::units::size")]
    pub prefetch_bytes: usize,
    /// How long after the last sign of life of this process the server delivers an unsettled message again, of a consumer that is
    /// created; 30 s by default, 1 s at least.
    #[serde(deserialize_with = "crate::util::units::duration")]
    pub ack_wait: Duration,
    /// How many messages of the consumer may be unsettled or wait for a retry, in all processes, of a consumer that is created;
    /// 10,000 by default. Beyond it the server delivers no others: with 1 messages are handled in their order, over retries too.
    pub max_ack_pending: u32,
    /// The subject of dead letters; `dead.<stream>.<durable>` by default. If no stream takes it, the stream
    /// `<stream>-<durable>-dead` is created for it.
    pub dead_letter_subject: Option<String>,
    /// The replicas of streams that are created; 1 by default.
    pub replicas: u8,
    /// Messages of a stream that is created are removed after so long; never by default.
    #[serde(skip)]
    pub(super) max_age: Option<Duration>,
}

/// The kind of messages of a source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum SubscriptionPattern {
    /// `streams`: the messages of a durable consumer of a stream.
    #[default]
    Streams,
    /// `requests`: what is published while it is subscribed, in a queue group. No stream stores it, and a reply goes to its reply address.
    Requests,
}

impl NatsSubscription {
    /// The requests at these subjects, and defaults for the rest.
    pub fn requests<S: Into<String>>(subjects: impl IntoIterator<Item = S>) -> Self {
        let subjects = subjects.into_iter().map(Into::into).collect();
        Self { pattern: SubscriptionPattern::Requests, subjects, ..Self::default() }
    }

    /// Sets the queue group of requests.
    #[must_use]
    pub fn with_group(self, group: impl Into<String>) -> Self {
        Self { group: Some(group.into()), ..self }
    }

    /// Sets the subjects to which replies may go.
    #[must_use]
    pub fn with_reply_subjects<S: Into<String>>(self, subjects: impl IntoIterator<Item = S>) -> Self {
        Self { reply_subjects: subjects.into_iter().map(Into::into).collect(), ..self }
    }

    /// A durable consumer of this stream, and defaults for the rest.
    pub fn new(stream: impl Into<String>, durable: impl Into<String>) -> Self {
        Self { stream: stream.into(), durable: durable.into(), ..Self::default() }
    }

    /// Adds a subject to receive.
    #[must_use]
    pub fn with_subject(mut self, subject: impl Into<String>) -> Self {
        self.subjects.push(subject.into());
        self
    }

    /// Sets whether a consumer that is created begins with the messages that come after it.
    #[must_use]
    pub fn with_only_new(self, only_new: bool) -> Self {
        Self { only_new, ..self }
    }

    /// Sets how many messages may be unsettled here.
    #[must_use]
    pub fn with_prefetch(self, prefetch: u16) -> Self {
        Self { prefetch: Some(prefetch), ..self }
    }

    /// Sets how many bytes of messages may be unsettled here.
    #[must_use]
    pub fn with_prefetch_bytes(self, prefetch_bytes: usize) -> Self {
        Self { prefetch_bytes, ..self }
    }

    /// Sets when the server delivers an unsettled message again.
    #[must_use]
    pub fn with_ack_wait(self, ack_wait: Duration) -> Self {
        Self { ack_wait, ..self }
    }

    /// Sets how many messages of the consumer may be unsettled or wait for a retry, in all processes.
    #[must_use]
    pub fn with_max_ack_pending(self, max_ack_pending: u32) -> Self {
        Self { max_ack_pending, ..self }
    }

    /// Sets the subject of dead letters.
    #[must_use]
    pub fn with_dead_letter_subject(self, subject: impl Into<String>) -> Self {
        Self { dead_letter_subject: Some(subject.into()), ..self }
    }

    /// Sets the replicas of streams that are created.
    #[must_use]
    pub fn with_replicas(self, replicas: u8) -> Self {
        Self { replicas, ..self }
    }

    /// The confirmations that come to an address, in a stream of their own.
    #[cfg(feature = "settings")]
    pub(crate) fn of_confirmations(_: &NatsSettings, address: &Topic) -> Self {
        let stream = address.as_str().replace('.', "-");
        let all = Self::new(stream, "confirmations").with_subject(address.as_str());
        Self { max_age: Some(UNUSED), ..all.with_prefetch(1_000) }
    }

    /// The subjects as they are sent.
    pub(super) fn filters(&self, settings: &NatsSettings) -> Vec<String> {
        self.subjects.iter().map(|filter| settings.prefixed_filter(filter)).collect()
    }

    pub(super) fn prefetch(&self) -> u16 {
        self.prefetch.unwrap_or_else(|| match self.pattern {
            SubscriptionPattern::Streams => u16::try_from(self.max_ack_pending).unwrap_or(64).min(64),
            SubscriptionPattern::Requests => 10_000,
        })
    }

    pub(super) fn group(&self) -> String {
        self.group.clone().unwrap_or_else(|| self.subjects.join(","))
    }

    pub(super) fn dead_letters(&self) -> String {
        let of_consumer = || format!("dead.{}.{}", self.stream, self.durable);
        self.dead_letter_subject.clone().unwrap_or_else(of_consumer)
    }

    pub(super) fn check(&self, settings: &NatsSettings) -> Result<(), BrokersError> {
        let fault = |key, problem: &str| Err(BrokersError::setting(key, problem));
        let is_stream = self.pattern == SubscriptionPattern::Streams;
        for (key, name) in [("STREAM", &self.stream), ("DURABLE", &self.durable)] {
            if let Some(problem) = fault_of_name(name).filter(|_| is_stream) {
                return fault(key, &problem);
            }
            if !is_stream && !name.is_empty() {
                return fault(key, "is for PATTERN = \"streams\": leave it out");
            }
        }
        if is_stream && (self.group.is_some() || *self.reply_subjects != [INBOXES]) {
            return fault("GROUP", "or REPLY_SUBJECTS is for PATTERN = \"requests\": leave it out");
        }
        if !is_stream && self.subjects.is_empty() {
            return fault("SUBJECTS", "are missing: requests need at least one");
        }
        let group = self.group();
        if group.len() > 255 || group.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return fault("GROUP", "must have at most 255 bytes, and no blank");
        }
        for filter in self.filters(settings) {
            if let Some(problem) = fault_of_subject(&filter, true) {
                return fault("SUBJECTS", &problem);
            }
        }
        if let Some(problem) = fault_of_subject(&self.dead_letters(), false).filter(|_| is_stream) {
            return fault("DEAD_LETTER_SUBJECT", &problem);
        }
        if is_stream && (self.max_ack_pending == 0 || self.max_ack_pending < u32::from(self.prefetch())) {
            return fault("MAX_ACK_PENDING", "is 0, or below PREFETCH: raise it");
        }
        if self.prefetch() == 0 || self.prefetch_bytes == 0 {
            return fault("PREFETCH", "or PREFETCH_BYTES is 0: nothing could be received; leave it out");
        }
        if self.ack_wait < Duration::from_secs(1) {
            return fault("ACK_WAIT", "is below 1 s, which leaves no time to handle a message");
        }
        if !(1..=5).contains(&self.replicas) {
            return fault("REPLICAS", "must be 1 to 5");
        }
        Ok(())
    }
}

impl Default for NatsSubscription {
    fn default() -> Self {
        Self {
            pattern: SubscriptionPattern::default(),
            group: None,
            reply_subjects: vec![INBOXES.to_owned()],
            stream: String::new(),
            durable: String::new(),
            subjects: Vec::new(),
            only_new: false,
            prefetch: None,
            prefetch_bytes: 64 << 20,
            ack_wait: Duration::from_secs(30),
            max_ack_pending: 10_000,
            dead_letter_subject: None,
            replicas: 1,
            max_age: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_key_of_a_consumer_is_named() {
        let settings = NatsSettings::new(["nats://h"]);
        let good = NatsSubscription::new("orders", "invoices").with_subject("order.>");
        good.check(&settings).unwrap();
        assert_eq!(good.dead_letters(), "dead.orders.invoices");
        let one = good.clone().with_max_ack_pending(1);
        one.check(&settings).unwrap();
        assert_eq!((good.prefetch(), one.prefetch()), (64, 1));
        for (bad, key) in [
            (NatsSubscription::new("", "invoices"), "STREAM"),
            (NatsSubscription::new("orders", "in.voices"), "DURABLE"),
            (good.clone().with_subject("a..b"), "SUBJECTS"),
            (good.clone().with_dead_letter_subject("a.*"), "DEAD_LETTER_SUBJECT"),
            (good.clone().with_prefetch(0), "PREFETCH"),
            (good.clone().with_ack_wait(Duration::ZERO), "ACK_WAIT"),
            (good.clone().with_max_ack_pending(1).with_prefetch(2), "MAX_ACK_PENDING"),
            (good.clone().with_max_ack_pending(0), "MAX_ACK_PENDING"),
            (good.clone().with_replicas(0), "REPLICAS"),
            (good.clone().with_group("g"), "GROUP"),
            (NatsSubscription::requests(["a"]).with_group("a b"), "GROUP"),
            (NatsSubscription::requests::<&str>([]), "SUBJECTS"),
            (NatsSubscription { durable: "d".into(), ..NatsSubscription::requests(["a"]) }, "DURABLE"),
        ] {
            assert!(bad.check(&settings).unwrap_err().to_string().contains(key), "{key}");
        }
    }
}
