//! The records of the log: messages, and what happens to them. Payloads are in postcard's wire format.
//!
//! A record names channels and sequences in full, so that a damaged record harms only the messages that it is about.

use serde::{Deserialize, Serialize, Serializer};

use super::entry::Entry;
use crate::channels::content::Content;
use crate::channels::info::{ChannelKind, ChannelLimits};
use crate::log::record::push_record;
use crate::util::error::BoxError;

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Record<'a> {
    /// A message.
    #[serde(borrow)]
    Put(Put<'a>),
    /// A message that was written again, so that the file of its old record can be deleted. It names the channel that it is in now.
    Copied {
        /// The position of its old record.
        from: u64,
        key: Key,
        #[serde(borrow)]
        put: Put<'a>,
    },
    /// Messages of a queue are done.
    Acked {
        queue: &'a str,
        sequences: Vec<u64>,
    },
    /// All messages of a queue up to a sequence are done, but these.
    Purged {
        queue: &'a str,
        to: u64,
        except: Vec<u64>,
    },
    /// Messages went to the tail of their queue, as sequences from `first` on; or, with a time `due`, as delayed ones.
    Rejected {
        queue: &'a str,
        sequences: Vec<u64>,
        first: u64,
        time: u64,
        due: u64,
    },
    /// Messages went to the tail of another queue, as sequences from `first` on. Each has its new expiry.
    Moved {
        queue: &'a str,
        to: &'a str,
        moved: Vec<(u64, u64)>,
        first: u64,
        time: u64,
        is_dead: bool,
    },
    /// Delayed messages became visible, as sequences from `first` on.
    Woken {
        queue: &'a str,
        keys: Vec<(u64, u64)>,
        first: u64,
    },
    /// Messages are back that were acknowledged on behalf of a consumer that has gone.
    Restored {
        queue: &'a str,
        entries: Vec<Entry>,
    },
    /// A channel was created.
    Created {
        kind: Kind,
        channel: &'a str,
        limits: Limits,
    },
    Deleted {
        kind: Kind,
        channel: &'a str,
    },
    /// The place of a durable subscription.
    Cursor {
        stream: &'a str,
        name: &'a str,
        cursor: Cursor,
    },
    /// A durable subscription is gone.
    Forgotten {
        stream: &'a str,
        name: &'a str,
    },
}

/// Which message of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Key {
    Queue(u64),
    /// The time it is due, and its number among the delayed ones.
    Delayed(u64, u64),
    Stream(u64),
}

/// The place of a subscription in a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Cursor {
    /// The next sequence to deliver.
    pub(super) next: u64,
    /// The sequences that were delivered and not acknowledged.
    pub(super) pending: Vec<u64>,
}

/// A message. Times are nanoseconds since 1970, and 0 is none.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Put<'a> {
    pub(super) key: Key,
    pub(super) channel: &'a str,
    pub(super) time: u64,
    pub(super) expires: u64,
    pub(super) receives: u32,
    pub(super) max_receives: u32,
    pub(super) dead_letter: Option<&'a str>,
    /// The expiry of the policy, in nanoseconds.
    pub(super) expiry: u64,
    pub(super) rerouted_from: Option<&'a str>,
    pub(super) id: &'a str,
    pub(super) client: &'a str,
    pub(super) metadata: &'a str,
    pub(super) tags: Vec<(&'a str, &'a str)>,
    #[serde(serialize_with = "as_bytes")]
    pub(super) body: &'a [u8],
}

fn as_bytes<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bytes(bytes)
}

impl<'a> Put<'a> {
    /// A message without a policy.
    pub(super) fn new(key: Key, channel: &'a str, time: u64, content: &'a Content) -> Self {
        Self {
            key,
            channel,
            time,
            expires: 0,
            receives: 0,
            max_receives: 0,
            dead_letter: None,
            expiry: 0,
            rerouted_from: None,
            id: &content.id,
            client: &content.client,
            metadata: &content.metadata,
            tags: content.tags.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect(),
            body: &content.body,
        }
    }
}

/// Appends a record, which does not end its batch.
pub(super) fn push(records: &mut Vec<u8>, seed: u32, record: &Record<'_>) -> Result<(), BoxError> {
    push_record(records, seed, false, |records| {
        let taken = std::mem::take(records);
        *records = postcard::to_extend(record, taken)?;
        Ok(())
    })
}

pub(super) fn decode(payload: &[u8]) -> Result<Record<'_>, BoxError> {
    let record = postcard::from_bytes(payload)?;
    match &record {
        Record::Put(put) | Record::Copied { put, .. } => match put.key {
            Key::Queue(number) | Key::Delayed(_, number) | Key::Stream(number) => check(number)?,
        },
        Record::Rejected { first, .. } | Record::Moved { first, .. } | Record::Woken { first, .. } => {
            check(*first)?;
        }
        Record::Restored { entries, .. } => entries.iter().try_for_each(|entry| check(entry.sequence))?,
        Record::Cursor { cursor, .. } => check(cursor.next)?,
        _ => {}
    }
    Ok(record)
}

/// Refuses a sequence that no channel reaches: counting on from it would overflow.
pub(super) fn check(sequence: u64) -> Result<(), BoxError> {
    if sequence < 1 << 62 { Ok(()) } else { Err("it has a sequence that no channel reaches".into()) }
}

/// A [`ChannelKind`] on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Kind {
    Queue,
    Stream,
    Events,
    Commands,
    Queries,
}

impl From<ChannelKind> for Kind {
    fn from(kind: ChannelKind) -> Self {
        match kind {
            ChannelKind::Queue => Self::Queue,
            ChannelKind::Stream => Self::Stream,
            ChannelKind::Events => Self::Events,
            ChannelKind::Commands => Self::Commands,
            ChannelKind::Queries => Self::Queries,
        }
    }
}

impl From<Kind> for ChannelKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Queue => Self::Queue,
            Kind::Stream => Self::Stream,
            Kind::Events => Self::Events,
            Kind::Commands => Self::Commands,
            Kind::Queries => Self::Queries,
        }
    }
}

/// [`ChannelLimits`] on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Limits {
    max_age: Option<std::time::Duration>,
    max_messages: Option<u64>,
    max_bytes: Option<u64>,
}

impl From<ChannelLimits> for Limits {
    fn from(limits: ChannelLimits) -> Self {
        let ChannelLimits { max_age, max_messages, max_bytes } = limits;
        Self { max_age, max_messages, max_bytes }
    }
}

impl From<Limits> for ChannelLimits {
    fn from(limits: Limits) -> Self {
        let Limits { max_age, max_messages, max_bytes } = limits;
        Self { max_age, max_messages, max_bytes }
    }
}
