//! The types of streams.

use std::time::{Duration, SystemTime};

use super::content::Content;

/// A message was appended to a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Appended {
    /// Its sequence.
    pub sequence: u64,
    /// When it was appended.
    pub time: SystemTime,
}

impl Appended {
    /// For implementors of an engine.
    #[must_use]
    pub fn new(sequence: u64, time: SystemTime) -> Self {
        Self { sequence, time }
    }
}

/// The first message of a subscription to a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Start {
    /// The next message that is appended.
    #[default]
    NewOnly,
    /// The oldest message that is kept.
    First,
    /// The newest message that is kept.
    Last,
    /// The message of this sequence, or the next one that is kept.
    Sequence(u64),
    /// The first message that was appended at this time or later.
    Time(SystemTime),
    /// The first message that was appended at most this long ago.
    Ago(Duration),
}

/// How a stream is subscribed to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subscribe {
    /// The first message, unless a durable subscription continues.
    pub start: Start,
    /// The group: each message goes to one of its members. They share one place in the stream.
    pub group: Option<String>,
    /// The name under which the place in the stream is kept. Without one it is forgotten with the last subscriber. With a group
    /// it is the group's place that is kept, under the name of the group.
    pub durable: Option<String>,
}

/// A message of a stream, as it is received.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamMessage {
    /// Its content.
    pub content: Content,
    /// The sequence.
    pub sequence: u64,
    /// When it was appended.
    pub time: SystemTime,
    /// The number of this delivery, from 1, as far as the engine counts.
    pub attempt: u32,
}

impl StreamMessage {
    /// For implementors of an engine.
    #[must_use]
    pub fn new(content: Content, sequence: u64, time: SystemTime, attempt: u32) -> Self {
        Self { content, sequence, time, attempt }
    }
}
