//! What is given out next.

use std::collections::{BTreeMap, HashMap};

use tokio::sync::watch;
use tokio::time::Instant;

use super::reading::Mark;
use super::{AHEAD_BYTES, KNOWN, Known, LOW, OF_A_GROUP, Out, State};
use crate::store::schedule::OrderingKey;
use crate::store::sql::row::{Content, Row};
use crate::store::sql::share::Share;
use crate::store::sql::tables::Read;
use crate::store::{Lease, Leased, StoreError};

/// What a lease came to.
pub(crate) enum Next {
    Leased(Vec<Leased>),
    /// Nothing is due before then, or before the share changes.
    Idle {
        until: Option<Instant>,
        share: watch::Receiver<Share>,
    },
    /// What follows is for the one reader.
    Reader,
    Read(Read, Mark),
    Sweep(Read),
    Due(Vec<i16>, Vec<u64>),
    Fetch(Fetch),
}

/// What is to be read of what is due.
#[derive(Debug)]
pub(crate) struct Fetch {
    /// Without a key.
    pub(crate) positions: Vec<u64>,
    /// The first of these keys, so many of each.
    pub(crate) keys: Vec<(i64, usize)>,
    /// All that is due, also what was read before.
    due: Vec<u64>,
}

impl State {
    /// Leases what is due; or says what is to be done first.
    pub(crate) fn next(&mut self, limit: usize, is_reader: bool) -> Result<Next, StoreError> {
        if self.closed {
            return Err(StoreError::Closed);
        }
        let now = Instant::now();
        if !self.sync_share(now) {
            return Ok(Next::Idle { until: None, share: self.share.clone() });
        }
        self.schedule.tick(now);
        let next_due = self.next_due.filter(|_| self.known.len() < KNOWN / 2);
        // What has a key waits in the database, but for its position.
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
            let (buckets, known) = self.to_look_at();
            return Ok(Next::Due(buckets, known));
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
            return Ok(Next::Idle { until: timers.into_iter().flatten().min(), share: self.share.clone() });
        }
        let fetch = self.to_fetch(due);
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

    fn to_fetch(&self, due: Vec<u64>) -> Fetch {
        let (mut positions, mut keys): (_, HashMap<OrderingKey, usize>) = (Vec::new(), HashMap::new());
        for position in &due {
            match self.schedule.key_of(*position) {
                Some(group) => *keys.entry(group).or_default() += 1,
                None if self.ready.contains_key(position) => {}
                None => positions.push(*position),
            }
        }
        // One more than are wanted: a group of which nothing waits is forgotten.
        let more = (2 * due.len() / keys.len().max(1)).min(OF_A_GROUP);
        let keys = keys.into_iter().map(|(group, wanted)| {
            (group.hash(), 1 + if self.more.contains(&group) { wanted.max(more) } else { wanted })
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

    /// Takes what was read for [`Next::Fetch`], and leases of it and of what else is due.
    pub(crate) fn fetched(
        &mut self,
        fetch: &Fetch,
        rows: Vec<Row>,
        of_keys: Vec<Row>,
        limit: usize,
    ) -> Vec<Leased> {
        let now = Instant::now();
        if self.closed || !self.sync_share(now) {
            return Vec::new();
        }
        let mut batch = self.take_ready(&fetch.due);
        let mut rows: BTreeMap<u64, Row> = rows.into_iter().map(|row| (row.position, row)).collect();
        for position in &fetch.positions {
            if !matches!(self.known.get(position), Some(Known::Here(_))) {
                self.schedule.forget(*position);
                continue;
            }
            if self.schedule.is_leased(*position) {
                continue;
            }
            match rows.remove(position) {
                Some(row) if row.wait.is_zero() => drop(batch.insert(*position, row)),
                // Another process has changed it.
                Some(row) => {
                    self.schedule.forget(*position);
                    self.schedule.delay(*position, now + row.wait);
                }
                None => self.forget(*position),
            }
        }
        let mut groups: HashMap<i64, Vec<Row>> = HashMap::new();
        for row in of_keys {
            groups.entry(row.key_hash.unwrap_or_default()).or_default().push(row);
        }
        for (hash, wanted) in &fetch.keys {
            let rows = groups.remove(hash).unwrap_or_default();
            self.meet(OrderingKey::from_hash(*hash), rows, *wanted, now, &mut batch);
        }
        self.gone = None;
        self.lease(batch, limit)
    }

    /// The first rows of a group, `wanted` at most: they are all there is in it up to the last of them.
    fn meet(
        &mut self,
        group: OrderingKey,
        rows: Vec<Row>,
        wanted: usize,
        now: Instant,
        batch: &mut BTreeMap<u64, Row>,
    ) {
        let is_all = rows.len() < wanted;
        if is_all {
            self.more.remove(&group);
        } else {
            self.more.insert(group);
        }
        let last = rows.last().map_or(0, |row| row.position);
        let found: Vec<u64> = rows.iter().map(|row| row.position).collect();
        let vanished: Vec<u64> = self
            .schedule
            .waiting(group)
            .filter(|position| (is_all || *position <= last) && found.binary_search(position).is_err())
            .collect();
        for position in vanished {
            self.forget(position);
        }
        for row in rows {
            let position = row.position;
            let may_come = match self.known.get(&position) {
                Some(Known::Here(_)) => !self.schedule.is_leased(position),
                Some(_) => false,
                None => !self.has_gone(position),
            };
            if !may_come || !self.held.contains_key(&row.bucket) {
                continue;
            }
            self.known.insert(position, Known::Here(row.bucket));
            if row.wait.is_zero() {
                if self.schedule.key_of(position).is_none() {
                    self.schedule.join(position, group);
                }
                batch.insert(position, row);
            } else {
                self.schedule.hold(position, group, now + row.wait);
                if self.known.len() > KNOWN {
                    self.look_for_due(now + row.wait);
                }
            }
        }
        if self.known.len() > KNOWN && self.schedule.waiting(group).next().is_some() {
            self.forget_if_held(group);
        }
    }

    /// Forgets a group that waits for a retry: it is found when that is due.
    pub(super) fn forget_if_held(&mut self, group: OrderingKey) {
        if !self.schedule.is_held(group) {
            return;
        }
        let waiting: Vec<u64> = self.schedule.waiting(group).collect();
        for position in waiting {
            self.forget(position);
        }
        self.more.remove(&group);
    }

    /// Leases what of these, all due, may go.
    fn lease(&mut self, batch: BTreeMap<u64, Row>, limit: usize) -> Vec<Leased> {
        let token = self.schedule.next_lease_token();
        let mut leased = Vec::with_capacity(limit.min(batch.len()));
        for (position, row) in batch {
            let group = row.group();
            if leased.len() >= limit {
                if group.is_none() {
                    self.ready_bytes += row.size as usize;
                    self.ready.insert(position, row);
                }
                continue;
            }
            let Row { bucket, attempts, failures, content, .. } = row;
            let (Content::Message(message), Some(fence)) = (content, self.held.get(&bucket).copied()) else {
                continue;
            };
            if self.schedule.take(position, group, token) {
                let out = Out { token, bucket, fence, failures, settling: false };
                self.out.insert(position, out);
                leased.push(Leased::new(Lease::new(position, token), message, attempts));
            }
        }
        leased
    }
}
