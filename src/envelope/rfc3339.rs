//! Points in time as texts (RFC 3339).

use std::time::{Duration, SystemTime};

use crate::error::BoxError;
use crate::headers::start_of;

/// The first second that cannot be written: the year 10000.
const END: Duration = Duration::from_secs(253_402_300_800);

/// In UTC, with microseconds.
pub(super) fn write(time: SystemTime) -> Result<String, BoxError> {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) if since < END => Ok(humantime::format_rfc3339_micros(time).to_string()),
        _ => Err("the time of the message is before 1970 or after 9999".into()),
    }
}

/// Also with a blank for the `T`, and without an offset: UTC is meant then.
pub(super) fn read(text: &str) -> Result<SystemTime, BoxError> {
    let fault = || format!("{:?} is not a time, such as 2026-01-31T12:00:00Z", start_of(text, 40));
    let tail = text.len().checked_sub(6).filter(|at| *at >= 19).and_then(|at| text.split_at_checked(at));
    let (local, east, offset) = match tail {
        Some((local, offset)) if offset.starts_with(['+', '-']) => {
            (local, offset.starts_with('+'), minutes(&offset[1..]).ok_or_else(fault)?)
        }
        _ => (text, true, Duration::ZERO),
    };
    let time = humantime::parse_rfc3339_weak(&local.to_ascii_uppercase()).map_err(|_| fault())?;
    let utc = if east { time.checked_sub(offset) } else { time.checked_add(offset) };
    utc.ok_or_else(|| fault().into())
}

/// `05:30`
fn minutes(offset: &str) -> Option<Duration> {
    let (hours, minutes) = offset.split_once(':')?;
    let number =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u64>().ok())?;
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    (hours < 24 && minutes < 60).then(|| Duration::from_secs(hours * 3_600 + minutes * 60))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_peers_write_them() {
        let expected = SystemTime::UNIX_EPOCH + Duration::from_micros(1_795_240_571_788_524);
        for text in [
            "2026-11-21T05:56:11.788524Z",
            "2026-11-21t05:56:11.788524z",
            "2026-11-21 05:56:11.788524",
            "2026-11-21T05:56:11.788524+00:00",
            "2026-11-21T07:26:11.788524+01:30",
            "2026-11-20T23:56:11.788524-06:00",
        ] {
            assert_eq!(read(text).unwrap(), expected, "{text}");
        }
        assert_eq!(write(expected).unwrap(), "2026-11-21T05:56:11.788524Z");
    }

    #[test]
    fn what_is_no_time_is_an_error() {
        for text in [
            "",
            "yesterday",
            "2026-11-21",
            "2026-11-21T05:56:11+1:30",
            "2026-11-21T05:56:11+24:00",
            "☃☃☃☃☃☃☃☃☃",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
        assert!(write(SystemTime::UNIX_EPOCH - Duration::from_secs(1)).is_err());
        assert!(write(SystemTime::UNIX_EPOCH + END).is_err());
    }
}
