//! Messages of a queue, as they are written and received.

use async_nats::HeaderMap;

use super::wire::{self, POLICY, QueuePolicy};
use crate::channels::content::Content;
use crate::channels::error::EngineError;
use crate::channels::queue_types::QueueDelivery;

/// A word that no other message of a queue has.
pub(super) fn new_word() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// The headers of a message of a queue.
pub(super) fn headers(message: &Content, policy: &QueuePolicy) -> Result<HeaderMap, EngineError> {
    let mut headers = HeaderMap::new();
    wire::write_content(&mut headers, message)?;
    wire::insert(&mut headers, POLICY, policy)?;
    Ok(headers)
}

/// Adds to the headers of a message what makes it visible now.
pub(super) fn visible(mut headers: HeaderMap, id: &str, policy: &QueuePolicy) -> HeaderMap {
    headers.insert("Nats-Msg-Id", id);
    if let Some(ttl) = policy.ttl() {
        headers.insert("Nats-TTL", ttl.as_str());
    }
    headers
}

/// A message of a queue, as it is received.
pub(super) fn delivery(content: Content, policy: &QueuePolicy, sequence: u64, stored: u64) -> QueueDelivery {
    // A message of another program has no time of its own.
    let time = if policy.time == 0 { stored } else { policy.time };
    let receives = policy.receives.saturating_add(1);
    let (rerouted_from, expires_at) = (policy.rerouted_from(), wire::optional(policy.expires));
    let delivery = QueueDelivery::new(
        content,
        policy.policy(),
        sequence,
        wire::time(time),
        receives,
        rerouted_from,
        expires_at,
    );
    QueueDelivery { redelivered: policy.receives > 0, ..delivery }
}
