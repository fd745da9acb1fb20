//! The index of a store: all that is known of its messages, in memory and behind one lock.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::sync::Arc;

use roaring::RoaringTreemap;
use tokio::sync::oneshot;

use super::event::{self, Event, RetryState};
use super::positions::Positions;
use super::reasons::{Reasons, WaitingReasons};
use crate::log::segment::Segment;
use crate::message::Message;
use crate::store::admission::Admitted;
use crate::store::capacity::{Capacity, Excess};
use crate::store::schedule::Schedule;
use crate::store::{Limits, StoreError, Unstored};
use crate::telemetry;

/// The newest messages that are kept in memory, so that they are sent without a read: at most so many, and so many bytes.
const RECENT_MESSAGES: usize = 8_192;
const RECENT_BYTES: usize = 8 << 20;

/// A batch on its way to the disk.
#[derive(Debug)]
pub(super) struct Append {
    /// The records, without positions.
    pub(super) records: Vec<u8>,
    pub(super) batch: Vec<Message>,
    /// `None` once the batch was answered.
    pub(super) reply: Option<Reply>,
}

pub(super) type Reply = oneshot::Sender<Result<(), Unstored>>;

/// A batch that nobody writes any more is handed back.
impl Drop for Append {
    fn drop(&mut self) {
        if let Some(reply) = self.reply.take() {
            let _ = reply.send(Err(Unstored::new(StoreError::Closed, std::mem::take(&mut self.batch))));
        }
    }
}

/// A position, and the offset of its record in a segment.
#[derive(Debug)]
pub(super) struct Hint {
    pub(super) file: Arc<File>,
    pub(super) position: u64,
    pub(super) offset: u64,
}

/// All that is known of the stored messages.
#[derive(Debug)]
pub(super) struct LogIndex {
    pub(super) capacity: Capacity,
    pub(super) closed: bool,
    /// Whether the writer has ended, so that nothing is written any more.
    pub(super) ended: bool,
    /// The positions of all messages, dead letters included.
    pub(super) live: RoaringTreemap,
    /// The messages that have failed, are delayed by an operator, or are dead letters.
    pub(super) retries: BTreeMap<u64, RetryState>,
    /// The file of reasons; `None` until there is a reason.
    pub(super) reasons: Option<Reasons>,
    /// The generation of the file of reasons.
    pub(super) generation: u64,
    /// About how many bytes of the file of reasons are needed.
    pub(super) reason_bytes: u64,
    /// The reasons that are not on disk yet.
    pub(super) waiting_reasons: WaitingReasons,
    pub(super) segments: BTreeMap<u64, Segment>,
    /// The base of the last segment, as the journal has it.
    pub(super) last_begun: u64,
    /// The position of the next message.
    pub(super) next: u64,
    pub(super) schedule: Schedule,
    /// The position up to which every message has been leased or is in `schedule`. Segments from here on are not rewritten.
    pub(super) cursor: u64,
    /// The messages that were read from disk: all live ones from the cursor up to `ahead_end`.
    pub(super) ahead: VecDeque<(u64, Message)>,
    pub(super) ahead_end: u64,
    /// The place where the last read ahead ended.
    pub(super) hint: Option<Hint>,
    /// The messages behind the cursor that are due and were read from disk.
    pub(super) fetched: BTreeMap<u64, Message>,
    /// The newest messages, without a gap up to `next`.
    pub(super) recent: VecDeque<(u64, Message)>,
    pub(super) recent_bytes: usize,
    /// The number of messages that were dropped for lack of room and that no sent message has reported yet.
    pub(super) dropped_unreported: u64,
    /// The leased message that reports dropped messages, and their number.
    pub(super) drop_notice: Option<(u64, u64)>,
    /// The batches to be written.
    pub(super) queue: Vec<Append>,
    /// The events to be written.
    pub(super) journal: Vec<u8>,
    /// The seed of the checksums of payloads.
    pub(super) seed: u32,
    /// The time of the oldest event in `journal`.
    pub(super) journal_since: Option<std::time::Instant>,
    /// The callers that wait until the journal is on disk.
    pub(super) syncs: Vec<std::sync::mpsc::Sender<Result<(), String>>>,
    /// The bases of segments without live messages.
    pub(super) empty: Vec<u64>,
    /// Whether the journal lacks events because it could not be written, so that a snapshot must replace it.
    pub(super) journal_broken: bool,
    /// The time until which requests get 503 because the disk refused a write.
    pub(super) refused_until: Option<std::time::Instant>,
}

impl LogIndex {
    pub(super) fn new(limits: Limits, seed: u32) -> Self {
        Self {
            capacity: Capacity::new(limits),
            closed: false,
            ended: false,
            live: RoaringTreemap::new(),
            retries: BTreeMap::new(),
            reasons: None,
            generation: 0,
            reason_bytes: 0,
            waiting_reasons: WaitingReasons::default(),
            segments: BTreeMap::new(),
            last_begun: 0,
            next: 1,
            schedule: Schedule::default(),
            cursor: 0,
            ahead: VecDeque::new(),
            ahead_end: 0,
            hint: None,
            fetched: BTreeMap::new(),
            recent: VecDeque::new(),
            recent_bytes: 0,
            dropped_unreported: 0,
            drop_notice: None,
            queue: Vec::new(),
            journal: Vec::new(),
            seed,
            journal_since: None,
            syncs: Vec::new(),
            empty: Vec::new(),
            journal_broken: false,
            refused_until: None,
        }
    }

    /// Counts the messages that were found on disk, and moves the cursor to the first.
    pub(super) fn begin(&mut self) {
        let Self { live, segments, .. } = self;
        for segment in segments.values_mut() {
            segment.live = live.count_within(segment.base..segment.end);
            let all = segment.end - segment.base;
            segment.live_bytes = segment.len.checked_div(all).unwrap_or(0) * segment.live;
        }
        let bytes: u64 = segments.values().map(|segment| segment.live_bytes).sum();
        self.empty =
            segments.values().filter(|segment| segment.live == 0).map(|segment| segment.base).collect();
        self.retries.retain(|position, _| self.live.contains(*position));
        let dead = self.retries.values().filter(|retry| retry.dead).count() as u64;
        self.reason_bytes = self.retries.values().map(|retry| u64::from(retry.bytes)).sum();
        self.capacity.set(self.live.len() - dead, dead, bytes + self.reason_bytes);
        self.cursor = self.live.min().unwrap_or(self.next);
        self.ahead_end = self.cursor;
        self.capacity.admit();
    }

    // --- storing

    /// Queues a batch to be written, if it fits.
    pub(super) fn enqueue(
        &mut self,
        append: Append,
        request: Option<Admitted>,
    ) -> Result<(), (StoreError, Append)> {
        if self.closed {
            return Err((StoreError::Closed, append));
        }
        let (messages, bytes) = (append.batch.len() as u64, append.records.len() as u64);
        if let Err(excess) = self.capacity.reserve(messages, bytes, request) {
            if !self.capacity.drops_oldest() || !self.drop_oldest(excess) {
                return Err((self.capacity.full(messages, bytes), append));
            }
            self.capacity.reserve_anyway(messages, bytes);
        }
        self.queue.push(append);
        Ok(())
    }

    /// Drops the oldest messages that are neither leased nor dead, as many as the excess; `false` if there are too few.
    fn drop_oldest(&mut self, excess: Excess) -> bool {
        let mut dropped = Vec::new();
        let mut freed = 0;
        let is_enough =
            |dropped: &Vec<u64>, freed: u64| dropped.len() as u64 >= excess.messages && freed >= excess.bytes;
        for position in &self.live {
            if is_enough(&dropped, freed) {
                break;
            }
            if !self.is_dead(position) && !self.schedule.is_leased(position) {
                let segment = self.segments.range(..=position).next_back();
                freed += segment
                    .map_or(0, |(_, segment)| segment.live_bytes.checked_div(segment.live).unwrap_or(0));
                freed += self.retries.get(&position).map_or(0, |retry| u64::from(retry.bytes));
                dropped.push(position);
            }
        }
        if !is_enough(&dropped, freed) {
            return false;
        }
        let count = dropped.len();
        for position in &dropped {
            self.schedule.forget(*position);
            self.remove(*position);
        }
        self.dropped_unreported += count as u64;
        self.log(&Event::DroppedForRoom(count as u64));
        self.log(&Event::Removed(event::runs(dropped)));
        telemetry::overflowed(count);
        true
    }

    /// Takes the batches to be written. Each must end in [`stored`](Self::stored) or [`not_stored`](Self::not_stored).
    pub(super) fn take_queue(&mut self) -> Vec<Append> {
        std::mem::take(&mut self.queue)
    }

    /// Adds batches that are durable at `offset` of the last segment.
    pub(super) fn stored(&mut self, mut offset: u64, batches: impl Iterator<Item = (Vec<Message>, u64)>) {
        let Self { segments, .. } = self;
        let mut entry = segments.last_entry().expect("a segment is open");
        let segment = entry.get_mut();
        for (batch, bytes) in batches {
            let count = batch.len() as u64;
            segment.index_record(self.next, offset);
            offset += bytes;
            self.live.insert_range(self.next..self.next + count);
            segment.live += count;
            segment.live_bytes += bytes;
            self.capacity.unreserve(count, bytes);
            self.capacity.add(count as i64, 0, bytes as i64);
            for message in batch {
                self.recent_bytes += message.size();
                self.recent.push_back((self.next, message));
                self.next += 1;
            }
        }
        segment.len = offset;
        segment.end = self.next;
        while self.recent.len() > RECENT_MESSAGES || self.recent_bytes > RECENT_BYTES {
            let Some((_, message)) = self.recent.pop_front() else { break };
            self.recent_bytes -= message.size();
        }
        self.capacity.admit();
    }

    /// Frees the capacity of batches that could not be written, and admits no requests until a time.
    pub(super) fn not_stored(&mut self, messages: u64, bytes: u64, until: std::time::Instant) {
        self.capacity.unreserve(messages, bytes);
        self.refused_until = Some(until);
        self.capacity.set_paused(true);
    }

    /// Adds a segment behind the last.
    pub(super) fn begin_segment(&mut self, segment: Segment) {
        if let Some((base, last)) = self.segments.last_key_value()
            && *base != segment.base
            && last.live == 0
        {
            self.empty.push(*base);
        }
        self.log(&Event::SegmentBegun(segment.base));
        self.segments.insert(segment.base, segment);
    }

    /// Admits requests again when the time has come after a failed write.
    pub(super) fn resume(&mut self, now: std::time::Instant) {
        if self.refused_until.is_some_and(|until| until <= now) {
            self.refused_until = None;
            self.capacity.set_paused(false);
        }
    }

    /// Refuses everything from now on.
    pub(super) fn close(&mut self) {
        self.closed = true;
        self.capacity.close();
    }

    // --- positions

    /// Removes a message.
    pub(super) fn remove(&mut self, position: u64) {
        if !self.live.remove(position) {
            return;
        }
        let (mut dead, mut bytes) = (false, 0);
        if let Some(retry) = self.retries.remove(&position) {
            (dead, bytes) = (retry.dead, u64::from(retry.bytes));
            self.reason_bytes -= bytes;
            self.waiting_reasons.forget(position);
        }
        if let Some((_, segment)) = self.segments.range_mut(..=position).next_back() {
            bytes += segment.settle_one();
            if segment.live == 0 {
                self.empty.push(segment.base);
            }
        }
        self.capacity.add(-i64::from(!dead), -i64::from(dead), -(bytes as i64));
    }

    pub(super) fn is_dead(&self, position: u64) -> bool {
        self.retries.get(&position).is_some_and(|retry| retry.dead)
    }

    pub(super) fn is_pending(&self, position: u64) -> bool {
        self.live.contains(position) && !self.is_dead(position)
    }

    /// Returns the segments of these positions.
    pub(super) fn segments_of(&self, positions: &[u64]) -> BTreeMap<u64, Segment> {
        let mut segments = BTreeMap::new();
        for position in positions {
            if let Some((base, segment)) = self.segments.range(..=*position).next_back()
                && !segments.contains_key(base)
            {
                segments.insert(*base, segment.clone());
            }
        }
        segments
    }

    /// Adds an event to the journal.
    pub(super) fn log(&mut self, event: &Event) {
        if !self.journal_broken {
            if self.journal.is_empty() {
                self.journal_since = Some(std::time::Instant::now());
            }
            event.write(&mut self.journal, self.seed);
        }
    }
}
