//! One queue: the numbers of its messages, its limits, and what was handed out.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::Notify;

use super::queue_info::QueueInfo;
use super::record::{Progress, QueueHeader, QueueId};
use crate::message::FailedAttempt;
use crate::message::headers::start_of;

/// The largest number of failed attempts that are kept of a message, and the longest reason in bytes.
const KEPT: usize = 10;
const REASON: usize = 300;

#[derive(Debug)]
pub(super) struct Queue {
    id: QueueId,
    header: QueueHeader,
    /// The numbers of the messages, and their sizes and failed attempts.
    entries: BTreeMap<u64, Entry>,
    bytes: u64,
    /// No message from this number on was handed out.
    cursor: u64,
    /// Messages before the cursor that are handed out again.
    returned: BTreeSet<u64>,
    /// Messages before the cursor that wait for their next attempt.
    waiting: BTreeSet<(Instant, u64)>,
    /// The last failed attempts of messages, oldest first.
    failures: HashMap<u64, Vec<FailedAttempt>>,
    /// The number of dropped messages that no delivery has reported yet.
    dropped: u64,
    /// The number of dropped messages since the router was opened.
    ever_dropped: u64,
    /// The delivery that reports drops, and how many.
    report: Option<(u64, u64)>,
    /// The messages that left the queue since the last [`Progress`], and may be behind messages that stay.
    removed: Vec<u64>,
    expires: Option<SystemTime>,
    /// The number of the newest subscriber; `None` while there is none.
    subscriber: Option<u64>,
    changed: Arc<Notify>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    bytes: u32,
    attempts: u32,
    /// Whether the message may have been handed out before.
    taken: bool,
}

/// A message that is handed out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) seq: u64,
    pub(super) attempts: u32,
    pub(super) failures: Vec<FailedAttempt>,
    pub(super) redelivered: bool,
    /// The number of messages that were dropped before this one.
    pub(super) drops: u64,
}

/// How a message that was handed out goes on.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    /// It leaves the queue.
    Done,
    /// It is handed out again.
    Returned,
    /// It is handed out again from this time on, as the next attempt. The reason is that of the failure.
    Failed(Instant, Arc<str>),
}

impl Queue {
    pub(super) fn new(id: QueueId, header: QueueHeader) -> Self {
        Self {
            id,
            header,
            entries: BTreeMap::new(),
            bytes: 0,
            cursor: 0,
            returned: BTreeSet::new(),
            waiting: BTreeSet::new(),
            failures: HashMap::new(),
            dropped: 0,
            ever_dropped: 0,
            report: None,
            removed: Vec::new(),
            expires: None,
            subscriber: None,
            changed: Arc::default(),
        }
    }

    pub(super) fn header(&self) -> &QueueHeader {
        &self.header
    }

    pub(super) fn set_header(&mut self, header: QueueHeader) {
        self.header = header;
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn contains(&self, seq: u64) -> bool {
        self.entries.contains_key(&seq)
    }

    pub(super) fn seqs(&self) -> impl Iterator<Item = u64> {
        self.entries.keys().copied()
    }

    pub(super) fn changed(&self) -> &Arc<Notify> {
        &self.changed
    }

    /// Adds a message; returns whether it is in the queue. With `limited`, returns in `dropped` those that leave for it.
    pub(super) fn push(&mut self, seq: u64, bytes: u32, limited: bool, dropped: &mut Vec<u64>) -> bool {
        if limited && u64::from(bytes) > self.header.limits.bytes && !self.entries.is_empty() {
            self.count_drop();
            return false;
        }
        // A message that is read at a restart may have been handed out before.
        if let Some(former) = self.entries.insert(seq, Entry { bytes, attempts: 0, taken: !limited }) {
            self.bytes -= u64::from(former.bytes);
        }
        self.bytes += u64::from(bytes);
        if limited {
            self.drop_oldest(dropped);
        }
        self.changed.notify_waiters();
        true
    }

    fn count_drop(&mut self) {
        self.dropped += 1;
        self.ever_dropped += 1;
    }

    pub(super) fn info(&self) -> QueueInfo {
        let QueueHeader { name, namespace, patterns, limits, .. } = self.header.clone();
        QueueInfo {
            kind: name.kind,
            identifier: name.identifier,
            namespace,
            patterns,
            messages: self.len() as u64,
            bytes: self.bytes,
            limits,
            dropped: self.ever_dropped,
            has_subscriber: self.has_subscriber(),
            expires: self.expires,
        }
    }

    /// Drops the oldest messages over the limits. The newest one stays.
    pub(super) fn drop_oldest(&mut self, dropped: &mut Vec<u64>) {
        let limits = self.header.limits;
        while self.entries.len() > 1 && (self.len() as u64 > limits.length || self.bytes > limits.bytes) {
            let Some((oldest, _)) = self.entries.first_key_value() else { return };
            let oldest = *oldest;
            self.remove(oldest);
            self.count_drop();
            dropped.push(oldest);
        }
    }

    /// Removes a message; returns whether it was there.
    pub(super) fn remove(&mut self, seq: u64) -> bool {
        let Some(entry) = self.entries.remove(&seq) else { return false };
        self.bytes -= u64::from(entry.bytes);
        self.returned.remove(&seq);
        self.failures.remove(&seq);
        if self.report.is_some_and(|(reporting, _)| reporting == seq) {
            self.report = None;
        }
        if self.entries.first_key_value().is_some_and(|(first, _)| *first < seq) {
            self.removed.push(seq);
        }
        true
    }

    /// Hands out messages in order; `None` with the time of the next attempt if there is none now.
    pub(super) fn take(&mut self, limit: usize, now: Instant) -> Result<Vec<Taken>, Option<Instant>> {
        while let Some((due, seq)) = self.waiting.first().copied().filter(|(due, _)| *due <= now) {
            self.waiting.remove(&(due, seq));
            if self.contains(seq) {
                self.returned.insert(seq);
            }
        }
        let mut taken = Vec::new();
        while taken.len() < limit {
            let fresh = || self.entries.range(self.cursor..).next().map(|(seq, _)| *seq);
            let Some(seq) = self.returned.first().copied().or_else(fresh) else { break };
            if !self.returned.remove(&seq) {
                self.cursor = seq + 1;
            }
            let Some(entry) = self.entries.get_mut(&seq) else { continue };
            let (attempts, redelivered) = (entry.attempts, std::mem::replace(&mut entry.taken, true));
            let failures = self.failures.get(&seq).cloned().unwrap_or_default();
            let drops = if self.report.is_none() { self.dropped } else { 0 };
            if drops > 0 {
                self.report = Some((seq, drops));
            }
            taken.push(Taken { seq, attempts, failures, redelivered, drops });
        }
        if taken.is_empty() { Err(self.waiting.first().map(|(due, _)| *due)) } else { Ok(taken) }
    }

    /// Settles a message that was handed out; returns whether it left the queue.
    pub(super) fn settle(&mut self, seq: u64, outcome: Outcome) -> bool {
        let Some(entry) = self.entries.get_mut(&seq) else { return false };
        let report = self.report.filter(|(reporting, _)| *reporting == seq);
        match outcome {
            Outcome::Done => {
                self.dropped -= report.map_or(0, |(_, drops)| drops).min(self.dropped);
                return self.remove(seq);
            }
            Outcome::Returned => {
                self.returned.insert(seq);
            }
            Outcome::Failed(due, reason) => {
                entry.attempts = entry.attempts.saturating_add(1);
                let failures = self.failures.entry(seq).or_default();
                failures.push(FailedAttempt::new(SystemTime::now(), start_of(&reason, REASON).into()));
                failures.drain(..failures.len().saturating_sub(KEPT));
                self.waiting.insert((due, seq));
            }
        }
        if report.is_some() {
            self.report = None;
        }
        self.changed.notify_waiters();
        false
    }

    /// Begins a subscription, which ends the former one: all messages are handed out from the start.
    pub(super) fn subscribe(&mut self, subscriber: u64) {
        self.subscriber = Some(subscriber);
        self.restart();
        self.refresh();
    }

    /// Hands all messages out again, from the oldest on.
    pub(super) fn restart(&mut self) {
        (self.cursor, self.report) = (0, None);
        self.returned.clear();
        self.waiting.clear();
        self.changed.notify_waiters();
    }

    pub(super) fn unsubscribe(&mut self, subscriber: u64) {
        if self.subscriber == Some(subscriber) {
            self.subscriber = None;
            self.refresh();
        }
    }

    pub(super) fn is_subscriber(&self, subscriber: u64) -> bool {
        self.subscriber == Some(subscriber)
    }

    pub(super) fn has_subscriber(&self) -> bool {
        self.subscriber.is_some()
    }

    /// Lets the queue live for its expiry from now on.
    pub(super) fn refresh(&mut self) {
        self.expires = self.header.expiry.and_then(|expiry| SystemTime::now().checked_add(expiry));
    }

    /// Whether the queue has lived long enough without a subscriber.
    pub(super) fn is_expired(&self, now: SystemTime) -> bool {
        self.subscriber.is_none() && self.expires.is_some_and(|end| end <= now)
    }

    /// Returns the record of what left the queue, and forgets it. `next` is the number of the router's next message.
    pub(super) fn take_progress(&mut self, next: u64) -> Progress {
        let floor = self.entries.first_key_value().map_or(next, |(first, _)| *first);
        let mut removed = std::mem::take(&mut self.removed);
        removed.retain(|seq| *seq > floor);
        let since =
            |end: SystemTime| end.duration_since(SystemTime::UNIX_EPOCH).map_or(1, |since| since.as_secs());
        let expires = self.expires.filter(|_| self.subscriber.is_none()).map_or(0, since);
        Progress { queue: self.id, floor, removed, dropped: self.dropped, expires }
    }

    /// Applies a record of what left the queue; returns the messages that were there.
    pub(super) fn apply(&mut self, progress: &Progress) -> Vec<u64> {
        self.dropped = progress.dropped;
        match progress.expires {
            0 => self.refresh(),
            end => self.expires = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(end)),
        }
        let before: Vec<_> = self.entries.range(..progress.floor).map(|(seq, _)| *seq).collect();
        let mut left: Vec<_> = before.into_iter().chain(progress.removed.iter().copied()).collect();
        left.retain(|seq| self.remove(*seq));
        self.removed.clear();
        left
    }
}
