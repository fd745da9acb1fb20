//! Delays between attempts.

use std::time::Duration;

/// Exponential backoff with full jitter: a random share of `base * 2^attempt`, at most `max`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    base: Duration,
    max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { base: Duration::from_millis(100), max: Duration::from_secs(5) }
    }
}

impl Backoff {
    pub(crate) fn with_max(max: Duration) -> Self {
        Self { max, ..Self::default() }
    }

    pub(crate) fn new(base: Duration, max: Duration) -> Self {
        Self { base, max }
    }

    pub(crate) fn delay(&self, attempt: u32) -> Duration {
        self.ceiling(attempt).mul_f64(rand::random())
    }

    /// The longest delay.
    pub(crate) fn ceiling(&self, attempt: u32) -> Duration {
        2_u32
            .checked_pow(attempt)
            .and_then(|factor| self.base.checked_mul(factor))
            .map_or(self.max, |d| d.min(self.max))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ceiling_doubles_up_to_the_maximum() {
        let ceilings: Vec<_> =
            (0..8).map(|attempt| Backoff::default().ceiling(attempt).as_millis()).collect();
        assert_eq!(ceilings, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(Backoff::default().ceiling(u32::MAX), Duration::from_secs(5));
    }

    #[test]
    fn the_delay_is_spread_below_the_ceiling() {
        let delays: Vec<_> = (0..100).map(|_| Backoff::default().delay(3)).collect();
        assert!(delays.iter().all(|delay| *delay < Duration::from_millis(800)));
        assert!(delays.iter().min() != delays.iter().max());
    }
}
