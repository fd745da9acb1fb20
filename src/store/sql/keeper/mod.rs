//! What keeps this instance's share of the buckets.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::hooks::unless_it_panics;
use super::leases::Leases;
use super::listening::Listening;
use super::share::Share;
use crate::message::uuid_v7;
use crate::util::backoff::Backoff;
use crate::util::error::Chain;

/// How often is asked whether something of a bucket to give up is still out.
const GLANCE: Duration = Duration::from_millis(10);

/// How long an instance that ends may take to say so; else its lease must run out.
const FAREWELL: Duration = Duration::from_secs(2);

/// Whether nothing of a bucket is out. Asked after a share without the bucket was published; so whoever takes messages out
/// must look at the share under the lock that this looks under.
pub(crate) type IsIdle = Arc<dyn Fn(i16) -> bool + Send + Sync>;

/// Keeps this instance's share: enters it among the instances of the app, each a third of the lease says that it lives, takes its part of
/// the buckets, and gives up what is more than that, once nothing of it is out.
///
/// The parts follow when an instance comes or goes: at once when it says so, else when its lease has run out.
/// Dropped, it leaves as by [`leave`](Self::leave), without being waited for.
pub(crate) struct Keeper {
    tasks: TaskTracker,
    messages: Arc<Notify>,
    stop: CancellationToken,
}

impl Keeper {
    /// Starts it; it publishes the share to `share`.
    pub(crate) fn start(
        leases: Arc<dyn Leases>,
        lease: Duration,
        share: watch::Sender<Share>,
        is_idle: IsIdle,
    ) -> Self {
        let listening = leases.listen();
        let messages = Arc::clone(&listening.messages);
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        // A lease of nothing would be one heartbeat after another.
        let lease = lease.max(Duration::from_millis(100));
        let keeping = Keeping {
            leases,
            lease: lease.min(crate::util::deadline::FOR_EVER),
            listening,
            is_idle,
            share,
            id: None,
            mine: Vec::new(),
            giving: Vec::new(),
            until: None,
            failures: 0,
            missed: 0,
        };
        tasks.spawn(keeping.run(stop.clone()));
        tasks.close();
        Self { tasks, messages, stop }
    }

    /// Wakes when another instance has stored messages, perhaps for this one. It may wake for nothing.
    pub(crate) fn messages(&self) -> Arc<Notify> {
        Arc::clone(&self.messages)
    }

    /// Gives up everything at once, and waits until the others know, for two seconds at most. What is still out may be sent once more.
    ///
    /// # Cancel safety
    /// Once begun, it goes on.
    pub(crate) async fn leave(&self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeper").finish_non_exhaustive()
    }
}

struct Keeping {
    leases: Arc<dyn Leases>,
    lease: Duration,
    listening: Listening,
    is_idle: IsIdle,
    share: watch::Sender<Share>,
    /// None before it is entered.
    id: Option<Uuid>,
    /// What the database says it holds.
    mine: Vec<(i16, i64)>,
    /// Those of them that it gives up.
    giving: Vec<i16>,
    until: Option<Instant>,
    /// How many looks in a row have failed.
    failures: u32,
    /// How many looks in a row have not got all they wanted.
    missed: u32,
}

impl Keeping {
    async fn run(mut self, stop: CancellationToken) {
        stop.run_until_cancelled(self.keep()).await;
        self.share.send_replace(Share::default());
        let Some(id) = self.id else { return };
        match timeout(FAREWELL, unless_it_panics(self.leases.leave(id))).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(error = %Chain(&error), "what this instance held is free when its lease has run out");
            }
            Err(_) => tracing::warn!("what this instance held is free when its lease has run out"),
        }
    }

    async fn keep(&mut self) {
        let mut next_look = Instant::now();
        loop {
            if Instant::now() >= next_look {
                next_look = self.look().await;
            }
            self.give_up().await;
            let glance = if self.giving.is_empty() { next_look } else { Instant::now() + GLANCE };
            tokio::select! {
                () = sleep_until(next_look.min(glance)) => {}
                () = self.listening.buckets.notified() => next_look = Instant::now(),
            }
        }
    }

    /// Looks around, and says when to look again.
    async fn look(&mut self) -> Instant {
        let now = Instant::now();
        let limit = self.until.and_then(|until| until.checked_duration_since(now)).unwrap_or(self.lease);
        let (error, wait) =
            match timeout(limit.min(self.interval()), unless_it_panics(self.settle_share())).await {
                Ok(Ok(wait)) => {
                    self.failures = 0;
                    return Instant::now() + wait;
                }
                Ok(Err(error)) => (Chain(&error).to_string(), self.backoff(self.failures)),
                Err(_) => ("no answer in time".to_owned(), self.backoff(self.failures)),
            };
        self.failures += 1;
        tracing::warn!(error, "cannot renew the lease on the messages of the outbox");
        let now = Instant::now();
        match self.until {
            Some(until) if until > now => until.min(now + wait),
            _ => {
                self.lose();
                now + wait
            }
        }
    }

    /// One heartbeat and what follows from what it saw; gives the time to the next.
    async fn settle_share(&mut self) -> Result<Duration, sqlx::Error> {
        let (id, sight) = loop {
            let id = match self.id {
                Some(id) => id,
                None => {
                    let id = uuid_v7(SystemTime::now());
                    // Kept before it is known to be entered: if it is not, the next heartbeat says so.
                    self.id = Some(id);
                    self.leases.join(id, self.lease).await?;
                    id
                }
            };
            let sent = Instant::now();
            match self.leases.beat(id, self.lease).await? {
                None => {
                    self.lose();
                    self.id = None;
                }
                Some(sight) if sight.next_end == Some(Duration::ZERO) => self.leases.strike_off().await?,
                Some(sight) => {
                    // The clocks need not go equally fast.
                    self.until = Some(sent + self.lease * 9 / 10);
                    break (id, sight);
                }
            }
        };
        let quota = sight.quota();
        self.mine.clone_from(&sight.mine);
        // What it was about to give up goes first.
        self.mine.sort_by_key(|(bucket, _)| self.giving.contains(bucket));
        self.giving = self.mine.iter().skip(quota).map(|(bucket, _)| *bucket).collect();
        self.publish();
        let mut wait = self.interval();
        let wanted = sight.choose(quota.saturating_sub(self.mine.len()));
        if wanted.is_empty() {
            self.missed = 0;
        } else {
            let taken = self.leases.take(id, &wanted).await?;
            tracing::debug!(?taken, quota, instances = sight.instances, "took messages to send");
            // Someone else was faster, and left others; or the one who has lost them is just at them.
            self.missed = if taken.len() < wanted.len() { self.missed + 1 } else { 0 };
            if self.missed > 0 {
                wait = self.backoff(self.missed);
            }
            self.mine.extend(taken);
            self.publish();
        }
        Ok(wait.min(sight.next_end.unwrap_or(wait)))
    }

    /// Frees what it holds over its share, as far as nothing of it is out.
    async fn give_up(&mut self) {
        let idle: Vec<i16> = self.giving.iter().copied().filter(|bucket| (self.is_idle)(*bucket)).collect();
        let (false, Some(id)) = (idle.is_empty(), self.id) else { return };
        match timeout(self.interval(), unless_it_panics(self.leases.free(id, &idle))).await {
            Ok(Ok(())) => {
                tracing::debug!(buckets = ?idle, "gave up messages that another instance is to send");
            }
            Ok(Err(error)) => tracing::warn!(error = %Chain(&error), "cannot give up messages of the outbox"),
            Err(_) => tracing::warn!("cannot give up messages of the outbox in time"),
        }
        // If they are not free, the next look shows it.
        self.giving.retain(|bucket| !idle.contains(bucket));
        self.mine.retain(|(bucket, _)| !idle.contains(bucket));
    }

    fn lose(&mut self) {
        if !self.mine.is_empty() {
            tracing::warn!(
                "the lease on the messages of the outbox has run out: other instances may send them"
            );
        }
        (self.mine, self.giving, self.until) = (Vec::new(), Vec::new(), None);
        self.publish();
    }

    fn publish(&self) {
        let kept = self.mine.iter().filter(|(bucket, _)| !self.giving.contains(bucket));
        self.share.send_replace(Share { buckets: kept.copied().collect(), until: self.until });
    }

    fn interval(&self) -> Duration {
        self.lease / 3
    }

    fn backoff(&self, times: u32) -> Duration {
        Backoff::new(self.interval() / 100, self.interval()).delay(times)
    }
}

#[cfg(test)]
mod tests;
