//! The state of a channel's stream, as JetStream reports it.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use crate::channels::info::ChannelLimits;
use crate::channels::name::ChannelName;

/// The facts about a stream.
#[derive(Debug, Deserialize)]
pub(super) struct StreamInfo {
    pub(super) created: String,
    pub(super) config: Value,
    pub(super) state: StreamState,
    /// The subjects, where they were asked for.
    #[serde(default)]
    pub(super) total: u64,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct StreamState {
    pub(super) messages: u64,
    pub(super) bytes: u64,
    pub(super) first_seq: u64,
    pub(super) last_seq: u64,
}

impl StreamInfo {
    pub(super) fn metadata(&self, key: &str) -> Option<&str> {
        self.config["metadata"][key].as_str()
    }

    pub(super) fn name(&self) -> Option<ChannelName> {
        ChannelName::new(self.metadata("tower-outbox-channel")?).ok()
    }

    /// The sequence before the first one of the stream. The sequences of the channel begin after it.
    pub(super) fn before(&self) -> u64 {
        self.config["first_seq"].as_u64().unwrap_or_default().saturating_sub(1)
    }

    pub(super) fn limits(&self) -> ChannelLimits {
        let limit = |name: &str| self.metadata(name).and_then(|value| value.parse::<u64>().ok());
        ChannelLimits {
            max_age: limit("tower-outbox-max-age").map(Duration::from_nanos),
            max_messages: limit("tower-outbox-max-messages"),
            max_bytes: limit("tower-outbox-max-bytes"),
        }
    }
}
