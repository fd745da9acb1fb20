//! Events and metrics for operators; the only place with their names.
//!
//! Events go through `tracing`, under the target `tower_outbox`. With the feature `metrics`, counters go through the `metrics`
//! facade to the recorder of the app; `docs/observability.md` lists them.

// Before the modules that use them.
macro_rules! count {
    ($name:literal, $n:expr $(, $label:literal => $value:expr)*) => {{
        #[cfg(feature = "metrics")]
        metrics::counter!($name $(, $label => $value)*).increment($n as u64);
        #[cfg(not(feature = "metrics"))]
        let _ = ($n, $($value),*);
    }};
}

macro_rules! time {
    ($name:literal, $took:expr $(, $label:literal => $value:expr)*) => {{
        #[cfg(feature = "metrics")]
        metrics::histogram!($name $(, $label => $value)*).record($took.as_secs_f64());
        #[cfg(not(feature = "metrics"))]
        let _ = ($took, $($value),*);
    }};
}

macro_rules! gauge {
    ($name:literal, $value:expr $(, $label:literal => $of:expr)*) => {{
        #[cfg(feature = "metrics")]
        metrics::gauge!($name $(, $label => $of)*).set($value as f64);
        #[cfg(not(feature = "metrics"))]
        let _ = ($value, $($of),*);
    }};
}

#[cfg(feature = "channels")]
mod channels;
mod conventions;
mod stage;
#[cfg(feature = "metrics")]
pub(crate) mod table;
mod topics;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

#[cfg(feature = "channels")]
pub(crate) use self::channels::{
    channel_damaged, channel_dead, channel_discarded, channel_events_lost, channel_expired, channels_removed,
    durable_name_removed,
};
pub(crate) use self::conventions::{operation, processed, system};
pub use self::stage::Stage;
#[cfg(feature = "settings")]
pub(crate) use self::topics::label_topics;
use crate::message::{Message, headers};
use crate::util::error::Chain;
use crate::util::repeated::Repeated;

/// Describes the metrics, and makes those zero whose labels are known.
pub(crate) fn describe() {
    #[cfg(feature = "metrics")]
    table::describe();
}

pub(crate) fn enqueued(message: &Message) {
    match topics::label(message.topic()) {
        None => count!("tower_outbox_enqueued_total", 1),
        Some(topic) => count!("tower_outbox_enqueued_total", 1, "topic" => topic),
    }
    tracing::debug!(id = %message.id(), topic = %message.topic(), "enqueued a message");
}

/// Messages of a request that its messenger accepted.
pub(crate) fn sent(stage: Stage, backend: Option<&Arc<str>>, messages: usize, took: Duration) {
    match stage {
        // The outbox has counted them.
        Stage::Stored => {}
        Stage::Buffered => count!("tower_outbox_buffered_total", messages),
        Stage::Confirmed => confirmed(backend, messages, took),
    }
    if stage != Stage::Confirmed {
        time!("tower_outbox_send_seconds", took, "stage" => stage.as_str());
    }
    tracing::debug!(messages, ?took, stage = stage.as_str(), "sent messages");
}

/// Messages that the broker confirmed.
pub(crate) fn confirmed(backend: Option<&Arc<str>>, messages: usize, took: Duration) {
    // Labels that are literals need no memory.
    match backend {
        Some(backend) => count!("tower_outbox_sent_total", messages, "backend" => Arc::clone(backend)),
        None => count!("tower_outbox_sent_total", messages, "backend" => "unnamed"),
    }
    time!("tower_outbox_send_seconds", took, "stage" => "confirmed");
    let backend = backend.map_or("unnamed", |backend| &**backend);
    tracing::debug!(messages, ?took, backend, "the broker confirmed messages");
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

/// Messages that are sent again; the line is written when that begins, and once a minute while it lasts.
pub(crate) fn retried(lines: &Repeated, messages: usize, cause: &dyn std::fmt::Display) {
    count!("tower_outbox_retried_total", messages);
    if let Some(line) = lines.occurred() {
        tracing::warn!(messages, %cause, times = line.times, "sending messages again");
    }
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
    gauge!("tower_outbox_stored_messages", pending, "state" => "pending");
    gauge!("tower_outbox_stored_messages", dead, "state" => "dead");
    gauge!("tower_outbox_stored_bytes", bytes);
}

/// The age of the oldest message in the store.
#[cfg(all(feature = "metrics", feature = "settings"))]
pub(crate) fn oldest(age: Duration) {
    gauge!("tower_outbox_oldest_seconds", age.as_secs_f64());
}

/// Whether the relay waits for the broker.
pub(crate) fn breaker(is_open: bool) {
    gauge!("tower_outbox_breaker_open", u8::from(is_open));
}

/// Whether the relay works.
pub(crate) fn relay(is_up: bool) {
    gauge!("tower_outbox_relay_up", u8::from(is_up));
}

/// Whether a consumer can receive.
pub(crate) fn consumer(name: &Arc<str>, is_up: bool) {
    gauge!("tower_outbox_consumer_up", u8::from(is_up), "consumer" => Arc::clone(name));
}

/// The counters of a consumer, which are zero at its start.
pub(crate) fn consumer_began(name: &Arc<str>) {
    describe();
    received(name, None, 0);
    for outcome in ["ack", "retry", "dead"] {
        count!("tower_outbox_handled_total", 0, "consumer" => Arc::clone(name), "outcome" => outcome);
    }
}

/// The counter of a backend, which is zero at its start.
#[cfg(feature = "settings")]
pub(crate) fn bus_began(backend: &Arc<str>) {
    describe();
    count!("tower_outbox_sent_total", 0, "backend" => Arc::clone(backend));
}

/// A reply of a broker for which nobody waits: it came too late, or names no request.
#[cfg(any(
    feature = "amqp091",
    feature = "amqp10",
    feature = "kubemq-client",
    feature = "mqtt",
    feature = "nats"
))]
pub(crate) fn stray_reply(request: &str) {
    count!("tower_outbox_stray_replies_total", 1);
    let request = crate::message::headers::start_of(request, 40);
    tracing::debug!(request, "dropped a reply that came too late or names no request");
}

/// Received messages.
pub(crate) fn received(consumer: &Arc<str>, system: Option<&str>, messages: usize) {
    count!("tower_outbox_received_total", messages, "consumer" => Arc::clone(consumer));
    if let Some(system) = system {
        count!("messaging.client.consumed.messages", messages, "messaging.operation.name" => "receive", "messaging.system" => system.to_owned(), "messaging.consumer.group.name" => Arc::clone(consumer));
    }
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

/// An attempt to handle a message, by this consumer.
pub(crate) fn handled(consumer: &Arc<str>, message: Option<&Message>, outcome: &'static str, took: Duration) {
    let name = || Arc::clone(consumer);
    match message.and_then(|message| topics::label(message.topic())) {
        None => count!("tower_outbox_handled_total", 1, "consumer" => name(), "outcome" => outcome),
        Some(topic) => {
            count!("tower_outbox_handled_total", 1, "consumer" => name(), "outcome" => outcome, "topic" => topic)
        }
    }
    time!("tower_outbox_handle_seconds", took, "consumer" => name());
    let id = message.map(|message| tracing::field::display(message.id()));
    let topic = message.map(|message| tracing::field::display(message.topic()));
    tracing::debug!(id, topic, %consumer, outcome, ?took, "handled a message");
}

/// A request of a client.
pub(crate) fn requested(outcome: &'static str, took: Duration) {
    count!("tower_outbox_requests_total", 1, "outcome" => outcome);
    time!("tower_outbox_request_seconds", took);
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
    count!("tower_outbox_handled_total", requests, "consumer" => source.to_owned(), "outcome" => "expired");
    tracing::info!(requests, source, "dropped requests; their callers no longer wait");
}

/// A received message, and its source, that became a dead letter; `None` if it cannot be read.
pub(crate) fn dead_received(consumer: &Arc<str>, received: Option<(&Message, u32)>, reason: &str) {
    count!("tower_outbox_dead_total", 1, "stage" => "handle");
    let attempt = received.map(|(_, attempt)| attempt);
    let id = received.map(|(message, _)| tracing::field::display(message.id()));
    let topic = received.map(|(message, _)| tracing::field::display(message.topic()));
    tracing::error!(id, topic, attempt, %consumer, reason, "a received message became a dead letter");
}

/// A message that became a dead letter.
pub(crate) fn dead(id: &dyn std::fmt::Display, reason: &str) {
    count!("tower_outbox_dead_total", 1, "stage" => "send");
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

/// Messages that a router for sites dropped.
#[cfg(feature = "routing")]
pub(crate) fn routing_dropped(reason: &'static str, messages: usize) {
    count!("tower_outbox_routing_dropped_total", messages, "reason" => reason);
}
