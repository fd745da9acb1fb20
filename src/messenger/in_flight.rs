//! The count of work that has begun and not ended.

use std::future::Future;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// Work in flight: sends that outlive their request, batches a decorator still holds.
///
/// Clones share one count.
#[derive(Clone, Debug)]
pub struct InFlight(TaskTracker);

impl Default for InFlight {
    fn default() -> Self {
        let tracker = TaskTracker::new();
        // `TaskTracker::wait` needs a closed tracker; closing refuses nothing.
        tracker.close();
        Self(tracker)
    }
}

impl InFlight {
    /// Counts until the token is dropped.
    #[must_use]
    pub fn token(&self) -> InFlightToken {
        InFlightToken(self.0.token())
    }

    /// How much is in flight.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is in flight.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Waits until nothing is in flight.
    ///
    /// # Cancel safety
    /// It may be dropped at any time.
    pub async fn idle(&self) {
        self.0.wait().await;
    }

    pub(crate) fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.0.spawn(future)
    }

    /// Spawns from where there may be no runtime, as in `Drop`: hands the future back then.
    pub(crate) fn try_spawn<F>(&self, future: F) -> Result<(), F>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        match Handle::try_current() {
            Ok(runtime) => {
                self.0.spawn_on(future, &runtime);
                Ok(())
            }
            Err(_) => Err(future),
        }
    }
}

/// One piece of work in flight; dropping it ends the piece.
#[derive(Debug)]
pub struct InFlightToken(#[allow(dead_code, reason = "held for its drop")] TaskTrackerToken);
