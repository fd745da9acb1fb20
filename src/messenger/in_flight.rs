//! The count of work that has begun and not ended.

use std::future::Future;
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// Work in flight: sends that outlive their request, batches that a decorator still holds.
///
/// Clones share one count.
#[derive(Clone, Debug)]
pub struct InFlight {
    tracker: TaskTracker,
    /// Counts of messengers further behind; new work is counted by `tracker` only.
    behind: Option<Arc<Self>>,
}

impl Default for InFlight {
    fn default() -> Self {
        let tracker = TaskTracker::new();
        // `TaskTracker::wait` needs a closed tracker; a closed tracker still accepts work.
        tracker.close();
        Self { tracker, behind: None }
    }
}

impl InFlight {
    /// Counts one piece of work until the token is dropped.
    #[must_use]
    pub fn token(&self) -> InFlightToken {
        InFlightToken(self.tracker.token())
    }

    /// Returns how much is in flight.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tracker.len() + self.behind.as_ref().map_or(0, |behind| behind.len())
    }

    /// Whether nothing is in flight.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits until nothing is in flight.
    ///
    /// # Cancel safety
    /// Dropping the future has no effect.
    pub async fn wait_idle(&self) {
        // Messages move to the messengers behind, never back: nothing is missed by waiting in this order.
        self.tracker.wait().await;
        let mut behind = self.behind.as_deref();
        while let Some(next) = behind {
            next.tracker.wait().await;
            behind = next.behind.as_deref();
        }
    }

    /// Returns this count and another as one; new work is counted by this one.
    pub(super) fn and(mut self, other: Self) -> Self {
        if TaskTracker::ptr_eq(&self.tracker, &other.tracker) {
            return self;
        }
        self.behind = Some(Arc::new(match self.behind.take() {
            Some(behind) => Arc::unwrap_or_clone(behind).and(other),
            None => other,
        }));
        self
    }

    pub(crate) fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.tracker.spawn(future)
    }

    /// Spawns from a place without a runtime, such as `Drop`; returns the future if there is none.
    pub(crate) fn try_spawn<F>(&self, future: F) -> Result<(), F>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        match Handle::try_current() {
            Ok(runtime) => {
                self.tracker.spawn_on(future, &runtime);
                Ok(())
            }
            Err(_) => Err(future),
        }
    }
}

/// One piece of work in flight, until it is dropped.
#[derive(Debug)]
pub struct InFlightToken(#[allow(dead_code, reason = "held for its drop")] TaskTrackerToken);
