//! `tower-outbox dead-letters list`.

use clap::Args;

use super::super::context::Context;
use super::super::error::CliError;
use super::super::list::{HEAD, at_least_one, row};
use super::super::output::aligned;
use super::selection::{Queue, Selection, failure};
use crate::admin::StoredMessage;
use crate::source::dead_letters::DeadLetterQueue;

/// List dead letters without headers and bodies, which `show` prints
#[derive(Args)]
pub(super) struct List {
    #[command(flatten)]
    queue: Queue,
    #[command(flatten)]
    selection: Selection,
    /// List at most this many
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = at_least_one)]
    limit: usize,
    /// With --json: headers and bodies too
    #[arg(long, requires = "json")]
    body: bool,
}

impl List {
    pub(super) fn run(&self, context: &Context) -> Result<(), CliError> {
        let settings = context.settings()?;
        let output = context.output;
        let (listed, more) = context.runtime.block_on(async {
            let mut queue = self.queue.open(context, &settings, true).await?;
            let listed = self.list(&mut *queue).await;
            queue.close().await;
            listed
        })?;
        if output.json {
            listed.iter().try_for_each(|message| output.document(message))?;
        } else if !listed.is_empty() {
            let head = HEAD.map(str::to_owned);
            let rows: Vec<_> = std::iter::once(head).chain(listed.iter().map(row)).collect();
            aligned(&rows).iter().try_for_each(|line| output.line(line))?;
        }
        match (listed.len(), more) {
            (0, _) => output.note("no dead letter matches"),
            (count, true) => output.note(format!("listed the first {count}; --limit lists more")),
            _ => {}
        }
        Ok(())
    }

    /// The messages, and whether there may be more.
    async fn list(&self, queue: &mut dyn DeadLetterQueue) -> Result<(Vec<StoredMessage>, bool), CliError> {
        let mut listed = Vec::new();
        while let Some(letter) = queue.next().await.map_err(|error| failure(&error))? {
            if !self.selection.matches(&letter) {
                continue;
            }
            if listed.len() == self.limit {
                return Ok((listed, true));
            }
            listed.push(StoredMessage::of_dead_letter(&letter, self.body));
        }
        Ok((listed, false))
    }
}
