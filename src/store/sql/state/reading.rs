//! What comes from the database.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;

use super::{AHEAD_BYTES, AHEAD_MESSAGES, KNOWN, Known, LOOKBACK, OF_A_GROUP, SWEEP_BUSY, SWEEP_IDLE, State};
use crate::store::sql::row::{Content, Row};
use crate::store::sql::tables::Read;

/// What was known when a read began.
#[derive(Debug)]
pub(crate) struct Mark {
    wakes: u64,
    newest: u64,
}

/// How much is looked at for what is due.
pub(crate) const DUE: usize = 256;

impl State {
    pub(super) fn is_unread(&self) -> bool {
        self.wakes != self.seen || !self.caught_up
    }

    /// One read at a time: what goes from now on may be found by it.
    pub(crate) fn begin(&mut self) -> Mark {
        self.gone = Some(HashSet::new());
        Mark { wakes: self.wakes, newest: self.newest }
    }

    /// What is to be read next.
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
            buckets: self.buckets(),
            known: self.known.range(after + 1..).map(|(position, _)| *position).collect(),
            limit: AHEAD_MESSAGES - self.ready.len().min(AHEAD_MESSAGES - 1),
            bytes: AHEAD_BYTES - self.ready_bytes.min(AHEAD_BYTES - 1),
        }
    }

    /// Takes what was read.
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
            self.come_upon(row);
        }
    }

    /// What everything up to the cursor is looked at for.
    pub(super) fn next_sweep(&self) -> Read {
        self.read_after(self.sweep.from, self.cursor)
    }

    /// Takes what a sweep found, which took so long.
    pub(crate) fn end_sweep(&mut self, rows: Vec<Row>, more: bool, took: Duration) {
        // Never more than a twentieth of the time.
        let pause = took * 20;
        if let Some(last) = rows.last() {
            self.sweep.from = last.position;
        }
        let next = if more {
            pause
        } else {
            self.sweep.from = 0;
            // A message that waits elsewhere may be due sooner than it was.
            self.next_due = Some(Instant::now());
            let busy = std::mem::take(&mut self.sweep.busy);
            pause.max(if busy { SWEEP_BUSY } else { SWEEP_IDLE })
        };
        self.sweep.at = Instant::now() + next;
        for row in rows {
            self.come_upon(row);
        }
    }

    /// What is asked for what is due.
    pub(super) fn to_look_at(&self) -> (Vec<i16>, Vec<u64>) {
        (self.buckets(), self.known.keys().copied().collect())
    }

    /// Takes what is due, and will be.
    pub(crate) fn end_due(&mut self, rows: Vec<Row>) {
        let now = Instant::now();
        let (full, known) = (rows.len() == DUE, self.known.len());
        self.next_due = None;
        for row in rows {
            if row.wait.is_zero() {
                self.come_upon(row);
            } else {
                self.next_due = Some(now + row.wait);
                break;
            }
        }
        if self.next_due.is_none() && full {
            // What was left aside as its group is long would come again and again.
            let pause = if self.known.len() > known { Duration::ZERO } else { Duration::from_secs(1) };
            self.next_due = Some(now + pause);
        }
    }

    /// A row was found, of which something may have become known meanwhile.
    fn come_upon(&mut self, row: Row) {
        let known = self.known.contains_key(&row.position) || self.has_gone(row.position);
        if !known && self.held.contains_key(&row.bucket) && !matches!(row.content, Content::Damaged(_)) {
            self.arrive(row);
        }
    }

    /// Whether it has gone since the read began.
    pub(super) fn has_gone(&self, position: u64) -> bool {
        self.gone.as_ref().is_some_and(|gone| gone.contains(&position))
    }

    /// A message is there to be sent.
    pub(super) fn arrive(&mut self, row: Row) {
        let Row { position, bucket, size, .. } = row;
        match row.group() {
            Some(group) => {
                // The others are found when the turn of the group comes.
                if self.schedule.waiting(group).nth(OF_A_GROUP - 1).is_some() || self.known.len() > 2 * KNOWN
                {
                    self.more.insert(group);
                    if self.schedule.waiting(group).next().is_some() {
                        return;
                    }
                }
                self.schedule.join(position, group);
            }
            None => {
                self.schedule.arrive(position);
                if matches!(row.content, Content::Unread) {
                    self.known.insert(position, Known::Here(bucket));
                    return;
                }
                self.ready_bytes += size as usize;
                self.ready.insert(position, row);
            }
        }
        self.known.insert(position, Known::Here(bucket));
    }
}
