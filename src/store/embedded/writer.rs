//! Writes the batches, the journal and the deletions of one store, as a job of the thread that writes for many logs.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::compact;
use super::index::Append;
use super::journal::{JOURNAL, Journal, RETRY};
use super::shared::StoreShared;
use crate::log::appender::Appender;
use crate::log::error::OpenError;
use crate::log::files::{write_at, write_error};
use crate::log::folder::FolderLock;
use crate::log::format::HEAD;
use crate::log::head::Head;
use crate::log::segment::Segment;
use crate::log::writer::{LogJob, Next};
use crate::store::{StoreError, Unstored};
use crate::util::crash;

/// The longest time until an event is written, and the number of bytes of events that are written at once.
const JOURNAL_DELAY: Duration = Duration::from_millis(5);
pub(super) const JOURNAL_BYTES: usize = 32 << 10;

/// The writer of a store. Dropping it closes the store, so that nobody waits for a writer that panicked.
pub(super) struct Writer {
    shared: Arc<StoreShared>,
    appender: Appender,
    journal: Journal,
    /// The batches of the last write and their offset, until they are synced.
    written: Option<(u64, Vec<Append>)>,
    /// Whether batches were written since the journal was.
    has_appended: bool,
    /// The bases of segments without live messages, until their files are deleted.
    empty: Vec<u64>,
    _lock: FolderLock,
}

impl Drop for Writer {
    fn drop(&mut self) {
        let mut index = self.shared.lock();
        index.close();
        index.ended = true;
        index.syncs.clear();
        let queue = index.take_queue();
        drop(index);
        // Dropping a batch hands it back to its caller.
        drop((queue, self.written.take()));
        self.shared.changed.notify_waiters();
    }
}

impl Writer {
    /// Continues the last segment, and begins with a fresh snapshot.
    pub(super) fn open(shared: Arc<StoreShared>, lock: FolderLock) -> Result<Self, OpenError> {
        let appender = {
            let index = shared.lock();
            let (_, last) = index.segments.last_key_value().expect("a segment is open");
            Appender::new(shared.folder.clone(), shared.segment_bytes, last)
        };
        let journal = Journal::open(Arc::clone(&shared));
        let journal = journal.map_err(OpenError::io("write", &shared.folder.join(JOURNAL)))?;
        let (written, has_appended, empty) = (None, false, Vec::new());
        Ok(Self { shared, appender, journal, written, has_appended, empty, _lock: lock })
    }

    /// Adds the segment that the appender has begun to the index.
    fn add_begun(&mut self) {
        if let Some(segment) = self.appender.take_begun() {
            self.shared.lock().begin_segment(segment);
            compact::begin(&self.shared);
        }
    }

    /// Hands batches back that could not be written.
    fn refuse(&self, appends: Vec<Append>, error: &io::Error) {
        let messages = appends.iter().map(|append| append.batch.len() as u64).sum();
        let bytes = appends.iter().map(|append| append.records.len() as u64).sum();
        let folder = self.shared.folder.display();
        tracing::error!(error = %write_error(&folder, error), messages, "could not store messages; their requests fail");
        self.shared.lock().not_stored(messages, bytes, Instant::now() + RETRY);
        for mut append in appends {
            let (reply, batch) = (append.reply.take(), std::mem::take(&mut append.batch));
            let error = StoreError::unavailable(write_error(&folder, error));
            let _ = reply.map(|reply| reply.send(Err(Unstored::new(error, batch))));
        }
    }

    /// Writes the events if they are due, and answers the callers that wait for it.
    fn write_journal(&mut self) {
        let now = Instant::now();
        let (syncs, is_retry_due, is_due) = {
            let mut index = self.shared.lock();
            index.resume(now);
            let syncs = std::mem::take(&mut index.syncs);
            let has_events = !index.journal.is_empty() || !index.waiting_reasons.is_empty();
            let is_due = has_events
                && (self.has_appended
                    || !syncs.is_empty()
                    || !index.empty.is_empty()
                    || index.journal.len() >= JOURNAL_BYTES
                    || index.journal_since.is_none_or(|since| since + JOURNAL_DELAY <= now));
            self.empty.append(&mut index.empty);
            let is_retry_due = index.journal_broken && (self.journal.is_retry_due(now) || !syncs.is_empty());
            (syncs, is_retry_due, is_due)
        };
        self.has_appended = false;
        if is_retry_due {
            self.journal.snapshot_or_fail();
        } else if is_due {
            self.journal.write();
        }
        if !syncs.is_empty() {
            let synced = self.journal.sync().map_err(|error| {
                write_error(&self.shared.folder.join(JOURNAL).display(), &error).to_string()
            });
            for sync in syncs {
                let _ = sync.send(synced.clone());
            }
        }
    }

    /// Deletes the files of segments without live messages.
    fn delete_empty(&mut self) {
        if self.empty.is_empty() {
            return;
        }
        let segments: Vec<Segment> = {
            let index = self.shared.lock();
            let last = index.segments.last_key_value().map(|(base, _)| *base);
            // A segment that was rewritten meanwhile has the live messages of its neighbours.
            let is_empty = |base: &u64| index.segments.get(base).is_some_and(|segment| segment.live == 0);
            self.empty.retain(|base| Some(*base) != last && is_empty(base));
            self.empty.iter().filter_map(|base| index.segments.get(base).cloned()).collect()
        };
        if segments.is_empty() {
            return;
        }
        // Without the events on disk, the messages of a deleted file would count as lost.
        if let Err(error) = self.journal.sync() {
            if !self.journal.is_broken() {
                self.journal.fail(&error);
            }
            // A head can record the removal too, and truncating the rest makes room for the journal.
            for segment in segments {
                let emptied = Head { emptied: true, ..segment.head }.to_bytes();
                let _ = write_at(&segment.file, &emptied, 0).and_then(|()| segment.file.set_len(HEAD));
            }
            return;
        }
        for segment in segments {
            crash::point("segment_before_delete");
            if let Err(error) = std::fs::remove_file(&segment.path) {
                tracing::warn!(path = %segment.path.display(), %error, "could not delete a segment; the next start retries");
            }
            let mut index = self.shared.lock();
            if index.segments.get(&segment.base).is_some_and(|known| known.path == segment.path) {
                index.segments.remove(&segment.base);
            }
        }
        self.empty.clear();
        compact::begin(&self.shared);
    }

    /// Returns the time of the next work without a wake.
    fn next(&self) -> Next {
        if self.journal.is_snapshot_due() || self.journal.is_rewrite_due() {
            return Next::Slow;
        }
        let index = self.shared.lock();
        let journal = index.journal_since.map(|since| since + JOURNAL_DELAY);
        let timers = [self.journal.next_try(), index.refused_until, journal];
        timers.into_iter().flatten().min().map_or(Next::Woken, Next::At)
    }
}

impl LogJob for Writer {
    fn write(&mut self) {
        let (mut appends, first) = {
            let mut index = self.shared.lock();
            if index.queue.is_empty() {
                return;
            }
            (index.take_queue(), index.next)
        };
        crash::point("append_before_write");
        let written = self.appender.write(appends.iter_mut().map(|append| &mut append.records), first);
        self.add_begun();
        match written {
            Ok(offset) => self.written = Some((offset, appends)),
            Err(error) => self.refuse(appends, &error),
        }
    }

    fn sync(&mut self) {
        let Some((offset, appends)) = self.written.take() else { return };
        let synced = self.appender.sync();
        self.add_begun();
        if let Err(error) = synced {
            return self.refuse(appends, &error);
        }
        crash::point("append_before_reply");
        let mut replies = Vec::with_capacity(appends.len());
        let batches = appends.into_iter().map(|mut append| {
            replies.extend(append.reply.take());
            (std::mem::take(&mut append.batch), append.records.len() as u64)
        });
        self.shared.lock().stored(offset, batches);
        self.shared.changed.notify_waiters();
        self.shared.answer(replies);
        self.has_appended = true;
    }

    fn tidy(&mut self) -> Next {
        self.write_journal();
        self.delete_empty();
        self.next()
    }

    fn work_slowly(&mut self) {
        if self.journal.is_rewrite_due() {
            self.journal.rewrite_reasons();
        }
        if self.journal.is_snapshot_due() {
            self.journal.snapshot_or_fail();
        }
    }

    fn close(mut self: Box<Self>) {
        self.sync();
        self.write();
        self.sync();
        self.journal.write();
        self.appender.trim();
        let (base, syncs) = {
            let mut index = self.shared.lock();
            index.ended = true;
            let base = index.segments.last_key_value().map(|(base, _)| *base);
            self.empty.append(&mut index.empty);
            (base, std::mem::take(&mut index.syncs))
        };
        let snapshot = self.journal.snapshot(base.map(|base| (base, self.appender.len())));
        let closed = snapshot
            .map_err(|error| write_error(&self.shared.folder.join(JOURNAL).display(), &error).to_string());
        match &closed {
            Ok(()) => self.delete_empty(),
            Err(error) => {
                tracing::warn!(%error, "could not close the store in order; some messages may be sent again");
            }
        }
        for sync in syncs {
            let _ = sync.send(closed.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::encoding::push_batch;
    use super::super::journal::NEW_JOURNAL;
    use super::super::open::open;
    use super::super::settings::EmbeddedStoreSettings;
    use super::*;
    use crate::message::Message;

    fn batch(shared: &StoreShared, count: usize) -> Append {
        let batch: Vec<_> = (0..count).map(|_| Message::new("a", "").unwrap()).collect();
        let mut records = Vec::new();
        push_batch(&mut records, shared.seed(), &batch).unwrap();
        Append { records, batch, reply: None }
    }

    fn opened(settings: &EmbeddedStoreSettings) -> (Arc<StoreShared>, Writer) {
        open(settings, tokio::sync::mpsc::unbounded_channel().0).unwrap()
    }

    /// Runs a round, as the thread does.
    fn write(shared: &StoreShared, writer: &mut Writer) {
        writer.write();
        writer.sync();
        shared.lock().journal_since = Some(Instant::now() - JOURNAL_DELAY);
        writer.tidy();
    }

    #[test]
    fn a_writer_that_panics_keeps_nobody_waiting() {
        let folder = tempfile::tempdir().unwrap();
        let (shared, writer) = opened(&EmbeddedStoreSettings::new(folder.path().join("outbox")));
        let (reply, stored) = tokio::sync::oneshot::channel();
        let mut waiting = batch(&shared, 1);
        waiting.reply = Some(reply);
        shared.lock().enqueue(waiting, None).unwrap();
        // Positions overflow.
        shared.lock().next = u64::MAX;
        shared.handle.start(Box::new(writer)).unwrap();
        assert!(matches!(stored.blocking_recv().unwrap().unwrap_err().source, StoreError::Closed));
        // The batch is handed back while the thread unwinds; the writer is dropped after that.
        while !shared.lock().closed {
            std::thread::yield_now();
        }
        assert!(matches!(shared.lock().enqueue(batch(&shared, 1), None).unwrap_err().0, StoreError::Closed));
        assert!(matches!(shared.sync(), Err(StoreError::Closed)));
    }

    #[test]
    fn changes_during_the_snapshot_that_replaces_a_broken_journal_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let settings = EmbeddedStoreSettings::new(folder.path().join("outbox"));
        let (shared, mut writer) = opened(&settings);
        shared.lock().enqueue(batch(&shared, 4), None).unwrap();
        write(&shared, &mut writer);
        writer.journal.fail(&io::Error::other("no room"));
        shared.lock().drop_messages(&[1]).unwrap();
        let snapshot = writer.journal.copy_index(None);
        shared.lock().drop_messages(&[2]).unwrap();
        shared.lock().damaged(3);
        shared.lock().requeue(&[3], Duration::ZERO).unwrap();
        writer.journal.replace(&snapshot).unwrap();
        write(&shared, &mut writer);
        drop((shared, writer));
        let (shared, _writer) = opened(&settings);
        let state = shared.lock();
        assert_eq!(state.live.iter().collect::<Vec<_>>(), [3, 4]);
        assert_eq!((state.capacity.pending(), state.capacity.dead()), (2, 0));
    }

    #[test]
    fn wherever_the_journal_breaks_off_no_dead_letter_lacks_its_reason() {
        let folder = tempfile::tempdir().unwrap();
        let settings = EmbeddedStoreSettings::new(folder.path().join("outbox"));
        let (shared, mut writer) = opened(&settings);
        shared.lock().enqueue(batch(&shared, 4), None).unwrap();
        write(&shared, &mut writer);
        let before = std::fs::metadata(settings.path.join(JOURNAL)).unwrap().len();
        (1..=4).for_each(|position| shared.lock().damaged(position));
        write(&shared, &mut writer);
        let journal = std::fs::read(settings.path.join(JOURNAL)).unwrap();
        drop((shared, writer));
        let mut seen = std::collections::BTreeSet::new();
        for end in before as usize..=journal.len() {
            std::fs::write(settings.path.join(JOURNAL), &journal[..end]).unwrap();
            let (shared, _writer) = opened(&settings);
            let state = shared.lock();
            let dead: Vec<_> = state.retries.values().filter(|retry| retry.dead).collect();
            assert!(dead.iter().all(|retry| retry.reason.is_some()), "broken off at {end}: {dead:?}");
            seen.insert(dead.len());
        }
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn a_snapshot_that_fails_leaves_the_journal_broken() {
        let folder = tempfile::tempdir().unwrap();
        let settings = EmbeddedStoreSettings::new(folder.path().join("outbox"));
        let (shared, mut writer) = opened(&settings);
        shared.lock().enqueue(batch(&shared, 2), None).unwrap();
        write(&shared, &mut writer);
        // A folder in the place of the new file.
        std::fs::create_dir(settings.path.join(NEW_JOURNAL)).unwrap();
        writer.journal.snapshot_or_fail();
        shared.lock().drop_messages(&[1]).unwrap();
        write(&shared, &mut writer);
        assert!(shared.lock().journal_broken);
        std::fs::remove_dir(settings.path.join(NEW_JOURNAL)).unwrap();
        writer.journal.snapshot_or_fail();
        assert!(!shared.lock().journal_broken);
        drop((shared, writer));
        let (shared, _writer) = opened(&settings);
        assert_eq!(shared.lock().live.iter().collect::<Vec<_>>(), [2]);
    }
}
