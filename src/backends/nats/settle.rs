//! Settling a message, over the connection that there is now.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_nats::Subject;
use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::Instant;

use super::inbox::{Holding, Letter};
use super::incoming::{DeadLetter, Parts};
use super::source_context::SourceContext;
use crate::message::{FailedAttempt, Settlement};
use crate::messenger::Failure;
use crate::source::{Settle, SourceError};
use crate::util::error::Chain;
use crate::util::finished::Finished;

/// The delays of a message that could not be published to the dead letters, from the first to the longest.
const DEAD_LETTER_PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
/// The longest delay of a retry, ten years, which fits the clock of the server.
const LONGEST: Duration = Duration::from_secs(315_360_000);

const ACK: Bytes = Bytes::from_static(b"+ACK");
pub(super) const TERM: Bytes = Bytes::from_static(b"+TERM");

/// The handle to settle one message.
pub(super) struct LetterSettler {
    letter: Letter,
    holding: Holding,
    context: Arc<SourceContext>,
}

impl LetterSettler {
    pub(super) fn new(letter: Letter, context: &Arc<SourceContext>) -> Self {
        let holding = Holding::new(&context.inbox, letter.ack.sequence);
        Self { letter, holding, context: Arc::clone(context) }
    }
}

#[async_trait]
impl Settle for LetterSettler {
    async fn settle(self: Box<Self>, settlement: Settlement) -> Result<(), SourceError> {
        let Self { letter, holding, context } = *self;
        if let Settlement::Release = settlement
            && !context.settlements.is_closed()
        {
            holding.keep();
            context.inbox.release(letter);
            return Ok(());
        }
        let tracked = context.settlements.token();
        let settled = async move {
            let _tracked = tracked;
            settle(&context, letter, holding, settlement).await
        };
        Finished::new(settled, drop).await
    }
}

async fn settle(
    context: &SourceContext,
    letter: Letter,
    holding: Holding,
    settlement: Settlement,
) -> Result<(), SourceError> {
    let (inbox, sequence) = (&context.inbox, letter.ack.sequence);
    match settlement {
        Settlement::Ack | Settlement::Discard => {
            end(context, sequence, ACK).await?;
            inbox.forget(sequence);
        }
        // The others are seldom, and large.
        Settlement::Release => Box::pin(give_back(context, holding, Duration::ZERO)).await?,
        Settlement::Retry { after, reason } => {
            // Before the message can come again.
            inbox.failed(sequence, FailedAttempt::new(SystemTime::now(), reason));
            Box::pin(return_it(context, holding, after)).await?;
        }
        Settlement::Reject { reason } => Box::pin(reject(context, letter, holding, reason)).await?,
    }
    Ok(())
}

/// Returns a message untried.
pub(super) async fn give_back(
    context: &SourceContext,
    holding: Holding,
    after: Duration,
) -> Result<(), SourceError> {
    if let Some(sequence) = holding.sequence() {
        context.inbox.released(sequence);
    }
    return_it(context, holding, after).await
}

/// Returns a message, which is no longer held as it may come again at once.
async fn return_it(context: &SourceContext, holding: Holding, after: Duration) -> Result<(), SourceError> {
    let reply = holding.sequence().and_then(|sequence| context.inbox.reply(sequence));
    drop(holding);
    send(context, || reply.clone(), nak(after)).await
}

/// Ends a message, which is held until the server knows.
async fn end(context: &SourceContext, sequence: u64, kind: Bytes) -> Result<(), SourceError> {
    send(context, || context.inbox.reply(sequence), kind).await
}

fn nak(after: Duration) -> Bytes {
    match after.min(LONGEST).as_nanos() {
        0 => Bytes::from_static(b"-NAK"),
        nanos => Bytes::from(format!("-NAK {{\"delay\": {nanos}}}")),
    }
}

/// Sends it until the server confirms it: a message can be settled over a later connection.
async fn send(
    context: &SourceContext,
    reply: impl Fn() -> Option<Subject>,
    kind: Bytes,
) -> Result<(), SourceError> {
    let deadline = Instant::now() + context.settings.broker.send_timeout();
    let mut last = None;
    while Instant::now() < deadline {
        let Some(link) = context.link().await else { break };
        let Some(reply) = reply() else { break };
        match link.connection.settle(&reply, kind.clone()).await {
            Ok(()) => return Ok(()),
            Err(failure) if link.is_over() => last = Some(failure),
            Err(failure) => return Err(unsettled(&failure)),
        }
    }
    let failure = last.unwrap_or_else(|| Failure::transient("there is no connection"));
    Err(unsettled(&failure))
}

fn unsettled(failure: &Failure) -> SourceError {
    let cause = Chain(failure.cause());
    SourceError::unavailable(format!("the message is delivered again, as it could not be settled: {cause}"))
}

/// JetStream has no dead letters: they are published, and then the message is ended.
async fn reject(
    context: &SourceContext,
    letter: Letter,
    holding: Holding,
    reason: Arc<str>,
) -> Result<(), SourceError> {
    let (subject, sequence) = (context.subscription.dead_letters(), letter.ack.sequence);
    let (attempt, mut failures) = context.inbox.attempts(letter.ack);
    failures.push(FailedAttempt::new(SystemTime::now(), Arc::clone(&reason)));
    let letters = DeadLetter { subject: &subject, attempt, failures: &failures, reason: &reason };
    if let Err(failure) = publish_dead(context, &letter, &letters).await {
        let cause = Chain(failure.cause()).to_string();
        let (first, longest) = DEAD_LETTER_PAUSES;
        let pause = first.saturating_mul(1 << letter.ack.delivered.min(10)).min(longest);
        tracing::error!(subject, %cause, ?pause, "failed to publish a dead letter; its message is delivered again");
        let _ = give_back(context, holding, pause).await;
        return Err(SourceError::unavailable(cause));
    }
    end(context, sequence, TERM).await?;
    context.inbox.forget(sequence);
    Ok(())
}

/// Publishes a dead letter. A message can be so large that there is no room for the reason: its headers, and at last the reason,
/// are left out then.
pub(super) async fn publish_dead(
    context: &SourceContext,
    letter: &Letter,
    dead: &DeadLetter<'_>,
) -> Result<(), Failure> {
    let mut outcome = Ok(());
    for parts in [Parts::All, Parts::WithoutHeaders, Parts::BodyAlone] {
        let outgoing = context.reader.dead_letter(&letter.raw, letter.ack, dead, parts);
        outcome = match context.link().await {
            Some(link) => link.connection.publish_one(outgoing).await,
            None => Err(Failure::transient("there is no connection")),
        };
        match &outcome {
            Err(failure) if !failure.is_transient() => {}
            _ => break,
        }
        let cause = outcome.as_ref().err().map(|failure| Chain(failure.cause()).to_string());
        tracing::warn!(
            subject = dead.subject,
            reason = dead.reason,
            cause,
            "a dead letter was refused; trying it with fewer headers"
        );
    }
    outcome
}
