//! What is known of the stored messages: the memory behind the lock.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use roaring::RoaringTreemap;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::event::{self, Event, Fate, Snapshot};
use super::positions::Positions;
use super::reasons::{Reasons, Waiting};
use super::segment::{INDEX_STEP, Read, Segment};
use crate::message::Message;
use crate::message::Settlement;
use crate::message::headers::DROPPED;
use crate::store::admission::{Admission, Admitted, room_for};
use crate::store::schedule::Schedule;
use crate::store::{Entry, EntryState, Lease, Leased, Limits, StoreError, Unstored, Wait, WhenFull};
use crate::telemetry;
use crate::util::deadline::after;

/// How much of what was stored last is kept in memory, to be sent without being read.
const RECENT_MESSAGES: usize = 8_192;
const RECENT_BYTES: usize = 8 << 20;

/// The reason of a dead letter that is there no more.
const DAMAGED: &str = "it can no longer be read: the file it is in is damaged";

/// A batch on its way to the disk.
#[derive(Debug)]
pub(super) struct Append {
    /// Without positions.
    pub(super) records: Vec<u8>,
    pub(super) batch: Vec<Message>,
    /// None once it is answered.
    pub(super) reply: Option<Reply>,
}

pub(super) type Reply = oneshot::Sender<Result<(), Unstored>>;

/// Handed back when nobody writes any more.
impl Drop for Append {
    fn drop(&mut self) {
        if let Some(reply) = self.reply.take() {
            let _ = reply.send(Err(Unstored::new(StoreError::Closed, std::mem::take(&mut self.batch))));
        }
    }
}

/// Where the reasons of a message stand.
pub(super) type History = (Reasons, NonZeroU64);

/// A position, and its place in this file.
#[derive(Debug)]
pub(super) struct Hint {
    pub(super) file: Arc<File>,
    pub(super) position: u64,
    pub(super) offset: u64,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) limits: Limits,
    pub(super) admission: Admission,
    pub(super) closed: bool,
    /// Nothing follows any more: the writer ends.
    pub(super) ended: bool,
    /// The positions of all messages, dead letters included.
    pub(super) live: RoaringTreemap,
    /// How many that is.
    pub(super) count: u64,
    pub(super) bytes: u64,
    pub(super) fates: BTreeMap<u64, Fate>,
    pub(super) dead: u64,
    /// The file of reasons, if there is one; its generation, and about how many bytes of it are needed.
    pub(super) reasons: Option<Reasons>,
    pub(super) generation: u64,
    pub(super) reason_bytes: u64,
    /// Reasons that are not on disk yet.
    pub(super) waiting: Waiting,
    pub(super) segments: BTreeMap<u64, Segment>,
    /// The base of the last file, as the journal says.
    pub(super) begun: u64,
    /// The position of the next message.
    pub(super) next: u64,
    schedule: Schedule,
    /// Every message before it has been leased or waits in `schedule`.
    cursor: u64,
    /// Read from disk: what is live from the cursor up to `ahead_end`.
    ahead: VecDeque<(u64, Message)>,
    ahead_end: u64,
    /// Where reading ahead ended.
    pub(super) hint: Option<Hint>,
    /// Read from disk: what is due behind the cursor.
    fetched: BTreeMap<u64, Message>,
    /// What was stored last, without a gap up to `next`.
    recent: VecDeque<(u64, Message)>,
    recent_bytes: usize,
    /// Dropped for lack of room, and not told of; the message that tells, and how many it tells of.
    untold: u64,
    teller: Option<(u64, u64)>,
    /// To be written.
    pub(super) queue: Vec<Append>,
    queued: (u64, u64),
    /// Messages and bytes of a batch that did not fit: requests are let in when it would.
    refused: (u64, u64),
    pub(super) journal: Vec<u8>,
    /// What the checksums of payloads begin with.
    seed: u32,
    /// Since when there is something in it.
    pub(super) journal_since: Option<std::time::Instant>,
    /// Who waits until the journal is on disk.
    pub(super) syncs: Vec<std::sync::mpsc::Sender<Result<(), String>>>,
    /// Files whose messages have all left.
    pub(super) empty: Vec<u64>,
    /// Whether memory and journal have parted, because it could not be written: a new snapshot is due.
    pub(super) journal_broken: bool,
    /// When requests are let in again after the disk refused a write.
    pub(super) refused_until: Option<std::time::Instant>,
}

/// What a lease came to.
pub(super) enum Next {
    Leased(Vec<Leased>),
    /// These are to be read from disk first.
    Fetch(Vec<u64>),
    /// What stands in this file at the cursor, and up to the end given, is to be read first.
    ReadAhead {
        from: u64,
        to: u64,
    },
    /// Nothing is due before then.
    Idle {
        until: Option<Instant>,
    },
}

impl State {
    pub(super) fn new(limits: Limits, seed: u32) -> Self {
        Self {
            limits,
            admission: Admission::default(),
            closed: false,
            ended: false,
            live: RoaringTreemap::new(),
            count: 0,
            bytes: 0,
            fates: BTreeMap::new(),
            dead: 0,
            reasons: None,
            generation: 0,
            reason_bytes: 0,
            waiting: Waiting::default(),
            segments: BTreeMap::new(),
            begun: 0,
            next: 1,
            schedule: Schedule::default(),
            cursor: 0,
            ahead: VecDeque::new(),
            ahead_end: 0,
            hint: None,
            fetched: BTreeMap::new(),
            recent: VecDeque::new(),
            recent_bytes: 0,
            untold: 0,
            teller: None,
            queue: Vec::new(),
            queued: (0, 0),
            refused: (0, 0),
            journal: Vec::new(),
            seed,
            journal_since: None,
            syncs: Vec::new(),
            empty: Vec::new(),
            journal_broken: false,
            refused_until: None,
        }
    }

    /// Counts what was found on disk, and begins with the first message.
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
        self.count = self.live.len();
        self.fates.retain(|position, _| self.live.contains(*position));
        self.dead = self.fates.values().filter(|fate| fate.dead).count() as u64;
        self.reason_bytes = self.fates.values().map(|fate| u64::from(fate.bytes)).sum();
        self.bytes = bytes + self.reason_bytes;
        self.cursor = self.live.min().unwrap_or(self.next);
        self.ahead_end = self.cursor;
        self.admit();
    }

    // --- storing

    /// Queues a batch to be written, if there is room.
    pub(super) fn enqueue(
        &mut self,
        append: Append,
        own: Option<Admitted>,
    ) -> Result<(), (StoreError, Append)> {
        if self.closed {
            return Err((StoreError::Closed, append));
        }
        let (messages, bytes) = (append.batch.len() as u64, append.records.len() as u64);
        if let Err(error) = self.make_room(messages, bytes, own) {
            // One large batch that does not fit is no reason to turn others away.
            if messages <= self.limits.max_messages.div_ceil(4) && bytes <= self.limits.max_bytes.div_ceil(4)
            {
                self.refused = (messages, bytes);
            }
            self.admit();
            return Err((error, append));
        }
        self.queued = (self.queued.0 + messages, self.queued.1 + bytes);
        self.queue.push(append);
        Ok(())
    }

    fn make_room(&mut self, messages: u64, bytes: u64, own: Option<Admitted>) -> Result<(), StoreError> {
        let Limits { max_messages, max_bytes, when_full, .. } = self.limits;
        let over_messages = (self.count + self.queued.0 + messages).saturating_sub(max_messages);
        let over_bytes = (self.bytes + self.queued.1 + bytes).saturating_sub(max_bytes);
        let (free, left) = (self.free_messages(), self.free(messages, bytes));
        let fits = self.admission.take_over(own, |room| {
            let fits = over_messages == 0
                && over_bytes == 0
                && (when_full == WhenFull::DropOldest || room.fits(messages, free));
            if fits {
                room.free = left;
            }
            fits
        });
        if fits {
            return Ok(());
        }
        let full = |state: &Self| StoreError::Full {
            what: format!(
                "it holds {} messages, {} of them dead letters, of {max_messages}, and {} bytes of {max_bytes}",
                state.count, state.dead, state.bytes
            ),
        };
        if when_full == WhenFull::Refuse {
            return Err(full(self));
        }
        let mut dropped = Vec::new();
        let (mut freed, mut enough) = (0, false);
        for position in &self.live {
            if (dropped.len() as u64) >= over_messages && freed >= over_bytes {
                enough = true;
                break;
            }
            if !self.is_dead(position) && !self.schedule.is_leased(position) {
                let segment = self.segments.range(..=position).next_back();
                freed += segment
                    .map_or(0, |(_, segment)| segment.live_bytes.checked_div(segment.live).unwrap_or(0));
                freed += self.fates.get(&position).map_or(0, |fate| u64::from(fate.bytes));
                dropped.push(position);
            }
        }
        if !(enough || ((dropped.len() as u64) >= over_messages && freed >= over_bytes)) {
            return Err(full(self));
        }
        let count = dropped.len();
        for position in &dropped {
            self.schedule.forget(*position);
            self.remove(*position);
        }
        self.untold += count as u64;
        self.log(&Event::Overflowed(count as u64));
        self.log(&Event::Done(event::runs(dropped)));
        telemetry::overflowed(count);
        Ok(())
    }

    fn free_messages(&self) -> u64 {
        self.limits.max_messages.saturating_sub(self.count + self.queued.0)
    }

    /// For how many messages there is room when so much more comes.
    fn free(&self, messages: u64, bytes: u64) -> u64 {
        if self.limits.when_full == WhenFull::DropOldest {
            return u64::MAX;
        }
        let held = (self.count + self.queued.0 + messages, self.bytes + self.queued.1 + bytes);
        let free = self.limits.max_bytes.saturating_sub(held.1);
        room_for(self.free_messages().saturating_sub(messages), free, held)
    }

    /// The queue is empty: it is being written, and will be stored or refused.
    pub(super) fn take_queue(&mut self) -> Vec<Append> {
        std::mem::take(&mut self.queue)
    }

    /// What was written at `offset` of the last file is durable.
    pub(super) fn stored(&mut self, mut offset: u64, batches: impl Iterator<Item = (Vec<Message>, u64)>) {
        let Self { segments, .. } = self;
        let mut entry = segments.last_entry().expect("a file is open");
        let segment = entry.get_mut();
        for (batch, bytes) in batches {
            let count = batch.len() as u64;
            let index = Arc::make_mut(segment.index.get_or_insert_default());
            if index.last().is_none_or(|(_, last)| offset - last >= INDEX_STEP) {
                index.push((self.next, offset));
            }
            offset += bytes;
            self.live.insert_range(self.next..self.next + count);
            segment.live += count;
            segment.live_bytes += bytes;
            self.count += count;
            self.bytes += bytes;
            self.queued = (self.queued.0 - count, self.queued.1 - bytes);
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
        self.admit();
    }

    /// What was to be written was not.
    pub(super) fn not_stored(&mut self, messages: u64, bytes: u64) {
        self.queued = (self.queued.0 - messages, self.queued.1 - bytes);
        self.admit();
    }

    /// Opens or closes the gate for requests.
    pub(super) fn admit(&mut self) {
        telemetry::depth(self.count - self.dead, self.dead, self.bytes);
        self.admission.set_free(self.free(0, 0));
        let Limits { max_messages, max_bytes, when_full, .. } = self.limits;
        // Once closed, it opens when a twentieth is free again, lest it flutter.
        let share = if self.admission.is_open() { 0 } else { 20 };
        let below = |has: u64, more: u64, max: u64| {
            has < max - max.checked_div(share).unwrap_or(0) && has.saturating_add(more) <= max
        };
        let room = when_full == WhenFull::DropOldest
            || (below(self.count, self.refused.0, max_messages)
                && below(self.bytes, self.refused.1, max_bytes));
        if room {
            self.refused = (0, 0);
        }
        let open = room && !self.closed && self.refused_until.is_none();
        if open != self.admission.is_open() {
            if !open && !self.closed {
                tracing::error!(
                    messages = self.count,
                    dead = self.dead,
                    bytes = self.bytes,
                    "the outbox takes no more: requests are turned away"
                );
            } else if open {
                tracing::info!("the outbox takes messages again");
            }
            self.admission.set_open(open);
        }
    }

    // --- giving out

    /// Leases what is due; or says what is to be done first.
    pub(super) fn lease(&mut self, limit: usize) -> Result<Next, StoreError> {
        if self.closed {
            return Err(StoreError::Closed);
        }
        self.schedule.tick(Instant::now());
        let due = self.schedule.due(limit);
        let missing: Vec<u64> = due
            .iter()
            .copied()
            .filter(|position| self.is_pending(*position) && !self.fetched.contains_key(position))
            .collect();
        if !missing.is_empty() {
            return Ok(Next::Fetch(missing));
        }
        let token = self.schedule.next_lease_token();
        let mut leased = Vec::new();
        for position in due {
            match self.fetched.remove(&position) {
                Some(message) if self.is_pending(position) => {
                    self.offer(position, message, token, &mut leased)
                }
                _ => self.schedule.forget(position),
            }
        }
        if self.schedule.is_due() && leased.len() < limit {
            // Some that were due had gone, or waited for others: the next come before those at the cursor.
            if leased.is_empty() {
                return self.lease(limit);
            }
            self.tell(&mut leased[0]);
            return Ok(Next::Leased(leased));
        }
        while leased.len() < limit {
            if self.ahead.is_empty() && self.cursor < self.ahead_end {
                self.cursor = self.ahead_end;
            }
            let recent_start = self.recent.front().map_or(self.next, |(position, _)| *position);
            let (position, message) = if let Some(ahead) = self.ahead.pop_front() {
                ahead
            } else if self.cursor < recent_start {
                if leased.is_empty() {
                    return Ok(Next::ReadAhead { from: self.cursor, to: recent_start });
                }
                break;
            } else if let Some((position, message)) = self.recent.pop_front() {
                self.recent_bytes -= message.size();
                (position, message)
            } else {
                break;
            };
            if position < self.cursor {
                continue;
            }
            self.cursor = position + 1;
            if self.is_pending(position) {
                self.arrive(position, message, token, &mut leased);
            }
        }
        if !leased.is_empty() {
            self.tell(&mut leased[0]);
            return Ok(Next::Leased(leased));
        }
        if self.schedule.is_due() {
            // Others of the same groups have become due.
            return self.lease(limit);
        }
        Ok(Next::Idle { until: self.schedule.next_timer() })
    }

    /// A message comes up at the cursor.
    fn arrive(&mut self, position: u64, message: Message, token: u64, leased: &mut Vec<Leased>) {
        let (now, instant) = (SystemTime::now(), Instant::now());
        let retry = self.fates.get(&position).map_or(Duration::ZERO, |fate| fate.remaining(now));
        if !retry.is_zero() {
            let group = self.schedule.ordering_key(&message);
            return self.schedule.wait(position, group, after(instant, retry));
        }
        let delay = delay_left(&message, now);
        if !delay.is_zero() {
            return self.schedule.delay(position, after(instant, delay));
        }
        self.offer(position, message, token, leased);
    }

    fn offer(&mut self, position: u64, message: Message, token: u64, leased: &mut Vec<Leased>) {
        let group = self.schedule.ordering_key(&message);
        if self.schedule.take(position, group, token) {
            let attempts = self.fates.get(&position).map_or(0, |fate| fate.attempts);
            leased.push(Leased::new(Lease::new(position, token), message, attempts));
        }
    }

    /// Lets a message tell of those that were dropped.
    fn tell(&mut self, leased: &mut Leased) {
        if self.untold > 0 && self.teller.is_none() {
            self.teller = Some((leased.lease.position, self.untold));
            leased.message.set_header(DROPPED, i64::try_from(self.untold).unwrap_or(i64::MAX));
        }
    }

    /// Takes what was read for [`Next::Fetch`].
    pub(super) fn fetched(&mut self, read: Vec<Read>) {
        for (position, message) in read {
            match message {
                Some(message) => {
                    self.fetched.insert(position, message);
                }
                None => self.damaged(position),
            }
        }
    }

    /// Whether what stands from there on is to be read next.
    pub(super) fn reads_from(&self, from: u64) -> bool {
        self.cursor == from && self.ahead.is_empty() && self.ahead_end <= from
    }

    /// Takes what was read for [`Next::ReadAhead`]: all that is between `from` and `to`.
    pub(super) fn read_ahead(&mut self, from: u64, to: u64, read: Vec<(u64, Message)>) {
        if !self.reads_from(from) {
            return;
        }
        self.ahead = read.into_iter().filter(|(position, _)| self.live.contains(*position)).collect();
        self.ahead_end = to;
        let mut found = self.ahead.iter().map(|(position, _)| *position).peekable();
        let is_missing = |position: &u64| found.next_if_eq(position).is_none();
        let missing: Vec<u64> = self.live.within(from..to).filter(is_missing).collect();
        for position in missing {
            self.damaged(position);
        }
    }

    /// A message cannot be read: it becomes a dead letter that says so.
    pub(super) fn damaged(&mut self, position: u64) {
        if !self.is_pending(position) {
            return;
        }
        tracing::error!(position, "a stored message can no longer be read: its file is damaged");
        telemetry::lost(1, &DAMAGED);
        self.die(position, &DAMAGED.into());
    }

    // --- settling

    /// Settles what is still leased so; says whether that may have made something due, now or later.
    pub(super) fn settle(&mut self, settled: &[(Lease, Settlement)]) -> Result<bool, StoreError> {
        if self.closed {
            return Err(StoreError::Closed);
        }
        let mut done = Vec::with_capacity(settled.len());
        let mut retried = false;
        for (Lease { position, token, .. }, settlement) in settled {
            let position = *position;
            let Some(group) = self.schedule.settle(position, *token) else { continue };
            let told = self.teller.take_if(|(teller, _)| *teller == position);
            match settlement {
                Settlement::Ack | Settlement::Discard => {
                    if let Some((_, count)) = told.filter(|_| *settlement == Settlement::Ack) {
                        self.untold -= count;
                        self.log(&Event::Told(count));
                    }
                    self.remove(position);
                    done.push(position);
                    self.schedule.gone(group);
                }
                Settlement::Release => self.schedule.back(position, group, None),
                Settlement::Retry { after: wait, reason } => {
                    let at = clock();
                    let bytes = self.waiting.push(position, at, reason);
                    self.change(position, |fate| fate.failed(at, *wait, bytes));
                    self.log(&Event::Failed { position, at, after: *wait, bytes });
                    self.schedule.back(position, group, Some(after(Instant::now(), *wait)));
                    retried = true;
                }
                Settlement::Reject { reason } => {
                    self.die(position, reason);
                    self.schedule.gone(group);
                }
            }
        }
        if !done.is_empty() {
            self.log(&Event::Done(event::runs(done)));
        }
        self.admit();
        Ok(retried || self.schedule.is_due())
    }

    fn die(&mut self, position: u64, reason: &Arc<str>) {
        let bytes = self.waiting.push(position, clock(), reason);
        self.change(position, |fate| fate.die(bytes));
        self.dead += 1;
        self.log(&Event::Dead { position, bytes });
    }

    /// Changes a fate, and counts the bytes of its reasons.
    fn change(&mut self, position: u64, change: impl FnOnce(&mut Fate)) {
        let fate = self.fates.entry(position).or_default();
        let before = u64::from(fate.bytes);
        change(fate);
        let after = u64::from(fate.bytes);
        self.bytes = self.bytes + after - before;
        self.reason_bytes = self.reason_bytes + after - before;
    }

    /// The file of reasons was written anew: where the last of each message stands, and how many bytes its reasons take.
    pub(super) fn reasons_rewritten(
        &mut self,
        reasons: Reasons,
        places: Vec<(u64, Option<NonZeroU64>, u32)>,
    ) {
        for (position, place, bytes) in places {
            // It may have left meanwhile.
            if self.fates.contains_key(&position) {
                self.change(position, |fate| (fate.reason, fate.bytes) = (place, bytes));
            }
        }
        self.generation = reasons.generation();
        self.reasons = Some(reasons);
    }

    /// Reasons of messages are on disk, so many, and the last at this place.
    pub(super) fn reasons_written(&mut self, written: Vec<(u64, usize, Option<NonZeroU64>)>) {
        let mut places = Vec::with_capacity(written.len());
        for (position, count, place) in written {
            self.waiting.written(position, count);
            if let Some(fate) = self.fates.get_mut(&position) {
                fate.reason = place;
                places.extend(place.map(|place| (position, place.get())));
            }
        }
        if !places.is_empty() {
            self.log(&Event::Reasons(places));
        }
    }

    /// Takes a message out of the store.
    fn remove(&mut self, position: u64) {
        if !self.live.remove(position) {
            return;
        }
        self.count -= 1;
        if let Some(fate) = self.fates.remove(&position) {
            self.dead -= u64::from(fate.dead);
            self.bytes -= u64::from(fate.bytes);
            self.reason_bytes -= u64::from(fate.bytes);
            self.waiting.forget(position);
        }
        if let Some((_, segment)) = self.segments.range_mut(..=position).next_back() {
            self.bytes -= segment.gone();
            if segment.live == 0 {
                self.empty.push(segment.base);
            }
        }
    }

    // --- operating

    /// Makes dead letters and what waits for a retry due; gives how many of them it was.
    pub(super) fn requeue(&mut self, positions: &[u64], pace: Duration) -> Result<usize, StoreError> {
        if self.closed {
            return Err(StoreError::Closed);
        }
        let (at, now) = (clock(), Instant::now());
        let mut requeued = Vec::new();
        for position in positions {
            let Some(fate) = self.fates.get_mut(position) else { continue };
            if self.schedule.is_leased(*position) {
                continue;
            }
            if !fate.dead && fate.remaining(at).is_zero() {
                continue;
            }
            self.dead -= u64::from(fate.dead);
            let wait = pace.saturating_mul(u32::try_from(requeued.len()).unwrap_or(u32::MAX));
            fate.requeue(at, wait);
            requeued.push(*position);
            // What is not dead, or before the cursor, is seen to when its time comes.
            if *position < self.cursor {
                self.schedule.requeue(*position, after(now, wait));
            }
        }
        let count = requeued.len();
        self.log(&Event::Requeued { positions: requeued, at, pace });
        Ok(count)
    }

    /// Drops what is not leased.
    pub(super) fn drop_messages(&mut self, positions: &[u64]) -> Result<usize, StoreError> {
        if self.closed {
            return Err(StoreError::Closed);
        }
        let held = |position: &&u64| self.live.contains(**position) && !self.schedule.is_leased(**position);
        let dropped: Vec<u64> = positions.iter().filter(held).copied().collect();
        for position in &dropped {
            self.schedule.forget(*position);
            self.remove(*position);
        }
        let count = dropped.len();
        self.log(&Event::Done(event::runs(dropped)));
        self.admit();
        Ok(count)
    }

    /// Positions to look at from `after` on, at most `limit`: of dead letters, pending messages, or both.
    pub(super) fn positions(&self, state: Option<EntryState>, after: Option<u64>, limit: usize) -> Vec<u64> {
        let from = after.map_or(0, |after| after.saturating_add(1));
        match state {
            Some(EntryState::Dead) => {
                let dead = self.fates.range(from..).filter(|(_, fate)| fate.dead);
                dead.map(|(position, _)| *position).take(limit).collect()
            }
            Some(EntryState::Pending) => self
                .live
                .within(from..u64::MAX)
                .filter(|position| !self.is_dead(*position))
                .take(limit)
                .collect(),
            None => self.live.within(from..u64::MAX).take(limit).collect(),
        }
    }

    /// What is known of a message, and where its earlier reasons stand; none when it has gone.
    pub(super) fn entry(&self, position: u64, message: Option<Message>) -> Option<(Entry, Option<History>)> {
        if !self.live.contains(position) {
            return None;
        }
        let fate = self.fates.get(&position);
        let dead = fate.is_some_and(|fate| fate.dead);
        let state = if dead { EntryState::Dead } else { EntryState::Pending };
        let mut entry = Entry::new(position, state, message);
        let mut history = None;
        if let Some(fate) = fate {
            entry.attempts = fate.attempts;
            entry.failures = self.waiting.of(position).to_vec();
            history = self.reasons.clone().zip(fate.reason);
        }
        if !dead {
            entry.wait = Some(self.wait(position, fate, entry.message.as_ref()));
        }
        Some((entry, history))
    }

    fn wait(&self, position: u64, fate: Option<&Fate>, message: Option<&Message>) -> Wait {
        let now = SystemTime::now();
        if self.schedule.is_leased(position) {
            return Wait::Sending;
        }
        let retry = fate.map_or(Duration::ZERO, |fate| fate.remaining(now));
        if !retry.is_zero() {
            return Wait::Retry { until: after(now, retry) };
        }
        let delay = message.map_or(Duration::ZERO, |message| delay_left(message, now));
        if !delay.is_zero() {
            return Wait::Delayed { until: after(now, delay) };
        }
        if self.schedule.is_behind(position) { Wait::Key } else { Wait::Turn }
    }

    /// The position of the oldest pending message.
    pub(super) fn oldest(&self) -> Option<u64> {
        self.live.iter().find(|position| !self.is_dead(*position))
    }

    fn is_dead(&self, position: u64) -> bool {
        self.fates.get(&position).is_some_and(|fate| fate.dead)
    }

    fn is_pending(&self, position: u64) -> bool {
        self.live.contains(position) && !self.is_dead(position)
    }

    /// The files these positions are in.
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

    /// The cursor's file may not be rewritten, nor one after it.
    pub(super) fn cursor(&self) -> u64 {
        self.cursor
    }

    // --- the journal

    /// Notes what happened, to be written.
    pub(super) fn log(&mut self, event: &Event) {
        if !self.journal_broken {
            if self.journal.is_empty() {
                self.journal_since = Some(std::time::Instant::now());
            }
            event.write(&mut self.journal, self.seed);
        }
    }

    /// Appends an event that says all there is to know.
    pub(super) fn snapshot(&mut self, end: Option<(u64, u64)>, journal: &mut Vec<u8>) {
        let mut live = Vec::with_capacity(self.live.serialized_size());
        self.live.serialize_into(&mut live).expect("memory takes it");
        let mut event = Event::Snapshot(Snapshot {
            next: self.next,
            live,
            // Lent, since there may be many.
            fates: std::mem::take(&mut self.fates),
            untold: self.untold,
            last: self.segments.last_key_value().map_or(0, |(base, _)| *base),
            reasons: self.generation,
            end,
        });
        event.write(journal, self.seed);
        if let Event::Snapshot(snapshot) = &mut event {
            self.fates = std::mem::take(&mut snapshot.fates);
        }
    }

    /// Does again what the journal says was done.
    pub(super) fn replay(&mut self, event: Event) -> io::Result<()> {
        match event {
            Event::Snapshot(snapshot) => {
                self.live = RoaringTreemap::deserialize_from(&snapshot.live[..])?;
                self.next = snapshot.next;
                self.fates = snapshot.fates;
                self.untold = snapshot.untold;
                self.begun = snapshot.last;
                self.generation = snapshot.reasons;
            }
            Event::Done(runs) => {
                for (first, len) in runs {
                    let after = first.saturating_add(len);
                    self.live.remove_range(first..after);
                    self.next = self.next.max(after);
                }
            }
            Event::Failed { position, at, after, bytes } => {
                self.fates.entry(position).or_default().failed(at, after, bytes);
            }
            Event::Dead { position, bytes } => self.fates.entry(position).or_default().die(bytes),
            Event::Reasons(places) => {
                for (position, place) in places {
                    self.fates.entry(position).or_default().reason = NonZeroU64::new(place);
                }
            }
            Event::Requeued { positions, at, pace } => {
                for (index, position) in positions.into_iter().enumerate() {
                    let wait = pace.saturating_mul(u32::try_from(index).unwrap_or(u32::MAX));
                    self.fates.entry(position).or_default().requeue(at, wait);
                }
            }
            Event::Begun(base) => {
                self.begun = base;
                self.next = self.next.max(base);
            }
            Event::Overflowed(count) => self.untold = self.untold.saturating_add(count),
            Event::Told(count) => self.untold = self.untold.saturating_sub(count),
        }
        Ok(())
    }
}

/// The time, as it can be written.
fn clock() -> SystemTime {
    SystemTime::now().max(SystemTime::UNIX_EPOCH)
}

/// How long a message is still held back; a clock that jumped cannot make it longer than its delay.
fn delay_left(message: &Message, now: SystemTime) -> Duration {
    let Some(delay) = message.delay() else { return Duration::ZERO };
    delay.saturating_sub(now.duration_since(message.time()).unwrap_or_default())
}
