//! Takes what was read from the database.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;

use super::{
    AHEAD_BYTES, AHEAD_MESSAGES, KNOWN, Known, LOOKBACK, PER_KEY, SWEEP_BUSY, SWEEP_IDLE, SqlSchedule,
};
use crate::store::sql::row::{Content, Row};
use crate::store::sql::tables::Read;

/// The state when a read began.
#[derive(Debug)]
pub(crate) struct Mark {
    wakes: u64,
    newest: u64,
}

/// How many messages with a due time are read at once.
pub(crate) const DUE: usize = 256;

impl SqlSchedule {
    pub(super) fn is_unread(&self) -> bool {
        self.wakes != self.seen || !self.caught_up
    }

    /// Begins a read. Positions that are removed from now on may still be found by it.
    pub(crate) fn begin(&mut self) -> Mark {
        self.removed = Some(HashSet::new());
        Mark { wakes: self.wakes, newest: self.newest }
    }

    /// Returns the range to be read next.
    pub(super) fn next_read(&mut self) -> Read {
        if let Some(rewound) = self.rewound.take() {
            self.cursor = self.cursor.min(rewound);
        }
        let after = if self.caught_up { self.cursor.saturating_sub(LOOKBACK) } else { self.cursor };
        self.read_after(after, i64::MAX as u64)
    }

    fn read_after(&self, after: u64, until: u64) -> Read {
        Read {
            after,
            until,
            partitions: self.partitions(),
            known: self.known.range(after + 1..).map(|(position, _)| *position).collect(),
            limit: AHEAD_MESSAGES - self.ready.len().min(AHEAD_MESSAGES - 1),
            bytes: AHEAD_BYTES - self.ready_bytes.min(AHEAD_BYTES - 1),
        }
    }

    /// Takes the rows of a read.
    pub(crate) fn end_read(&mut self, mark: &Mark, rows: Vec<Row>, more: bool) {
        self.sweep.busy |= !rows.is_empty();
        if let Some(last) = rows.last() {
            self.cursor = self.cursor.max(last.position);
        }
        if !more {
            self.cursor = self.cursor.max(mark.newest);
        }
        self.caught_up = !more;
        self.seen = mark.wakes;
        for row in rows {
            self.on_row(row);
        }
    }

    /// Returns the range of the next part of a sweep, which reads everything up to the cursor again.
    pub(super) fn next_sweep(&self) -> Read {
        self.read_after(self.sweep.from, self.cursor)
    }

    /// Takes the rows of a part of a sweep, and how long it took.
    pub(crate) fn end_sweep(&mut self, rows: Vec<Row>, more: bool, took: Duration) {
        // Sweeps take at most 5 % of the time.
        let pause = took * 20;
        if let Some(last) = rows.last() {
            self.sweep.from = last.position;
        }
        let next = if more {
            pause
        } else {
            self.sweep.from = 0;
            // A message that another process has requeued may be due sooner.
            self.next_due = Some(Instant::now());
            let busy = std::mem::take(&mut self.sweep.busy);
            pause.max(if busy { SWEEP_BUSY } else { SWEEP_IDLE })
        };
        self.sweep.at = Instant::now() + next;
        for row in rows {
            self.on_row(row);
        }
    }

    /// Returns the partitions and known positions for a read of messages with a due time.
    pub(super) fn due_range(&self) -> (Vec<i16>, Vec<u64>) {
        (self.partitions(), self.known.keys().copied().collect())
    }

    /// Takes messages with a due time.
    pub(crate) fn end_due(&mut self, rows: Vec<Row>) {
        let now = Instant::now();
        let (full, known) = (rows.len() == DUE, self.known.len());
        self.next_due = None;
        for row in rows {
            if row.wait.is_zero() {
                self.on_row(row);
            } else {
                self.next_due = Some(now + row.wait);
                break;
            }
        }
        if self.next_due.is_none() && full {
            // Messages that were skipped, as their key has many, would be read again and again.
            let pause = if self.known.len() > known { Duration::ZERO } else { Duration::from_secs(1) };
            self.next_due = Some(now + pause);
        }
    }

    /// Takes a row, unless its position has become known or was removed meanwhile.
    fn on_row(&mut self, row: Row) {
        let known = self.known.contains_key(&row.position) || self.was_removed(row.position);
        if !known && self.held.contains_key(&row.partition) && !matches!(row.content, Content::Damaged(_)) {
            self.arrive(row);
        }
    }

    /// Whether a position was removed since the read began.
    pub(super) fn was_removed(&self, position: u64) -> bool {
        self.removed.as_ref().is_some_and(|removed| removed.contains(&position))
    }

    /// Adds a message that can be sent.
    pub(super) fn arrive(&mut self, row: Row) {
        let Row { position, partition, size, .. } = row;
        match row.ordering_key() {
            Some(key) => {
                // Later messages are found when the first ones of the key have left.
                if self.schedule.waiting(key).nth(PER_KEY - 1).is_some() || self.known.len() > 2 * KNOWN {
                    self.more.insert(key);
                    if self.schedule.waiting(key).next().is_some() {
                        return;
                    }
                }
                self.schedule.join(position, key);
            }
            None => {
                self.schedule.arrive(position);
                if matches!(row.content, Content::Unread) {
                    self.known.insert(position, Known::Scheduled(partition));
                    return;
                }
                self.ready_bytes += size as usize;
                self.ready.insert(position, row);
            }
        }
        self.known.insert(position, Known::Scheduled(partition));
    }
}
