//! Values of headers as texts, with their types.

use crate::message::Scalar;

/// The type of a value, none for a text, and its text.
pub(super) fn typed(value: &Scalar) -> (Option<&'static str>, String) {
    match value {
        Scalar::Null => (Some("null"), String::new()),
        Scalar::Bool(value) => (Some("bool"), value.to_string()),
        Scalar::Int(value) => (Some("int"), value.to_string()),
        Scalar::Float(value) => (Some("float"), value.to_string()),
        Scalar::String(text) => (None, text.to_string()),
    }
}

/// A text as the value of this type; the text itself if it is no such value.
pub(super) fn scalar(text: &str, kind: Option<&str>) -> Scalar {
    let value = match kind {
        Some("null") => Some(Scalar::Null),
        Some("bool") => text.parse().ok().map(Scalar::Bool),
        Some("int") => text.parse().ok().map(Scalar::Int),
        Some("float") => text.parse().ok().map(Scalar::Float),
        _ => None,
    };
    value.unwrap_or_else(|| Scalar::String(text.to_owned().into()))
}
