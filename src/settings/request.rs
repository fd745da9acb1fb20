//! The table `REQUEST`: limits of requests.

use serde::Deserialize;

/// Limits on the messages of one request, and of all requests that are being sent.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct RequestSettings {
    /// How many messages one request may enqueue; 1,000 by default.
    pub max_messages: usize,
    /// How many bytes the messages of one request may hold; 8 MiB by default.
    #[serde(deserialize_with = "crate::util::units::size")]
    pub max_bytes: usize,
    /// How many messages of all requests may be in flight at a time; 10,000 by default. See
    /// [`MessagingLayer::with_max_messages_in_flight`](crate::layer::MessagingLayer::with_max_messages_in_flight).
    pub max_messages_in_flight: usize,
    /// How many bytes the messages in flight may hold; 64 MiB by default.
    #[serde(deserialize_with = "crate::util::units::size")]
    pub max_bytes_in_flight: usize,
    /// Whether message ids are derived from the header `Idempotency-Key`; false by default. See
    /// [`MessagingLayer::with_idempotency_key`](crate::layer::MessagingLayer::with_idempotency_key).
    pub idempotency_key: bool,
}

impl Default for RequestSettings {
    fn default() -> Self {
        Self {
            max_messages: 1_000,
            max_bytes: 8 << 20,
            max_messages_in_flight: 10_000,
            max_bytes_in_flight: 64 << 20,
            idempotency_key: false,
        }
    }
}
