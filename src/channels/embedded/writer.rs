//! Writes the batches of an engine, applies them, and does what is due, as a job of the thread that writes for many logs.

use std::fs;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::checkpoints::Checkpoints;
use super::clock;
use super::compact;
use super::entry::Location;
use super::inactive;
use super::shared::EngineShared;
use super::state::{Batch, ChannelState};
use super::timers;
use crate::log::appender::Appender;
use crate::log::files::{self, is_full, write_at, write_error};
use crate::log::folder::FolderLock;
use crate::log::format::RECORD_HEADER;
use crate::log::segment::Segment;
use crate::log::writer::{LogJob, Next};
use crate::util::crash;

/// The name of the file whose room is given up so that messages can be settled on a full disk.
pub(super) const RESERVE: &str = "reserve";

/// The size of that file.
const RESERVE_BYTES: usize = 1 << 20;

/// The most bytes of one write, so that offsets fit into 32 bits.
const MOST_BYTES: usize = 1 << 30;

/// The longest time between two looks at the wall clock, which may be changed.
const LONGEST: Duration = Duration::from_secs(60);

/// The batches of a write.
struct WrittenBatches {
    /// The offset of the first one in the last segment.
    offset: u64,
    /// The position of its first record.
    first: u64,
    batches: Vec<Batch>,
}

/// The writer of an engine. Dropping it closes the engine, so that nobody waits for a writer that panicked.
pub(super) struct Writer {
    shared: Arc<EngineShared>,
    appender: Appender,
    /// The batches of the last write, until they are synced.
    written: Option<WrittenBatches>,
    checkpoints: Checkpoints,
    has_reserve: bool,
    _lock: FolderLock,
}

impl Drop for Writer {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.is_closed = true;
        let mut batches = std::mem::take(&mut state.pending);
        batches.extend(self.written.take().map(|written| written.batches).into_iter().flatten());
        fail(&mut state, batches, &io::Error::new(io::ErrorKind::BrokenPipe, "the channels are closed"));
        drop(state);
        self.shared.closing.cancel();
    }
}

impl Writer {
    pub(super) fn new(
        shared: Arc<EngineShared>,
        appender: Appender,
        checkpoints: Vec<u64>,
        lock: FolderLock,
    ) -> Self {
        let checkpoints = Checkpoints::new(Arc::clone(&shared), checkpoints);
        let mut writer =
            Self { shared, appender, written: None, checkpoints, has_reserve: false, _lock: lock };
        writer.reserve();
        writer
    }

    /// Takes room on the disk that can be given up later.
    fn reserve(&mut self) {
        if self.has_reserve {
            return;
        }
        let path = self.shared.folder().join(RESERVE);
        let reserved = files::create(&path).and_then(|file| write_at(&file, &[0; RESERVE_BYTES], 0));
        self.has_reserve = reserved.is_ok();
        if reserved.is_err() {
            let _ = fs::remove_file(&path);
        }
    }

    /// Gives the reserved room up; returns whether there was some.
    fn give_up_reserve(&mut self) -> bool {
        std::mem::take(&mut self.has_reserve) && fs::remove_file(self.shared.folder().join(RESERVE)).is_ok()
    }

    fn add_begun(&mut self) {
        if let Some(segment) = self.appender.take_begun() {
            self.shared.lock().segments.all.insert(segment.base, segment);
        }
    }

    /// Writes batches; those that could not be written are refused.
    fn append(&mut self, mut batches: Vec<Batch>) {
        if batches.is_empty() {
            return;
        }
        let first = self.shared.lock().segments.next();
        let written = self.appender.write(batches.iter_mut().map(|batch| &mut batch.records), first);
        self.add_begun();
        match written {
            Ok(offset) => self.written = Some(WrittenBatches { offset, first, batches }),
            Err(error) if is_full(&error) && self.give_up_reserve() => {
                // A record that settles messages frees space, and goes first.
                let (settling, others) = batches.into_iter().partition(|batch| batch.makes_room);
                self.refuse(others, &error);
                self.append(settling);
            }
            Err(error) => self.refuse(batches, &error),
        }
    }

    fn refuse(&self, batches: Vec<Batch>, error: &io::Error) {
        if batches.is_empty() {
            return;
        }
        let folder = self.shared.folder().display();
        tracing::error!(error = %write_error(&folder, error), batches = batches.len(), "could not store messages of channels; their senders get an error");
        let mut state = self.shared.lock();
        state.broken = Some(write_error(&folder, error).to_string());
        fail(&mut state, batches, error);
    }

    /// Deletes the files that no message and no checkpoint needs.
    fn delete_unneeded(&mut self) {
        let Some(safe) = self.checkpoints.safe() else { return };
        let unneeded: Vec<Segment> = {
            let state = self.shared.lock();
            let last = state.segments.all.last_key_value().map(|(base, _)| *base);
            let all = state.segments.all.values();
            all.filter(|segment| segment.live == 0 && segment.end <= safe && Some(segment.base) != last)
                .cloned()
                .collect()
        };
        for segment in unneeded {
            crash::point("channel_segment_before_delete");
            if let Err(error) = fs::remove_file(&segment.path) {
                tracing::warn!(path = %segment.path.display(), %error, "could not delete a file of the channels; the next start retries");
            }
            self.shared.lock().segments.all.remove(&segment.base);
            self.reserve();
        }
    }
}

/// Tells batches that they are not stored.
fn fail(state: &mut ChannelState, batches: Vec<Batch>, error: &io::Error) {
    for mut batch in batches {
        if let Some(finish) = batch.finish.take() {
            finish(state, Err(error));
        }
    }
}

impl LogJob for Writer {
    fn write(&mut self) {
        let batches = {
            let mut state = self.shared.lock();
            let mut bytes = 0;
            let fits = state.pending.iter().position(|batch| {
                bytes += batch.records.len();
                bytes > MOST_BYTES
            });
            let count = fits.map_or(state.pending.len(), |fits| fits.max(1));
            let rest = state.pending.split_off(count);
            state.pending_bytes = rest.iter().map(|batch| batch.records.len() as u64).sum();
            std::mem::replace(&mut state.pending, rest)
        };
        crash::point("channel_before_write");
        self.append(batches);
    }

    fn sync(&mut self) {
        let Some(WrittenBatches { mut offset, first, batches }) = self.written.take() else { return };
        let synced = self.appender.sync();
        self.add_begun();
        if let Err(error) = synced {
            return self.refuse(batches, &error);
        }
        crash::point("channel_before_apply");
        let mut position = first;
        for mut batch in batches {
            let mut state = self.shared.lock();
            state.broken = None;
            let (mut results, mut rest) = (Vec::with_capacity(batch.ops.len()), batch.records.as_slice());
            for op in batch.ops.drain(..) {
                let len = RECORD_HEADER + u32::from_le_bytes([rest[4], rest[5], rest[6], rest[7]]) as usize;
                let place = Location {
                    position,
                    offset: u32::try_from(offset).unwrap_or(u32::MAX),
                    len: u32::try_from(len).unwrap_or(u32::MAX),
                };
                results.push(state.apply(op, place));
                rest = &rest[len..];
                (position, offset) = (position + 1, offset + len as u64);
            }
            if let Some(mut last) = state.segments.all.last_entry() {
                (last.get_mut().len, last.get_mut().end) = (offset, position);
            }
            self.checkpoints.written(batch.records.len());
            if let Some(finish) = batch.finish.take() {
                finish(&mut state, Ok(&results));
            }
        }
        if !self.shared.lock().pending.is_empty() {
            self.shared.wake();
        }
    }

    fn tidy(&mut self) -> Next {
        let next = timers::run(&self.shared, &mut self.checkpoints.sweep);
        self.delete_unneeded();
        self.checkpoints.checkpoint_if_due();
        compact::run(&self.shared, &mut self.checkpoints.copying);
        let look = inactive::run(&self.shared, &mut self.checkpoints.look);
        let mut state = self.shared.lock();
        if !state.pending.is_empty() {
            drop(state);
            self.shared.wake();
            return Next::Woken;
        }
        let wall =
            state.timers.first().map(|(due, _)| Duration::from_nanos(due.saturating_sub(clock::now())));
        let now = Instant::now();
        let timers = [
            wall.map(|wait| now + wait.min(LONGEST)),
            state.visibility.first().map(|(at, ..)| *at),
            next,
            look,
        ];
        state.planned = timers.into_iter().flatten().min();
        state.planned.map_or(Next::Woken, Next::At)
    }

    fn work_slowly(&mut self) {}

    fn close(mut self: Box<Self>) {
        self.sync();
        // A finished record may leave more to write.
        for _ in 0..2 {
            self.write();
            self.sync();
        }
        self.appender.trim();
        self.shared.lock().is_closed = true;
        self.checkpoints.checkpoint_now();
        self.delete_unneeded();
    }
}
