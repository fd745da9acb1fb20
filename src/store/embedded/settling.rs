//! Settles leased messages, and does the work of operators: requeue and drop.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::event::{self, Event, RetryState};
use super::index::LogIndex;
use super::reasons::{Reasons, Waiting};
use crate::message::Settlement;
use crate::store::{Lease, StoreError};
use crate::telemetry;
use crate::util::deadline::after;

/// The reason of a dead letter whose record is damaged.
const DAMAGED: &str = "the message can no longer be read: its file is damaged";

impl LogIndex {
    /// Settles messages whose lease is still valid; returns whether a message may have become due, now or later.
    pub(super) fn settle(&mut self, settled: &[(Lease, Settlement)]) -> Result<bool, StoreError> {
        if self.closed {
            return Err(StoreError::Closed);
        }
        let mut removed = Vec::with_capacity(settled.len());
        let mut retried = false;
        for (Lease { position, token, .. }, settlement) in settled {
            let position = *position;
            let Some(key) = self.schedule.settle(position, *token) else { continue };
            let notice = self.drop_notice.take_if(|(noticed, _)| *noticed == position);
            match settlement {
                Settlement::Ack | Settlement::Discard => {
                    if let Some((_, count)) = notice.filter(|_| *settlement == Settlement::Ack) {
                        self.dropped_unreported -= count;
                        self.log(&Event::DropsReported(count));
                    }
                    self.remove(position);
                    removed.push(position);
                    self.schedule.gone(key);
                }
                Settlement::Release => self.schedule.back(position, key, None),
                Settlement::Retry { after: wait, reason } => {
                    let at = clock();
                    let bytes = self.waiting_reasons.push(position, at, reason);
                    self.change(position, |retry| retry.fail(at, *wait, bytes));
                    self.log(&Event::AttemptFailed { position, at, after: *wait, bytes });
                    self.schedule.back(position, key, Some(after(Instant::now(), *wait)));
                    retried = true;
                }
                Settlement::Reject { reason } => {
                    self.dead_letter(position, reason);
                    self.schedule.gone(key);
                }
            }
        }
        if !removed.is_empty() {
            self.log(&Event::Removed(event::runs(removed)));
        }
        self.capacity.admit();
        Ok(retried || self.schedule.is_due())
    }

    /// Makes a message that cannot be read a dead letter.
    pub(super) fn damaged(&mut self, position: u64) {
        if !self.is_pending(position) {
            return;
        }
        tracing::error!(
            position,
            "could not read a stored message, since its file is damaged; it becomes a dead letter"
        );
        telemetry::lost(1, &DAMAGED);
        self.dead_letter(position, &DAMAGED.into());
    }

    fn dead_letter(&mut self, position: u64, reason: &Arc<str>) {
        let bytes = self.waiting_reasons.push(position, clock(), reason);
        self.change(position, |retry| retry.dead_letter(bytes));
        self.capacity.add(-1, 1, 0);
        self.log(&Event::DeadLettered { position, bytes });
    }

    /// Changes the retry state of a message, and counts the bytes of its reasons.
    fn change(&mut self, position: u64, change: impl FnOnce(&mut RetryState)) {
        let retry = self.retries.entry(position).or_default();
        let before = u64::from(retry.bytes);
        change(retry);
        let after = u64::from(retry.bytes);
        self.reason_bytes = self.reason_bytes + after - before;
        self.capacity.add(0, 0, after as i64 - before as i64);
    }

    /// Returns the reasons that are not on disk yet.
    pub(super) fn waiting_reasons(&self) -> Vec<Waiting> {
        let previous = |position| self.retries.get(&position).and_then(|retry| retry.reason);
        let waiting = self.waiting_reasons.copy();
        waiting
            .map(|(position, attempts)| Waiting { position, attempts, previous: previous(position) })
            .collect()
    }

    /// Takes the offsets of reasons that were written: position, number of reasons, and offset of the last. Returns the positions
    /// that are still stored, with their offsets.
    pub(super) fn reasons_written(
        &mut self,
        written: Vec<(u64, usize, Option<NonZeroU64>)>,
    ) -> Vec<(u64, u64)> {
        let mut offsets = Vec::with_capacity(written.len());
        for (position, count, offset) in written {
            self.waiting_reasons.written(position, count);
            if let Some(retry) = self.retries.get_mut(&position) {
                retry.reason = offset;
                offsets.extend(offset.map(|offset| (position, offset.get())));
            }
        }
        offsets
    }

    /// Takes a new file of reasons: for each message the offset of its last reason, and the bytes of all.
    pub(super) fn reasons_rewritten(
        &mut self,
        reasons: Reasons,
        copied: Vec<(u64, Option<NonZeroU64>, u32)>,
    ) {
        for (position, offset, bytes) in copied {
            // The message may have been removed meanwhile.
            if self.retries.contains_key(&position) {
                self.change(position, |retry| (retry.reason, retry.bytes) = (offset, bytes));
            }
        }
        self.generation = reasons.generation();
        self.reasons = Some(reasons);
    }

    /// Makes dead letters, and messages that wait for a retry, due; returns their number.
    pub(super) fn requeue(&mut self, positions: &[u64], pace: Duration) -> Result<usize, StoreError> {
        if self.closed {
            return Err(StoreError::Closed);
        }
        let (at, now) = (clock(), Instant::now());
        let mut requeued = Vec::new();
        for position in positions {
            let Some(retry) = self.retries.get_mut(position) else { continue };
            if self.schedule.is_leased(*position) {
                continue;
            }
            if !retry.dead && retry.remaining(at).is_zero() {
                continue;
            }
            let was_dead = i64::from(retry.dead);
            let wait = pace.saturating_mul(u32::try_from(requeued.len()).unwrap_or(u32::MAX));
            retry.requeue(at, wait);
            requeued.push(*position);
            self.capacity.add(was_dead, -was_dead, 0);
            // The cursor has not reached the others yet.
            if *position < self.cursor {
                self.schedule.requeue(*position, after(now, wait));
            }
        }
        let count = requeued.len();
        self.log(&Event::Requeued { positions: requeued, at, pace });
        Ok(count)
    }

    /// Drops messages that are not leased; returns their number.
    pub(super) fn drop_messages(&mut self, positions: &[u64]) -> Result<usize, StoreError> {
        if self.closed {
            return Err(StoreError::Closed);
        }
        let may_go = |position: &&u64| self.live.contains(**position) && !self.schedule.is_leased(**position);
        let dropped: Vec<u64> = positions.iter().filter(may_go).copied().collect();
        for position in &dropped {
            self.schedule.forget(*position);
            self.remove(*position);
        }
        let count = dropped.len();
        self.log(&Event::Removed(event::runs(dropped)));
        self.capacity.admit();
        Ok(count)
    }
}

/// Returns the time, at least the one the format can represent.
fn clock() -> SystemTime {
    SystemTime::now().max(SystemTime::UNIX_EPOCH)
}
