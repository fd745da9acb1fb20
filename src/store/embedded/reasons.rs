//! The file of reasons: why attempts failed. The reasons are on disk since there may be a million dead letters.
//!
//! The name of the file is `reasons-` and its generation. Its [records](crate::log::record) have the positions of the messages;
//! each has the offset of the previous reason of the same message. The journal has the offset of the last one. When most of
//! the file is no longer needed, the rest is copied into the next generation.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::num::NonZeroU64;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::log::error::OpenError;
use crate::log::files::{self, read_full, write_at};
use crate::log::format::{HEAD, RECORD_HEADER};
use crate::log::head::Head;
use crate::log::inventory::{read_head, set_aside};
use crate::log::record::{Header, assign_positions, push_record};
use crate::message::FailedAttempt;
use crate::message::headers::start_of;
use crate::util::error::BoxError;

/// Returns the placeholder for a reason that is missing or damaged.
pub(super) fn unknown() -> FailedAttempt {
    FailedAttempt::new(
        SystemTime::UNIX_EPOCH,
        "the reason can no longer be read: its file is missing or damaged".into(),
    )
}

/// The number of reasons that are kept of a message.
pub(super) const REASONS: u8 = 5;

/// The number of bytes that are kept of a reason.
const REASON_BYTES: usize = 1_024;

/// The number of bytes by which the file outgrows twice its needed bytes before it is rewritten.
const GARBAGE_BYTES: u64 = 4 << 20;

/// The number of messages whose reasons are kept in memory while the disk refuses writes.
const WAITING: usize = 4_096;

/// The largest size of a record without its reason.
const OVERHEAD: usize = RECORD_HEADER + 40;

/// The payload of a record.
#[derive(Serialize, Deserialize)]
struct Reason<'a> {
    /// The offset of the previous reason of the message.
    previous: Option<NonZeroU64>,
    at: SystemTime,
    reason: &'a str,
}

/// The reasons of a message that are not on disk yet.
pub(super) struct Waiting {
    pub(super) position: u64,
    pub(super) attempts: Vec<FailedAttempt>,
    /// The offset of the reason before them.
    pub(super) previous: Option<NonZeroU64>,
}

/// The reasons that are not on disk yet, by position.
#[derive(Debug, Default)]
pub(super) struct WaitingReasons(BTreeMap<u64, Vec<FailedAttempt>>);

impl WaitingReasons {
    /// Adds a reason, truncated; returns about how many bytes it takes on disk.
    pub(super) fn push(&mut self, position: u64, at: SystemTime, reason: &Arc<str>) -> u32 {
        let cut = start_of(reason, REASON_BYTES);
        let reason = if cut.len() < reason.len() { cut.into() } else { Arc::clone(reason) };
        self.0.entry(position).or_default().push(FailedAttempt::new(at, reason));
        (OVERHEAD + cut.len()) as u32
    }

    pub(super) fn of(&self, position: u64) -> &[FailedAttempt] {
        self.0.get(&position).map_or(&[], Vec::as_slice)
    }

    pub(super) fn forget(&mut self, position: u64) {
        self.0.remove(&position);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn copy(&self) -> impl Iterator<Item = (u64, Vec<FailedAttempt>)> {
        self.0.iter().map(|(position, attempts)| (*position, attempts.clone()))
    }

    /// Removes the first reasons of a message, which are on disk.
    pub(super) fn written(&mut self, position: u64, count: usize) {
        if let Some(attempts) = self.0.get_mut(&position) {
            attempts.drain(..count.min(attempts.len()));
            if attempts.is_empty() {
                self.0.remove(&position);
            }
        }
    }

    /// Removes the oldest reasons, so that they do not pile up while the disk refuses writes.
    pub(super) fn trim(&mut self) {
        while self.0.len() > WAITING {
            self.0.pop_first();
        }
        for attempts in self.0.values_mut() {
            attempts.drain(..attempts.len().saturating_sub(REASONS.into()));
        }
    }
}

/// The file of reasons, for reading. A clone shares the open file.
#[derive(Clone, Debug)]
pub(super) struct Reasons {
    head: Head,
    file: Arc<File>,
}

impl Reasons {
    pub(super) fn name(generation: u64) -> String {
        format!("reasons-{generation:020}")
    }

    pub(super) fn parse_name(name: &str) -> Option<u64> {
        let generation = name.strip_prefix("reasons-")?.parse().ok()?;
        (Self::name(generation) == name).then_some(generation)
    }

    pub(super) fn generation(&self) -> u64 {
        self.head.base
    }

    /// Creates the file of a generation.
    pub(super) fn create(folder: &Path, log: u64, generation: u64) -> io::Result<Self> {
        let head = Head::reasons(log, generation);
        let path = folder.join(Self::name(generation));
        let file = files::create(&path)?;
        if let Err(error) = write_at(&file, &head.to_bytes(), 0) {
            let _ = fs::remove_file(&path);
            return Err(error);
        }
        Ok(Self { head, file: Arc::new(file) })
    }

    /// Opens the file of this generation if it is needed, and deletes the others.
    pub(super) fn open(
        folder: &Path,
        log: u64,
        generation: u64,
        needed: bool,
    ) -> Result<Option<Self>, OpenError> {
        let mut opened = None;
        for entry in fs::read_dir(folder).map_err(OpenError::io("read", folder))? {
            let entry = entry.map_err(OpenError::io("read", folder))?;
            let Some(named) = entry.file_name().to_str().and_then(Self::parse_name) else { continue };
            let path = entry.path();
            let file = files::writable().open(&path).map_err(OpenError::io("open", &path))?;
            files::tighten(&path, &file);
            let head = Head::reasons(log, named);
            if read_head(&path, &file)?.is_some_and(|found| found != head) {
                set_aside(&path, "it belongs to another store, or to another generation")?;
            } else if named == generation && needed {
                opened = Some(Self { head, file: Arc::new(file) });
            } else {
                fs::remove_file(&path).map_err(OpenError::io("delete", &path))?;
            }
        }
        if needed && opened.is_none() {
            let path = folder.join(Self::name(generation));
            tracing::error!(path = %path.display(), "the file of reasons is missing; dead letters have no reasons any more");
        }
        Ok(opened)
    }

    pub(super) fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len().max(HEAD))
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Returns the reasons of a message, oldest first. `last` is the offset of the last one.
    pub(super) fn read(&self, position: u64, last: NonZeroU64) -> Vec<FailedAttempt> {
        let (mut attempts, mut next) = (Vec::new(), Some(last));
        while let Some(offset) = next.filter(|_| attempts.len() < REASONS.into()) {
            let Some((attempt, previous)) = self.read_one(position, offset.get()) else {
                attempts.push(unknown());
                break;
            };
            attempts.push(attempt);
            // Offsets fall, so that a damaged file is no endless loop.
            next = previous.filter(|previous| *previous < offset);
        }
        attempts.reverse();
        attempts
    }

    fn read_one(&self, position: u64, offset: u64) -> Option<(FailedAttempt, Option<NonZeroU64>)> {
        let key = self.head.key();
        let mut bytes = [0; OVERHEAD + REASON_BYTES];
        let read = read_full(&self.file, &mut bytes, offset).ok()?;
        let header = Header::read(&bytes[..read], &key, offset)?;
        let payload = bytes[..read].get(RECORD_HEADER..RECORD_HEADER.checked_add(header.len as usize)?)?;
        if header.position != position || !header.matches(payload, &key) {
            return None;
        }
        let Reason { previous, at, reason } = postcard::from_bytes(payload).ok()?;
        Some((FailedAttempt::new(at, reason.into()), previous))
    }
}

/// The end of the file of reasons, for writing.
#[derive(Debug)]
pub(super) struct ReasonWriter {
    pub(super) reasons: Reasons,
    len: u64,
    buffer: Vec<u8>,
    /// Whether a write was not synced yet.
    is_dirty: bool,
    /// The length below which the file is not rewritten.
    rewritten_from: u64,
}

impl ReasonWriter {
    pub(super) fn new(reasons: Reasons) -> io::Result<Self> {
        let len = reasons.len()?;
        Ok(Self { reasons, len, buffer: Vec::new(), is_dirty: false, rewritten_from: 0 })
    }

    /// Whether the file is worth a rewrite when so many bytes of it are needed.
    pub(super) fn is_rewrite_due(&self, needed: u64) -> bool {
        self.len > needed.saturating_mul(2).saturating_add(GARBAGE_BYTES).max(self.rewritten_from)
    }

    /// Lets the file grow before the next rewrite.
    pub(super) fn postpone_rewrite(&mut self) {
        self.rewritten_from = self.len.saturating_add(GARBAGE_BYTES);
    }

    /// Adds the reasons of a message to the next [`write`](Self::write); `previous` is the offset of the reason before them.
    /// Returns the offset of the last one.
    pub(super) fn push(
        &mut self,
        position: u64,
        attempts: &[FailedAttempt],
        mut previous: Option<NonZeroU64>,
    ) -> Option<NonZeroU64> {
        let key = self.reasons.head.key();
        for FailedAttempt { at, reason, .. } in attempts {
            let start = self.buffer.len();
            let offset = self.len + start as u64;
            // The format has no times before 1970.
            let at = (*at).max(SystemTime::UNIX_EPOCH);
            let payload = Reason { previous, at, reason };
            let pushed = push_record(&mut self.buffer, key.payload, true, |records| {
                let taken = std::mem::take(records);
                *records = postcard::to_extend(&payload, taken).map_err(BoxError::from)?;
                Ok(())
            });
            pushed.expect("a reason can be serialised");
            assign_positions(&mut self.buffer[start..], &key, offset, position);
            previous = NonZeroU64::new(offset);
        }
        previous
    }

    /// Returns the number of bytes of the next write.
    pub(super) fn buffered(&self) -> usize {
        self.buffer.len()
    }

    /// Writes the added reasons. After an error the file is as it was before.
    pub(super) fn write(&mut self) -> io::Result<()> {
        let written = write_at(&self.reasons.file, &self.buffer, self.len);
        if written.is_ok() {
            self.len += self.buffer.len() as u64;
            self.is_dirty = true;
        } else {
            let _ = self.reasons.file.set_len(self.len);
        }
        self.buffer = Vec::new();
        written
    }

    pub(super) fn sync(&mut self) -> io::Result<()> {
        if self.is_dirty {
            self.reasons.sync()?;
            self.is_dirty = false;
        }
        Ok(())
    }
}
