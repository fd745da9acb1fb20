//! A queue or stream that this engine uses.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use async_nats::Subject;

use super::connection::Connection;
use super::info::StreamInfo;
use super::pull::Puller;
use super::returning::Returning;
use crate::channels::info::{ChannelInfo, ChannelLimits, Traffic};
use crate::channels::name::ChannelName;
use crate::util::sync::lock;

/// The most idle subscriptions of a queue.
const IDLE_PULLERS: usize = 16;

static NUMBERS: AtomicU64 = AtomicU64::new(0);

/// The parts that queues and streams share.
pub(super) struct ChannelInUse {
    pub(super) name: ChannelName,
    /// The name, encoded.
    pub(super) word: String,
    pub(super) stream: String,
    /// When its stream was created, by which another one is known.
    pub(super) created: String,
    before: u64,
    limits: Mutex<ChannelLimits>,
    pub(super) counted: Mutex<Counted>,
    users: Arc<AtomicUsize>,
}

/// The messages in and out of this engine.
#[derive(Default)]
pub(super) struct Counted {
    pub(super) incoming: Traffic,
    pub(super) outgoing: Traffic,
    pub(super) last_activity: Option<SystemTime>,
}

impl ChannelInUse {
    pub(super) fn new(name: ChannelName, word: String, stream: String, info: &StreamInfo) -> Self {
        Self {
            name,
            word,
            stream,
            created: info.created.clone(),
            before: info.before(),
            limits: Mutex::new(info.limits()),
            counted: Mutex::default(),
            users: Arc::default(),
        }
    }

    /// The sequence in the channel of a message that has this one in the stream. It wraps around, so that each is another one also when
    /// the stream was made anew.
    pub(super) fn sequence(&self, in_stream: u64) -> u64 {
        in_stream.wrapping_sub(self.before)
    }

    /// The sequence in the stream of a message that has this one in the channel.
    pub(super) fn in_stream(&self, sequence: u64) -> u64 {
        self.before.wrapping_add(sequence)
    }

    pub(super) fn limits(&self) -> ChannelLimits {
        *lock(&self.limits)
    }

    pub(super) fn set_limits(&self, limits: ChannelLimits) {
        *lock(&self.limits) = limits;
    }

    /// Counts a consumer that waits, or a subscriber.
    pub(super) fn used(&self) -> Use {
        self.users.fetch_add(1, Ordering::Relaxed);
        Use(Arc::clone(&self.users))
    }

    pub(super) fn count_in(&self, bytes: usize) {
        let mut counted = lock(&self.counted);
        counted.incoming.add(bytes);
        counted.last_activity = Some(SystemTime::now());
    }

    pub(super) fn count_out(&self, bytes: usize) {
        let mut counted = lock(&self.counted);
        counted.outgoing.add(bytes);
        counted.last_activity = Some(SystemTime::now());
    }

    pub(super) fn describe(&self, info: &mut ChannelInfo) {
        let counted = lock(&self.counted);
        info.incoming = counted.incoming;
        info.outgoing = counted.outgoing;
        info.last_activity = counted.last_activity;
        info.subscribers = self.users.load(Ordering::Relaxed);
    }
}

/// A queue.
pub(super) struct QueueInUse {
    place: ChannelInUse,
    subjects: String,
    /// Tells the queues of one name apart.
    pub(super) number: u64,
    /// The messages that expired since the last receive.
    pub(super) expired: AtomicU64,
    pullers: Mutex<Vec<Puller>>,
    pub(super) returning: Returning,
    /// Where messages are handed back, in their order, and whose turn it is to do so.
    pub(super) released: Mutex<Vec<Subject>>,
    pub(super) turn: tokio::sync::Mutex<()>,
}

impl std::ops::Deref for QueueInUse {
    type Target = ChannelInUse;

    fn deref(&self) -> &ChannelInUse {
        &self.place
    }
}

impl QueueInUse {
    /// `subjects` is the beginning of the subjects of its messages.
    pub(super) fn new(place: ChannelInUse, subjects: String) -> Self {
        Self {
            place,
            subjects,
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
            expired: AtomicU64::new(0),
            pullers: Mutex::default(),
            returning: Returning::default(),
            released: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        }
    }

    /// The subject of a message.
    pub(super) fn subject(&self, word: &str) -> String {
        format!("{}.{word}", self.subjects)
    }

    pub(super) fn idle_puller(&self, connection: &Connection) -> Option<Puller> {
        let mut pullers = lock(&self.pullers);
        pullers.retain(|puller| puller.is_of(connection));
        pullers.pop()
    }

    /// Keeps a puller for the next receive; returns one that cannot be kept.
    pub(super) fn keep_puller(&self, puller: Puller) -> Option<Puller> {
        let mut pullers = lock(&self.pullers);
        if !puller.is_clean() || pullers.len() >= IDLE_PULLERS {
            return Some(puller);
        }
        pullers.push(puller);
        None
    }
}

/// A use of a channel, as long as it lives.
pub(super) struct Use(Arc<AtomicUsize>);

impl Drop for Use {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
