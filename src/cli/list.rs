//! `tower-outbox list`.

use std::time::SystemTime;

use clap::Args;

use super::context::Context;
use super::error::CliError;
use super::filter::FilterArgs;
use super::output::{aligned, short, span};
use super::queue;
use super::target::Target;
use crate::admin::{Listed, StoredMessage};

/// The largest page of the admin router.
const PAGE: usize = 500;

/// The heads of the columns.
pub(super) const HEAD: [&str; 7] = ["ID", "STATE", "AGE", "TRIED", "TOPIC", "KEY", "WHY"];

/// List messages without headers and bodies, which `show` prints
#[derive(Args)]
pub(super) struct List {
    #[command(flatten)]
    filter: FilterArgs,
    /// List at most this many
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = at_least_one)]
    limit: usize,
}

pub(super) fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|limit| *limit > 0).ok_or_else(|| "not a number above 0".to_owned())
}

impl List {
    pub(super) fn run(&self, context: &Context) -> Result<(), CliError> {
        let target = Target::of(context)?;
        let (mut messages, mut after) = (Vec::new(), None);
        let more = loop {
            let room = self.limit - messages.len();
            if room == 0 {
                break true;
            }
            let page = page(&target, &self.filter, after, room.min(PAGE), false)?;
            if context.output.json {
                page.messages.iter().try_for_each(|message| context.output.document(message))?;
            }
            messages.extend(page.messages);
            match page.next {
                Some(next) => after = Some(next),
                None => break false,
            }
        };
        if !context.output.json && !messages.is_empty() {
            let head = HEAD.map(str::to_owned);
            let rows: Vec<_> = std::iter::once(head).chain(messages.iter().map(row)).collect();
            aligned(&rows).iter().try_for_each(|line| context.output.line(line))?;
        }
        match (messages.len(), more) {
            (0, false) => context.output.note("no message matches"),
            (listed, true) => context.output.note(format!("listed the first {listed}; --limit lists more")),
            _ => {}
        }
        if self.filter.is_dead() {
            queue::note_dead_letters(context);
        }
        Ok(())
    }
}

/// One page of the list.
pub(super) fn page(
    target: &Target,
    filter: &FilterArgs,
    after: Option<u64>,
    limit: usize,
    body: bool,
) -> Result<Listed, CliError> {
    let mut query = filter.pairs();
    query.push(("limit", limit.to_string()));
    query.extend(after.map(|after| ("after", after.to_string())));
    if body {
        query.push(("body", "true".to_owned()));
    }
    target.get(&["messages"], &query)
}

pub(super) fn row(message: &StoredMessage) -> [String; 7] {
    let dash = || "-".to_owned();
    let age = message.time.map(|time| span(SystemTime::now().duration_since(time).unwrap_or_default()));
    [
        message.id.map_or_else(dash, |id| id.to_string()),
        message.state.map_or_else(dash, |state| state.to_string()),
        age.unwrap_or_else(dash),
        message.attempts.map_or_else(dash, |attempts| attempts.to_string()),
        message.topic.as_deref().map_or_else(dash, |topic| short(topic, 60)),
        message.key.as_deref().map_or_else(dash, |key| short(key, 40)),
        message.explain.as_deref().map_or_else(dash, |why| short(why, 100)),
    ]
}
