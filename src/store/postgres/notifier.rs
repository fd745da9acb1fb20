//! Notifications of other instances about messages for them.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgPool;
use tokio::sync::Notify;
use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::util::backoff::Backoff;
use crate::util::caught::again;
use crate::util::error::Chain;

/// The shortest time between two notifications.
const PAUSE: Duration = Duration::from_millis(5);

/// The payload when messages were stored.
pub(super) const MESSAGES: &str = "messages";

/// The payload when members or the owners of partitions have changed.
pub(super) const PARTITIONS: &str = "partitions";

/// Notifies other instances of new messages by NOTIFY, at most once in 5 milliseconds.
///
/// A separate task does so, as a NOTIFY in a transaction of the app would make every such COMMIT wait for the others.
pub(super) struct Notifier {
    _stop: DropGuard,
}

impl Notifier {
    /// Starts the task, which ends with the notifier. It notifies when `messages` is notified.
    pub(super) fn start(pool: PgPool, schema: &str, messages: Arc<Notify>) -> Self {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let channel = channel(schema);
        let task = again("notifying", move || run(pool.clone(), channel.clone(), Arc::clone(&messages)));
        tokio::spawn(async move { stopped.run_until_cancelled(task).await });
        Self { _stop: stop.drop_guard() }
    }
}

/// Returns the channel of the outbox in this schema.
pub(super) fn channel(schema: &str) -> String {
    format!("tower_outbox.{schema}")
}

async fn run(pool: PgPool, channel: String, messages: Arc<Notify>) {
    let mut failures = 0;
    loop {
        messages.notified().await;
        let notify = sqlx::query("SELECT pg_notify($1, $2)").bind(&channel).bind(MESSAGES);
        match notify.execute(&pool).await {
            Ok(_) => {
                failures = 0;
                sleep(PAUSE).await;
            }
            Err(sqlx::Error::PoolClosed) => return,
            Err(error) => {
                // Other instances find the messages without it, but later.
                tracing::debug!(error = %Chain(&error), "failed to notify other instances of new messages; retrying");
                messages.notify_one();
                sleep(Backoff::default().delay(failures)).await;
                failures += 1;
            }
        }
    }
}
