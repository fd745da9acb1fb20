//! Times as stores write them.

use std::time::{Duration, SystemTime};

/// Seconds since 1970, and nanoseconds; exact, also before.
pub(super) fn since_epoch(time: SystemTime) -> (i64, u32) {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => (since.as_secs() as i64, since.subsec_nanos()),
        Err(before) => {
            let before = before.duration();
            let nanos = before.subsec_nanos();
            // The first second of all clocks is the negative of none.
            let seconds = (before.as_secs() as i64).wrapping_neg() - i64::from(nanos > 0);
            (seconds, if nanos > 0 { 1_000_000_000 - nanos } else { 0 })
        }
    }
}

/// None when the clock cannot show it.
pub(super) fn from_epoch((seconds, nanos): (i64, u32)) -> Option<SystemTime> {
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let time = if seconds < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(whole)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(whole)
    };
    time?.checked_add(Duration::from_nanos(u64::from(nanos)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_comes_back() {
        let epoch = SystemTime::UNIX_EPOCH;
        let (first, last) = (Duration::from_secs(1 << 63), Duration::new(i64::MAX as u64, 999_999_999));
        for time in [
            epoch.checked_sub(first),
            epoch.checked_sub(first).and_then(|time| time.checked_add(Duration::from_nanos(1))),
            epoch.checked_sub(Duration::from_nanos(1)),
            Some(epoch),
            epoch.checked_add(last),
        ] {
            let time = time.expect("the clock can show it");
            assert_eq!(from_epoch(since_epoch(time)), Some(time));
        }
        assert_eq!(from_epoch((i64::MAX, u32::MAX)), None);
    }
}
