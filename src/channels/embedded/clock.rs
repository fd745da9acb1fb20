//! Wall-clock times as nanoseconds since 1970, as they are stored.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Returns the time now.
pub(super) fn now() -> u64 {
    nanos(SystemTime::now())
}

/// Times before 1970 count as 1970, and times after 2554 as 2554.
pub(super) fn nanos(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, span)
}

pub(super) fn time(nanos: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(nanos)
}

/// Returns the time, or `None` for 0.
pub(super) fn optional(nanos: u64) -> Option<SystemTime> {
    (nanos > 0).then(|| time(nanos))
}

/// Returns the nanoseconds of a duration.
pub(super) fn span(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Returns the time after a duration; 0 if the duration is zero.
pub(super) fn after(now: u64, duration: Duration) -> u64 {
    if duration.is_zero() { 0 } else { now.saturating_add(span(duration)) }
}
