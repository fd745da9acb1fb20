//! The subscription of a source.

use std::time::Duration;

use serde::Deserialize;
use uuid::Uuid;

use super::names::{LONGEST, fault_of, fault_of_filter, fault_of_name};
use super::settings::{MqttSettings, MqttVersion};
use crate::backends::brokers::BrokersError;
#[cfg(feature = "settings")]
use crate::message::topic::Topic;
use crate::util::host_name::host_name;

/// The topics to receive, and the session at the broker that keeps their messages.
///
/// In a settings file these are keys in any case.
///
/// ```
/// use tower_outbox::mqtt::{MqttSettings, MqttSource, MqttSubscription};
///
/// let settings = MqttSettings::new(["mqtt://localhost:1883"]);
/// let subscription = MqttSubscription::new("order/#")
///     .with_group("invoices")
///     .with_dead_letter_topic("invoices/dead");
/// let source = MqttSource::new(&settings, &subscription)?;
/// # Ok::<(), tower_outbox::mqtt::BrokersError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct MqttSubscription {
    /// The topic filters, `order/created`, `order/+` (one level) or `order/#` (any number); `TOPIC_PREFIX` of the settings
    /// precedes each.
    #[serde(deserialize_with = "crate::backends::brokers::one_or_many")]
    pub topics: Vec<String>,
    /// The name of a shared subscription (`$share/<group>/..`): each message goes to one of the processes of the group. None by
    /// default: each process gets every message.
    pub group: Option<String>,
    /// The client id, under which the broker keeps the session: one process at a time may use it. By default it is made of
    /// `CLIENT_ID` of the settings, the name of the host, and the topics: set one for each of several processes on a host.
    pub client_id: Option<String>,
    /// How long the broker keeps the session, with the messages in it, while no process is connected; a day by default. With 0
    /// messages that are not acknowledged are lost with the connection.
    #[serde(deserialize_with = "crate::util::units::duration")]
    pub session_expiry: Duration,
    /// Whether the session begins anew, without the messages that the broker kept, when the source first connects; no by default.
    pub clean_start: bool,
    /// The highest quality of service of received messages, 0 or 1; 1 by default. With 0 the broker sends each message once, and
    /// forgets it.
    pub qos: u8,
    /// How many messages may be unsettled, 64 by default. Waiting retries do not count; there may be 1,000 more of them.
    pub prefetch: u16,
    /// How many bytes of messages may be unsettled in memory, waiting retries included; 64 MiB by default. It is also the largest
    /// packet that the broker may send: MQTT brokers silently drop a larger message for this client.
    #[serde(deserialize_with = "crate::util::units::size")]
    pub prefetch_bytes: usize,
    /// The topic filters of response topics to which the response of a handler is published as the reply, with the rights of this client;
    /// none by default. Whoever may publish to the topics can name a response topic, so allow only those for replies. `TOPIC_PREFIX` does not
    /// precede them.
    #[serde(deserialize_with = "crate::backends::brokers::one_or_many")]
    pub reply_topics: Vec<String>,
    /// The name of the MQTT topic that dead letters are published to, to which somebody must subscribe. None by default: dead
    /// letters are logged, and lost.
    pub dead_letter_topic: Option<String>,
}

impl MqttSubscription {
    /// Everything under this topic filter, and defaults for the rest.
    pub fn new(filter: impl Into<String>) -> Self {
        Self { topics: vec![filter.into()], ..Self::default() }
    }

    /// Adds a topic filter.
    #[must_use]
    pub fn with_topic(mut self, filter: impl Into<String>) -> Self {
        self.topics.push(filter.into());
        self
    }

    /// Shares the subscription with the other processes of this group.
    #[must_use]
    pub fn with_group(mut self, group: impl Into<String>) -> Self {
        self.group = Some(group.into());
        self
    }

    /// Sets the client id.
    #[must_use]
    pub fn with_client_id(mut self, client_id: impl Into<String>) -> Self {
        self.client_id = Some(client_id.into());
        self
    }

    /// Sets how long the broker keeps the session.
    #[must_use]
    pub fn with_session_expiry(mut self, session_expiry: Duration) -> Self {
        self.session_expiry = session_expiry;
        self
    }

    /// Sets how many messages may be unsettled.
    #[must_use]
    pub fn with_prefetch(mut self, prefetch: u16) -> Self {
        self.prefetch = prefetch;
        self
    }

    /// Sets how many bytes of messages may be unsettled in memory.
    #[must_use]
    pub fn with_prefetch_bytes(mut self, prefetch_bytes: usize) -> Self {
        self.prefetch_bytes = prefetch_bytes;
        self
    }

    /// Allows replies to response topics that match this topic filter.
    #[must_use]
    pub fn with_reply_topic(mut self, filter: impl Into<String>) -> Self {
        self.reply_topics.push(filter.into());
        self
    }

    /// Sets the MQTT topic for dead letters.
    #[must_use]
    pub fn with_dead_letter_topic(mut self, topic: impl Into<String>) -> Self {
        self.dead_letter_topic = Some(topic.into());
        self
    }

    /// Subscribes to the confirmations that come to an address. The address is that of one instance, so its session is, too: after a
    /// restart the process gets what came meanwhile, and the broker keeps no session of a process that is gone for long.
    #[cfg(feature = "settings")]
    pub(crate) fn of_confirmations(settings: &MqttSettings, address: &Topic) -> Self {
        Self::new(address.as_str().replace('.', &settings.separator))
            .with_session_expiry(Duration::from_secs(60))
    }

    /// The topic filters as they are sent.
    pub(super) fn filters(&self, settings: &MqttSettings) -> Vec<String> {
        let filters = self.topics.iter().map(|filter| settings.prefixed_filter(filter));
        match &self.group {
            Some(group) => filters.map(|filter| format!("$share/{group}/{filter}")).collect(),
            None => filters.collect(),
        }
    }

    /// The client id, or its default, which is the same after a restart.
    pub(super) fn client_id(&self, settings: &MqttSettings) -> String {
        self.client_id.clone().unwrap_or_else(|| {
            let subscription =
                format!("{}\0{}", host_name().unwrap_or_default(), self.filters(settings).join("\0"));
            let hash = Uuid::new_v5(&Uuid::NAMESPACE_OID, subscription.as_bytes()).simple().to_string();
            format!("{}-{}", settings.client_id, &hash[..16])
        })
    }

    pub(super) fn check(&self, settings: &MqttSettings) -> Result<(), BrokersError> {
        let fault = |key, problem: &str| Err(BrokersError::setting(key, problem));
        if settings.version == MqttVersion::V3 {
            if self.group.is_some() {
                return fault("GROUP", "needs MQTT 5: leave it out, or use AMQP for several processes");
            }
            if self.clean_start {
                return fault(
                    "CLEAN_START",
                    "needs MQTT 5: SESSION_EXPIRY = 0 makes a session that is never kept",
                );
            }
            if !self.reply_topics.is_empty() {
                return fault("REPLY_TOPICS", "needs MQTT 5: messages of MQTT 3.1.1 have no response topic");
            }
        }
        if self.topics.is_empty() {
            return fault("TOPICS", "is empty: nothing would be received; write \"order/#\"");
        }
        if let Some(problem) = self.topics.iter().find_map(|filter| fault_of_filter(filter)) {
            return fault("TOPICS", &problem);
        }
        if self.filters(settings).iter().any(|filter| filter.len() > LONGEST) {
            return fault("TOPICS", "has a filter that is longer than 65,535 bytes with TOPIC_PREFIX");
        }
        if let Some(group) = &self.group
            && let Some(problem) =
                fault_of_name(group).or_else(|| group.contains('/').then(|| "has a /".to_owned()))
        {
            return fault("GROUP", &problem);
        }
        if let Some(problem) = fault_of(self.client_id.as_deref().unwrap_or_default()) {
            return fault("CLIENT_ID", &problem);
        }
        if self.client_id.as_deref() == Some("") {
            return fault("CLIENT_ID", "is empty: leave it out, or write a name for this process");
        }
        if self.qos > 1 {
            return fault(
                "QOS",
                "of a consumer is 0 or 1: a message that is acknowledged when it is handled is never QoS 2",
            );
        }
        if self.prefetch == 0 {
            return fault("PREFETCH", "is 0: nothing could be received; write 1 or more");
        }
        if self.prefetch_bytes < 1_024 {
            return fault(
                "PREFETCH_BYTES",
                "is below 1 KiB: hardly anything could be received; write \"1MiB\"",
            );
        }
        if let Some(problem) = self.reply_topics.iter().find_map(|filter| fault_of_filter(filter)) {
            return fault("REPLY_TOPICS", &problem);
        }
        if let Some(topic) = &self.dead_letter_topic
            && let Some(problem) = fault_of_name(topic)
        {
            return fault("DEAD_LETTER_TOPIC", &problem);
        }
        Ok(())
    }
}

impl Default for MqttSubscription {
    fn default() -> Self {
        Self {
            topics: Vec::new(),
            group: None,
            client_id: None,
            session_expiry: Duration::from_secs(86_400),
            clean_start: false,
            qos: 1,
            prefetch: 64,
            prefetch_bytes: 64 << 20,
            reply_topics: Vec::new(),
            dead_letter_topic: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_key_is_named() {
        let settings = MqttSettings::new(["mqtt://h"]);
        let good = || MqttSubscription::new("order/#");
        good().with_group("g").with_dead_letter_topic("dead").check(&settings).unwrap();
        for (subscription, key) in [
            (MqttSubscription::default(), "TOPICS"),
            (good().with_topic(""), "TOPICS"),
            (good().with_topic("a#"), "TOPICS"),
            (good().with_topic("a\0"), "TOPICS"),
            (good().with_group(""), "GROUP"),
            (good().with_group("a/b"), "GROUP"),
            (good().with_client_id(""), "CLIENT_ID"),
            (good().with_client_id("a\0"), "CLIENT_ID"),
            (MqttSubscription { qos: 2, ..good() }, "QOS"),
            (good().with_prefetch(0), "PREFETCH"),
            (good().with_prefetch_bytes(0), "PREFETCH_BYTES"),
            (good().with_reply_topic("a#"), "REPLY_TOPICS"),
            (good().with_dead_letter_topic("dead/#"), "DEAD_LETTER_TOPIC"),
            (good().with_dead_letter_topic("dead\0"), "DEAD_LETTER_TOPIC"),
        ] {
            let error = subscription.check(&settings).unwrap_err().to_string();
            assert!(error.starts_with(key), "{error}");
        }
    }

    #[test]
    fn the_client_id_is_the_same_after_a_restart() {
        let settings = MqttSettings::new(["mqtt://h"]);
        let id = |subscription: MqttSubscription| subscription.client_id(&settings);
        assert_eq!(id(MqttSubscription::new("a")), id(MqttSubscription::new("a")));
        assert_ne!(id(MqttSubscription::new("a")), id(MqttSubscription::new("b")));
        assert_ne!(id(MqttSubscription::new("a")), id(MqttSubscription::new("a").with_group("g")));
        assert_eq!(id(MqttSubscription::new("a").with_client_id("me")), "me");
    }
}
