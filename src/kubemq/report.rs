//! `/metrics`: the channels and the face, in the text form of Prometheus.

use std::fmt::Write;

use super::face::Face;
use super::kinds::KINDS;
use crate::channels::{ChannelInfo, EngineError};

/// The most channels of a kind that are reported.
const MOST: usize = 10_000;

type Column = (&'static str, &'static str, &'static str, fn(&ChannelInfo) -> u64);

const COLUMNS: [Column; 8] = [
    ("messages", "gauge", "messages that are stored", |info| info.messages),
    ("bytes", "gauge", "bytes of the stored messages, about", |info| info.bytes),
    ("held", "gauge", "messages of a queue that consumers hold", |info| info.held),
    ("delayed", "gauge", "messages of a queue whose delay is not over", |info| info.delayed),
    ("subscribers", "gauge", "subscribers, and consumers that wait", |info| info.subscribers as u64),
    ("incoming_total", "counter", "messages that came in", |info| info.incoming.messages),
    ("incoming_bytes_total", "counter", "bytes that came in", |info| info.incoming.bytes),
    ("outgoing_total", "counter", "messages that went out", |info| info.outgoing.messages),
];

/// Returns the report.
pub(super) async fn metrics(face: &Face) -> Result<String, EngineError> {
    let mut channels = Vec::new();
    for (name, kind) in KINDS {
        let mut of_kind = face.engine.list(kind, "").await?;
        of_kind.truncate(MOST);
        channels.extend(of_kind.into_iter().map(|info| (name, info)));
    }
    let mut text = String::new();
    for (column, kind, help, value) in COLUMNS {
        let _ = writeln!(text, "# HELP tower_outbox_channel_{column} {help}");
        let _ = writeln!(text, "# TYPE tower_outbox_channel_{column} {kind}");
        for (name, info) in &channels {
            let channel = escaped(info.name.as_str());
            let value = value(info);
            let _ = writeln!(
                text,
                "tower_outbox_channel_{column}{{kind=\"{name}\",channel=\"{channel}\"}} {value}"
            );
        }
    }
    let counters = &face.counters;
    let _ = writeln!(
        text,
        "# HELP tower_outbox_kubemq_refused_total clients, calls and messages that were refused"
    );
    let _ = writeln!(text, "# TYPE tower_outbox_kubemq_refused_total counter");
    for (reason, count) in [
        ("handshake", &counters.handshakes),
        ("token", &counters.tokens),
        ("grant", &counters.grants),
        ("limit", &counters.limits),
    ] {
        let _ = writeln!(text, "tower_outbox_kubemq_refused_total{{reason=\"{reason}\"}} {}", count.get());
    }
    for (name, kind, help, value) in [
        ("late_answers_total", "counter", "answers that came too late", counters.late_answers.get()),
        ("streams", "gauge", "streams that clients have open", face.streams.count() as u64),
        ("transactions", "gauge", "transactions that clients have open", counters.transactions.get()),
        ("requests", "gauge", "requests that wait for their answers", face.pending.count() as u64),
    ] {
        let _ = writeln!(text, "# HELP tower_outbox_kubemq_{name} {help}");
        let _ = writeln!(text, "# TYPE tower_outbox_kubemq_{name} {kind}");
        let _ = writeln!(text, "tower_outbox_kubemq_{name} {value}");
    }
    Ok(text)
}

/// A label: names have no control characters.
fn escaped(name: &str) -> String {
    name.replace('\\', "\\\\").replace('"', "\\\"")
}
