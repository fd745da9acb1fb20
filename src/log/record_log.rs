//! A log whose records are kept up to its [`Retention`], and read by their positions.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use roaring::RoaringTreemap;
use tokio::sync::oneshot;

use super::appender::Appender;
use super::error::OpenError;
use super::files::write_error;
use super::folder::FolderLock;
use super::head::Head;
use super::inventory::{ASIDE, Inventory};
use super::reader::Reader;
use super::record::push_record;
use super::recover::{continue_or_begin, truncate_torn_tail};
use super::retention::Retention;
use super::scan::Found;
use super::segment::{Segment, Segments};
use super::writer::{LogHandle, LogJob, LogWriter, Next};
use crate::util::crash;
use crate::util::sync::lock;

/// The longest time between two checks of [`Retention::max_age`].
const AGE_CHECK: Duration = Duration::from_secs(60);

/// A log in a folder of its own. A clone is a handle to the same log.
///
/// Dropping the last clone closes the log and blocks until all is written.
#[derive(Clone, Debug)]
pub(crate) struct RecordLog {
    open: Arc<OpenLog>,
}

/// The handles of a log, of which the last one closes it.
#[derive(Debug)]
struct OpenLog(Arc<LogShared>);

impl OpenLog {
    fn close(&self) {
        if let Some(job) = self.0.handle.stop() {
            job.close();
        }
    }
}

impl Drop for OpenLog {
    fn drop(&mut self) {
        self.close();
    }
}

#[derive(Debug)]
struct LogShared {
    /// The segments; the end of the last one is the position of the next record.
    segments: Arc<Mutex<Segments>>,
    /// The batches to be written; `None` once the log is closed.
    queue: Mutex<Option<Vec<Batch>>>,
    handle: Arc<LogHandle>,
    /// The random number of the log.
    log: u64,
}

/// A batch on its way to the disk.
#[derive(Debug)]
struct Batch {
    /// The records, without positions.
    records: Vec<u8>,
    count: u64,
    reply: oneshot::Sender<io::Result<Range<u64>>>,
}

impl RecordLog {
    /// Opens the log in this folder, or creates it. A segment is full at `segment_bytes`. Blocks.
    ///
    /// # Errors
    /// A file or folder cannot be used, or another process has the folder open.
    pub(crate) fn open(folder: &Path, segment_bytes: u64, retention: Retention) -> Result<Self, OpenError> {
        let is_known = |name: &str| name.contains(ASIDE) || Segment::parse_name(name).is_some();
        let lock = FolderLock::open(folder, is_known)?;
        let Inventory { log, mut segments, .. } = Inventory::of(folder, &[])?;
        if let Some(mut last) = segments.last_entry() {
            let truncated = truncate_torn_tail(last.get_mut(), None, &mut RoaringTreemap::new());
            truncated.map_err(OpenError::io("read", &last.get().path))?;
        }
        let next = segments.last_key_value().map_or(1, |(_, last)| last.end);
        continue_or_begin(folder, log, &mut segments, next, segment_bytes)?;
        if let Some(mut last) = segments.last_entry() {
            let index = last.get().make_index().map_err(OpenError::io("read", &last.get().path))?;
            last.get_mut().index = Some(index);
        }
        let last = segments.last_key_value().map(|(_, last)| last).expect("a segment is open");
        crash::synced(&last.path, last.len);
        let appender = Appender::new(folder.to_owned(), segment_bytes, last);
        let handle = LogWriter::of(folder).add();
        let (segments, queue) = (Arc::new(Mutex::new(segments)), Mutex::new(Some(Vec::new())));
        let shared = Arc::new(LogShared { segments, queue, handle, log });
        let job = Job {
            shared: Arc::clone(&shared),
            folder: folder.to_owned(),
            appender,
            retention,
            written: None,
            has_begun: true,
            age_check: Instant::now(),
            _lock: lock,
        };
        let started = shared.handle.start(Box::new(job));
        started.map_err(OpenError::io("start a thread for", folder))?;
        Ok(Self { open: Arc::new(OpenLog(shared)) })
    }

    /// Appends a batch, whole or not at all; returns its positions once it is durable.
    ///
    /// # Errors
    /// The batch is not stored: the log is closed, or the disk refused the write.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the batch stored or not.
    pub(crate) async fn append(&self, payloads: &[impl AsRef<[u8]>]) -> io::Result<Range<u64>> {
        let seed = Head::segment(self.shared().log, 0, None).key().payload;
        let mut records = Vec::new();
        for (index, payload) in payloads.iter().enumerate() {
            let payload = |records: &mut Vec<u8>| {
                records.extend_from_slice(payload.as_ref());
                Ok(())
            };
            push_record(&mut records, seed, index + 1 == payloads.len(), payload)
                .map_err(io::Error::other)?;
        }
        let (reply, stored) = oneshot::channel();
        if payloads.is_empty() {
            let next = self.positions().end;
            return Ok(next..next);
        }
        let batch = Batch { records, count: payloads.len() as u64, reply };
        lock(&self.shared().queue).as_mut().ok_or_else(closed)?.push(batch);
        self.shared().handle.wake();
        stored.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Returns the positions of the stored records.
    pub(crate) fn positions(&self) -> Range<u64> {
        let segments = lock(&self.shared().segments);
        let (first, last) = (segments.first_key_value(), segments.last_key_value());
        first.map_or(1, |(base, _)| *base)..last.map_or(1, |(_, last)| last.end)
    }

    /// Reads the records from a position on.
    pub(crate) fn read(&self, from: u64) -> Reader {
        Reader::new(Arc::clone(&self.shared().segments), from)
    }

    /// Returns the payload of one record; `None` if it is damaged or was deleted. The first read from a segment builds its
    /// index. Blocks.
    ///
    /// # Errors
    /// The segment cannot be read.
    pub(crate) fn get(&self, position: u64) -> io::Result<Option<Vec<u8>>> {
        let found = {
            let segments = lock(&self.shared().segments);
            let at = segments.range(..=position).next_back().map(|(_, segment)| segment);
            at.filter(|segment| position < segment.end).cloned()
        };
        let Some(mut segment) = found else { return Ok(None) };
        if segment.index.is_none() {
            segment.index = Some(segment.make_index()?);
            if let Some(shared) = lock(&self.shared().segments).get_mut(&segment.base) {
                shared.index.get_or_insert_with(|| segment.index.clone().unwrap_or_default());
            }
        }
        let mut scan = segment.scan(position);
        while let Some(found) = scan.next()? {
            match found {
                Found::Record(header) if header.position == position => {
                    return Ok(Some(scan.payload().to_vec()));
                }
                Found::Record(header) if header.position > position => break,
                _ => {}
            }
        }
        Ok(None)
    }

    /// Returns the positions of the oldest segment, unless it is the only one.
    pub(crate) fn oldest(&self) -> Option<Range<u64>> {
        let segments = lock(&self.shared().segments);
        segments.values().next().filter(|_| segments.len() > 1).map(|oldest| oldest.base..oldest.end)
    }

    /// Returns the size of all segments in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        lock(&self.shared().segments).values().map(|segment| segment.len).sum()
    }

    /// Deletes the segments whose records are all before `position`, but not the last one. Blocks.
    pub(crate) fn delete_before(&self, position: u64) {
        let deleted: Vec<Segment> = {
            let mut segments = lock(&self.shared().segments);
            let is_old = |segment: &Segment| segment.end <= position;
            let count =
                segments.values().take(segments.len().saturating_sub(1)).take_while(|it| is_old(it)).count();
            (0..count).filter_map(|_| segments.pop_first()).map(|(_, segment)| segment).collect()
        };
        deleted.iter().for_each(delete);
    }

    /// Writes the batches that wait, and closes the log. Blocks.
    pub(crate) fn close(&self) {
        self.open.close();
    }

    fn shared(&self) -> &LogShared {
        &self.open.0
    }
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the log is closed")
}

/// The writer of a log.
struct Job {
    shared: Arc<LogShared>,
    folder: PathBuf,
    appender: Appender,
    retention: Retention,
    /// The batches of the last write and their offset, until they are synced.
    written: Option<(u64, Vec<Batch>)>,
    /// Whether a segment was begun since the last check of the retention.
    has_begun: bool,
    /// The time of the next check of [`Retention::max_age`].
    age_check: Instant,
    _lock: FolderLock,
}

/// A log without a job is closed, also when the job panicked.
impl Drop for Job {
    fn drop(&mut self) {
        *lock(&self.shared.queue) = None;
    }
}

impl Job {
    fn add_begun(&mut self) {
        if let Some(segment) = self.appender.take_begun() {
            self.has_begun = true;
            crash::synced(&segment.path, segment.len);
            lock(&self.shared.segments).insert(segment.base, segment);
        }
    }

    fn refuse(&self, batches: Vec<Batch>, error: &io::Error) {
        let folder = self.folder.display();
        tracing::error!(error = %write_error(&folder, error), batches = batches.len(), "could not store records");
        for batch in batches {
            let _ = batch.reply.send(Err(io::Error::new(error.kind(), write_error(&folder, error))));
        }
    }

    fn delete_expired(&mut self) {
        let expired: Vec<Segment> = {
            let mut segments = lock(&self.shared.segments);
            let modified = |segment: &Segment| segment.file.metadata()?.modified();
            // A segment of unknown age is kept.
            let written = |segment: &Segment| modified(segment).unwrap_or_else(|_| SystemTime::now());
            let count = self.retention.expired(segments.values(), written, SystemTime::now());
            (0..count).filter_map(|_| segments.pop_first()).map(|(_, segment)| segment).collect()
        };
        expired.iter().for_each(delete);
    }
}

fn delete(segment: &Segment) {
    if let Err(error) = std::fs::remove_file(&segment.path) {
        tracing::warn!(path = %segment.path.display(), %error, "could not delete a segment; the next start retries");
    }
}

impl LogJob for Job {
    fn write(&mut self) {
        let mut batches = lock(&self.shared.queue).as_mut().map(std::mem::take).unwrap_or_default();
        if batches.is_empty() {
            return;
        }
        let first = lock(&self.shared.segments).last_key_value().map_or(1, |(_, last)| last.end);
        let written = self.appender.write(batches.iter_mut().map(|batch| &mut batch.records), first);
        self.add_begun();
        match written {
            Ok(offset) => self.written = Some((offset, batches)),
            Err(error) => self.refuse(batches, &error),
        }
    }

    fn sync(&mut self) {
        let Some((mut offset, batches)) = self.written.take() else { return };
        let synced = self.appender.sync();
        self.add_begun();
        if let Err(error) = synced {
            return self.refuse(batches, &error);
        }
        let mut segments = lock(&self.shared.segments);
        let mut last = segments.last_entry().expect("a segment is open");
        let last = last.get_mut();
        for batch in batches {
            let first = last.end;
            last.index_record(first, offset);
            offset += batch.records.len() as u64;
            (last.len, last.end) = (offset, first + batch.count);
            crash::synced(&last.path, last.len);
            let _ = batch.reply.send(Ok(first..last.end));
        }
    }

    fn tidy(&mut self) -> Next {
        let now = Instant::now();
        let is_age_due = self.retention.max_age.is_some() && self.age_check <= now;
        if is_age_due || std::mem::take(&mut self.has_begun) {
            self.delete_expired();
        }
        let Some(max_age) = self.retention.max_age else { return Next::Woken };
        if is_age_due {
            self.age_check = now + (max_age / 8).clamp(Duration::from_secs(1), AGE_CHECK);
        }
        Next::At(self.age_check)
    }

    fn work_slowly(&mut self) {}

    fn close(mut self: Box<Self>) {
        self.sync();
        self.write();
        self.sync();
        self.appender.trim();
        self.delete_expired();
    }
}

#[cfg(test)]
mod tests {
    use super::super::files::write_at;
    use super::super::format::{HEAD, RECORD_HEADER};
    use super::super::reader::ReadItem;
    use super::*;

    fn payload(position: u64) -> Vec<u8> {
        format!("record {position:04} {}", "x".repeat(80)).into_bytes()
    }

    /// Appends records one by one, whose payloads contain their positions.
    async fn append(log: &RecordLog, count: u64) {
        for _ in 0..count {
            let next = log.positions().end;
            assert_eq!(log.append(&[payload(next)]).await.unwrap(), next..next + 1);
        }
    }

    /// Reads from a position up to the end; returns the positions of the records, and those that are lost.
    fn read(log: &RecordLog, from: u64) -> (Vec<u64>, Vec<u64>) {
        let (mut reader, mut found, mut lost) = (log.read(from), Vec::new(), Vec::new());
        while let Some(item) = reader.next().unwrap() {
            match item {
                ReadItem::Record { position, payload: bytes } => {
                    assert_eq!(bytes, payload(position));
                    found.push(position);
                }
                ReadItem::Lost(positions) => lost.extend(positions),
            }
        }
        (found, lost)
    }

    fn open(folder: &Path, retention: Retention) -> RecordLog {
        RecordLog::open(&folder.join("log"), 1_000, retention).unwrap()
    }

    fn segments(log: &RecordLog) -> Vec<Segment> {
        lock(&log.shared().segments).values().cloned().collect()
    }

    #[tokio::test]
    async fn records_are_read_from_any_position_across_segments() {
        let folder = tempfile::tempdir().unwrap();
        let log = open(folder.path(), Retention::default());
        append(&log, 40).await;
        assert!(segments(&log).len() > 3);
        for from in [0, 1, 2, 9, 10, 11, 25, 39, 40] {
            assert_eq!(read(&log, from).0, (from.max(1)..=40).collect::<Vec<_>>(), "from {from}");
        }
        assert_eq!(read(&log, 41), (vec![], vec![]));
        log.close();
    }

    #[tokio::test]
    async fn a_reader_at_the_end_continues_with_later_records() {
        let folder = tempfile::tempdir().unwrap();
        let log = open(folder.path(), Retention::default());
        let mut reader = log.read(1);
        for position in 1..=30 {
            assert!(reader.next().unwrap().is_none());
            append(&log, 1).await;
            let Some(ReadItem::Record { position: found, .. }) = reader.next().unwrap() else { panic!() };
            assert_eq!(found, position);
        }
        log.close();
    }

    #[tokio::test]
    async fn a_damaged_record_is_reported_as_lost_and_the_others_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let log = open(folder.path(), Retention::default());
        append(&log, 30).await;
        log.close();
        let damaged: Vec<u64> = segments(&log)[..2].iter().map(|segment| segment.base + 2).collect();
        for (segment, position) in segments(&log).iter().zip(&damaged) {
            let offset = HEAD + (position - segment.base) * (payload(1).len() + RECORD_HEADER) as u64;
            write_at(&segment.file, b"flip", offset + 40).unwrap();
        }
        drop(log);
        let log = open(folder.path(), Retention::default());
        let (found, lost) = read(&log, 1);
        assert_eq!(lost, damaged);
        assert_eq!(found, (1..=30).filter(|position| !damaged.contains(position)).collect::<Vec<_>>());
        log.close();
    }

    #[tokio::test]
    async fn a_torn_tail_is_truncated_and_its_positions_are_used_again() {
        let folder = tempfile::tempdir().unwrap();
        let log = open(folder.path(), Retention::default());
        append(&log, 4).await;
        let batch = [payload(5), payload(6), payload(7)];
        assert_eq!(log.append(&batch).await.unwrap(), 5..8);
        log.close();
        let last = segments(&log).pop().unwrap();
        last.file.set_len(last.len - 3).unwrap();
        drop((log, last));
        let log = open(folder.path(), Retention::default());
        assert_eq!(log.positions(), 1..5, "the batch is torn as a whole");
        append(&log, 3).await;
        assert_eq!(read(&log, 1), ((1..=7).collect(), vec![]));
        log.close();
    }

    #[tokio::test]
    async fn old_segments_are_deleted_by_count_and_by_bytes() {
        let by_count = Retention { max_records: Some(15), ..Retention::default() };
        let by_bytes = Retention { max_bytes: Some(2_500), ..Retention::default() };
        for retention in [by_count, by_bytes] {
            let folder = tempfile::tempdir().unwrap();
            let log = open(folder.path(), retention);
            append(&log, 100).await;
            // The deletion follows the answer.
            log.close();
            let kept = log.positions();
            assert_eq!(kept.end, 101);
            let count = kept.end - kept.start;
            assert!((15..40).contains(&count), "{count} are kept");
            let (found, lost) = read(&log, 1);
            assert_eq!(found, kept.clone().collect::<Vec<_>>());
            assert_eq!(lost, (1..kept.start).collect::<Vec<_>>());
            let files = std::fs::read_dir(folder.path().join("log")).unwrap().count();
            assert_eq!(files, segments(&log).len() + 1, "and the lock");
            drop(log);
            let log = open(folder.path(), retention);
            assert_eq!(log.positions(), kept);
            log.close();
        }
    }

    #[tokio::test]
    async fn single_records_are_read_and_old_segments_deleted_on_demand() {
        let folder = tempfile::tempdir().unwrap();
        let log = open(folder.path(), Retention::default());
        append(&log, 40).await;
        log.close();
        drop(log);
        let log = open(folder.path(), Retention::default());
        for position in [1, 7, 8, 9, 40] {
            assert_eq!(log.get(position).unwrap(), Some(payload(position)));
        }
        assert_eq!(log.get(41).unwrap(), None);
        let (bytes, oldest) = (log.bytes(), log.oldest().unwrap());
        log.delete_before(oldest.end - 1);
        assert_eq!(log.oldest(), Some(oldest.clone()));
        log.delete_before(oldest.end);
        assert_eq!(log.positions(), oldest.end..41);
        assert!(log.bytes() < bytes);
        assert_eq!((log.get(1).unwrap(), log.get(oldest.end).unwrap()), (None, Some(payload(oldest.end))));
        log.delete_before(u64::MAX);
        assert_eq!((log.oldest(), log.positions().end), (None, 41));
        log.close();
    }

    #[tokio::test]
    async fn old_segments_are_deleted_by_age() {
        let folder = tempfile::tempdir().unwrap();
        let log = open(folder.path(), Retention::default());
        append(&log, 40).await;
        log.close();
        let old = SystemTime::now() - Duration::from_secs(7_200);
        let segments = segments(&log);
        segments[..2].iter().for_each(|segment| segment.file.set_modified(old).unwrap());
        drop(log);
        let max_age = Some(Duration::from_secs(3_600));
        let log = open(folder.path(), Retention { max_age, ..Retention::default() });
        log.append(&[payload(41)]).await.unwrap();
        log.close();
        assert_eq!(log.positions(), segments[2].base..42);
    }
}
