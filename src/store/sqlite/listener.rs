//! Notices that another process has changed the file.

use std::sync::Arc;
use std::time::Duration;

use sqlx::sqlite::{SqliteConnection, SqlitePool};
use sqlx::{AssertSqlSafe, ConnectOptions, SqlSafeStr, SqlStr};
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::store::sql::Listener;
use crate::util::backoff::Backoff;
use crate::util::error::Chain;

/// How often the file is checked. A message of another process waits half of that on average. A check takes some microseconds and
/// reads one page, which the system has in memory.
const PERIOD: Duration = Duration::from_millis(100);

/// Checks ten times a second, on a connection of its own, whether another connection has changed the file, also one of this
/// process. If so, messages may have been stored, and the partition may be free.
pub(super) fn listen(pool: SqlitePool, schema: String) -> Listener {
    Listener::start(move |messages, partitions| {
        keep_listening(pool.clone(), schema.clone(), messages, partitions)
    })
}

async fn keep_listening(pool: SqlitePool, schema: String, messages: Arc<Notify>, partitions: Arc<Notify>) {
    let free = format!(
        "SELECT EXISTS (SELECT * FROM {schema}_partitions WHERE owner IS NULL
             OR owner NOT IN (SELECT id FROM {schema}_members))"
    );
    let free = AssertSqlSafe(free).into_sql_str();
    let mut failures = 0;
    loop {
        let error = match pool.connect_options().connect().await {
            Ok(mut connection) => {
                failures = 0;
                listen_on(&mut connection, &free, &messages, &partitions).await
            }
            Err(error) => error,
        };
        if pool.is_closed() {
            return;
        }
        tracing::debug!(error = %Chain(&error), "lost the connection that watches the file of the outbox; opening it again");
        sleep(Backoff::default().delay(failures)).await;
        failures += 1;
    }
}

/// Watches until the connection fails.
async fn listen_on(
    connection: &mut SqliteConnection,
    free: &SqlStr,
    messages: &Notify,
    partitions: &Notify,
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
            Ok(true) => partitions.notify_one(),
            Ok(false) => {}
            Err(error) => return error,
        }
    }
}
