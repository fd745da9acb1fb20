//! The consumers of this process.

use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};

use super::answer::answer;
use super::audit::{By, record};
use super::error::AdminError;
use super::request::{expect_json, parse};
use super::state::{Admin, Answer};
use super::status::HealthReport;
use crate::consumer::ConsumerHandle;
use crate::util::sync::lock;

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
    Ok(answer(StatusCode::OK, &reports(&admin)))
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
    Ok(answer(StatusCode::OK, &reports(&admin)))
}

fn reports(admin: &Admin) -> Consumers {
    let consumers = lock(&admin.consumers);
    let report = |(name, handle): &(String, ConsumerHandle)| {
        let status = handle.status();
        ConsumerReport {
            name: name.clone(),
            health: handle.health().into(),
            paused: status.paused,
            handling: status.handling,
            acked: status.acked,
            retried: status.retried,
            dead: status.dead,
        }
    };
    Consumers { consumers: consumers.iter().map(report).collect() }
}
