//! Header values as JSON.

use serde_json::Value;

use crate::message::Scalar;

/// A value that is not a scalar, or too large for one, becomes a text of JSON.
pub(super) fn scalar(value: Value) -> Scalar {
    match value {
        Value::Null => Scalar::Null,
        Value::Bool(value) => value.into(),
        Value::String(value) => value.into(),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => whole.into(),
            (None, Some(float)) if !number.is_u64() => Scalar::Float(float),
            _ => number.to_string().into(),
        },
        Value::Array(_) | Value::Object(_) => value.to_string().into(),
    }
}
