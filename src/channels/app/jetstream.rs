//! The keys of the backend `channels` with `URLS`: channels in NATS with JetStream.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::handle::Channels;
use super::sender::{ChannelMessenger, SendPattern};
use crate::channels::jetstream::{BrokerSettings, JetstreamEngineSettings};
use crate::channels::name::{ChannelName, NameError};

/// The keys of the backend `channels` with `URLS`, beside those of [`BrokerSettings`].
#[derive(Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct JetstreamChannelsSettings {
    /// How messages are sent: `queue` (default), `stream` or `events`.
    #[serde(deserialize_with = "crate::util::units::word")]
    pub pattern: SendPattern,
    /// The channel of all messages; by default each message goes to the channel that is named by its topic.
    pub channel: Option<String>,
    /// The first word of all subjects and streams; `channels` by default.
    pub prefix: String,
    /// The replicas of each stream; 1 by default.
    pub replicas: usize,
    /// After which time without a sign of its process a message is delivered to another one; 30 s by default.
    #[serde(deserialize_with = "crate::util::units::duration")]
    pub ack_wait: Duration,
    /// How long streams keep messages; one day by default.
    #[serde(deserialize_with = "crate::util::units::duration")]
    pub max_age: Duration,
    /// The domain of JetStream; none by default.
    pub domain: Option<String>,
    /// A token for all servers; none by default.
    token: Option<String>,
    /// A file with the seed of an nkey; none by default.
    pub nkey_file: Option<PathBuf>,
    /// A credentials file with a JWT and the seed of its nkey; none by default.
    pub credentials_file: Option<PathBuf>,
}

impl Default for JetstreamChannelsSettings {
    fn default() -> Self {
        let engine = JetstreamEngineSettings::from(BrokerSettings::default());
        Self {
            pattern: SendPattern::default(),
            channel: None,
            prefix: engine.prefix,
            replicas: engine.replicas,
            ack_wait: engine.ack_wait,
            max_age: engine.stream_max_age.unwrap_or_default(),
            domain: None,
            token: None,
            nkey_file: None,
            credentials_file: None,
        }
    }
}

impl JetstreamChannelsSettings {
    /// Returns the settings of the engine.
    #[must_use]
    pub fn engine(&self, broker: BrokerSettings) -> JetstreamEngineSettings {
        let mut settings = JetstreamEngineSettings::from(broker)
            .with_prefix(&self.prefix)
            .with_replicas(self.replicas)
            .with_ack_wait(self.ack_wait);
        if let Some(token) = &self.token {
            settings = settings.with_token(token);
        }
        settings.stream_max_age = Some(self.max_age).filter(|age| !age.is_zero());
        settings.domain.clone_from(&self.domain);
        settings.nkey_file.clone_from(&self.nkey_file);
        settings.credentials_file.clone_from(&self.credentials_file);
        settings
    }

    /// Returns the messenger of these settings.
    ///
    /// # Errors
    /// [`NameError`] of the channel.
    pub fn messenger(&self, channels: &Channels) -> Result<ChannelMessenger, NameError> {
        let messenger = channels.messenger(self.pattern);
        Ok(match &self.channel {
            Some(channel) => messenger.with_channel(ChannelName::new(channel)?),
            None => messenger,
        })
    }
}

/// Without the token.
impl std::fmt::Debug for JetstreamChannelsSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JetstreamChannelsSettings")
            .field("pattern", &self.pattern)
            .field("channel", &self.channel)
            .field("prefix", &self.prefix)
            .field("replicas", &self.replicas)
            .finish_non_exhaustive()
    }
}
