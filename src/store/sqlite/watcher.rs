//! What notices that another process has changed the file.

use std::sync::Arc;
use std::time::Duration;

use sqlx::sqlite::{SqliteConnection, SqlitePool};
use sqlx::{AssertSqlSafe, ConnectOptions, SqlSafeStr, SqlStr};
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::store::sql::Listening;
use crate::util::backoff::Backoff;
use crate::util::error::Chain;

/// How often it looks: what another process has stored waits half of that on average. A look takes some microseconds and
/// reads one page, which the system holds in memory.
const PERIOD: Duration = Duration::from_millis(100);

/// Asks on a connection of its own, ten times a second, whether another connection, be it of this process, has changed the
/// file: then messages may have come, and the bucket is looked at.
pub(super) fn watch(pool: SqlitePool, schema: String) -> Listening {
    Listening::start(move |messages, buckets| keep_watching(pool.clone(), schema.clone(), messages, buckets))
}

async fn keep_watching(pool: SqlitePool, schema: String, messages: Arc<Notify>, buckets: Arc<Notify>) {
    let free = format!(
        "SELECT EXISTS (SELECT * FROM {schema}_buckets WHERE owner IS NULL
             OR owner NOT IN (SELECT id FROM {schema}_relays))"
    );
    let free = AssertSqlSafe(free).into_sql_str();
    let mut failures = 0;
    loop {
        let error = match pool.connect_options().connect().await {
            Ok(mut connection) => {
                failures = 0;
                watch_on(&mut connection, &free, &messages, &buckets).await
            }
            Err(error) => error,
        };
        if pool.is_closed() {
            return;
        }
        tracing::debug!(error = %Chain(&error), "cannot watch the file of the outbox, and opens it again");
        sleep(Backoff::default().delay(failures)).await;
        failures += 1;
    }
}

/// Watches until that fails.
async fn watch_on(
    connection: &mut SqliteConnection,
    free: &SqlStr,
    messages: &Notify,
    buckets: &Notify,
) -> sqlx::Error {
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen = None;
    loop {
        ticks.tick().await;
        let version: i64 = match sqlx::query_scalar("PRAGMA data_version").fetch_one(&mut *connection).await {
            Ok(version) => version,
            Err(error) => return error,
        };
        if seen.replace(version) == Some(version) {
            continue;
        }
        messages.notify_one();
        match sqlx::query_scalar(free.clone()).fetch_one(&mut *connection).await {
            Ok(true) => buckets.notify_one(),
            Ok(false) => {}
            Err(error) => return error,
        }
    }
}
