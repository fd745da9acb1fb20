//! The records in the log of a router, in postcard's wire format.

use std::borrow::Cow;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::message::as_bytes;
use super::namespace::Namespace;
use super::pattern::Pattern;
use crate::util::error::BoxError;

/// The number of a queue.
pub(super) type QueueId = u32;

/// A change of a router.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Record<'a> {
    /// A message, and the queues it is in.
    #[serde(borrow)]
    Message(MessageRecord<'a>),
    /// A queue, or a queue that was changed.
    Queue(QueueRecord),
    /// Messages that left a queue.
    Progress(Progress),
    /// The end of a queue.
    Removed(QueueId),
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct MessageRecord<'a> {
    /// The number of the message in this router. It stays when the record is written again.
    pub(super) seq: u64,
    pub(super) queues: Cow<'a, [QueueId]>,
    /// Whether the message is the last value of its URI.
    pub(super) is_value: bool,
    /// The encoded message.
    #[serde(borrow)]
    pub(super) message: Cow<'a, [u8]>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct QueueRecord {
    pub(super) header: QueueHeader,
    pub(super) progress: Progress,
}

/// A queue, apart from its messages.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct QueueHeader {
    pub(super) name: QueueName,
    #[serde(with = "as_bytes")]
    pub(super) namespace: Namespace,
    #[serde(with = "as_texts")]
    pub(super) patterns: Vec<Pattern>,
    /// Only messages that were published at this router.
    pub(super) only_from: Option<String>,
    /// No messages that were published at this router.
    pub(super) not_from: Option<String>,
    /// How long the queue lives without a subscriber; `None` is forever.
    pub(super) expiry: Option<Duration>,
    pub(super) limits: QueueLimits,
}

impl QueueHeader {
    /// Stands for the header of a queue whose record is still to be read.
    pub(super) fn unknown() -> Self {
        Self {
            name: QueueName { kind: QueueKind::Dead, owner: Vec::new(), identifier: String::new() },
            namespace: Namespace::unknown(),
            patterns: Vec::new(),
            only_from: None,
            not_from: None,
            expiry: None,
            limits: QueueLimits { length: u64::MAX, bytes: u64::MAX },
        }
    }
}

/// Identifies a queue over restarts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct QueueName {
    pub(super) kind: QueueKind,
    /// The subscriber, or the router.
    pub(super) owner: Vec<u8>,
    pub(super) identifier: String,
}

/// The purpose of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum QueueKind {
    /// The queue of a subscriber.
    Subscriber,
    /// The messages for the designated router of a namespace.
    Upstream,
    /// The messages for another router.
    Peer,
    /// The dead letters of a subscriber in this process.
    Dead,
}

/// The limits of a queue, over which its oldest messages are dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueLimits {
    /// The largest number of messages.
    pub length: u64,
    /// The largest sum of the sizes of its messages, in bytes.
    pub bytes: u64,
}

/// The messages that left a queue.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Progress {
    pub(super) queue: QueueId,
    /// All messages before this number have left.
    pub(super) floor: u64,
    /// Further messages that have left.
    pub(super) removed: Vec<u64>,
    /// The number of dropped messages that no delivery has reported yet.
    pub(super) dropped: u64,
    /// When the queue expires unless a subscriber comes, in seconds since 1970; 0 while there is one, or for never.
    pub(super) expires: u64,
}

impl Record<'_> {
    pub(super) fn encode(&self) -> Result<Vec<u8>, BoxError> {
        Ok(postcard::to_stdvec(self)?)
    }
}

impl<'a> Record<'a> {
    pub(super) fn decode(bytes: &'a [u8]) -> Result<Self, BoxError> {
        Ok(postcard::from_bytes(bytes)?)
    }
}

mod as_texts {
    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    use crate::routing::Pattern;

    pub(super) fn serialize<S: Serializer>(patterns: &[Pattern], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(patterns.iter().map(Pattern::as_str))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Pattern>, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        texts.iter().map(|text| Pattern::new(text).map_err(D::Error::custom)).collect()
    }
}
