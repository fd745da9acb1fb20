//! The settings of the Kafka backend.

use std::fmt;
use std::time::Duration;

use krafka::Compression as Codec;
use serde::Deserialize;

use super::names::MOST_OF_NAME;
use super::sasl_mechanism::SaslMechanism;
use super::security::Security;
use crate::backends::brokers::{BrokerSettings, BrokerUrl, Brokers, BrokersError, Rules, Sasl};
use crate::message::topic::Topic;

/// How long the brokers may take to know a topic that is being created.
const TOPIC_TIMEOUT: Duration = Duration::from_secs(2);

/// The cluster, and how messages are published.
///
/// In a settings file these are keys of `[MESSAGE_BUS]` in any case, beside those of [`BrokerSettings`].
///
/// ```
/// use tower_outbox::kafka::{BrokerSettings, Kafka, KafkaSettings, SaslMechanism};
///
/// let settings = KafkaSettings::new(["kafka://localhost:9092"]);
/// let messenger = Kafka::new(&settings)?;
///
/// let brokers = BrokerSettings::new(["kafka://user:password@localhost:9093"]).with_topic_prefix("shop");
/// let settings = KafkaSettings::from(brokers).with_sasl_mechanism(SaslMechanism::ScramSha512);
/// let messenger = Kafka::new(&settings)?;
/// # Ok::<(), tower_outbox::kafka::BrokersError>(())
/// ```
#[derive(Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct KafkaSettings {
    /// The way to the cluster. `urls` are brokers of one cluster, from which the client learns the others. User and password are those
    /// of the URLs, the same in each.
    #[serde(skip)]
    pub broker: BrokerSettings,
    /// How user and password are sent; [`SaslMechanism::Plain`] by default.
    #[serde(deserialize_with = "crate::util::units::word")]
    pub sasl_mechanism: SaslMechanism,
    /// The largest message with its headers that the brokers take, as their `message.max.bytes` or the `max.message.bytes` of a topic
    /// says; 1,048,588 bytes by default, as theirs.
    #[serde(deserialize_with = "crate::util::units::size")]
    pub max_message_bytes: usize,
    /// How messages are compressed; [`Compression::None`] by default.
    #[serde(deserialize_with = "crate::util::units::word")]
    pub compression: Compression,
    /// Whether the brokers are asked to create a missing topic; true by default. Their own setting `auto.create.topics.enable` decides.
    pub auto_create_topics: bool,
    /// The name that operators see; `tower-outbox` by default.
    pub client_id: String,
}

/// How messages are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Compression {
    /// `none`.
    #[default]
    None,
    /// `gzip`.
    Gzip,
    /// `snappy`.
    Snappy,
    /// `lz4`.
    Lz4,
}

impl Compression {
    pub(super) fn codec(self) -> Codec {
        match self {
            Self::None => Codec::None,
            Self::Gzip => Codec::Gzip,
            Self::Snappy => Codec::Snappy,
            Self::Lz4 => Codec::Lz4,
        }
    }
}

/// A cluster, as its client needs it.
pub(super) struct Cluster {
    /// The addresses of brokers.
    pub(super) urls: Vec<BrokerUrl>,
    pub(super) security: Option<Security>,
}

impl KafkaSettings {
    /// The cluster with brokers at `urls`, and defaults for the rest.
    pub fn new<U: Into<String>>(urls: impl IntoIterator<Item = U>) -> Self {
        BrokerSettings::new(urls).into()
    }

    /// Sets how user and password are sent.
    #[must_use]
    pub fn with_sasl_mechanism(self, sasl_mechanism: SaslMechanism) -> Self {
        Self { sasl_mechanism, ..self }
    }

    /// Sets the largest message that the brokers take.
    #[must_use]
    pub fn with_max_message_bytes(self, max_message_bytes: usize) -> Self {
        Self { max_message_bytes, ..self }
    }

    /// Sets how messages are compressed.
    #[must_use]
    pub fn with_compression(self, compression: Compression) -> Self {
        Self { compression, ..self }
    }

    /// Sets whether the brokers are asked to create a missing topic.
    #[must_use]
    pub fn with_auto_create_topics(self, auto_create_topics: bool) -> Self {
        Self { auto_create_topics, ..self }
    }

    /// Checks the settings that messenger and source share.
    pub(super) fn check(&self) -> Result<Cluster, BrokersError> {
        let fault = |key, problem: &str| Err(BrokersError::setting(key, problem));
        let rules = Rules {
            parse_url: BrokerUrl::parse_kafka,
            tls_scheme: "kafkas",
            least_idle_timeout: Duration::from_secs(2),
            wraps: true,
        };
        let (urls, _): Brokers = self.broker.check(&rules)?;
        let first = urls.first().ok_or(BrokersError::NoUrls)?;
        if urls.iter().any(|url| url.is_tls() != first.is_tls()) {
            return fault(
                "URLS",
                "has kafka:// and kafkas://: they are brokers of one cluster, so write one of both",
            );
        }
        let user = |url: &BrokerUrl| {
            url.credentials().map(|(user, secret)| (user.to_owned(), secret.expose().to_owned()))
        };
        if urls.iter().any(|url| user(url) != user(first)) {
            return fault(
                "URLS",
                "has several users or passwords: they are brokers of one cluster, so write the same in each",
            );
        }
        if user(first).is_some_and(|(user, _)| user.is_empty()) {
            return fault("URLS", "has a password without a user: write kafkas://user:password@host:9093");
        }
        if user(first).is_none() && self.sasl_mechanism != SaslMechanism::Plain {
            return fault(
                "SASL_MECHANISM",
                "needs a user and password in URLS: kafkas://user:password@host:9093",
            );
        }
        if self.broker.sasl != Sasl::Auto {
            return fault("SASL", "is for AMQP: set SASL_MECHANISM, and user and password in URLS");
        }
        if self.broker.dangerous_accept_any_host_name {
            return fault(
                "DANGEROUS_ACCEPT_ANY_HOST_NAME",
                "is not for Kafka, whose clients connect to each broker by its name",
            );
        }
        if self.broker.ttl.is_some() {
            return fault(
                "TTL",
                "is not for Kafka, which keeps messages as long as retention.ms of the topic says",
            );
        }
        if self.broker.send_timeout() < Duration::from_millis(200) {
            return fault("SEND_TIMEOUT", "is below 200ms, in which no cluster answers twice; write \"10s\"");
        }
        if !(1_024..=1 << 30).contains(&self.max_message_bytes) {
            return fault("MAX_MESSAGE_BYTES", "must be 1 KiB to 1 GiB");
        }
        if self.client_id.is_empty() || self.client_id.len() > MOST_OF_NAME {
            return fault("CLIENT_ID", "must have 1 to 249 bytes");
        }
        let security = Security::new(&self.broker, self.sasl_mechanism, first)?;
        Ok(Cluster { urls, security })
    }

    /// The topic of ours with this name at Kafka.
    pub(super) fn topic_of<'a>(&self, name: &'a str) -> &'a str {
        let prefix = self.broker.topic_prefix.as_deref().unwrap_or_default().trim_matches('.');
        match name.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('.')) {
            Some(rest) if !prefix.is_empty() => rest,
            _ => name,
        }
    }

    /// The name at Kafka of a topic of ours.
    pub(super) fn name_of(&self, topic: &Topic) -> String {
        self.broker.prefixed(topic)
    }

    /// A name with the prefix before it.
    pub(super) fn prefixed_name(&self, name: &str) -> String {
        match self.broker.topic_prefix.as_deref().map(|prefix| prefix.trim_matches('.')) {
            None | Some("") => name.to_owned(),
            Some(prefix) => format!("{prefix}.{name}"),
        }
    }

    /// How long one request to a broker may take, so that there is time for a second one within `SEND_TIMEOUT`.
    pub(super) fn request_timeout(&self) -> Duration {
        self.broker.send_timeout() / 2
    }

    /// How long the brokers may take to know a topic.
    pub(super) fn topic_timeout(&self) -> Duration {
        TOPIC_TIMEOUT.min(self.broker.send_timeout())
    }
}

impl From<BrokerSettings> for KafkaSettings {
    fn from(broker: BrokerSettings) -> Self {
        Self { broker, ..Self::default() }
    }
}

impl Default for KafkaSettings {
    fn default() -> Self {
        Self {
            broker: BrokerSettings::default(),
            sasl_mechanism: SaslMechanism::default(),
            max_message_bytes: 1_048_588,
            compression: Compression::default(),
            auto_create_topics: true,
            client_id: "tower-outbox".to_owned(),
        }
    }
}

impl fmt::Debug for KafkaSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaSettings")
            .field("broker", &self.broker)
            .field("sasl_mechanism", &self.sasl_mechanism)
            .field("max_message_bytes", &self.max_message_bytes)
            .field("compression", &self.compression)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_topics_are_translated() {
        let mut settings = KafkaSettings::default();
        let topic = Topic::new("order.created").unwrap();
        assert_eq!(settings.name_of(&topic), "order.created");
        settings.broker.topic_prefix = Some("eng.".to_owned());
        assert_eq!(settings.name_of(&topic), "eng.order.created");
        assert_eq!(settings.prefixed_name("order.created"), "eng.order.created");
        assert_eq!(settings.topic_of("eng.order.created"), "order.created");
        assert_eq!(settings.topic_of("engine.a"), "engine.a", "only a whole prefix is removed");
    }

    #[test]
    fn a_wrong_setting_is_named() {
        let good = KafkaSettings::new(["kafka://h"]);
        good.check().unwrap();
        KafkaSettings::new(["kafka://u:p@a", "kafka://u:p@b"]).check().unwrap();
        let with = |change: fn(&mut KafkaSettings)| {
            let mut settings = good.clone();
            change(&mut settings);
            settings
        };
        for (settings, key) in [
            (KafkaSettings::new(["mqtt://h"]), "kafkas://host:9093"),
            (KafkaSettings::new(["h:9092"]), "kafkas://host:9093"),
            (KafkaSettings::new(["kafka://a", "kafkas://b"]), "URLS"),
            (KafkaSettings::new(["kafka://u:p@a", "kafka://u:q@b"]), "URLS"),
            (KafkaSettings::new(["kafka://:p@a"]), "URLS"),
            (good.clone().with_sasl_mechanism(SaslMechanism::ScramSha256), "SASL_MECHANISM"),
            (good.clone().with_max_message_bytes(7), "MAX_MESSAGE_BYTES"),
            (with(|it| it.client_id = String::new()), "CLIENT_ID"),
            (with(|it| it.broker.ttl = Some(Duration::from_secs(1))), "TTL"),
            (with(|it| it.broker.sasl = Sasl::Anonymous), "SASL"),
            (with(|it| it.broker.dangerous_accept_any_host_name = true), "DANGEROUS_ACCEPT_ANY_HOST_NAME"),
            (with(|it| it.broker.send_timeout = Some(Duration::from_millis(1))), "SEND_TIMEOUT"),
        ] {
            let error = settings.check().err().expect(key).to_string();
            assert!(error.contains(key), "{error}");
        }
        let secret = KafkaSettings::new(["kafka://u:geheim@h"]);
        assert!(!format!("{secret:?}").contains("geheim"));
    }
}
