//! Settling a received request.

use std::sync::{Arc, Weak};
use std::time::SystemTime;

use async_trait::async_trait;
use tokio::time::Instant;

use super::waiting::{Held, Waiting};
use super::wire;
use crate::message::{FailedAttempt, Settlement};
use crate::reply::Reply;
use crate::source::{Settle, SourceError};
use crate::telemetry;
use crate::util::deadline::after;

/// A request whose responder has not settled it. When the source is gone, dropping it lets the caller know.
pub(super) struct Answering {
    pub(super) held: Held,
    pub(super) waiting: Weak<Waiting>,
    pub(super) source: Arc<str>,
}

#[async_trait]
impl Settle for Answering {
    async fn settle(self: Box<Self>, settlement: Settlement) -> Result<(), SourceError> {
        let Self { mut held, waiting, .. } = *self;
        let due = match settlement {
            Settlement::Ack | Settlement::Discard | Settlement::Reject { .. } => return Ok(()),
            Settlement::Retry { after: wait, reason } => {
                held.failures.push(FailedAttempt::new(SystemTime::now(), reason));
                after(Instant::now(), wait)
            }
            Settlement::Release => Instant::now(),
        };
        held.redelivered = true;
        if let Some(waiting) = waiting.upgrade().filter(|_| !held.incoming.responder.is_late()) {
            waiting.push(due, held);
        }
        Ok(())
    }

    async fn reply(&mut self, reply: Reply) -> Result<(), SourceError> {
        if self.held.incoming.responder.answer(wire::answer(reply)).is_err() {
            telemetry::late_reply(&self.source);
        }
        Ok(())
    }
}
