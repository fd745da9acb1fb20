//! The operations of operators: list, requeue, drop, count.

use std::sync::Arc;
use std::time::Duration;

use super::Engine;
use crate::store::entry::PAGE_BYTES;
use crate::store::sql::row::Content;
use crate::store::sql::tables::{Requeued, Tables};
use crate::store::{Counts, Entry, EntryState, Filter, Page, StoreError};

/// How many rows are read for one page of a list.
const MAX_READ: usize = 2_000;

/// How many rows are read by one statement.
const SLICE: usize = 256;

impl<T: Tables> Engine<T> {
    pub(crate) async fn list(
        &self,
        filter: &Filter,
        after: Option<u64>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        let mut after = after.map_or(i64::MIN, |after| i64::try_from(after).unwrap_or(i64::MAX));
        let mut page = Page::default();
        let (mut read, mut bytes) = (0, 0);
        while read < MAX_READ {
            self.check_open()?;
            let slice = limit.clamp(16, SLICE);
            let listed = self.tables.list(filter, after, slice).await;
            let (listed, next) = listed.map_err(StoreError::unavailable)?;
            read += listed.len();
            let is_short = listed.len() < slice;
            for one in listed {
                let (position, size) = (one.row.position, one.row.size);
                let wait = (one.state == EntryState::Pending).then(|| self.shared.lock().wait(&one));
                let message = match one.row.content {
                    Content::Message(message) => Some(message),
                    _ => None,
                };
                let mut entry = Entry::new(position, one.state, message);
                entry.attempts = one.row.attempts;
                entry.failures = one
                    .row
                    .failures
                    .as_deref()
                    .map(crate::message::headers::read_failures)
                    .unwrap_or_default();
                entry.wait = wait;
                if filter.matches(&entry) {
                    bytes += size;
                    page.entries.push(entry);
                }
                if page.entries.len() >= limit || bytes >= PAGE_BYTES as u64 {
                    page.next = Some(position);
                    return Ok(page);
                }
            }
            match next {
                Some(next) => after = next,
                None => return Ok(page),
            }
            if is_short {
                // A search takes long: the caller decides whether it goes on.
                break;
            }
        }
        page.next = u64::try_from(after).ok();
        Ok(page)
    }

    pub(crate) async fn requeue(
        self: &Arc<Self>,
        positions: &[u64],
        pace: Duration,
    ) -> Result<usize, StoreError> {
        let engine = Arc::clone(self);
        let positions = positions.to_vec();
        let requeued = self.run_to_end(async move {
            let positions: Vec<u64> = {
                let schedule = engine.shared.lock();
                positions.into_iter().filter(|position| !schedule.is_out(*position)).collect()
            };
            let requeued =
                engine.requeue_in_database(&positions, pace).await.map_err(StoreError::unavailable)?;
            engine.shared.lock().requeued(&requeued);
            engine.shared.notify(true);
            Ok(requeued.len())
        });
        requeued.await?
    }

    async fn requeue_in_database(
        &self,
        positions: &[u64],
        pace: Duration,
    ) -> Result<Vec<Requeued>, sqlx::Error> {
        let (_permit, mut transaction) = self.tables.begin().await?;
        let requeueable = self.tables.requeueable(&mut transaction, positions).await?;
        let requeued = Requeued::paced(positions, requeueable, pace);
        self.tables.requeue(&mut transaction, &requeued).await?;
        transaction.commit().await?;
        Ok(requeued)
    }

    pub(crate) async fn drop_messages(self: &Arc<Self>, positions: &[u64]) -> Result<usize, StoreError> {
        let engine = Arc::clone(self);
        let positions = positions.to_vec();
        let dropped = self.run_to_end(async move {
            let reserved = engine.shared.lock().reserve_for_drop(&positions);
            let deleted = engine.tables.delete(&reserved).await;
            let mut schedule = engine.shared.lock();
            schedule.end_drop(&reserved, deleted.is_ok());
            let deleted = deleted.map_err(StoreError::unavailable);
            if let Ok((pending, dead, bytes)) = deleted {
                schedule.capacity.change((0, 0), -(pending as i64), -(dead as i64), -(bytes as i64));
            }
            drop(schedule);
            engine.shared.changed.notify_waiters();
            deleted.map(|(pending, dead, _)| (pending + dead) as usize)
        });
        dropped.await?
    }

    /// Counts in the database, and corrects what this process knows.
    pub(crate) async fn counts(&self) -> Result<Counts, StoreError> {
        self.check_open()?;
        let changes = self.shared.lock().capacity.changes;
        let counts = self.tables.counts().await.map_err(StoreError::unavailable)?;
        let mut schedule = self.shared.lock();
        if schedule.capacity.changes == changes {
            schedule.capacity.counted(&counts);
        }
        Ok(counts)
    }
}
