//! The routes.

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::middleware::from_fn;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::answer::answer;
use super::audit::{By, readable, record};
use super::consumers;
use super::destination::Destination;
use super::error::AdminError;
use super::groups::{Counted, Groups};
use super::health::HealthProbe;
use super::request::{
    Acted, Appended, CountQuery, Drop, ListQuery, Requeue, Selection, StatusQuery, expect_json, messages,
    parse, readable_query,
};
use super::state::{Admin, Answer, AppState};
use super::status::{OutboxReport, StatusReport};
use super::stored_message::StoredMessage;
use super::undo;
use super::{broker_dead_letters, channels, routing, topics};
use crate::messenger::Messenger;
use crate::outbox::OutboxHandle;
use crate::store::{Entry, EntryState, Filter, OperationRecord};
use crate::util::error::{BoxError, Chain};

/// The largest body of a request.
const BODY_LIMIT: usize = 64 << 20;

/// How many entries with bodies are read at a time, and with how many bytes a page ends.
const BODIES: usize = 50;
const PAGE_BYTES: usize = 8 << 20;

impl Admin {
    pub(crate) fn router(self) -> Router {
        let health = HealthProbe::new(Arc::clone(&self.messenger));
        Router::new()
            .route("/status", get(async move |admin, query| status(admin, query, health).await))
            .route("/messages", get(list).post(append))
            .route("/count", get(count))
            .route("/groups", get(groups))
            .route("/drops", get(undo::list))
            .route("/undo", post(undo::undo))
            .route("/consumers", get(consumers::list).post(consumers::pause))
            .route("/parts", get(parts))
            .route("/topics", get(topics::list))
            .route("/channels", get(channels::list))
            .route("/routing", get(routing::show))
            .route("/broker-queues", get(broker_dead_letters::queues))
            .route("/broker-dead-letters", get(broker_dead_letters::list).post(broker_dead_letters::act))
            .route("/operations", get(operations))
            .route("/openapi.json", get(openapi))
            .route("/messages/{id}", get(show))
            .route("/requeue", post(requeue))
            .route("/drop", post(drop_messages))
            .method_not_allowed_fallback(wrong_method)
            .fallback(no_route)
            .layer(DefaultBodyLimit::max(BODY_LIMIT))
            .layer(from_fn(readable_query))
            .with_state(self)
    }

    fn shown(&self, entry: &Entry, whole: bool) -> StoredMessage {
        let shown = if whole { StoredMessage::whole(entry) } else { StoredMessage::listed(entry) };
        match self.app {
            AppState::Running => shown,
            AppState::Stopped => {
                shown.unsent_because("the app is stopped, and sends the message when it runs again")
            }
            AppState::Unknown => shown.unsent_because("a running app sends it, after earlier messages"),
        }
    }
}

async fn status(
    State(admin): State<Admin>,
    query: Result<Query<StatusQuery>, QueryRejection>,
    health: HealthProbe,
) -> Answer {
    let Query(query) = query?;
    let outbox = match &admin.outbox {
        Some(outbox) => {
            // The folder of a stopped app is open to the process that shows it.
            let stopped = admin.app == AppState::Stopped;
            let instances = if stopped { Vec::new() } else { outbox.instances().await? };
            Some(OutboxReport::new(outbox.status().await?, outbox.by_minute(), instances))
        }
        None => None,
    };
    let is_running = admin.app == AppState::Running;
    let health = match query.within {
        _ if !is_running => None,
        Some(within) => health.within(within).await,
        None => Some(admin.messenger.health().await),
    };
    let health = health.map(Into::into);
    let in_flight = admin.messenger.capabilities().in_flight.filter(|_| is_running);
    let in_flight = in_flight.map(|in_flight| in_flight.len());
    let note = outbox.is_none().then(|| admin.nothing_stored());
    let running = (admin.app != AppState::Unknown).then_some(is_running);
    let Destination { brokers, goes_to } = admin.destination;
    let report =
        StatusReport { delivery: admin.delivery, running, health, brokers, goes_to, in_flight, outbox, note };
    Ok(answer(StatusCode::OK, &report))
}

/// A page of entries.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Listed {
    pub(crate) messages: Vec<StoredMessage>,
    /// The value of `after` for the next page; null at the end.
    pub(crate) next: Option<u64>,
}

async fn list(State(admin): State<Admin>, query: Result<Query<ListQuery>, QueryRejection>) -> Answer {
    let outbox = admin.outbox()?;
    let Query(query) = query?;
    let (limit, filter) = (query.limit()?, query.filter());
    let begun = Instant::now();
    let (mut entries, mut bytes, mut next) = (Vec::new(), 0, query.after);
    loop {
        let room = limit - entries.len();
        let page = outbox.list(&filter, next, if query.body { room.min(BODIES) } else { room }).await?;
        next = page.next;
        for entry in page.entries {
            entries.push(admin.shown(&entry, query.body));
            bytes += entry.message.as_ref().map_or(0, |message| message.body().len());
            if query.body && bytes >= PAGE_BYTES {
                return Ok(answer(StatusCode::OK, &Listed { messages: entries, next: Some(entry.position) }));
            }
        }
        let full = entries.len() >= limit;
        if next.is_none() || full || begun.elapsed() > query.within() {
            return Ok(answer(StatusCode::OK, &Listed { messages: entries, next }));
        }
    }
}

/// Counts the messages that match.
async fn count(State(admin): State<Admin>, query: Result<Query<CountQuery>, QueryRejection>) -> Answer {
    let (filter, within) = query?.0.split();
    Ok(answer(StatusCode::OK, &Counted::read(admin.outbox()?, &filter, within).await?))
}

/// Groups dead letters by reason and topic.
async fn groups(State(admin): State<Admin>, query: Result<Query<CountQuery>, QueryRejection>) -> Answer {
    let (mut filter, within) = query?.0.split();
    filter.state = Some(EntryState::Dead);
    Ok(answer(StatusCode::OK, &Groups::read(admin.outbox()?, &filter, within).await?))
}

/// How many operations are returned.
const OPERATIONS: usize = 200;

/// The last operations.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Operations {
    /// The last one first.
    pub(crate) operations: Vec<OperationReport>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct OperationReport {
    #[serde(flatten)]
    pub(crate) record: OperationRecord,
    /// Which messages, for people.
    #[serde(default)]
    pub(crate) selection: String,
}

async fn operations(State(admin): State<Admin>) -> Answer {
    let report = |record: OperationRecord| {
        let selection = readable(&record.which, record.messages);
        OperationReport { record, selection }
    };
    let operations = admin.outbox()?.operations(OPERATIONS).await?.into_iter().map(report).collect();
    Ok(answer(StatusCode::OK, &Operations { operations }))
}

async fn show(State(admin): State<Admin>, Path(id): Path<String>) -> Answer {
    let outbox = admin.outbox()?;
    let id = Uuid::parse_str(&id).map_err(|_| AdminError::bad_request(format!("{id:?} is not an id")))?;
    let entry = found(outbox, &Filter::id(id)).await?;
    Ok(answer(StatusCode::OK, &admin.shown(&entry, true)))
}

async fn found(outbox: &OutboxHandle, filter: &Filter) -> Result<Entry, AdminError> {
    let entry = outbox.find(filter).await?;
    entry.ok_or_else(|| {
        let state = filter.state.map(|state| format!("{state} ")).unwrap_or_default();
        let id = filter.id.map(|id| format!(" {id}")).unwrap_or_default();
        AdminError::not_found(format!(
            "there is no {state}message{id}: it was sent or dropped, or never existed"
        ))
    })
}

async fn append(
    State(admin): State<Admin>,
    by: By,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Answer {
    let outbox = admin.outbox()?;
    expect_json(&headers)?;
    let messages = messages(&body?)?;
    for (index, message) in messages.iter().enumerate() {
        let refused =
            |error: BoxError| AdminError::bad_request(format!("message {}: {}", index + 1, Chain(&*error)));
        admin.messenger.check(message).map_err(refused)?;
    }
    let ids: Vec<_> = messages.iter().map(crate::message::Message::id).collect();
    admin.messenger.send(messages).await?;
    let which = ids.iter().take(20).map(ToString::to_string).collect::<Vec<_>>().join(" ");
    record(outbox, &by, "append", ids.len(), which).await;
    Ok(answer(StatusCode::ACCEPTED, &Appended { ids }))
}

async fn requeue(
    State(admin): State<Admin>,
    by: By,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Answer {
    let outbox = admin.outbox()?;
    expect_json(&headers)?;
    let request: Requeue = parse(&body?)?;
    let (dry_run, pace) = (request.dry_run, request.pace()?);
    let selection = request.selection()?;
    let which = selection.to_string();
    let mut filter = match selection {
        Selection::Matching(filter) => filter,
        Selection::At(positions) if dry_run => return Ok(acted(true, positions.len())),
        Selection::At(positions) => {
            let messages = outbox.requeue_positions(&positions, pace).await?;
            record(outbox, &by, "requeue", messages, which).await;
            return Ok(acted(false, messages));
        }
    };
    if filter.id.is_some() {
        // A message with a given id may also wait for its next attempt.
        filter.state = Some(found(outbox, &filter).await?.state);
    }
    filter.state.get_or_insert(EntryState::Dead);
    let messages = if dry_run { outbox.count(&filter).await? } else { outbox.requeue(&filter, pace).await? };
    if filter.id.is_some() && messages == 0 {
        let entry = found(outbox, &filter).await?;
        return Err(AdminError::conflict(format!("the message needs no requeue: {}", entry.explain())));
    }
    if !dry_run {
        record(outbox, &by, "requeue", messages, which).await;
    }
    Ok(acted(dry_run, messages))
}

async fn drop_messages(
    State(admin): State<Admin>,
    by: By,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Answer {
    let outbox = admin.outbox()?;
    expect_json(&headers)?;
    let request: Drop = parse(&body?)?;
    let (dry_run, after) = (request.dry_run, request.after);
    let selection = request.selection()?;
    let which = selection.to_string();
    if let Some(after) = after.filter(|_| !dry_run) {
        let slot = admin.later.slot()?;
        let positions = match selection {
            Selection::At(positions) => positions,
            Selection::Matching(filter) => outbox.positions(&filter).await?,
        };
        let messages = positions.len();
        // Before it: a drop of which no later row tells did not happen.
        record(outbox, &by, "ask to drop", messages, which.clone()).await;
        let undo = Some(slot.begin(outbox.clone(), positions, which, after, by));
        return Ok(answer(StatusCode::OK, &Acted { dry_run, messages, undo }));
    }
    let filter = match selection {
        Selection::Matching(filter) => filter,
        Selection::At(positions) if dry_run => return Ok(acted(true, positions.len())),
        Selection::At(positions) => {
            let messages = outbox.drop_positions(&positions).await?;
            record(outbox, &by, "drop", messages, which).await;
            return Ok(acted(false, messages));
        }
    };
    if filter.id.is_some() {
        found(outbox, &filter).await?;
    }
    let messages = if dry_run { outbox.count(&filter).await? } else { outbox.drop_messages(&filter).await? };
    if filter.id.is_some() && messages == 0 {
        return Err(AdminError::conflict("the message is being sent and cannot be dropped; try again"));
    }
    if !dry_run {
        record(outbox, &by, "drop", messages, which).await;
    }
    Ok(acted(dry_run, messages))
}

fn acted(dry_run: bool, messages: usize) -> Response {
    answer(StatusCode::OK, &Acted { dry_run, messages, undo: None })
}

async fn parts(State(admin): State<Admin>) -> Answer {
    Ok(answer(StatusCode::OK, &admin.parts.report()))
}

async fn openapi() -> Response {
    ([(CONTENT_TYPE, "application/json")], include_str!("openapi.json")).into_response()
}

async fn no_route() -> AdminError {
    AdminError::not_found(
        "unknown route; there are GET status, count, groups, topics, channels, routing, parts, broker-queues, drops, operations, GET and POST messages, consumers and broker-dead-letters, GET messages/ID, POST requeue, drop and undo",
    )
}

async fn wrong_method() -> AdminError {
    AdminError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "wrong method; use GET status, count, groups, topics, channels, routing, parts, broker-queues, broker-dead-letters, drops, operations, consumers, messages and messages/ID, POST messages, consumers, requeue, drop, undo and broker-dead-letters",
    )
}
