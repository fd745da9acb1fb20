//! The messages of one stream, in memory, and the places of its subscriptions.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Notify;

use super::entry::Location;
use super::record::Cursor;
use super::segments::LiveSegments;
use crate::channels::info::{ChannelLimits, Traffic};
use crate::channels::name::ChannelName;

/// The most messages of a group that are delivered and not acknowledged.
pub(super) const WINDOW: usize = 1_024;

/// One stream. 16 bytes for each message.
pub(super) struct Stream {
    pub(super) name: ChannelName,
    pub(super) limits: ChannelLimits,
    /// Whether it was used or created since it was deleted.
    pub(super) exists: bool,
    /// The sequence that was assigned last.
    pub(super) assigned: u64,
    /// The sequence of the first of `places`.
    pub(super) first: u64,
    /// Where the messages are; a place that is gone is one that could not be stored.
    pub(super) places: VecDeque<Location>,
    pub(super) bytes: u64,
    /// When the first message was appended, once it was asked for: its sequence, and the time.
    pub(super) first_time: Option<(u64, u64)>,
    /// The places of durable subscriptions, as the log has them.
    pub(super) cursors: HashMap<Arc<str>, Cursor>,
    /// The subscriptions and the groups there are now, by their names.
    pub(super) groups: HashMap<Arc<str>, Group>,
    pub(super) incoming: Traffic,
    pub(super) outgoing: Traffic,
    pub(super) last_activity: u64,
    /// The calls that use the stream.
    pub(super) users: usize,
    /// When such a call or a subscription ended, or a message was appended; or when the engine was opened.
    pub(super) used: Instant,
    /// Since when durable names have no subscriber, as far as it was looked at.
    pub(super) unused: HashMap<Arc<str>, Instant>,
}

/// A subscription, or a group of them, that shares one place.
#[derive(Default)]
pub(super) struct Group {
    pub(super) members: usize,
    pub(super) is_durable: bool,
    /// The next sequence to deliver.
    pub(super) next: u64,
    /// Messages that were delivered and not acknowledged, with the member that has each.
    pub(super) outstanding: BTreeMap<u64, Outstanding>,
    /// Messages to deliver again.
    pub(super) again: BTreeMap<u64, Again>,
    /// Wakes a member that waits.
    pub(super) arrived: Arc<Notify>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Outstanding {
    pub(super) member: u64,
    pub(super) attempt: u32,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Again {
    pub(super) due: Instant,
    /// The number of the next attempt.
    pub(super) attempt: u32,
}

impl Stream {
    pub(super) fn new(name: ChannelName) -> Self {
        Self {
            name,
            limits: ChannelLimits::default(),
            exists: true,
            assigned: 0,
            first: 1,
            places: VecDeque::new(),
            bytes: 0,
            first_time: None,
            cursors: HashMap::new(),
            groups: HashMap::new(),
            incoming: Traffic::default(),
            outgoing: Traffic::default(),
            last_activity: 0,
            users: 0,
            used: Instant::now(),
            unused: HashMap::new(),
        }
    }

    /// Returns the sequence after the last one that is stored.
    pub(super) fn end(&self) -> u64 {
        self.first + self.places.len() as u64
    }

    /// Whether it is empty, and nothing refers to it.
    pub(super) fn is_unused(&self) -> bool {
        self.places.is_empty() && self.users == 0 && self.groups.values().all(|group| group.members == 0)
    }

    pub(super) fn get(&self, sequence: u64) -> Option<Location> {
        let at = usize::try_from(sequence.checked_sub(self.first)?).ok()?;
        self.places.get(at).copied().filter(|place| !place.is_gone())
    }

    /// Returns the place of a message, to change it.
    pub(super) fn find(&mut self, sequence: u64) -> Option<&mut Location> {
        let at = usize::try_from(sequence.checked_sub(self.first)?).ok()?;
        self.places.get_mut(at).filter(|place| !place.is_gone())
    }

    /// Adds a message. Sequences that could not be stored become gaps.
    pub(super) fn add(&mut self, sequence: u64, place: Location, segments: &mut LiveSegments) {
        // It may have been deleted since the message was appended.
        self.exists = true;
        self.assigned = self.assigned.max(sequence);
        if sequence < self.end() {
            return;
        }
        if self.places.is_empty() {
            self.first = sequence;
        }
        // A leap is damage: the sequences between were deleted, or never existed.
        if sequence - self.end() > 1 << 20 {
            self.clear(segments);
            self.first = sequence;
        }
        while self.end() < sequence {
            self.places.push_back(Location::default());
        }
        self.places.push_back(place);
        self.bytes += u64::from(place.len);
        segments.count(place);
        for group in self.groups.values() {
            group.arrived.notify_one();
        }
    }

    /// Deletes the oldest message.
    pub(super) fn pop(&mut self, segments: &mut LiveSegments) {
        if let Some(place) = self.places.pop_front() {
            self.first += 1;
            if !place.is_gone() {
                self.bytes = self.bytes.saturating_sub(u64::from(place.len));
                segments.uncount(place);
            }
            if self.places.capacity() > 1_024 && self.places.len() < self.places.capacity() / 4 {
                self.places.shrink_to(self.places.len() * 2);
            }
        }
    }

    /// Deletes the oldest messages beyond the limits of number and bytes.
    pub(super) fn trim(&mut self, defaults: &ChannelLimits, segments: &mut LiveSegments) {
        let most = self.limits.max_messages.or(defaults.max_messages).unwrap_or(u64::MAX);
        let most_bytes = self.limits.max_bytes.or(defaults.max_bytes).unwrap_or(u64::MAX);
        while self.places.len() as u64 > most || self.bytes > most_bytes && self.places.len() > 1 {
            self.pop(segments);
        }
    }

    /// Forgets all messages and cursors. Subscriptions begin anew.
    pub(super) fn clear(&mut self, segments: &mut LiveSegments) {
        while !self.places.is_empty() {
            self.pop(segments);
        }
    }

    /// Returns the place of a group, to be stored.
    pub(super) fn cursor(&self, name: &str) -> Option<Cursor> {
        let group = self.groups.get(name)?;
        let mut pending: Vec<u64> = group.outstanding.keys().chain(group.again.keys()).copied().collect();
        pending.sort_unstable();
        Some(Cursor { next: group.next, pending })
    }
}
