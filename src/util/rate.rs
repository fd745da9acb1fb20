//! A count over the last minute.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Counts over the last minute.
pub(crate) struct Rate(Mutex<Seconds>);

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
    pub(crate) fn add(&self, count: usize) {
        let mut seconds = self.lock();
        seconds.advance();
        let last = seconds.last;
        seconds.counts[(last % 60) as usize] += count as u64;
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
}
