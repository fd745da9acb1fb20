//! The messages of the tables, as far as this process has them in memory.

mod assigning;
mod leasing;
mod reading;
mod settling;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::Instant;

pub(crate) use self::leasing::Next;
pub(crate) use self::reading::DUE;
pub(crate) use self::settling::{Settling, add_failure};
use super::assignment::Assignment;
use super::placed::Placed;
use super::row::{Content, Row};
use super::shared_capacity::SharedCapacity;
use crate::message::Message;
use crate::store::Limits;
use crate::store::schedule::{OrderingKey, Schedule};
use crate::util::deadline::FOR_EVER;

/// How many messages, and how many of their bytes, are read ahead.
const AHEAD_MESSAGES: usize = 1_024;
const AHEAD_BYTES: usize = 8 << 20;

/// With fewer messages in memory more are read.
const LOW: usize = 256;

/// How many positions of one key are in memory. Later ones are found when these have left.
const PER_KEY: usize = 64;

/// About how many positions are in memory. Beyond that, messages that wait for a retry are forgotten and found when they are due.
const KNOWN: usize = 50_000;

/// How many positions before the last one are read again: a transaction that was committed late has a lower position.
const LOOKBACK: u64 = 1_000;

/// How long after some traffic, and how long without, everything is read again, for messages that were committed very late or by
/// other processes.
const SWEEP_BUSY: Duration = Duration::from_secs(2);
const SWEEP_IDLE: Duration = Duration::from_secs(30);

/// The messages of the tables, as far as this process has them in memory.
#[derive(Debug)]
pub(crate) struct SqlSchedule {
    pub(crate) closed: bool,
    pub(crate) capacity: SharedCapacity,
    assignment: watch::Receiver<Assignment>,
    /// The assigned partitions with their fencing tokens, and until when it may rely on them.
    held: BTreeMap<i16, i64>,
    until: Option<Instant>,
    /// Whether some assigned partitions are not held yet, as messages of before are still leased.
    deferred: bool,
    schedule: Schedule,
    /// The positions that are not read again.
    known: BTreeMap<u64, Known>,
    /// Messages that are in memory and not leased.
    ready: BTreeMap<u64, Row>,
    ready_bytes: usize,
    leased: HashMap<u64, LeasedRow>,
    /// Keys that have more messages than are known.
    more: HashSet<OrderingKey>,
    /// Positions that were removed while a read is under way, which may still find them.
    removed: Option<HashSet<u64>>,
    /// Everything up to this position has been read.
    cursor: u64,
    /// The next read starts behind this position instead, if it is lower.
    rewound: Option<u64>,
    /// Whether the last read has found the end.
    caught_up: bool,
    /// How often there was something to be read, and up to which of these times it was read.
    wakes: u64,
    seen: u64,
    /// The highest position that was handed over.
    newest: u64,
    next_due: Option<Instant>,
    sweep: Sweep,
}

/// Why a position is not read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    /// It is in a transaction of this process that has not ended.
    Reserved(i16),
    /// It is in `schedule`.
    Scheduled(i16),
    /// It is being dropped.
    Dropping,
}

/// A message that is leased.
#[derive(Debug)]
struct LeasedRow {
    /// The token of its lease.
    token: u64,
    partition: i16,
    /// The fencing token of the partition when it was leased.
    fencing_token: i64,
    failures: Option<String>,
    settling: bool,
}

#[derive(Debug)]
struct Sweep {
    at: Instant,
    /// The position that it has reached, if it continues.
    from: u64,
    /// Whether messages have come since the last.
    busy: bool,
}

impl SqlSchedule {
    pub(crate) fn new(limits: Limits, assignment: watch::Receiver<Assignment>) -> Self {
        Self {
            closed: false,
            capacity: SharedCapacity::new(limits),
            assignment,
            held: BTreeMap::new(),
            until: None,
            deferred: false,
            schedule: Schedule::default(),
            known: BTreeMap::new(),
            ready: BTreeMap::new(),
            ready_bytes: 0,
            leased: HashMap::new(),
            more: HashSet::new(),
            removed: None,
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

    /// Removes all in-memory state of this position. A concurrent read may add it again if the partition is ours again; otherwise
    /// later messages of its key could overtake it.
    fn forget(&mut self, position: u64) {
        self.schedule.abandon(position);
        if let Some(row) = self.ready.remove(&position) {
            self.ready_bytes -= row.size as usize;
        }
        self.known.remove(&position);
    }

    /// Notes that a position is settled or put off. A read under way may still find it as it was.
    fn mark_removed(&mut self, position: u64) {
        if self.known.remove(&position).is_some()
            && let Some(removed) = &mut self.removed
        {
            removed.insert(position);
        }
    }

    /// Lets the next read start behind this position.
    fn rewind(&mut self, position: u64) {
        self.rewound = Some(self.rewound.map_or(position, |rewound| rewound.min(position)));
        self.wakes += 1;
    }

    /// Notes that there may be something to read.
    pub(crate) fn wake(&mut self) {
        self.wakes += 1;
        self.sweep.busy = true;
    }

    /// Notes that messages may have been stored that were not counted.
    pub(crate) fn count_soon(&mut self) {
        self.capacity.count_soon();
        self.sweep.at = self.sweep.at.min(Instant::now() + SWEEP_BUSY);
    }

    /// Lets messages with a due time be read at this time, or earlier.
    pub(crate) fn look_for_due(&mut self, at: Instant) {
        self.next_due = Some(self.next_due.map_or(at, |next| next.min(at)));
    }

    fn has_room(&self) -> bool {
        self.ready.len() < AHEAD_MESSAGES && self.ready_bytes < AHEAD_BYTES
    }

    #[cfg(test)]
    pub(crate) fn known(&self) -> usize {
        self.known.len() + self.leased.len() + self.ready.len()
    }

    // --- messages of this process

    /// Reserves the position of a message in a transaction of this process, so that it is not read before it is handed over.
    /// Returns whether it did.
    pub(crate) fn reserve(&mut self, position: u64, partition: i16) -> bool {
        let wanted = self.caught_up && self.held.contains_key(&partition) && self.known.len() < KNOWN;
        wanted && self.known.insert(position, Known::Reserved(partition)).is_none()
    }

    /// Ends a reservation, so that the position is read.
    pub(crate) fn unreserve(&mut self, position: u64) {
        if let Some(Known::Reserved(_)) = self.known.get(&position) {
            self.known.remove(&position);
            self.rewind(position.saturating_sub(1));
        }
    }

    /// Takes over a message that was committed.
    pub(crate) fn hand_over(&mut self, placed: &Placed, message: Message, now: Instant) {
        self.sweep.busy = true;
        if !placed.wait.is_zero() {
            return self.look_for_due(now + placed.wait);
        }
        if !placed.reserved {
            return self.wake();
        }
        if self.known.get(&placed.position) != Some(&Known::Reserved(placed.partition)) {
            // It is being dropped, or its partition is no longer ours.
            return;
        }
        if !self.sync_assignment(now) || !self.held.contains_key(&placed.partition) || !self.has_room() {
            return self.unreserve(placed.position);
        }
        self.newest = self.newest.max(placed.position);
        self.arrive(Row {
            position: placed.position,
            partition: placed.partition,
            key_hash: None,
            size: placed.size,
            wait: Duration::ZERO,
            attempts: 0,
            failures: None,
            content: Content::Message(message),
        });
    }

    /// Whether another instance sends the messages of a partition.
    pub(crate) fn is_of_other_instance(&self, partition: i16) -> bool {
        !self.held.contains_key(&partition)
    }
}

/// Returns how much of its delay a message has left. A clock that jumped cannot make it longer than the delay.
pub(crate) fn delay_left(message: &Message, now: SystemTime) -> Duration {
    let Some(delay) = message.delay() else { return Duration::ZERO };
    let left = delay.saturating_sub(now.duration_since(message.time()).unwrap_or_default());
    left.min(FOR_EVER)
}

#[cfg(test)]
mod tests;
