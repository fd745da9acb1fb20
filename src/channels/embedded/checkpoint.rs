//! Checkpoints: all that is known of the messages before a position of the log, so that a start need not read the whole log.
//!
//! A checkpoint is a file of [records](crate::log::record): parts, of which the last one is [`Part::End`]. The two newest files
//! are kept, and the log from the older one on: when the newer one is damaged, the older one leads to the same state.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::entry::{Entry, Location};
use super::record::{Cursor, Kind, Limits, check};
use super::shared::EngineShared;
use super::state::ChannelState;
use crate::channels::info::ChannelKind;
use crate::channels::name::ChannelName;
use crate::log::files::{self, sync_folder, write_at};
use crate::log::format::HEAD;
use crate::log::head::{Head, HeadRead, Kind as FileKind};
use crate::log::record::{assign_positions, push_record};
use crate::log::scan::{Found, Scan};
use crate::util::crash;
use crate::util::error::BoxError;

/// The name of a checkpoint that is being written.
pub(super) const NEW: &str = "new-checkpoint";

/// The most messages of one part.
const PART: usize = 4_096;

/// The size of one write.
const WRITE: usize = 1 << 20;

#[derive(Debug, Serialize, Deserialize)]
enum Part<'a> {
    /// A queue, of which the next parts have the messages.
    #[serde(borrow)]
    Queue(QueuePart<'a>),
    Entries(Vec<Entry>),
    Delayed(Vec<((u64, u64), Entry)>),
    /// A stream, of which the next parts have the messages.
    #[serde(borrow)]
    Stream(StreamPart<'a>),
    Places(Vec<Location>),
    Cursor(&'a str, Cursor),
    Created(Kind, &'a str, Limits),
    End,
}

#[derive(Debug, Serialize, Deserialize)]
struct QueuePart<'a> {
    name: &'a str,
    limits: Limits,
    last: u64,
    last_delayed: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct StreamPart<'a> {
    name: &'a str,
    limits: Limits,
    assigned: u64,
    first: u64,
}

/// Returns the name of the checkpoint of this position.
pub(super) fn name(base: u64) -> String {
    format!("{base:020}.checkpoint")
}

/// Parses the name of a checkpoint.
pub(super) fn parse_name(file: &str) -> Option<u64> {
    let base = file.strip_suffix(".checkpoint")?.parse().ok()?;
    (name(base) == file).then_some(base)
}

pub(super) fn head(log: u64, base: u64) -> Head {
    Head { base, ..Head::journal(log) }
}

/// A file that is being written.
struct PartWriter {
    file: File,
    head: Head,
    buffer: Vec<u8>,
    offset: u64,
    position: u64,
}

impl PartWriter {
    fn create(path: &Path, head: Head) -> io::Result<Self> {
        let file = files::create(path)?;
        write_at(&file, &head.to_bytes(), 0)?;
        Ok(Self { file, head, buffer: Vec::with_capacity(WRITE), offset: HEAD, position: 0 })
    }

    fn push(&mut self, part: &Part<'_>) -> io::Result<()> {
        let pushed = push_record(&mut self.buffer, self.head.key().payload, true, |records| {
            let taken = std::mem::take(records);
            *records = postcard::to_extend(part, taken)?;
            Ok(())
        });
        pushed.map_err(io::Error::other)?;
        if self.buffer.len() >= WRITE { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.position = assign_positions(&mut self.buffer, &self.head.key(), self.offset, self.position);
        write_at(&self.file, &self.buffer, self.offset)?;
        self.offset += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

/// A checkpoint that is written, but not yet durable.
pub(super) struct Written {
    file: File,
    folder: PathBuf,
    base: u64,
    /// Its size in bytes.
    pub(super) size: u64,
}

impl Written {
    /// Returns the position up to which the log is in the checkpoint.
    pub(super) fn base(&self) -> u64 {
        self.base
    }

    /// Makes the checkpoint durable, and gives it its name. Blocks.
    pub(super) fn finish(&self) -> io::Result<()> {
        crash::point("checkpoint_before_sync");
        self.file.sync_all()?;
        fs::rename(self.folder.join(NEW), self.folder.join(name(self.base)))?;
        crash::point("checkpoint_before_folder_sync");
        sync_folder(&self.folder)
    }
}

/// Writes the state at the end of the log, channel by channel. Nothing may be written to the log meanwhile. Blocks.
pub(super) fn write(shared: &EngineShared) -> io::Result<Written> {
    let (base, queues, streams) = {
        let state = shared.lock();
        (state.segments.next(), state.queues.len(), state.streams.len())
    };
    let folder = shared.folder().clone();
    let mut writer = PartWriter::create(&folder.join(NEW), head(shared.log, base))?;
    for index in 0..queues {
        write_queue(&mut writer, &shared.lock(), index)?;
    }
    for index in 0..streams {
        write_stream(&mut writer, &shared.lock(), index)?;
    }
    for ((kind, name), limits) in &shared.lock().created {
        writer.push(&Part::Created((*kind).into(), name.as_str(), (*limits).into()))?;
    }
    writer.push(&Part::End)?;
    writer.flush()?;
    Ok(Written { file: writer.file, folder, base, size: writer.offset })
}

fn write_queue(writer: &mut PartWriter, state: &ChannelState, index: usize) -> io::Result<()> {
    let queue = &state.queues[index];
    if !queue.exists {
        return Ok(());
    }
    let (limits, last, last_delayed) = (queue.limits.into(), queue.last, queue.last_delayed);
    writer.push(&Part::Queue(QueuePart { name: queue.name.as_str(), limits, last, last_delayed }))?;
    let mut entries: Vec<&Entry> = queue.iter_settled().collect();
    entries.sort_unstable_by_key(|entry| entry.sequence);
    for part in entries.chunks(PART) {
        writer.push(&Part::Entries(part.iter().map(|entry| (*entry).clone()).collect()))?;
    }
    let delayed: Vec<_> = queue.delayed.iter().map(|(key, entry)| (*key, entry.clone())).collect();
    for part in delayed.chunks(PART) {
        writer.push(&Part::Delayed(part.to_vec()))?;
    }
    Ok(())
}

fn write_stream(writer: &mut PartWriter, state: &ChannelState, index: usize) -> io::Result<()> {
    let stream = &state.streams[index];
    if !stream.exists {
        return Ok(());
    }
    let (limits, assigned, first) = (stream.limits.into(), stream.assigned, stream.first);
    writer.push(&Part::Stream(StreamPart { name: stream.name.as_str(), limits, assigned, first }))?;
    let mut part = Vec::with_capacity(PART);
    for place in &stream.places {
        part.push(*place);
        if part.len() == PART {
            writer.push(&Part::Places(std::mem::take(&mut part)))?;
        }
    }
    if !part.is_empty() {
        writer.push(&Part::Places(part))?;
    }
    for (name, cursor) in &stream.cursors {
        writer.push(&Part::Cursor(name, cursor.clone()))?;
    }
    Ok(())
}

/// Reads a checkpoint into an empty state. Blocks.
///
/// # Errors
/// The file is damaged or incomplete; the state is not of use.
pub(super) fn read(path: &Path, log: u64, base: u64, state: &mut ChannelState) -> Result<u64, BoxError> {
    let file = File::open(path)?;
    let len = file.metadata()?.len();
    let mut start = [0; HEAD as usize];
    let read = files::read_full(&file, &mut start, 0)?;
    let wanted = head(log, base);
    match Head::read(&start[..read]) {
        HeadRead::Head(found, _) if found == wanted && found.kind == FileKind::Journal => {}
        _ => return Err("it belongs to another log, or its head is damaged".into()),
    }
    let mut scan = Scan::new(Arc::new(file), wanted.key(), (0, HEAD), len);
    let (mut expected, mut queue, mut stream) = (0, 0, 0);
    while let Some(found) = scan.next()? {
        let Found::Record(header) = found else { return Err("a part of it is damaged".into()) };
        if header.position != expected {
            return Err("a part of it is missing".into());
        }
        expected += 1;
        match postcard::from_bytes(scan.payload())? {
            Part::Queue(part) => {
                queue = state.queue(&ChannelName::new(part.name)?);
                check(part.last.max(part.last_delayed))?;
                let queue = &mut state.queues[queue as usize];
                (queue.limits, queue.last, queue.last_delayed) =
                    (part.limits.into(), part.last, part.last_delayed);
            }
            Part::Entries(entries) => {
                let queue = state.queues.get_mut(queue as usize).ok_or("it has messages of no queue")?;
                queue.ready.reserve_exact(entries.len());
                for entry in entries {
                    check(entry.sequence)?;
                    queue.count(entry.place, &mut state.segments);
                    queue.add(entry);
                }
            }
            Part::Delayed(entries) => {
                let queue = state.queues.get_mut(queue as usize).ok_or("it has messages of no queue")?;
                for (key, entry) in entries {
                    check(key.1)?;
                    queue.count(entry.place, &mut state.segments);
                    queue.add_delayed(key, entry);
                }
            }
            Part::Stream(part) => {
                check(part.assigned.max(part.first))?;
                stream = state.stream(&ChannelName::new(part.name)?);
                let stream = &mut state.streams[stream as usize];
                (stream.limits, stream.assigned, stream.first) =
                    (part.limits.into(), part.assigned, part.first);
            }
            Part::Places(places) => {
                let stream = state.streams.get_mut(stream as usize).ok_or("it has messages of no stream")?;
                for place in places {
                    stream.bytes += u64::from(place.len);
                    if !place.is_gone() {
                        state.segments.count(place);
                    }
                    stream.places.push_back(place);
                }
            }
            Part::Cursor(name, cursor) => {
                check(cursor.next)?;
                let stream = state.streams.get_mut(stream as usize).ok_or("it has a cursor of no stream")?;
                stream.cursors.insert(name.into(), cursor);
            }
            Part::Created(kind, name, limits) => {
                let kind: ChannelKind = kind.into();
                state.created.insert((kind, ChannelName::new(name)?), limits.into());
            }
            Part::End => return Ok(len),
        }
    }
    Err("its end is missing".into())
}
