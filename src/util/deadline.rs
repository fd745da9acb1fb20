//! Points in time after a wait of any length.

use std::ops::Add;
use std::time::Duration;

/// The longest wait: a century, which every clock can represent.
pub(crate) const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// Returns the time after a wait, which is cut to a century.
pub(crate) fn after<T: Add<Duration, Output = T>>(time: T, wait: Duration) -> T {
    time + wait.min(FOR_EVER)
}

#[cfg(test)]
mod tests {
    use std::time::{Instant, SystemTime};

    use super::*;

    #[test]
    fn no_wait_is_too_long() {
        let now = Instant::now();
        assert_eq!(after(now, Duration::from_secs(7)), now + Duration::from_secs(7));
        assert!(after(now, Duration::MAX) > now);
        assert!(after(SystemTime::now(), Duration::MAX) > SystemTime::now());
        assert!(after(tokio::time::Instant::now(), Duration::MAX) > tokio::time::Instant::now());
    }
}
