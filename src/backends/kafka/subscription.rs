//! The subscription of a source: topics, and the consumer group that reads them.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Deserialize;

use super::names::{MOST_OF_NAME, fault_of_topic};
use super::settings::KafkaSettings;
use crate::backends::brokers::BrokersError;
#[cfg(feature = "settings")]
use crate::message::topic::Topic;

/// The place of the topic in the name of its dead letters and retries.
const TOPIC: &str = "{topic}";

/// Topics, and the consumer group whose members share their partitions.
///
/// In a settings file these are keys in any case.
///
/// ```
/// use tower_outbox::kafka::{KafkaSettings, KafkaSource, KafkaSubscription};
///
/// let settings = KafkaSettings::new(["kafka://localhost:9092"]);
/// let subscription = KafkaSubscription::new("invoices", ["order.created", "order.paid"]);
/// let source = KafkaSource::new(&settings, &subscription)?;
/// # Ok::<(), tower_outbox::kafka::BrokersError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct KafkaSubscription {
    /// The consumer group. All processes with its name share the partitions, and the group remembers how far each is read.
    pub group: String,
    /// The topics; `TOPIC_PREFIX` of the settings precedes each.
    #[serde(deserialize_with = "crate::backends::brokers::one_or_many")]
    pub topics: Vec<String>,
    /// Whether a group without an offset begins with the messages that come after it; by default with the oldest ones.
    pub only_new: bool,
    /// Whether a message of a partition is given only when the one before it is settled, so that a retry delays those after it; false
    /// by default.
    pub ordered: bool,
    /// How many messages may be unsettled here, without those that wait for a retry; 6,000 by default.
    pub prefetch: u16,
    /// How many bytes of messages may be unsettled here, 64 MiB by default; a larger message arrives alone. As many may wait for a
    /// retry, and the client fetches as many ahead.
    #[serde(deserialize_with = "crate::util::units::size")]
    pub prefetch_bytes: usize,
    /// The topic of retries, such as `"{topic}.retry"`, in which `{topic}` is the topic of the message. None by default: a retry waits
    /// in this process.
    pub retry_topic: Option<String>,
    /// The topic of dead letters, `"{topic}.dead"` by default, in which `{topic}` is the topic of the message.
    pub dead_letter_topic: String,
    /// How many offsets a partition may be read beyond its first unsettled message; 10,000 by default. A process that takes over
    /// receives all of these again.
    pub max_uncommitted: u32,
    /// How long after a settlement the offset is committed, with those of others; 200 ms by default.
    #[serde(deserialize_with = "crate::util::units::duration")]
    pub commit_interval: Duration,
    /// When the brokers give the partitions of a process that is gone to others; 30 s by default, and 6 s at least, as theirs.
    #[serde(deserialize_with = "crate::util::units::duration")]
    pub session_timeout: Duration,
}

impl KafkaSubscription {
    /// A group that reads these topics, and defaults for the rest.
    pub fn new<T: Into<String>>(group: impl Into<String>, topics: impl IntoIterator<Item = T>) -> Self {
        let topics = topics.into_iter().map(Into::into).collect();
        Self { group: group.into(), topics, ..Self::default() }
    }

    /// Sets whether a group without an offset begins with the messages that come after it.
    #[must_use]
    pub fn with_only_new(self, only_new: bool) -> Self {
        Self { only_new, ..self }
    }

    /// Sets whether a retry delays the later messages of its partition.
    #[must_use]
    pub fn with_ordered(self, ordered: bool) -> Self {
        Self { ordered, ..self }
    }

    /// Sets how many messages may be unsettled here.
    #[must_use]
    pub fn with_prefetch(self, prefetch: u16) -> Self {
        Self { prefetch, ..self }
    }

    /// Sets how many bytes of messages may be unsettled here.
    #[must_use]
    pub fn with_prefetch_bytes(self, prefetch_bytes: usize) -> Self {
        Self { prefetch_bytes, ..self }
    }

    /// Sets the topic of retries.
    #[must_use]
    pub fn with_retry_topic(self, topic: impl Into<String>) -> Self {
        Self { retry_topic: Some(topic.into()), ..self }
    }

    /// Sets the topic of dead letters.
    #[must_use]
    pub fn with_dead_letter_topic(self, topic: impl Into<String>) -> Self {
        Self { dead_letter_topic: topic.into(), ..self }
    }

    /// Sets how many offsets a partition may be read beyond its first unsettled message.
    #[must_use]
    pub fn with_max_uncommitted(self, max_uncommitted: u32) -> Self {
        Self { max_uncommitted, ..self }
    }

    /// Sets when the brokers give the partitions of a process that is gone to others.
    #[must_use]
    pub fn with_session_timeout(self, session_timeout: Duration) -> Self {
        Self { session_timeout, ..self }
    }

    /// The confirmations that come to an address.
    #[cfg(feature = "settings")]
    pub(crate) fn of_confirmations(_: &KafkaSettings, address: &Topic) -> Self {
        Self::new(address.as_str(), [address.as_str()])
    }

    /// The topics as they are named at Kafka.
    pub(super) fn names(&self, settings: &KafkaSettings) -> Vec<String> {
        self.topics.iter().map(|topic| settings.prefixed_name(topic)).collect()
    }

    /// The topics of retries.
    pub(super) fn retry_names(&self, settings: &KafkaSettings) -> Vec<String> {
        let names: BTreeSet<_> = self.names(settings).iter().filter_map(|name| self.retry_of(name)).collect();
        names.into_iter().collect()
    }

    /// The topic for retries of messages of a topic.
    pub(super) fn retry_of(&self, name: &str) -> Option<String> {
        self.retry_topic.as_ref().map(|topic| topic.replace(TOPIC, name))
    }

    /// The topic for dead letters of a topic.
    pub(super) fn dead_letters_of(&self, name: &str) -> String {
        self.dead_letter_topic.replace(TOPIC, name)
    }

    pub(super) fn check(&self, settings: &KafkaSettings) -> Result<(), BrokersError> {
        let fault = |key, problem: &str| Err(BrokersError::setting(key, problem));
        if self.group.is_empty() || self.group.len() > MOST_OF_NAME || self.group.contains(char::is_control) {
            return fault(
                "GROUP",
                "must have 1 to 249 bytes, and no control character: name the consumer group",
            );
        }
        if self.topics.is_empty() {
            return fault("TOPICS", "are missing: name at least one");
        }
        let names = self.names(settings);
        for name in &names {
            if let Some(problem) = fault_of_topic(name) {
                return fault("TOPICS", &format!("{name:?} {problem}"));
            }
            for (key, other) in [
                ("RETRY_TOPIC", self.retry_of(name)),
                ("DEAD_LETTER_TOPIC", Some(self.dead_letters_of(name))),
            ] {
                let Some(other) = other else { continue };
                if let Some(problem) = fault_of_topic(&other) {
                    return fault(key, &format!("{other:?} {problem}"));
                }
                if names.contains(&other) {
                    return fault(key, &format!("{other:?} is one of TOPICS: its messages would come back"));
                }
                if key == "DEAD_LETTER_TOPIC" && self.retry_names(settings).contains(&other) {
                    return fault(key, "is RETRY_TOPIC too: dead letters would come back");
                }
            }
        }
        if self.prefetch == 0 || self.prefetch_bytes == 0 {
            return fault("PREFETCH", "or PREFETCH_BYTES is 0: nothing could be received; leave it out");
        }
        if self.max_uncommitted < u32::from(self.prefetch) {
            return fault("MAX_UNCOMMITTED", "is below PREFETCH: raise it");
        }
        if !(Duration::from_millis(1)..=Duration::from_secs(60)).contains(&self.commit_interval) {
            return fault("COMMIT_INTERVAL", "must be 1ms to 60s");
        }
        if !(Duration::from_secs(6)..=Duration::from_secs(1_800)).contains(&self.session_timeout) {
            return fault("SESSION_TIMEOUT", "must be 6s to 30m, which brokers take by default");
        }
        Ok(())
    }
}

impl Default for KafkaSubscription {
    fn default() -> Self {
        Self {
            group: String::new(),
            topics: Vec::new(),
            only_new: false,
            ordered: false,
            prefetch: 6_000,
            prefetch_bytes: 64 << 20,
            retry_topic: None,
            dead_letter_topic: format!("{TOPIC}.dead"),
            max_uncommitted: 10_000,
            commit_interval: Duration::from_millis(200),
            session_timeout: Duration::from_secs(30),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_key_of_a_consumer_is_named() {
        let settings = KafkaSettings::new(["kafka://h"]);
        let good = KafkaSubscription::new("invoices", ["order.created"]);
        good.check(&settings).unwrap();
        assert_eq!(good.dead_letters_of("order.created"), "order.created.dead");
        let retried = good.clone().with_retry_topic("{topic}.retry");
        retried.check(&settings).unwrap();
        assert_eq!(retried.retry_names(&settings), ["order.created.retry"]);
        for (bad, key) in [
            (KafkaSubscription::new("", ["a"]), "GROUP"),
            (KafkaSubscription::new::<&str>("g", []), "TOPICS"),
            (KafkaSubscription::new("g", ["a b"]), "TOPICS"),
            (KafkaSubscription::new("g", ["a", "x".repeat(249).as_str()]), "DEAD_LETTER_TOPIC"),
            (good.clone().with_retry_topic("{topic}"), "RETRY_TOPIC"),
            (good.clone().with_dead_letter_topic("order.created"), "DEAD_LETTER_TOPIC"),
            (retried.with_dead_letter_topic("{topic}.retry"), "DEAD_LETTER_TOPIC"),
            (good.clone().with_prefetch(0), "PREFETCH"),
            (good.clone().with_max_uncommitted(7), "MAX_UNCOMMITTED"),
            (KafkaSubscription { commit_interval: Duration::ZERO, ..good.clone() }, "COMMIT_INTERVAL"),
            (good.clone().with_session_timeout(Duration::from_secs(1)), "SESSION_TIMEOUT"),
        ] {
            assert!(bad.check(&settings).unwrap_err().to_string().contains(key), "{key}");
        }
    }
}
