//! The settings of the NATS backend.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer};

use super::names::{fault_of_name, fault_of_subject};
use crate::backends::brokers::{BrokerSettings, BrokerUrl, Brokers, BrokersError, Rules, Sasl};
use crate::message::topic::Topic;
use crate::util::secret::Secret;

/// The brokers, and how messages are published.
///
/// In a settings file these are keys of `[MESSAGE_BUS]` in any case, beside those of [`BrokerSettings`].
///
/// ```
/// use tower_outbox::nats::{BrokerSettings, Nats, NatsSettings};
///
/// let settings = NatsSettings::new(["nats://localhost:4222"]);
/// let messenger = Nats::new(&settings)?;
///
/// let brokers = BrokerSettings::new(["tls://localhost:4222"]).with_topic_prefix("shop");
/// let messenger = Nats::new(&brokers.into())?;
/// # Ok::<(), tower_outbox::nats::BrokersError>(())
/// ```
#[derive(Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct NatsSettings {
    /// The brokers and the way to them. User and password are those of the URL.
    #[serde(skip)]
    pub broker: BrokerSettings,
    /// How messages are published; [`Pattern::Streams`] by default.
    #[serde(deserialize_with = "crate::util::units::word")]
    pub pattern: Pattern,
    /// The stream that must store the messages, sent as `Nats-Expected-Stream`; by default any stream that takes their subjects.
    pub expected_stream: Option<String>,
    /// The beginning of the subjects at which delayed messages wait, `<delay_subject>.<id>`. Their stream must take them too, and
    /// have `allow_msg_schedules`. None by default: messages with a delay are rejected.
    pub delay_subject: Option<String>,
    /// The domain of JetStream, for a server behind a leaf node; none by default.
    pub domain: Option<String>,
    /// The name that operators see; `tower-outbox` by default.
    pub client_name: String,
    /// A token for all servers; none by default.
    #[serde(deserialize_with = "secret")]
    token: Option<Secret>,
    /// A file with the seed of an nkey; none by default.
    pub nkey_file: Option<PathBuf>,
    /// A credentials file with a JWT and the seed of its nkey; none by default.
    pub credentials_file: Option<PathBuf>,
}

/// How messages are published.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Pattern {
    /// `streams`: a stream of JetStream stores each message, and confirms it.
    #[default]
    Streams,
    /// `events`: those who subscribe now get the message; it is not stored. The server confirms that it has read it.
    Events,
}

fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Secret>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.map(Secret::new))
}

impl NatsSettings {
    /// The brokers at `urls`, and defaults for the rest.
    pub fn new<U: Into<String>>(urls: impl IntoIterator<Item = U>) -> Self {
        BrokerSettings::new(urls).into()
    }

    /// Sets how messages are published.
    #[must_use]
    pub fn with_pattern(self, pattern: Pattern) -> Self {
        Self { pattern, ..self }
    }

    /// Sets the stream that must store the messages.
    #[must_use]
    pub fn with_expected_stream(self, stream: impl Into<String>) -> Self {
        Self { expected_stream: Some(stream.into()), ..self }
    }

    /// Sets the beginning of the subjects at which delayed messages wait.
    #[must_use]
    pub fn with_delay_subject(self, subject: impl Into<String>) -> Self {
        Self { delay_subject: Some(subject.into()), ..self }
    }

    /// Sets the domain of JetStream.
    #[must_use]
    pub fn with_domain(self, domain: impl Into<String>) -> Self {
        Self { domain: Some(domain.into()), ..self }
    }

    /// Sets the token for all servers.
    #[must_use]
    pub fn with_token(self, token: impl Into<String>) -> Self {
        Self { token: Some(Secret::new(token)), ..self }
    }

    /// Sets the file with the seed of an nkey.
    #[must_use]
    pub fn with_nkey_file(self, file: impl Into<PathBuf>) -> Self {
        Self { nkey_file: Some(file.into()), ..self }
    }

    /// Sets the credentials file.
    #[must_use]
    pub fn with_credentials_file(self, file: impl Into<PathBuf>) -> Self {
        Self { credentials_file: Some(file.into()), ..self }
    }

    /// Checks the settings that messenger and source share.
    pub(super) fn check(&self) -> Result<Brokers, BrokersError> {
        let fault = |key, problem: &str| Err(BrokersError::setting(key, problem));
        let rules = Rules {
            parse_url: BrokerUrl::parse_nats,
            tls_scheme: "tls",
            least_idle_timeout: Duration::from_secs(1),
            wraps: true,
        };
        let brokers = self.broker.check(&rules)?;
        if self.broker.sasl != Sasl::Auto {
            return fault("SASL", "is for AMQP: NATS takes user and password from URLS; leave it out");
        }
        if let Some(prefix) = self.broker.topic_prefix.as_deref()
            && prefix.starts_with(['$', '_'])
        {
            return fault("TOPIC_PREFIX", "begins with $ or _, which are subjects of the server itself");
        }
        let with_user = brokers.0.iter().any(|url| url.credentials().is_some());
        let ways =
            [self.token.is_some(), self.nkey_file.is_some(), self.credentials_file.is_some(), with_user];
        if ways.iter().filter(|way| **way).count() > 1 {
            return fault(
                "TOKEN",
                "or NKEY_FILE, CREDENTIALS_FILE, or a user in URLS: only one of them can be used",
            );
        }
        for (key, file) in [("NKEY_FILE", &self.nkey_file), ("CREDENTIALS_FILE", &self.credentials_file)] {
            if let Some(file) = file {
                read(key, file)?;
            }
        }
        for (key, name) in [("EXPECTED_STREAM", &self.expected_stream), ("DOMAIN", &self.domain)] {
            if let Some(problem) = name.as_deref().and_then(fault_of_name) {
                return fault(key, &problem);
            }
        }
        if let Some(problem) =
            self.delay_subject.as_deref().and_then(|subject| fault_of_subject(subject, false))
        {
            return fault("DELAY_SUBJECT", &problem);
        }
        if self.pattern == Pattern::Events
            && (self.expected_stream.is_some() || self.delay_subject.is_some() || self.broker.ttl.is_some())
        {
            return fault(
                "PATTERN",
                "is \"events\", which no stream stores: leave EXPECTED_STREAM, DELAY_SUBJECT and TTL out",
            );
        }
        Ok(brokers)
    }

    pub(super) fn token(&self) -> Option<&str> {
        self.token.as_ref().map(Secret::expose)
    }

    /// The beginning of the subjects of JetStream's API.
    pub(super) fn api_prefix(&self) -> String {
        match &self.domain {
            Some(domain) => format!("$JS.{domain}.API"),
            None => "$JS.API".to_owned(),
        }
    }

    /// The topic with this subject.
    pub(super) fn topic_of<'a>(&self, subject: &'a str) -> &'a str {
        let prefix = self.broker.topic_prefix.as_deref().unwrap_or_default().trim_matches('.');
        match subject.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('.')) {
            Some(rest) if !prefix.is_empty() => rest,
            _ => subject,
        }
    }

    /// A subject, perhaps with wildcards, with the prefix before it.
    pub(super) fn prefixed_filter(&self, filter: &str) -> String {
        match self.broker.topic_prefix.as_deref().map(|prefix| prefix.trim_matches('.')) {
            None | Some("") => filter.to_owned(),
            Some(prefix) => format!("{prefix}.{filter}"),
        }
    }

    /// The subject of a topic.
    pub(super) fn subject_of(&self, topic: &Topic) -> String {
        self.broker.prefixed(topic)
    }

    /// How long after its first try a message whose outcome is unknown may be tried again, while a broker can be reached.
    pub(super) fn retry_horizon(&self) -> Duration {
        let brokers = u32::try_from(self.broker.urls.len()).unwrap_or(u32::MAX);
        let round = self.broker.connection_timeout() + self.broker.send_timeout();
        round.saturating_mul(brokers.saturating_add(1)).saturating_add(Duration::from_secs(60))
    }
}

/// A file of a secret; the error names its key.
pub(super) fn read(key: &'static str, file: &std::path::Path) -> Result<Secret, BrokersError> {
    let text = std::fs::read_to_string(file).map_err(|error| {
        BrokersError::setting(key, format!("{} cannot be read ({error}): check the path", file.display()))
    })?;
    Ok(Secret::new(text))
}

impl From<BrokerSettings> for NatsSettings {
    fn from(broker: BrokerSettings) -> Self {
        Self { broker, ..Self::default() }
    }
}

impl Default for NatsSettings {
    fn default() -> Self {
        Self {
            broker: BrokerSettings::default(),
            pattern: Pattern::default(),
            expected_stream: None,
            delay_subject: None,
            domain: None,
            client_name: "tower-outbox".to_owned(),
            token: None,
            nkey_file: None,
            credentials_file: None,
        }
    }
}

impl fmt::Debug for NatsSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsSettings")
            .field("broker", &self.broker)
            .field("pattern", &self.pattern)
            .field("expected_stream", &self.expected_stream)
            .field("delay_subject", &self.delay_subject)
            .field("domain", &self.domain)
            .field("token", &self.token)
            .field("nkey_file", &self.nkey_file)
            .field("credentials_file", &self.credentials_file)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_and_topics_are_translated() {
        let mut settings = NatsSettings::default();
        let topic = Topic::new("order.created").unwrap();
        assert_eq!(settings.subject_of(&topic), "order.created");
        settings.broker.topic_prefix = Some("eng.".to_owned());
        assert_eq!(settings.subject_of(&topic), "eng.order.created");
        assert_eq!(settings.topic_of("eng.order.created"), "order.created");
        assert_eq!(settings.topic_of("engine.a"), "engine.a", "only a whole prefix is removed");
        assert_eq!(settings.prefixed_filter("order.>"), "eng.order.>");
    }

    #[test]
    fn a_wrong_setting_is_named() {
        let good = NatsSettings::new(["nats://h"]);
        good.check().unwrap();
        let mut prefix = good.clone();
        prefix.broker.topic_prefix = Some("$JS".to_owned());
        for (settings, key) in [
            (NatsSettings::new(["mqtt://h"]), "tls://host:4222"),
            (prefix, "TOPIC_PREFIX"),
            (NatsSettings::new(["nats://u:p@h"]).with_token("t"), "TOKEN"),
            (good.clone().with_nkey_file("/nowhere"), "NKEY_FILE"),
            (good.clone().with_credentials_file("/nowhere"), "CREDENTIALS_FILE"),
            (good.clone().with_expected_stream("a.b"), "EXPECTED_STREAM"),
            (good.clone().with_delay_subject("a.>"), "DELAY_SUBJECT"),
            (good.clone().with_pattern(Pattern::Events).with_delay_subject("a"), "PATTERN"),
        ] {
            let error = settings.check().unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
        }
        assert!(!format!("{:?}", good.with_token("geheim")).contains("geheim"));
    }
}
