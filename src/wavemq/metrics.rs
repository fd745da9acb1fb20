//! `/metrics`, with the names of the original.

use std::fmt::Write;

use super::links::Links;
use crate::routing::SiteRouter;

pub(super) fn text(router: &SiteRouter, links: &Links) -> String {
    let counts = router.counts();
    let (total, connected) = links.count();
    let mut out = String::new();
    for (name, kind, help, value) in [
        ("queue_dropped_messages", "counter", "Messages that queues dropped", counts.dropped),
        (
            "queue_committed_messages",
            "counter",
            "Messages that left queues because they were handled",
            counts.committed,
        ),
        ("queue_queued_messages", "gauge", "Messages in queues", counts.queued),
        ("queue_queued_bytes", "gauge", "Size of the stored messages in bytes", counts.queued_bytes),
        ("queue_number", "gauge", "Queues", counts.queues),
        ("route_published_messages", "counter", "Messages published at this router", counts.published),
        ("route_enqueued_messages", "counter", "Messages put into queues", counts.enqueued),
        ("route_downstream_messages", "counter", "Messages from designated routers", counts.downstream),
        (
            "route_upstream_messages",
            "counter",
            "Messages that designated routers have confirmed",
            counts.upstream,
        ),
        (
            "route_refused_messages",
            "counter",
            "Messages that designated routers refused for good",
            counts.refused,
        ),
        ("route_forged_messages", "counter", "Messages dropped for their signature", counts.forged),
        ("route_persisted_messages", "counter", "Messages kept as last values", counts.persisted),
        ("route_queried_messages", "counter", "Last values that were read", counts.queried),
        ("route_damaged_messages", "counter", "Messages damaged on the disk", counts.damaged),
        ("peer_errors", "counter", "Failures of links to designated routers", counts.peer_errors),
        ("peer_links", "gauge", "Links to designated routers", total as u64),
        ("peer_links_up", "gauge", "Links to designated routers that are up", connected as u64),
        ("active_subscriptions", "gauge", "Queues with a subscriber", counts.subscribers),
    ] {
        let _ = writeln!(out, "# HELP {name} {help}.\n# TYPE {name} {kind}\n{name} {value}");
    }
    out
}
