//! Drops that wait, and their undo.

use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};

use super::answer::answer;
use super::audit::{By, record};
use super::error::AdminError;
use super::later_drops::LaterDrop;
use super::request::{Acted, expect_json, parse};
use super::state::{Admin, Answer};

/// The drops that can still be undone.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Listed {
    pub(crate) drops: Vec<LaterDrop>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Undo {
    id: u64,
}

pub(super) async fn list(State(admin): State<Admin>) -> Answer {
    let drops = admin.later.list();
    Ok(answer(StatusCode::OK, &Listed { drops }))
}

pub(super) async fn undo(
    State(admin): State<Admin>,
    by: By,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Answer {
    let outbox = admin.outbox()?;
    expect_json(&headers)?;
    let Undo { id } = parse(&body?)?;
    let Some(drop) = admin.later.undo(id) else {
        return Err(AdminError::conflict(
            "it is too late to undo this drop: it was undone before, or the messages are gone",
        ));
    };
    record(outbox, &by, "undo drop", drop.messages, drop.which).await;
    Ok(answer(StatusCode::OK, &Acted { dry_run: false, messages: drop.messages, undo: None }))
}
