//! Giving out what is due.

use std::sync::Arc;
use std::time::Instant;

use tokio::time::sleep_until;

use super::{Engine, split_damaged};
use crate::store::sql::hooks::unless_it_panics;
use crate::store::sql::row::Row;
use crate::store::sql::state::{Next, add_failure};
use crate::store::sql::tables::{Failed, Fared, Tables};
use crate::store::{Leased, StoreError};
use crate::telemetry;

impl<T: Tables> Engine<T> {
    pub(crate) async fn lease(self: &Arc<Self>, limit: usize) -> Result<Vec<Leased>, StoreError> {
        let limit = limit.max(1);
        let messages = self.keeper().messages();
        loop {
            let changed = self.shared.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let mut reader = None;
            let (until, mut share) = loop {
                let next = self.shared.lock().next(limit, reader.is_some())?;
                match next {
                    Next::Leased(leased) if !leased.is_empty() => return Ok(leased),
                    Next::Idle { until, share } => break (until, share),
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
                () = async { if share.changed().await.is_err() {
                    // Nobody will change it any more.
                    std::future::pending().await
                } } => {}
            }
        }
    }

    /// Does what is to be done first.
    async fn read(self: &Arc<Self>, next: Next, limit: usize) -> Result<Vec<Leased>, sqlx::Error> {
        let begun = Instant::now();
        match next {
            Next::Leased(_) | Next::Idle { .. } | Next::Reader => {}
            Next::Read(read, mark) => {
                let (rows, more) = self.tables.read(&read).await?;
                let rows = self.bury_damaged(rows).await?;
                self.shared.lock().end_read(&mark, rows, more);
            }
            Next::Sweep(read) => {
                self.recount();
                let (rows, more) = self.tables.read(&read).await?;
                let rows = self.bury_damaged(rows).await?;
                self.shared.lock().end_sweep(rows, more, begun.elapsed());
            }
            Next::Due(buckets, known) => {
                let rows = self.tables.due(&buckets, &known).await?;
                let rows = self.bury_damaged(rows).await?;
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
                let rows = self.bury_damaged(rows).await?;
                let of_keys = self.bury_damaged(of_keys).await?;
                return Ok(self.shared.lock().fetched(&fetch, rows, of_keys, limit));
            }
        }
        Ok(Vec::new())
    }

    /// Counts beside what goes on, when it is time to.
    fn recount(self: &Arc<Self>) {
        if !self.shared.lock().room.begin_count() {
            return;
        }
        let engine = Arc::clone(self);
        self.tasks.spawn(async move {
            let counts = unless_it_panics(engine.tables.counts()).await;
            engine.shared.lock().room.end_count(counts.ok().as_ref());
        });
    }

    /// Those that cannot be read become dead letters that say so.
    async fn bury_damaged(&self, rows: Vec<Row>) -> Result<Vec<Row>, sqlx::Error> {
        let (rows, damaged) = split_damaged(rows);
        if damaged.is_empty() {
            return Ok(rows);
        }
        let held = self.shared.lock().held();
        let dead = damaged.iter().map(|(position, error)| {
            let reason: Arc<str> = format!("it can no longer be read: {error}").into();
            tracing::error!(position, %reason, "a stored message cannot be read");
            Failed {
                position: *position,
                failures: add_failure(None, &reason),
                wait: std::time::Duration::ZERO,
            }
        });
        let fared = Fared { dead: dead.collect(), ..Fared::default() };
        self.tables.settle(&held, &fared).await?;
        let count = damaged.len();
        telemetry::lost(count, &"stored messages that can no longer be read");
        self.shared.lock().room.change((0, 0), -(count as i64), count as i64, 0);
        Ok(rows)
    }
}
