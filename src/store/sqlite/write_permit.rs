//! The right to write to a file: one writer at a time.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex, Weak};
use std::time::Duration;

use sqlx::sqlite::SqlitePool;
use tokio::sync::OwnedMutexGuard;
use tokio::time::timeout;

use crate::store::sql::WritePermit;
use crate::util::sync::lock;

/// The files of this process.
static FILES: LazyLock<Mutex<HashMap<PathBuf, Weak<Queue>>>> = LazyLock::new(Mutex::default);

/// The permits of all writers of this crate in this process to one file, in any of its stores. They are given in the order of the
/// requests.
///
/// SQLite has one writer at a time, and others poll. Under contention an unlucky writer can starve until its busy timeout. Other
/// processes and the app's own transactions still compete that way.
#[derive(Clone, Debug)]
pub(super) struct WritePermits {
    queue: Arc<Queue>,
    limit: Duration,
}

#[derive(Debug, Default)]
struct Queue {
    /// Held by the writer at the head of the queue.
    head: tokio::sync::Mutex<()>,
    permit: Arc<tokio::sync::Mutex<()>>,
}

impl WritePermits {
    /// Returns the permits of the file of a pool. A writer waits for one as long as for a connection of the pool.
    pub(super) fn of(pool: &SqlitePool) -> Self {
        let limit = pool.options().get_acquire_timeout();
        // A database in memory has no path.
        let Ok(path) = pool.connect_options().get_filename().canonicalize() else {
            return Self { queue: Arc::default(), limit };
        };
        let mut files = lock(&FILES);
        files.retain(|_, queue| queue.strong_count() > 0);
        let queue = files.get(&path).and_then(Weak::upgrade).unwrap_or_default();
        files.insert(path, Arc::downgrade(&queue));
        Self { queue, limit }
    }

    /// Waits for a permit. A writer acquires it before its connection, so that waiting takes no connection.
    ///
    /// Fails after `acquire_timeout`, for example when a handler that holds a `Tx` waits for another writer.
    pub(super) async fn acquire(&self) -> Result<WritePermit, sqlx::Error> {
        self.within_limit(async {
            let _head = self.queue.head.lock().await;
            Arc::clone(&self.queue.permit).lock_owned().await
        })
        .await
    }

    /// Like [`acquire`](Self::acquire), but before all waiting writers except the one at the head of the queue.
    pub(super) async fn acquire_next(&self) -> Result<WritePermit, sqlx::Error> {
        self.within_limit(Arc::clone(&self.queue.permit).lock_owned()).await
    }

    async fn within_limit(
        &self,
        permit: impl Future<Output = OwnedMutexGuard<()>>,
    ) -> Result<WritePermit, sqlx::Error> {
        timeout(self.limit, permit).await.map(Some).map_err(|_| {
            let text = "another transaction of this process has been writing for longer than the pool's acquire_timeout";
            io::Error::new(io::ErrorKind::TimedOut, text).into()
        })
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};

    use super::*;

    fn permits(path: &std::path::Path) -> WritePermits {
        let options = SqliteConnectOptions::new().filename(path);
        let pool = SqlitePoolOptions::new().acquire_timeout(Duration::from_secs(3));
        WritePermits::of(&pool.connect_lazy_with(options))
    }

    #[tokio::test]
    async fn permits_are_given_in_order_but_for_urgent_ones() {
        let permits = permits("".as_ref());
        let first = permits.acquire().await.unwrap();
        let (mut second, mut third) = (Box::pin(permits.acquire()), Box::pin(permits.acquire()));
        assert!((&mut second).now_or_never().is_none());
        assert!((&mut third).now_or_never().is_none());
        let mut late = Box::pin(permits.acquire_next());
        assert!((&mut late).now_or_never().is_none());
        drop(first);
        assert!((&mut third).now_or_never().is_none() && (&mut late).now_or_never().is_none());
        drop(second.await.unwrap());
        assert!((&mut third).now_or_never().is_none());
        drop(late.await.unwrap());
        third.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_for_a_permit_has_a_limit() {
        let permits = permits("".as_ref());
        let _first = permits.acquire().await.unwrap();
        let begun = tokio::time::Instant::now();
        let (one, two, three) = tokio::join!(permits.acquire(), permits.acquire(), permits.acquire_next());
        assert!(one.is_err() && two.is_err() && matches!(three, Err(sqlx::Error::Io(_))));
        assert_eq!(begun.elapsed().as_secs(), 3);
    }

    #[tokio::test]
    async fn a_file_has_one_queue_under_all_its_names() {
        let folder = tempfile::tempdir().unwrap();
        let [one, two, link] = ["one", "two", "link"].map(|name| folder.path().join(name));
        std::fs::write(&one, "").unwrap();
        std::fs::write(&two, "").unwrap();
        std::os::unix::fs::symlink(&one, &link).unwrap();
        let first = permits(&one);
        let _permit = first.acquire().await.unwrap();
        assert!(permits(&link).acquire().now_or_never().is_none());
        assert!(permits(&two).acquire().now_or_never().is_some());
        drop(first);
        assert!(permits(&one).acquire().now_or_never().is_some(), "nobody uses it any more");
    }
}
