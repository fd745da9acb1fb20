//! Why attempts failed: on disk, since there may be a million dead letters.
//!
//! The file is `reasons-` and its generation. Its records are those of [`record`](super::record) with the positions of the
//! messages; each says where the one before it of the same message stands. They are read by their places, which the journal
//! knows. A file of which most is no longer needed is written anew as the next generation.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::num::NonZeroU64;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::error::OpenError;
use super::files;
use super::head::{HEAD, Head};
use super::inventory::{read_head, set_aside};
use super::record::{self, HEADER, Header};
use super::scan::read_full;
use super::writer::write_at;
use crate::message::FailedAttempt;
use crate::message::headers::start_of;
use crate::util::error::BoxError;

/// In the place of a reason that is not on disk, or no longer whole.
pub(super) fn unknown() -> FailedAttempt {
    FailedAttempt::new(
        SystemTime::UNIX_EPOCH,
        "the reason can no longer be read: its file is missing or damaged".into(),
    )
}

/// How many of a message are kept.
pub(super) const REASONS: u8 = 5;

/// How many bytes of a reason are kept.
const REASON_BYTES: usize = 1_024;

/// How large the file gets beyond twice what is needed of it.
const GARBAGE_BYTES: u64 = 4 << 20;

/// How many may wait to be written when the disk takes none.
const WAITING: usize = 4_096;

/// How much a record has beside its reason, at most.
const BESIDE: usize = HEADER + 40;

/// What a record says.
#[derive(Serialize, Deserialize)]
struct Reason<'a> {
    previous: Option<NonZeroU64>,
    at: SystemTime,
    reason: &'a str,
}

/// Those that are not on disk yet, by position.
#[derive(Debug, Default)]
pub(super) struct Waiting(BTreeMap<u64, Vec<FailedAttempt>>);

impl Waiting {
    /// Takes one, cut to its length; gives how many bytes it will have.
    pub(super) fn push(&mut self, position: u64, at: SystemTime, reason: &Arc<str>) -> u32 {
        let cut = start_of(reason, REASON_BYTES);
        let reason = if cut.len() < reason.len() { cut.into() } else { Arc::clone(reason) };
        self.0.entry(position).or_default().push(FailedAttempt::new(at, reason));
        (BESIDE + cut.len()) as u32
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

    pub(super) fn copy(&self) -> Vec<(u64, Vec<FailedAttempt>)> {
        self.0.iter().map(|(position, attempts)| (*position, attempts.clone())).collect()
    }

    /// The first of a message, so many, are on disk.
    pub(super) fn written(&mut self, position: u64, count: usize) {
        if let Some(attempts) = self.0.get_mut(&position) {
            attempts.drain(..count.min(attempts.len()));
            if attempts.is_empty() {
                self.0.remove(&position);
            }
        }
    }

    /// The disk takes none: memory is for the last.
    pub(super) fn not_written(&mut self) {
        while self.0.len() > WAITING {
            self.0.pop_first();
        }
        for attempts in self.0.values_mut() {
            attempts.drain(..attempts.len().saturating_sub(REASONS.into()));
        }
    }
}

/// The file, as it is read.
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

    /// Begins a generation.
    pub(super) fn create(folder: &Path, store: u64, generation: u64) -> io::Result<Self> {
        let head = Head::reasons(store, generation);
        let path = folder.join(Self::name(generation));
        let file = files::create(&path)?;
        if let Err(error) = write_at(&file, &head.to_bytes(), 0) {
            let _ = fs::remove_file(&path);
            return Err(error);
        }
        Ok(Self { head, file: Arc::new(file) })
    }

    /// Opens this generation if there is anything in it that is needed, and deletes the others.
    pub(super) fn open(
        folder: &Path,
        store: u64,
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
            let head = Head::reasons(store, named);
            if read_head(&path, &file)?.is_some_and(|found| found != head) {
                set_aside(&path, "it is of another outbox, or of another time of this one")?;
            } else if named == generation && needed {
                opened = Some(Self { head, file: Arc::new(file) });
            } else {
                fs::remove_file(&path).map_err(OpenError::io("delete", &path))?;
            }
        }
        if needed && opened.is_none() {
            let path = folder.join(Self::name(generation));
            tracing::error!(path = %path.display(), "the file of reasons is missing: dead letters no longer say why they failed");
        }
        Ok(opened)
    }

    pub(super) fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len().max(HEAD))
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// The reasons of a message, oldest first, the last of which stands there.
    pub(super) fn read(&self, position: u64, last: NonZeroU64) -> Vec<FailedAttempt> {
        let (mut attempts, mut next) = (Vec::new(), Some(last));
        while let Some(place) = next.filter(|_| attempts.len() < REASONS.into()) {
            let Some((attempt, previous)) = self.read_one(position, place.get()) else {
                attempts.push(unknown());
                break;
            };
            attempts.push(attempt);
            // Each stands behind the one before it.
            next = previous.filter(|previous| *previous < place);
        }
        attempts.reverse();
        attempts
    }

    fn read_one(&self, position: u64, place: u64) -> Option<(FailedAttempt, Option<NonZeroU64>)> {
        let key = self.head.key();
        let mut bytes = [0; BESIDE + REASON_BYTES];
        let read = read_full(&self.file, &mut bytes, place).ok()?;
        let header = Header::read(&bytes[..read], &key, place)?;
        let payload = bytes[..read].get(HEADER..HEADER.checked_add(header.len as usize)?)?;
        if header.position != position || !header.is_of(payload, &key) {
            return None;
        }
        let Reason { previous, at, reason } = postcard::from_bytes(payload).ok()?;
        Some((FailedAttempt::new(at, reason.into()), previous))
    }
}

/// The end of the file, where it is written.
#[derive(Debug)]
pub(super) struct End {
    pub(super) reasons: Reasons,
    len: u64,
    buffer: Vec<u8>,
    /// Whether something was written that is not synced.
    is_dirty: bool,
    /// The least length at which it is written anew.
    rewritten_from: u64,
}

impl End {
    pub(super) fn new(reasons: Reasons) -> io::Result<Self> {
        let len = reasons.len()?;
        Ok(Self { reasons, len, buffer: Vec::new(), is_dirty: false, rewritten_from: 0 })
    }

    /// Whether it is worth to write it anew, when so much of it is needed.
    pub(super) fn is_worth_rewriting(&self, needed: u64) -> bool {
        self.len > needed.saturating_mul(2).saturating_add(GARBAGE_BYTES).max(self.rewritten_from)
    }

    /// Lets it grow first.
    pub(super) fn put_off_rewriting(&mut self) {
        self.rewritten_from = self.len.saturating_add(GARBAGE_BYTES);
    }

    /// Appends the reasons of a message behind the one that stands at `previous`; gives where the last of them will stand
    /// once [`write`](Self::write) has been called.
    pub(super) fn push(
        &mut self,
        position: u64,
        attempts: &[FailedAttempt],
        mut previous: Option<NonZeroU64>,
    ) -> Option<NonZeroU64> {
        let key = self.reasons.head.key();
        for FailedAttempt { at, reason, .. } in attempts {
            let start = self.buffer.len();
            let place = self.len + start as u64;
            // A clock before 1970 is no reason to lose the reason.
            let at = (*at).max(SystemTime::UNIX_EPOCH);
            let said = Reason { previous, at, reason };
            let pushed = record::push(&mut self.buffer, key.payload, true, |records| {
                let taken = std::mem::take(records);
                *records = postcard::to_extend(&said, taken).map_err(BoxError::from)?;
                Ok(())
            });
            pushed.expect("a reason can be serialised");
            record::place(&mut self.buffer[start..], &key, place, position);
            previous = NonZeroU64::new(place);
        }
        previous
    }

    pub(super) fn waiting(&self) -> usize {
        self.buffer.len()
    }

    /// Writes what was pushed; or nothing.
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
