//! Connections to a server that has become read-only.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use sqlx::Row;
use sqlx::postgres::{PgConnection, PgPool};
use tokio::time::sleep;

use crate::util::sync::lock;

/// The shortest time between two searches of a pool.
const EVERY: Duration = Duration::from_secs(1);

/// Gives a connection that was just used the time to go back to its pool.
const PAUSE: Duration = Duration::from_millis(100);

/// `read_only_sql_transaction` (Postgres, appendix A).
const READ_ONLY: &str = "25006";

/// Closes the connections of a pool to a server that has become read-only, as after a fail-over. They would stay, as such a server
/// answers well, while a new connection finds the new primary.
#[derive(Debug)]
pub(crate) struct ReadOnlyConnections {
    pool: PgPool,
    searched: Mutex<Option<Instant>>,
}

impl ReadOnlyConnections {
    pub(super) fn new(pool: PgPool) -> Self {
        Self { pool, searched: Mutex::default() }
    }

    /// Searches the pool if the error is that of a read-only server.
    pub(crate) fn on_error(&self, error: &sqlx::Error) {
        if error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == READ_ONLY) {
            self.search();
        }
    }

    /// Searches the pool in the background, unless that was done a moment ago.
    pub(crate) fn search(&self) {
        let mut searched = lock(&self.searched);
        if searched.is_some_and(|searched| searched.elapsed() < EVERY) {
            return;
        }
        *searched = Some(Instant::now());
        let pool = self.pool.clone();
        tokio::spawn(async move {
            sleep(PAUSE).await;
            let mut closed = 0;
            for _ in 0..pool.num_idle() {
                // Connections in use are closed when they fail.
                let Some(mut connection) = pool.try_acquire() else { break };
                if is_read_only(&mut connection).await {
                    let _ = connection.close().await;
                    closed += 1;
                }
            }
            if closed > 0 {
                tracing::warn!(
                    connections = closed,
                    "closed connections to a database that has become read-only; connecting again"
                );
            }
        });
    }
}

async fn is_read_only(connection: &mut PgConnection) -> bool {
    let answer = sqlx::raw_sql("SHOW transaction_read_only").fetch_one(connection).await;
    answer.and_then(|row| row.try_get::<String, _>(0)).is_ok_and(|answer| answer == "on")
}
