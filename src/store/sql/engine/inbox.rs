//! The inbox: ids of messages that were handled, or are to be stored once.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use sqlx::Database;
use tokio::time::Instant;
use uuid::Uuid;

use super::Engine;
use crate::message::Message;
use crate::store::sql::tables::{FORGET_AT_ONCE, Tables};
use crate::util::error::Chain;
use crate::util::sync::lock;

/// The source of messages that are stored once. No queue has this name.
const ONCE: &str = "(stored)";

/// The shortest time between two deletions of old ids.
const FORGET_EVERY: Duration = Duration::from_secs(60);

impl<T: Tables> Engine<T> {
    /// Records, in the transaction of this connection, that a message is handled. Returns false if it was before.
    pub(crate) async fn record_handled(
        self: &Arc<Self>,
        connection: &mut <T::Database as Database>::Connection,
        source: &str,
        id: Uuid,
    ) -> Result<bool, sqlx::Error> {
        Ok(!self.record(connection, source, &[id]).await?.is_empty())
    }

    /// Removes the messages that are to be stored once and were stored before.
    pub(crate) async fn retain_new(
        self: &Arc<Self>,
        connection: &mut <T::Database as Database>::Connection,
        messages: &mut Vec<Message>,
    ) -> Result<(), sqlx::Error> {
        let ids: Vec<Uuid> = messages.iter().filter(|message| message.is_once()).map(Message::id).collect();
        if ids.is_empty() {
            return Ok(());
        }
        let mut new = self.record(connection, ONCE, &ids).await?;
        messages.retain(|message| {
            let keep = !message.is_once() || new.remove(&message.id());
            if !keep {
                tracing::info!(id = %message.id(), topic = %message.topic(), "skipped a message that an earlier try of its request has stored");
            }
            keep
        });
        Ok(())
    }

    async fn record(
        self: &Arc<Self>,
        connection: &mut <T::Database as Database>::Connection,
        source: &str,
        ids: &[Uuid],
    ) -> Result<HashSet<Uuid>, sqlx::Error> {
        self.forget_handled();
        self.tables.record(connection, source, ids).await
    }

    /// Deletes ids older than the retention, in the background, unless that was done a moment ago.
    fn forget_handled(self: &Arc<Self>) {
        {
            let mut last = lock(&self.forgotten);
            if last.is_some_and(|last| last.elapsed() < FORGET_EVERY) {
                return;
            }
            *last = Some(Instant::now());
        }
        let engine = Arc::clone(self);
        tokio::spawn(async move {
            loop {
                match engine.tables.forget(engine.inbox_retention).await {
                    Ok(FORGET_AT_ONCE..) => {}
                    Ok(_) => return,
                    Err(error) => {
                        return tracing::warn!(error = %Chain(&error), "failed to delete old ids of the inbox; retrying later");
                    }
                }
            }
        });
    }
}
