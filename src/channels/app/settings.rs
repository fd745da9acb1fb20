//! The keys of the backend `channels`, and of its consumers.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use super::handle::Channels;
use super::sender::{ChannelMessenger, SendPattern};
use crate::channels::calls::ChannelRequester;
use crate::channels::embedded::EmbeddedEngineSettings;
use crate::channels::name::{ChannelName, NameError, Pattern};
use crate::channels::stream_types::Start;
use crate::source::Source;

/// The keys of the backend `channels`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ChannelsSettings {
    /// The folder; `channels` by default. Its parent must exist.
    pub path: PathBuf,
    /// How messages are sent: `queue` (default), `stream` or `events`.
    #[serde(deserialize_with = "crate::util::units::word")]
    pub pattern: SendPattern,
    /// The channel of all messages; by default each message goes to the channel that is named by its topic.
    pub channel: Option<String>,
    /// The bytes that stored messages may take; 10 GiB by default.
    #[serde(deserialize_with = "crate::util::units::size_u64")]
    pub max_bytes: u64,
    /// How long streams keep messages; one day by default.
    #[serde(deserialize_with = "crate::util::units::duration")]
    pub max_age: Duration,
    /// After which time without use an empty queue or stream is removed with its name; one day by default, zero is never.
    #[serde(deserialize_with = "crate::util::units::duration")]
    pub max_inactivity: Duration,
    /// After which time without a subscriber a durable name of a stream is removed; zero, never, by default.
    #[serde(deserialize_with = "crate::util::units::duration")]
    pub durable_max_inactivity: Duration,
}

impl Default for ChannelsSettings {
    fn default() -> Self {
        let engine = EmbeddedEngineSettings::new("channels");
        Self {
            path: engine.path,
            pattern: SendPattern::default(),
            channel: None,
            max_bytes: engine.max_bytes,
            max_age: engine.stream_max_age.unwrap_or_default(),
            max_inactivity: engine.max_inactivity.unwrap_or_default(),
            durable_max_inactivity: engine.durable_max_inactivity.unwrap_or_default(),
        }
    }
}

impl ChannelsSettings {
    /// Returns the settings of the engine.
    #[must_use]
    pub fn engine(&self) -> EmbeddedEngineSettings {
        let mut settings = EmbeddedEngineSettings::new(&self.path).with_max_bytes(self.max_bytes);
        let unless_zero = |duration: Duration| Some(duration).filter(|duration| !duration.is_zero());
        settings.stream_max_age = Some(self.max_age);
        settings.max_inactivity = unless_zero(self.max_inactivity);
        settings.durable_max_inactivity = unless_zero(self.durable_max_inactivity);
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

/// The channel that a consumer of the backend `channels` receives from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ReceivePattern {
    /// A queue.
    #[default]
    Queue,
    /// A stream.
    Stream,
    /// The events of the channels that match a pattern.
    Events,
    /// The requests of the channels that match a pattern: the consumer replies to them.
    Requests,
}

/// The keys of a consumer of the backend `channels`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ChannelConsumerSettings {
    /// The queue or stream, or for events and requests a pattern of channels.
    pub channel: String,
    /// Its pattern: `queue` (default), `stream`, `events` or `requests`.
    #[serde(default, deserialize_with = "crate::util::units::word")]
    pub pattern: ReceivePattern,
    /// A stream, events, requests: the group, of which one member gets each message; none by default, but for requests named as the channel.
    #[serde(default)]
    pub group: Option<String>,
    /// A stream: the name under which the place is kept; none by default.
    #[serde(default)]
    pub durable: Option<String>,
    /// A stream: the first sequence; by default the next message that is appended.
    #[serde(default)]
    pub from: Option<u64>,
    /// A queue, a stream: the queue of rejected messages; by default the channel with `.dead`.
    #[serde(default)]
    pub dead_letter_queue: Option<String>,
}

impl ChannelConsumerSettings {
    /// Checks the names.
    ///
    /// # Errors
    /// As [`source`](Self::source).
    pub fn check(&self) -> Result<(), NameError> {
        self.dead_letter_queue.as_ref().map(ChannelName::new).transpose()?;
        match self.pattern {
            ReceivePattern::Events | ReceivePattern::Requests => Pattern::new(&self.channel).map(drop),
            _ => ChannelName::new(&self.channel).map(drop),
        }
    }

    /// Returns the source of these settings.
    ///
    /// # Errors
    /// [`NameError`] of the channel or the dead-letter queue.
    pub fn source(&self, channels: &Channels) -> Result<Arc<dyn Source>, NameError> {
        let dead_letter = self.dead_letter_queue.as_ref().map(ChannelName::new).transpose()?;
        Ok(match self.pattern {
            ReceivePattern::Queue => {
                let queue = channels.queue(&self.channel)?;
                Arc::new(match dead_letter {
                    Some(to) => queue.clone().with_dead_letter(to),
                    None => queue.clone(),
                })
            }
            ReceivePattern::Stream => {
                let mut stream = channels.stream(&self.channel)?;
                stream = stream.from(self.from.map_or(Start::NewOnly, Start::Sequence));
                if let Some(group) = &self.group {
                    stream = stream.group(group);
                }
                if let Some(durable) = &self.durable {
                    stream = stream.durable(durable);
                }
                if let Some(to) = dead_letter {
                    stream = stream.with_dead_letter(to);
                }
                Arc::new(stream)
            }
            ReceivePattern::Events => {
                let events = channels.events(&self.channel)?;
                Arc::new(self.group.iter().fold(events, |events, group| events.group(group)))
            }
            ReceivePattern::Requests => {
                let requests = channels.requests(&self.channel)?;
                Arc::new(self.group.iter().fold(requests, |requests, group| requests.with_group(&**group)))
            }
        })
    }
}

/// The keys of a client of the backend `channels`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ChannelClientSettings {
    /// The channel of the requests; by default it is named as the client.
    pub channel: Option<String>,
}

impl ChannelClientSettings {
    /// Returns the requester of the client of this name.
    ///
    /// # Errors
    /// [`NameError`] of the channel.
    pub fn requester(&self, name: &str, channels: &Channels) -> Result<ChannelRequester, NameError> {
        channels.requester(self.channel.as_deref().unwrap_or(name))
    }
}
