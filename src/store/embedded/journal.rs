//! The journal: the file `state` with a snapshot of the index, and the events after it; and the file of reasons.

use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::event::Event;
use super::reasons::{ReasonWriter, Reasons, Waiting};
use super::shared::StoreShared;
use crate::log::files::{self, sync_folder, write_error};
use crate::log::format::HEAD;
use crate::log::head::Head;
use crate::log::record::assign_positions;
use crate::util::crash;

/// The name of the journal, and of the next one while it is written.
pub(super) const JOURNAL: &str = "state";
pub(super) const NEW_JOURNAL: &str = "state.new";

/// The wait before the next try to write a broken journal.
pub(super) const RETRY: Duration = Duration::from_secs(1);

/// How often a snapshot writes the reasons that came meanwhile.
const REASON_TRIES: u8 = 3;

/// The least number of bytes of events after which a snapshot replaces them.
const EVENT_BYTES: u64 = 16 << 20;

#[derive(Debug)]
pub(super) struct Journal {
    shared: Arc<StoreShared>,
    /// The open file; `None` after a failed write, until a snapshot replaces it.
    file: Option<File>,
    len: u64,
    /// The number of the next event in the file.
    next_event: u64,
    snapshot_len: u64,
    /// The time of the next try after a failure.
    next_try: Option<Instant>,
    /// The end of the file of reasons; `None` until there is a reason.
    reasons: Option<ReasonWriter>,
}

impl Journal {
    /// Begins with a fresh snapshot. On a full disk the old journal stays until there is room.
    ///
    /// # Errors
    /// The journal cannot be written for another reason than a full disk.
    pub(super) fn open(shared: Arc<StoreShared>) -> io::Result<Self> {
        let mut journal = Self {
            shared,
            file: None,
            len: 0,
            next_event: 0,
            snapshot_len: 0,
            next_try: None,
            reasons: None,
        };
        match journal.snapshot(None) {
            Err(error) if files::is_full(&error) => journal.fail(&error),
            written => written?,
        }
        Ok(journal)
    }

    pub(super) fn next_try(&self) -> Option<Instant> {
        self.next_try
    }

    /// Whether the next try after a failure is due.
    pub(super) fn is_retry_due(&self, now: Instant) -> bool {
        self.next_try.is_some_and(|next_try| next_try <= now)
    }

    /// Writes the events that wait.
    pub(super) fn write(&mut self) {
        // Under one lock, so that no event lacks its reason.
        let (later, waiting) = {
            let mut index = self.shared.lock();
            index.journal_since = None;
            (std::mem::take(&mut index.journal), index.waiting_reasons())
        };
        let offsets = self.write_reasons(waiting);
        let mut events = Vec::new();
        if !offsets.is_empty() {
            // First: of a journal that breaks off, no dead letter is read without its reason.
            Event::Reasons(offsets).write(&mut events, Head::journal(self.shared.log).key().payload);
        }
        if events.is_empty() {
            events = later
        } else {
            events.extend_from_slice(&later)
        }
        let Some(file) = &mut self.file else { return };
        if events.is_empty() {
            return;
        }
        let key = Head::journal(self.shared.log).key();
        self.next_event = assign_positions(&mut events, &key, self.len, self.next_event);
        crash::point("settled_before_journal");
        #[cfg(feature = "_crash_points")]
        if crash::armed("journal_half_written") {
            let _ = file.write_all(&events[..events.len() / 2]);
            std::process::abort();
        }
        match file.write_all(&events) {
            Ok(()) => self.len += events.len() as u64,
            Err(error) => self.fail(&error),
        }
    }

    /// Makes the events, and the reasons, durable.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        if let Some(reasons) = &mut self.reasons {
            reasons.sync()?;
        }
        match &self.file {
            Some(file) => file.sync_data(),
            None => Err(io::Error::other("an earlier write failed")),
        }
    }

    /// Marks the journal as broken. The index is then ahead of it, until a snapshot replaces it.
    pub(super) fn fail(&mut self, error: &io::Error) {
        // Logged once, not at each try.
        if self.next_try.is_none() {
            tracing::error!(
                error = %write_error(&self.shared.folder.join(JOURNAL).display(), error),
                "could not write the journal; messages that were confirmed are sent again if the process dies now"
            );
        }
        let mut index = self.shared.lock();
        index.journal_broken = true;
        index.journal.clear();
        index.journal_since = None;
        drop(index);
        self.file = None;
        self.next_try = Some(Instant::now() + RETRY);
    }

    /// Whether a write has failed, so that a snapshot must replace the file.
    pub(super) fn is_broken(&self) -> bool {
        self.file.is_none()
    }

    /// Whether the events take so much room that a snapshot is worth writing.
    pub(super) fn is_snapshot_due(&self) -> bool {
        !self.is_broken() && self.len > self.snapshot_len + EVENT_BYTES.max(self.snapshot_len)
    }

    /// Replaces the journal by a snapshot; after a failure the journal is broken.
    pub(super) fn snapshot_or_fail(&mut self) {
        if let Err(error) = self.snapshot(None) {
            self.fail(&error);
        }
    }

    /// Replaces the journal by a snapshot. `end` has the base and the length of the last segment of a store that is closed.
    pub(super) fn snapshot(&mut self, end: Option<(u64, u64)>) -> io::Result<()> {
        let bytes = self.copy_index(end);
        self.replace(&bytes)
    }

    /// Encodes the index as a new journal, and writes the reasons that it refers to. Events from now on belong behind it.
    pub(super) fn copy_index(&mut self, end: Option<(u64, u64)>) -> Vec<u8> {
        let head = Head::journal(self.shared.log);
        let mut bytes = head.to_bytes().to_vec();
        // A disk that refuses the reasons does not keep the snapshot from being written.
        for _ in 0..REASON_TRIES {
            let waiting = self.shared.lock().waiting_reasons();
            if waiting.is_empty() {
                break;
            }
            self.write_reasons(waiting);
            if let Some(Err(error)) = self.reasons.as_mut().map(ReasonWriter::sync) {
                tracing::debug!(%error, "could not sync the reasons of failures");
            }
        }
        let mut index = self.shared.lock();
        index.snapshot(end, &mut bytes);
        index.journal.clear();
        index.journal_since = None;
        index.journal_broken = false;
        drop(index);
        assign_positions(&mut bytes[HEAD as usize..], &head.key(), HEAD, 0);
        bytes
    }

    /// Replaces the file by these bytes.
    pub(super) fn replace(&mut self, bytes: &[u8]) -> io::Result<()> {
        let folder = &self.shared.folder;
        let (path, fresh) = (folder.join(JOURNAL), folder.join(NEW_JOURNAL));
        let mut file = files::create(&fresh)?;
        if let Err(error) = file.write_all(bytes).and_then(|()| file.sync_all()) {
            // The disk may be full; half a snapshot must not take room.
            let _ = std::fs::remove_file(&fresh);
            return Err(error);
        }
        crash::point("snapshot_before_rename");
        std::fs::rename(&fresh, &path)?;
        crash::point("snapshot_after_rename");
        sync_folder(folder)?;
        self.file = Some(file);
        self.len = bytes.len() as u64;
        self.next_event = 1;
        self.snapshot_len = self.len;
        self.next_try = None;
        Ok(())
    }

    /// Writes these reasons; returns the positions, and the offsets of their last reasons. A failure does not keep the events
    /// from being written.
    fn write_reasons(&mut self, waiting: Vec<Waiting>) -> Vec<(u64, u64)> {
        if waiting.is_empty() {
            return Vec::new();
        }
        let written = (|| {
            let reasons = self.open_reasons()?;
            let mut written = Vec::with_capacity(waiting.len());
            for Waiting { position, attempts, previous } in waiting {
                written.push((position, attempts.len(), reasons.push(position, &attempts, previous)));
            }
            reasons.write()?;
            Ok::<_, io::Error>(written)
        })();
        let mut index = self.shared.lock();
        match written {
            Ok(written) => index.reasons_written(written),
            Err(error) => {
                index.waiting_reasons.trim();
                tracing::debug!(%error, "could not write the reasons of failures; the next write retries");
                Vec::new()
            }
        }
    }

    fn open_reasons(&mut self) -> io::Result<&mut ReasonWriter> {
        if self.reasons.is_none() {
            let mut index = self.shared.lock();
            let reasons = match &index.reasons {
                Some(reasons) => reasons.clone(),
                None => {
                    let reasons = Reasons::create(&self.shared.folder, self.shared.log, index.generation)?;
                    sync_folder(&self.shared.folder)?;
                    index.reasons.insert(reasons).clone()
                }
            };
            drop(index);
            self.reasons = Some(ReasonWriter::new(reasons)?);
        }
        self.reasons.as_mut().ok_or_else(|| io::Error::other("the file of reasons is not open"))
    }

    /// Whether most of the file of reasons is no longer needed.
    pub(super) fn is_rewrite_due(&self) -> bool {
        let Some(reasons) = &self.reasons else { return false };
        !self.is_broken() && reasons.is_rewrite_due(self.shared.lock().reason_bytes)
    }

    /// Writes the reasons that are still needed into a new file.
    pub(super) fn rewrite_reasons(&mut self) {
        let Some(reasons) = &self.reasons else { return };
        let old = reasons.reasons.generation();
        let generation = old.wrapping_add(1);
        if let Err(error) = self.copy_reasons(generation) {
            let _ = std::fs::remove_file(self.shared.folder.join(Reasons::name(generation)));
            if let Some(reasons) = &mut self.reasons {
                reasons.postpone_rewrite();
            }
            tracing::warn!(
                folder = %self.shared.folder.display(), %error,
                "could not rewrite the file of reasons; retrying when it has grown"
            );
            return;
        }
        // The old journal refers to the old file.
        match self.snapshot(None) {
            // A file that cannot be deleted now is deleted at the next start.
            Ok(()) => drop(std::fs::remove_file(self.shared.folder.join(Reasons::name(old)))),
            Err(error) => self.fail(&error),
        }
    }

    fn copy_reasons(&mut self, generation: u64) -> io::Result<()> {
        let Some(old) = self.reasons.as_ref().map(|old| old.reasons.clone()) else { return Ok(()) };
        let needed: Vec<_> = {
            let index = self.shared.lock();
            index.retries.iter().filter_map(|(position, retry)| Some((*position, retry.reason?))).collect()
        };
        let reasons = Reasons::create(&self.shared.folder, self.shared.log, generation)?;
        let mut fresh = ReasonWriter::new(reasons)?;
        let mut copied = Vec::with_capacity(needed.len());
        for (position, last) in needed {
            let before = fresh.buffered();
            let offset = fresh.push(position, &old.read(position, last), None);
            let bytes = u32::try_from(fresh.buffered() - before).unwrap_or(u32::MAX);
            copied.push((position, offset, bytes));
            if fresh.buffered() >= 1 << 20 {
                fresh.write()?;
            }
        }
        fresh.write()?;
        fresh.sync()?;
        self.shared.lock().reasons_rewritten(fresh.reasons.clone(), copied);
        self.reasons = Some(fresh);
        Ok(())
    }
}
