//! Settling a message over the connection that it arrived over.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use tokio::task::JoinError;

use super::failure::Unroutable;
use super::inbox::Letter;
use super::replies;
use super::session::gone;
use super::source_context::SourceContext;
use crate::message::{FailedAttempt, Settlement};
use crate::reply::Reply;
use crate::source::{Settle, SourceError};
use crate::telemetry;
use crate::util::error::Chain;

/// The delay of a message that could not be published to the dead letters.
const DEAD_LETTER_PAUSE: Duration = Duration::from_secs(1);

/// The handle to settle one message.
pub(super) struct LetterSettler {
    pub(super) letter: Letter,
    pub(super) context: Arc<SourceContext>,
}

#[async_trait]
impl Settle for LetterSettler {
    async fn settle(self: Box<Self>, settlement: Settlement) -> Result<(), SourceError> {
        let Self { letter, context } = *self;
        if letter.is_stale() {
            return Err(gone());
        }
        match settlement {
            Settlement::Ack | Settlement::Discard => acknowledge(&context, &letter)?,
            Settlement::Release => context.inbox.release(letter),
            Settlement::Retry { after, reason } => context.inbox.retry(letter, after, reason),
            Settlement::Reject { reason } => {
                // A task of its own, which runs to its end if the caller is dropped.
                let tracker = context.settlements.clone();
                let rejected = tracker.spawn(async move { reject(&context, letter, reason).await });
                return rejected
                    .await
                    .unwrap_or_else(|error: JoinError| Err(SourceError::unavailable(error)));
            }
        }
        Ok(())
    }

    async fn reply(&mut self, reply: Reply) -> Result<(), SourceError> {
        let Letter { publish, session, .. } = &self.letter;
        match session.publish(replies::reply(publish, reply)).await {
            // Nobody subscribes to the response topic.
            Err(failure) if failure.cause().is::<Unroutable>() => {
                telemetry::late_reply(&self.context.reader.source);
                Ok(())
            }
            sent => sent.map_err(|failure| SourceError::unavailable(Chain(failure.cause()).to_string())),
        }
    }

    fn is_stale(&self) -> bool {
        self.letter.is_stale()
    }
}

fn acknowledge(context: &SourceContext, letter: &Letter) -> Result<(), SourceError> {
    if letter.publish.pkid != 0 {
        letter.session.acknowledge(&letter.publish)?;
    }
    context.inbox.forget(letter);
    letter.session.intake.free(letter.size);
    Ok(())
}

/// MQTT has no dead letters: they are published, and then acknowledged.
async fn reject(context: &SourceContext, letter: Letter, reason: Arc<str>) -> Result<(), SourceError> {
    let Some(topic) = context.subscription.dead_letter_topic.as_deref() else {
        // The consumer logs it.
        return acknowledge(context, &letter);
    };
    let (failed, mut failures) = context.inbox.failures(&letter);
    failures.push(FailedAttempt::new(SystemTime::now(), Arc::clone(&reason)));
    let dead =
        context.reader.dead_letter(&letter.publish, topic, failed.saturating_add(1), &failures, &reason);
    match letter.session.publish(dead).await {
        Ok(()) => acknowledge(context, &letter),
        Err(failure) => {
            let cause = Chain(failure.cause()).to_string();
            tracing::warn!(topic, %cause, "failed to publish a dead letter; its message is delivered again");
            if letter.is_stale() {
                return Err(gone());
            }
            context.inbox.delay(letter, DEAD_LETTER_PAUSE);
            Err(SourceError::unavailable(cause))
        }
    }
}
