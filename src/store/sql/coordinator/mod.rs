//! Keeps the partitions that are assigned to this instance.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::assignment::Assignment;
use super::hooks::unless_it_panics;
use super::listener::Listener;
use super::membership::Membership;
use crate::message::uuid_v7;
use crate::util::backoff::Backoff;
use crate::util::deadline::FOR_EVER;
use crate::util::error::Chain;

/// How often a partition to be released is checked for leased messages.
const RELEASE_CHECK: Duration = Duration::from_millis(10);

/// How long an instance that ends may take to leave. After that its membership must expire.
const LEAVE: Duration = Duration::from_secs(2);

/// Returns whether no message of the partition is leased.
///
/// It is called after the assignment without the partition is published, so leasing must read the assignment under the same lock.
pub(crate) type IsIdle = Arc<dyn Fn(i16) -> bool + Send + Sync>;

/// Joins the members, sends a heartbeat every third of the timeout, acquires a fair number of partitions, and releases surplus ones
/// once no message of them is leased.
///
/// The partitions are shared anew when a member joins or leaves, or has expired. Dropping the coordinator leaves without waiting.
pub(crate) struct Coordinator {
    tasks: TaskTracker,
    messages: Arc<Notify>,
    stop: CancellationToken,
}

impl Coordinator {
    /// Starts the task, which publishes the assignment.
    pub(crate) fn start(
        membership: Arc<dyn Membership>,
        member_timeout: Duration,
        assignment: watch::Sender<Assignment>,
        is_idle: IsIdle,
    ) -> Self {
        let listener = membership.listen();
        let messages = Arc::clone(&listener.messages);
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let task = CoordinatorTask {
            membership,
            // With no timeout there would be one heartbeat after another.
            timeout: member_timeout.clamp(Duration::from_millis(100), FOR_EVER),
            listener,
            is_idle,
            assignment,
            id: None,
            mine: Vec::new(),
            releasing: Vec::new(),
            until: None,
            failures: 0,
            missed: 0,
        };
        tasks.spawn(task.run(stop.clone()));
        tasks.close();
        Self { tasks, messages, stop }
    }

    /// Notified when another instance has stored messages, perhaps for this one. It may be notified for nothing.
    pub(crate) fn messages(&self) -> Arc<Notify> {
        Arc::clone(&self.messages)
    }

    /// Leaves at once, and waits at most two seconds until the database knows. Messages that are still leased may be sent again.
    ///
    /// # Cancel safety
    /// Leaving continues when this future is dropped.
    pub(crate) async fn leave(&self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl fmt::Debug for Coordinator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Coordinator").finish_non_exhaustive()
    }
}

struct CoordinatorTask {
    membership: Arc<dyn Membership>,
    timeout: Duration,
    listener: Listener,
    is_idle: IsIdle,
    assignment: watch::Sender<Assignment>,
    /// `None` before it has joined.
    id: Option<Uuid>,
    /// Its partitions, as the database has them.
    mine: Vec<(i16, i64)>,
    /// The partitions that it is going to release.
    releasing: Vec<i16>,
    until: Option<Instant>,
    /// How many heartbeats in a row have failed.
    failures: u32,
    /// How many heartbeats in a row have not acquired all wanted partitions.
    missed: u32,
}

impl CoordinatorTask {
    async fn run(mut self, stop: CancellationToken) {
        stop.run_until_cancelled(self.keep()).await;
        self.assignment.send_replace(Assignment::default());
        let Some(id) = self.id else { return };
        let error = match timeout(LEAVE, unless_it_panics(self.membership.leave(id))).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => Chain(&error).to_string(),
            Err(_) => "no answer in time".to_owned(),
        };
        tracing::warn!(error, "failed to leave the outbox; other instances take over after the timeout");
    }

    async fn keep(&mut self) {
        let mut next = Instant::now();
        loop {
            if Instant::now() >= next {
                next = self.refresh().await;
            }
            self.release_idle().await;
            let check = if self.releasing.is_empty() { next } else { Instant::now() + RELEASE_CHECK };
            tokio::select! {
                () = sleep_until(next.min(check)) => {}
                () = self.listener.partitions.notified() => next = Instant::now(),
            }
        }
    }

    /// Sends a heartbeat and updates the assignment. Returns when the next one is due.
    async fn refresh(&mut self) -> Instant {
        let now = Instant::now();
        let limit = self.until.and_then(|until| until.checked_duration_since(now)).unwrap_or(self.timeout);
        let (error, wait) =
            match timeout(limit.min(self.interval()), unless_it_panics(self.rebalance())).await {
                Ok(Ok(wait)) => {
                    self.failures = 0;
                    return Instant::now() + wait;
                }
                Ok(Err(error)) => (Chain(&error).to_string(), self.backoff(self.failures)),
                Err(_) => ("no answer in time".to_owned(), self.backoff(self.failures)),
            };
        self.failures += 1;
        tracing::warn!(error, "failed to send a heartbeat to the outbox; retrying");
        let now = Instant::now();
        match self.until {
            Some(until) if until > now => until.min(now + wait),
            _ => {
                self.lose();
                now + wait
            }
        }
    }

    /// Sends a heartbeat, and acquires or releases partitions by what it returns. Returns the time to the next one.
    async fn rebalance(&mut self) -> Result<Duration, sqlx::Error> {
        let (id, view) = loop {
            let id = match self.id {
                Some(id) => id,
                None => {
                    let id = uuid_v7(SystemTime::now());
                    // Kept before the answer: if it has not joined, the next heartbeat shows it.
                    self.id = Some(id);
                    self.membership.join(id, self.timeout).await?;
                    id
                }
            };
            let sent = Instant::now();
            match self.membership.heartbeat(id, self.timeout).await? {
                None => {
                    self.lose();
                    self.id = None;
                }
                Some(view) if view.next_expiry == Some(Duration::ZERO) => self.membership.expire().await?,
                Some(view) => {
                    // The clocks of database and app may run at different speeds.
                    self.until = Some(sent + self.timeout * 9 / 10);
                    break (id, view);
                }
            }
        };
        let quota = view.quota();
        self.mine.clone_from(&view.mine);
        // Partitions that it was releasing go first.
        self.mine.sort_by_key(|(partition, _)| self.releasing.contains(partition));
        self.releasing = self.mine.iter().skip(quota).map(|(partition, _)| *partition).collect();
        self.publish();
        let mut wait = self.interval();
        let wanted = view.choose(quota.saturating_sub(self.mine.len()));
        if wanted.is_empty() {
            self.missed = 0;
        } else {
            let acquired = self.membership.acquire(id, &wanted).await?;
            tracing::debug!(?acquired, quota, members = view.members, "acquired partitions of the outbox");
            // Another member was faster, or the former owner is still settling messages.
            self.missed = if acquired.len() < wanted.len() { self.missed + 1 } else { 0 };
            if self.missed > 0 {
                wait = self.backoff(self.missed);
            }
            self.mine.extend(acquired);
            self.publish();
        }
        Ok(wait.min(view.next_expiry.unwrap_or(wait)))
    }

    /// Releases surplus partitions of which no message is leased.
    async fn release_idle(&mut self) {
        let idle: Vec<i16> =
            self.releasing.iter().copied().filter(|partition| (self.is_idle)(*partition)).collect();
        let (false, Some(id)) = (idle.is_empty(), self.id) else { return };
        match timeout(self.interval(), unless_it_panics(self.membership.release(id, &idle))).await {
            Ok(Ok(())) => tracing::debug!(partitions = ?idle, "released partitions of the outbox"),
            Ok(Err(error)) => {
                tracing::warn!(error = %Chain(&error), "failed to release partitions of the outbox; retrying");
            }
            Err(_) => tracing::warn!("timed out releasing partitions of the outbox; retrying"),
        }
        // The next heartbeat shows whether they were released.
        self.releasing.retain(|partition| !idle.contains(partition));
        self.mine.retain(|(partition, _)| !idle.contains(partition));
    }

    /// Gives up all partitions, as others may have acquired them.
    fn lose(&mut self) {
        if !self.mine.is_empty() {
            tracing::warn!("membership in the outbox has expired; other instances may send its messages");
        }
        (self.mine, self.releasing, self.until) = (Vec::new(), Vec::new(), None);
        self.publish();
    }

    fn publish(&self) {
        let kept = self.mine.iter().filter(|(partition, _)| !self.releasing.contains(partition));
        self.assignment.send_replace(Assignment { partitions: kept.copied().collect(), until: self.until });
    }

    fn interval(&self) -> Duration {
        self.timeout / 3
    }

    fn backoff(&self, times: u32) -> Duration {
        Backoff::new(self.interval() / 100, self.interval()).delay(times)
    }
}

#[cfg(test)]
mod tests;
