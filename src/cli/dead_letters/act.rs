//! Shared by `requeue` and `drop` of dead letters.

use std::time::Duration;

use clap::{ArgGroup, Args};
use serde::Serialize;
use uuid::Uuid;

use super::super::act::asked;
use super::super::context::Context;
use super::super::error::CliError;
use super::super::filter::WHICH;
use super::super::output::{Unit, count};
use super::selection::{Queue, Selection, failure, is_of};
use crate::settings::Settings;
use crate::source::dead_letters::{DeadLetter, DeadLetterQueue, DeadLettersError, Target};

#[derive(Args, Clone, Debug)]
pub(super) struct Act {
    #[command(flatten)]
    queue: Queue,
    /// The id of one message
    #[arg(conflicts_with_all = ["all", "topic", "key", "reason", "older_than", "header", "limit"])]
    id: Option<Uuid>,
    /// Select all messages
    #[arg(long, help_heading = WHICH)]
    all: bool,
    #[command(flatten)]
    selection: Selection,
    /// Select at most this many, the first ones
    #[arg(long, help_heading = WHICH, value_name = "N")]
    limit: Option<u64>,
    /// Only print how many messages are selected
    #[arg(long)]
    dry_run: bool,
    /// Act without asking
    #[arg(long, short, conflicts_with = "dry_run")]
    yes: bool,
}

/// One of these must be given, so that no oversight requeues or drops messages.
pub(super) fn which() -> ArgGroup {
    let args = ["id", "all", "topic", "key", "reason", "older_than", "header", "limit"];
    ArgGroup::new("which").required(true).multiple(true).args(args)
}

/// The action on each message.
#[derive(Debug)]
pub(super) enum Deed {
    Drop,
    Requeue { to: Option<Target>, named: Option<String>, back_to: Vec<String>, wait: Option<Duration> },
}

impl Deed {
    fn verb(&self) -> &'static str {
        match self {
            Self::Drop => "drop",
            Self::Requeue { .. } => "requeue",
        }
    }

    fn done(&self) -> &'static str {
        match self {
            Self::Drop => "dropped",
            Self::Requeue { .. } => "requeued",
        }
    }

    /// Where the current message goes; `None` if it is dropped.
    fn target(&self, queue: &dyn DeadLetterQueue) -> Result<Option<Target>, DeadLettersError> {
        match self {
            Self::Drop => Ok(None),
            Self::Requeue { to: Some(to), .. } => Ok(Some(to.clone())),
            Self::Requeue { named: Some(named), .. } => Ok(Some(queue.named(named))),
            Self::Requeue { back_to, .. } => queue.target(back_to).map(Some),
        }
    }
}

/// The result.
#[derive(Debug, Default, Serialize)]
struct Done {
    messages: u64,
    /// Dead letters that were not selected, and stay.
    left: u64,
    /// Dead letters without a target, and why the first has none.
    #[serde(skip_serializing_if = "is_zero")]
    refused: u64,
    #[serde(skip)]
    refusal: Option<DeadLettersError>,
    /// The targets of a dry run.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    targets: Vec<Targeted>,
    dry_run: bool,
}

/// A target, and how many dead letters go there.
#[derive(Debug, Serialize)]
struct Targeted {
    #[serde(flatten)]
    target: Target,
    messages: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Done {
    fn add_target(&mut self, target: Target) {
        match self.targets.iter_mut().find(|known| known.target == target) {
            Some(known) => known.messages += 1,
            None => self.targets.push(Targeted { target, messages: 1 }),
        }
    }
}

impl Act {
    pub(super) fn queue(&self) -> &str {
        &self.queue.queue
    }

    pub(super) fn run(&self, context: &Context, deed: &Deed) -> Result<(), CliError> {
        let settings = context.settings()?;
        let mut limit = self.limit.or_else(|| self.id.map(|_| 1));
        let asks = self.id.is_none() && !self.yes;
        if asks || self.dry_run {
            let would = self.pass(context, &settings, deed, limit, true)?;
            if self.dry_run || would.messages == 0 {
                return self.report(context, deed, would);
            }
            // Messages that come in between are not part of the answer.
            limit = Some(would.messages);
            let act = format!("{} {}", deed.verb(), count(would.messages, "dead letter"));
            if !asked(context, &act)? {
                self.report(context, deed, would)?;
                context.output.note("nothing was done; add --yes to do it");
                return Err(CliError::silent());
            }
        }
        let done = self.pass(context, &settings, deed, limit, false)?;
        self.report(context, deed, done)
    }

    /// Goes through the queue once.
    fn pass(
        &self,
        context: &Context,
        settings: &Settings,
        deed: &Deed,
        limit: Option<u64>,
        dry_run: bool,
    ) -> Result<Done, CliError> {
        context.runtime.block_on(async {
            let mut queue = self.queue.open(context, settings, dry_run).await?;
            let mut limit = limit;
            if queue.left().is_none() && limit.is_none() && !dry_run {
                // Without a count of messages those that come back in the meantime would be requeued without end.
                let mut looked = self.queue.open(context, settings, true).await?;
                let mut counted = Done { dry_run: true, ..Done::default() };
                let counting = self.move_all(context, deed, None, &mut *looked, &mut counted).await;
                looked.close().await;
                counting.map_err(|error| failure(&error))?;
                limit = Some(counted.messages);
            }
            let mut done = Done { dry_run, ..Done::default() };
            let moved = self.move_all(context, deed, limit, &mut *queue, &mut done).await;
            queue.close().await;
            let Err(error) = moved else { return Ok(done) };
            let CliError { code, message } = failure(&error);
            let before = format!("{} {} before", count(done.messages, "dead letter"), deed.done());
            let message = message.map(|message| match dry_run {
                true => message,
                false => format!("{message}; {before}, the others are still in the queue"),
            });
            Err(CliError { code, message })
        })
    }

    async fn move_all(
        &self,
        context: &Context,
        deed: &Deed,
        limit: Option<u64>,
        queue: &mut dyn DeadLetterQueue,
        done: &mut Done,
    ) -> Result<(), DeadLettersError> {
        let bar = context.output.progress(queue.left(), Unit::Messages);
        while limit.is_none_or(|limit| done.messages < limit) {
            let Some(letter) = queue.next().await? else { break };
            bar.inc(1);
            if !self.is_meant(&letter) {
                done.left += 1;
                continue;
            }
            let target = match deed.target(queue) {
                Ok(target) => target,
                // One without a target does not block the others.
                Err(error) => {
                    done.refused += 1;
                    done.refusal.get_or_insert(error);
                    continue;
                }
            };
            match (done.dry_run, target) {
                (true, None) => {}
                (true, Some(target)) => done.add_target(target),
                (false, None) => queue.remove().await?,
                (false, Some(target)) => queue.requeue(target).await?,
            }
            done.messages += 1;
            if let (Deed::Requeue { wait: Some(wait), .. }, false) = (deed, done.dry_run)
                && queue.left() != Some(0)
            {
                tokio::time::sleep(*wait).await;
            }
        }
        bar.finish_and_clear();
        Ok(())
    }

    fn is_meant(&self, letter: &DeadLetter) -> bool {
        self.id.is_none_or(|id| is_of(letter, id)) && self.selection.matches(letter)
    }

    fn report(&self, context: &Context, deed: &Deed, done: Done) -> Result<(), CliError> {
        let output = context.output;
        if let (Some(id), 0, 0) = (self.id, done.messages, done.refused) {
            return Err(CliError::not_found(format!(
                "there is no dead letter {id} in {:?}",
                self.queue.queue
            )));
        }
        if output.json {
            output.document(&done)?;
        } else if done.messages > 0 || done.refused == 0 {
            let (verb, messages) = (deed.verb(), count(done.messages, "dead letter"));
            match done.dry_run {
                true => output.line(format!("would {verb} {messages}"))?,
                false => output.line(format!("{} {messages}", deed.done()))?,
            }
            for Targeted { target, messages } in &done.targets {
                output.line(format!("  {messages} to {target}"))?;
            }
        }
        let Some(error) = done.refusal else { return Ok(()) };
        let CliError { code, message } = failure(&error);
        let left = count(done.refused, "dead letter");
        let message = message.map(|message| format!("{message}; {left} left in the queue for this"));
        Err(CliError { code, message })
    }
}
