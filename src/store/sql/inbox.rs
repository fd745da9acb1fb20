//! What the inboxes of both databases share.

use std::collections::HashSet;
use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use crate::message::Message;
use crate::util::error::Chain;

/// The source of messages that are stored once: no queue is called so.
const ONCE: &str = "(stored)";

/// How many rows are deleted in one statement.
pub(crate) const FORGET_AT_ONCE: u64 = 1_000;

/// How often at most something is forgotten.
const EVERY: Duration = Duration::from_secs(60);

/// Records ids of a source in the transaction of a connection, and gives those that are new.
pub(crate) trait Record {
    fn record(
        &mut self,
        source: &str,
        ids: &[Uuid],
    ) -> impl Future<Output = Result<HashSet<Uuid>, sqlx::Error>> + Send;
}

/// Removes messages that are to be stored once, and were.
pub(crate) async fn retain_new(
    mut inbox: impl Record,
    messages: &mut Vec<Message>,
) -> Result<(), sqlx::Error> {
    let ids: Vec<Uuid> = messages.iter().filter(|message| message.is_once()).map(Message::id).collect();
    if ids.is_empty() {
        return Ok(());
    }
    let mut new = inbox.record(ONCE, &ids).await?;
    messages.retain(|message| {
        let keep = !message.is_once() || new.remove(&message.id());
        if !keep {
            tracing::info!(id = %message.id(), topic = %message.topic(), "message already stored by an earlier try of its request");
        }
        keep
    });
    Ok(())
}

/// When something was forgotten last.
#[derive(Debug, Default)]
pub(crate) struct Sweep(Mutex<Option<Instant>>);

impl Sweep {
    /// Forgets in the background, batch by batch, unless that was done a moment ago; `forget` says how many rows it deleted.
    pub(crate) fn begin<F, Fut>(&self, forget: F)
    where
        F: Fn() -> Fut + Send + 'static,
        Fut: Future<Output = Result<u64, sqlx::Error>> + Send,
    {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_some_and(|last| last.elapsed() < EVERY) {
            return;
        }
        *last = Some(Instant::now());
        tokio::spawn(async move {
            loop {
                match forget().await {
                    Ok(FORGET_AT_ONCE..) => {}
                    Ok(_) => return,
                    Err(error) => {
                        return tracing::warn!(error = %Chain(&error), "handled messages cannot be forgotten now");
                    }
                }
            }
        });
    }
}
