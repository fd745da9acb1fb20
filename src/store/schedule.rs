//! The order in which messages are leased: by topic and key, with retries and delays. It knows positions only, in memory.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};

use tokio::time::Instant;

use crate::message::Message;

/// The topic and ordering key of messages, as a hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct OrderingKey(u64);

impl OrderingKey {
    pub(super) fn from_hash(hash: i64) -> Self {
        Self(hash as u64)
    }

    pub(super) fn hash(self) -> i64 {
        self.0 as i64
    }
}

/// An entry that is due, or will be: a message without a key, or the first message of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum DueEntry {
    Message(u64),
    Key(OrderingKey),
}

/// The messages before the cursor that have not been settled for good: leased, waiting, or due.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    /// The due entries, by their first position.
    due: BTreeMap<u64, DueEntry>,
    timers: BTreeSet<(Instant, DueEntry)>,
    /// When messages are due that wait regardless of their key.
    until: HashMap<u64, Instant>,
    keys: HashMap<OrderingKey, KeyState>,
    /// The key of each message that waits behind others of its key, or for its retry.
    waits: HashMap<u64, OrderingKey>,
    leased: HashMap<u64, LeasedEntry>,
    tokens: LeaseTokens,
    hasher: RandomState,
}

/// The token of the last lease. It starts at random, so that leases from before a restart differ.
#[derive(Debug)]
struct LeaseTokens(u64);

impl Default for LeaseTokens {
    fn default() -> Self {
        Self(rand::random())
    }
}

/// The messages of a key that are leased or wait.
#[derive(Debug, Default)]
struct KeyState {
    /// How many messages are leased, all with the token `lease`.
    leased: usize,
    lease: u64,
    waiting: BTreeSet<u64>,
    /// Its position in `Schedule::due`.
    due: Option<u64>,
    /// Messages that wait for their retry. No message of the key is due before the last of these.
    retries: BTreeMap<u64, Instant>,
}

impl KeyState {
    /// Returns until when retries hold up the key.
    fn held_until(&self) -> Option<Instant> {
        self.retries.values().max().copied()
    }
}

#[derive(Debug)]
struct LeasedEntry {
    token: u64,
    key: Option<OrderingKey>,
}

impl Schedule {
    /// Returns the key of a message, if it has one.
    pub(super) fn ordering_key(&self, message: &Message) -> Option<OrderingKey> {
        let key = message.key()?;
        Some(OrderingKey(self.hasher.hash_one((message.topic().as_str(), key))))
    }

    /// Returns a token for a lease.
    pub(super) fn next_lease_token(&mut self) -> u64 {
        self.tokens.0 = self.tokens.0.wrapping_add(1);
        self.tokens.0
    }

    // --- what is due

    /// Makes due what timers were set for until `now`.
    pub(super) fn tick(&mut self, now: Instant) {
        while let Some((at, entry)) = self.timers.first().copied()
            && at <= now
        {
            self.timers.pop_first();
            match entry {
                DueEntry::Message(position) => {
                    self.until.remove(&position);
                    self.due.insert(position, entry);
                }
                DueEntry::Key(key) => {
                    if let Some(state) = self.keys.get_mut(&key)
                        && state.held_until().is_some_and(|until| until <= now)
                    {
                        state.retries.clear();
                    }
                    self.offer(key);
                }
            }
        }
    }

    /// Returns when the next timer fires.
    pub(super) fn next_timer(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Whether anything is due.
    pub(super) fn is_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// Returns how many messages without a key, and keys, are due.
    pub(super) fn entries_due(&self) -> usize {
        self.due.len()
    }

    /// Returns the first positions that are due, at most `limit`.
    pub(super) fn due(&self, limit: usize) -> Vec<u64> {
        let mut due = BTreeSet::new();
        for (first, entry) in &self.due {
            // A key may have later positions than other entries that are due.
            if due.len() >= limit && due.last().is_some_and(|last| last < first) {
                break;
            }
            match entry {
                DueEntry::Message(position) => {
                    due.insert(*position);
                }
                DueEntry::Key(key) => {
                    let waiting = self.keys.get(key).into_iter().flat_map(|state| &state.waiting);
                    due.extend(waiting.take(limit));
                }
            }
            while due.len() > limit {
                due.pop_last();
            }
        }
        due.into_iter().collect()
    }

    // --- messages that come

    /// Adds a message without a key, which is due.
    pub(super) fn arrive(&mut self, position: u64) {
        self.due.insert(position, DueEntry::Message(position));
    }

    /// Adds a message with a key. It is due when no earlier message of the key is leased or waits for its retry.
    pub(super) fn join(&mut self, position: u64, key: OrderingKey) {
        self.keys.entry(key).or_default().waiting.insert(position);
        self.waits.insert(position, key);
        self.offer(key);
    }

    /// Adds a message that waits for its retry, and holds up its key until then.
    pub(super) fn hold(&mut self, position: u64, key: OrderingKey, until: Instant) {
        self.wait(position, Some(key), until);
        self.offer(key);
    }

    /// Adds a message that waits for its retry. Without a key it waits alone; otherwise it holds up its key.
    pub(super) fn wait(&mut self, position: u64, key: Option<OrderingKey>, until: Instant) {
        match key {
            None => self.delay(position, until),
            Some(key) => {
                let state = self.keys.entry(key).or_default();
                state.waiting.insert(position);
                self.waits.insert(position, key);
                state.retries.insert(position, until);
                self.timers.insert((state.held_until().unwrap_or(until), DueEntry::Key(key)));
            }
        }
    }

    /// Adds a message that waits for the end of its delay, which holds up no other message.
    pub(super) fn delay(&mut self, position: u64, until: Instant) {
        if let Some(before) = self.until.insert(position, until) {
            self.timers.remove(&(before, DueEntry::Message(position)));
        }
        self.timers.insert((until, DueEntry::Message(position)));
    }

    /// Makes a message due at a time, in its place among those of its key: one that waits for its retry, or a dead letter.
    pub(super) fn requeue(&mut self, position: u64, at: Instant) {
        match self.waits.get(&position) {
            Some(key) => {
                if let Some(state) = self.keys.get_mut(key) {
                    state.retries.insert(position, at);
                    self.timers.insert((state.held_until().unwrap_or(at), DueEntry::Key(*key)));
                }
            }
            None => self.delay(position, at),
        }
    }

    // --- leasing and settling

    /// Leases a message that is at the cursor or [due](Self::due). Returns false if it must wait for others of its key.
    pub(super) fn take(&mut self, position: u64, key: Option<OrderingKey>, token: u64) -> bool {
        if self.due.get(&position) == Some(&DueEntry::Message(position)) {
            self.due.remove(&position);
        }
        if let Some(key) = key {
            let state = self.keys.entry(key).or_default();
            state.waiting.remove(&position);
            self.waits.remove(&position);
            let is_first = state.waiting.first().is_none_or(|first| *first > position);
            let is_free = if state.leased == 0 { state.retries.is_empty() } else { state.lease == token };
            if !(is_free && is_first) {
                state.waiting.insert(position);
                self.waits.insert(position, key);
                return false;
            }
            state.leased += 1;
            state.lease = token;
            if let Some(due) = state.due.take() {
                self.due.remove(&due);
            }
        }
        self.leased.insert(position, LeasedEntry { token, key });
        true
    }

    /// Ends a lease. Returns `None` if the token is not the one of the lease. [`gone`](Self::gone) or [`back`](Self::back)
    /// must follow.
    pub(super) fn settle(&mut self, position: u64, token: u64) -> Option<Option<OrderingKey>> {
        if self.leased.get(&position)?.token != token {
            return None;
        }
        let key = self.leased.remove(&position)?.key;
        if let Some(state) = key.and_then(|key| self.keys.get_mut(&key)) {
            state.leased -= 1;
        }
        Some(key)
    }

    /// Records that a settled message is finished.
    pub(super) fn gone(&mut self, key: Option<OrderingKey>) {
        if let Some(key) = key {
            self.offer(key);
        }
    }

    /// Records that a settled message will be leased again, at once or at a time.
    pub(super) fn back(&mut self, position: u64, key: Option<OrderingKey>, until: Option<Instant>) {
        match (key, until) {
            (None, None) => self.arrive(position),
            (key, Some(until)) => self.wait(position, key, until),
            (Some(key), None) => self.join(position, key),
        }
    }

    /// Forgets a message that is not leased.
    pub(super) fn forget(&mut self, position: u64) {
        if self.due.get(&position) == Some(&DueEntry::Message(position)) {
            self.due.remove(&position);
        }
        if let Some(until) = self.until.remove(&position) {
            self.timers.remove(&(until, DueEntry::Message(position)));
        }
        let Some(key) = self.waits.remove(&position) else { return };
        if let Some(state) = self.keys.get_mut(&key) {
            state.waiting.remove(&position);
            state.retries.remove(&position);
            if let Some(until) = state.held_until() {
                self.timers.insert((until, DueEntry::Key(key)));
            }
        }
        self.offer(key);
    }

    /// Forgets a message, leased or not.
    pub(super) fn abandon(&mut self, position: u64) {
        match self.leased.get(&position).map(|entry| entry.token) {
            Some(token) => {
                if let Some(key) = self.settle(position, token) {
                    self.gone(key);
                }
            }
            None => self.forget(position),
        }
    }

    // --- questions

    pub(super) fn is_leased(&self, position: u64) -> bool {
        self.leased.contains_key(&position)
    }

    /// Whether a leased message has a key, so that others may wait for it.
    pub(super) fn is_keyed(&self, position: u64) -> bool {
        self.leased.get(&position).is_some_and(|entry| entry.key.is_some())
    }

    /// Whether a message waits for an earlier one of its key.
    pub(super) fn is_behind(&self, position: u64) -> bool {
        self.waits.contains_key(&position)
    }

    /// Returns the key of a message that waits behind others of it, or for its retry.
    pub(super) fn key_of(&self, position: u64) -> Option<OrderingKey> {
        self.waits.get(&position).copied()
    }

    /// Returns the messages of a key that wait, in order.
    pub(super) fn waiting(&self, key: OrderingKey) -> impl Iterator<Item = u64> {
        self.keys.get(&key).into_iter().flat_map(|state| state.waiting.iter().copied())
    }

    /// Whether a retry holds up a key of which no message is leased.
    pub(super) fn is_held(&self, key: OrderingKey) -> bool {
        self.keys.get(&key).is_some_and(|state| state.leased == 0 && !state.retries.is_empty())
    }

    /// Makes a key due if no message of it is leased or waits for a retry, and forgets it when it has no message left.
    fn offer(&mut self, key: OrderingKey) {
        let Some(state) = self.keys.get_mut(&key) else { return };
        if let Some(due) = state.due.take() {
            self.due.remove(&due);
        }
        if state.leased > 0 || !state.retries.is_empty() {
            return;
        }
        match state.waiting.first() {
            Some(first) => {
                state.due = Some(*first);
                self.due.insert(*first, DueEntry::Key(key));
            }
            None => {
                self.keys.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests;
