//! The settings of the MQTT backend.

use std::time::Duration;

use serde::Deserialize;

use super::names::{self, fault_of};
use crate::backends::brokers::{BrokerSettings, BrokerUrl, Brokers, BrokersError, Rules, Sasl};
use crate::envelope::Envelope;
use crate::message::topic::Topic;

/// The version of MQTT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub enum MqttVersion {
    /// `5`.
    #[default]
    #[serde(rename = "5")]
    V5,
    /// `3.1.1`, for RabbitMQ before 4, and others that do not speak MQTT 5.
    #[serde(rename = "3.1.1")]
    V3,
}

/// The brokers, and how messages are published.
///
/// In a settings file these are keys of `[MESSAGE_BUS]` in any case, beside those of [`BrokerSettings`].
///
/// ```
/// use tower_outbox::mqtt::{BrokerSettings, Mqtt, MqttSettings};
///
/// let settings = MqttSettings::new(["mqtt://localhost:1883"]);
/// let messenger = Mqtt::new(&settings)?;
///
/// let brokers = BrokerSettings::new(["mqtt://localhost:1883"]).with_topic_prefix("shop");
/// let messenger = Mqtt::new(&brokers.into())?;
/// # Ok::<(), tower_outbox::mqtt::BrokersError>(())
/// ```
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct MqttSettings {
    /// The brokers and the way to them. User and password are those of the URL.
    #[serde(skip)]
    pub broker: BrokerSettings,
    /// The version of MQTT; 5 by default. With 3.1.1 a message has no headers, no content type and no expiry; see the
    /// [module](super#mqtt-311).
    #[serde(deserialize_with = "crate::util::units::word")]
    pub version: MqttVersion,
    /// The quality of service of published messages; 1 by default. 0: no broker confirms; a message counts as sent once it
    /// is written to the connection. 2: the broker does not say whether anybody subscribes.
    pub qos: u8,
    /// Whether a message that nobody subscribes to is rejected; by default the broker drops it silently. It needs `qos` 1.
    pub mandatory: bool,
    /// The text in an MQTT topic name for each dot of a topic; `/` by default, so that `order.created` is `order/created`.
    pub separator: String,
    /// The beginning of the client ids of connections, `tower-outbox` by default; a random part follows when messages are sent.
    pub client_id: String,
    /// The beginning of the topics at which callers await replies, `replies` by default, so that a caller has the topic
    /// `replies/<client id>`. `TOPIC_PREFIX` does not precede it.
    pub reply_topic: String,
}

impl MqttSettings {
    /// The brokers at `urls`, and defaults for the rest.
    pub fn new<U: Into<String>>(urls: impl IntoIterator<Item = U>) -> Self {
        BrokerSettings::new(urls).into()
    }

    /// Sets the version of MQTT.
    #[must_use]
    pub fn with_version(self, version: MqttVersion) -> Self {
        Self { version, ..self }
    }

    /// Sets the quality of service.
    #[must_use]
    pub fn with_qos(self, qos: u8) -> Self {
        Self { qos, ..self }
    }

    /// Sets whether a message that nobody subscribes to is rejected.
    #[must_use]
    pub fn with_mandatory(self, mandatory: bool) -> Self {
        Self { mandatory, ..self }
    }

    /// Sets the text for each dot of a topic.
    #[must_use]
    pub fn with_separator(self, separator: impl Into<String>) -> Self {
        Self { separator: separator.into(), ..self }
    }

    /// Sets the beginning of the client ids.
    #[must_use]
    pub fn with_client_id(self, client_id: impl Into<String>) -> Self {
        Self { client_id: client_id.into(), ..self }
    }

    /// Sets the beginning of the topics at which callers await replies.
    #[must_use]
    pub fn with_reply_topic(self, reply_topic: impl Into<String>) -> Self {
        Self { reply_topic: reply_topic.into(), ..self }
    }

    /// Checks the settings that messenger and source share.
    pub(super) fn check(&self) -> Result<Brokers, BrokersError> {
        let fault = |key, problem: &str| Err(BrokersError::setting(key, problem));
        // Keep-alive is a whole number of seconds, two to a timeout.
        let rules = Rules {
            parse_url: BrokerUrl::parse_mqtt,
            tls_scheme: "mqtts",
            least_idle_timeout: Duration::from_secs(2),
            wraps: true,
        };
        let brokers = self.broker.check(&rules)?;
        if self.broker.sasl != Sasl::Auto {
            return fault("SASL", "is for AMQP: MQTT takes user and password from URLS; leave it out");
        }
        if self.qos > 2 {
            return fault("QOS", "is above 2: MQTT knows 0, 1 and 2");
        }
        if self.version == MqttVersion::V3 {
            if self.mandatory {
                return fault(
                    "MANDATORY",
                    "needs MQTT 5: with VERSION = \"3.1.1\" brokers do not say who subscribes",
                );
            }
            if self.broker.envelope == Envelope::CloudEvents {
                return fault(
                    "ENVELOPE",
                    "is \"cloudevents\", whose attributes MQTT 3.1.1 cannot carry: write \"cloudevents_structured\"",
                );
            }
        }
        if self.mandatory && self.qos != 1 {
            return fault("MANDATORY", "needs QOS = 1: with another one brokers do not say who subscribes");
        }
        if self.separator.is_empty() || self.separator.len() > Topic::MAX_LEN {
            return fault("SEPARATOR", "must be a text of 1 to 255 bytes, such as \"/\"");
        }
        if let Some(problem) = names::fault_of_name(&self.separator) {
            return fault("SEPARATOR", &problem);
        }
        if let Some(problem) = fault_of(&self.client_id) {
            return fault("CLIENT_ID", &problem);
        }
        if let Some(problem) = names::fault_of_name(&self.reply_topic) {
            return fault("REPLY_TOPIC", &problem);
        }
        Ok(brokers)
    }

    /// The MQTT topic name of a topic.
    pub(super) fn name_of(&self, topic: &Topic) -> String {
        let prefixed = self.broker.prefixed(topic);
        if self.separator == "." { prefixed } else { prefixed.replace('.', &self.separator) }
    }

    /// The topic with this MQTT topic name.
    pub(super) fn topic_of(&self, name: &str) -> String {
        let dotted = |name: &str| {
            if self.separator == "." { name.to_owned() } else { name.replace(&self.separator, ".") }
        };
        let topic = dotted(name);
        let prefix = dotted(self.broker.topic_prefix.as_deref().unwrap_or_default());
        let rest = topic.strip_prefix(prefix.trim_matches('.')).and_then(|rest| rest.strip_prefix('.'));
        match rest {
            Some(rest) if !prefix.is_empty() => rest.to_owned(),
            _ => topic,
        }
    }

    /// A topic filter with the prefix before it.
    pub(super) fn prefixed_filter(&self, filter: &str) -> String {
        let prefix = self.broker.topic_prefix.as_deref().unwrap_or_default().trim_matches('.');
        if prefix.is_empty() {
            return filter.to_owned();
        }
        format!("{}{}{filter}", prefix.replace('.', &self.separator), self.separator)
    }

    /// Half of the idle timeout, as two pings without an answer end a connection.
    pub(super) fn keep_alive(&self) -> u16 {
        u16::try_from(self.broker.idle_timeout.as_secs() / 2).unwrap_or(u16::MAX).max(1)
    }
}

impl From<BrokerSettings> for MqttSettings {
    fn from(broker: BrokerSettings) -> Self {
        Self { broker, ..Self::default() }
    }
}

impl Default for MqttSettings {
    fn default() -> Self {
        Self {
            broker: BrokerSettings::default(),
            version: MqttVersion::default(),
            qos: 1,
            mandatory: false,
            separator: "/".to_owned(),
            client_id: "tower-outbox".to_owned(),
            reply_topic: "replies".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_and_mqtt_topic_names_are_translated() {
        for (prefix, separator, topic, name) in [
            (None, "/", "order.created", "order/created"),
            (Some("shop"), "/", "order.created", "shop/order/created"),
            (Some("eng.shop."), "/", "order", "eng/shop/order"),
            (Some("eng/shop"), "/", "order", "eng/shop/order"),
            (Some("eng"), ".", "order.created", "eng.order.created"),
            (None, "--", "order.created", "order--created"),
        ] {
            let mut settings = MqttSettings::default().with_separator(separator);
            settings.broker.topic_prefix = prefix.map(str::to_owned);
            let topic = Topic::new(topic).unwrap();
            assert_eq!(settings.name_of(&topic), name);
            assert_eq!(settings.topic_of(name), topic.as_str(), "{name}");
        }
        let mut settings = MqttSettings::default();
        settings.broker.topic_prefix = Some("eng".to_owned());
        assert_eq!(settings.topic_of("engine/a"), "engine.a", "only a whole prefix is removed");
        assert_eq!(settings.topic_of("eng"), "eng");
        assert_eq!(settings.prefixed_filter("order/#"), "eng/order/#");
    }

    #[test]
    fn a_wrong_setting_is_named() {
        let good = MqttSettings::new(["mqtt://h"]);
        good.check().unwrap();
        let mut sasl = good.clone();
        sasl.broker.sasl = Sasl::Anonymous;
        for (settings, key) in [
            (MqttSettings::new(["amqp://h"]), "mqtts://host:8883"),
            (MqttSettings::new(["mqtt://h/path"]), "path"),
            (sasl, "SASL"),
            (good.clone().with_qos(3), "QOS"),
            (good.clone().with_qos(0).with_mandatory(true), "MANDATORY"),
            (good.clone().with_separator(""), "SEPARATOR"),
            (good.clone().with_separator("\0"), "SEPARATOR"),
            (good.clone().with_separator("#"), "SEPARATOR"),
            (good.clone().with_client_id("a\nb"), "CLIENT_ID"),
            (good.clone().with_reply_topic("replies/#"), "REPLY_TOPIC"),
        ] {
            let error = settings.check().unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
        }
    }
}
