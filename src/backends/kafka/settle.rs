//! Settling a message.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use tokio::task::{JoinError, JoinHandle};

use super::incoming::Parts;
use super::letter::Letter;
use super::source_context::SourceContext;
use crate::message::{FailedAttempt, Settlement};
use crate::messenger::Failure;
use crate::source::{Settle, SourceError};
use crate::util::error::Chain;

/// How long a message waits that could not be published to the dead letters.
const DEAD_LETTER_PAUSE: Duration = Duration::from_secs(1);
/// The most failures that a message keeps.
const FAILURES: usize = 10;

/// The handle to settle one message. Dropping it releases the message.
pub(super) struct LetterSettler {
    letter: Option<Letter>,
    context: Arc<SourceContext>,
}

impl LetterSettler {
    pub(super) fn new(letter: Letter, context: &Arc<SourceContext>) -> Self {
        Self { letter: Some(letter), context: Arc::clone(context) }
    }
}

impl Drop for LetterSettler {
    fn drop(&mut self) {
        if let Some(letter) = self.letter.take() {
            self.context.inbox.release(letter);
        }
    }
}

#[async_trait]
impl Settle for LetterSettler {
    async fn settle(self: Box<Self>, settlement: Settlement) -> Result<(), SourceError> {
        // The letter is not kept in this future, which would be large.
        match self.begin(settlement) {
            Begun::Over { is_ours: true } => Ok(()),
            Begun::Over { is_ours: false } => Err(gone()),
            Begun::Publishing(task) => {
                task.await.unwrap_or_else(|error: JoinError| Err(SourceError::unavailable(error)))
            }
        }
    }

    fn is_stale(&self) -> bool {
        self.letter.as_ref().is_none_or(|letter| self.context.inbox.is_stale(letter))
    }
}

/// A settlement that has begun.
enum Begun {
    Over {
        /// Whether the partition is still ours.
        is_ours: bool,
    },
    /// The message is published in a task of its own, which runs to its end if the caller is dropped; then it is settled.
    Publishing(JoinHandle<Result<(), SourceError>>),
}

impl LetterSettler {
    fn begin(mut self: Box<Self>, settlement: Settlement) -> Begun {
        let Some(letter) = self.letter.take() else { return Begun::Over { is_ours: true } };
        let (context, inbox) = (&self.context, &self.context.inbox);
        let is_ours = match settlement {
            Settlement::Ack | Settlement::Discard => inbox.settled(&letter),
            Settlement::Release => inbox.release(letter),
            Settlement::Retry { after, reason } => {
                let letter = failed(letter, reason);
                match context.subscription.retry_topic.is_some() {
                    true => return publishing(context, letter, Forward::Retry(after)),
                    false => inbox.delay(letter, after),
                }
            }
            Settlement::Reject { reason } => {
                let letter = failed(letter, Arc::clone(&reason));
                return publishing(context, letter, Forward::Dead(reason));
            }
        };
        Begun::Over { is_ours }
    }
}

fn failed(mut letter: Letter, reason: Arc<str>) -> Letter {
    letter.failed = letter.failed.saturating_add(1);
    if letter.failures.len() >= FAILURES {
        letter.failures.remove(0);
    }
    letter.failures.push(FailedAttempt::new(SystemTime::now(), reason));
    letter
}

/// Where a message goes that was not handled.
enum Forward {
    Retry(Duration),
    Dead(Arc<str>),
}

fn publishing(context: &Arc<SourceContext>, letter: Letter, forward: Forward) -> Begun {
    let (context, tracker) = (Arc::clone(context), context.settlements.clone());
    Begun::Publishing(tracker.spawn(async move { publish(&context, letter, forward).await }))
}

async fn publish(context: &SourceContext, letter: Letter, forward: Forward) -> Result<(), SourceError> {
    if context.inbox.is_stale(&letter) {
        context.inbox.settled(&letter);
        return Err(gone());
    }
    let name = context.reader.name_of(&letter.record);
    let (sent, topic, after) = match &forward {
        Forward::Retry(after) => {
            let topic = context.subscription.retry_of(name).unwrap_or_default();
            (context.publish(context.reader.retry(&letter, &topic, *after)).await, topic, *after)
        }
        Forward::Dead(reason) => {
            let topic = context.subscription.dead_letters_of(name);
            (publish_dead(context, &letter, &topic, reason).await, topic, DEAD_LETTER_PAUSE)
        }
    };
    match sent {
        Ok(()) => match context.inbox.settled(&letter) {
            true => Ok(()),
            false => Err(gone()),
        },
        Err(failure) => {
            let cause = Chain(failure.cause()).to_string();
            let waits = after.max(DEAD_LETTER_PAUSE);
            let what = if matches!(forward, Forward::Dead(_)) { "a dead letter" } else { "a retry" };
            tracing::error!(topic, %cause, ?waits, "failed to publish {what}; its message waits here");
            context.inbox.delay(letter, waits);
            Err(SourceError::unavailable(cause))
        }
    }
}

/// Publishes a dead letter. A message can be so large that there is no room for the reason: its headers, and at last the reason,
/// are left out then.
async fn publish_dead(
    context: &SourceContext,
    letter: &Letter,
    topic: &str,
    reason: &str,
) -> Result<(), Failure> {
    let mut outcome = Ok(());
    for parts in [Parts::All, Parts::WithoutHeaders, Parts::BodyAlone] {
        outcome = context.publish(context.reader.dead_letter(letter, topic, reason, parts)).await;
        match &outcome {
            Err(failure) if !failure.is_transient() => {}
            _ => break,
        }
        let cause = outcome.as_ref().err().map(|failure| Chain(failure.cause()).to_string());
        tracing::warn!(topic, reason, cause, "a dead letter was refused; trying it with fewer headers");
    }
    outcome
}

fn gone() -> SourceError {
    SourceError::unavailable("its partition belongs to another process now, which receives the message again")
}
