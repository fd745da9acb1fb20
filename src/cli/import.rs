//! `tower-outbox import`.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::context::Context;
use super::error::CliError;
use super::output::{Unit, count};
use super::target::Target;
use crate::admin::{Appended, StoredMessage};
use crate::store::EntryState;
use crate::util::error::{BoxError, Chain};

const AFTER_HELP: &str = "\
Messages keep their ids and times. All of them become pending, dead letters too. \
A line of your own needs a topic and a body; all other fields are optional:

  {\"topic\": \"user.created\", \"body\": {\"id\": 7}, \"key\": \"user-7\", \"headers\": {\"tenant\": \"acme\"}}

Instead of body, write body_text or body_base64.";

/// The size of a batch, which is stored as a whole or not at all.
const BATCH_MESSAGES: u64 = 500;
const BATCH_BYTES: usize = 4 << 20;

/// Store messages from JSON lines, as `export` writes them
#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Import {
    /// The file; - or no argument reads stdin
    file: Option<PathBuf>,
    /// Skip this many lines at the beginning: those that an interrupted import has stored
    #[arg(long, value_name = "LINES", default_value_t = 0)]
    skip: usize,
}

impl Import {
    pub(super) fn run(&self, context: &Context) -> Result<(), CliError> {
        let output = context.output;
        let file = self.file.as_deref().filter(|file| *file != Path::new("-"));
        let (mut reader, length) = open(file)?;
        let target = Target::to_store(context)?;
        let bar = output.progress(length, Unit::Bytes);
        let mut done = Done { lines: self.skip, ..Done::default() };
        let mut batch = Batch::default();
        let (mut line, mut number) = (Vec::new(), 0);
        loop {
            line.clear();
            let read = reader.read_until(b'\n', &mut line);
            let end = read.map_err(|error| done.broken_off(number + 1, CliError::error(&error)))? == 0;
            number += usize::from(!end);
            if number > self.skip && !line.trim_ascii().is_empty() {
                let added = batch.add(&line);
                added.map_err(|error| done.broken_off(number, CliError::failed(Chain(&*error))))?;
            }
            if batch.is_full() || end && batch.messages > 0 {
                let Batch { text, messages, dead } = std::mem::take(&mut batch);
                bar.inc(text.len() as u64);
                let stored: Result<Appended, _> = target.post("messages", text);
                stored.map_err(|failure| done.broken_off(done.lines + 1, failure))?;
                done = Done { lines: number, messages: done.messages + messages, dead: done.dead + dead };
            }
            if end {
                break;
            }
        }
        bar.finish_and_clear();
        if done.dead > 0 {
            output.note(format!("{} among them will be sent again", count(done.dead, "dead letter")));
        }
        if output.json {
            return output.document(&json!({"messages": done.messages}));
        }
        output.line(format!("imported {}", count(done.messages, "message")))
    }
}

/// The progress of an import.
#[derive(Default)]
struct Done {
    /// The last line that is stored.
    lines: usize,
    messages: u64,
    dead: u64,
}

impl Done {
    /// Adds how to continue to a fault.
    fn broken_off(&self, line: usize, failure: CliError) -> CliError {
        let rest = match self {
            Self { messages: 0, .. } => "no message was stored".to_owned(),
            Self { lines, messages, .. } => {
                format!("{} stored: continue with --skip {lines}", count(*messages, "message"))
            }
        };
        let message = failure.message.map(|error| format!("line {line}: {error}; {rest}"));
        CliError { message, ..failure }
    }
}

/// Lines that are stored together.
#[derive(Default)]
struct Batch {
    text: Vec<u8>,
    messages: u64,
    dead: u64,
}

impl Batch {
    fn add(&mut self, line: &[u8]) -> Result<(), BoxError> {
        let message: StoredMessage = serde_json::from_slice(line)?;
        self.dead += u64::from(message.state == Some(EntryState::Dead));
        message.into_message()?;
        self.text.extend_from_slice(line);
        self.messages += 1;
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.messages >= BATCH_MESSAGES || self.text.len() >= BATCH_BYTES
    }
}

/// The lines, and how many bytes they are if that is known.
fn open(file: Option<&Path>) -> Result<(Box<dyn BufRead>, Option<u64>), CliError> {
    let Some(path) = file else { return Ok((Box::new(io::stdin().lock()), None)) };
    let fault = |error: io::Error| CliError::failed(format!("cannot read {}: {error}", path.display()));
    let file = File::open(path).map_err(fault)?;
    let length = file.metadata().map_err(fault)?.len();
    Ok((Box::new(BufReader::with_capacity(1 << 16, file)), Some(length)))
}
