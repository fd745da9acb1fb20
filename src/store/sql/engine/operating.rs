//! What an operator sees and does.

use std::sync::Arc;
use std::time::Duration;

use super::Engine;
use crate::store::sql::row::Content;
use crate::store::sql::tables::Tables;
use crate::store::{Counts, Entry, EntryState, Filter, Page, StoreError};

/// How many rows are looked at for one page of a list.
const LOOKED_AT: usize = 2_000;

/// How many at once.
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
        let mut looked_at = 0;
        while looked_at < LOOKED_AT {
            self.open_or_closed()?;
            let slice = limit.clamp(16, SLICE);
            let listed = self.tables.list(filter, after, slice).await.map_err(StoreError::unavailable)?;
            let is_end = listed.len() < slice;
            looked_at += listed.len();
            for one in listed {
                let position = one.row.position;
                after = position as i64;
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
                    page.entries.push(entry);
                }
                if page.entries.len() >= limit {
                    page.next = Some(position);
                    return Ok(page);
                }
            }
            if is_end {
                return Ok(page);
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
        let requeued = self.to_its_end(async move {
            let positions: Vec<u64> = {
                let state = engine.shared.lock();
                positions.into_iter().filter(|position| !state.is_out(*position)).collect()
            };
            let requeued = engine.tables.requeue(&positions, pace).await.map_err(StoreError::unavailable)?;
            engine.shared.lock().requeued(&requeued);
            engine.shared.changed.notify_waiters();
            engine.shared.elsewhere.notify_one();
            Ok(requeued.len())
        });
        requeued.await?
    }

    pub(crate) async fn drop_messages(self: &Arc<Self>, positions: &[u64]) -> Result<usize, StoreError> {
        let engine = Arc::clone(self);
        let positions = positions.to_vec();
        let dropped = self.to_its_end(async move {
            let condemned = engine.shared.lock().condemn(&positions);
            let deleted = engine.tables.delete(&condemned).await;
            let mut state = engine.shared.lock();
            state.end_condemned(&condemned, deleted.is_ok());
            let deleted = deleted.map_err(StoreError::unavailable);
            if let Ok((pending, dead, bytes)) = deleted {
                state.room.change((0, 0), -(pending as i64), -(dead as i64), -(bytes as i64));
            }
            drop(state);
            engine.shared.changed.notify_waiters();
            deleted.map(|(pending, dead, _)| (pending + dead) as usize)
        });
        dropped.await?
    }

    /// Counts in the database, and sets right what this process takes it to be.
    pub(crate) async fn counts(&self) -> Result<Counts, StoreError> {
        self.open_or_closed()?;
        let changes = self.shared.lock().room.changes;
        let counts = self.tables.counts().await.map_err(StoreError::unavailable)?;
        let mut state = self.shared.lock();
        if state.room.changes == changes {
            state.room.counted(&counts);
        }
        Ok(counts)
    }
}
