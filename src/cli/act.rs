//! `tower-outbox requeue` and `tower-outbox drop`.

use std::io::{self, BufRead, IsTerminal, Write};

use clap::{ArgGroup, Args};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::context::Context;
use super::error::CliError;
use super::filter::{FilterArgs, WHICH};
use super::target::Target;
use crate::admin::Acted;

/// Send dead letters again
#[derive(Args)]
#[command(
    group = which(),
    override_usage = "tower-outbox requeue [OPTIONS] <ID>\n       tower-outbox requeue [OPTIONS] <--all | conditions>",
    after_help = "A message with the given id is requeued at once, also one that waits for its next attempt. \
        Conditions select dead letters: the command prints how many, and acts with --yes or after you answer y. \
        The dead letters of consumers are in the broker: see tower-outbox dead-letters."
)]
pub(super) struct Requeue {
    #[command(flatten)]
    act: Act,
    /// Requeue at most this many messages a second
    #[arg(long, value_name = "N", default_value_t = 100.0, value_parser = rate)]
    rate: f64,
}

/// Drop messages for good
#[derive(Args)]
#[command(
    group = which(),
    override_usage = "tower-outbox drop [OPTIONS] <ID>\n       tower-outbox drop [OPTIONS] <--all | conditions>",
    after_help = "A message with the given id is dropped at once. Conditions select dead letters and pending messages: the \
        command prints how many, and acts with --yes or after you answer y. A message that is being sent stays."
)]
pub(super) struct Drop {
    #[command(flatten)]
    act: Act,
}

#[derive(Args, Clone)]
struct Act {
    /// The id of one message
    #[arg(conflicts_with_all = ["all", "state", "topic", "key", "reason", "older_than"])]
    id: Option<Uuid>,
    /// Select all messages
    #[arg(long, help_heading = WHICH)]
    all: bool,
    #[command(flatten)]
    filter: FilterArgs,
    /// Only print how many messages are selected
    #[arg(long)]
    dry_run: bool,
    /// Act without asking
    #[arg(long, short, conflicts_with = "dry_run")]
    yes: bool,
}

/// One of these must be given, so that no oversight requeues or drops messages.
fn which() -> ArgGroup {
    let args = ["id", "all", "state", "topic", "key", "reason", "older_than"];
    ArgGroup::new("which").required(true).multiple(true).args(args)
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate: &f64| rate.is_finite() && *rate >= 0.001);
    rate.ok_or_else(|| "not a number of at least 0.001".to_owned())
}

impl Requeue {
    pub(super) fn run(&self, context: &Context) -> Result<(), CliError> {
        let rate = ("rate".to_owned(), self.rate.into());
        let work = Work { route: "requeue", verb: "requeue", done: "requeued", more: Map::from_iter([rate]) };
        let mut act = self.act.clone();
        if act.id.is_none() {
            act.filter.set_default_state("dead");
        }
        act.run(context, &work)
    }
}

impl Drop {
    pub(super) fn run(&self, context: &Context) -> Result<(), CliError> {
        self.act.run(context, &Work { route: "drop", verb: "drop", done: "dropped", more: Map::new() })
    }
}

/// The route, and the verbs for the output.
struct Work {
    route: &'static str,
    verb: &'static str,
    done: &'static str,
    more: Map<String, Value>,
}

impl Work {
    fn post(&self, target: &Target, filter: &Map<String, Value>, dry_run: bool) -> Result<Acted, CliError> {
        let mut body = self.more.clone();
        body.insert("filter".to_owned(), filter.clone().into());
        body.insert("dry_run".to_owned(), dry_run.into());
        target.post(self.route, Value::from(body).to_string().into_bytes())
    }
}

impl Act {
    fn run(&self, context: &Context, work: &Work) -> Result<(), CliError> {
        let output = context.output;
        let target = Target::of(context)?;
        let filter = match self.id {
            Some(id) => Map::from_iter([("id".to_owned(), json!(id))]),
            None => self.filter.object(),
        };
        let report = |acted: &Acted| {
            let messages = self.filter.count(acted.messages as u64);
            match (output.json, acted.dry_run) {
                (true, _) => output.document(acted),
                (false, true) => output.line(format!("would {} {messages}", work.verb)),
                (false, false) => output.line(format!("{} {messages}", work.done)),
            }
        };
        if self.id.is_none() || self.dry_run {
            let would = work.post(&target, &filter, true)?;
            if self.dry_run || would.messages == 0 {
                return report(&would);
            }
            if !self.yes && !self.asked(context, work, &would)? {
                report(&would)?;
                output.note("nothing was done; add --yes to do it");
                return Err(CliError::silent());
            }
        }
        report(&work.post(&target, &filter, false)?)
    }

    fn asked(&self, context: &Context, work: &Work, would: &Acted) -> Result<bool, CliError> {
        let messages = self.filter.count(would.messages as u64);
        asked(context, &format!("{} {messages}", work.verb))
    }
}

/// Asks the person at the terminal.
pub(super) fn asked(context: &Context, act: &str) -> Result<bool, CliError> {
    if !io::stdin().is_terminal() || context.output.json {
        return Ok(false);
    }
    let _ = write!(io::stderr(), "{act}? [y/N] ");
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).map_err(|error| CliError::error(&error))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
