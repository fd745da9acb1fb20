//! The consumers of this process.

use std::time::Duration;

use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::answer::answer;
use super::audit::{By, record};
use super::error::AdminError;
use super::request::{expect_json, parse};
use super::state::{Admin, Answer};
use super::status::HealthReport;
use crate::consumer::ConsumerHandle;
use crate::util::sync::lock;

/// How long the backlogs are asked for.
const PATIENCE: Duration = Duration::from_millis(100);

/// The consumers of this process.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Consumers {
    pub(crate) consumers: Vec<ConsumerReport>,
}

/// The counters are since the consumer was created.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ConsumerReport {
    pub(crate) name: String,
    pub(crate) health: HealthReport,
    pub(crate) paused: bool,
    /// How many messages wait to be received; `None` if the source does not know it.
    #[serde(default)]
    pub(crate) backlog: Option<u64>,
    /// How many messages are being handled.
    pub(crate) handling: usize,
    pub(crate) acked: u64,
    pub(crate) retried: u64,
    pub(crate) dead: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pause {
    name: String,
    paused: bool,
}

pub(super) async fn list(State(admin): State<Admin>) -> Answer {
    Ok(answer(StatusCode::OK, &reports(&admin).await))
}

/// Pauses or resumes the consumers with a name.
pub(super) async fn pause(
    State(admin): State<Admin>,
    by: By,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Answer {
    expect_json(&headers)?;
    let Pause { name, paused } = parse(&body?)?;
    let handles: Vec<_> = lock(&admin.consumers)
        .iter()
        .filter(|(of, _)| *of == name)
        .map(|(_, handle)| handle.clone())
        .collect();
    if handles.is_empty() {
        return Err(AdminError::not_found(format!("this process runs no consumer {name:?}")));
    }
    let action = if paused { "pause" } else { "resume" };
    for handle in handles {
        if paused { handle.pause() } else { handle.resume() }
    }
    match &admin.outbox {
        Some(outbox) => record(outbox, &by, action, 0, format!("the consumer {name}")).await,
        None => tracing::info!(consumer = name, "{action} of a consumer by an operator"),
    }
    Ok(answer(StatusCode::OK, &reports(&admin).await))
}

async fn reports(admin: &Admin) -> Consumers {
    let handles = lock(&admin.consumers).clone();
    let mut asked = JoinSet::new();
    for (place, (_, handle)) in handles.iter().enumerate() {
        let handle = handle.clone();
        asked.spawn(async move { (place, timeout(PATIENCE, handle.backlog()).await.ok().flatten()) });
    }
    let mut backlogs = vec![None; handles.len()];
    while let Some(answered) = asked.join_next().await {
        // A source that panics knows nothing.
        if let Ok((place, backlog)) = answered {
            backlogs[place] = backlog;
        }
    }
    let report = |((name, handle), backlog): ((String, ConsumerHandle), Option<u64>)| {
        let status = handle.status();
        ConsumerReport {
            name,
            health: handle.health().into(),
            paused: status.paused,
            backlog,
            handling: status.handling,
            acked: status.acked,
            retried: status.retried,
            dead: status.dead,
        }
    };
    Consumers { consumers: handles.into_iter().zip(backlogs).map(report).collect() }
}
