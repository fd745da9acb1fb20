//! A count over the last minute.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How many minutes are counted one by one.
pub(crate) const MINUTES: usize = 60;

/// Counts over the last minute, and of each minute of the last hour.
pub(crate) struct Rate(Mutex<Seconds>);

struct Seconds {
    begun: Instant,
    /// The second that was counted last.
    last: u64,
    counts: [u64; 60],
    minutes: [u64; MINUTES],
}

impl Default for Rate {
    fn default() -> Self {
        Self(Mutex::new(Seconds { begun: Instant::now(), last: 0, counts: [0; 60], minutes: [0; MINUTES] }))
    }
}

impl Rate {
    pub(crate) fn add(&self, count: usize) {
        let mut seconds = self.lock();
        seconds.advance();
        let last = seconds.last;
        seconds.counts[(last % 60) as usize] += count as u64;
        seconds.minutes[(last / 60) as usize % MINUTES] += count as u64;
    }

    /// Returns the counts of the last hour, a minute each, oldest first. The last one is of the current minute.
    #[cfg(feature = "admin")]
    pub(crate) fn by_minute(&self) -> Vec<u64> {
        let mut seconds = self.lock();
        seconds.advance();
        let current = (seconds.last / 60) as usize;
        (1..=MINUTES).map(|minute| seconds.minutes[(current + minute) % MINUTES]).collect()
    }

    pub(crate) fn per_second(&self) -> f64 {
        let mut seconds = self.lock();
        seconds.advance();
        let over = seconds.begun.elapsed().clamp(Duration::from_secs(1), Duration::from_secs(60));
        seconds.counts.iter().sum::<u64>() as f64 / over.as_secs_f64()
    }

    fn lock(&self) -> MutexGuard<'_, Seconds> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seconds {
    fn advance(&mut self) {
        let now = self.begun.elapsed().as_secs();
        for second in (self.last + 1)..=now.min(self.last + 60) {
            self.counts[(second % 60) as usize] = 0;
        }
        for minute in (self.last / 60 + 1)..=(now / 60).min(self.last / 60 + MINUTES as u64) {
            self.minutes[minute as usize % MINUTES] = 0;
        }
        self.last = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_rate_covers_the_last_minute() {
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

    #[cfg(feature = "admin")]
    #[tokio::test(start_paused = true)]
    async fn minutes_are_counted_one_by_one_for_an_hour() {
        let rate = Rate::default();
        rate.add(7);
        tokio::time::advance(Duration::from_secs(90)).await;
        rate.add(2);
        let minutes = rate.by_minute();
        assert_eq!((minutes.len(), &minutes[MINUTES - 3..]), (MINUTES, &[0, 7, 2][..]));
        tokio::time::advance(Duration::from_secs(59 * 60)).await;
        assert_eq!(rate.by_minute()[0], 2);
        tokio::time::advance(Duration::from_secs(10 * 3_600)).await;
        assert_eq!(rate.by_minute(), [0; MINUTES]);
    }
}
