//! The value of a message header, as JSON.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::message::Scalar;
use crate::util::error::BoxError;

/// The value of a header, with its type.
#[derive(Clone, Debug)]
pub(crate) struct Header(pub(crate) Scalar);

/// A float that JSON cannot write as a number.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NotFinite {
    float: String,
}

impl Serialize for Header {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            Scalar::Null => serializer.serialize_unit(),
            Scalar::Bool(value) => serializer.serialize_bool(*value),
            Scalar::Int(value) => serializer.serialize_i64(*value),
            Scalar::Float(value) if value.is_finite() => serializer.serialize_f64(*value),
            Scalar::Float(value) => NotFinite { float: value.to_string() }.serialize(serializer),
            Scalar::String(value) => serializer.serialize_str(value),
        }
    }
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // From the text, since serde_json may read a float one off in its last digit.
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        Self::parse(raw.get()).map_err(D::Error::custom)
    }
}

impl Header {
    /// Parses a JSON scalar.
    pub(crate) fn parse(json: &str) -> Result<Self, BoxError> {
        let text = json.trim();
        Ok(Self(match text {
            "null" => Scalar::Null,
            "true" => true.into(),
            "false" => false.into(),
            _ if text.starts_with('"') => serde_json::from_str::<String>(text)?.into(),
            _ if text.starts_with('{') => {
                let value: NotFinite = serde_json::from_str(text)?;
                value.float.parse::<f64>()?.into()
            }
            _ if text.starts_with('[') => {
                return Err("a header is a text, a number, true, false or null".into());
            }
            _ if text.contains(['.', 'e', 'E']) => text.parse::<f64>()?.into(),
            _ => text.parse::<i64>().map_err(|_| format!("the header {text} is out of range"))?.into(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Floats of every magnitude, bit for bit.
    #[test]
    fn floats_are_exact() {
        let mut bits = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..10_000 {
            bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let float = f64::from_bits(bits);
            let text = serde_json::to_string(&Header(Scalar::Float(float))).unwrap();
            let Header(Scalar::Float(read)) = serde_json::from_str(&text).unwrap() else { panic!("{text}") };
            assert!(read.to_bits() == bits || float.is_nan() && read.is_nan(), "{text}");
        }
    }
}
