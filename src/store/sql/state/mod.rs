//! What this process knows of the stored messages: the memory behind the lock.

mod leasing;
mod reading;
mod settling;
mod sharing;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::Instant;

pub(crate) use self::leasing::Next;
pub(crate) use self::reading::DUE;
pub(crate) use self::settling::{Settling, add_failure};
use super::inserted::Place;
use super::room::Room;
use super::row::{Content, Row};
use super::share::Share;
use crate::message::Message;
use crate::store::Limits;
use crate::store::schedule::{OrderingKey, Schedule};

/// How many messages, and how many of their bytes, wait in memory for their turn.
const AHEAD_MESSAGES: usize = 1_024;
const AHEAD_BYTES: usize = 8 << 20;

/// Less than that, and more is read.
const LOW: usize = 256;

/// How many messages of one topic and key are kept in mind; the others are found when it is their turn.
const OF_A_GROUP: usize = 64;

/// How many positions are kept in mind, more or less; what waits for its retry is forgotten then, and found when it is due.
const KNOWN: usize = 50_000;

/// How many positions before the last one are looked at again: what was committed late has a lower position.
const LOOKBACK: u64 = 1_000;

/// How long after some traffic, and how long without, everything is looked at: what was committed very late, or elsewhere.
const SWEEP_BUSY: Duration = Duration::from_secs(2);
const SWEEP_IDLE: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) closed: bool,
    pub(crate) room: Room,
    share: watch::Receiver<Share>,
    /// The buckets, with their tokens, and until when they are held.
    held: BTreeMap<i16, i64>,
    until: Option<Instant>,
    /// Some of the share is not held yet.
    deferred: bool,
    schedule: Schedule,
    /// Those that are not to be read again.
    known: BTreeMap<u64, Known>,
    /// Read, and not given out.
    ready: BTreeMap<u64, Row>,
    ready_bytes: usize,
    out: HashMap<u64, Out>,
    /// Groups of which there is more than is known.
    more: HashSet<OrderingKey>,
    /// Those that have gone while a read is under way, which may still find them.
    gone: Option<HashSet<u64>>,
    /// Everything up to there has been read.
    cursor: u64,
    /// The reading goes on from there, if that is lower.
    rewound: Option<u64>,
    /// The last read has found the end.
    caught_up: bool,
    /// How often something has come that is to be read; and up to which time it was.
    wakes: u64,
    seen: u64,
    /// The last position that was handed over.
    newest: u64,
    next_due: Option<Instant>,
    sweep: Sweep,
}

/// Why a position is not to be read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    /// It stands in a transaction of ours.
    Reserved(i16),
    /// It is in `schedule`.
    Here(i16),
    /// It is being dropped.
    Condemned,
}

/// A message that is out.
#[derive(Debug)]
struct Out {
    /// Of its lease.
    token: u64,
    bucket: i16,
    /// The token of the bucket.
    fence: i64,
    failures: Option<String>,
    settling: bool,
}

#[derive(Debug)]
struct Sweep {
    at: Instant,
    /// Up to where it has come, while it goes on.
    from: u64,
    /// Something has come since the last.
    busy: bool,
}

impl State {
    pub(crate) fn new(limits: Limits, share: watch::Receiver<Share>) -> Self {
        Self {
            closed: false,
            room: Room::new(limits),
            share,
            held: BTreeMap::new(),
            until: None,
            deferred: false,
            schedule: Schedule::default(),
            known: BTreeMap::new(),
            ready: BTreeMap::new(),
            ready_bytes: 0,
            out: HashMap::new(),
            more: HashSet::new(),
            gone: None,
            cursor: 0,
            rewound: None,
            caught_up: false,
            wakes: 0,
            seen: 0,
            newest: 0,
            next_due: Some(Instant::now()),
            sweep: Sweep { at: Instant::now() + SWEEP_BUSY, from: 0, busy: false },
        }
    }

    // --- positions

    /// Forgets a position in every way: it is there no more, or no more ours. If a read under way finds it, and it is ours
    /// again, it is to be taken: what is behind it must not pass it.
    fn forget(&mut self, position: u64) {
        self.schedule.abandon(position);
        if let Some(row) = self.ready.remove(&position) {
            self.ready_bytes -= row.size as usize;
        }
        self.unknow(position);
    }

    fn unknow(&mut self, position: u64) {
        self.known.remove(&position);
    }

    /// A position is settled, or put off: a read that is under way may still find it as it was.
    fn be_gone(&mut self, position: u64) {
        if self.known.remove(&position).is_some()
            && let Some(gone) = &mut self.gone
        {
            gone.insert(position);
        }
    }

    /// What stands from there on is to be read, or read again.
    fn rewind(&mut self, position: u64) {
        self.rewound = Some(self.rewound.map_or(position, |rewound| rewound.min(position)));
        self.wakes += 1;
    }

    /// Something is there to be read.
    pub(crate) fn wake(&mut self) {
        self.wakes += 1;
        self.sweep.busy = true;
    }

    /// Something may be there that was not counted.
    pub(crate) fn count_soon(&mut self) {
        self.room.count_soon();
        self.sweep.at = self.sweep.at.min(Instant::now() + SWEEP_BUSY);
    }

    /// Something may be due that was not before.
    pub(crate) fn look_for_due(&mut self, at: Instant) {
        self.next_due = Some(self.next_due.map_or(at, |next| next.min(at)));
    }

    fn has_room(&self) -> bool {
        self.ready.len() < AHEAD_MESSAGES && self.ready_bytes < AHEAD_BYTES
    }

    #[cfg(test)]
    pub(crate) fn known(&self) -> usize {
        self.known.len() + self.out.len() + self.ready.len()
    }

    // --- the hand-over

    /// Marks what stands in a transaction of ours, so that it is not read before it is handed over; says whether it did.
    pub(crate) fn reserve(&mut self, position: u64, bucket: i16) -> bool {
        let wanted = self.caught_up && self.held.contains_key(&bucket) && self.known.len() < KNOWN;
        wanted && self.known.insert(position, Known::Reserved(bucket)).is_none()
    }

    /// Undoes it.
    pub(crate) fn unreserve(&mut self, position: u64) {
        if let Some(Known::Reserved(_)) = self.known.get(&position) {
            self.known.remove(&position);
            self.rewind(position.saturating_sub(1));
        }
    }

    /// Takes over what is committed.
    pub(crate) fn hand_over(&mut self, place: &Place, message: Message, now: Instant) {
        self.sweep.busy = true;
        if !place.wait.is_zero() {
            return self.look_for_due(now + place.wait);
        }
        if !place.reserved {
            return self.wake();
        }
        if self.known.get(&place.position) != Some(&Known::Reserved(place.bucket)) {
            // It is being dropped, or no longer ours.
            return;
        }
        if !self.sync_share(now) || !self.held.contains_key(&place.bucket) || !self.has_room() {
            return self.unreserve(place.position);
        }
        self.newest = self.newest.max(place.position);
        self.arrive(Row {
            position: place.position,
            bucket: place.bucket,
            key_hash: None,
            size: place.size,
            wait: Duration::ZERO,
            attempts: 0,
            failures: None,
            content: Content::Message(message),
        });
    }

    /// Whether a bucket is another's to send.
    pub(crate) fn is_elsewhere(&self, bucket: i16) -> bool {
        !self.held.contains_key(&bucket)
    }
}

/// How long a message is still held back; a clock that jumped cannot make it longer than its delay.
pub(crate) fn delay_left(message: &Message, now: SystemTime) -> Duration {
    let Some(delay) = message.delay() else { return Duration::ZERO };
    let left = delay.saturating_sub(now.duration_since(message.time()).unwrap_or_default());
    left.min(CENTURY)
}

/// What is beyond all clocks is a century away.
const CENTURY: Duration = crate::util::deadline::FOR_EVER;

#[cfg(test)]
mod tests;
