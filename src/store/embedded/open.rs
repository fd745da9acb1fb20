//! Opens a store: reads its files, and restores the index.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use roaring::RoaringTreemap;
use tokio::sync::mpsc::UnboundedSender;

use super::compact::FRESH;
use super::event::Event;
use super::index::{LogIndex, Reply};
use super::journal::{JOURNAL, NEW_JOURNAL};
use super::reasons::Reasons;
use super::settings::EmbeddedStoreSettings;
use super::shared::StoreShared;
use super::writer::Writer;
use crate::log::error::OpenError;
use crate::log::files;
use crate::log::folder::FolderLock;
use crate::log::format::HEAD;
use crate::log::head::{Head, Kind};
use crate::log::inventory::{ASIDE, Inventory, read_head, set_aside};
use crate::log::recover::{continue_or_begin, find_positions, truncate_torn_tail};
use crate::log::scan::{Found, Scan};
use crate::log::segment::Segment;
use crate::log::writer::LogWriter;
use crate::store::ThisInstance;
use crate::telemetry;

/// Files that were being written when a process died.
const LEFTOVERS: [&str; 2] = [NEW_JOURNAL, FRESH];

/// The most messages that can have been stored since the last snapshot: the journal grows with them, and is replaced.
const AFTER_SNAPSHOT: u64 = 1 << 32;

/// Opens the store in this folder. Blocks.
pub(super) fn open(
    settings: &EmbeddedStoreSettings,
    replies: UnboundedSender<Vec<Reply>>,
) -> Result<(Arc<StoreShared>, Writer), OpenError> {
    let folder = &settings.path;
    let lock = FolderLock::open(folder, is_known)?;
    for leftover in LEFTOVERS {
        let path = folder.join(leftover);
        if path.exists() {
            fs::remove_file(&path).map_err(OpenError::io("delete", &path))?;
        }
    }
    let journal_head = read_journal_head(folder)?;
    let Inventory { log, segments, emptied } = Inventory::of(folder, journal_head.as_slice())?;
    if journal_head.is_some_and(|head| head.log != log || head.kind != Kind::Journal) {
        set_aside(&folder.join(JOURNAL), "it belongs to another store")?;
    }
    let mut index = LogIndex::new(settings.limits.clone(), Head::journal(log).key().payload);
    index.segments = segments;
    let journal = read_journal(folder, log)?;
    let snapshot = match journal.first() {
        Some(Event::Snapshot(snapshot)) => Some((snapshot.next, snapshot.end)),
        _ => None,
    };
    let on_disk = OnDisk::of(&mut index.segments, snapshot)?;
    if snapshot.is_none() {
        if !on_disk.is_empty() {
            tracing::error!(
                folder = %folder.display(),
                "the journal of the outbox is missing or damaged; messages that were confirmed before are sent again"
            );
        }
        index.live = on_disk.exact.clone();
    }
    for event in journal {
        let next = if let Event::Snapshot(snapshot) = &event { Some(snapshot.next) } else { None };
        let path = folder.join(JOURNAL);
        index.replay(event).map_err(OpenError::io("read", &path))?;
        if let Some(next) = next {
            // Every position behind the snapshot was stored; the events remove those that were settled.
            let end = index.segments.last_key_value().map_or(next, |(_, last)| last.end);
            index.live.insert_range(next..end.clamp(next, next.saturating_add(AFTER_SNAPSHOT)));
        }
    }
    let newest = index.segments.last_key_value().map_or(0, |(base, _)| *base);
    if index.last_begun > newest && !emptied.iter().any(|range| range.start == index.last_begun) {
        let path = folder.join(Segment::name(index.last_begun));
        tracing::error!(path = %path.display(), "the newest segment of the outbox is missing; its messages are lost");
    }
    for range in emptied {
        index.live.remove_range(range);
    }
    let missing = on_disk.missing(&index.live);
    if !missing.is_empty() {
        let cause = format!("a file of the outbox {} is missing or damaged", folder.display());
        telemetry::lost(usize::try_from(missing.len()).unwrap_or(usize::MAX), &cause);
        index.live -= missing;
    }
    let last = index.segments.last_entry();
    index.next = index.next.max(last.map_or(1, |last| last.get().end));
    continue_or_begin(folder, log, &mut index.segments, index.next, settings.segment_bytes)?;
    index.begin();
    let has_reasons = index.retries.values().any(|retry| retry.reason.is_some());
    index.reasons = Reasons::open(folder, log, index.generation, has_reasons)?;
    let (pending, dead) = (index.capacity.pending(), index.capacity.dead());
    tracing::info!(pending, dead, folder = %folder.display(), "opened the outbox");
    let handle = LogWriter::of(folder).add();
    let shared = Arc::new(StoreShared::new(
        folder.clone(),
        ThisInstance::named(settings.instance_name.as_deref()),
        settings.segment_bytes,
        log,
        index,
        handle,
        replies,
    ));
    let writer = Writer::open(Arc::clone(&shared), lock)?;
    Ok((shared, writer))
}

/// Whether a store has files of this name.
fn is_known(name: &str) -> bool {
    name == JOURNAL
        || LEFTOVERS.contains(&name)
        || name.contains(ASIDE)
        || Reasons::parse_name(name).is_some()
        || Segment::parse_name(name).is_some()
}

fn read_journal_head(folder: &Path) -> Result<Option<Head>, OpenError> {
    let path = folder.join(JOURNAL);
    match files::writable().open(&path) {
        Ok(file) => {
            files::tighten(&path, &file);
            read_head(&path, &file)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(OpenError::io("read", &path)(error)),
    }
}

/// Reads the events of the journal, from its snapshot on.
fn read_journal(folder: &Path, log: u64) -> Result<Vec<Event>, OpenError> {
    let path = folder.join(JOURNAL);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(OpenError::io("read", &path)(error)),
    };
    let read = OpenError::io("read", &path);
    let scanned = (|| {
        let len = file.metadata()?.len();
        let mut scan = Scan::new(Arc::new(file), Head::journal(log).key(), (0, HEAD), len);
        // A gap in the numbers of the events shows damage. Damage at the end is an event that a crash has cut off.
        let (mut events, mut unread, mut expected) = (Vec::new(), 0, 0);
        while let Some(found) = scan.next()? {
            let Found::Record(header) = found else { continue };
            unread += header.position - expected;
            expected = header.position + 1;
            match Event::read(scan.payload()) {
                Ok(event) => events.push(event),
                Err(_) => unread += 1,
            }
        }
        if unread > 0 {
            tracing::error!(
                path = %path.display(), events = unread,
                "the journal of the outbox is damaged; some messages that were confirmed before are sent again"
            );
        }
        Ok(events)
    })();
    scanned.map_err(read)
}

/// The positions that may be on disk.
struct OnDisk {
    /// The ranges of segments that were not scanned.
    ranges: Vec<Range<u64>>,
    /// The positions in segments that were scanned.
    exact: RoaringTreemap,
}

impl OnDisk {
    /// Scans the last segment, and truncates it behind its last whole batch; without a journal, scans every segment.
    fn of(
        segments: &mut BTreeMap<u64, Segment>,
        snapshot: Option<(u64, Option<(u64, u64)>)>,
    ) -> Result<Self, OpenError> {
        let (mut ranges, mut exact) = (Vec::new(), RoaringTreemap::new());
        let last = segments.last_key_value().map(|(base, _)| *base);
        for segment in segments.values_mut() {
            if Some(segment.base) == last && segment.head.end.is_none() && segment.len > 0 {
                let end = snapshot.and_then(|(_, end)| end.filter(|(base, _)| *base == segment.base));
                let closed = end.zip(snapshot).map(|((_, len), (next, _))| (next, len));
                let truncated = truncate_torn_tail(segment, closed, &mut exact);
                truncated.map_err(OpenError::io("read", &segment.path))?;
            } else if snapshot.is_some() {
                ranges.push(segment.base..segment.end);
            } else {
                let found = find_positions(segment, &mut exact);
                found.map_err(OpenError::io("read", &segment.path))?;
            }
        }
        Ok(Self { ranges, exact })
    }

    fn is_empty(&self) -> bool {
        self.ranges.is_empty() && self.exact.is_empty()
    }

    /// Returns the positions of `live` that no segment has.
    fn missing(&self, live: &RoaringTreemap) -> RoaringTreemap {
        let mut missing = live - &self.exact;
        for range in &self.ranges {
            missing.remove_range(range.clone());
        }
        missing
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::{Duration, SystemTime};

    use super::super::event::{RetryState, Snapshot};
    use super::*;
    use crate::log::format::MAX_POSITION;
    use crate::log::record::assign_positions;

    fn opened(settings: &EmbeddedStoreSettings) -> (Arc<StoreShared>, Writer) {
        open(settings, tokio::sync::mpsc::unbounded_channel().0).unwrap()
    }

    /// A store whose journal has these events, with valid checksums.
    fn with_journal(events: &[Event]) -> (Arc<StoreShared>, Writer) {
        let folder = tempfile::tempdir().unwrap();
        let settings = EmbeddedStoreSettings::new(folder.path().join("outbox"));
        let head = Head::journal(opened(&settings).0.log);
        let mut bytes = head.to_bytes().to_vec();
        for event in events {
            event.write(&mut bytes, head.key().payload);
        }
        assign_positions(&mut bytes[HEAD as usize..], &head.key(), HEAD, 0);
        fs::write(settings.path.join(JOURNAL), bytes).unwrap();
        drop(opened(&settings));
        opened(&settings)
    }

    fn snapshot(next: u64, live: impl IntoIterator<Item = u64>, end: Option<(u64, u64)>) -> Event {
        let mut bytes = Vec::new();
        live.into_iter().collect::<RoaringTreemap>().serialize_into(&mut bytes).unwrap();
        let retry = RetryState { attempts: u32::MAX, dead: true, ..RetryState::default() };
        let retries: BTreeMap<u64, RetryState> = [(1, retry.clone()), (u64::MAX, retry)].into();
        Event::Snapshot(Snapshot {
            next,
            live: bytes,
            retries,
            dropped_unreported: u64::MAX,
            last: 0,
            reasons: u64::MAX,
            end,
        })
    }

    #[test]
    fn impossible_events_cause_no_panic_and_take_no_memory() {
        let (at, wait) = (SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 50), Duration::MAX);
        let events = || {
            vec![
                Event::Removed(vec![(0, u64::MAX), (u64::MAX, u64::MAX), (5, 0)]),
                Event::AttemptFailed { position: 1, at, after: wait, bytes: u32::MAX },
                Event::DeadLettered { position: u64::MAX, bytes: u32::MAX },
                Event::Reasons(vec![(1, u64::MAX), (1, 1), (u64::MAX, 0)]),
                Event::Requeued { positions: vec![1, u64::MAX], at, pace: wait },
                Event::DroppedForRoom(u64::MAX),
                Event::DroppedForRoom(u64::MAX),
                Event::DropsReported(u64::MAX),
                Event::SegmentBegun(u64::MAX),
                Event::SegmentBegun(MAX_POSITION),
            ]
        };
        let mut no_bitmap = Vec::new();
        no_bitmap.extend_from_slice(&u64::MAX.to_le_bytes());
        let broken = Snapshot { live: no_bitmap, ..Snapshot::default() };
        for first in [
            None,
            Some(snapshot(1, [], None)),
            Some(snapshot(MAX_POSITION, [1, MAX_POSITION], Some((1, u64::MAX)))),
            Some(snapshot(1 << 61, [], Some((1, 80)))),
            Some(snapshot(u64::MAX, [u64::MAX], Some((u64::MAX, u64::MAX)))),
            Some(Event::Snapshot(broken)),
        ] {
            let mut all: Vec<Event> = first.into_iter().collect();
            all.extend(events());
            let (shared, _writer) = with_journal(&all);
            let mut index = shared.lock();
            assert!(index.next <= MAX_POSITION && index.live.len() <= index.next);
            assert_eq!(index.capacity.pending() + index.capacity.dead(), index.live.len());
            index.lease(10).unwrap();
            if let Some((_, Some((reasons, last)))) = index.entry(1, None) {
                reasons.read(1, last);
            }
        }
    }
}
