//! Opening a store: what is on disk, and what of it still counts.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use roaring::RoaringTreemap;
use tokio::sync::mpsc::UnboundedSender;

use super::error::OpenError;
use super::event::Event;
use super::files;
use super::head::{HEAD, Head};
use super::inventory::{ASIDE, Inventory};
use super::reasons::Reasons;
use super::record::HEADER;
use super::scan::{Found, Scan, read_at};
use super::segment::Segment;
use super::settings::EmbeddedStoreSettings;
use super::state::{Reply, State};
use super::writer::{self, JOURNAL, Shared, Writer};
use crate::telemetry;

const LOCK: &str = "lock";

/// Files that were being written when a process died.
const LEFTOVERS: [&str; 2] = ["state.new", "compacted.new"];

/// How many messages may have been stored since the last snapshot: the journal grows with them, and is written anew.
const AFTER_SNAPSHOT: u64 = 1 << 32;

/// Opens the store in this folder. Blocks.
pub(super) fn open(
    settings: &EmbeddedStoreSettings,
    replies: UnboundedSender<Vec<Reply>>,
) -> Result<(Arc<Shared>, Writer), OpenError> {
    let folder = &settings.path;
    match files::create_folder(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => {
            files::tighten_folder(folder, is_ours);
        }
        Err(error) => return Err(OpenError::io("create", folder)(error)),
        Ok(()) => {}
    }
    let lock = lock(folder)?;
    for leftover in LEFTOVERS {
        let path = folder.join(leftover);
        if path.exists() {
            fs::remove_file(&path).map_err(OpenError::io("delete", &path))?;
        }
    }
    let Inventory { store, segments, emptied } = Inventory::of(folder)?;
    let mut state = State::new(settings.limits.clone(), Head::journal(store).key().payload);
    state.segments = segments;
    let journal = read_journal(folder, store)?;
    let snapshot = match journal.first() {
        Some(Event::Snapshot(snapshot)) => Some((snapshot.next, snapshot.end)),
        _ => None,
    };
    let on_disk = OnDisk::of(&mut state.segments, snapshot)?;
    if snapshot.is_none() {
        if !on_disk.is_empty() {
            tracing::error!(
                folder = %folder.display(),
                "the journal of the outbox is missing or damaged: what had left already leaves once more"
            );
        }
        state.live = on_disk.exact.clone();
    }
    for event in journal {
        let next = if let Event::Snapshot(snapshot) = &event { Some(snapshot.next) } else { None };
        let path = folder.join(JOURNAL);
        state.replay(event).map_err(OpenError::io("read", &path))?;
        if let Some(next) = next {
            // Every position up to the last: what is not on disk and has not left is missing.
            let end = state.segments.last_key_value().map_or(next, |(_, last)| last.end);
            state.live.insert_range(next..end.clamp(next, next.saturating_add(AFTER_SNAPSHOT)));
        }
    }
    let newest = state.segments.last_key_value().map_or(0, |(base, _)| *base);
    if state.begun > newest && !emptied.iter().any(|range| range.start == state.begun) {
        let path = folder.join(Segment::name(state.begun));
        tracing::error!(path = %path.display(), "the newest file of the outbox is missing, and what was stored in it lost");
    }
    for range in emptied {
        state.live.remove_range(range);
    }
    let missing = on_disk.missing(&state.live);
    if !missing.is_empty() {
        let cause = format!("a file of the outbox {} is missing or damaged", folder.display());
        telemetry::lost(usize::try_from(missing.len()).unwrap_or(usize::MAX), &cause);
        state.live -= missing;
    }
    let last = state.segments.last_entry();
    state.next = state.next.max(last.map_or(1, |last| last.get().end));
    take_last(folder, store, &mut state, settings.segment_bytes)?;
    state.begin();
    let is_needed = state.fates.values().any(|fate| fate.reason.is_some());
    state.reasons = Reasons::open(folder, store, state.generation, is_needed)?;
    let (pending, dead) = (state.count - state.dead, state.dead);
    tracing::info!(pending, dead, folder = %folder.display(), "outbox opened");
    let shared = Arc::new(Shared::new(folder.clone(), settings.segment_bytes, store, state, replies));
    let writer = Writer::open(Arc::clone(&shared), lock)?;
    Ok((shared, writer))
}

/// Whether a name in the folder is one of ours.
fn is_ours(name: &str) -> bool {
    let ours = [LOCK, JOURNAL].contains(&name) || LEFTOVERS.contains(&name);
    ours || name.contains(ASIDE) || Reasons::parse_name(name).is_some() || Segment::parse_name(name).is_some()
}

fn lock(folder: &Path) -> Result<File, OpenError> {
    let path = folder.join(LOCK);
    let file = files::writable().create(true).truncate(false).open(&path);
    let file = file.map_err(OpenError::io("write", &path))?;
    files::tighten(&path, &file);
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse { path: folder.to_owned() }),
        Err(TryLockError::Error(error)) => Err(OpenError::io("lock", &path)(error)),
    }
}

/// The events of the journal, from its snapshot on.
fn read_journal(folder: &Path, store: u64) -> Result<Vec<Event>, OpenError> {
    let path = folder.join(JOURNAL);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(OpenError::io("read", &path)(error)),
    };
    let read = OpenError::io("read", &path);
    let scanned = (|| {
        let len = file.metadata()?.len();
        let mut scan = Scan::new(Arc::new(file), Head::journal(store).key(), (0, HEAD), len);
        // The numbers of the events show how many are missing; at the end it is what was being written when the process
        // died.
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
                "the journal of the outbox is damaged: some of what had left may leave once more"
            );
        }
        Ok(events)
    })();
    scanned.map_err(read)
}

/// The positions there may be on disk.
struct OnDisk {
    /// Of files that are read when their turn comes.
    ranges: Vec<Range<u64>>,
    /// Of those that were read.
    exact: RoaringTreemap,
}

impl OnDisk {
    /// The last file is read, and cut where what was being written ends; without a journal every file is read.
    fn of(
        segments: &mut BTreeMap<u64, Segment>,
        snapshot: Option<(u64, Option<(u64, u64)>)>,
    ) -> Result<Self, OpenError> {
        let (mut ranges, mut exact) = (Vec::new(), RoaringTreemap::new());
        let last = segments.last_key_value().map(|(base, _)| *base);
        for segment in segments.values_mut() {
            if Some(segment.base) == last && segment.head.end.is_none() && segment.len > 0 {
                let synced = snapshot.and_then(|(_, end)| end.filter(|(base, _)| *base == segment.base));
                let synced = synced.zip(snapshot).map(|((_, len), (next, _))| (next, len));
                scan_last(segment, synced, &mut exact).map_err(OpenError::io("read", &segment.path))?;
            } else if snapshot.is_some() {
                ranges.push(segment.base..segment.end);
            } else {
                let scanned = every_position(segment, &mut exact);
                scanned.map_err(OpenError::io("read", &segment.path))?;
            }
        }
        Ok(Self { ranges, exact })
    }

    fn is_empty(&self) -> bool {
        self.ranges.is_empty() && self.exact.is_empty()
    }

    /// Those of `live` that are nowhere.
    fn missing(&self, live: &RoaringTreemap) -> RoaringTreemap {
        let mut missing = live - &self.exact;
        for range in &self.ranges {
            missing.remove_range(range.clone());
        }
        missing
    }
}

fn every_position(segment: &Segment, positions: &mut RoaringTreemap) -> io::Result<()> {
    let mut scan = segment.scan(segment.base);
    while let Some(found) = scan.next()? {
        match found {
            Found::Record(header) => {
                positions.insert(header.position);
            }
            Found::Damage(range) => say_damage(segment, &range),
        }
    }
    Ok(())
}

/// Finds the end of the last file: what follows the last whole batch was being written when the process died, but for
/// what was whole when the store was closed in order, up to a position and a length.
fn scan_last(
    segment: &mut Segment,
    closed: Option<(u64, u64)>,
    positions: &mut RoaringTreemap,
) -> io::Result<()> {
    let mut scan = segment.scan_to_end();
    // What belongs to a batch whose end has not been seen.
    let (mut batch, mut whole, mut expected) = (Vec::new(), scan.offset(), segment.base);
    let mut damage: Vec<Range<u64>> = Vec::new();
    let mut found_here = RoaringTreemap::new();
    while let Some(found) = scan.next()? {
        match found {
            Found::Record(header) => {
                // A hole is a message that was damaged: it counts, and will be found missing.
                batch.extend(expected..=header.position);
                expected = header.position + 1;
                if header.ends_batch {
                    found_here.extend(batch.drain(..));
                    whole = scan.offset();
                }
            }
            Found::Damage(range) => damage.push(range),
        }
    }
    // No file holds more than it has room for.
    let fits = |next: u64| next.saturating_sub(segment.base) <= segment.len / HEADER as u64;
    if let Some((next, len)) = closed.filter(|(next, len)| *len > whole && fits(*next)) {
        // Its end is damaged: that costs what cannot be read, not the batch.
        found_here.insert_range(segment.base..next.max(segment.base));
        whole = len.min(segment.len);
    }
    for range in damage.iter().filter(|range| range.start < whole) {
        say_damage(segment, range);
    }
    if whole < segment.len && !is_zero(&segment.file, whole, segment.len)? {
        tracing::warn!(
            path = %segment.path.display(), bytes = segment.len - whole,
            "the newest file of the outbox ends in the middle of a batch, as when the process dies while it writes; that is cut off"
        );
    }
    segment.end = found_here.max().map_or(segment.base, |last| last + 1);
    *positions |= found_here;
    segment.file.set_len(whole)?;
    segment.file.sync_all()?;
    segment.len = whole;
    Ok(())
}

/// Whether a file was only prepared there.
fn is_zero(file: &File, mut from: u64, to: u64) -> io::Result<bool> {
    let mut buffer = vec![0; 64 << 10];
    while from < to {
        let read = read_at(file, &mut buffer, from)?;
        if buffer[..read].iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
        if read == 0 {
            break;
        }
        from += read as u64;
    }
    Ok(true)
}

fn say_damage(segment: &Segment, range: &Range<u64>) {
    tracing::error!(path = %segment.path.display(), from = range.start, to = range.end, "a file of the outbox is damaged");
}

/// Goes on with the last file if it has room, or the disk has none for another; else begins one.
fn take_last(folder: &Path, store: u64, state: &mut State, segment_bytes: u64) -> Result<(), OpenError> {
    let usable = state.segments.last_key_value().is_some_and(|(base, segment)| {
        segment.head == Head::log(store, *base, None) && segment.end == state.next && segment.len > 0
    });
    let has_room =
        state.segments.last_key_value().is_some_and(|(_, segment)| segment.len < segment_bytes.max(HEAD + 1));
    if usable && has_room {
        return Ok(());
    }
    let (head, path) = (Head::log(store, state.next, None), folder.join(Segment::name(state.next)));
    let (file, len) = match writer::create(&path, head) {
        // What leaves makes some.
        Err(error) if usable && writer::is_full(&error) => return Ok(()),
        created => created.map_err(OpenError::io("write", &path))?,
    };
    writer::sync_folder(folder).map_err(OpenError::io("write", folder))?;
    state.segments.insert(head.base, Segment::new(head, path, file, len));
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::{Duration, SystemTime};

    use super::super::event::{Fate, Snapshot};
    use super::super::record::{self, MAX_POSITION};
    use super::*;

    fn opened(settings: &EmbeddedStoreSettings) -> Arc<Shared> {
        open(settings, tokio::sync::mpsc::unbounded_channel().0).unwrap().0
    }

    /// A store whose journal says this, with all checksums right.
    fn with_journal(events: &[Event]) -> Arc<Shared> {
        let folder = tempfile::tempdir().unwrap();
        let settings = EmbeddedStoreSettings::new(folder.path().join("outbox"));
        let head = Head::journal(opened(&settings).store);
        let mut bytes = head.to_bytes().to_vec();
        for event in events {
            event.write(&mut bytes, head.key().payload);
        }
        record::place(&mut bytes[HEAD as usize..], &head.key(), HEAD, 0);
        fs::write(settings.path.join(JOURNAL), bytes).unwrap();
        drop(opened(&settings));
        opened(&settings)
    }

    fn snapshot(next: u64, live: impl IntoIterator<Item = u64>, end: Option<(u64, u64)>) -> Event {
        let mut bytes = Vec::new();
        live.into_iter().collect::<RoaringTreemap>().serialize_into(&mut bytes).unwrap();
        let fate = Fate { attempts: u32::MAX, dead: true, ..Fate::default() };
        let fates: BTreeMap<u64, Fate> = [(1, fate.clone()), (u64::MAX, fate)].into();
        Event::Snapshot(Snapshot {
            next,
            live: bytes,
            fates,
            untold: u64::MAX,
            last: 0,
            reasons: u64::MAX,
            end,
        })
    }

    #[test]
    fn what_no_store_can_have_is_no_panic_and_takes_no_memory() {
        let (at, wait) = (SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 50), Duration::MAX);
        let events = || {
            vec![
                Event::Done(vec![(0, u64::MAX), (u64::MAX, u64::MAX), (5, 0)]),
                Event::Failed { position: 1, at, after: wait, bytes: u32::MAX },
                Event::Dead { position: u64::MAX, bytes: u32::MAX },
                Event::Reasons(vec![(1, u64::MAX), (1, 1), (u64::MAX, 0)]),
                Event::Requeued { positions: vec![1, u64::MAX], at, pace: wait },
                Event::Overflowed(u64::MAX),
                Event::Overflowed(u64::MAX),
                Event::Told(u64::MAX),
                Event::Begun(u64::MAX),
                Event::Begun(MAX_POSITION),
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
            let shared = with_journal(&all);
            let mut state = shared.lock();
            assert!(state.next <= MAX_POSITION && state.live.len() <= state.next);
            assert_eq!(state.count, state.live.len());
            state.lease(10).unwrap();
            if let Some((_, Some((reasons, last)))) = state.entry(1, None) {
                reasons.read(1, last);
            }
        }
    }
}
