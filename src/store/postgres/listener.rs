//! What hears that there is something for this process.

use std::sync::Arc;
use std::time::Duration;

use sqlx::Executor;
use sqlx::postgres::{PgListener, PgPool};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::teller::{MESSAGES, channel};
use crate::store::sql::Listening;
use crate::util::backoff::Backoff;
use crate::util::error::Chain;

/// After so long a silence the connection is tried: the other end of a broken one may never say so.
const SILENCE: Duration = Duration::from_secs(60);

/// How long the database may take to answer that.
const ANSWER: Duration = Duration::from_secs(5);

/// Listens on a connection of its own, and on another when that is lost: it may have missed something then, and wakes both.
pub(super) fn listen(pool: PgPool, schema: &str) -> Listening {
    let channel = channel(schema);
    Listening::start(move |messages, buckets| {
        keep_listening(pool.clone(), channel.clone(), messages, buckets)
    })
}

async fn keep_listening(pool: PgPool, channel: String, messages: Arc<Notify>, buckets: Arc<Notify>) {
    let mut failures = 0;
    loop {
        let error = match connect(&pool, &channel).await {
            Ok(mut listener) => {
                failures = 0;
                messages.notify_one();
                buckets.notify_one();
                loop {
                    match hear(&mut listener).await {
                        Ok(Some(payload)) if payload == MESSAGES => messages.notify_one(),
                        Ok(Some(_)) => buckets.notify_one(),
                        Ok(None) => {}
                        Err(error) => break error,
                    }
                }
            }
            Err(error) => error,
        };
        if matches!(error, sqlx::Error::PoolClosed) {
            return;
        }
        tracing::debug!(error = %Chain(&error), "does not hear what is new in the outbox, and connects again");
        sleep(Backoff::default().delay(failures)).await;
        failures += 1;
    }
}

async fn connect(pool: &PgPool, channel: &str) -> Result<PgListener, sqlx::Error> {
    let mut listener = PgListener::connect_with(pool).await?;
    // This task connects again.
    listener.eager_reconnect(false);
    listener.listen(channel).await?;
    Ok(listener)
}

/// The next payload; none after a silence in which the connection was found to be good.
async fn hear(listener: &mut PgListener) -> Result<Option<String>, sqlx::Error> {
    match timeout(SILENCE, listener.try_recv()).await {
        Ok(Ok(Some(notification))) => Ok(Some(notification.payload().to_owned())),
        Ok(Ok(None)) => Err(std::io::Error::from(std::io::ErrorKind::ConnectionAborted).into()),
        Ok(Err(error)) => Err(error),
        Err(_) => match timeout(ANSWER, listener.execute("SELECT 1")).await {
            Ok(answer) => answer.map(|_| None),
            Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
        },
    }
}
