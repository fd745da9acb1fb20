//! The settings of an embedded engine.

use std::path::PathBuf;
use std::time::Duration;

/// The settings of an [`EmbeddedEngine`](super::engine::EmbeddedEngine).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EmbeddedEngineSettings {
    /// The folder. It is created if its parent exists. Only this user may read the folder and its files (0700 and 0600).
    pub path: PathBuf,
    /// The bytes that stored messages may take, over all queues and streams; 10 GiB by default. When they are reached, sends
    /// fail with [`EngineError::Full`](crate::channels::EngineError::Full). The files take up to about twice as much.
    pub max_bytes: u64,
    /// The messages of one queue; no limit by default.
    pub max_messages: Option<u64>,
    /// The size of one message with its tags; 100 MiB by default, at most 1 GiB.
    pub max_message_bytes: u64,
    /// The number of channels; 100,000 by default.
    pub max_channels: usize,
    /// How long streams keep messages; one day by default.
    pub stream_max_age: Option<Duration>,
    /// How many messages a stream keeps; no limit by default.
    pub stream_max_messages: Option<u64>,
    /// How many bytes a stream keeps; no limit by default.
    pub stream_max_bytes: Option<u64>,
    /// How many events or requests wait for a subscriber that names no number; 1,024 by default.
    pub buffer: usize,
    /// After which time without use an empty queue or stream is removed with its name; one day by default, as in KubeMQ. A message,
    /// a call that waits, a subscriber and a durable name are uses. Channels with limits of their own stay.
    pub max_inactivity: Option<Duration>,
    /// After which time without a subscriber a durable name of a stream is removed, counted from the start of the engine; never by
    /// default.
    pub durable_max_inactivity: Option<Duration>,
    /// The size of one file in bytes; 64 MiB by default, at most 1 GiB.
    pub segment_bytes: u64,
}

impl EmbeddedEngineSettings {
    /// Settings for an engine in this folder, with the default limits.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            max_bytes: 10 << 30,
            max_messages: None,
            max_message_bytes: 100 << 20,
            max_channels: 100_000,
            stream_max_age: Some(Duration::from_secs(24 * 60 * 60)),
            stream_max_messages: None,
            stream_max_bytes: None,
            buffer: 1_024,
            max_inactivity: Some(Duration::from_secs(24 * 60 * 60)),
            durable_max_inactivity: None,
            segment_bytes: 64 << 20,
        }
    }

    /// Sets [`max_bytes`](Self::max_bytes).
    #[must_use]
    pub fn with_max_bytes(self, max_bytes: u64) -> Self {
        Self { max_bytes, ..self }
    }

    /// Sets [`segment_bytes`](Self::segment_bytes).
    #[must_use]
    pub fn with_segment_bytes(self, segment_bytes: u64) -> Self {
        Self { segment_bytes, ..self }
    }
}
