//! Listens to the notifications of other instances.

use std::sync::Arc;
use std::time::Duration;

use sqlx::Executor;
use sqlx::postgres::{PgListener, PgPool};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::notifier::{MESSAGES, channel};
use crate::store::sql::Listener;
use crate::util::backoff::Backoff;
use crate::util::error::Chain;

/// After so long a silence the connection is tested, as a broken one may never report it.
const SILENCE: Duration = Duration::from_secs(60);

/// How long the database may take to answer the test.
const ANSWER: Duration = Duration::from_secs(5);

/// Listens on a connection of its own, and connects again when it is lost. Both are notified then, as notifications may be lost.
pub(super) fn listen(pool: PgPool, schema: &str) -> Listener {
    let channel = channel(schema);
    Listener::start(move |messages, partitions| {
        keep_listening(pool.clone(), channel.clone(), messages, partitions)
    })
}

async fn keep_listening(pool: PgPool, channel: String, messages: Arc<Notify>, partitions: Arc<Notify>) {
    let mut failures = 0;
    loop {
        let error = match connect(&pool, &channel).await {
            Ok(mut listener) => {
                failures = 0;
                messages.notify_one();
                partitions.notify_one();
                loop {
                    match receive(&mut listener).await {
                        Ok(Some(payload)) if payload == MESSAGES => messages.notify_one(),
                        Ok(Some(_)) => partitions.notify_one(),
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
        tracing::debug!(error = %Chain(&error), "lost the connection that listens to other instances; connecting again");
        sleep(Backoff::default().delay(failures)).await;
        failures += 1;
    }
}

async fn connect(pool: &PgPool, channel: &str) -> Result<PgListener, sqlx::Error> {
    let mut listener = PgListener::connect_with(pool).await?;
    // The task connects again itself.
    listener.eager_reconnect(false);
    listener.listen(channel).await?;
    Ok(listener)
}

/// Returns the next payload, or `None` after a silence if the connection works.
async fn receive(listener: &mut PgListener) -> Result<Option<String>, sqlx::Error> {
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
