//! The router for sites in this process.

use std::time::SystemTime;

use axum::extract::State;
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::error::AdminError;
use super::state::{Admin, Answer};
use super::timestamp;

/// How many queues are returned.
#[cfg(feature = "routing")]
const QUEUES: usize = 500;

/// The router for sites in this process.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RoutingReport {
    pub(crate) router: String,
    pub(crate) namespace: String,
    /// Counters since the router was opened, by their names.
    pub(crate) counts: IndexMap<String, u64>,
    pub(crate) links: Vec<LinkReport>,
    /// Those with the most messages first, then by name.
    pub(crate) queues: Vec<QueueReport>,
    /// How many more queues there are.
    pub(crate) others: u64,
}

/// The link to a designated router.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct LinkReport {
    pub(crate) namespace: String,
    pub(crate) address: String,
    pub(crate) up: bool,
    pub(crate) last_failure: Option<String>,
}

/// One queue of the router.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct QueueReport {
    /// `subscriber`, `upstream`, `peer` or `dead`.
    pub(crate) kind: String,
    pub(crate) identifier: String,
    pub(crate) namespace: String,
    pub(crate) patterns: Vec<String>,
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
    pub(crate) max_messages: u64,
    pub(crate) max_bytes: u64,
    /// How many messages were dropped over the limits since the router was opened.
    pub(crate) dropped: u64,
    /// Whether there is a subscriber now.
    pub(crate) subscriber: bool,
    #[serde(with = "timestamp::optional")]
    pub(crate) expires: Option<SystemTime>,
}

#[cfg(not(feature = "routing"))]
pub(super) async fn show(State(_): State<Admin>) -> Answer {
    Err(no_router())
}

#[cfg(feature = "routing")]
pub(super) async fn show(State(admin): State<Admin>) -> Answer {
    let routing = admin.parts.routing.as_ref().ok_or_else(no_router)?;
    let router = routing.router();
    let mut queues: Vec<_> = router.queues().into_iter().map(queue).collect();
    queues.sort_by(|one, other| {
        let name = |it: &QueueReport| (it.kind.clone(), it.namespace.clone(), it.identifier.clone());
        other.messages.cmp(&one.messages).then_with(|| name(one).cmp(&name(other)))
    });
    let others = queues.len().saturating_sub(QUEUES) as u64;
    queues.truncate(QUEUES);
    let mut links: Vec<_> = routing.links().into_iter().map(link).collect();
    links.sort_by(|one, other| one.namespace.cmp(&other.namespace));
    let report = RoutingReport {
        router: router.id().to_string(),
        namespace: routing.namespace().to_string(),
        counts: counts(&router.counts()),
        links,
        queues,
        others,
    };
    Ok(super::answer::answer(http::StatusCode::OK, &report))
}

#[cfg(feature = "routing")]
fn counts(counts: &crate::routing::RouterCounts) -> IndexMap<String, u64> {
    let named = [
        ("queued", counts.queued),
        ("queued_bytes", counts.queued_bytes),
        ("published", counts.published),
        ("enqueued", counts.enqueued),
        ("committed", counts.committed),
        ("dropped", counts.dropped),
        ("refused", counts.refused),
        ("forged", counts.forged),
        ("damaged", counts.damaged),
        ("upstream", counts.upstream),
        ("downstream", counts.downstream),
        ("peer_errors", counts.peer_errors),
        ("persisted", counts.persisted),
        ("queried", counts.queried),
    ];
    named.into_iter().map(|(name, count)| (name.to_owned(), count)).collect()
}

#[cfg(feature = "routing")]
fn link(info: crate::routing::LinkInfo) -> LinkReport {
    LinkReport {
        namespace: info.namespace.to_string(),
        address: info.address,
        up: info.is_up,
        last_failure: info.last_failure,
    }
}

#[cfg(feature = "routing")]
fn queue(info: crate::routing::QueueInfo) -> QueueReport {
    use crate::routing::QueueKind;
    let kind = match info.kind {
        QueueKind::Subscriber => "subscriber",
        QueueKind::Upstream => "upstream",
        QueueKind::Peer => "peer",
        QueueKind::Dead => "dead",
    };
    QueueReport {
        kind: kind.to_owned(),
        identifier: info.identifier,
        namespace: info.namespace.to_string(),
        patterns: info.patterns.iter().map(|pattern| pattern.as_str().to_owned()).collect(),
        messages: info.messages,
        bytes: info.bytes,
        max_messages: info.limits.length,
        max_bytes: info.limits.bytes,
        dropped: info.dropped,
        subscriber: info.has_subscriber,
        expires: info.expires,
    }
}

fn no_router() -> AdminError {
    AdminError::not_found("BACKEND is not \"routing\": this process has no router")
}
