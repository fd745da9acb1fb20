//! Sent and stored messages, by topic.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::answer::answer;
use super::request::StatusQuery;
use super::state::{Admin, Answer};
use super::status::LastError;
use crate::observed::TopicTraffic;
use crate::outbox::OutboxHandle;
use crate::store::{EntryState, Filter, StoreError};

/// How many topics are returned.
const TOPICS: usize = 500;

/// How many entries are read at a time, and for how long by default and at most.
const PAGE: usize = 500;
const WITHIN: Duration = Duration::from_secs(1);
const MAX_WITHIN: Duration = Duration::from_secs(60);

/// The topics of what this process sends, and of what is stored.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Topics {
    /// Those with the most dead letters first, then those with the most pending messages, then by name.
    pub(crate) topics: Vec<TopicReport>,
    /// How many topics are not listed.
    pub(crate) others: u64,
    /// Whether all stored messages were counted. If not, `pending` and `dead` are lower bounds.
    pub(crate) exact: bool,
    /// Whether messages are stored. If not, `pending` and `dead` mean nothing.
    pub(crate) stored: bool,
}

/// The counters are since the start of this process.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct TopicReport {
    pub(crate) topic: String,
    pub(crate) pending: u64,
    pub(crate) dead: u64,
    pub(crate) sent: u64,
    /// Over the last minute.
    pub(crate) sent_per_second: f64,
    /// How many messages the broker refused for good.
    pub(crate) rejected: u64,
    /// How many attempts failed that are made again.
    pub(crate) failed: u64,
    pub(crate) last_failure: Option<LastError>,
}

pub(super) async fn list(
    State(admin): State<Admin>,
    query: Result<Query<StatusQuery>, QueryRejection>,
) -> Answer {
    let within = query?.0.within.unwrap_or(WITHIN).min(MAX_WITHIN);
    let mut topics = HashMap::new();
    for TopicTraffic { topic, sent, sent_per_second, rejected, failed, last_failure } in
        admin.parts.topics.read()
    {
        let (topic, last_failure) =
            (topic.to_string(), last_failure.map(|(at, error)| LastError { at, error }));
        let counted =
            TopicReport { sent, sent_per_second, rejected, failed, last_failure, ..Default::default() };
        topics.insert(topic, counted);
    }
    let exact = match &admin.outbox {
        Some(outbox) => count(outbox, &mut topics, within).await?,
        None => true,
    };
    let named = |(topic, report): (String, TopicReport)| TopicReport { topic, ..report };
    let mut topics: Vec<_> = topics.into_iter().map(named).collect();
    topics.sort_by(|one, other| {
        (other.dead, other.pending, &one.topic).cmp(&(one.dead, one.pending, &other.topic))
    });
    let others = topics.len().saturating_sub(TOPICS) as u64;
    topics.truncate(TOPICS);
    Ok(answer(StatusCode::OK, &Topics { topics, others, exact, stored: admin.outbox.is_some() }))
}

/// Counts stored messages by topic for about `within`; returns whether all were counted.
async fn count(
    outbox: &OutboxHandle,
    topics: &mut HashMap<String, TopicReport>,
    within: Duration,
) -> Result<bool, StoreError> {
    let begun = Instant::now();
    // The dead letters come first, so that many pending messages do not hide them.
    for state in [EntryState::Dead, EntryState::Pending] {
        let filter = Filter { state: Some(state), ..Filter::default() };
        let mut after = None;
        loop {
            let page = outbox.list(&filter, after, PAGE).await?;
            for message in page.entries.iter().filter_map(|entry| entry.message.as_ref()) {
                let topic = message.topic().as_str();
                let report = match topics.get_mut(topic) {
                    Some(report) => report,
                    None => topics.entry(topic.to_owned()).or_default(),
                };
                match state {
                    EntryState::Dead => report.dead += 1,
                    EntryState::Pending => report.pending += 1,
                }
            }
            after = page.next;
            if begun.elapsed() > within && (after.is_some() || state == EntryState::Dead) {
                return Ok(false);
            }
            if after.is_none() {
                break;
            }
        }
    }
    Ok(true)
}
