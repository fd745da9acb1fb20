//! The state of a router in memory: queues, subscriptions, last values, and where each message is.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::SystemTime;

use bytes::Bytes;

use super::message::RoutedMessage;
use super::namespace::Namespace;
use super::pattern::Pattern;
use super::queue::{Outcome, Queue};
use super::record::{MessageRecord, Progress, QueueHeader, QueueId, QueueName, QueueRecord, Record};
use super::subscriptions::SubscriptionTree;
use super::uri::Uri;
use super::values::ValueTree;

/// The state of a router. It is changed by what was written to the log, in that order, at work as at a restart.
#[derive(Debug, Default)]
pub(super) struct RouterState {
    queues: BTreeMap<QueueId, Queue>,
    names: HashMap<QueueName, QueueId>,
    trees: HashMap<Namespace, SubscriptionTree<QueueId>>,
    values: HashMap<Namespace, ValueTree<u64>>,
    messages: HashMap<u64, Stored>,
    /// The sum of the sizes of the messages.
    bytes: u64,
    next_seq: u64,
    next_queue: QueueId,
    /// The queues whose progress is not written yet.
    dirty: BTreeSet<QueueId>,
    /// At a restart: queues whose record has not been read yet. It may have been written again behind their messages.
    unknown: BTreeSet<QueueId>,
}

/// A message that a queue or a last value needs.
#[derive(Debug)]
pub(super) struct Stored {
    /// The position of its record; `None` until it is written.
    pub(super) position: Option<u64>,
    /// The encoded message, while it is in memory.
    pub(super) cached: Option<Bytes>,
    pub(super) bytes: u32,
    /// The number of queues and last values that need it.
    needed: u32,
}

/// The changes that the storing of a message made.
#[derive(Debug, Default)]
pub(super) struct Change {
    /// The number of queues that the message is in now.
    pub(super) enqueued: usize,
    /// The number of messages that left queues over their limits.
    pub(super) dropped: usize,
}

impl RouterState {
    /// Takes the number of a new message.
    pub(super) fn next_message(&mut self) -> u64 {
        self.next_seq += 1;
        self.next_seq
    }

    /// Returns the number of the newest message.
    pub(super) fn last_message(&self) -> u64 {
        self.next_seq
    }

    pub(super) fn next_queue(&mut self) -> QueueId {
        self.next_queue += 1;
        self.next_queue
    }

    /// Makes sure that no number up to this one is taken again.
    pub(super) fn skip_messages(&mut self, seq: u64) {
        self.next_seq = self.next_seq.max(seq);
    }

    pub(super) fn queue(&self, id: QueueId) -> Option<&Queue> {
        self.queues.get(&id)
    }

    pub(super) fn queue_mut(&mut self, id: QueueId) -> Option<&mut Queue> {
        self.queues.get_mut(&id)
    }

    pub(super) fn queues(&self) -> impl Iterator<Item = (QueueId, &Queue)> {
        self.queues.iter().map(|(id, queue)| (*id, queue))
    }

    pub(super) fn queue_count(&self) -> usize {
        self.queues.len()
    }

    pub(super) fn named(&self, name: &QueueName) -> Option<QueueId> {
        self.names.get(name).copied()
    }

    pub(super) fn message(&self, seq: u64) -> Option<&Stored> {
        self.messages.get(&seq)
    }

    pub(super) fn message_mut(&mut self, seq: u64) -> Option<&mut Stored> {
        self.messages.get_mut(&seq)
    }

    pub(super) fn stored(&self) -> (usize, u64) {
        (self.messages.len(), self.bytes)
    }

    /// Returns the queues that a message belongs into.
    pub(super) fn route(&self, message: &RoutedMessage) -> Vec<QueueId> {
        let Some(tree) = self.trees.get(&message.namespace) else { return Vec::new() };
        let mut found = tree.matches(&message.uri);
        let is_meant = |header: &QueueHeader| {
            header.only_from.as_deref().is_none_or(|origin| *origin == *message.origin)
                && header.not_from.as_deref().is_none_or(|origin| *origin != *message.origin)
        };
        found.retain(|id| self.queues.get(id).is_some_and(|queue| is_meant(queue.header())));
        found
    }

    /// Returns the numbers of the last values that a pattern means.
    pub(super) fn values(&self, namespace: &Namespace, pattern: &Pattern) -> Vec<u64> {
        let tree = self.values.get(namespace);
        tree.map(|tree| tree.matches(pattern).into_iter().copied().collect()).unwrap_or_default()
    }

    /// Adds a message to its queues, and as the last value of its URI. With `limited`, the limits of the queues are kept.
    pub(super) fn store(
        &mut self,
        seq: u64,
        queues: &[QueueId],
        value_of: Option<(&Namespace, &Uri)>,
        stored: (Option<u64>, Option<Bytes>, u32),
        limited: bool,
    ) -> Change {
        let (position, cached, bytes) = stored;
        self.skip_messages(seq);
        let mut change = Change::default();
        let mut needed = 0;
        let mut dropped = Vec::new();
        for id in queues {
            let Some(queue) = self.queues.get_mut(id) else { continue };
            if queue.contains(seq) {
                continue;
            }
            let before = dropped.len();
            if queue.push(seq, bytes, limited, &mut dropped) {
                needed += 1;
                change.enqueued += 1;
                change.dropped += dropped.len() - before;
            } else {
                change.dropped += 1;
            }
            if change.dropped > 0 {
                self.dirty.insert(*id);
            }
        }
        let mut replaced = None;
        if let Some((namespace, uri)) = value_of {
            let tree = self.values.entry(namespace.clone()).or_default();
            match tree.insert(uri, seq) {
                Some(newer) if newer > seq => drop(tree.insert(uri, newer)),
                Some(same) if same == seq => {}
                former => {
                    needed += 1;
                    replaced = former;
                }
            }
        }
        match self.messages.get_mut(&seq) {
            // The record was written again.
            Some(message) => {
                (message.position, message.needed) = (position, message.needed + needed);
            }
            None if needed > 0 => {
                self.bytes += u64::from(bytes);
                self.messages.insert(seq, Stored { position, cached, bytes, needed });
            }
            None => {}
        }
        dropped.into_iter().chain(replaced).for_each(|seq| self.release(seq));
        change
    }

    /// One queue or last value needs the message no more.
    fn release(&mut self, seq: u64) {
        let Some(message) = self.messages.get_mut(&seq) else { return };
        message.needed = message.needed.saturating_sub(1);
        if message.needed == 0 {
            self.bytes -= u64::from(message.bytes);
            self.messages.remove(&seq);
        }
    }

    /// Adds a queue, or changes one.
    pub(super) fn set_queue(&mut self, record: &QueueRecord) {
        let (id, header) = (record.progress.queue, &record.header);
        self.unknown.remove(&id);
        self.next_queue = self.next_queue.max(id);
        if let Some(former) = self.queues.get(&id) {
            let former = former.header().clone();
            self.unplant(id, &former);
        }
        let tree = self.trees.entry(header.namespace.clone()).or_default();
        header.patterns.iter().for_each(|pattern| tree.insert(pattern, id));
        self.names.insert(header.name.clone(), id);
        let queue = self.queues.entry(id).or_insert_with(|| Queue::new(id, header.clone()));
        queue.set_header(header.clone());
    }

    fn unplant(&mut self, id: QueueId, header: &QueueHeader) {
        if let Some(tree) = self.trees.get_mut(&header.namespace) {
            header.patterns.iter().for_each(|pattern| tree.remove(pattern, id));
        }
    }

    /// Removes a queue; returns the number of messages in it.
    pub(super) fn remove_queue(&mut self, id: QueueId) -> usize {
        let Some(queue) = self.queues.remove(&id) else { return 0 };
        let header = queue.header();
        self.unplant(id, header);
        if self.names.get(&header.name) == Some(&id) {
            self.names.remove(&header.name);
        }
        queue.seqs().for_each(|seq| self.release(seq));
        queue.changed().notify_waiters();
        queue.len()
    }

    /// Settles a message that was handed out.
    pub(super) fn settle(&mut self, id: QueueId, seq: u64, outcome: Outcome) {
        let Some(queue) = self.queues.get_mut(&id) else { return };
        if queue.settle(seq, outcome) {
            self.dirty.insert(id);
            self.release(seq);
        }
    }

    /// Removes a message whose bytes are lost from all queues.
    pub(super) fn forget(&mut self, seq: u64) {
        for (id, queue) in &mut self.queues {
            if queue.remove(seq) {
                self.dirty.insert(*id);
            }
        }
        if let Some(message) = self.messages.remove(&seq) {
            self.bytes -= u64::from(message.bytes);
        }
    }

    pub(super) fn mark_dirty(&mut self, id: QueueId) {
        self.dirty.insert(id);
    }

    /// Returns the records of what left the queues since the last call.
    pub(super) fn take_progress(&mut self) -> Vec<Progress> {
        let (dirty, next) = (std::mem::take(&mut self.dirty), self.next_seq + 1);
        let queues =
            dirty.into_iter().filter_map(|id| self.queues.get_mut(&id).map(|it| it.take_progress(next)));
        queues.collect()
    }

    /// Returns the record of a queue as it is now.
    pub(super) fn queue_record(&mut self, id: QueueId) -> Option<QueueRecord> {
        let next = self.next_seq + 1;
        let queue = self.queues.get_mut(&id)?;
        Some(QueueRecord { header: queue.header().clone(), progress: queue.take_progress(next) })
    }

    /// Returns what a record is written again as; `None` if nothing needs it.
    pub(super) fn rewrite<'a>(&mut self, position: u64, record: Record<'a>) -> Option<Record<'a>> {
        match record {
            Record::Message(MessageRecord { seq, queues, is_value, message }) => {
                self.messages.get(&seq).filter(|stored| stored.position == Some(position))?;
                let holds = |id: &QueueId| self.queues.get(id).is_some_and(|queue| queue.contains(seq));
                let queues: Vec<_> = queues.iter().copied().filter(holds).collect();
                Some(Record::Message(MessageRecord { seq, queues: Cow::Owned(queues), is_value, message }))
            }
            Record::Queue(QueueRecord { progress, .. }) => {
                self.queue_record(progress.queue).map(Record::Queue)
            }
            Record::Progress(_) | Record::Removed(_) => None,
        }
    }

    /// Applies a record that was read at a restart.
    pub(super) fn replay(&mut self, position: u64, record: &Record<'_>) {
        match record {
            Record::Message(record) => {
                record.queues.iter().for_each(|id| self.expect_queue(*id));
                let bytes = u32::try_from(record.message.len()).unwrap_or(u32::MAX);
                let value = if record.is_value { RoutedMessage::decode(&record.message).ok() } else { None };
                let value = value.as_ref().map(|message| (&message.namespace, &message.uri));
                self.store(record.seq, &record.queues, value, (Some(position), None, bytes), false);
            }
            Record::Queue(record) => {
                self.set_queue(record);
                self.apply(&record.progress);
            }
            Record::Progress(progress) => {
                self.expect_queue(progress.queue);
                self.apply(progress);
            }
            Record::Removed(id) => drop(self.remove_queue(*id)),
        }
    }

    fn expect_queue(&mut self, id: QueueId) {
        if !self.queues.contains_key(&id) {
            self.unknown.insert(id);
            self.queues.insert(id, Queue::new(id, QueueHeader::unknown()));
        }
    }

    /// Ends a restart: removes queues without a record, and drops messages over the limits; returns the number of the latter.
    pub(super) fn end_replay(&mut self) -> usize {
        for id in std::mem::take(&mut self.unknown) {
            self.remove_queue(id);
        }
        self.drop_over_limits()
    }

    fn apply(&mut self, progress: &Progress) {
        self.skip_messages(progress.floor.saturating_sub(1));
        let left = self.queues.get_mut(&progress.queue).map(|queue| queue.apply(progress));
        left.into_iter().flatten().for_each(|seq| self.release(seq));
    }

    fn drop_over_limits(&mut self) -> usize {
        let mut dropped = Vec::new();
        for (id, queue) in &mut self.queues {
            let before = dropped.len();
            queue.drop_oldest(&mut dropped);
            if dropped.len() > before {
                self.dirty.insert(*id);
            }
        }
        dropped.iter().for_each(|seq| self.release(*seq));
        dropped.len()
    }

    /// Returns the queues that have expired.
    pub(super) fn expired(&self, now: SystemTime) -> Vec<QueueId> {
        self.queues.iter().filter(|(_, queue)| queue.is_expired(now)).map(|(id, _)| *id).collect()
    }
}
