//! Who writes to a file: one at a time.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};
use std::time::Duration;

use sqlx::sqlite::SqlitePool;
use tokio::time::timeout;

use crate::store::sql::Turn;

/// The files of this process.
static FILES: LazyLock<Mutex<HashMap<PathBuf, Weak<Queue>>>> = LazyLock::new(Mutex::default);

/// The writers of this crate in this process to one file, whichever stores they belong to: they take turns in the order they
/// came.
///
/// SQLite has one writer at a time, and lets others look now and then whether it is their turn: who is unlucky looks in vain until its
/// busy timeout is over, the sooner the more there are. Other processes and the app's own transactions are met in that way still.
#[derive(Clone, Debug)]
pub(super) struct Writers {
    queue: Arc<Queue>,
    limit: Duration,
}

#[derive(Debug, Default)]
struct Queue {
    /// Held by the first of those that wait in line.
    first: tokio::sync::Mutex<()>,
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl Writers {
    /// Those to the file of a pool, each of which waits as long as for one of its connections.
    pub(super) fn of(pool: &SqlitePool) -> Self {
        let limit = pool.options().get_acquire_timeout();
        // What is in memory has no path.
        let Ok(path) = pool.connect_options().get_filename().canonicalize() else {
            return Self { queue: Arc::default(), limit };
        };
        let mut files = FILES.lock().unwrap_or_else(PoisonError::into_inner);
        files.retain(|_, queue| queue.strong_count() > 0);
        let queue = files.get(&path).and_then(Weak::upgrade).unwrap_or_default();
        files.insert(path, Arc::downgrade(&queue));
        Self { queue, limit }
    }

    /// Waits for its turn, which is taken before a connection: those that wait need none.
    ///
    /// It fails when that takes too long, as for who waits, in its turn, for what is done in another.
    pub(super) async fn turn(&self) -> Result<Turn, sqlx::Error> {
        self.within_limit(async {
            let _first = self.queue.first.lock().await;
            Arc::clone(&self.queue.turn).lock_owned().await
        })
        .await
    }

    /// As [`turn`](Self::turn), before all that wait in line but one, for what must not be late.
    pub(super) async fn next_turn(&self) -> Result<Turn, sqlx::Error> {
        self.within_limit(Arc::clone(&self.queue.turn).lock_owned()).await
    }

    async fn within_limit(
        &self,
        turn: impl Future<Output = tokio::sync::OwnedMutexGuard<()>>,
    ) -> Result<Turn, sqlx::Error> {
        let turn = timeout(self.limit, turn).await;
        turn.map(Some).map_err(|_| {
            let text =
                "another transaction of this process writes for longer than the pool's acquire_timeout";
            io::Error::new(io::ErrorKind::TimedOut, text).into()
        })
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};

    use super::*;

    fn writers(path: &std::path::Path) -> Writers {
        let options = SqliteConnectOptions::new().filename(path);
        let pool = SqlitePoolOptions::new().acquire_timeout(Duration::from_secs(3));
        Writers::of(&pool.connect_lazy_with(options))
    }

    #[tokio::test]
    async fn turns_are_taken_in_order_but_for_what_must_not_be_late() {
        let writers = writers("".as_ref());
        let first = writers.turn().await.unwrap();
        let (mut second, mut third) = (Box::pin(writers.turn()), Box::pin(writers.turn()));
        assert!((&mut second).now_or_never().is_none());
        assert!((&mut third).now_or_never().is_none());
        let mut late = Box::pin(writers.next_turn());
        assert!((&mut late).now_or_never().is_none());
        drop(first);
        assert!((&mut third).now_or_never().is_none() && (&mut late).now_or_never().is_none());
        drop(second.await.unwrap());
        assert!((&mut third).now_or_never().is_none());
        drop(late.await.unwrap());
        third.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_ever() {
        let writers = writers("".as_ref());
        let _first = writers.turn().await.unwrap();
        let begun = tokio::time::Instant::now();
        let (one, two, three) = tokio::join!(writers.turn(), writers.turn(), writers.next_turn());
        assert!(one.is_err() && two.is_err() && matches!(three, Err(sqlx::Error::Io(_))));
        assert_eq!(begun.elapsed().as_secs(), 3);
    }

    #[tokio::test]
    async fn a_file_has_one_queue_by_whatever_name() {
        let folder = tempfile::tempdir().unwrap();
        let [one, two, link] = ["one", "two", "link"].map(|name| folder.path().join(name));
        std::fs::write(&one, "").unwrap();
        std::fs::write(&two, "").unwrap();
        std::os::unix::fs::symlink(&one, &link).unwrap();
        let first = writers(&one);
        let _turn = first.turn().await.unwrap();
        assert!(writers(&link).turn().now_or_never().is_none());
        assert!(writers(&two).turn().now_or_never().is_some());
        drop(first);
        assert!(writers(&one).turn().now_or_never().is_some(), "nobody uses it any more");
    }
}
