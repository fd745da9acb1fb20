//! What an outbox tells about itself.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::store::Counts;

/// How an outbox fares.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct OutboxStatus {
    /// Where it is stored.
    pub place: String,
    /// How much is stored.
    #[serde(flatten)]
    pub counts: Counts,
    /// Messages stored a second, over the last minute.
    pub stored_per_second: f64,
    /// Messages confirmed a second, over the last minute.
    pub confirmed_per_second: f64,
    /// Whether the relay sends.
    pub breaker: Breaker,
    /// The last failure of sending, and when it was.
    pub last_error: Option<(SystemTime, String)>,
}

/// Whether the relay sends, or waits for the bus to come back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Breaker {
    /// It sends.
    #[default]
    Closed,
    /// Nothing could leave: it asks the bus now and then, and sends nothing.
    Open {
        /// Since when.
        since: SystemTime,
        /// When it asks again.
        next_probe: SystemTime,
    },
    /// The bus answers again: one message goes first.
    HalfOpen,
}

/// What the outbox, its relay and its handle share.
#[derive(Default)]
pub(super) struct Status {
    pub(super) stored: Rate,
    pub(super) confirmed: Rate,
    breaker: Mutex<Breaker>,
    /// When the breaker opened that is not closed yet.
    opened: Mutex<Option<SystemTime>>,
    last_error: Mutex<Option<(SystemTime, String)>>,
    down: Mutex<Option<String>>,
}

impl Status {
    /// The relay does not work, for this reason; or it does.
    pub(super) fn set_down(&self, reason: Option<String>) {
        *lock(&self.down) = reason;
    }

    /// Why the relay does not work.
    pub(super) fn down(&self) -> Option<String> {
        lock(&self.down).clone()
    }

    pub(super) fn failed(&self, error: String) {
        *lock(&self.last_error) = Some((SystemTime::now(), error));
    }

    /// Opens the breaker, or keeps it open.
    pub(super) fn open_breaker(&self, next_probe: SystemTime) {
        let since = *lock(&self.opened).get_or_insert_with(SystemTime::now);
        *lock(&self.breaker) = Breaker::Open { since, next_probe };
    }

    pub(super) fn set_breaker(&self, breaker: Breaker) {
        if breaker == Breaker::Closed {
            *lock(&self.opened) = None;
        }
        *lock(&self.breaker) = breaker;
    }

    pub(super) fn snapshot(&self, place: String, counts: Counts) -> OutboxStatus {
        OutboxStatus {
            place,
            counts,
            stored_per_second: self.stored.per_second(),
            confirmed_per_second: self.confirmed.per_second(),
            breaker: lock(&self.breaker).clone(),
            last_error: lock(&self.last_error).clone(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counts over the last minute.
pub(super) struct Rate(Mutex<Seconds>);

struct Seconds {
    begun: Instant,
    /// The second that was counted last.
    last: u64,
    counts: [u64; 60],
}

impl Default for Rate {
    fn default() -> Self {
        Self(Mutex::new(Seconds { begun: Instant::now(), last: 0, counts: [0; 60] }))
    }
}

impl Rate {
    pub(super) fn add(&self, count: usize) {
        let mut seconds = lock(&self.0);
        seconds.advance();
        let last = seconds.last;
        seconds.counts[(last % 60) as usize] += count as u64;
    }

    fn per_second(&self) -> f64 {
        let mut seconds = lock(&self.0);
        seconds.advance();
        let over = seconds.begun.elapsed().clamp(Duration::from_secs(1), Duration::from_secs(60));
        seconds.counts.iter().sum::<u64>() as f64 / over.as_secs_f64()
    }
}

impl Seconds {
    fn advance(&mut self) {
        let now = self.begun.elapsed().as_secs();
        for second in (self.last + 1)..=now.min(self.last + 60) {
            self.counts[(second % 60) as usize] = 0;
        }
        self.last = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_rate_forgets_what_is_older_than_a_minute() {
        let rate = Rate::default();
        rate.add(120);
        assert_eq!(rate.per_second(), 120.0);
        tokio::time::advance(Duration::from_secs(30)).await;
        rate.add(30);
        assert_eq!(rate.per_second(), 5.0);
        tokio::time::advance(Duration::from_secs(45)).await;
        assert_eq!(rate.per_second(), 0.5);
        tokio::time::advance(Duration::from_secs(3_600)).await;
        assert_eq!(rate.per_second(), 0.0);
    }
}
