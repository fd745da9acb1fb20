//! What tells other processes that there are messages for them.

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

/// The payload that says that messages were stored.
pub(super) const MESSAGES: &str = "messages";

/// The payload that says that instances or their buckets have changed.
pub(super) const BUCKETS: &str = "buckets";

/// Tells other processes of messages by NOTIFY: from a task of its own, for in a transaction of the app it would hold up every
/// other such COMMIT; and once in 5 milliseconds at most.
pub(super) struct Teller {
    _stop: DropGuard,
}

impl Teller {
    /// Starts the task, which ends with it; it tells when `messages` wakes it.
    pub(super) fn start(pool: PgPool, schema: &str, messages: Arc<Notify>) -> Self {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let channel = channel(schema);
        let task = again("telling", move || tell(pool.clone(), channel.clone(), Arc::clone(&messages)));
        tokio::spawn(async move { stopped.run_until_cancelled(task).await });
        Self { _stop: stop.drop_guard() }
    }
}

/// The channel of the outbox in this schema.
pub(super) fn channel(schema: &str) -> String {
    format!("tower_outbox.{schema}")
}

async fn tell(pool: PgPool, channel: String, messages: Arc<Notify>) {
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
                // They would find them by themselves, but later.
                tracing::debug!(error = %Chain(&error), "cannot tell other instances what is new in the outbox");
                messages.notify_one();
                sleep(Backoff::default().delay(failures)).await;
                failures += 1;
            }
        }
    }
}
