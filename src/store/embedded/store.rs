//! The store in a folder of the local disk.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;
use tokio::time::sleep_until;

use super::encoding::{decode_message, push_batch};
use super::index::{Append, Hint};
use super::leasing::LeaseStep;
use super::open::open;
use super::read::read;
use super::reasons::{self, REASONS};
use super::settings::EmbeddedStoreSettings;
use super::shared::{StoreShared, answer};
use super::writer::JOURNAL_BYTES;
use super::{audit, compact};
use crate::log::error::OpenError;
use crate::log::scan::Found;
use crate::message::{Message, Settlement};
use crate::store::admission::Admission;
use crate::store::entry::PAGE_BYTES;
use crate::store::{
    Counts, EntryState, Filter, Instance, Lease, Leased, OperationRecord, Page, Store, StoreError, Unstored,
};

/// The most messages, and about the most bytes, that one read ahead returns.
const AHEAD_MESSAGES: usize = 512;
const AHEAD_BYTES: usize = 4 << 20;

/// The most messages that are read for one page of a list, and for one page of a search by id.
const PAGE_READS: usize = 2_000;
const SEARCH_READS: usize = 100_000;

/// A [`Store`] in a folder of the local disk, for one process: an append-only log.
///
/// Batches that wait at the same time share one write and one `fdatasync`. At most eight threads write for all stores of the
/// process on the same file system, so that hundreds of stores are cheap; a store that fails does not affect the others.
///
/// A message that is sent soon is never read back. A backlog is read in order, and takes memory for its positions only. A
/// file is deleted when all its messages were confirmed, and rewritten when few messages are left in it.
///
/// Everything on disk has a checksum. A batch that a crash has cut off is truncated at the next start. A flipped byte loses
/// the one message it is in, and an error is logged. The last five reasons of a message are kept on disk, 1,024 bytes of each:
/// a dead letter takes some tens of bytes of memory, and its reasons count in
/// [`Limits::max_bytes`](crate::store::Limits::max_bytes).
///
/// A clone is a handle to the same store. Dropping the last clone stops the store and blocks until all is written;
/// [`close`](Store::close) does the same without blocking.
#[derive(Clone)]
pub struct EmbeddedStore {
    handle: Arc<Handle>,
}

struct Handle {
    shared: Arc<StoreShared>,
    /// Lets one caller of `lease` read at a time.
    reading: Arc<tokio::sync::Mutex<()>>,
}

impl EmbeddedStore {
    /// Opens the store, or creates it. No other process, and no other store, may use the folder.
    ///
    /// # Errors
    /// [`OpenError`] names the file or folder that cannot be used, and the cure.
    ///
    /// # Cancel safety
    /// Dropping the future closes the store again.
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
            let started = shared.handle.start(Box::new(writer));
            started.map_err(OpenError::io("start a thread for", &settings.path))?;
            compact::begin(&shared);
            let handle = Handle { shared, reading: Arc::default() };
            Ok(Self { handle: Arc::new(handle) })
        });
        opened.await.expect("opening does not panic")
    }

    fn shared(&self) -> &StoreShared {
        &self.handle.shared
    }

    /// Runs blocking work on another thread.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<StoreShared>) -> Result<T, StoreError> + Send + 'static,
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
    /// Stops the compaction and the writer, and waits until all is written. Blocks.
    fn stop(&self) {
        self.shared.lock().close();
        self.shared.changed.notify_waiters();
        // First: the compaction may wait for the writer.
        self.shared.stop_compaction();
        if let Some(writer) = self.shared.handle.stop() {
            writer.close();
        }
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
        if let Err(error) = push_batch(&mut records, self.shared().seed(), &batch) {
            return Err(Unstored::new(StoreError::Unavailable(error), batch));
        }
        let (reply, stored) = oneshot::channel();
        let queued = {
            let mut index = self.shared().lock();
            let request = index.capacity.admission().own();
            index.enqueue(Append { records, batch, reply: Some(reply) }, request)
        };
        if let Err((error, mut append)) = queued {
            append.reply = None;
            return Err(Unstored::new(error, std::mem::take(&mut append.batch)));
        }
        self.shared().wake_writer();
        #[cfg(feature = "testing")]
        let _clock = crate::util::paused::hold_clock();
        stored.await.expect("a batch is answered at the latest when it is dropped")
    }

    async fn lease(&self, limit: usize) -> Result<Vec<Leased>, StoreError> {
        loop {
            let changed = self.shared().changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let next = self.shared().lock().lease(limit)?;
            match next {
                LeaseStep::Leased(leased) => return Ok(leased),
                LeaseStep::Idle { until: None } => changed.await,
                LeaseStep::Idle { until: Some(until) } => {
                    tokio::select! {
                        () = changed => {}
                        () = sleep_until(until) => {}
                    }
                }
                LeaseStep::Fetch(positions) => {
                    let reading = Arc::clone(&self.handle.reading).lock_owned().await;
                    self.blocking(move |shared| {
                        let _reading = reading;
                        let (read, _) = read(shared, &positions, None, usize::MAX)?;
                        shared.lock().fetched(read);
                        Ok(())
                    })
                    .await?;
                }
                LeaseStep::ReadAhead { from, to } => {
                    let reading = Arc::clone(&self.handle.reading).lock_owned().await;
                    self.blocking(move |shared| {
                        let _reading = reading;
                        // A caller before this one may have read it.
                        if !shared.lock().reads_from(from) {
                            return Ok(());
                        }
                        let (read, to) = read_ahead(shared, from, to)?;
                        let end_of_file = {
                            let mut index = shared.lock();
                            index.read_ahead(from, to, read);
                            index.segments.contains_key(&to)
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
            let mut index = self.shared().lock();
            let first = index.journal.is_empty();
            let due = index.settle(settled)?;
            (due, first || index.journal.len() >= JOURNAL_BYTES)
        };
        if write {
            self.shared().wake_writer();
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
                Some(_) => (SEARCH_READS, 10_000),
                None => (PAGE_READS, limit.clamp(16, 256)),
            };
            let positions = shared.lock().positions(filter.state, after, most);
            let (mut page, mut bytes) = (Page::default(), 0);
            // Read in slices, since a short page needs few of them.
            let mut rest = positions.as_slice();
            while !rest.is_empty() {
                let (found, done) = read(shared, &rest[..slice.min(rest.len())], filter.id, PAGE_BYTES)?;
                rest = &rest[done..];
                for (position, message) in found {
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
                        bytes += entry.message.as_ref().map_or(0, |message| message.body().len());
                        page.entries.push(entry);
                    }
                    if page.entries.len() >= limit || bytes >= PAGE_BYTES {
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

    async fn record_operation(&self, record: &OperationRecord) -> Result<(), StoreError> {
        let record = record.clone();
        self.blocking(move |shared| audit::append(&shared.folder, &record).map_err(StoreError::unavailable))
            .await
    }

    async fn operations(&self, limit: usize) -> Result<Vec<OperationRecord>, StoreError> {
        self.blocking(move |shared| audit::read(&shared.folder, limit).map_err(StoreError::unavailable)).await
    }

    /// No other process has the folder open.
    async fn instances(&self) -> Result<Vec<Instance>, StoreError> {
        Ok(vec![self.shared().instance.alone()])
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
                let index = shared.lock();
                let mut counts = Counts::default();
                let capacity = &index.capacity;
                (counts.pending, counts.dead, counts.bytes) =
                    (capacity.pending(), capacity.dead(), capacity.bytes());
                (counts, index.oldest())
            };
            let (read, _) = read(shared, oldest.as_slice(), None, usize::MAX)?;
            counts.oldest = read.into_iter().next().and_then(|(_, message)| Some(message?.time()));
            Ok(counts)
        })
        .await
    }

    fn location(&self) -> String {
        self.shared().folder.display().to_string()
    }

    fn admission(&self) -> Option<Admission> {
        Some(self.shared().lock().capacity.admission().clone())
    }

    async fn close(&self) {
        let handle = Arc::clone(&self.handle);
        let _ = spawn_blocking(move || handle.stop()).await;
    }
}

/// Reads messages of one segment, from `from` up to `to` at most; returns them and the position where the read ended.
fn read_ahead(shared: &StoreShared, from: u64, to: u64) -> Result<(Vec<(u64, Message)>, u64), StoreError> {
    let segment = {
        let mut index = shared.lock();
        let hint = index.hint.take();
        let next = index.segments.range(from..).next().map(|(base, _)| *base);
        let Some((_, segment)) = index.segments.range(..=from).next_back() else {
            // The segment was deleted.
            return Ok((Vec::new(), next.unwrap_or(to).min(to)));
        };
        if segment.end <= from {
            return Ok((Vec::new(), next.unwrap_or(to).min(to)));
        }
        let mut segment = segment.clone();
        segment.index = match hint {
            // An offset in one file means nothing in another.
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
        if let Ok(message) = decode_message(scan.payload()) {
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
