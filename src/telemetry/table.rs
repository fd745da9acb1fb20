//! The metrics: name, kind, unit and meaning.

use metrics::Unit;

/// The kind of a metric.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// One metric.
pub(crate) struct Metric {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) unit: Unit,
    pub(crate) help: &'static str,
    /// The values of its label that are known at the start: they are zero from then on.
    pub(crate) known: Option<(&'static str, &'static [&'static str])>,
}

const fn metric(
    name: &'static str,
    kind: Kind,
    unit: Unit,
    known: Option<(&'static str, &'static [&'static str])>,
    help: &'static str,
) -> Metric {
    Metric { name, kind, unit, help, known }
}

use Kind::{Counter, Gauge, Histogram};
use Unit::{Bytes, Count, Seconds};

const OUTCOMES: &[&str] = &["committed", "rolled_back", "failed", "already_handled"];

/// All metrics of this crate, but those of rooms with a face of their own (channels, routers).
pub(crate) const METRICS: &[Metric] = &[
    metric("tower_outbox_enqueued_total", Counter, Count, None, "Messages that handlers enqueued."),
    metric("tower_outbox_stored_total", Counter, Count, None, "Messages that an outbox stored."),
    metric(
        "tower_outbox_buffered_total",
        Counter,
        Count,
        None,
        "Messages that went into the background buffer.",
    ),
    metric("tower_outbox_sent_total", Counter, Count, None, "Messages that the broker confirmed."),
    metric(
        "tower_outbox_send_seconds",
        Histogram,
        Seconds,
        None,
        "Time until a batch was stored, buffered or confirmed, by stage.",
    ),
    metric(
        "tower_outbox_dropped_total",
        Counter,
        Count,
        Some(("reason", &["status", "error", "panic", "cancelled", "expired", "overflow"])),
        "Messages dropped because their request failed, or because they expired.",
    ),
    metric(
        "tower_outbox_unsent_total",
        Counter,
        Count,
        Some(("failure", &["transient", "rejected", "lost"])),
        "Messages that could not be sent and are not stored.",
    ),
    metric(
        "tower_outbox_retried_total",
        Counter,
        Count,
        None,
        "Messages sent again, to another broker or later.",
    ),
    metric(
        "tower_outbox_turned_away_total",
        Counter,
        Count,
        None,
        "Requests rejected with 503 before their handler ran.",
    ),
    metric(
        "tower_outbox_transactions_total",
        Counter,
        Count,
        Some(("outcome", OUTCOMES)),
        "Transactions of requests.",
    ),
    metric(
        "tower_outbox_dead_total",
        Counter,
        Count,
        Some(("stage", &["send", "handle"])),
        "Messages that became dead letters.",
    ),
    metric(
        "tower_outbox_stored_messages",
        Gauge,
        Count,
        Some(("state", &["pending", "dead"])),
        "Messages in the store.",
    ),
    metric("tower_outbox_stored_bytes", Gauge, Bytes, None, "Approximate size of the stored messages."),
    metric(
        "tower_outbox_oldest_seconds",
        Gauge,
        Seconds,
        None,
        "Age of the oldest message that waits in the store.",
    ),
    metric(
        "tower_outbox_breaker_open",
        Gauge,
        Count,
        None,
        "1 while the relay waits for the broker, else 0.",
    ),
    metric("tower_outbox_relay_up", Gauge, Count, None, "1 while the relay of this process works, else 0."),
    metric("tower_outbox_consumer_up", Gauge, Count, None, "1 while a consumer can receive, else 0."),
    metric("tower_outbox_received_total", Counter, Count, None, "Messages that consumers received."),
    metric("tower_outbox_handled_total", Counter, Count, None, "Attempts to handle a message, by outcome."),
    metric(
        "tower_outbox_handle_seconds",
        Histogram,
        Seconds,
        None,
        "Duration of an attempt to handle a message.",
    ),
    metric(
        "tower_outbox_confirmations_received_total",
        Counter,
        Count,
        None,
        "Confirmations of consumers, by outcome.",
    ),
    metric(
        "tower_outbox_unacknowledged_total",
        Counter,
        Count,
        None,
        "Messages whose consumer did not confirm them in time.",
    ),
    metric(
        "tower_outbox_confirmations_sent_total",
        Counter,
        Count,
        None,
        "Confirmations of handled messages, by outcome.",
    ),
    metric(
        "tower_outbox_requests_total",
        Counter,
        Count,
        None,
        "Requests of clients over the bus, by outcome.",
    ),
    metric(
        "tower_outbox_request_seconds",
        Histogram,
        Seconds,
        None,
        "Time until a request over the bus ended.",
    ),
    metric(
        "tower_outbox_late_replies_total",
        Counter,
        Count,
        None,
        "Replies dropped because the caller no longer waited.",
    ),
    metric(
        "tower_outbox_stray_replies_total",
        Counter,
        Count,
        None,
        "Replies of a broker that came too late or name no request.",
    ),
    metric(
        "tower_outbox_signatures_total",
        Counter,
        Count,
        None,
        "Received messages by the outcome of their signature.",
    ),
    metric(
        "tower_outbox_routing_dropped_total",
        Counter,
        Count,
        None,
        "Messages that a router for sites dropped.",
    ),
    metric(
        "messaging.client.operation.duration",
        Histogram,
        Seconds,
        None,
        "Duration of a send to the broker.",
    ),
    metric(
        "messaging.client.sent.messages",
        Counter,
        Count,
        None,
        "Messages that a send handed to the broker.",
    ),
    metric("messaging.client.consumed.messages", Counter, Count, None, "Messages that consumers received."),
    metric(
        "messaging.process.duration",
        Histogram,
        Seconds,
        None,
        "Duration of an attempt to handle a message.",
    ),
];

/// The counters without labels that any app may alert on.
const UNLABELLED: &[&str] = &[
    "tower_outbox_enqueued_total",
    "tower_outbox_stored_total",
    "tower_outbox_buffered_total",
    "tower_outbox_retried_total",
    "tower_outbox_turned_away_total",
];

/// Describes all metrics, and makes those zero whose labels are known, so that an alert on a rise sees the first one.
pub(crate) fn describe() {
    for Metric { name, kind, unit, help, known } in METRICS {
        match kind {
            Counter => metrics::describe_counter!(*name, *unit, *help),
            Gauge => metrics::describe_gauge!(*name, *unit, *help),
            Histogram => metrics::describe_histogram!(*name, *unit, *help),
        }
        if let (Counter, Some((label, values))) = (kind, known) {
            values.iter().for_each(|value| metrics::counter!(*name, *label => *value).increment(0));
        }
    }
    for name in UNLABELLED {
        metrics::counter!(*name).increment(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUIDE: &str = include_str!("../../docs/observability.md");

    #[test]
    fn each_metric_has_its_row_in_the_guide() {
        for Metric { name, kind, .. } in METRICS {
            let kind = match kind {
                Counter => "counter",
                Gauge => "gauge",
                Histogram => "histogram",
            };
            assert!(GUIDE.contains(&format!("| `{name}` | {kind} |")), "{name}");
        }
    }

    #[test]
    fn each_metric_that_is_counted_is_described() {
        let source =
            concat!(include_str!("mod.rs"), include_str!("conventions.rs"), include_str!("channels.rs"));
        let named = |text: &'static str| {
            text.split('"').filter(|part| {
                (part.starts_with("tower_outbox_") || part.starts_with("messaging."))
                    && !part.contains(".name")
                    && !part.contains(".system")
            })
        };
        let mut count = 0;
        for name in named(source).filter(|name| !name.starts_with("tower_outbox_channels")) {
            assert!(METRICS.iter().any(|metric| metric.name == name), "{name}");
            count += 1;
        }
        assert!(count > 30, "{count}");
    }
}
