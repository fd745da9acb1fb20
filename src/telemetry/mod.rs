//! Events and metrics for operators; the only place with their names.
//!
//! Events go through `tracing`, under the target `tower_outbox`. With the feature `metrics`, counters go through the `metrics`
//! facade to the recorder of the app:
//!
//! | name | kind | labels | counts |
//! |---|---|---|---|
//! | `tower_outbox_enqueued_total` | counter | – | messages enqueued by handlers |
//! | `tower_outbox_sent_total` | counter | – | messages that the messenger accepted with `Ok` |
//! | `tower_outbox_dropped_total` | counter | `reason` | messages dropped because their request failed |
//! | `tower_outbox_unsent_total` | counter | `failure` | messages that could not be sent: `transient`, `rejected`, `lost` |
//! | `tower_outbox_retried_total` | counter | – | messages sent again, to another broker or later |
//! | `tower_outbox_turned_away_total` | counter | – | requests rejected with 503 before their handler ran |
//! | `tower_outbox_stored_total` | counter | – | messages stored by an outbox |
//! | `tower_outbox_transactions_total` | counter | `outcome` | transactions of requests: `committed`, `rolled_back`, `failed` (to commit), `already_handled` (the message of the request was handled before) |
//! | `tower_outbox_confirmed_total` | counter | – | stored messages that the broker confirmed |
//! | `tower_outbox_dead_total` | counter | – | messages that became dead letters |
//! | `tower_outbox_stored_messages` | gauge | `state` | messages in the store: `pending`, `dead` |
//! | `tower_outbox_stored_bytes` | gauge | – | approximate size of the stored messages |
//! | `tower_outbox_received_total` | counter | – | messages that consumers received |
//! | `tower_outbox_handled_total` | counter | `outcome` | attempts to handle a message: `ack`, `retry`, `dead`, `not_now` (not tried, because the outbox was full), `answered` (a reply was sent), `expired` (the caller of the request no longer waited) |
//! | `tower_outbox_confirmations_received_total` | counter | `outcome` | confirmations of consumers: `confirmed`, `rejected` (the consumer made a dead letter), `late` (after `ACK_TIMEOUT`), `again`, `unknown` (of a message that does not await it; ignored), `unreadable` (ignored) |
//! | `tower_outbox_unacknowledged_total` | counter | – | messages whose confirmation did not come within `ACK_TIMEOUT`; they are sent again |
//! | `tower_outbox_confirmations_sent_total` | counter | `outcome` | answers to the senders of handled messages and of dead letters: `sent`, `failed`, `refused` (the address is not in `ACK_ALLOWED`) |
//! | `tower_outbox_handle_seconds` | histogram | – | duration of an attempt |
//! | `tower_outbox_late_replies_total` | counter | – | replies dropped because the caller no longer waited |
//! | `tower_outbox_requests_total` | counter | `outcome` | requests of clients: `replied`, `cached`, `no_reply` (in time), `no_responder`, `unavailable`, `rejected`, `bad_reply`, `refused` (before it was sent), `cancelled` |
//! | `tower_outbox_request_seconds` | histogram | – | time until a request ended |
//! | `tower_outbox_stray_replies_total` | counter | – | replies of a KubeMQ server that came too late or name no request |
//! | `tower_outbox_signatures_total` | counter | `outcome` | received messages whose signature was `verified`, that were `unsigned` and accepted, `refused`, a `copy` of a handled one, or `forgotten` (no longer remembered, so that a copy would be handled) |
//! | `tower_outbox_send_seconds` | histogram | – | time until a batch was confirmed |
//! | `tower_outbox_channels_events_lost` | counter | – | events that a subscriber did not get, since it does not keep up |
//! | `tower_outbox_channels_dropped_total` | counter | `reason` | messages of channels that are gone without an acknowledgement: `expired`, `discarded` (received too often, without a dead-letter queue), `damaged` |
//! | `tower_outbox_channels_dead_total` | counter | – | messages of queues that went to their dead-letter queue |
//! | `tower_outbox_routing_dropped_total` | counter | `reason` | messages that a router for sites dropped: `limit` (the oldest of a full queue), `removed` (with their queue, which was removed or has expired), `damaged`, `forged` (for their signature), `refused` (by the designated router) |

use std::fmt;
use std::time::Duration;

use http::StatusCode;

use crate::message::{Message, headers};
use crate::util::error::Chain;

macro_rules! count {
    ($name:literal, $n:expr $(, $label:literal => $value:expr)?) => {{
        #[cfg(feature = "metrics")]
        metrics::counter!($name $(, $label => $value)?).increment($n as u64);
        #[cfg(not(feature = "metrics"))]
        let _ = ($n, $($value)?);
    }};
}

/// Returns the value of `messaging.system` for a backend.
pub(crate) fn system(backend: &str) -> &str {
    match backend {
        "amqp091" | "fedmsg" => "rabbitmq",
        "amqp10" | "rhmsg" => "amqp",
        other => other,
    }
}

pub(crate) fn enqueued(message: &Message) {
    count!("tower_outbox_enqueued_total", 1);
    tracing::debug!(id = %message.id(), topic = %message.topic(), "enqueued a message");
}

pub(crate) fn sent(messages: usize, took: Duration) {
    count!("tower_outbox_sent_total", messages);
    #[cfg(feature = "metrics")]
    metrics::histogram!("tower_outbox_send_seconds").record(took.as_secs_f64());
    tracing::debug!(messages, ?took, "sent messages");
}

/// Messages that are not sent because their request failed.
pub(crate) fn dropped(messages: usize, reason: &'static str) {
    count!("tower_outbox_dropped_total", messages, "reason" => reason);
    tracing::info!(messages, reason, "dropped messages; the request failed");
}

/// Messages that are not sent because the status of the response is not a success.
pub(crate) fn dropped_by_status(dropped: &[Message], status: StatusCode) {
    count!("tower_outbox_dropped_total", dropped.len(), "reason" => "status");
    let (messages, status, reason, topics) = (dropped.len(), status.as_u16(), "status", Topics(dropped));
    if (300..400).contains(&status) {
        tracing::warn!(
            messages, reason, status, %topics,
            "messages dropped: a redirect is not a success; if it should be one, set SUCCESS = \"2xx,3xx\", or MessagingLayer::with_success"
        );
    } else {
        tracing::info!(messages, reason, status, %topics, "messages dropped: the response is not a success");
    }
}

/// The first topics of messages.
struct Topics<'a>(&'a [Message]);

impl fmt::Display for Topics<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 5;
        for (index, message) in self.0.iter().take(SHOWN).enumerate() {
            write!(f, "{}{}", if index > 0 { ", " } else { "" }, message.topic())?;
        }
        if self.0.len() > SHOWN { f.write_str(", ..") } else { Ok(()) }
    }
}

/// A request that was answered 503 before its handler ran.
pub(crate) fn turned_away() {
    count!("tower_outbox_turned_away_total", 1);
    tracing::debug!("rejected a request with 503; messages cannot be accepted now");
}

pub(crate) fn retried(messages: usize, cause: &dyn std::fmt::Display) {
    count!("tower_outbox_retried_total", messages);
    tracing::warn!(messages, %cause, "sending messages again");
}

/// A message that could not be sent. Its id and topic are logged, so that an operator can find its event.
pub(crate) fn unsent(message: &Message, failure: &'static str, cause: &(dyn std::error::Error + 'static)) {
    count!("tower_outbox_unsent_total", 1, "failure" => failure);
    tracing::error!(id = %message.id(), topic = %message.topic(), failure, cause = %Chain(cause), "failed to send a message; it is lost unless the app keeps it");
}

#[cfg(feature = "_sql")]
pub(crate) fn committed(messages: usize, took: Duration) {
    count!("tower_outbox_transactions_total", 1, "outcome" => "committed");
    tracing::debug!(messages, ?took, "committed a transaction");
}

/// A transaction whose request failed.
#[cfg(feature = "_sql")]
pub(crate) fn rolled_back(reason: &'static str) {
    count!("tower_outbox_transactions_total", 1, "outcome" => "rolled_back");
    tracing::info!(reason, "rolled back a transaction; the request failed");
}

/// A transaction that could not be committed though its request succeeded.
#[cfg(feature = "_sql")]
pub(crate) fn commit_failed(cause: &dyn std::fmt::Display) {
    count!("tower_outbox_transactions_total", 1, "outcome" => "failed");
    tracing::error!(%cause, "failed to commit a transaction; the client gets an error");
}

/// A message that was delivered again.
#[cfg(feature = "_sql")]
pub(crate) fn already_handled(message: &Message, source: &str) {
    count!("tower_outbox_transactions_total", 1, "outcome" => "already_handled");
    tracing::info!(id = %message.id(), topic = %message.topic(), source, "acknowledged a message that was handled before");
}

/// A received message whose signature was looked at.
#[cfg(feature = "signing")]
pub(crate) fn signature(outcome: &'static str) {
    count!("tower_outbox_signatures_total", 1, "outcome" => outcome);
}

/// A copy of a message that was handled: the same bytes with the same signature.
#[cfg(feature = "signing")]
pub(crate) fn copy_received(message: &Message, source: &str) {
    signature("copy");
    tracing::warn!(id = %message.id(), topic = %message.topic(), source, "received a copy of a handled message; acknowledged it unhandled");
}

pub(crate) fn stored(messages: usize) {
    count!("tower_outbox_stored_total", messages);
    tracing::debug!(messages, "stored messages");
}

/// The content of a store.
#[cfg(any(feature = "embedded", feature = "_sql"))]
pub(crate) fn depth(pending: u64, dead: u64, bytes: u64) {
    #[cfg(feature = "metrics")]
    {
        metrics::gauge!("tower_outbox_stored_messages", "state" => "pending").set(pending as f64);
        metrics::gauge!("tower_outbox_stored_messages", "state" => "dead").set(dead as f64);
        metrics::gauge!("tower_outbox_stored_bytes").set(bytes as f64);
    }
    #[cfg(not(feature = "metrics"))]
    let _ = (pending, dead, bytes);
}

/// Stored messages that the broker confirmed.
pub(crate) fn confirmed(messages: usize, took: Duration) {
    count!("tower_outbox_confirmed_total", messages);
    #[cfg(feature = "metrics")]
    metrics::histogram!("tower_outbox_send_seconds").record(took.as_secs_f64());
    tracing::debug!(messages, ?took, "confirmed stored messages");
}

/// A reply of a broker for which nobody waits: it came too late, or names no request.
#[cfg(feature = "kubemq-client")]
pub(crate) fn stray_reply(request: &str) {
    count!("tower_outbox_stray_replies_total", 1);
    let request = crate::message::headers::start_of(request, 40);
    tracing::debug!(request, "dropped a reply that came too late or names no request");
}

/// Received messages.
pub(crate) fn received(messages: usize) {
    count!("tower_outbox_received_total", messages);
}

/// A confirmation of a consumer.
pub(crate) fn confirmation_received(outcome: &'static str, id: &dyn fmt::Display) {
    count!("tower_outbox_confirmations_received_total", 1, "outcome" => outcome);
    tracing::debug!(%id, outcome, "received a confirmation");
}

/// A message at the address of confirmations that is none.
pub(crate) fn no_confirmation(reason: &dyn fmt::Display) {
    count!("tower_outbox_confirmations_received_total", 1, "outcome" => "unreadable");
    tracing::warn!(%reason, "ignored a message at the address of confirmations; it is no confirmation");
}

/// A message whose consumer did not confirm it in time.
pub(crate) fn unacknowledged(message: &Message) {
    count!("tower_outbox_unacknowledged_total", 1);
    tracing::debug!(id = %message.id(), topic = %message.topic(), "a message was not confirmed in time; sending it again later");
}

/// The confirmation of a handled message.
pub(crate) fn confirmation_sent(message: &Message) {
    count!("tower_outbox_confirmations_sent_total", 1, "outcome" => "sent");
    tracing::debug!(id = %message.id(), topic = %message.topic(), "confirmed a message");
}

/// A handled message that could not be confirmed.
pub(crate) fn confirmation_failed(message: &Message, cause: &dyn fmt::Display) {
    count!("tower_outbox_confirmations_sent_total", 1, "outcome" => "failed");
    tracing::warn!(id = %message.id(), topic = %message.topic(), %cause, "failed to confirm a handled message; its sender sends it again");
}

/// A handled message that is not confirmed, since the address may not be written to.
pub(crate) fn confirmation_refused(message: &Message, address: &str) {
    count!("tower_outbox_confirmations_sent_total", 1, "outcome" => "refused");
    tracing::warn!(id = %message.id(), topic = %message.topic(), address = ?headers::start_of(address, 100), "did not confirm a message: its address is not in ACK_ALLOWED");
}

/// An attempt to handle a message.
pub(crate) fn handled(outcome: &'static str, took: Duration) {
    count!("tower_outbox_handled_total", 1, "outcome" => outcome);
    #[cfg(feature = "metrics")]
    metrics::histogram!("tower_outbox_handle_seconds").record(took.as_secs_f64());
    tracing::debug!(outcome, ?took, "handled a message");
}

/// A request of a client.
pub(crate) fn requested(outcome: &'static str, took: Duration) {
    count!("tower_outbox_requests_total", 1, "outcome" => outcome);
    #[cfg(feature = "metrics")]
    metrics::histogram!("tower_outbox_request_seconds").record(took.as_secs_f64());
    tracing::debug!(outcome, ?took, "a request ended");
}

/// Replies whose callers no longer waited.
#[cfg_attr(
    not(any(feature = "channels", feature = "settings", feature = "testing")),
    allow(dead_code, reason = "only transports of requests drop any")
)]
pub(crate) fn late_reply(source: &str) {
    count!("tower_outbox_late_replies_total", 1);
    tracing::info!(source, "dropped a late reply; the caller no longer waits");
}

/// Requests that no responder handled, since their callers no longer waited.
pub(crate) fn expired_requests(requests: usize, source: &str) {
    count!("tower_outbox_handled_total", requests, "outcome" => "expired");
    tracing::info!(requests, source, "dropped requests; their callers no longer wait");
}

/// A received message, and its source, that became a dead letter; `None` if it cannot be read.
pub(crate) fn dead_received(received: Option<(&Message, &str)>, reason: &str) {
    count!("tower_outbox_dead_total", 1);
    let source = received.map(|(_, source)| source);
    let id = received.map(|(message, _)| tracing::field::display(message.id()));
    let topic = received.map(|(message, _)| tracing::field::display(message.topic()));
    tracing::error!(id, topic, source, reason, "a received message became a dead letter");
}

/// A message that became a dead letter.
pub(crate) fn dead(id: &dyn std::fmt::Display, reason: &str) {
    count!("tower_outbox_dead_total", 1);
    tracing::error!(%id, reason, "a message became a dead letter");
}

/// A stored message that expired and is dropped.
pub(crate) fn expired(message: &Message) {
    count!("tower_outbox_dropped_total", 1, "reason" => "expired");
    tracing::warn!(id = %message.id(), topic = %message.topic(), "dropped an expired message");
}

/// Stored messages dropped to make room.
#[cfg(feature = "embedded")]
pub(crate) fn overflowed(messages: usize) {
    count!("tower_outbox_dropped_total", messages, "reason" => "overflow");
    tracing::error!(messages, "dropped stored messages; the outbox was full");
}

/// Messages that were lost with their owner: a messenger that panicked, or a runtime that stopped.
pub(crate) fn lost(messages: usize, cause: &dyn std::fmt::Display) {
    count!("tower_outbox_unsent_total", messages, "failure" => "lost");
    tracing::error!(messages, %cause, "lost messages");
}

/// An event that subscribers did not get.
#[cfg(feature = "channels")]
pub(crate) fn channel_events_lost(channel: &str, subscribers: usize) {
    count!("tower_outbox_channels_events_lost", subscribers);
    tracing::debug!(channel, subscribers, "dropped an event; its subscribers do not keep up");
}

/// A message of a queue that expired.
#[cfg(feature = "channels")]
pub(crate) fn channel_expired(queue: &str) {
    count!("tower_outbox_channels_dropped_total", 1, "reason" => "expired");
    tracing::debug!(queue, "dropped an expired message of a queue");
}

/// Messages of a queue that were received as often as their policy allows, and have no dead-letter queue.
#[cfg(feature = "channels")]
pub(crate) fn channel_discarded(queue: &str, messages: usize) {
    count!("tower_outbox_channels_dropped_total", messages, "reason" => "discarded");
    tracing::warn!(
        queue,
        messages,
        "discarded messages that were received too often; their policy names no dead-letter queue"
    );
}

/// Messages that went to their dead-letter queue.
#[cfg(feature = "channels")]
pub(crate) fn channel_dead(queue: &str, to: &str, messages: usize) {
    count!("tower_outbox_channels_dead_total", messages);
    tracing::warn!(
        queue,
        to,
        messages,
        "messages were received too often and went to their dead-letter queue"
    );
}

/// Messages that a router for sites dropped.
#[cfg(feature = "routing")]
pub(crate) fn routing_dropped(reason: &'static str, messages: usize) {
    count!("tower_outbox_routing_dropped_total", messages, "reason" => reason);
}

/// Messages or records of channels that cannot be read any more.
#[cfg(feature = "channels")]
pub(crate) fn channel_damaged(records: u64, place: &dyn std::fmt::Display) {
    count!("tower_outbox_channels_dropped_total", records, "reason" => "damaged");
    tracing::error!(channel = %place, records, "records of the channels are damaged; messages are lost, or are delivered again");
}
