//! The thread that writes: whatever batches wait become one write and one sync.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedSender;

use super::compact;
use super::error::OpenError;
use super::event::Event;
use super::files;
use super::head::{HEAD, Head};
use super::reasons::{End, Reasons};
use super::record;
use super::segment::Segment;
use super::state::{Append, Reply, State};
use crate::store::{StoreError, Unstored};
use crate::util::crash;
use crate::util::error::BoxError;

/// How much of a file is written ahead, at least and at most.
const PREPARED: std::ops::Range<u64> = (64 << 10)..(1 << 20);

/// The name of the journal.
pub(super) const JOURNAL: &str = "state";

/// How long requests are turned away after the disk refused a write, and until a broken journal is tried again.
const REFUSED: Duration = Duration::from_secs(1);

/// How long it may take until what left is noted, and at how many bytes it is noted at once.
const NOTED: Duration = Duration::from_millis(5);
pub(super) const NOTED_BYTES: usize = 32 << 10;

/// How large the journal gets beyond its snapshot before there is a new one.
const JOURNAL_BYTES: u64 = 16 << 20;

/// What the store and its threads share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) folder: PathBuf,
    pub(super) segment_bytes: u64,
    /// The store's random number.
    pub(super) store: u64,
    state: Mutex<State>,
    /// Wakes the writer.
    work: Condvar,
    /// The thread that rewrites files.
    pub(super) compaction: Mutex<Option<JoinHandle<()>>>,
    /// Wakes those who lease.
    pub(super) changed: Notify,
    /// To a task that answers: a task wakes others much cheaper than a thread does. Without it the writer does.
    replies: UnboundedSender<Vec<Reply>>,
}

impl Shared {
    pub(super) fn new(
        folder: PathBuf,
        segment_bytes: u64,
        store: u64,
        state: State,
        replies: UnboundedSender<Vec<Reply>>,
    ) -> Self {
        Self {
            folder,
            segment_bytes,
            store,
            state: Mutex::new(state),
            work: Condvar::new(),
            compaction: Mutex::default(),
            changed: Notify::new(),
            replies,
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the checksums of payloads begin with.
    pub(super) fn seed(&self) -> u32 {
        Head::journal(self.store).key().payload
    }

    /// Wakes the writer.
    pub(super) fn work(&self) {
        self.work.notify_one();
    }

    /// Waits until all that was noted is on disk. Blocks.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        let (sender, synced) = std::sync::mpsc::channel();
        self.lock().syncs.push(sender);
        self.work();
        match synced.recv() {
            Ok(result) => result.map_err(StoreError::unavailable),
            Err(_) => Err(StoreError::Closed),
        }
    }
}

/// Writes until the store is closed.
pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    /// The file that is written, its head and its length.
    file: Arc<File>,
    head: Head,
    len: u64,
    /// Up to where it has its length and its blocks.
    prepared: u64,
    /// None while it cannot be written.
    journal: Option<File>,
    journal_len: u64,
    /// The number of the next event.
    events: u64,
    /// Where reasons are written, once there was one.
    reasons: Option<End>,
    /// How long the snapshot was.
    snapshot_len: u64,
    /// What is to be written next: kept, for its memory.
    buffer: Vec<u8>,
    next_try: Option<Instant>,
    /// Files whose messages have all left, and which are still there.
    empty: Vec<u64>,
    /// Held for its lock.
    lock: File,
}

/// What there is to do.
struct Work {
    appends: Vec<Append>,
    journal_broken: bool,
    syncs: Vec<std::sync::mpsc::Sender<Result<(), String>>>,
    empty: Vec<u64>,
    ended: bool,
    next: u64,
}

/// A process that is being forked may hold a copy of the file, which would keep the lock for a moment.
impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.lock.unlock();
    }
}

impl Writer {
    /// Goes on with the last file, and begins with a fresh snapshot.
    pub(super) fn open(shared: Arc<Shared>, lock: File) -> Result<Self, OpenError> {
        let last = shared
            .lock()
            .segments
            .last_key_value()
            .map(|(_, segment)| (Arc::clone(&segment.file), segment.head, segment.len));
        let (file, head, len) = last.expect("a file is open");
        let mut writer = Self {
            shared,
            file,
            head,
            len,
            prepared: len,
            journal: None,
            journal_len: 0,
            events: 0,
            reasons: None,
            snapshot_len: 0,
            buffer: Vec::new(),
            next_try: None,
            empty: Vec::new(),
            lock,
        };
        match writer.snapshot(None) {
            Ok(()) => {}
            // There will be room again; until then the old journal says what it said.
            Err(error) if is_full(&error) => writer.journal_failed(&error),
            Err(error) => return Err(OpenError::io("write", &writer.shared.folder.join(JOURNAL))(error)),
        }
        Ok(writer)
    }

    /// Until the store is closed.
    pub(super) fn run(mut self) {
        let _ending = Ending(Arc::clone(&self.shared));
        loop {
            let work = self.wait();
            let ended = work.ended && work.appends.is_empty();
            self.append(work.appends, work.next);
            self.write_journal(work.journal_broken);
            if !work.syncs.is_empty() {
                let synced = self
                    .sync_journal()
                    .map_err(|error| explained("the journal of the outbox", &error).to_string());
                for sync in work.syncs {
                    let _ = sync.send(synced.clone());
                }
            }
            self.empty.extend(work.empty);
            self.delete();
            self.compact_reasons();
            if self.journal_len > self.snapshot_len + JOURNAL_BYTES.max(self.snapshot_len) {
                let written = self.snapshot(None);
                self.note(written);
            }
            if ended {
                self.trim();
                let base = self.shared.lock().segments.last_key_value().map(|(base, _)| *base);
                if let Err(error) = self.snapshot(base.map(|base| (base, self.len))) {
                    tracing::warn!(error = %explained("the journal of the outbox", &error), "the outbox is not closed in order");
                }
                return;
            }
        }
    }

    fn wait(&mut self) -> Work {
        let mut state = self.shared.lock();
        loop {
            let now = Instant::now();
            if state.refused_until.is_some_and(|until| until <= now) {
                state.refused_until = None;
                state.admit();
            }
            let try_again = self.next_try.is_some_and(|next_try| next_try <= now);
            // What left may be noted a little later, with what is stored next.
            let note_by =
                state.journal_since.map(|since| since + NOTED).filter(|_| state.journal.len() < NOTED_BYTES);
            let idle = state.queue.is_empty()
                && (state.journal.is_empty() || note_by.is_some_and(|by| by > now))
                && state.syncs.is_empty()
                && state.empty.is_empty();
            if !idle || state.ended || try_again {
                let next = state.next;
                return Work {
                    appends: state.take_queue(),
                    journal_broken: state.journal_broken
                        && (try_again || state.ended || !state.syncs.is_empty()),
                    syncs: std::mem::take(&mut state.syncs),
                    empty: std::mem::take(&mut state.empty),
                    ended: state.ended,
                    next,
                };
            }
            let note_by = note_by.filter(|_| !state.journal.is_empty());
            let timers = [self.next_try, state.refused_until, note_by];
            state = match timers.into_iter().flatten().min() {
                None => self.shared.work.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(until) => {
                    let wait = until.saturating_duration_since(now);
                    self.shared.work.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Writes the batches and syncs once; then each is answered.
    fn append(&mut self, mut appends: Vec<Append>, first: u64) {
        if appends.is_empty() {
            return;
        }
        crash::point("append_before_write");
        match self.commit(&mut appends, first) {
            Ok(offset) => {
                crash::point("append_before_reply");
                let mut replies = Vec::with_capacity(appends.len());
                let batches = appends.into_iter().map(|mut append| {
                    replies.extend(append.reply.take());
                    (std::mem::take(&mut append.batch), append.records.len() as u64)
                });
                self.shared.lock().stored(offset, batches);
                self.shared.changed.notify_waiters();
                if let Err(unsent) = self.shared.replies.send(replies) {
                    answer(unsent.0);
                }
            }
            Err(error) => {
                let messages = appends.iter().map(|append| append.batch.len() as u64).sum();
                let bytes = appends.iter().map(|append| append.records.len() as u64).sum();
                let path = self.shared.folder.display().to_string();
                tracing::error!(error = %explained(&path, &error), messages, "messages cannot be stored");
                {
                    let mut state = self.shared.lock();
                    state.refused_until = Some(Instant::now() + REFUSED);
                    state.not_stored(messages, bytes);
                }
                for mut append in appends {
                    let (reply, batch) = (append.reply.take(), std::mem::take(&mut append.batch));
                    let error = StoreError::unavailable(explained(&path, &error));
                    let _ = reply.map(|reply| reply.send(Err(Unstored::new(error, batch))));
                }
            }
        }
        if self.buffer.capacity() > 16 << 20 {
            self.buffer = Vec::new();
        }
    }

    /// Makes batches durable, and gives where they stand; or leaves the file as it was.
    fn commit(&mut self, appends: &mut [Append], first: u64) -> io::Result<u64> {
        if self.len > HEAD && self.len >= self.shared.segment_bytes {
            crash::point("segment_before_roll");
            self.roll(first)?;
        }
        let (offset, key, mut position) = (self.len, self.head.key(), first);
        self.buffer.clear();
        for append in appends {
            let at = offset + self.buffer.len() as u64;
            position = record::place(&mut append.records, &key, at, position);
            self.buffer.extend_from_slice(&append.records);
        }
        self.prepare();
        #[cfg(feature = "_crash_points")]
        if crash::armed("append_half_written") {
            let _ = write_at(&self.file, &self.buffer[..self.buffer.len() / 2], offset);
            std::process::abort();
        }
        if let Err(error) = write_at(&self.file, &self.buffer, offset) {
            self.prepared = offset;
            if self.file.set_len(offset).is_err() {
                self.abandon(first);
            }
            return Err(error);
        }
        crash::point("append_before_sync");
        if let Err(error) = self.file.sync_data() {
            // What the file holds now is not known: nothing more goes into it.
            let _ = self.file.set_len(offset);
            self.abandon(first);
            return Err(error);
        }
        self.len += self.buffer.len() as u64;
        Ok(offset)
    }

    /// Writes zeros where the next batches will stand: a sync that changes neither the length of a file nor its blocks
    /// costs about half.
    fn prepare(&mut self) {
        let end = self.len + self.buffer.len() as u64;
        if end <= self.prepared {
            return;
        }
        let step = (self.len / 4).clamp(PREPARED.start, PREPARED.end);
        self.prepared = self.write_zeros(self.prepared.max(self.len), end + step).unwrap_or_else(|_| {
            // What room there is goes to messages.
            let _ = self.file.set_len(self.len);
            u64::MAX
        });
    }

    /// Gives up to where. Page by page: what is written at once the kernel may keep as one piece, and then write all of
    /// it for a byte that changes.
    fn write_zeros(&self, mut from: u64, to: u64) -> io::Result<u64> {
        const PAGE: [u8; 4096] = [0; 4096];
        while from < to {
            let piece = PAGE.len() - from as usize % PAGE.len();
            write_at(&self.file, &PAGE[..piece], from)?;
            from += piece as u64;
        }
        Ok(from)
    }

    /// Gives back what was written ahead.
    fn trim(&mut self) {
        if self.prepared > self.len && self.file.set_len(self.len).is_ok() {
            self.prepared = self.len;
        }
    }

    /// Takes a new file next time.
    fn abandon(&mut self, first: u64) {
        self.len = u64::MAX;
        if let Err(error) = self.roll(first) {
            tracing::error!(%error, "no new file could be begun; it is tried again");
        }
    }

    /// Begins a new file, with the position `first`.
    fn roll(&mut self, first: u64) -> io::Result<()> {
        self.trim();
        let path = self.shared.folder.join(Segment::name(first));
        let head = Head::log(self.shared.store, first, None);
        let (file, len) = create(&path, head)?;
        sync_folder(&self.shared.folder)?;
        let mut state = self.shared.lock();
        let sealed = state.segments.last_entry().map(|entry| (*entry.key(), entry.get().live));
        match sealed {
            // One that was begun and got nothing is replaced.
            Some((base, _)) if base == first => {}
            Some((base, 0)) => state.empty.push(base),
            _ => {}
        }
        let segment = Segment::new(head, path, Arc::clone(&file), len);
        state.segments.insert(first, segment);
        state.log(&Event::Begun(first));
        drop(state);
        (self.file, self.head, self.len, self.prepared) = (file, head, len, len);
        compact::begin(&self.shared);
        Ok(())
    }

    fn write_journal(&mut self, try_again: bool) {
        // First: the journal says where they stand.
        self.write_reasons();
        if try_again {
            let written = self.snapshot(None);
            self.note(written);
            return;
        }
        let mut events = {
            let mut state = self.shared.lock();
            state.journal_since = None;
            std::mem::take(&mut state.journal)
        };
        let Some(journal) = &mut self.journal else { return };
        if events.is_empty() {
            return;
        }
        let key = Head::journal(self.shared.store).key();
        self.events = record::place(&mut events, &key, self.journal_len, self.events);
        crash::point("settled_before_journal");
        #[cfg(feature = "_crash_points")]
        if crash::armed("journal_half_written") {
            let _ = journal.write_all(&events[..events.len() / 2]);
            std::process::abort();
        }
        match journal.write_all(&events) {
            Ok(()) => self.journal_len += events.len() as u64,
            Err(error) => self.journal_failed(&error),
        }
    }

    /// Writes reasons that wait. That one cannot be written is no reason not to note the rest.
    fn write_reasons(&mut self) {
        let waiting = {
            let state = self.shared.lock();
            if state.waiting.is_empty() {
                return;
            }
            let previous = |position| state.fates.get(&position).and_then(|fate| fate.reason);
            let waiting = state.waiting.copy().into_iter();
            waiting.map(|(position, attempts)| (position, attempts, previous(position))).collect::<Vec<_>>()
        };
        let written = (|| {
            let end = self.end_of_reasons()?;
            let mut written = Vec::with_capacity(waiting.len());
            for (position, attempts, previous) in waiting {
                written.push((position, attempts.len(), end.push(position, &attempts, previous)));
            }
            end.write()?;
            Ok::<_, io::Error>(written)
        })();
        let mut state = self.shared.lock();
        match written {
            Ok(written) => state.reasons_written(written),
            Err(error) => {
                state.waiting.not_written();
                tracing::debug!(%error, "reasons of failures cannot be written; it is tried again");
            }
        }
    }

    fn end_of_reasons(&mut self) -> io::Result<&mut End> {
        if self.reasons.is_none() {
            let mut state = self.shared.lock();
            let reasons = match &state.reasons {
                Some(reasons) => reasons.clone(),
                None => {
                    let reasons = Reasons::create(&self.shared.folder, self.shared.store, state.generation)?;
                    sync_folder(&self.shared.folder)?;
                    state.reasons.insert(reasons).clone()
                }
            };
            drop(state);
            self.reasons = Some(End::new(reasons)?);
        }
        self.reasons.as_mut().ok_or_else(|| io::Error::other("there is no file of reasons"))
    }

    /// Writes the file of reasons anew when most of it is no longer needed.
    fn compact_reasons(&mut self) {
        let Some(end) = &self.reasons else { return };
        if self.journal.is_none() || !end.is_worth_rewriting(self.shared.lock().reason_bytes) {
            return;
        }
        let old = end.reasons.generation();
        let generation = old.wrapping_add(1);
        if let Err(error) = self.rewrite_reasons(generation) {
            let _ = std::fs::remove_file(self.shared.folder.join(Reasons::name(generation)));
            if let Some(end) = &mut self.reasons {
                end.put_off_rewriting();
            }
            tracing::warn!(%error, "the file of reasons could not be written anew; it is tried again when it has grown");
            return;
        }
        // The journal knows the places of the last generation until there is a new one.
        match self.snapshot(None) {
            Ok(()) => {
                // What cannot be deleted now is at the next start.
                let _ = std::fs::remove_file(self.shared.folder.join(Reasons::name(old)));
            }
            Err(error) => self.journal_failed(&error),
        }
    }

    fn rewrite_reasons(&mut self, generation: u64) -> io::Result<()> {
        let Some(old) = self.reasons.as_ref().map(|end| end.reasons.clone()) else { return Ok(()) };
        let needed: Vec<_> = {
            let state = self.shared.lock();
            state.fates.iter().filter_map(|(position, fate)| Some((*position, fate.reason?))).collect()
        };
        let mut end = End::new(Reasons::create(&self.shared.folder, self.shared.store, generation)?)?;
        let mut places = Vec::with_capacity(needed.len());
        for (position, last) in needed {
            let before = end.waiting();
            let place = end.push(position, &old.read(position, last), None);
            places.push((position, place, u32::try_from(end.waiting() - before).unwrap_or(u32::MAX)));
            if end.waiting() >= 1 << 20 {
                end.write()?;
            }
        }
        end.write()?;
        end.sync()?;
        self.shared.lock().reasons_rewritten(end.reasons.clone(), places);
        self.reasons = Some(end);
        Ok(())
    }

    fn note(&mut self, written: io::Result<()>) {
        if let Err(error) = written {
            self.journal_failed(&error);
        }
    }

    /// From here on memory is ahead of the journal; a snapshot will bring it up.
    fn journal_failed(&mut self, error: &io::Error) {
        // It is said once, not at each further try.
        if self.next_try.is_none() {
            tracing::error!(
                error = %explained("the journal of the outbox", error),
                "what left the outbox cannot be noted; it would leave once more if the process died now"
            );
        }
        let mut state = self.shared.lock();
        state.journal_broken = true;
        state.journal.clear();
        drop(state);
        self.journal = None;
        self.next_try = Some(Instant::now() + REFUSED);
    }

    fn sync_journal(&mut self) -> io::Result<()> {
        if let Some(reasons) = &mut self.reasons {
            reasons.sync()?;
        }
        match &self.journal {
            Some(journal) => journal.sync_data(),
            None => Err(io::Error::other("it could not be written")),
        }
    }

    /// Replaces the journal by all there is to know.
    fn snapshot(&mut self, end: Option<(u64, u64)>) -> io::Result<()> {
        self.write_reasons();
        if let Some(Err(error)) = self.reasons.as_mut().map(End::sync) {
            tracing::debug!(%error, "reasons of failures cannot be synced");
        }
        let bytes = self.copy(end);
        self.replace(&bytes)
    }

    /// Copies all there is to know; from here on the journal goes on behind it.
    fn copy(&self, end: Option<(u64, u64)>) -> Vec<u8> {
        let head = Head::journal(self.shared.store);
        let mut bytes = head.to_bytes().to_vec();
        let mut state = self.shared.lock();
        state.snapshot(end, &mut bytes);
        // All of it is in the snapshot.
        state.journal.clear();
        // What happens while the snapshot is written must be noted behind it.
        state.journal_broken = false;
        drop(state);
        record::place(&mut bytes[HEAD as usize..], &head.key(), HEAD, 0);
        bytes
    }

    /// Puts a snapshot in the place of the journal.
    fn replace(&mut self, bytes: &[u8]) -> io::Result<()> {
        let (path, fresh) = (self.shared.folder.join(JOURNAL), self.shared.folder.join("state.new"));
        let mut file = files::create(&fresh)?;
        if let Err(error) = file.write_all(bytes).and_then(|()| file.sync_all()) {
            // Half of it is no use, and takes room that may be short.
            let _ = std::fs::remove_file(&fresh);
            return Err(error);
        }
        crash::point("snapshot_before_rename");
        std::fs::rename(&fresh, &path)?;
        crash::point("snapshot_after_rename");
        sync_folder(&self.shared.folder)?;
        self.journal = Some(file);
        self.journal_len = bytes.len() as u64;
        self.events = 1;
        self.snapshot_len = self.journal_len;
        self.next_try = None;
        self.delete();
        Ok(())
    }

    /// Deletes files whose messages have all left.
    fn delete(&mut self) {
        if self.empty.is_empty() {
            return;
        }
        let segments: Vec<Segment> = {
            let state = self.shared.lock();
            let last = state.segments.last_key_value().map(|(base, _)| *base);
            // One that was rewritten meanwhile has what was left of those after it.
            let is_empty = |base: &u64| state.segments.get(base).is_some_and(|segment| segment.live == 0);
            self.empty.retain(|base| Some(*base) != last && is_empty(base));
            self.empty.iter().filter_map(|base| state.segments.get(base).cloned()).collect()
        };
        if segments.is_empty() {
            return;
        }
        // That they have left must be known before a file is gone, or it would count as lost.
        if let Err(error) = self.sync_journal() {
            if self.journal.is_some() {
                self.journal_failed(&error);
            }
            // A head that says so does too, and the rest makes the room the journal may lack.
            for segment in segments {
                let emptied = Head { emptied: true, ..segment.head }.to_bytes();
                let _ = write_at(&segment.file, &emptied, 0).and_then(|()| segment.file.set_len(HEAD));
            }
            return;
        }
        for segment in segments {
            crash::point("segment_before_delete");
            if let Err(error) = std::fs::remove_file(&segment.path) {
                tracing::warn!(path = %segment.path.display(), %error, "a file of the outbox cannot be deleted");
            }
            let mut state = self.shared.lock();
            if state.segments.get(&segment.base).is_some_and(|known| known.path == segment.path) {
                state.segments.remove(&segment.base);
            }
        }
        self.empty.clear();
        compact::begin(&self.shared);
    }
}

/// Says to each that its batch is stored. Who asked may have gone: stored it is.
pub(super) fn answer(replies: Vec<Reply>) {
    for reply in replies {
        let _ = reply.send(Ok(()));
    }
}

/// A new file of messages, and its length.
pub(super) fn create(path: &Path, head: Head) -> io::Result<(Arc<File>, u64)> {
    let file = files::create(path)?;
    if let Err(error) = write_at(&file, &head.to_bytes(), 0).and_then(|()| file.sync_all()) {
        let _ = std::fs::remove_file(path);
        return Err(error);
    }
    Ok((Arc::new(file), HEAD))
}

/// Makes the names in a folder durable.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

#[cfg(unix)]
pub(super) fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}

#[cfg(windows)]
pub(super) fn write_at(mut file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    io::Seek::seek(&mut file, io::SeekFrom::Start(offset))?;
    file.write_all(bytes)
}

pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn explained(what: &str, error: &io::Error) -> BoxError {
    let cure = if is_full(error) { "; make room on that file system" } else { "" };
    format!("{what} cannot be written: {error}{cure}").into()
}

/// A writer that panics, as in a subscriber of the app's, closes its store: nobody waits for it.
struct Ending(Arc<Shared>);

impl Drop for Ending {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let mut state = self.0.lock();
        state.closed = true;
        state.syncs.clear();
        let queue = state.take_queue();
        state.admit();
        drop(state);
        // Each is answered as it is dropped.
        drop(queue);
        self.0.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::open::open;
    use super::super::settings::EmbeddedStoreSettings;
    use super::*;
    use crate::message::Message;

    fn batch(shared: &Shared, count: usize) -> Append {
        let batch: Vec<_> = (0..count).map(|_| Message::new("a", "").unwrap()).collect();
        let mut records = Vec::new();
        record::push_batch(&mut records, shared.seed(), &batch).unwrap();
        Append { records, batch, reply: None }
    }

    fn opened(settings: &EmbeddedStoreSettings) -> (Arc<Shared>, Writer) {
        open(settings, tokio::sync::mpsc::unbounded_channel().0).unwrap()
    }

    /// Writes what waits, as the thread does.
    fn write(shared: &Shared, writer: &mut Writer) {
        let (queue, next) = {
            let mut state = shared.lock();
            (state.take_queue(), state.next)
        };
        writer.append(queue, next);
        writer.write_journal(false);
    }

    #[test]
    fn a_writer_that_panics_keeps_nobody_waiting() {
        let folder = tempfile::tempdir().unwrap();
        let (shared, writer) = opened(&EmbeddedStoreSettings::new(folder.path().join("outbox")));
        let (reply, mut stored) = tokio::sync::oneshot::channel();
        let mut waiting = batch(&shared, 1);
        waiting.reply = Some(reply);
        shared.lock().enqueue(waiting, None).unwrap();
        // As any fault of ours would.
        shared.lock().next = u64::MAX;
        assert!(std::thread::spawn(|| writer.run()).join().is_err());
        assert!(matches!(stored.try_recv().unwrap().unwrap_err().source, StoreError::Closed));
        assert!(matches!(shared.lock().enqueue(batch(&shared, 1), None).unwrap_err().0, StoreError::Closed));
    }

    #[test]
    fn what_an_operator_does_while_a_broken_journal_is_written_anew_is_noted() {
        let folder = tempfile::tempdir().unwrap();
        let settings = EmbeddedStoreSettings::new(folder.path().join("outbox"));
        let (shared, mut writer) = opened(&settings);
        shared.lock().enqueue(batch(&shared, 4), None).unwrap();
        write(&shared, &mut writer);
        writer.journal_failed(&io::Error::other("no room"));
        shared.lock().drop_messages(&[1]).unwrap();
        let snapshot = writer.copy(None);
        shared.lock().drop_messages(&[2]).unwrap();
        shared.lock().damaged(3);
        shared.lock().requeue(&[3], Duration::ZERO).unwrap();
        writer.replace(&snapshot).unwrap();
        write(&shared, &mut writer);
        drop((shared, writer));
        let (shared, _writer) = opened(&settings);
        let state = shared.lock();
        assert_eq!(state.live.iter().collect::<Vec<_>>(), [3, 4]);
        assert_eq!((state.count, state.dead), (2, 0));
    }

    #[test]
    fn a_snapshot_that_fails_leaves_the_journal_broken() {
        let folder = tempfile::tempdir().unwrap();
        let settings = EmbeddedStoreSettings::new(folder.path().join("outbox"));
        let (shared, mut writer) = opened(&settings);
        shared.lock().enqueue(batch(&shared, 2), None).unwrap();
        write(&shared, &mut writer);
        // Nothing can be written there.
        std::fs::create_dir(settings.path.join("state.new")).unwrap();
        let written = writer.snapshot(None);
        assert!(written.is_err());
        writer.note(written);
        shared.lock().drop_messages(&[1]).unwrap();
        write(&shared, &mut writer);
        assert!(shared.lock().journal_broken);
        std::fs::remove_dir(settings.path.join("state.new")).unwrap();
        writer.write_journal(true);
        assert!(!shared.lock().journal_broken);
        drop((shared, writer));
        let (shared, _writer) = opened(&settings);
        assert_eq!(shared.lock().live.iter().collect::<Vec<_>>(), [2]);
    }
}
