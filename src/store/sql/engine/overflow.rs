//! Making room: the oldest go.

use std::sync::Arc;

use super::Engine;
use crate::message::Message;
use crate::store::StoreError;
use crate::store::capacity::Excess;
use crate::store::sql::hooks::unless_it_panics;
use crate::store::sql::inserted::Inserted;
use crate::store::sql::tables::Tables;
use crate::telemetry;
use crate::util::caught::caught;
use crate::util::error::Chain;

impl<T: Tables> Engine<T> {
    /// Stores a batch for which others have to go.
    pub(super) async fn store_over(
        &self,
        batch: &mut Vec<Message>,
        size: (u64, u64),
    ) -> Result<Inserted, StoreError> {
        let _one = self.overflowing.lock().await;
        let reserved = self.shared.lock().room.capacity.reserve(size.0, size.1, None);
        let Err(over) = reserved else {
            // Others have gone meanwhile.
            return self.store(batch, size, &[]).await;
        };
        let dropped = self.choose(over).await.map_err(StoreError::unavailable)?;
        let dropped = {
            let mut state = self.shared.lock();
            let Some(dropped) = dropped else { return Err(state.room.capacity.full(size.0, size.1)) };
            state.room.capacity.reserve_anyway(size.0, size.1);
            dropped
        };
        let stored = caught(self.store(batch, size, &dropped)).await;
        let stored = stored.unwrap_or_else(|| Err(StoreError::unavailable("storing panicked")));
        self.shared.lock().end_condemned(&dropped, stored.is_ok());
        stored
    }

    /// The oldest that are not out, as many as have to go, condemned; none if there are not enough.
    async fn choose(&self, over: Excess) -> Result<Option<Vec<u64>>, sqlx::Error> {
        let mut limit = over.messages as usize + 64;
        // Those of other instances may be on their way: they go only when there are not enough.
        let mut buckets = self.shared.lock().own();
        loop {
            let but = self.shared.lock().undroppable();
            let oldest = self.tables.oldest(&but, &buckets, limit).await?;
            let found = oldest.len();
            let (mut chosen, mut bytes) = (Vec::new(), 0);
            for (position, size) in oldest {
                if chosen.len() as u64 >= over.messages && bytes >= over.bytes {
                    break;
                }
                bytes += size;
                chosen.push(position);
            }
            if (chosen.len() as u64) < over.messages || bytes < over.bytes {
                match found < limit {
                    false => limit *= 2,
                    true if buckets.is_empty() => return Ok(None),
                    true => buckets.clear(),
                }
                continue;
            }
            let mut state = self.shared.lock();
            let condemned = state.condemn(&chosen);
            if condemned.len() == chosen.len() {
                return Ok(Some(chosen));
            }
            // Some of them were leased meanwhile.
            state.end_condemned(&condemned, false);
        }
    }

    /// Notes what was dropped to make room.
    pub(super) fn dropped(&self, (messages, bytes): (u64, u64)) {
        let mut state = self.shared.lock();
        state.room.change((0, 0), -(messages as i64), 0, -(bytes as i64));
        state.add_untold(messages);
        drop(state);
        telemetry::overflowed(messages as usize);
    }

    /// Makes room after transactions that are not this store's to refuse.
    pub(super) fn watch_overflow(self: &Arc<Self>) {
        let (shared, engine) = (Arc::clone(&self.shared), Arc::downgrade(self));
        tokio::spawn(async move {
            loop {
                shared.overfull.notified().await;
                let Some(engine) = engine.upgrade() else { return };
                if shared.lock().closed {
                    return;
                }
                if let Err(error) = unless_it_panics(engine.drop_oldest()).await {
                    tracing::error!(error = %Chain(&error), "cannot drop the oldest messages of a full outbox");
                }
            }
        });
    }

    async fn drop_oldest(&self) -> Result<(), sqlx::Error> {
        let _one = self.overflowing.lock().await;
        let over = self.shared.lock().room.capacity.excess(0, 0);
        if over == Excess::default() {
            return Ok(());
        }
        let Some(dropped) = self.choose(over).await? else { return Ok(()) };
        let gone = async {
            let (_turn, mut transaction) = self.tables.begin().await?;
            let gone = self.tables.overflow(&mut transaction, &dropped).await?;
            transaction.commit().await?;
            Ok(gone)
        };
        let gone = unless_it_panics(gone).await;
        self.shared.lock().end_condemned(&dropped, gone.is_ok());
        self.dropped(gone?);
        Ok(())
    }
}
