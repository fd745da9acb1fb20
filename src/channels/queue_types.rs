//! The types of queues.

use std::time::{Duration, SystemTime};

use super::content::Content;
use super::name::ChannelName;

/// A message to be sent to a queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueMessage {
    /// Its content.
    pub content: Content,
    /// How it is delivered.
    pub policy: Policy,
}

/// How a message is delivered by a queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// How long the message is worth delivering, from when it is visible. Zero is no limit (default).
    pub expiry: Duration,
    /// How long the message is invisible. Zero is not at all (default).
    pub delay: Duration,
    /// How often the message may be received before it goes to `dead_letter`. 0 is no limit (default).
    pub max_receives: u32,
    /// The queue to which the message goes then. Without one (default) it is discarded then.
    pub dead_letter: Option<ChannelName>,
}

/// A message was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Sent {
    /// The sequence; 0 while it is delayed.
    pub sequence: u64,
    /// When it was stored.
    pub time: SystemTime,
    /// When it expires.
    pub expires_at: Option<SystemTime>,
    /// When it becomes visible, if it is delayed.
    pub delayed_to: Option<SystemTime>,
}

impl Sent {
    /// For implementors of an engine.
    #[must_use]
    pub fn new(
        sequence: u64,
        time: SystemTime,
        expires_at: Option<SystemTime>,
        delayed_to: Option<SystemTime>,
    ) -> Self {
        Self { sequence, time, expires_at, delayed_to }
    }
}

/// How messages are received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receive {
    /// The most messages; 0 is taken for 1.
    pub max: usize,
    /// How long to wait for the first message, or with `until_full` for `max` messages.
    pub wait: Duration,
    /// How long the messages are invisible to others before they count as rejected. `None` is without a limit.
    pub visibility: Option<Duration>,
    /// Whether the messages are acknowledged before they are returned. The receipt is not open then.
    pub auto_ack: bool,
    /// Whether to wait the whole time unless `max` messages are there, as KubeMQ does.
    pub until_full: bool,
}

impl Default for Receive {
    /// One message, without waiting, visible again after a minute, to be acknowledged.
    fn default() -> Self {
        Self {
            max: 1,
            wait: Duration::ZERO,
            visibility: Some(Duration::from_secs(60)),
            auto_ack: false,
            until_full: false,
        }
    }
}

/// The number of a receive, under which its messages are settled. Numbers are not used again while the engine is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Receipt(pub u64);

/// The result of a receive.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Received {
    /// The receipt under which the messages are settled.
    pub receipt: Receipt,
    /// The messages, in order.
    pub messages: Vec<QueueDelivery>,
    /// The messages of the queue that expired since the last receive.
    pub expired: u64,
}

impl Received {
    /// For implementors of an engine.
    #[must_use]
    pub fn new(receipt: Receipt, messages: Vec<QueueDelivery>, expired: u64) -> Self {
        Self { receipt, messages, expired }
    }
}

/// The result of a peek.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Peeked {
    /// The messages, in order.
    pub messages: Vec<QueueDelivery>,
    /// The expired messages that were met.
    pub expired: u64,
}

impl Peeked {
    /// For implementors of an engine.
    #[must_use]
    pub fn new(messages: Vec<QueueDelivery>, expired: u64) -> Self {
        Self { messages, expired }
    }
}

/// A message of a queue, as it is received.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueDelivery {
    /// Its content.
    pub content: Content,
    /// How it is delivered, without the delay, which is over. Empty in a dead-letter queue.
    pub policy: Policy,
    /// The sequence.
    pub sequence: u64,
    /// When it was sent, rejected or moved the last time.
    pub time: SystemTime,
    /// How often it was received, this time included.
    pub receives: u32,
    /// The queue that gave up on it, in a dead-letter queue.
    pub rerouted_from: Option<ChannelName>,
    /// When it expires.
    pub expires_at: Option<SystemTime>,
    /// Whether a consumer may have got it before.
    pub redelivered: bool,
}

impl QueueDelivery {
    /// For implementors of an engine.
    #[must_use]
    pub fn new(
        content: Content,
        policy: Policy,
        sequence: u64,
        time: SystemTime,
        receives: u32,
        rerouted_from: Option<ChannelName>,
        expires_at: Option<SystemTime>,
    ) -> Self {
        Self { content, policy, sequence, time, receives, rerouted_from, expires_at, redelivered: false }
    }

    /// Sets whether a consumer may have got it before.
    #[must_use]
    pub fn with_redelivered(self, redelivered: bool) -> Self {
        Self { redelivered, ..self }
    }
}

/// The messages of a receipt that an operation is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// All that it holds.
    All,
    /// These sequences, in this order.
    Sequences(Vec<u64>),
}

/// How messages of a queue are settled.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Settle {
    /// They are done, and gone.
    Ack,
    /// They go to the tail of their queue, with the receive counted; or to their dead-letter queue, when they were received as
    /// often as their policy allows. They are visible again after `delay`.
    Reject {
        /// How long they are invisible first.
        delay: Duration,
    },
    /// They return to their old place, with the receive not counted.
    Release,
    /// They move to the tail of another queue, or of the same one. Their receives are counted anew, and their expiry begins
    /// anew. The policy stays, but they are not delayed again.
    Requeue {
        /// The queue.
        to: ChannelName,
    },
    /// They are done, and this message is sent in their place: a crash leaves both or neither.
    Replace {
        /// The queue of the new message.
        to: ChannelName,
        /// The new message.
        message: Box<QueueMessage>,
        /// The queue that gave up on it, for a message that goes to a dead-letter queue.
        rerouted_from: Option<ChannelName>,
        /// How often the new message counts as received.
        receives: u32,
    },
}
