//! The partitions that are assigned to this process.

use std::collections::BTreeMap;

use tokio::time::Instant;

use super::{Known, SqlSchedule};

impl SqlSchedule {
    /// Takes the current assignment. Returns whether any partition is held.
    pub(crate) fn sync_assignment(&mut self, now: Instant) -> bool {
        if self.assignment.has_changed().unwrap_or(false) || self.until.is_none() || self.deferred {
            let assignment = self.assignment.borrow_and_update().clone();
            self.until = assignment.until;
            let mut held: BTreeMap<i16, i64> = assignment.partitions.into_iter().collect();
            let offered = held.len();
            // A partition that comes back while a message of before is leased would send it twice.
            let is_leased = |partition: &i16| self.leased.values().any(|row| row.partition == *partition);
            held.retain(|partition, token| self.held.get(partition) == Some(token) || !is_leased(partition));
            self.deferred = held.len() < offered;
            let lost: Vec<i16> =
                self.held.iter().filter(|(b, t)| held.get(b) != Some(t)).map(|(b, _)| *b).collect();
            let gained = held.iter().any(|(partition, token)| self.held.get(partition) != Some(token));
            if !lost.is_empty() {
                self.forget_partitions(&lost);
            }
            self.held = held;
            if gained {
                self.rewind(0);
                self.next_due = Some(now);
            }
        }
        !self.held.is_empty() && self.until.is_some_and(|until| until > now)
    }

    /// Forgets all messages of these partitions. Those that are leased may still be settled, if the fencing token allows it.
    fn forget_partitions(&mut self, partitions: &[i16]) {
        let of_these = |known: &Known| match known {
            Known::Reserved(partition) | Known::Scheduled(partition) => partitions.contains(partition),
            Known::Dropping => false,
        };
        let lost: Vec<u64> =
            self.known.iter().filter(|(_, known)| of_these(known)).map(|(position, _)| *position).collect();
        for position in lost {
            self.forget(position);
        }
    }

    /// Whether no message of a partition is leased.
    pub(crate) fn is_idle(&mut self, partition: i16) -> bool {
        self.sync_assignment(Instant::now());
        self.leased.values().all(|row| row.partition != partition)
    }

    /// Returns the held partitions with their fencing tokens.
    pub(crate) fn held(&self) -> Vec<(i16, i64)> {
        self.held.iter().map(|(partition, token)| (*partition, *token)).collect()
    }

    pub(super) fn partitions(&self) -> Vec<i16> {
        self.held.keys().copied().collect()
    }

    /// Returns the partitions for messages without a key that this process stores.
    pub(crate) fn own(&mut self) -> Vec<i16> {
        if self.sync_assignment(Instant::now()) { self.partitions() } else { Vec::new() }
    }
}
