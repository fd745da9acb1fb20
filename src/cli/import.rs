//! `tower-outbox import`.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::output::{Unit, count};
use super::target::Target;
use super::{Context, Failure};
use crate::admin::{Appended, StoredMessage};
use crate::error::{BoxError, Chain};
use crate::store::State;

const AFTER_HELP: &str = "\
They keep their ids and times, and all of them are to be sent, those that were dead letters too. \
A line of your own needs a topic and a body, the rest is optional:

  {\"topic\": \"user.created\", \"body\": {\"id\": 7}, \"key\": \"user-7\", \"headers\": {\"tenant\": \"acme\"}}

In place of body there may be body_text or body_base64.";

/// How much is stored at a time, all or nothing.
const BATCH_MESSAGES: usize = 500;
const BATCH_BYTES: usize = 4 << 20;

/// Store messages from JSON lines, as `export` writes them
#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Import {
    /// The file; - or nothing is stdin
    file: Option<PathBuf>,
    /// Leave out so many lines at the beginning, which an import that broke off has stored
    #[arg(long, value_name = "LINES", default_value_t = 0)]
    skip: usize,
}

#[derive(Default)]
struct Batch {
    lines: Vec<u8>,
    messages: usize,
    dead: usize,
}

impl Import {
    pub(super) fn run(&self, context: &Context) -> Result<(), Failure> {
        let output = context.output;
        let file = self.file.as_deref().filter(|file| *file != Path::new("-"));
        let (mut reader, length) = open(file)?;
        let target = context.target_to_store()?;
        let bar = output.progress(length, Unit::Bytes);
        let (mut imported, mut dead, mut number, mut stored_to) = (0, 0, 0, self.skip);
        let mut batch = Batch::default();
        let mut line = Vec::new();
        loop {
            line.clear();
            // What was stored before a fault stays: it is said up to which line.
            let at = |number: usize, stored_to: usize, failure: Failure| Failure {
                message: failure.message.map(|error| match stored_to {
                    0 => format!("line {number}: {error}; nothing is stored"),
                    _ => format!(
                        "line {number}: {error}; {} stored: go on with --skip {stored_to}",
                        count(imported, "message")
                    ),
                }),
                ..failure
            };
            let read = reader.read_until(b'\n', &mut line).map_err(|error| Failure::error(&error));
            let end = read.map_err(|failure| at(number + 1, stored_to, failure))? == 0;
            number += usize::from(!end);
            if number > self.skip && !line.trim_ascii().is_empty() {
                let added = batch.add(&line).map_err(|error| Failure::failed(Chain(&*error)));
                added.map_err(|failure| at(number, stored_to, failure))?;
            }
            if batch.is_full() || end && batch.messages > 0 {
                let Batch { lines, messages, dead: dead_ones } = std::mem::take(&mut batch);
                bar.inc(lines.len() as u64);
                store(&target, lines).map_err(|failure| at(stored_to + 1, stored_to, failure))?;
                (imported, dead, stored_to) = (imported + messages as u64, dead + dead_ones as u64, number);
            }
            if end {
                break;
            }
        }
        bar.finish_and_clear();
        if dead > 0 {
            output.note(format!("among them {}: to be tried again", count(dead, "dead letter")));
        }
        if output.json {
            return output.document(&json!({"messages": imported}));
        }
        output.line(format!("imported {}", count(imported, "message")))
    }
}

impl Batch {
    fn add(&mut self, line: &[u8]) -> Result<(), BoxError> {
        let message: StoredMessage = serde_json::from_slice(line)?;
        self.dead += usize::from(message.state == Some(State::Dead));
        message.into_message()?;
        self.lines.extend_from_slice(line);
        self.messages += 1;
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.messages >= BATCH_MESSAGES || self.lines.len() >= BATCH_BYTES
    }
}

fn store(target: &Target, lines: Vec<u8>) -> Result<(), Failure> {
    target.post::<Appended>("messages", lines).map(drop)
}

/// The lines, and how many bytes they are if that is known.
fn open(file: Option<&Path>) -> Result<(Box<dyn BufRead>, Option<u64>), Failure> {
    let Some(path) = file else { return Ok((Box::new(io::stdin().lock()), None)) };
    let fault = |error: io::Error| Failure::failed(format!("cannot read {}: {error}", path.display()));
    let file = File::open(path).map_err(fault)?;
    let length = file.metadata().map_err(fault)?.len();
    Ok((Box::new(BufReader::with_capacity(1 << 16, file)), Some(length)))
}
