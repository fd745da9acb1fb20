//! The embedded store itself.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;
use tokio::time::sleep_until;
use uuid::Uuid;

use super::compact;
use super::error::OpenError;
use super::open::open;
use super::reasons::{self, REASONS};
use super::record;
use super::scan::Found;
use super::segment::{Read, read_many};
use super::settings::EmbeddedStoreSettings;
use super::state::{Append, Hint, Next};
use super::writer::{NOTED_BYTES, Shared, answer};
use crate::message::Message;
use crate::message::Settlement;
use crate::messenger::Admission;
use crate::store::{Counts, EntryState, Filter, Lease, Leased, Page, Store, StoreError, Unstored};

/// How many messages, and about how many bytes, are read ahead at once.
const AHEAD_MESSAGES: usize = 512;
const AHEAD_BYTES: usize = 4 << 20;

/// How many messages are looked at for one page of a list, and how many when one id is looked for.
const LOOKED_AT: usize = 2_000;
const LOOKED_AT_FOR_ID: usize = 100_000;

/// A [`Store`] in a folder of the local disk, for one process: an append-only log.
///
/// Batches that wait at the same time share one write and one `fdatasync`. A message that is sent soon is never
/// read back; a backlog is read in order, and takes memory for its positions only. Files are deleted when all their
/// messages have left, and rewritten when few are left. Everything on disk has a checksum: what was being written when
/// the process died is cut off, and a flipped byte costs the one message it is in, which is said. Of the reasons of a
/// message the last five are kept, cut to 1,024 bytes each, on disk too: a dead letter takes some tens of bytes of memory,
/// and its reasons count in [`Limits::max_bytes`](crate::store::Limits::max_bytes).
///
/// Dropping the last clone stops it; [`close`](Store::close) does the same without blocking.
#[derive(Clone)]
pub struct EmbeddedStore {
    handle: Arc<Handle>,
}

struct Handle {
    shared: Arc<Shared>,
    writer: Mutex<Option<JoinHandle<()>>>,
    /// One reader at a time.
    reading: Arc<tokio::sync::Mutex<()>>,
}

impl EmbeddedStore {
    /// Opens the store, or creates it; its folder belongs to this process alone.
    ///
    /// # Errors
    /// [`OpenError`] says which file or folder cannot be used, and what to do.
    ///
    /// # Cancel safety
    /// Dropped, the store is not open.
    pub async fn open(settings: &EmbeddedStoreSettings) -> Result<Self, OpenError> {
        let settings = settings.clone();
        let (replies, mut stored) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(replies) = stored.recv().await {
                answer(replies);
            }
        });
        let opened = spawn_blocking(move || {
            let (shared, writer) = open(&settings, replies)?;
            let thread = std::thread::Builder::new().name("outbox-writer".to_owned()).spawn(|| writer.run());
            let thread = thread.map_err(OpenError::io("start a thread for", &settings.path))?;
            compact::begin(&shared);
            let reading = Arc::default();
            let handle = Handle { shared, writer: Mutex::new(Some(thread)), reading };
            Ok(Self { handle: Arc::new(handle) })
        });
        opened.await.expect("it does not panic")
    }

    fn shared(&self) -> &Shared {
        &self.handle.shared
    }

    /// Runs what blocks.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<Shared>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let shared = Arc::clone(&self.handle.shared);
        if shared.lock().closed {
            return Err(StoreError::Closed);
        }
        spawn_blocking(move || work(&shared)).await.map_err(StoreError::unavailable)?
    }
}

impl fmt::Debug for EmbeddedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedStore").field("folder", &self.shared().folder).finish_non_exhaustive()
    }
}

impl Handle {
    /// Lets the threads end, and waits for them. Blocks.
    fn stop(&self) {
        {
            let mut state = self.shared.lock();
            state.closed = true;
            state.admit();
        }
        self.shared.changed.notify_waiters();
        // The writer last: the other may wait for it.
        join(&self.shared.compaction);
        self.shared.lock().ended = true;
        self.shared.work();
        join(&self.writer);
    }
}

fn join(thread: &Mutex<Option<JoinHandle<()>>>) {
    let thread = thread.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(thread) = thread {
        let _ = thread.join();
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop();
    }
}

#[async_trait]
impl Store for EmbeddedStore {
    async fn append(&self, batch: Vec<Message>) -> Result<(), Unstored> {
        if batch.is_empty() {
            return Ok(());
        }
        let mut records = Vec::with_capacity(batch.iter().map(|message| message.size() + 128).sum());
        if let Err(error) = record::push_batch(&mut records, self.shared().seed(), &batch) {
            return Err(Unstored::new(StoreError::Unavailable(error), batch));
        }
        let (reply, stored) = oneshot::channel();
        let queued = {
            let mut state = self.shared().lock();
            let own = state.admission.own();
            state.enqueue(Append { records, batch, reply: Some(reply) }, own)
        };
        if let Err((error, mut append)) = queued {
            append.reply = None;
            return Err(Unstored::new(error, std::mem::take(&mut append.batch)));
        }
        self.shared().work();
        stored.await.expect("a batch is answered, if only when it is dropped")
    }

    async fn lease(&self, limit: usize) -> Result<Vec<Leased>, StoreError> {
        loop {
            let changed = self.shared().changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let next = self.shared().lock().lease(limit)?;
            match next {
                Next::Leased(leased) => return Ok(leased),
                Next::Idle { until: None } => changed.await,
                Next::Idle { until: Some(until) } => {
                    tokio::select! {
                        () = changed => {}
                        () = sleep_until(until) => {}
                    }
                }
                Next::Fetch(positions) => {
                    let reading = Arc::clone(&self.handle.reading).lock_owned().await;
                    self.blocking(move |shared| {
                        let _reading = reading;
                        let read = read(shared, &positions, None)?;
                        shared.lock().fetched(read);
                        Ok(())
                    })
                    .await?;
                }
                Next::ReadAhead { from, to } => {
                    let reading = Arc::clone(&self.handle.reading).lock_owned().await;
                    self.blocking(move |shared| {
                        let _reading = reading;
                        // Whoever asked before may have gone: what was read for them is there.
                        if !shared.lock().reads_from(from) {
                            return Ok(());
                        }
                        let (read, to) = read_ahead(shared, from, to)?;
                        let end_of_file = {
                            let mut state = shared.lock();
                            state.read_ahead(from, to, read);
                            state.segments.contains_key(&to)
                        };
                        if end_of_file {
                            compact::begin(shared);
                        }
                        Ok(())
                    })
                    .await?;
                }
            }
        }
    }

    async fn settle(&self, settled: &[(Lease, Settlement)]) -> Result<(), StoreError> {
        let (due, write) = {
            let mut state = self.shared().lock();
            let first = state.journal.is_empty();
            let due = state.settle(settled)?;
            (due, first || state.journal.len() >= NOTED_BYTES)
        };
        if write {
            self.shared().work();
        }
        if due {
            self.shared().changed.notify_waiters();
        }
        Ok(())
    }

    async fn list(&self, filter: &Filter, after: Option<u64>, limit: usize) -> Result<Page, StoreError> {
        let filter = filter.clone();
        self.blocking(move |shared| {
            let (most, slice) = match filter.id {
                Some(_) => (LOOKED_AT_FOR_ID, 10_000),
                None => (LOOKED_AT, limit.clamp(16, 256)),
            };
            let positions = shared.lock().positions(filter.state, after, most);
            let mut page = Page::default();
            // In slices: a short page needs few of them.
            for positions in positions.chunks(slice) {
                for (position, message) in read(shared, positions, filter.id)? {
                    let Some((mut entry, history)) = shared.lock().entry(position, message) else { continue };
                    if let Some((reasons, last)) = history {
                        let later = std::mem::replace(&mut entry.failures, reasons.read(position, last));
                        entry.failures.extend(later);
                    }
                    if entry.state == EntryState::Dead && entry.failures.is_empty() {
                        entry.failures.push(reasons::unknown());
                    }
                    let surplus = entry.failures.len().saturating_sub(REASONS.into());
                    entry.failures.drain(..surplus);
                    if filter.matches(&entry) {
                        page.entries.push(entry);
                    }
                    if page.entries.len() >= limit {
                        page.next = Some(position);
                        return Ok(page);
                    }
                }
            }
            page.next = positions.last().copied().filter(|_| positions.len() == most);
            Ok(page)
        })
        .await
    }

    async fn requeue(&self, positions: &[u64], pace: Duration) -> Result<usize, StoreError> {
        let positions = positions.to_vec();
        let requeued = self.blocking(move |shared| {
            let requeued = shared.lock().requeue(&positions, pace)?;
            shared.sync()?;
            Ok(requeued)
        });
        let requeued = requeued.await;
        self.shared().changed.notify_waiters();
        requeued
    }

    async fn drop_messages(&self, positions: &[u64]) -> Result<usize, StoreError> {
        let positions = positions.to_vec();
        self.blocking(move |shared| {
            let dropped = shared.lock().drop_messages(&positions)?;
            shared.changed.notify_waiters();
            shared.sync()?;
            Ok(dropped)
        })
        .await
    }

    async fn counts(&self) -> Result<Counts, StoreError> {
        self.blocking(|shared| {
            let (mut counts, oldest) = {
                let state = shared.lock();
                let mut counts = Counts::default();
                (counts.pending, counts.dead, counts.bytes) =
                    (state.count - state.dead, state.dead, state.bytes);
                (counts, state.oldest())
            };
            let read = read(shared, oldest.as_slice(), None)?;
            counts.oldest = read.into_iter().next().and_then(|(_, message)| Some(message?.time()));
            Ok(counts)
        })
        .await
    }

    fn location(&self) -> String {
        self.shared().folder.display().to_string()
    }

    fn admission(&self) -> Option<Admission> {
        Some(self.shared().lock().admission.clone())
    }

    async fn close(&self) {
        let handle = Arc::clone(&self.handle);
        let _ = spawn_blocking(move || handle.stop()).await;
    }
}

/// Reads these messages, wherever they are; with an id, those of that id alone.
fn read(shared: &Shared, positions: &[u64], id: Option<Uuid>) -> Result<Vec<Read>, StoreError> {
    let mut segments = shared.lock().segments_of(positions);
    for segment in segments.values_mut() {
        if segment.index.is_none() {
            let index = segment.make_index().map_err(StoreError::unavailable)?;
            if let Some(known) = shared.lock().segments.get_mut(&segment.base)
                && known.index.is_none()
                && known.path == segment.path
            {
                known.index = Some(Arc::clone(&index));
            }
            segment.index = Some(index);
        }
    }
    read_many(&segments, positions, id).map_err(StoreError::unavailable)
}

/// Reads what stands from `from` on, in one file and up to `to`; and says up to where it has.
fn read_ahead(shared: &Shared, from: u64, to: u64) -> Result<(Vec<(u64, Message)>, u64), StoreError> {
    let segment = {
        let mut state = shared.lock();
        let hint = state.hint.take();
        let next = state.segments.range(from..).next().map(|(base, _)| *base);
        let Some((_, segment)) = state.segments.range(..=from).next_back() else {
            // Nothing is stored here any more.
            return Ok((Vec::new(), next.unwrap_or(to).min(to)));
        };
        if segment.end <= from {
            return Ok((Vec::new(), next.unwrap_or(to).min(to)));
        }
        let mut segment = segment.clone();
        segment.index = match hint {
            // The end of a file is no place in the next.
            Some(hint) if hint.position == from && Arc::ptr_eq(&hint.file, &segment.file) => {
                Some(Arc::new(vec![(hint.position, hint.offset)]))
            }
            _ => segment.index,
        };
        segment
    };
    let to = to.min(segment.end);
    let mut scan = segment.scan(from);
    let (mut read, mut bytes, mut end) = (Vec::new(), 0, to);
    while let Some(found) = scan.next().map_err(StoreError::unavailable)? {
        let Found::Record(header) = found else { continue };
        if header.position < from {
            continue;
        }
        if header.position >= to {
            break;
        }
        if let Ok(message) = record::message(scan.payload()) {
            read.push((header.position, message));
        }
        bytes += scan.payload().len();
        if read.len() >= AHEAD_MESSAGES || bytes >= AHEAD_BYTES {
            end = header.position + 1;
            let hint = Hint { file: segment.file, position: end, offset: scan.offset() };
            shared.lock().hint = Some(hint);
            break;
        }
    }
    Ok((read, end))
}
