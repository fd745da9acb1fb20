//! Points in time as texts (RFC 3339).

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use crate::util::error::BoxError;

/// The first second that cannot be written: the year 10000.
const END: Duration = Duration::from_secs(253_402_300_800);

/// The calendar repeats itself after 400 years. Times before 1970 are read and written as those of 2,000 years later.
const LATER: u64 = 2_000;
const LATER_BY: Duration = Duration::from_secs(LATER / 400 * 146_097 * 86_400);

/// In UTC, with microseconds.
pub(crate) fn write(time: SystemTime) -> Result<String, BoxError> {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) if since < END => Ok(humantime::format_rfc3339_micros(time).to_string()),
        Ok(_) => Err(OUT_OF_RANGE.into()),
        Err(_) => {
            let later = time.checked_add(LATER_BY).filter(|later| *later >= SystemTime::UNIX_EPOCH);
            let text = humantime::format_rfc3339_micros(later.ok_or(OUT_OF_RANGE)?).to_string();
            let year = text[..4].parse::<u64>()?.checked_sub(LATER).ok_or(OUT_OF_RANGE)?;
            Ok(format!("{year:04}{}", &text[4..]))
        }
    }
}

const OUT_OF_RANGE: &str = "the time of the message is before the year 0 or after 9999";

/// Also with a blank for the `T`, and without an offset: UTC is meant then.
pub(crate) fn read(text: &str) -> Result<SystemTime, BoxError> {
    let fault = || {
        let start: String = text.chars().take(40).collect();
        format!("{start:?} is not a time, such as 2026-01-31T12:00:00Z")
    };
    let tail = text.len().checked_sub(6).filter(|at| *at >= 19).and_then(|at| text.split_at_checked(at));
    let (local, east, offset) = match tail {
        Some((local, offset)) if offset.starts_with(['+', '-']) => {
            (local, offset.starts_with('+'), minutes(&offset[1..]).ok_or_else(fault)?)
        }
        _ => (text, true, Duration::ZERO),
    };
    let has_lowercase = local.bytes().any(|byte| byte.is_ascii_lowercase());
    let local = if has_lowercase { Cow::Owned(local.to_ascii_uppercase()) } else { Cow::Borrowed(local) };
    let time = local_time(&local).ok_or_else(fault)?;
    let utc = if east { time.checked_sub(offset) } else { time.checked_add(offset) };
    utc.ok_or_else(|| fault().into())
}

fn local_time(text: &str) -> Option<SystemTime> {
    match text.get(..4).filter(|year| year.bytes().all(|byte| byte.is_ascii_digit()))?.parse::<u64>().ok()? {
        1970.. => humantime::parse_rfc3339_weak(text).ok(),
        year => {
            let later = humantime::parse_rfc3339_weak(&format!("{}{}", year + LATER, &text[4..])).ok()?;
            later.checked_sub(LATER_BY)
        }
    }
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
    fn times_before_1970_are_read_and_written() {
        let epoch = SystemTime::UNIX_EPOCH;
        for (text, before) in [
            ("1969-12-31T23:59:59.999999Z", Duration::from_micros(1)),
            ("1969-07-20T20:17:40.000000Z", Duration::from_secs(14_182_940)),
            ("1904-02-29T00:00:00.000000Z", Duration::from_secs(2_077_747_200)),
            ("0000-01-01T00:00:00.000000Z", Duration::from_secs(62_167_219_200)),
        ] {
            assert_eq!(read(text).unwrap(), epoch - before, "{text}");
            assert_eq!(write(epoch - before).unwrap(), text);
        }
        assert_eq!(read("1970-01-01T00:30:00+01:00").unwrap(), epoch - Duration::from_secs(1_800));
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
        assert!(read("+969-07-20T20:17:40Z").is_err());
        assert!(write(read("0000-01-01T00:00:00Z").unwrap() - Duration::from_secs(1)).is_err());
        assert!(write(SystemTime::UNIX_EPOCH + END).is_err());
    }
}
