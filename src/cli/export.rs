//! `tower-outbox export`.

use std::fs::OpenOptions;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::context::Context;
use super::error::CliError;
use super::filter::FilterArgs;
use super::list::page;
use super::output::{Unit, count};
use super::target::Target;
use crate::admin::StatusReport;

/// How many messages are asked for at a time.
const PAGE: usize = 500;

/// Write messages with their bodies as JSON lines, which `import` reads
#[derive(Args)]
#[command(
    after_help = "The messages stay in the outbox. Without conditions all messages are written, dead letters too."
)]
pub(super) struct Export {
    #[command(flatten)]
    filter: FilterArgs,
    /// Write to this new file, readable by this user only; by default to stdout
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl Export {
    pub(super) fn run(&self, context: &Context) -> Result<(), CliError> {
        let output = context.output;
        let target = Target::of(context)?;
        let bar = output.progress(self.expected(&target)?, Unit::Messages);
        let mut writer = Writer::new(self.output.as_deref())?;
        let (mut exported, mut unreadable, mut after) = (0, 0, None);
        loop {
            let page = page(&target, &self.filter, after, PAGE, true)?;
            for message in &page.messages {
                if message.topic.is_none() {
                    unreadable += 1;
                    continue;
                }
                let line = serde_json::to_string(message).map_err(|error| CliError::error(&error))?;
                writer.line(&line)?;
                exported += 1;
            }
            bar.inc(page.messages.len() as u64);
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        writer.end()?;
        bar.finish_and_clear();
        let messages = count(exported, "message");
        match &self.output {
            Some(path) if output.json => output.document(&json!({"messages": exported, "output": path}))?,
            Some(path) => output.line(format!("exported {messages} to {}", path.display()))?,
            None => output.note(format!("exported {messages}")),
        }
        if unreadable > 0 {
            output.note(format!("left out {} that cannot be read", count(unreadable, "message")));
        }
        Ok(())
    }

    /// How many messages will be written; `None` if unknown.
    fn expected(&self, target: &Target) -> Result<Option<u64>, CliError> {
        let state = self.filter.only_state();
        if state.is_none() && !self.filter.is_empty() {
            return Ok(None);
        }
        let status: StatusReport = target.get(&["status"], &[])?;
        Ok(status.outbox.map(|outbox| match state {
            Some("pending") => outbox.pending,
            Some(_) => outbox.dead,
            None => outbox.pending + outbox.dead,
        }))
    }
}

/// Lines to a file or to stdout.
struct Writer<'a> {
    writer: BufWriter<Box<dyn Write>>,
    path: Option<&'a Path>,
}

impl<'a> Writer<'a> {
    fn new(path: Option<&'a Path>) -> Result<Self, CliError> {
        let writer: Box<dyn Write> = match path {
            None => Box::new(io::stdout()),
            Some(path) => {
                let mut options = OpenOptions::new();
                options.write(true).create_new(true);
                #[cfg(unix)]
                std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
                let file = options.open(path).map_err(|error| match error.kind() {
                    io::ErrorKind::AlreadyExists => {
                        CliError::failed(format!("{} exists already: choose another name", path.display()))
                    }
                    _ => CliError::failed(format!("cannot create {}: {error}", path.display())),
                })?;
                Box::new(file)
            }
        };
        Ok(Self { writer: BufWriter::with_capacity(1 << 16, writer), path })
    }

    fn line(&mut self, line: &str) -> Result<(), CliError> {
        writeln!(self.writer, "{line}").map_err(|error| self.fault(&error))
    }

    fn end(mut self) -> Result<(), CliError> {
        self.writer.flush().map_err(|error| self.fault(&error))
    }

    fn fault(&self, error: &io::Error) -> CliError {
        match self.path {
            Some(path) => CliError::failed(format!("cannot write {}: {error}", path.display())),
            None => CliError::stdout(error),
        }
    }
}
