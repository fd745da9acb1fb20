//! The broker's own queues of dead letters: what is in them, requeue and drop.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{Query, State};
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::timeout;
use uuid::Uuid;

use super::answer::answer;
use super::audit::{By, log, record};
use super::broker_act::{BrokerAct, BrokerActed, Verb};
use super::broker_queue::BrokerDeadLetters;
use super::error::AdminError;
use super::request::{expect_json, parse};
use super::state::{Admin, Answer};
use super::stored_message::StoredMessage;
use crate::source::dead_letters::DeadLetterQueue;

/// How many dead letters are returned by default, and at most.
const LIMIT: usize = 50;
const MAX_LIMIT: usize = 500;

/// How long a queue is asked for by default, and at most.
const WITHIN: Duration = Duration::from_secs(5);
const MAX_WITHIN: Duration = Duration::from_secs(60);

/// How many dead letters are passed over in the search for one.
const PASSED: usize = 10_000;

/// How long an answer waits for the end of an operation, which goes on without it.
const PATIENCE: Duration = Duration::from_secs(10);

/// The queues of dead letters of the consumers in the settings.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct BrokerQueues {
    pub(crate) queues: Vec<BrokerQueue>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct BrokerQueue {
    pub(crate) queue: String,
    /// The queue of the consumer.
    pub(crate) of: String,
    /// `None` if the broker does not report it.
    pub(crate) messages: Option<u64>,
    /// Why there is no access.
    pub(crate) error: Option<String>,
}

/// The first dead letters of a queue.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct BrokerListed {
    pub(crate) messages: Vec<StoredMessage>,
    /// Whether there are more.
    pub(crate) more: bool,
    /// How many are in the queue; `None` if the broker does not report it.
    pub(crate) total: Option<u64>,
    /// The count that the broker shows when a message is looked at.
    pub(crate) caution: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct QueuesQuery {
    /// How long to wait for the broker.
    #[serde(default, deserialize_with = "crate::util::units::optional_duration")]
    within: Option<Duration>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    queue: String,
    /// Only the message with this id, with headers and body.
    id: Option<Uuid>,
    limit: Option<usize>,
    /// How long to wait for the broker.
    #[serde(default, deserialize_with = "crate::util::units::optional_duration")]
    within: Option<Duration>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Act {
    queue: String,
    act: Verb,
    /// The messages with these ids.
    ids: Option<Vec<Uuid>>,
    /// So many messages from the start of the queue.
    first: Option<u64>,
    #[serde(default = "yes")]
    dry_run: bool,
    /// Messages a second.
    rate: Option<f64>,
}

fn yes() -> bool {
    true
}

pub(super) async fn queues(
    State(admin): State<Admin>,
    query: Result<Query<QueuesQuery>, QueryRejection>,
) -> Answer {
    let within = query?.0.within.unwrap_or(WITHIN).min(MAX_WITHIN);
    let mut asked = JoinSet::new();
    if let Some(dead_letters) = &admin.parts.dead_letters {
        for (queue, of) in dead_letters.queues() {
            let dead_letters = Arc::clone(dead_letters);
            asked.spawn(async move {
                let counted = async {
                    let Some(opened) = dead_letters.open(&queue, true).await? else { return Ok(Some(0)) };
                    let left = opened.left();
                    opened.close().await;
                    Ok(left)
                };
                let counted = timeout(within, counted).await;
                let counted = counted.unwrap_or_else(|_| Err("the broker did not answer in time".to_owned()));
                let (messages, error) = match counted {
                    Ok(messages) => (messages, None),
                    Err(error) => (None, Some(error)),
                };
                BrokerQueue { queue, of, messages, error }
            });
        }
    }
    let mut queues = asked.join_all().await;
    queues.sort_by(|one, other| one.queue.cmp(&other.queue));
    Ok(answer(StatusCode::OK, &BrokerQueues { queues }))
}

/// Opens a queue of the settings: no other queue is read or emptied by this route.
async fn open(
    admin: &Admin,
    queue: &str,
    looks: bool,
) -> Result<(Option<Box<dyn DeadLetterQueue>>, Vec<String>), AdminError> {
    let (dead_letters, also) = found(admin, queue)?;
    let opened = dead_letters.open(queue, looks).await.map_err(unavailable)?;
    Ok((opened, also))
}

/// The access to a queue, and the queues of its consumers.
fn found(admin: &Admin, queue: &str) -> Result<(Arc<dyn BrokerDeadLetters>, Vec<String>), AdminError> {
    let missing = || {
        AdminError::not_found(format!("no consumer of the settings has the queue of dead letters {queue:?}"))
    };
    let dead_letters = admin.parts.dead_letters.as_ref().ok_or_else(missing)?;
    let queues = dead_letters.queues().into_iter().filter(|(dead, _)| dead == queue);
    let also: Vec<_> = queues.map(|(_, of)| of).collect();
    if also.is_empty() {
        return Err(missing());
    }
    Ok((Arc::clone(dead_letters), also))
}

fn unavailable(error: String) -> AdminError {
    AdminError::new(StatusCode::SERVICE_UNAVAILABLE, error)
}

pub(super) async fn list(
    State(admin): State<Admin>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Answer {
    let Query(ListQuery { queue, id, limit, within }) = query?;
    let limit = match limit.unwrap_or(LIMIT) {
        limit @ 1..=MAX_LIMIT => limit,
        limit => return Err(AdminError::bad_request(format!("limit is {limit}; write 1 to {MAX_LIMIT}"))),
    };
    let listing = async {
        let (messages, more, total, caution) = match open(&admin, &queue, true).await? {
            (None, _) => (Vec::new(), false, Some(0), None),
            (Some(mut opened), _) => {
                let (total, caution) = (opened.left(), opened.caution());
                let listed = read(&mut *opened, id, limit).await;
                opened.close().await;
                let (messages, more) = listed?;
                (messages, more, total, caution)
            }
        };
        if messages.is_empty() && id.is_some() {
            return Err(AdminError::not_found("this dead letter is not in the queue any more"));
        }
        Ok(BrokerListed { messages, more, total, caution })
    };
    let listed = timeout(within.unwrap_or(WITHIN).min(MAX_WITHIN), listing).await;
    let listed =
        listed.unwrap_or_else(|_| Err(unavailable("the broker did not answer in time".to_owned())))?;
    Ok(answer(StatusCode::OK, &listed))
}

/// Reads the first messages, or the one with an id; returns whether there are more.
async fn read(
    queue: &mut dyn DeadLetterQueue,
    id: Option<Uuid>,
    limit: usize,
) -> Result<(Vec<StoredMessage>, bool), AdminError> {
    let mut messages = Vec::new();
    let mut passed = 0;
    while let Some(letter) = queue.next().await.map_err(|error| unavailable(error.to_string()))? {
        passed += 1;
        match id {
            None if messages.len() == limit => return Ok((messages, true)),
            None => messages.push(StoredMessage::of_dead_letter(&letter, false)),
            Some(id) if letter.message.as_ref().is_ok_and(|message| message.id() == id) => {
                return Ok((vec![StoredMessage::of_dead_letter(&letter, true)], false));
            }
            Some(_) if passed == PASSED => return Ok((messages, true)),
            Some(_) => {}
        }
    }
    Ok((messages, false))
}

pub(super) async fn act(
    State(admin): State<Admin>,
    by: By,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Answer {
    expect_json(&headers)?;
    let Act { queue, act, ids, first, dry_run, rate } = parse(&body?)?;
    let which = match (&ids, first) {
        (Some(ids), None) => format!("{} selected of the broker's queue {queue}", ids.len()),
        (None, Some(first)) => format!("the first {first} of the broker's queue {queue}"),
        _ => return Err(AdminError::bad_request("write either ids, or first with a number")),
    };
    let pace = rate.map(super::request::pace).transpose()?;
    let (opened, also) = open(&admin, &queue, dry_run).await?;
    let Some(opened) = opened else {
        return Ok(answer(StatusCode::OK, &BrokerActed { dry_run, ..BrokerActed::default() }));
    };
    let operation = BrokerAct { verb: act, also, ids, first, dry_run, pace };
    // It goes on when the client leaves: a part that was done is never done again.
    let progress = operation.progress();
    let seen = progress.clone();
    let task = tokio::spawn(async move {
        let acted = operation.run(opened, &progress).await;
        if !dry_run {
            match &admin.outbox {
                Some(outbox) => record(outbox, &by, act.name(), acted.messages as usize, which).await,
                None => log(&by, act.name(), acted.messages as usize, &which),
            }
        }
        acted
    });
    let acted = match timeout(PATIENCE, task).await {
        Ok(Ok(acted)) => acted,
        Ok(Err(_)) => return Err(unavailable("the operation failed; look at the queue again".to_owned())),
        Err(_) => BrokerActed { dry_run, messages: seen.messages(), running: true, ..BrokerActed::default() },
    };
    Ok(answer(StatusCode::OK, &acted))
}
