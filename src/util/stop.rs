//! Stopping tasks by one time, and waiting for them.

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// Stops the tasks that hold a [`StopSignal`]. Dropping it stops none.
#[derive(Clone, Debug)]
pub(crate) struct Stopper {
    until: watch::Sender<Option<Instant>>,
    running: TaskTracker,
}

impl Default for Stopper {
    fn default() -> Self {
        let running = TaskTracker::new();
        // `TaskTracker::wait` needs a closed tracker; closing refuses nothing.
        running.close();
        Self { until: watch::Sender::new(None), running }
    }
}

impl Stopper {
    pub(crate) fn signal(&self) -> StopSignal {
        StopSignal { until: self.until.subscribe(), running: self.running.clone() }
    }

    /// Whether the tasks were asked to end.
    pub(crate) fn is_stopped(&self) -> bool {
        self.until.borrow().is_some()
    }

    /// Asks the tasks to end by this time, and waits for them until then.
    pub(crate) async fn stop(&self, until: Instant) {
        self.until.send_replace(Some(until));
        let _ = timeout_at(until, self.running.wait()).await;
    }
}

/// The side of a task that is to be stopped.
#[derive(Clone, Debug)]
pub(crate) struct StopSignal {
    until: watch::Receiver<Option<Instant>>,
    running: TaskTracker,
}

impl StopSignal {
    /// Counts a task as running until the token is dropped.
    pub(crate) fn token(&self) -> TaskTrackerToken {
        self.running.token()
    }

    /// Waits for the signal; returns the time by which the task must end.
    pub(crate) async fn received(mut self) -> Instant {
        match self.until.wait_for(Option::is_some).await.map(|until| *until) {
            Ok(Some(until)) => until,
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn stopping_waits_for_running_tasks_until_the_deadline() {
        let stopper = Stopper::default();
        let (ends, hangs) = (stopper.signal(), stopper.signal());
        let begun = Instant::now();
        let token = ends.token();
        tokio::spawn(async move {
            let _token = token;
            assert_eq!(ends.received().await, begun + Duration::from_secs(10));
            tokio::time::sleep(Duration::from_secs(1)).await;
        });
        stopper.stop(begun + Duration::from_secs(10)).await;
        assert_eq!(begun.elapsed(), Duration::from_secs(1));
        let _token = hangs.token();
        stopper.stop(begun + Duration::from_secs(10)).await;
        assert_eq!(begun.elapsed(), Duration::from_secs(10));
    }

    #[tokio::test(start_paused = true)]
    async fn dropping_the_stopper_stops_nothing() {
        let signal = Stopper::default().signal();
        assert!(timeout_at(Instant::now() + Duration::from_secs(60), signal.received()).await.is_err());
    }
}
