//! The operations of the log.

use super::entry::{Entry, Extra};
use super::record::{Cursor, Key};
use crate::channels::info::{ChannelKind, ChannelLimits};
use crate::channels::name::ChannelName;

/// A [`Record`](super::record::Record), with the numbers of channels in place of their names, and without the content of messages.
#[derive(Debug)]
pub(super) enum Op {
    Put {
        queue: u32,
        key: Key,
        extra: Option<Box<Extra>>,
    },
    Appended {
        stream: u32,
        sequence: u64,
    },
    CopiedInQueue {
        queue: u32,
        key: Key,
        from: u64,
    },
    CopiedInStream {
        stream: u32,
        sequence: u64,
        from: u64,
    },
    Acked {
        queue: u32,
        sequences: Vec<u64>,
    },
    Purged {
        queue: u32,
        to: u64,
        except: Vec<u64>,
    },
    Rejected {
        queue: u32,
        sequences: Vec<u64>,
        first: u64,
        time: u64,
        due: u64,
    },
    Moved {
        queue: u32,
        to: u32,
        moved: Vec<(u64, u64)>,
        first: u64,
        time: u64,
        is_dead: bool,
    },
    Woken {
        queue: u32,
        keys: Vec<(u64, u64)>,
        first: u64,
    },
    Restored {
        queue: u32,
        entries: Vec<Entry>,
    },
    Created {
        kind: ChannelKind,
        channel: ChannelName,
        limits: ChannelLimits,
    },
    /// With the sequence that was assigned last when it was begun, unless it was read from the log.
    Deleted {
        kind: ChannelKind,
        channel: ChannelName,
        last: Option<u64>,
    },
    Cursor {
        stream: u32,
        name: std::sync::Arc<str>,
        cursor: Cursor,
    },
    Forgotten {
        stream: u32,
        name: std::sync::Arc<str>,
    },
}
