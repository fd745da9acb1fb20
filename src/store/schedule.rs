//! Whose turn it is: order for each topic and key, retries, delays, leases. Positions only, all in memory.

use std::collections::{BTreeMap, BTreeSet, HashMap};
#[cfg(feature = "embedded")]
use std::hash::{BuildHasher, RandomState};

use tokio::time::Instant;

#[cfg(feature = "embedded")]
use crate::message::Message;

/// The messages of one topic and key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Group(u64);

/// What may be given out before the cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Turn {
    Message(u64),
    Group(Group),
}

/// The order of messages that are behind the cursor and have not left.
#[derive(Debug, Default)]
pub(super) struct Dispatch {
    /// What is due, by its first position.
    due: BTreeMap<u64, Turn>,
    timers: BTreeSet<(Instant, Turn)>,
    /// When those are due that wait for themselves alone.
    until: HashMap<u64, Instant>,
    groups: HashMap<Group, Members>,
    /// Whom those wait for that wait in a group.
    waits: HashMap<u64, Group>,
    leased: HashMap<u64, Held>,
    tokens: Tokens,
    #[cfg(feature = "embedded")]
    hasher: RandomState,
}

/// The number of the last lease. It begins anywhere, so that leases from before a restart are told apart.
#[derive(Debug)]
struct Tokens(u64);

impl Default for Tokens {
    fn default() -> Self {
        Self(rand::random())
    }
}

/// Those of a group that are out or wait.
#[derive(Debug, Default)]
struct Members {
    /// How many are out, in the lease of this number.
    out: usize,
    lease: u64,
    waiting: BTreeSet<u64>,
    /// Where it stands in `due`.
    due: Option<u64>,
    /// Those that wait for their retry, and until when: none may go before the last of these is due.
    retries: BTreeMap<u64, Instant>,
}

impl Members {
    /// Until when none of them may go.
    fn held(&self) -> Option<Instant> {
        self.retries.values().max().copied()
    }
}

#[derive(Debug)]
struct Held {
    token: u64,
    group: Option<Group>,
}

#[cfg(feature = "_sql")]
impl Group {
    /// The group of messages whose topic and key have this hash.
    pub(super) fn of_hash(hash: i64) -> Self {
        Self(hash as u64)
    }

    pub(super) fn hash(self) -> i64 {
        self.0 as i64
    }
}

/// What a store needs that does not read everything in order.
#[cfg(feature = "_sql")]
impl Dispatch {
    /// A message without a key is there, and due.
    pub(super) fn arrive(&mut self, position: u64) {
        self.due.insert(position, Turn::Message(position));
    }

    /// A message is there, and due when its group lets it.
    pub(super) fn join(&mut self, position: u64, group: Group) {
        self.groups.entry(group).or_default().waiting.insert(position);
        self.waits.insert(position, group);
        self.offer(group);
    }

    /// A message holds its group until a time.
    pub(super) fn hold(&mut self, position: u64, group: Group, until: Instant) {
        self.wait(position, Some(group), until);
        self.offer(group);
    }

    /// Those that wait in a group, in order.
    pub(super) fn waiting(&self, group: Group) -> impl Iterator<Item = u64> {
        self.groups.get(&group).into_iter().flat_map(|members| members.waiting.iter().copied())
    }

    /// Whether it waits for a retry.
    pub(super) fn is_held(&self, group: Group) -> bool {
        self.groups.get(&group).is_some_and(|members| members.out == 0 && !members.retries.is_empty())
    }

    /// The group it waits in.
    pub(super) fn waits_in(&self, position: u64) -> Option<Group> {
        self.waits.get(&position).copied()
    }

    /// How many messages without a key, and groups, are due.
    pub(super) fn turns_due(&self) -> usize {
        self.due.len()
    }

    /// Whether a leased message may have others behind it.
    pub(super) fn is_keyed(&self, position: u64) -> bool {
        self.leased.get(&position).is_some_and(|leased| leased.group.is_some())
    }

    /// Forgets a message, leased or not.
    pub(super) fn abandon(&mut self, position: u64) {
        match self.leased.get(&position).map(|held| held.token) {
            Some(token) => {
                if let Some(group) = self.settle(position, token) {
                    self.gone(group);
                }
            }
            None => self.forget(position),
        }
    }
}

impl Dispatch {
    /// The group of a message, if it has a key.
    #[cfg(feature = "embedded")]
    pub(super) fn group(&self, message: &Message) -> Option<Group> {
        let key = message.key()?;
        Some(Group(self.hasher.hash_one((message.topic().as_str(), key))))
    }

    /// A number for a lease.
    pub(super) fn lease(&mut self) -> u64 {
        self.tokens.0 = self.tokens.0.wrapping_add(1);
        self.tokens.0
    }

    /// Lets the timers run out that have; says whether there were any.
    pub(super) fn tick(&mut self, now: Instant) {
        while let Some((at, turn)) = self.timers.first().copied()
            && at <= now
        {
            self.timers.pop_first();
            match turn {
                Turn::Message(position) => {
                    self.until.remove(&position);
                    self.due.insert(position, turn);
                }
                Turn::Group(group) => {
                    if let Some(members) = self.groups.get_mut(&group)
                        && members.held().is_some_and(|held| held <= now)
                    {
                        members.retries.clear();
                    }
                    self.offer(group);
                }
            }
        }
    }

    /// When the next timer runs out.
    pub(super) fn next_timer(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Whether anything is due.
    #[cfg(feature = "embedded")]
    pub(super) fn is_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// The first positions that are due, at most `limit`.
    pub(super) fn due(&self, limit: usize) -> Vec<u64> {
        let mut due = BTreeSet::new();
        for (first, turn) in &self.due {
            // A group may have later ones than others that are due.
            if due.len() >= limit && due.last().is_some_and(|last| last < first) {
                break;
            }
            match turn {
                Turn::Message(position) => {
                    due.insert(*position);
                }
                Turn::Group(group) => {
                    let waiting = self.groups.get(group).into_iter().flat_map(|members| &members.waiting);
                    due.extend(waiting.take(limit));
                }
            }
            while due.len() > limit {
                due.pop_last();
            }
        }
        due.into_iter().collect()
    }

    /// Leases a message that comes up at the cursor or is [due](Self::due); or lets it wait for its group.
    pub(super) fn take(&mut self, position: u64, group: Option<Group>, lease: u64) -> bool {
        if self.due.get(&position) == Some(&Turn::Message(position)) {
            self.due.remove(&position);
        }
        if let Some(group) = group {
            let members = self.groups.entry(group).or_default();
            members.waiting.remove(&position);
            self.waits.remove(&position);
            let first = members.waiting.first().is_none_or(|first| *first > position);
            let free = if members.out == 0 { members.retries.is_empty() } else { members.lease == lease };
            if !(free && first) {
                members.waiting.insert(position);
                self.waits.insert(position, group);
                return false;
            }
            members.out += 1;
            members.lease = lease;
            if let Some(due) = members.due.take() {
                self.due.remove(&due);
            }
        }
        self.leased.insert(position, Held { token: lease, group });
        true
    }

    /// Forgets a message that is gone without having been leased.
    pub(super) fn forget(&mut self, position: u64) {
        if self.due.get(&position) == Some(&Turn::Message(position)) {
            self.due.remove(&position);
        }
        if let Some(until) = self.until.remove(&position) {
            self.timers.remove(&(until, Turn::Message(position)));
        }
        let Some(group) = self.waits.remove(&position) else { return };
        if let Some(members) = self.groups.get_mut(&group) {
            members.waiting.remove(&position);
            members.retries.remove(&position);
            if let Some(held) = members.held() {
                self.timers.insert((held, Turn::Group(group)));
            }
        }
        self.offer(group);
    }

    /// Lets a message at the cursor wait until a time.
    pub(super) fn wait(&mut self, position: u64, group: Option<Group>, until: Instant) {
        match group {
            None => self.delay(position, until),
            Some(group) => {
                let members = self.groups.entry(group).or_default();
                members.waiting.insert(position);
                self.waits.insert(position, group);
                members.retries.insert(position, until);
                self.timers.insert((members.held().unwrap_or(until), Turn::Group(group)));
            }
        }
    }

    /// Lets a message wait until a time for itself alone: a delay holds up nobody.
    pub(super) fn delay(&mut self, position: u64, until: Instant) {
        if let Some(before) = self.until.insert(position, until) {
            self.timers.remove(&(before, Turn::Message(position)));
        }
        self.timers.insert((until, Turn::Message(position)));
    }

    /// Makes a message due that waits for its retry, or for nothing at all as a dead letter does.
    pub(super) fn requeue(&mut self, position: u64, at: Instant) {
        match self.waits.get(&position) {
            // It keeps its place among the others.
            Some(group) => {
                if let Some(members) = self.groups.get_mut(group) {
                    members.retries.insert(position, at);
                    self.timers.insert((members.held().unwrap_or(at), Turn::Group(*group)));
                }
            }
            None => self.delay(position, at),
        }
    }

    pub(super) fn is_leased(&self, position: u64) -> bool {
        self.leased.contains_key(&position)
    }

    /// Whether it waits for an earlier message of its group.
    #[cfg(feature = "embedded")]
    pub(super) fn is_behind(&self, position: u64) -> bool {
        self.waits.contains_key(&position)
    }

    /// Ends a lease; none if it is not, or no longer, this one. Then follow [`gone`](Self::gone) or [`back`](Self::back).
    pub(super) fn settle(&mut self, position: u64, token: u64) -> Option<Option<Group>> {
        if self.leased.get(&position)?.token != token {
            return None;
        }
        let group = self.leased.remove(&position)?.group;
        if let Some(members) = group.and_then(|group| self.groups.get_mut(&group)) {
            members.out -= 1;
        }
        Some(group)
    }

    /// A settled message will not come again.
    pub(super) fn gone(&mut self, group: Option<Group>) {
        if let Some(group) = group {
            self.offer(group);
        }
    }

    /// A settled message will come again, at once or at a time.
    pub(super) fn back(&mut self, position: u64, group: Option<Group>, until: Option<Instant>) {
        match (group, until) {
            (None, None) => {
                self.due.insert(position, Turn::Message(position));
            }
            (group, Some(until)) => {
                self.wait(position, group, until);
            }
            (Some(group), None) => {
                self.groups.entry(group).or_default().waiting.insert(position);
                self.waits.insert(position, group);
                self.offer(group);
            }
        }
    }

    /// Makes a group due if nothing stands in its way, and forgets it when it has nobody left.
    fn offer(&mut self, group: Group) {
        let Some(members) = self.groups.get_mut(&group) else { return };
        if let Some(due) = members.due.take() {
            self.due.remove(&due);
        }
        if members.out > 0 || !members.retries.is_empty() {
            return;
        }
        match members.waiting.first() {
            Some(first) => {
                members.due = Some(*first);
                self.due.insert(*first, Turn::Group(group));
            }
            None => {
                self.groups.remove(&group);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const A: Option<Group> = Some(Group(1));
    const B: Option<Group> = Some(Group(2));

    fn due(dispatch: &Dispatch) -> Vec<u64> {
        dispatch.due(10)
    }

    #[test]
    fn one_of_a_group_is_not_taken_while_an_earlier_one_is_out() {
        let mut dispatch = Dispatch::default();
        let first = dispatch.lease();
        assert!(dispatch.take(1, A, first));
        assert!(dispatch.take(2, B, first));
        assert!(dispatch.take(3, A, first), "the same lease may hold several");
        let lease = dispatch.lease();
        assert!(!dispatch.take(4, A, lease));
        assert!(dispatch.take(5, None, lease));
        assert!(due(&dispatch).is_empty());
        for position in [1, 3] {
            let group = dispatch.settle(position, first).unwrap();
            dispatch.gone(group);
        }
        assert_eq!(due(&dispatch), [4]);
        let lease = dispatch.lease();
        assert!(!dispatch.take(6, A, lease), "not before those that waited");
        assert!(dispatch.take(4, A, lease));
        assert!(dispatch.take(6, A, lease));
        assert!(due(&dispatch).is_empty());
    }

    #[test]
    fn one_that_comes_back_goes_before_later_ones_that_wait() {
        let mut dispatch = Dispatch::default();
        let lease = dispatch.lease();
        assert!(dispatch.take(1, A, lease));
        let other = dispatch.lease();
        assert!(!dispatch.take(3, A, other));
        let group = dispatch.settle(1, lease).unwrap();
        dispatch.gone(group);
        // A dead letter.
        let now = Instant::now();
        dispatch.requeue(2, now);
        dispatch.tick(now);
        assert_eq!(due(&dispatch), [2, 3]);
        let lease = dispatch.lease();
        assert!(dispatch.take(2, A, lease));
        assert!(dispatch.take(3, A, lease));
        assert!(due(&dispatch).is_empty());
    }

    #[test]
    fn the_first_that_are_due_are_in_order_though_a_group_has_later_ones() {
        let mut dispatch = Dispatch::default();
        let lease = dispatch.lease();
        assert!(dispatch.take(0, A, lease));
        let other = dispatch.lease();
        assert!(!dispatch.take(1, A, other) && !dispatch.take(5, A, other) && !dispatch.take(7, A, other));
        let group = dispatch.settle(0, lease).unwrap();
        dispatch.gone(group);
        // Dead letters, which may be of the same group.
        let now = Instant::now();
        for position in [3, 9] {
            dispatch.requeue(position, now);
        }
        dispatch.tick(now);
        assert_eq!(dispatch.due(2), [1, 3]);
        assert_eq!(dispatch.due(3), [1, 3, 5]);
        assert_eq!(due(&dispatch), [1, 3, 5, 7, 9]);
    }

    #[test]
    fn a_retry_holds_its_group_until_it_is_due() {
        let mut dispatch = Dispatch::default();
        let now = Instant::now();
        let lease = dispatch.lease();
        assert!(dispatch.take(1, A, lease) && dispatch.take(2, A, lease));
        let group = dispatch.settle(1, lease).unwrap();
        dispatch.back(1, group, Some(now + Duration::from_secs(5)));
        let group = dispatch.settle(2, lease).unwrap();
        dispatch.back(2, group, Some(now + Duration::from_secs(1)));
        dispatch.tick(now + Duration::from_secs(2));
        assert!(due(&dispatch).is_empty());
        assert_eq!(dispatch.next_timer(), Some(now + Duration::from_secs(5)));
        dispatch.tick(now + Duration::from_secs(5));
        assert_eq!(due(&dispatch), [1, 2]);
    }

    #[test]
    fn a_stale_lease_settles_nothing() {
        let mut dispatch = Dispatch::default();
        let first = dispatch.lease();
        assert!(dispatch.take(1, None, first));
        assert!(dispatch.settle(1, first).is_some());
        dispatch.back(1, None, None);
        let second = dispatch.lease();
        assert!(dispatch.take(1, None, second));
        assert!(dispatch.settle(1, first).is_none());
        assert!(dispatch.settle(1, second).is_some());
    }

    #[test]
    fn one_that_is_gone_does_not_stop_its_group() {
        let mut dispatch = Dispatch::default();
        let lease = dispatch.lease();
        assert!(dispatch.take(1, A, lease));
        let other = dispatch.lease();
        assert!(!dispatch.take(2, A, other) && !dispatch.take(3, A, other));
        let group = dispatch.settle(1, lease).unwrap();
        dispatch.gone(group);
        assert_eq!(due(&dispatch), [2, 3]);
        dispatch.forget(2);
        assert_eq!(due(&dispatch), [3]);
        dispatch.forget(3);
        assert!(due(&dispatch).is_empty() && dispatch.groups.is_empty() && dispatch.waits.is_empty());
    }
}
