//! The settings of an engine on JetStream.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::names::fault_of_prefix;
use crate::backends::brokers::{BrokerSettings, BrokerUrl, Brokers, BrokersError, Rules};
use crate::util::secret::Secret;

/// The settings of a [`JetstreamEngine`](super::engine::JetstreamEngine).
///
/// ```
/// use tower_outbox::channels::jetstream::JetstreamEngineSettings;
///
/// let settings = JetstreamEngineSettings::new(["nats://n1.example.com", "nats://n2.example.com"]).with_replicas(3);
/// # let _ = settings;
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub struct JetstreamEngineSettings {
    /// The servers and the way to them, `nats://[user:password@]host[:4222]` or `tls://host[:4222]`; user and password are those of the
    /// first URL with one. Its keys for messages (topic prefix, envelope, expiry, window) have no meaning here.
    pub broker: BrokerSettings,
    /// The first word of all subjects and streams of the engine: 1 to 48 letters, digits, `-` and `_`; `channels` by default. Engines with one
    /// prefix share their channels.
    pub prefix: String,
    /// The replicas of each stream, 1 to 5; 1 by default. With 3 a message survives the loss of a server.
    pub replicas: usize,
    /// After which time without a sign of its engine a held message is delivered to another engine; 30 s by default, at least 1 s.
    pub ack_wait: Duration,
    /// How long a stream knows the ids by which it drops duplicates; 2 minutes by default.
    pub duplicate_window: Duration,
    /// How long streams keep messages; one day by default. Counts when a stream is created.
    pub stream_max_age: Option<Duration>,
    /// The number of queues and streams in the account; 10,000 by default.
    pub max_channels: usize,
    /// How many events or requests wait for a subscriber that names no number; 1,024 by default.
    pub buffer: usize,
    /// The domain of JetStream, for a server behind a leaf node; none by default.
    pub domain: Option<String>,
    /// A token for all servers; none by default.
    token: Option<Secret>,
    /// A file with the seed of an nkey; none by default.
    pub nkey_file: Option<PathBuf>,
    /// A credentials file with a JWT and the seed of its nkey; none by default.
    pub credentials_file: Option<PathBuf>,
}

impl JetstreamEngineSettings {
    /// The servers at `urls`, and defaults for the rest.
    pub fn new<U: Into<String>>(urls: impl IntoIterator<Item = U>) -> Self {
        BrokerSettings::new(urls).into()
    }

    /// Sets the first word of all subjects and streams.
    #[must_use]
    pub fn with_prefix(self, prefix: impl Into<String>) -> Self {
        Self { prefix: prefix.into(), ..self }
    }

    /// Sets the replicas of each stream.
    #[must_use]
    pub fn with_replicas(self, replicas: usize) -> Self {
        Self { replicas, ..self }
    }

    /// Sets after which time without a sign of its engine a held message is delivered to another engine.
    #[must_use]
    pub fn with_ack_wait(self, ack_wait: Duration) -> Self {
        Self { ack_wait, ..self }
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

    /// Checks all that can be known without a server.
    pub(super) fn check(&self) -> Result<Brokers, BrokersError> {
        let fault = |key, problem: &str| Err(BrokersError::setting(key, problem));
        let rules = Rules {
            parse_url: BrokerUrl::parse_nats,
            tls_scheme: "tls",
            least_idle_timeout: Duration::from_secs(1),
            wraps: false,
        };
        let brokers = self.broker.check(&rules)?;
        if self.broker.topic_prefix.is_some() || self.broker.ttl.is_some() {
            return fault(
                "TOPIC_PREFIX",
                "or TTL has no meaning for channels: leave them out, and write PREFIX",
            );
        }
        if let Some(problem) = fault_of_prefix(&self.prefix) {
            return fault("PREFIX", problem);
        }
        if !(1..=5).contains(&self.replicas) {
            return fault("REPLICAS", "is not between 1 and 5: write 1, 3 or 5");
        }
        if self.ack_wait < Duration::from_secs(1) {
            return fault("ACK_WAIT", "is below 1 s, the least possible; write \"30s\"");
        }
        if self.broker.send_timeout() >= self.duplicate_window {
            return fault(
                "SEND_TIMEOUT",
                "is not below the time in which a stream drops duplicates, 2 minutes by default",
            );
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
}

impl From<BrokerSettings> for JetstreamEngineSettings {
    fn from(broker: BrokerSettings) -> Self {
        Self {
            broker,
            prefix: "channels".to_owned(),
            replicas: 1,
            ack_wait: Duration::from_secs(30),
            duplicate_window: Duration::from_secs(120),
            stream_max_age: Some(Duration::from_secs(24 * 60 * 60)),
            max_channels: 10_000,
            buffer: 1_024,
            domain: None,
            token: None,
            nkey_file: None,
            credentials_file: None,
        }
    }
}

impl fmt::Debug for JetstreamEngineSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JetstreamEngineSettings")
            .field("broker", &self.broker)
            .field("prefix", &self.prefix)
            .field("replicas", &self.replicas)
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
    fn a_wrong_setting_is_named() {
        let good = JetstreamEngineSettings::new(["nats://h"]);
        good.check().unwrap();
        for (settings, key) in [
            (JetstreamEngineSettings::new(["mqtt://h"]), "tls://host:4222"),
            (good.clone().with_prefix("a.b"), "PREFIX"),
            (good.clone().with_replicas(0), "REPLICAS"),
            (good.clone().with_ack_wait(Duration::ZERO), "ACK_WAIT"),
            (JetstreamEngineSettings::new(["nats://u:p@h"]).with_token("t"), "TOKEN"),
        ] {
            let error = settings.check().unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
        }
        assert!(!format!("{:?}", good.with_token("geheim")).contains("geheim"));
    }
}
