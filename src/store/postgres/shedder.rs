//! Connections that no longer lead to a server that can be written.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::Row;
use sqlx::postgres::{PgConnection, PgPool};
use tokio::time::sleep;

/// A pool is looked through this often at most.
const EVERY: Duration = Duration::from_secs(1);

/// A connection that was just used goes back to its pool first.
const PAUSE: Duration = Duration::from_millis(100);

/// `read_only_sql_transaction` (Postgres, appendix A).
const READ_ONLY: &str = "25006";

/// Closes the connections of a pool to a server that can only be read, as after a fail-over: they would stay, as such a server
/// answers well, while a new connection finds the new primary.
#[derive(Debug)]
pub(crate) struct Shedder {
    pool: PgPool,
    last: Mutex<Option<Instant>>,
}

impl Shedder {
    pub(super) fn new(pool: PgPool) -> Self {
        Self { pool, last: Mutex::default() }
    }

    /// Looks through the pool if that is what the error says.
    pub(crate) fn refused(&self, error: &sqlx::Error) {
        if error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == READ_ONLY) {
            self.look();
        }
    }

    /// Looks through the pool, in the background, unless that was done a moment ago.
    pub(crate) fn look(&self) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_some_and(|last| last.elapsed() < EVERY) {
            return;
        }
        *last = Some(Instant::now());
        let pool = self.pool.clone();
        tokio::spawn(async move {
            sleep(PAUSE).await;
            let mut closed = 0;
            for _ in 0..pool.num_idle() {
                // Only those that nobody uses: others are found when they fail.
                let Some(mut connection) = pool.try_acquire() else { break };
                if is_read_only(&mut connection).await {
                    let _ = connection.close().await;
                    closed += 1;
                }
            }
            if closed > 0 {
                tracing::warn!(
                    connections = closed,
                    "closed connections to a database that is read-only; new ones are made"
                );
            }
        });
    }
}

async fn is_read_only(connection: &mut PgConnection) -> bool {
    let answer = sqlx::raw_sql("SHOW transaction_read_only").fetch_one(connection).await;
    answer.and_then(|row| row.try_get::<String, _>(0)).is_ok_and(|answer| answer == "on")
}
