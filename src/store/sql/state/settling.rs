//! What became of what was given out, and what an operator wants.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::time::Instant;

use super::{CENTURY, KNOWN, Known, SWEEP_BUSY, State};
use crate::message::Settlement;
use crate::message::failed_attempt::FailedAttempt;
use crate::message::headers::{read_failures, write_failures};
use crate::store::sql::row::Row;
use crate::store::sql::tables::{Failed, Fared, Listed, Requeued};
use crate::store::{Lease, StoreError, Wait};

/// What is to be said to the database, and then to the state.
#[derive(Debug, Default)]
pub(crate) struct Settling {
    pub(crate) fared: Fared,
    pub(crate) held: Vec<(i16, i64)>,
    settled: Vec<(Lease, Settlement)>,
    /// Somebody waits for it: another message of its key, or whoever is to hear of a failure.
    is_urgent: bool,
}

impl Settling {
    /// Whether others may still join before it is said.
    pub(crate) fn may_wait(&self) -> bool {
        !self.is_urgent
    }

    pub(crate) fn len(&self) -> usize {
        self.settled.len()
    }

    /// Joins those that are said to the database together.
    pub(crate) fn merge(&mut self, other: Self) {
        self.fared.done.extend(other.fared.done);
        self.fared.retried.extend(other.fared.retried);
        self.fared.dead.extend(other.fared.dead);
        self.held.extend(other.held);
        self.held.sort_unstable();
        self.held.dedup();
        self.settled.extend(other.settled);
    }
}

impl State {
    /// Begins to settle what is still leased so.
    pub(crate) fn begin_settle(&mut self, settled: &[(Lease, Settlement)]) -> Result<Settling, StoreError> {
        if self.closed {
            return Err(StoreError::Closed);
        }
        let mut settling = Settling::default();
        let mut held = BTreeSet::new();
        for (lease, settlement) in settled {
            let position = lease.position;
            let Some(out) = self.out.get_mut(&position) else { continue };
            if out.token != lease.token || out.settling {
                continue;
            }
            out.settling = true;
            held.insert((out.bucket, out.fence));
            settling.is_urgent |= *settlement != Settlement::Ack || self.schedule.is_keyed(position);
            let fared = &mut settling.fared;
            match settlement {
                Settlement::Ack | Settlement::Discard => fared.done.push(position),
                Settlement::Release => {}
                Settlement::Retry { after, reason } => {
                    let failures = add_failure(out.failures.as_deref(), reason);
                    fared.retried.push(Failed { position, failures, wait: *after });
                }
                Settlement::Reject { reason } => {
                    let failures = add_failure(out.failures.as_deref(), reason);
                    fared.dead.push(Failed { position, failures, wait: std::time::Duration::ZERO });
                }
            }
            settling.settled.push((*lease, settlement.clone()));
        }
        settling.held = held.into_iter().collect();
        Ok(settling)
    }

    /// The database did not take it: all are leased as before.
    pub(crate) fn not_settled(&mut self, settling: &Settling) {
        for (lease, _) in &settling.settled {
            if let Some(out) = self.out.get_mut(&lease.position)
                && out.token == lease.token
            {
                out.settling = false;
            }
        }
    }

    /// The database has taken it, and so many messages and bytes have gone.
    pub(crate) fn end_settle(&mut self, settling: Settling, (gone, bytes): (u64, u64)) {
        let now = Instant::now();
        let dead = settling.fared.dead.len() as i64;
        for (Lease { position, token, .. }, settlement) in settling.settled {
            if self.out.get(&position).is_some_and(|out| out.token == token) {
                self.out.remove(&position);
            }
            let Some(group) = self.schedule.settle(position, token) else { continue };
            match settlement {
                Settlement::Ack | Settlement::Discard | Settlement::Reject { .. } => {
                    self.be_gone(position);
                    self.schedule.gone(group);
                }
                Settlement::Release => self.schedule.back(position, group, None),
                Settlement::Retry { after, .. } => {
                    let at = now + after.min(CENTURY);
                    if self.known.len() < KNOWN {
                        self.schedule.back(position, group, Some(at));
                        continue;
                    }
                    self.look_for_due(at);
                    match group {
                        None => self.be_gone(position),
                        Some(group) => {
                            self.schedule.back(position, Some(group), Some(at));
                            self.forget_if_held(group);
                        }
                    }
                }
            }
        }
        self.room.change((0, 0), -(gone as i64) - dead, dead, -(bytes as i64));
    }

    // --- operating

    /// The first so many of these that are not out, which are being dropped from now on.
    pub(crate) fn condemn(&mut self, positions: &[u64]) -> Vec<u64> {
        let free = |position: &&u64| {
            !self.out.contains_key(position) && self.known.get(position) != Some(&Known::Condemned)
        };
        let condemned: Vec<u64> = positions.iter().filter(free).copied().collect();
        for position in &condemned {
            self.forget(*position);
            self.known.insert(*position, Known::Condemned);
        }
        condemned
    }

    /// They are dropped, or are not.
    pub(crate) fn end_condemned(&mut self, positions: &[u64], dropped: bool) {
        for position in positions {
            self.be_gone(*position);
        }
        if let (false, Some(first)) = (dropped, positions.iter().min()) {
            self.rewind(first.saturating_sub(1));
            self.look_for_due(Instant::now());
        }
        // Of a long group, those left may be unknown.
        self.sweep.at = self.sweep.at.min(Instant::now() + SWEEP_BUSY);
    }

    pub(crate) fn is_out(&self, position: u64) -> bool {
        self.out.contains_key(&position)
    }

    /// Sees to it that what was requeued comes.
    pub(crate) fn requeued(&mut self, requeued: &[Requeued]) {
        let now = Instant::now();
        let dead = requeued.iter().filter(|requeued| requeued.was_dead).count() as i64;
        self.room.change((0, 0), dead, -dead, 0);
        for Requeued { position, wait, .. } in requeued {
            let at = now + (*wait).min(CENTURY);
            if self.known.get(position).is_some_and(|known| matches!(known, Known::Here(_))) {
                self.schedule.requeue(*position, at);
            } else {
                self.look_for_due(at);
            }
        }
    }

    /// What a pending message waits for.
    pub(crate) fn wait(&self, listed: &Listed) -> Wait {
        let Row { position, wait, attempts, .. } = listed.row;
        let until = SystemTime::now() + wait.min(CENTURY);
        match () {
            () if self.is_out(position) => Wait::Sending,
            () if !wait.is_zero() && attempts > 0 => Wait::Retry { until },
            () if !wait.is_zero() => Wait::Delayed { until },
            () if listed.behind => Wait::Key,
            () => Wait::Turn,
        }
    }
}

/// The failures of a message with one more.
pub(crate) fn add_failure(failures: Option<&str>, reason: &Arc<str>) -> String {
    let mut failures = failures.map(read_failures).unwrap_or_default();
    failures.push(FailedAttempt::new(SystemTime::now(), Arc::clone(reason)));
    write_failures(&failures)
}
