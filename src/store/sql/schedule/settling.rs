//! Settles leased messages, and does what operators ask for.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::time::Instant;

use super::{KNOWN, Known, SWEEP_BUSY, SqlSchedule};
use crate::message::Settlement;
use crate::message::failed_attempt::FailedAttempt;
use crate::message::headers::{read_failures, write_failures};
use crate::store::schedule::OrderingKey;
use crate::store::sql::row::{Listed, Row};
use crate::store::sql::tables::{FailedMessage, Requeued, SettleBatch};
use crate::store::{Lease, StoreError, Wait};
use crate::util::deadline::FOR_EVER;

/// Settlements to be written to the database, and then noted in the schedule.
#[derive(Debug, Default)]
pub(crate) struct Settling {
    pub(crate) batch: SettleBatch,
    /// The partitions of the messages, with the fencing tokens of their leases.
    pub(crate) held: Vec<(i16, i64)>,
    settled: Vec<(Lease, Settlement)>,
    /// Whether another message waits for it, or it is no success.
    is_urgent: bool,
}

impl Settling {
    /// Whether it can wait for others before it is written.
    pub(crate) fn may_wait(&self) -> bool {
        !self.is_urgent
    }

    pub(crate) fn len(&self) -> usize {
        self.settled.len()
    }

    /// Adds settlements that are written together with these.
    pub(crate) fn merge(&mut self, other: Self) {
        self.batch.removed.extend(other.batch.removed);
        self.batch.retried.extend(other.batch.retried);
        self.batch.dead.extend(other.batch.dead);
        self.held.extend(other.held);
        self.held.sort_unstable();
        self.held.dedup();
        self.settled.extend(other.settled);
    }
}

impl SqlSchedule {
    /// Begins to settle those messages that still have this lease.
    pub(crate) fn begin_settle(&mut self, settled: &[(Lease, Settlement)]) -> Result<Settling, StoreError> {
        if self.closed {
            return Err(StoreError::Closed);
        }
        let mut settling = Settling::default();
        let mut held = BTreeSet::new();
        for (lease, settlement) in settled {
            let position = lease.position;
            let Some(row) = self.leased.get_mut(&position) else { continue };
            if row.token != lease.token || row.settling {
                continue;
            }
            row.settling = true;
            held.insert((row.partition, row.fencing_token));
            settling.is_urgent |= *settlement != Settlement::Ack || self.schedule.is_keyed(position);
            let batch = &mut settling.batch;
            match settlement {
                Settlement::Ack | Settlement::Discard => batch.removed.push(position),
                Settlement::Release => {}
                Settlement::Retry { after, reason } => {
                    let failures = add_failure(row.failures.as_deref(), reason);
                    batch.retried.push(FailedMessage { position, failures, wait: *after });
                }
                Settlement::Reject { reason } => {
                    let failures = add_failure(row.failures.as_deref(), reason);
                    batch.dead.push(FailedMessage { position, failures, wait: std::time::Duration::ZERO });
                }
            }
            settling.settled.push((*lease, settlement.clone()));
        }
        settling.held = held.into_iter().collect();
        Ok(settling)
    }

    /// Notes that the database has not written it: all messages stay leased.
    pub(crate) fn not_settled(&mut self, settling: &Settling) {
        for (lease, _) in &settling.settled {
            if let Some(row) = self.leased.get_mut(&lease.position)
                && row.token == lease.token
            {
                row.settling = false;
            }
        }
    }

    /// Notes that the database has written it, and removed so many messages and bytes.
    pub(crate) fn end_settle(&mut self, settling: Settling, (removed, bytes): (u64, u64)) {
        let now = Instant::now();
        let dead = settling.batch.dead.len() as i64;
        for (Lease { position, token, .. }, settlement) in settling.settled {
            if self.leased.get(&position).is_some_and(|row| row.token == token) {
                self.leased.remove(&position);
            }
            let Some(key) = self.schedule.settle(position, token) else { continue };
            match settlement {
                Settlement::Ack | Settlement::Discard | Settlement::Reject { .. } => {
                    self.mark_removed(position);
                    self.schedule.gone(key);
                    self.look_for_more(key, position);
                }
                Settlement::Release => self.schedule.back(position, key, None),
                Settlement::Retry { after, .. } => {
                    let at = now + after.min(FOR_EVER);
                    if self.known.len() < KNOWN {
                        self.schedule.back(position, key, Some(at));
                        continue;
                    }
                    self.look_for_due(at);
                    match key {
                        None => self.mark_removed(position),
                        Some(key) => {
                            self.schedule.back(position, Some(key), Some(at));
                            self.forget_if_held(key);
                        }
                    }
                }
            }
        }
        self.capacity.change((0, 0), -(removed as i64) - dead, dead, -(bytes as i64));
    }

    /// Reads on behind the last known message of a key that has more.
    fn look_for_more(&mut self, key: Option<OrderingKey>, position: u64) {
        if let Some(key) = key
            && self.schedule.waiting(key).next().is_none()
            && self.more.remove(&key)
        {
            self.rewind(position);
        }
    }

    // --- operating

    /// Reserves those of these messages that are not leased, so that they are not leased while they are dropped.
    pub(crate) fn reserve_for_drop(&mut self, positions: &[u64]) -> Vec<u64> {
        let free = |position: &&u64| {
            !self.leased.contains_key(position) && self.known.get(position) != Some(&Known::Dropping)
        };
        let reserved: Vec<u64> = positions.iter().filter(free).copied().collect();
        for position in &reserved {
            self.forget(*position);
            self.known.insert(*position, Known::Dropping);
        }
        reserved
    }

    /// Ends the reservation: the messages were dropped or not.
    pub(crate) fn end_drop(&mut self, positions: &[u64], dropped: bool) {
        for position in positions {
            self.mark_removed(*position);
        }
        if let (false, Some(first)) = (dropped, positions.iter().min()) {
            self.rewind(first.saturating_sub(1));
            self.look_for_due(Instant::now());
        }
        // The rest of a key with many messages may be unknown.
        self.sweep.at = self.sweep.at.min(Instant::now() + SWEEP_BUSY);
    }

    pub(crate) fn is_out(&self, position: u64) -> bool {
        self.leased.contains_key(&position)
    }

    /// Makes requeued messages due.
    pub(crate) fn requeued(&mut self, requeued: &[Requeued]) {
        let now = Instant::now();
        let dead = requeued.iter().filter(|requeued| requeued.was_dead).count() as i64;
        self.capacity.change((0, 0), dead, -dead, 0);
        for Requeued { position, wait, .. } in requeued {
            let at = now + (*wait).min(FOR_EVER);
            if self.known.get(position).is_some_and(|known| matches!(known, Known::Scheduled(_))) {
                self.schedule.requeue(*position, at);
            } else {
                self.look_for_due(at);
            }
        }
    }

    /// Returns what a pending message waits for.
    pub(crate) fn wait(&self, listed: &Listed) -> Wait {
        let Row { position, wait, attempts, .. } = listed.row;
        let until = SystemTime::now() + wait.min(FOR_EVER);
        match () {
            () if self.is_out(position) => Wait::Sending,
            () if !wait.is_zero() && attempts > 0 => Wait::Retry { until },
            () if !wait.is_zero() => Wait::Delayed { until },
            () if listed.behind => Wait::Key,
            () => Wait::Turn,
        }
    }
}

/// Returns the failures of a message with one more.
pub(crate) fn add_failure(failures: Option<&str>, reason: &Arc<str>) -> String {
    let mut failures = failures.map(read_failures).unwrap_or_default();
    failures.push(FailedAttempt::new(SystemTime::now(), Arc::clone(reason)));
    write_failures(&failures)
}
