//! What operators see: one place for the names of events, counters and histograms.
//!
//! Events go through `tracing`, under the target `tower_outbox`. With the feature `metrics`, numbers go
//! through the `metrics` facade to whatever recorder the app installs:
//!
//! | name | kind | labels | counts |
//! |---|---|---|---|
//! | `tower_outbox_enqueued_total` | counter | – | messages enqueued by handlers |
//! | `tower_outbox_sent_total` | counter | – | messages the messenger answered `Ok` for |
//! | `tower_outbox_dropped_total` | counter | `reason` | messages dropped because their request did not succeed |
//! | `tower_outbox_unsent_total` | counter | `failure` | messages given up on: `transient`, `rejected`, `lost` |
//! | `tower_outbox_retried_total` | counter | – | messages sent once more, to another broker or later |
//! | `tower_outbox_turned_away_total` | counter | – | requests answered 503 before their handler ran |
//! | `tower_outbox_stored_total` | counter | – | messages stored by an outbox |
//! | `tower_outbox_transactions_total` | counter | `outcome` | transactions of requests: `committed`, `rolled_back`, `failed` (to commit), `already_handled` (the message of the request was handled before) |
//! | `tower_outbox_confirmed_total` | counter | – | stored messages the bus has confirmed |
//! | `tower_outbox_dead_total` | counter | – | messages given up on: dead letters |
//! | `tower_outbox_stored_messages` | gauge | `state` | messages in the store: `pending`, `dead` |
//! | `tower_outbox_stored_bytes` | gauge | – | about how many bytes they have |
//! | `tower_outbox_received_total` | counter | – | messages a source gave a consumer |
//! | `tower_outbox_handled_total` | counter | `outcome` | attempts to handle one: `ack`, `retry`, `dead`, `not_now` (not tried, as its own messages could not be kept) |
//! | `tower_outbox_handle_seconds` | histogram | – | how long an attempt took |
//! | `tower_outbox_send_seconds` | histogram | – | how long a batch took to be confirmed |

use std::time::Duration;

use crate::message::Message;
use crate::util::error::Chain;

macro_rules! count {
    ($name:literal, $n:expr $(, $label:literal => $value:expr)?) => {{
        #[cfg(feature = "metrics")]
        metrics::counter!($name $(, $label => $value)?).increment($n as u64);
        #[cfg(not(feature = "metrics"))]
        let _ = ($n, $($value)?);
    }};
}

pub(crate) fn enqueued(message: &Message) {
    count!("tower_outbox_enqueued_total", 1);
    tracing::debug!(id = %message.id(), topic = %message.topic(), "message enqueued");
}

pub(crate) fn sent(messages: usize, took: Duration) {
    count!("tower_outbox_sent_total", messages);
    #[cfg(feature = "metrics")]
    metrics::histogram!("tower_outbox_send_seconds").record(took.as_secs_f64());
    tracing::debug!(messages, ?took, "messages sent");
}

/// Messages that do not leave because their request did not succeed.
pub(crate) fn dropped(messages: usize, reason: &'static str) {
    count!("tower_outbox_dropped_total", messages, "reason" => reason);
    tracing::info!(messages, reason, "messages dropped: the request did not succeed");
}

/// A request that was answered 503 before its handler ran.
pub(crate) fn turned_away() {
    count!("tower_outbox_turned_away_total", 1);
    tracing::debug!("request turned away: messages could not be taken over now");
}

pub(crate) fn retried(messages: usize, cause: &dyn std::fmt::Display) {
    count!("tower_outbox_retried_total", messages);
    tracing::warn!(messages, %cause, "messages are sent once more");
}

/// A message given up on: named, so that an operator can find its event again.
pub(crate) fn unsent(message: &Message, failure: &'static str, cause: &(dyn std::error::Error + 'static)) {
    count!("tower_outbox_unsent_total", 1, "failure" => failure);
    tracing::error!(id = %message.id(), topic = %message.topic(), failure, cause = %Chain(cause), "message unsent");
}

#[cfg(feature = "_sql")]
pub(crate) fn committed(messages: usize, took: Duration) {
    count!("tower_outbox_transactions_total", 1, "outcome" => "committed");
    tracing::debug!(messages, ?took, "transaction committed");
}

/// A transaction whose request did not succeed.
#[cfg(feature = "_sql")]
pub(crate) fn rolled_back(reason: &'static str) {
    count!("tower_outbox_transactions_total", 1, "outcome" => "rolled_back");
    tracing::info!(reason, "transaction rolled back: the request did not succeed");
}

/// A transaction that could not be committed though its request succeeded.
#[cfg(feature = "_sql")]
pub(crate) fn commit_failed(cause: &dyn std::fmt::Display) {
    count!("tower_outbox_transactions_total", 1, "outcome" => "failed");
    tracing::error!(%cause, "transaction not committed: its request is answered by an error");
}

/// A message that came again.
#[cfg(feature = "_sql")]
pub(crate) fn already_handled(message: &Message, source: &str) {
    count!("tower_outbox_transactions_total", 1, "outcome" => "already_handled");
    tracing::info!(id = %message.id(), topic = %message.topic(), source, "message already handled: it is acknowledged");
}

pub(crate) fn stored(messages: usize) {
    count!("tower_outbox_stored_total", messages);
    tracing::debug!(messages, "messages stored");
}

/// How much a store holds.
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

/// Stored messages that the bus has.
pub(crate) fn confirmed(messages: usize, took: Duration) {
    count!("tower_outbox_confirmed_total", messages);
    #[cfg(feature = "metrics")]
    metrics::histogram!("tower_outbox_send_seconds").record(took.as_secs_f64());
    tracing::debug!(messages, ?took, "stored messages confirmed");
}

/// Messages that came.
pub(crate) fn received(messages: usize) {
    count!("tower_outbox_received_total", messages);
}

/// An attempt to handle a message.
pub(crate) fn handled(outcome: &'static str, took: Duration) {
    count!("tower_outbox_handled_total", 1, "outcome" => outcome);
    #[cfg(feature = "metrics")]
    metrics::histogram!("tower_outbox_handle_seconds").record(took.as_secs_f64());
    tracing::debug!(outcome, ?took, "message handled");
}

/// A message that was given up on, and is kept as a dead letter.
pub(crate) fn dead(id: &dyn std::fmt::Display, reason: &str) {
    count!("tower_outbox_dead_total", 1);
    tracing::error!(%id, reason, "message is a dead letter now");
}

/// A stored message that expired, and is dropped.
pub(crate) fn expired(message: &Message) {
    count!("tower_outbox_dropped_total", 1, "reason" => "expired");
    tracing::warn!(id = %message.id(), topic = %message.topic(), "stored message dropped: it expired");
}

/// Stored messages dropped to make room.
#[cfg(any(feature = "embedded", feature = "_sql"))]
pub(crate) fn overflowed(messages: usize) {
    count!("tower_outbox_dropped_total", messages, "reason" => "overflow");
    tracing::error!(messages, "stored messages dropped: the outbox was full");
}

/// Messages that are gone with whoever held them: a messenger that panicked, a runtime that stopped.
pub(crate) fn lost(messages: usize, cause: &dyn std::fmt::Display) {
    count!("tower_outbox_unsent_total", messages, "failure" => "lost");
    tracing::error!(messages, %cause, "messages lost");
}
