//! The header `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header-07).

use http::{HeaderName, Request};
use uuid::Uuid;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The longest key, in bytes.
const MAX: usize = 255;

/// The request has the header with an invalid key.
pub(crate) struct BadKey;

/// Returns the seed of the message ids of a request; `None` without a key.
pub(crate) fn seed<B>(request: &Request<B>) -> Result<Option<Uuid>, BadKey> {
    let mut keys = request.headers().get_all(IDEMPOTENCY_KEY).iter();
    let Some(key) = keys.next() else { return Ok(None) };
    let key = key.to_str().ok().and_then(unquoted).filter(|_| keys.next().is_none());
    let Some(key) = key else {
        tracing::debug!("rejected a request with an invalid Idempotency-Key");
        return Err(BadKey);
    };
    // Neither a method nor a path contains a line feed.
    let name = format!("{}\n{}\n{key}", request.method(), request.uri().path());
    Ok(Some(Uuid::new_v5(&Uuid::NAMESPACE_URL, name.as_bytes())))
}

/// A string of a structured field (RFC 8941, 3.3.3), or as many clients send it, without quotes.
fn unquoted(value: &str) -> Option<&str> {
    let value = value.trim();
    let key = value.strip_prefix('"').map_or(Some(value), |rest| rest.strip_suffix('"'))?;
    let is_key = (1..=MAX).contains(&key.len()) && key.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    is_key.then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_text_with_or_without_quotes() {
        let long = "x".repeat(MAX);
        for (value, key) in [("\"a b\"", "a b"), ("a", "a"), (" a ", "a"), (long.as_str(), long.as_str())] {
            assert_eq!(unquoted(value), Some(key), "{value}");
        }
        for value in ["", "\"\"", "\"", "\"a", "a\tb", "ü", "x".repeat(MAX + 1).as_str()] {
            assert_eq!(unquoted(value), None, "{value}");
        }
    }
}
