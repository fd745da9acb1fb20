//! Detects a pooler between the app and the server.

use sqlx::postgres::{PgConnection, PgPool};
use sqlx::{Connection, Row};

/// Two clients share one connection of the server.
#[derive(Debug, thiserror::Error)]
#[error(
    "the database is behind a pooler that gives every transaction another connection, as PgBouncer does with pool_mode = transaction: \
     prepared statements and LISTEN need one that stays. Name the server itself in OUTBOX.DATABASE_URL (or in the pool of the app), or \
     a database of the pooler with pool_mode = session"
)]
pub(super) struct SharedConnections;

/// How often the processes are compared, as another client may come in between.
const TRIES: usize = 3;

/// Fails if the connections of the pool are shared between transactions.
///
/// While a connection is idle, a second one must be served by another process of the server. Both ask by the simple protocol, which
/// every pooler supports.
pub(super) async fn refuse(pool: &PgPool) -> Result<(), SharedConnections> {
    match is_shared(pool).await {
        Ok(true) => Err(SharedConnections),
        // Any other fault shows in the next statement.
        Ok(false) | Err(_) => Ok(()),
    }
}

async fn is_shared(pool: &PgPool) -> Result<bool, sqlx::Error> {
    let mut first = pool.acquire().await?;
    let mut second = PgConnection::connect_with(&pool.connect_options()).await?;
    let mut shared = false;
    for _ in 0..TRIES {
        shared = shared || process(&mut first).await? == process(&mut second).await?;
    }
    let _ = second.close().await;
    Ok(shared)
}

async fn process(connection: &mut PgConnection) -> Result<i32, sqlx::Error> {
    sqlx::raw_sql("SELECT pg_backend_pid()")
        .fetch_one(connection)
        .await?
        .try_get_unchecked::<String, _>(0)
        .map(|pid| pid.parse().unwrap_or_default())
}
