//! Chooses the messages that are leased next.

use std::collections::{BTreeMap, HashMap};

use tokio::sync::watch;
use tokio::time::Instant;

use super::reading::Mark;
use super::{AHEAD_BYTES, KNOWN, Known, LOW, LeasedRow, PER_KEY, SqlSchedule};
use crate::store::schedule::OrderingKey;
use crate::store::sql::assignment::Assignment;
use crate::store::sql::row::{Content, Row};
use crate::store::sql::tables::Read;
use crate::store::{Lease, Leased, StoreError};

/// The next step of the engine for a lease.
pub(crate) enum Next {
    Leased(Vec<Leased>),
    /// Nothing is due before this time, or before the assignment changes.
    Idle {
        until: Option<Instant>,
        assignment: watch::Receiver<Assignment>,
    },
    /// The engine must become the reader first.
    Reader,
    Read(Read, Mark),
    Sweep(Read),
    Due(Vec<i16>, Vec<u64>),
    Fetch(Fetch),
}

/// The content of due messages that must be read.
#[derive(Debug)]
pub(crate) struct Fetch {
    /// Messages without a key.
    pub(crate) positions: Vec<u64>,
    /// The hashes of keys, with the number of messages to be read of each.
    pub(crate) keys: Vec<(i64, usize)>,
    /// All due messages, also those in memory.
    due: Vec<u64>,
}

impl SqlSchedule {
    /// Leases due messages, or returns what must be done first.
    pub(crate) fn next(&mut self, limit: usize, is_reader: bool) -> Result<Next, StoreError> {
        if self.closed {
            return Err(StoreError::Closed);
        }
        let now = Instant::now();
        if !self.sync_assignment(now) {
            return Ok(Next::Idle { until: None, assignment: self.assignment.clone() });
        }
        self.schedule.tick(now);
        let next_due = self.next_due.filter(|_| self.known.len() < KNOWN / 2);
        // Of messages with a key only the position is in memory.
        let has_room = self.ready.len() < LOW
            && self.ready_bytes < AHEAD_BYTES / 2
            && self.schedule.entries_due() < KNOWN;
        let (is_due, is_unread, is_to_sweep) =
            (next_due.is_some_and(|due| due <= now), has_room && self.is_unread(), self.sweep.at <= now);
        if !is_reader && (is_due || is_unread || is_to_sweep) {
            return Ok(Next::Reader);
        }
        if is_due {
            self.begin();
            let (partitions, known) = self.due_range();
            return Ok(Next::Due(partitions, known));
        }
        if is_unread {
            let read = self.next_read();
            return Ok(Next::Read(read, self.begin()));
        }
        if is_to_sweep {
            self.begin();
            return Ok(Next::Sweep(self.next_sweep()));
        }
        let due = self.schedule.due(limit);
        if due.is_empty() {
            let timers = [self.schedule.next_timer(), next_due, Some(self.sweep.at), self.until];
            return Ok(Next::Idle {
                until: timers.into_iter().flatten().min(),
                assignment: self.assignment.clone(),
            });
        }
        let fetch = self.to_fetch(due, limit);
        if fetch.positions.is_empty() && fetch.keys.is_empty() {
            let batch = self.take_ready(&fetch.due);
            return Ok(Next::Leased(self.lease(batch, limit)));
        }
        if !is_reader {
            return Ok(Next::Reader);
        }
        self.begin();
        Ok(Next::Fetch(fetch))
    }

    fn to_fetch(&self, due: Vec<u64>, limit: usize) -> Fetch {
        let (mut positions, mut keys): (_, HashMap<OrderingKey, usize>) = (Vec::new(), HashMap::new());
        for position in &due {
            match self.schedule.key_of(*position) {
                Some(key) => *keys.entry(key).or_default() += 1,
                None if self.ready.contains_key(position) => {}
                None => positions.push(*position),
            }
        }
        // More than are due, as a key without waiting messages is forgotten: one of an earlier position, and one that stays.
        let share = (limit / keys.len().max(1)).min(PER_KEY);
        let keys = keys.into_iter().map(|(key, wanted)| {
            (key.hash(), 2 + if self.more.contains(&key) { wanted.max(share) } else { wanted })
        });
        Fetch { positions, keys: keys.collect(), due }
    }

    fn take_ready(&mut self, positions: &[u64]) -> BTreeMap<u64, Row> {
        let mut batch = BTreeMap::new();
        for position in positions {
            if let Some(row) = self.ready.remove(position) {
                self.ready_bytes -= row.size as usize;
                batch.insert(*position, row);
            }
        }
        batch
    }

    /// Takes what was read for [`Next::Fetch`], and leases it with what else is due.
    pub(crate) fn fetched(
        &mut self,
        fetch: &Fetch,
        rows: Vec<Row>,
        of_keys: Vec<Row>,
        limit: usize,
    ) -> Vec<Leased> {
        let now = Instant::now();
        if self.closed || !self.sync_assignment(now) {
            return Vec::new();
        }
        let mut batch = self.take_ready(&fetch.due);
        let mut rows: BTreeMap<u64, Row> = rows.into_iter().map(|row| (row.position, row)).collect();
        for position in &fetch.positions {
            if !matches!(self.known.get(position), Some(Known::Scheduled(_))) {
                self.schedule.forget(*position);
                continue;
            }
            if self.schedule.is_leased(*position) {
                continue;
            }
            match rows.remove(position) {
                Some(row) if row.wait.is_zero() => drop(batch.insert(*position, row)),
                // An operator has requeued it in another process.
                Some(row) => {
                    self.schedule.forget(*position);
                    self.schedule.delay(*position, now + row.wait);
                }
                None => self.forget(*position),
            }
        }
        let mut rows_by_key: HashMap<i64, Vec<Row>> = HashMap::new();
        for row in of_keys {
            rows_by_key.entry(row.key_hash.unwrap_or_default()).or_default().push(row);
        }
        for (hash, wanted) in &fetch.keys {
            let rows = rows_by_key.remove(hash).unwrap_or_default();
            self.merge_key_rows(OrderingKey::from_hash(*hash), rows, *wanted, now, &mut batch);
        }
        self.removed = None;
        self.lease(batch, limit)
    }

    /// Merges the first rows of a key, at most `wanted`, with the positions that are known of it. No message of the key exists
    /// between these rows. The last of as many as were wanted is not leased: it keeps the key known.
    fn merge_key_rows(
        &mut self,
        key: OrderingKey,
        rows: Vec<Row>,
        wanted: usize,
        now: Instant,
        batch: &mut BTreeMap<u64, Row>,
    ) {
        let is_all = rows.len() < wanted;
        if is_all {
            self.more.remove(&key);
        } else {
            self.more.insert(key);
        }
        let last = rows.last().map_or(0, |row| row.position);
        let found: Vec<u64> = rows.iter().map(|row| row.position).collect();
        let vanished: Vec<u64> = self
            .schedule
            .waiting(key)
            .filter(|position| (is_all || *position <= last) && found.binary_search(position).is_err())
            .collect();
        for position in vanished {
            self.forget(position);
        }
        for row in rows {
            let position = row.position;
            let may_come = match self.known.get(&position) {
                Some(Known::Scheduled(_)) => !self.schedule.is_leased(position),
                Some(_) => false,
                None => !self.was_removed(position),
            };
            if !may_come || !self.held.contains_key(&row.partition) {
                continue;
            }
            self.known.insert(position, Known::Scheduled(row.partition));
            if row.wait.is_zero() {
                if self.schedule.key_of(position).is_none() {
                    self.schedule.join(position, key);
                }
                if is_all || position != last {
                    batch.insert(position, row);
                }
            } else {
                self.schedule.hold(position, key, now + row.wait);
                if self.known.len() > KNOWN {
                    self.look_for_due(now + row.wait);
                }
            }
        }
        if self.known.len() > KNOWN && self.schedule.waiting(key).next().is_some() {
            self.forget_if_held(key);
        }
    }

    /// Forgets a key that waits for a retry. It is found when the retry is due.
    pub(super) fn forget_if_held(&mut self, key: OrderingKey) {
        if !self.schedule.is_held(key) {
            return;
        }
        let waiting: Vec<u64> = self.schedule.waiting(key).collect();
        for position in waiting {
            self.forget(position);
        }
        self.more.remove(&key);
    }

    /// Leases those of these due messages that need not wait for others.
    fn lease(&mut self, batch: BTreeMap<u64, Row>, limit: usize) -> Vec<Leased> {
        let token = self.schedule.next_lease_token();
        let mut leased = Vec::with_capacity(limit.min(batch.len()));
        for (position, row) in batch {
            let key = row.ordering_key();
            if leased.len() >= limit {
                if key.is_none() {
                    self.ready_bytes += row.size as usize;
                    self.ready.insert(position, row);
                }
                continue;
            }
            let Row { partition, attempts, failures, content, .. } = row;
            let (Content::Message(message), Some(fencing_token)) =
                (content, self.held.get(&partition).copied())
            else {
                continue;
            };
            if self.schedule.take(position, key, token) {
                let row = LeasedRow { token, partition, fencing_token, failures, settling: false };
                self.leased.insert(position, row);
                leased.push(Leased::new(Lease::new(position, token), message, attempts));
            }
        }
        leased
    }
}
