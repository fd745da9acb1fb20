//! The operations of operators.

use std::convert::Infallible;

use axum::extract::FromRequestParts;
use http::HeaderName;
use http::request::Parts;

use super::operator::Operator;
use crate::outbox::OutboxHandle;
use crate::store::{Filter, OperationRecord};
use crate::util::error::Chain;
use crate::util::readable::count;

/// The header in which a client of the JSON API says who acts, if the app does not: percent-encoded UTF-8.
pub(crate) const OPERATOR: HeaderName = HeaderName::from_static("tower-outbox-operator");

/// The longest name that a client may give, in characters.
const LONGEST: usize = 200;

/// The name of the operator: the app says it, or else the client.
pub(super) struct By(Option<String>);

impl By {
    pub(super) fn name(&self) -> Option<String> {
        self.0.clone()
    }
}

impl<S: Sync> FromRequestParts<S> for By {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        if let Some(operator) = parts.extensions.get::<Operator>() {
            return Ok(Self(Some(operator.to_string())));
        }
        let claimed = parts.headers.get(OPERATOR).map(|name| decoded(name.as_bytes()));
        Ok(Self(claimed.filter(|name| !name.is_empty()).map(|name| format!("{name} (by its own word)"))))
    }
}

fn decoded(name: &[u8]) -> String {
    String::from_utf8_lossy(&crate::util::percent::decoded(name)).chars().take(LONGEST).collect()
}

/// Logs an operation, and keeps it with the store. It has happened: a store that cannot keep it is only reported.
pub(super) async fn record(outbox: &OutboxHandle, by: &By, action: &str, messages: usize, which: String) {
    log(by, action, messages, &which);
    let record = OperationRecord::new(action, messages as u64, which, by.0.clone());
    if let Err(error) = outbox.record_operation(&record).await {
        tracing::error!(error = %Chain(&error), action, messages, "failed to keep a record of an operation, which was done");
    }
}

/// Returns which messages an operation touched, for people: `which` is a filter as JSON, or a text.
pub(super) fn readable(which: &str, messages: u64) -> String {
    match serde_json::from_str::<Filter>(which) {
        Ok(filter) => format!("{filter}, {}", count(messages, "message")),
        Err(_) if messages == 0 => which.to_owned(),
        Err(_) => format!("{which}, {}", count(messages, "message")),
    }
}

/// Logs an operation.
pub(super) fn log(by: &By, action: &str, messages: usize, which: &str) {
    let by = by.0.as_deref().unwrap_or("nobody named");
    tracing::info!(messages, which, by, "{action} of messages by an operator");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_is_described_for_people() {
        let which = r#"{"state":"dead","topic":"user.created"}"#;
        assert_eq!(readable(which, 12_639), "state dead, topic user.created, 12,639 messages");
        assert_eq!(readable("selected, at 7", 1), "selected, at 7, 1 message");
        assert_eq!(readable("the consumer users", 0), "the consumer users");
    }

    #[test]
    fn a_name_is_decoded() {
        for (text, name) in
            [("jo", "jo"), ("J%C3%B6", "Jö"), ("100%", "100%"), ("%zz%2", "%zz%2"), ("%ff", "\u{fffd}")]
        {
            assert_eq!(decoded(text.as_bytes()), name, "{text}");
        }
        assert_eq!(decoded(&[b'x'; 1_000]).len(), LONGEST);
    }
}
