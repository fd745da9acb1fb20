//! Durations, sizes and choices as people write them in settings.

use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error};

#[derive(serde::Deserialize)]
#[serde(untagged, expecting = "it must be a number, or a text such as \"30s\" or \"8MiB\"")]
enum Written {
    Whole(u64),
    Fraction(f64),
    Text(String),
}

/// A duration: `"30s"`, `"1d"`, or plain seconds.
pub(crate) fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let fault = not_a_duration;
    let seconds =
        |seconds: f64| Duration::try_from_secs_f64(seconds).map_err(|error| fault(&seconds, &error));
    match Written::deserialize(deserializer)? {
        Written::Whole(seconds) => Ok(Duration::from_secs(seconds)),
        Written::Fraction(number) => seconds(number),
        Written::Text(text) => match text.parse::<f64>() {
            Ok(number) => seconds(number),
            Err(_) => humantime::parse_duration(&text).map_err(|error| fault(&text, &error)),
        },
    }
}

fn not_a_duration<E: Error>(written: &dyn std::fmt::Debug, error: &dyn std::fmt::Display) -> E {
    E::custom(format!("{written:?} is not a duration ({error}); write \"30s\" or plain seconds"))
}

/// As [`duration`], for an optional key.
pub(crate) fn optional_duration<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Duration>, D::Error> {
    duration(deserializer).map(Some)
}

/// A size below 4 GiB: `"64MiB"` or plain bytes.
#[cfg(feature = "settings")]
pub(crate) fn size_u32<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let size = size(deserializer)?;
    u32::try_from(size).map_err(|_| D::Error::custom("a size must be below 4GiB"))
}

/// One word of several, in any case; the error lists them.
pub(crate) fn word<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    let word = String::deserialize(deserializer)?.to_lowercase();
    T::deserialize(serde::de::value::StringDeserializer::new(word))
}

/// As [`size`], for sizes that may exceed memory.
#[cfg(feature = "settings")]
pub(crate) fn size_u64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    size(deserializer).map(|size| size as u64)
}

/// `"8MiB"` or plain bytes.
#[cfg(any(feature = "settings", feature = "_brokers"))]
pub(crate) fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    let bytes = match Written::deserialize(deserializer)? {
        Written::Whole(bytes) => bytes,
        Written::Fraction(bytes) => {
            return Err(D::Error::custom(format!("{bytes} is not a whole number of bytes")));
        }
        Written::Text(text) => text
            .parse::<bytesize::ByteSize>()
            .map_err(|error| {
                D::Error::custom(format!("{text:?} is not a size ({error}); write \"8MiB\" or plain bytes"))
            })?
            .as_u64(),
    };
    // A number with too many digits is parsed as the largest number.
    match usize::try_from(bytes) {
        Ok(bytes) if (bytes as u64) < u64::MAX => Ok(bytes),
        _ => Err(D::Error::custom("a size must be below 16EiB; write \"8MiB\" or plain bytes")),
    }
}

/// A list, or one text with commas or blanks between.
pub(crate) fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(serde::Deserialize)]
    #[serde(untagged)]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }
    Ok(match OneOrMany::deserialize(deserializer)? {
        OneOrMany::One(texts) => {
            texts.split([',', ' ']).filter(|text| !text.is_empty()).map(str::to_owned).collect()
        }
        OneOrMany::Many(texts) => texts,
    })
}

#[cfg(all(test, feature = "settings"))]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn durations_are_readable_or_plain_seconds() {
        for (written, seconds) in [
            (json!("30s"), 30.0),
            (json!("1d"), 86_400.0),
            (json!(5), 5.0),
            (json!("5"), 5.0),
            (json!(0.5), 0.5),
            (json!("250ms"), 0.25),
        ] {
            assert_eq!(duration(&written).unwrap().as_secs_f64(), seconds);
        }
        let error = duration(&json!("soon")).unwrap_err().to_string();
        assert!(error.contains("30s"), "{error}");
        assert!(duration(&json!(-1)).is_err());
    }

    #[test]
    fn sizes_are_readable_or_plain_bytes() {
        for (written, bytes) in
            [(json!("8MiB"), 8 << 20), (json!(300), 300), (json!("300"), 300), (json!("1kB"), 1_000)]
        {
            assert_eq!(size(&written).unwrap(), bytes);
        }
        assert!(size(&json!("big")).unwrap_err().to_string().contains("8MiB"));
        assert!(size_u32(&json!("8GiB")).is_err());
    }
}
