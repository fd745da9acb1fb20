//! Leases messages that are due, and reads them first if need be.

use std::sync::Arc;
use std::time::Instant;

use tokio::time::sleep_until;

use super::{Engine, split_damaged};
use crate::store::sql::hooks::unless_it_panics;
use crate::store::sql::row::Row;
use crate::store::sql::schedule::{Next, add_failure};
use crate::store::sql::tables::{FailedMessage, SettleBatch, Tables};
use crate::store::{Leased, StoreError};
use crate::telemetry;

impl<T: Tables> Engine<T> {
    pub(crate) async fn lease(self: &Arc<Self>, limit: usize) -> Result<Vec<Leased>, StoreError> {
        let limit = limit.max(1);
        let messages = self.coordinator().messages();
        loop {
            let changed = self.shared.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let mut reader = None;
            let (until, mut assignment) = loop {
                let next = self.shared.lock().next(limit, reader.is_some())?;
                match next {
                    Next::Leased(leased) if !leased.is_empty() => return Ok(leased),
                    Next::Idle { until, assignment } => break (until, assignment),
                    Next::Reader => reader = Some(self.reading.lock().await),
                    next => {
                        let leased = self.read(next, limit).await.map_err(StoreError::unavailable)?;
                        if !leased.is_empty() {
                            return Ok(leased);
                        }
                    }
                }
            };
            drop(reader);
            tokio::select! {
                () = changed => {}
                () = messages.notified() => self.wake(),
                () = async { match until {
                    Some(until) => sleep_until(until).await,
                    None => std::future::pending().await,
                } } => {}
                () = async { if assignment.changed().await.is_err() {
                    // The coordinator has ended.
                    std::future::pending().await
                } } => {}
            }
        }
    }

    /// Reads what the schedule needs before it can lease.
    async fn read(self: &Arc<Self>, next: Next, limit: usize) -> Result<Vec<Leased>, sqlx::Error> {
        let begun = Instant::now();
        match next {
            Next::Leased(_) | Next::Idle { .. } | Next::Reader => {}
            Next::Read(read, mark) => {
                let (rows, more) = self.tables.read(&read).await?;
                let rows = self.dead_letter_damaged(rows).await?;
                self.shared.lock().end_read(&mark, rows, more);
            }
            Next::Sweep(read) => {
                self.recount();
                let (rows, more) = self.tables.read(&read).await?;
                let rows = self.dead_letter_damaged(rows).await?;
                self.shared.lock().end_sweep(rows, more, begun.elapsed());
            }
            Next::Due(partitions, known) => {
                let rows = self.tables.due(&partitions, &known).await?;
                let rows = self.dead_letter_damaged(rows).await?;
                self.shared.lock().end_due(rows);
            }
            Next::Fetch(fetch) => {
                let rows = match fetch.positions.is_empty() {
                    true => Vec::new(),
                    false => self.tables.fetch(&fetch.positions).await?,
                };
                let of_keys = match fetch.keys.is_empty() {
                    true => Vec::new(),
                    false => self.tables.of_keys(&fetch.keys).await?,
                };
                let rows = self.dead_letter_damaged(rows).await?;
                let of_keys = self.dead_letter_damaged(of_keys).await?;
                return Ok(self.shared.lock().fetched(&fetch, rows, of_keys, limit));
            }
        }
        Ok(Vec::new())
    }

    /// Counts in the background, when it is time to.
    fn recount(self: &Arc<Self>) {
        if !self.shared.lock().capacity.begin_count() {
            return;
        }
        let engine = Arc::clone(self);
        self.tasks.spawn(async move {
            let counts = unless_it_panics(engine.tables.counts()).await;
            engine.shared.lock().capacity.end_count(counts.ok().as_ref());
        });
    }

    /// Makes dead letters of rows that cannot be read.
    async fn dead_letter_damaged(&self, rows: Vec<Row>) -> Result<Vec<Row>, sqlx::Error> {
        let (rows, damaged) = split_damaged(rows);
        if damaged.is_empty() {
            return Ok(rows);
        }
        let held = self.shared.lock().held();
        let dead = damaged.iter().map(|(position, error)| {
            let reason: Arc<str> = format!("it can no longer be read: {error}").into();
            tracing::error!(position, %reason, "made a dead letter of a stored message that can no longer be read");
            FailedMessage {
                position: *position,
                failures: add_failure(None, &reason),
                wait: std::time::Duration::ZERO,
            }
        });
        let batch = SettleBatch { dead: dead.collect(), ..SettleBatch::default() };
        self.tables.settle(&held, &batch).await?;
        let count = damaged.len();
        telemetry::lost(count, &"stored messages that can no longer be read");
        self.shared.lock().capacity.change((0, 0), -(count as i64), count as i64, 0);
        Ok(rows)
    }
}
