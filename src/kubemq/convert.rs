//! From the types of the engine to those of the wire.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::SystemTime;

use md5::{Digest, Md5};

use crate::channels::{ChannelName, Event, Policy, QueueDelivery, Sent, StreamMessage};
use crate::kubemq_wire as wire;

/// Nanoseconds since 1970.
pub(super) fn nanos(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

fn optional_nanos(time: Option<SystemTime>) -> i64 {
    time.map_or(0, nanos)
}

pub(super) fn tags(tags: Vec<(String, String)>) -> BTreeMap<String, String> {
    tags.into_iter().collect()
}

pub(super) fn sent(message_id: String, sent: &Sent) -> wire::SendQueueMessageResult {
    wire::SendQueueMessageResult {
        message_id,
        sent_at: nanos(sent.time),
        expiration_at: optional_nanos(sent.expires_at),
        delayed_to: optional_nanos(sent.delayed_to),
        is_error: false,
        error: String::new(),
    }
}

pub(super) fn not_sent(message_id: String, error: String) -> wire::SendQueueMessageResult {
    wire::SendQueueMessageResult { message_id, is_error: true, error, ..Default::default() }
}

pub(super) fn delivery(queue: &ChannelName, delivery: QueueDelivery) -> wire::QueueMessage {
    let attributes = wire::QueueMessageAttributes {
        timestamp: nanos(delivery.time),
        sequence: delivery.sequence,
        md5_of_body: md5(&delivery.content.body),
        receive_count: i32::try_from(delivery.receives).unwrap_or(i32::MAX),
        re_routed: delivery.rerouted_from.is_some(),
        re_routed_from_queue: delivery.rerouted_from.map(|queue| queue.to_string()).unwrap_or_default(),
        expiration_at: optional_nanos(delivery.expires_at),
        delayed_to: 0,
    };
    let content = delivery.content;
    wire::QueueMessage {
        message_id: content.id,
        client_id: content.client,
        channel: queue.to_string(),
        metadata: content.metadata,
        body: content.body,
        tags: tags(content.tags),
        attributes: Some(attributes),
        policy: Some(policy(delivery.policy)),
    }
}

fn policy(policy: Policy) -> wire::QueueMessagePolicy {
    wire::QueueMessagePolicy {
        expiration_seconds: i32::try_from(policy.expiry.as_secs()).unwrap_or(i32::MAX),
        delay_seconds: 0,
        max_receive_count: i32::try_from(policy.max_receives).unwrap_or(i32::MAX),
        max_receive_queue: policy.dead_letter.map(|queue| queue.to_string()).unwrap_or_default(),
    }
}

pub(super) fn event(event: Event) -> wire::EventReceive {
    wire::EventReceive {
        event_id: event.content.id,
        channel: event.channel.to_string(),
        metadata: event.content.metadata,
        body: event.content.body,
        timestamp: nanos(event.time),
        sequence: 0,
        tags: tags(event.content.tags),
    }
}

pub(super) fn stored_event(channel: &ChannelName, message: StreamMessage) -> wire::EventReceive {
    let StreamMessage { content, sequence, time, .. } = message;
    let event = Event::new(channel.clone(), content, time);
    wire::EventReceive { sequence, ..self::event(event) }
}

fn md5(body: &[u8]) -> String {
    let mut text = String::with_capacity(32);
    for byte in Md5::digest(body) {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_digest_is_that_of_md5sum() {
        assert_eq!(super::md5(b""), "d41d8cd98f00b204e9800998ecf8427e");
    }
}
