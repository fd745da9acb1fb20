//! Events and counters of channels.

/// An event that subscribers did not get.
pub(crate) fn channel_events_lost(channel: &str, subscribers: usize) {
    count!("tower_outbox_channels_events_lost", subscribers);
    tracing::debug!(channel, subscribers, "dropped an event; its subscribers do not keep up");
}

/// A message of a queue that expired.
pub(crate) fn channel_expired(queue: &str) {
    count!("tower_outbox_channels_dropped_total", 1, "reason" => "expired");
    tracing::debug!(queue, "dropped an expired message of a queue");
}

/// Messages of a queue that were received as often as their policy allows, and have no dead-letter queue.
pub(crate) fn channel_discarded(queue: &str, messages: usize) {
    count!("tower_outbox_channels_dropped_total", messages, "reason" => "discarded");
    tracing::warn!(
        queue,
        messages,
        "discarded messages that were received too often; their policy names no dead-letter queue"
    );
}

/// Messages that went to their dead-letter queue.
pub(crate) fn channel_dead(queue: &str, to: &str, messages: usize) {
    count!("tower_outbox_channels_dead_total", messages);
    tracing::warn!(
        queue,
        to,
        messages,
        "messages were received too often and went to their dead-letter queue"
    );
}

/// Messages or records of channels that cannot be read any more.
pub(crate) fn channel_damaged(records: u64, place: &dyn std::fmt::Display) {
    count!("tower_outbox_channels_dropped_total", records, "reason" => "damaged");
    tracing::error!(channel = %place, records, "records of the channels are damaged; messages are lost, or are delivered again");
}

/// Channels that are empty, and were not used for `MAX_INACTIVITY`.
pub(crate) fn channels_removed(channels: usize) {
    count!("tower_outbox_channels_removed_total", channels);
    tracing::info!(channels, "removed channels that are empty and were not used for MAX_INACTIVITY");
}

/// A durable name of a stream that had no subscriber for `DURABLE_MAX_INACTIVITY`.
pub(crate) fn durable_name_removed(stream: &str, name: &str) {
    count!("tower_outbox_channels_durable_names_removed_total", 1);
    tracing::warn!(
        stream,
        name,
        "removed a durable name that had no subscriber for DURABLE_MAX_INACTIVITY; a subscriber of this name begins anew"
    );
}
