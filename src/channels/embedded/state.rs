//! All that an engine keeps in memory, and the batches on their way to the disk.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::op::Op;
use super::queue_state::{Held, Queue};
use super::record::{self, Record};
use super::segments::LiveSegments;
use super::stream_state::Stream;
use crate::channels::error::EngineError;
use crate::channels::info::{ChannelKind, ChannelLimits};
use crate::channels::name::ChannelName;
use crate::util::error::BoxError;

/// Runs under the lock once a batch is stored and applied, or has failed. It gets the results of the operations.
pub(super) type Finish = Box<dyn FnOnce(&mut ChannelState, Result<&[u64], &io::Error>) + Send>;

/// Records that are stored together or not at all.
pub(super) struct Batch {
    /// The records, without positions.
    pub(super) records: Vec<u8>,
    /// One operation for each record.
    pub(super) ops: Vec<Op>,
    pub(super) finish: Option<Finish>,
    /// Whether the batch settles messages, so that room becomes free.
    pub(super) makes_room: bool,
    /// The offset of the last record in `records`.
    last: usize,
}

impl Batch {
    pub(super) fn new() -> Self {
        Self { records: Vec::new(), ops: Vec::new(), finish: None, makes_room: true, last: 0 }
    }

    /// Adds a record with its operation.
    pub(super) fn push(&mut self, seed: u32, record: &Record<'_>, op: Op) -> Result<(), BoxError> {
        let last = self.records.len();
        if let Err(error) = record::push(&mut self.records, seed, record) {
            self.records.truncate(last);
            return Err(error);
        }
        self.last = last;
        self.ops.push(op);
        Ok(())
    }

    /// Marks the last record as the end of the batch.
    fn end(&mut self) {
        if let Some(mark) = self.records.get_mut(self.last + 2) {
            *mark = 1;
        }
    }
}

/// The messages that one receive took.
#[derive(Debug)]
pub(super) struct ReceiptState {
    pub(super) queue: u32,
    /// The sequences, in order, of which some may be settled.
    pub(super) sequences: Vec<u64>,
}

/// All that an engine keeps in memory.
#[derive(Default)]
pub(super) struct ChannelState {
    pub(super) segments: LiveSegments,
    pub(super) queues: Vec<Queue>,
    queue_names: HashMap<Arc<str>, u32>,
    pub(super) streams: Vec<Stream>,
    stream_names: HashMap<Arc<str>, u32>,
    /// The numbers of queues and streams that were removed.
    free_queues: Vec<u32>,
    free_streams: Vec<u32>,
    /// The channels for events and requests that were created.
    pub(super) created: BTreeMap<(ChannelKind, ChannelName), ChannelLimits>,
    pub(super) receipts: HashMap<u64, ReceiptState>,
    last_receipt: u64,
    /// The times at which held messages count as rejected, with their queues and sequences.
    pub(super) visibility: BTreeSet<(Instant, u32, u64)>,
    /// The times at which delayed messages become visible and others expire, with their queues.
    pub(super) timers: BTreeSet<(u64, u32)>,
    /// The time at which the writer runs by itself.
    pub(super) planned: Option<Instant>,
    /// The batches that wait for the writer.
    pub(super) pending: Vec<Batch>,
    /// Their bytes.
    pub(super) pending_bytes: u64,
    /// The limits of streams without their own.
    pub(super) stream_limits: ChannelLimits,
    /// The seed of the checksums of payloads.
    pub(super) seed: u32,
    /// Whether the engine takes no more work.
    pub(super) is_closed: bool,
    /// Why the last write failed; `None` after one that did not.
    pub(super) broken: Option<String>,
}

impl ChannelState {
    /// Returns the number of a queue, which is made if there is none.
    pub(super) fn queue(&mut self, name: &ChannelName) -> u32 {
        if let Some(index) = self.queue_names.get(name.as_str()) {
            return *index;
        }
        let index = place(&mut self.queues, &mut self.free_queues, Queue::new(name.clone()));
        self.queue_names.insert(name.shared(), index);
        index
    }

    /// Returns the number of a stream, which is made if there is none.
    pub(super) fn stream(&mut self, name: &ChannelName) -> u32 {
        if let Some(index) = self.stream_names.get(name.as_str()) {
            return *index;
        }
        let index = place(&mut self.streams, &mut self.free_streams, Stream::new(name.clone()));
        self.stream_names.insert(name.shared(), index);
        index
    }

    /// Returns the number of a queue that exists.
    pub(super) fn known_queue(&self, name: &ChannelName) -> Option<u32> {
        let index = *self.queue_names.get(name.as_str())?;
        self.queues[index as usize].exists.then_some(index)
    }

    /// Returns the number of a stream that exists.
    pub(super) fn known_stream(&self, name: &ChannelName) -> Option<u32> {
        let index = *self.stream_names.get(name.as_str())?;
        self.streams[index as usize].exists.then_some(index)
    }

    /// Returns the number of channels that take memory.
    pub(super) fn channels(&self) -> usize {
        self.queue_names.len() + self.stream_names.len() + self.created.len()
    }

    /// Frees the names and numbers of deleted channels that nothing refers to. No operation may be on its way.
    pub(super) fn free_deleted(&mut self) {
        let Self { queues, queue_names, free_queues, streams, stream_names, free_streams, .. } = self;
        queue_names.retain(|_, index| {
            let queue = &queues[*index as usize];
            let is_kept = queue.exists || !queue.is_unused();
            if !is_kept {
                free_queues.push(*index);
            }
            is_kept
        });
        stream_names.retain(|_, index| {
            let stream = &streams[*index as usize];
            let is_kept = stream.exists || !stream.is_unused();
            if !is_kept {
                free_streams.push(*index);
            }
            is_kept
        });
    }

    pub(super) fn set_limits(&mut self, kind: ChannelKind, channel: &ChannelName, limits: ChannelLimits) {
        match kind {
            ChannelKind::Queue => {
                let queue = self.queue(channel) as usize;
                (self.queues[queue].limits, self.queues[queue].exists) = (limits, true);
            }
            ChannelKind::Stream => {
                let stream = self.stream(channel) as usize;
                let stream = &mut self.streams[stream];
                (stream.limits, stream.exists) = (limits, true);
                stream.trim(&self.stream_limits, &mut self.segments);
            }
            kind => drop(self.created.insert((kind, channel.clone()), limits)),
        }
    }

    /// Hands a batch to the writer, which must be woken.
    ///
    /// # Errors
    /// [`EngineError::Closed`].
    pub(super) fn enqueue(&mut self, mut batch: Batch) -> Result<(), EngineError> {
        if self.is_closed {
            return Err(EngineError::Closed);
        }
        batch.end();
        self.pending_bytes += batch.records.len() as u64;
        self.pending.push(batch);
        Ok(())
    }

    /// Returns a new receipt.
    pub(super) fn new_receipt(&mut self) -> u64 {
        self.last_receipt += 1;
        self.last_receipt
    }

    /// Takes visible messages from the head of a queue under a receipt; returns their sequences. `room` is the number of bytes
    /// they may have, unless it is the first message of the receipt; it is zero when the next message has more.
    pub(super) fn take(
        &mut self,
        index: u32,
        max: usize,
        room: &mut u64,
        now: u64,
        receipt: u64,
        visibility: Option<Duration>,
    ) -> Vec<(u64, bool)> {
        let queue = &mut self.queues[index as usize];
        let deadline = visibility.and_then(|visibility| Instant::now().checked_add(visibility));
        let mut taken = Vec::new();
        while taken.len() < max {
            let is_first = taken.is_empty() && !self.receipts.contains_key(&receipt);
            if !is_first && queue.next_len() > *room {
                *room = 0;
                break;
            }
            let Some((entry, redelivered)) = queue.pop() else { break };
            *room = room.saturating_sub(u64::from(entry.place.len));
            let expires = entry.expires();
            if expires > 0 && expires <= now {
                queue.expiring.remove(&(expires, entry.sequence));
                queue.uncount(entry.place, &mut self.segments);
                queue.expired += 1;
                crate::telemetry::channel_expired(queue.name.as_str());
                continue;
            }
            let sequence = entry.sequence;
            taken.push((sequence, redelivered));
            if let Some(deadline) = deadline {
                self.visibility.insert((deadline, index, sequence));
            }
            let held = Held { entry, receipt, deadline, policy: None, is_settling: false };
            queue.held.insert(sequence, held);
        }
        if !taken.is_empty() {
            let sequences = taken.iter().map(|(sequence, _)| *sequence);
            let state = self
                .receipts
                .entry(receipt)
                .or_insert_with(|| ReceiptState { queue: index, sequences: Vec::new() });
            state.sequences.extend(sequences);
        }
        if self.queues[index as usize].visible() > 0 {
            self.queues[index as usize].arrived.notify_one();
        }
        taken
    }

    /// Forgets that a receipt holds a message; the receipt closes with its last one.
    pub(super) fn forget_held(&mut self, receipt: u64, sequences: &[u64]) {
        if let Some(state) = self.receipts.get_mut(&receipt) {
            let gone: std::collections::HashSet<u64> = sequences.iter().copied().collect();
            state.sequences.retain(|sequence| !gone.contains(sequence));
            if state.sequences.is_empty() {
                self.receipts.remove(&receipt);
            }
        }
    }

    /// Stops the visibility of a held message.
    pub(super) fn stop_visibility(&mut self, index: u32, sequence: u64) {
        if let Some(held) = self.queues[index as usize].held.get_mut(&sequence)
            && let Some(deadline) = held.deadline.take()
        {
            self.visibility.remove(&(deadline, index, sequence));
        }
    }

    /// Hands all messages of a receipt back, but those whose settlement is being written.
    pub(super) fn release(&mut self, receipt: u64) {
        let Some(state) = self.receipts.remove(&receipt) else { return };
        for sequence in state.sequences {
            let is_settling =
                self.queues[state.queue as usize].held.get(&sequence).is_none_or(|held| held.is_settling);
            if !is_settling {
                self.stop_visibility(state.queue, sequence);
                self.queues[state.queue as usize].give_back(sequence);
            }
        }
    }

    /// Makes messages settleable again whose settlement could not be written.
    pub(super) fn unsettle(&mut self, index: u32, sequences: &[u64]) {
        for sequence in sequences {
            let queue = &mut self.queues[index as usize];
            let Some(held) = queue.held.get_mut(sequence) else { continue };
            held.is_settling = false;
            if let Some(deadline) = held.deadline {
                self.visibility.insert((deadline, index, *sequence));
            }
            if !self.receipts.contains_key(&held.receipt) {
                let sequence = *sequence;
                self.stop_visibility(index, sequence);
                self.queues[index as usize].give_back(sequence);
            }
        }
    }

    /// Sets the timer of a queue again, after a change.
    pub(super) fn plan(&mut self, index: u32) {
        let queue = &mut self.queues[index as usize];
        let next = queue.next_timer();
        if queue.timer != next {
            if let Some(old) = std::mem::replace(&mut queue.timer, next) {
                self.timers.remove(&(old, index));
            }
            if let Some(next) = next {
                self.timers.insert((next, index));
            }
        }
    }
}

/// Puts a channel at a free number, or at a new one.
fn place<T>(all: &mut Vec<T>, free: &mut Vec<u32>, one: T) -> u32 {
    match free.pop() {
        Some(index) => {
            all[index as usize] = one;
            index
        }
        None => {
            all.push(one);
            u32::try_from(all.len() - 1).unwrap_or(u32::MAX)
        }
    }
}
