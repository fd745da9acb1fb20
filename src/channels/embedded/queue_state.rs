//! The messages of one queue, in memory.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Notify;

use super::entry::{Entry, Location};
use super::segments::LiveSegments;
use crate::channels::info::{ChannelLimits, Traffic};
use crate::channels::name::ChannelName;
use crate::channels::queue_types::Policy;

/// One queue.
///
/// A message is in one of four places: among the ready ones that nobody has received yet, among the ones that were released,
/// held by a receipt, or delayed. The log knows only whether it is delayed.
pub(super) struct Queue {
    pub(super) name: ChannelName,
    pub(super) limits: ChannelLimits,
    /// Whether it was used or created since it was deleted.
    pub(super) exists: bool,
    /// The sequence that was assigned last.
    pub(super) last: u64,
    /// The number that was given to a delayed message last.
    pub(super) last_delayed: u64,
    /// The messages that nobody has received yet, by sequence; some are gone.
    pub(super) ready: VecDeque<Entry>,
    /// The ones in `ready` that are gone.
    gone: usize,
    /// The messages that were released. Their sequences are before those of `ready`.
    pub(super) returned: BTreeMap<u64, Entry>,
    pub(super) held: HashMap<u64, Held>,
    /// By the time they are due, and their number.
    pub(super) delayed: BTreeMap<(u64, u64), Entry>,
    /// The times at which visible messages expire, and their sequences.
    pub(super) expiring: BTreeSet<(u64, u64)>,
    /// The bytes of all records.
    pub(super) bytes: u64,
    /// The messages that expired since the last receive.
    pub(super) expired: u64,
    /// Sequences up to this one may have been delivered before the engine was opened.
    pub(super) old: u64,
    /// Wakes a consumer that waits.
    pub(super) arrived: Arc<Notify>,
    /// The calls that use the queue: consumers that wait.
    pub(super) users: usize,
    /// When such a call ended, or a message was sent; or when the engine was opened.
    pub(super) used: Instant,
    pub(super) incoming: Traffic,
    pub(super) outgoing: Traffic,
    pub(super) last_activity: u64,
    /// The time of the queue's timer.
    pub(super) timer: Option<u64>,
    /// Whether delayed messages are on their way to become visible.
    pub(super) is_waking: bool,
}

/// A message that a receipt holds.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) entry: Entry,
    pub(super) receipt: u64,
    /// When it counts as rejected.
    pub(super) deadline: Option<Instant>,
    /// Its policy, if it has one and it counts.
    pub(super) policy: Option<Box<Policy>>,
    /// Whether its settlement is being written.
    pub(super) is_settling: bool,
}

impl Queue {
    pub(super) fn new(name: ChannelName) -> Self {
        Self {
            name,
            limits: ChannelLimits::default(),
            exists: true,
            last: 0,
            last_delayed: 0,
            ready: VecDeque::new(),
            gone: 0,
            returned: BTreeMap::new(),
            held: HashMap::new(),
            delayed: BTreeMap::new(),
            expiring: BTreeSet::new(),
            bytes: 0,
            expired: 0,
            old: 0,
            arrived: Arc::default(),
            users: 0,
            used: Instant::now(),
            incoming: Traffic::default(),
            outgoing: Traffic::default(),
            last_activity: 0,
            timer: None,
            is_waking: false,
        }
    }

    /// Returns the number of visible messages.
    pub(super) fn visible(&self) -> usize {
        self.ready.len() - self.gone + self.returned.len()
    }

    /// Returns the number of messages.
    pub(super) fn messages(&self) -> usize {
        self.visible() + self.held.len() + self.delayed.len()
    }

    /// Whether it is empty, and nothing refers to it.
    pub(super) fn is_unused(&self) -> bool {
        self.messages() == 0 && self.users == 0 && self.timer.is_none() && !self.is_waking
    }

    /// Returns the next sequence.
    pub(super) fn assign(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// Returns the next number of a delayed message.
    pub(super) fn assign_delayed(&mut self) -> u64 {
        self.last_delayed += 1;
        self.last_delayed
    }

    /// Adds a message at the tail.
    pub(super) fn add(&mut self, entry: Entry) {
        // It may have been deleted since the message was sent.
        self.exists = true;
        self.last = self.last.max(entry.sequence);
        if entry.expires() > 0 {
            self.expiring.insert((entry.expires(), entry.sequence));
        }
        match self.ready.back() {
            // A batch that failed leaves a gap; an order that is not ours is damage.
            Some(last) if last.sequence >= entry.sequence => {
                self.returned.insert(entry.sequence, entry);
            }
            _ => self.ready.push_back(entry),
        }
        self.arrived.notify_one();
    }

    /// Adds a message that becomes visible at `key.0`.
    pub(super) fn add_delayed(&mut self, key: (u64, u64), entry: Entry) {
        self.exists = true;
        self.last_delayed = self.last_delayed.max(key.1);
        self.delayed.insert(key, entry);
    }

    /// Takes a message out, wherever it is.
    pub(super) fn remove(&mut self, sequence: u64) -> Option<Entry> {
        let entry = match self.held.remove(&sequence) {
            Some(held) => Some(held.entry),
            None => self.returned.remove(&sequence).or_else(|| self.remove_ready(sequence)),
        }?;
        if entry.expires() > 0 {
            self.expiring.remove(&(entry.expires(), sequence));
        }
        Some(entry)
    }

    fn remove_ready(&mut self, sequence: u64) -> Option<Entry> {
        let at = self.ready.binary_search_by_key(&sequence, |entry| entry.sequence).ok()?;
        let entry = &mut self.ready[at];
        if entry.place.is_gone() {
            return None;
        }
        let gone = Entry { sequence, place: Location::default(), extra: None };
        let entry = std::mem::replace(entry, gone);
        self.gone += 1;
        self.drop_gone();
        Some(entry)
    }

    /// Frees the memory of messages that are gone.
    fn drop_gone(&mut self) {
        while self.ready.front().is_some_and(|entry| entry.place.is_gone()) {
            self.ready.pop_front();
            self.gone -= 1;
        }
        if self.gone > 64 && self.gone > self.ready.len() / 2 {
            self.ready.retain(|entry| !entry.place.is_gone());
            self.gone = 0;
        }
        if self.ready.capacity() > 1_024 && self.ready.len() < self.ready.capacity() / 4 {
            self.ready.shrink_to(self.ready.len() * 2);
        }
    }

    /// Returns a message wherever it is, to change where its record is.
    pub(super) fn find(&mut self, sequence: u64) -> Option<&mut Entry> {
        if let Some(held) = self.held.get_mut(&sequence) {
            return Some(&mut held.entry);
        }
        if let Some(entry) = self.returned.get_mut(&sequence) {
            return Some(entry);
        }
        let at = self.ready.binary_search_by_key(&sequence, |entry| entry.sequence).ok()?;
        Some(&mut self.ready[at]).filter(|entry| !entry.place.is_gone())
    }

    /// Takes the visible message at the head, and whether it may have been delivered before.
    pub(super) fn pop(&mut self) -> Option<(Entry, bool)> {
        if let Some((_, entry)) = self.returned.pop_first() {
            return Some((entry, true));
        }
        loop {
            let entry = self.ready.pop_front()?;
            if entry.place.is_gone() {
                self.gone -= 1;
                continue;
            }
            self.drop_gone();
            let is_old = entry.sequence <= self.old;
            return Some((entry, is_old));
        }
    }

    /// Returns the size of the visible message at the head.
    pub(super) fn next_len(&self) -> u64 {
        self.iter_visible().next().map_or(0, |entry| u64::from(entry.place.len))
    }

    /// Hands a held message back to its old place.
    pub(super) fn give_back(&mut self, sequence: u64) {
        if let Some(held) = self.held.remove(&sequence) {
            self.returned.insert(sequence, held.entry);
            self.arrived.notify_one();
        }
    }

    /// Returns the visible messages in order.
    pub(super) fn iter_visible(&self) -> impl Iterator<Item = &Entry> {
        self.returned.values().chain(self.ready.iter().filter(|entry| !entry.place.is_gone()))
    }

    /// Returns all messages that are not delayed, in no order.
    pub(super) fn iter_settled(&self) -> impl Iterator<Item = &Entry> {
        self.iter_visible().chain(self.held.values().map(|held| &held.entry))
    }

    /// Removes the visible messages that have expired; held ones can still be settled.
    pub(super) fn drop_expired(&mut self, now: u64, segments: &mut LiveSegments) {
        while let Some((expires, sequence)) = self.expiring.first().copied()
            && expires <= now
        {
            self.expiring.pop_first();
            let entry = self.returned.remove(&sequence).or_else(|| self.remove_ready(sequence));
            if let Some(entry) = entry {
                self.uncount(entry.place, segments);
                self.expired += 1;
                crate::telemetry::channel_expired(self.name.as_str());
            }
        }
    }

    pub(super) fn count(&mut self, place: Location, segments: &mut LiveSegments) {
        self.bytes += u64::from(place.len);
        segments.count(place);
    }

    pub(super) fn uncount(&mut self, place: Location, segments: &mut LiveSegments) {
        self.bytes = self.bytes.saturating_sub(u64::from(place.len));
        segments.uncount(place);
    }

    /// Forgets all messages.
    pub(super) fn clear(&mut self, segments: &mut LiveSegments) {
        let places: Vec<Location> =
            self.iter_settled().chain(self.delayed.values()).map(|entry| entry.place).collect();
        for place in places {
            self.uncount(place, segments);
        }
        self.ready = VecDeque::new();
        self.gone = 0;
        self.returned.clear();
        self.held.clear();
        self.delayed.clear();
        self.expiring.clear();
        self.bytes = 0;
    }

    /// Returns when something is due without a consumer.
    pub(super) fn next_timer(&self) -> Option<u64> {
        let delayed = self.delayed.first_key_value().filter(|_| !self.is_waking).map(|((due, _), _)| *due);
        let expiring = self.expiring.first().map(|(expires, _)| *expires);
        [delayed, expiring].into_iter().flatten().min()
    }
}
