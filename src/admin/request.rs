//! Requests to the admin router.

use std::fmt;
use std::time::Duration;

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::error::AdminError;
use super::stored_message::StoredMessage;
use crate::message::Message;
use crate::store::{EntryState, Filter};
use crate::util::error::Chain;
use crate::util::percent::decoded;

/// How many entries a page has by default, and at most.
const LIMIT: usize = 50;
const MAX_LIMIT: usize = 500;

/// For how long messages are searched and counted by default, and at most.
const WITHIN: Duration = Duration::from_secs(1);
const MAX_WITHIN: Duration = Duration::from_secs(60);

/// How many messages a second requeue sends by default, and at least.
const RATE: f64 = 100.0;
const MIN_RATE: f64 = 0.001;

/// The query of a list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    state: Option<EntryState>,
    id: Option<Uuid>,
    topic: Option<String>,
    key: Option<String>,
    reason: Option<String>,
    #[serde(default, deserialize_with = "crate::util::units::optional_duration")]
    older_than: Option<Duration>,
    limit: Option<usize>,
    pub(super) after: Option<u64>,
    /// For how long to search.
    #[serde(default, deserialize_with = "crate::util::units::optional_duration")]
    within: Option<Duration>,
    /// Whether entries come with headers and body.
    #[serde(default)]
    pub(super) body: bool,
}

impl ListQuery {
    pub(super) fn limit(&self) -> Result<usize, AdminError> {
        match self.limit.unwrap_or(LIMIT) {
            limit @ 1..=MAX_LIMIT => Ok(limit),
            limit => Err(AdminError::bad_request(format!("limit is {limit}; write 1 to {MAX_LIMIT}"))),
        }
    }

    pub(super) fn within(&self) -> Duration {
        self.within.unwrap_or(WITHIN).min(MAX_WITHIN)
    }

    pub(super) fn filter(&self) -> Filter {
        WrittenFilter {
            state: self.state,
            id: self.id,
            topic: self.topic.clone(),
            key: self.key.clone(),
            reason: self.reason.clone(),
            older_than: self.older_than,
        }
        .into()
    }
}

/// The query of a count.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CountQuery {
    state: Option<EntryState>,
    id: Option<Uuid>,
    topic: Option<String>,
    key: Option<String>,
    reason: Option<String>,
    #[serde(default, deserialize_with = "crate::util::units::optional_duration")]
    older_than: Option<Duration>,
    #[serde(default, deserialize_with = "crate::util::units::optional_duration")]
    within: Option<Duration>,
}

impl CountQuery {
    /// Returns the filter, and for how long to count.
    pub(super) fn split(self) -> (Filter, Duration) {
        let Self { state, id, topic, key, reason, older_than, within } = self;
        let filter = WrittenFilter { state, id, topic, key, reason, older_than };
        (filter.into(), within.unwrap_or(WITHIN).min(MAX_WITHIN))
    }
}

/// The query of the status.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StatusQuery {
    /// How long to wait for the answer of the broker.
    #[serde(default, deserialize_with = "crate::util::units::optional_duration")]
    pub(super) within: Option<Duration>,
}

/// A [`Filter`] whose age is a duration as people write it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenFilter {
    state: Option<EntryState>,
    id: Option<Uuid>,
    topic: Option<String>,
    key: Option<String>,
    reason: Option<String>,
    #[serde(default, deserialize_with = "crate::util::units::optional_duration")]
    older_than: Option<Duration>,
}

impl From<WrittenFilter> for Filter {
    fn from(written: WrittenFilter) -> Self {
        let WrittenFilter { state, id, topic, key, reason, older_than } = written;
        Self { state, id, topic, key, reason, older_than: older_than.map(|age| age.as_secs()) }
    }
}

/// The body of a requeue.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Requeue {
    filter: Option<WrittenFilter>,
    positions: Option<Vec<u64>>,
    #[serde(default = "yes")]
    pub(super) dry_run: bool,
    /// Messages a second.
    rate: Option<f64>,
}

impl Requeue {
    pub(super) fn pace(&self) -> Result<Duration, AdminError> {
        pace(self.rate.unwrap_or(RATE))
    }

    pub(super) fn selection(self) -> Result<Selection, AdminError> {
        Selection::new(self.filter, self.positions)
    }
}

/// The time between two messages at a rate.
pub(super) fn pace(rate: f64) -> Result<Duration, AdminError> {
    let pace = Duration::try_from_secs_f64(rate.recip()).ok().filter(|_| rate >= MIN_RATE);
    pace.ok_or_else(|| {
        AdminError::bad_request(format!("rate is {rate}; write messages a second, at least {MIN_RATE}"))
    })
}

/// The messages of a requeue or drop.
#[derive(Debug)]
pub(super) enum Selection {
    Matching(Filter),
    /// Without doubles.
    At(Vec<u64>),
}

/// The filter, or the first positions, for people.
impl fmt::Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Matching(filter) => {
                let filter = serde_json::to_string(filter).map_err(|_| fmt::Error)?;
                if filter == "{}" { f.write_str("all messages") } else { f.write_str(&filter) }
            }
            Self::At(positions) => {
                f.write_str("selected, at")?;
                positions.iter().take(20).try_for_each(|position| write!(f, " {position}"))?;
                if positions.len() > 20 { f.write_str(" …") } else { Ok(()) }
            }
        }
    }
}

impl Selection {
    fn new(filter: Option<WrittenFilter>, positions: Option<Vec<u64>>) -> Result<Self, AdminError> {
        match (filter, positions) {
            (Some(filter), None) => Ok(Self::Matching(filter.into())),
            (None, Some(mut positions)) => {
                positions.sort_unstable();
                positions.dedup();
                Ok(Self::At(positions))
            }
            _ => {
                Err(AdminError::bad_request("write either filter or positions; an empty filter matches all"))
            }
        }
    }
}

/// The body of a drop.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Drop {
    filter: Option<WrittenFilter>,
    positions: Option<Vec<u64>>,
    #[serde(default = "yes")]
    pub(super) dry_run: bool,
    /// The drop happens after this, and can be undone until then.
    #[serde(default, deserialize_with = "crate::util::units::optional_duration")]
    pub(super) after: Option<Duration>,
}

impl Drop {
    pub(super) fn selection(self) -> Result<Selection, AdminError> {
        Selection::new(self.filter, self.positions)
    }
}

fn yes() -> bool {
    true
}

/// The result of a requeue or drop, or of its dry run.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Acted {
    pub(crate) dry_run: bool,
    pub(crate) messages: usize,
    /// The number by which a drop that happens later is undone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) undo: Option<u64>,
}

/// The ids of stored messages.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Appended {
    pub(crate) ids: Vec<Uuid>,
}

/// Refuses a query that is no text. Its decoder would put other characters in the place of wrong bytes, and search for those.
pub(super) async fn readable_query(request: Request, next: Next) -> Result<Response, AdminError> {
    let query = request.uri().query().unwrap_or_default();
    if std::str::from_utf8(&decoded(query.as_bytes())).is_err() {
        return Err(AdminError::bad_request("the query is no UTF-8 text"));
    }
    Ok(next.run(request).await)
}

/// Accepts JSON only: a browser asks for permission before it sends that to another site.
pub(super) fn expect_json(headers: &HeaderMap) -> Result<(), AdminError> {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match essence.as_str() {
        "application/json" | "application/jsonl" | "application/x-ndjson" => Ok(()),
        _ => Err(AdminError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "the body must be JSON, sent with content-type: application/json",
        )),
    }
}

pub(super) fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, AdminError> {
    serde_json::from_slice(body).map_err(|error| AdminError::bad_request(Chain(&error).to_string()))
}

/// One message, or several one after the other.
pub(super) fn messages(body: &[u8]) -> Result<Vec<Message>, AdminError> {
    let mut messages = Vec::new();
    for stored in serde_json::Deserializer::from_slice(body).into_iter::<StoredMessage>() {
        let message = stored.map_err(Into::into).and_then(StoredMessage::into_message);
        let place = || format!("message {}: ", messages.len() + 1);
        messages
            .push(message.map_err(|error| AdminError::bad_request(place() + &Chain(&*error).to_string()))?);
    }
    if messages.is_empty() {
        return Err(AdminError::bad_request("the body has no message; write one as JSON"));
    }
    Ok(messages)
}
