//! Points in time, as JSON has them.

use std::time::{Duration, SystemTime};

use serde::de::{Deserialize, Deserializer, Error};
use serde::ser::Serializer;

use crate::util::error::BoxError;

/// The first second that RFC 3339 cannot write: the year 10000.
const END: Duration = Duration::from_secs(253_402_300_800);

/// RFC 3339 with nanoseconds; before 1970 and after 9999, `@` and Unix seconds.
pub(crate) fn format(time: SystemTime) -> String {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) if since < END => humantime::format_rfc3339_nanos(time).to_string(),
        Ok(since) => format!("@{}.{:09}", since.as_secs(), since.subsec_nanos()),
        Err(error) => {
            let before = error.duration();
            format!("@-{}.{:09}", before.as_secs(), before.subsec_nanos())
        }
    }
}

pub(crate) fn parse(text: &str) -> Result<SystemTime, BoxError> {
    let Some(seconds) = text.strip_prefix('@') else {
        return humantime::parse_rfc3339(text).map_err(|error| {
            format!("{text:?} is not a time ({error}); write it as 2026-01-31T12:00:00Z").into()
        });
    };
    let fault = || format!("{text:?} is not a time; after @ come Unix seconds, as @-12.5");
    let (seconds, before) = seconds.strip_prefix('-').map_or((seconds, false), |seconds| (seconds, true));
    let (whole, fraction) = seconds.split_once('.').unwrap_or((seconds, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || fraction.len() > 9 {
        return Err(fault().into());
    }
    let distance = Duration::new(whole.parse()?, format!("{fraction:0<9}").parse()?);
    let epoch = SystemTime::UNIX_EPOCH;
    let time = if before { epoch.checked_sub(distance) } else { epoch.checked_add(distance) };
    time.ok_or_else(|| fault().into())
}

pub(crate) fn serialize<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format(*time))
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SystemTime, D::Error> {
    parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
}

/// The same for what may be left out.
pub(crate) mod optional {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(
        time: &Option<SystemTime>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match time {
            Some(time) => super::serialize(time, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<SystemTime>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| parse(&text)).transpose().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_survive_the_round() {
        let epoch = SystemTime::UNIX_EPOCH;
        for (time, text) in [
            (epoch, "1970-01-01T00:00:00.000000000Z"),
            (epoch + Duration::new(1_700_000_000, 5), "2023-11-14T22:13:20.000000005Z"),
            (epoch + END - Duration::from_nanos(1), "9999-12-31T23:59:59.999999999Z"),
            (epoch + END, "@253402300800.000000000"),
            (epoch - Duration::from_nanos(1), "@-0.000000001"),
            (epoch - Duration::new(12, 500_000_000), "@-12.500000000"),
        ] {
            assert_eq!(format(time), text);
            assert_eq!(parse(text).unwrap(), time);
        }
        assert_eq!(parse("@-12.5").unwrap(), epoch - Duration::new(12, 500_000_000));
        assert_eq!(parse("@7").unwrap(), epoch + Duration::from_secs(7));
    }

    #[test]
    fn what_is_no_time_is_an_error() {
        for text in [
            "",
            "now",
            "2026-01-31",
            "@",
            "@-",
            "@1.",
            "@1.x",
            "@+1",
            "@1.0123456789",
            "@99999999999999999999",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
