//! Kinds of channels, and what an engine knows about each channel.

use std::time::{Duration, SystemTime};

use super::name::ChannelName;

/// The pattern of a channel. Channels of different kinds may have the same name, and are separate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum ChannelKind {
    /// A queue.
    Queue,
    /// A stream (KubeMQ: event store).
    Stream,
    /// Events.
    Events,
    /// Requests that are answered with success or failure.
    Commands,
    /// Requests that are answered with data.
    Queries,
}

/// Limits of one channel. `None` takes the limit of the engine's settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChannelLimits {
    /// A stream: how long messages are kept.
    pub max_age: Option<Duration>,
    /// A stream: how many messages are kept. A queue: how many it holds before it is full.
    pub max_messages: Option<u64>,
    /// A stream: how many bytes are kept. A queue: how many bytes it holds before it is full.
    pub max_bytes: Option<u64>,
}

/// The facts that an engine has about a channel.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ChannelInfo {
    /// The kind.
    pub kind: ChannelKind,
    /// The name.
    pub name: ChannelName,
    /// The limits that were set for this channel.
    pub limits: ChannelLimits,
    /// The messages that are stored: waiting, delayed and held.
    pub messages: u64,
    /// About how many bytes they take.
    pub bytes: u64,
    /// A queue: the messages that are held by consumers.
    pub held: u64,
    /// A queue: the messages whose delay is not over.
    pub delayed: u64,
    /// The sequence of the newest message; 0 before the first.
    pub last_sequence: u64,
    /// The subscribers, and the consumers that wait.
    pub subscribers: usize,
    /// The time of the last message in or out, as far as it is known since the start of the engine.
    pub last_activity: Option<SystemTime>,
    /// The messages that came in since the start of the engine.
    pub incoming: Traffic,
    /// The messages that went out since the start of the engine.
    pub outgoing: Traffic,
}

impl ChannelInfo {
    /// For implementors of an engine: a channel without messages and limits.
    #[must_use]
    pub fn new(kind: ChannelKind, name: ChannelName) -> Self {
        Self {
            kind,
            name,
            limits: ChannelLimits::default(),
            messages: 0,
            bytes: 0,
            held: 0,
            delayed: 0,
            last_sequence: 0,
            subscribers: 0,
            last_activity: None,
            incoming: Traffic::default(),
            outgoing: Traffic::default(),
        }
    }
}

/// A number of messages, and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// The messages.
    pub messages: u64,
    /// The bytes of their content.
    pub bytes: u64,
}

impl Traffic {
    /// Adds one message.
    pub fn add(&mut self, bytes: usize) {
        self.messages += 1;
        self.bytes += bytes as u64;
    }
}
