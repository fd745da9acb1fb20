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
use super::record::{HEADER, Header};
use super::scan::{Found, Scan, read_at};
use super::segment::{MAGIC, Segment};
use super::settings::EmbeddedSettings;
use super::state::{Reply, State};
use super::writer::{self, JOURNAL, Shared, Writer};
use crate::telemetry;

const LOCK: &str = "lock";

/// Files that were being written when a process died.
const LEFTOVERS: [&str; 2] = ["state.new", "compacted.new"];

/// Opens the store in this folder. Blocks.
pub(super) fn open(
    settings: &EmbeddedSettings,
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
    let mut state = State::new(settings.limits.clone());
    let journal = read_journal(folder)?;
    let emptied;
    (state.segments, emptied) = segments(folder)?;
    let snapshot = match journal.first() {
        Some(Event::Snapshot(snapshot)) => Some((snapshot.next, snapshot.end)),
        _ => None,
    };
    let on_disk = positions(&mut state.segments, snapshot)?;
    if snapshot.is_none() {
        if !on_disk.is_empty() {
            tracing::error!(
                folder = %folder.display(),
                "the journal of the outbox is missing or damaged: what had left already leaves once more"
            );
        }
        state.live = on_disk.clone();
    }
    for event in journal {
        let next = if let Event::Snapshot(snapshot) = &event { Some(snapshot.next) } else { None };
        let path = folder.join(JOURNAL);
        state.replay(event).map_err(OpenError::io("read", &path))?;
        if let Some(next) = next {
            // Every position up to the last: what is not on disk and has not left is missing.
            let end = state.segments.last_key_value().map_or(next, |(_, last)| last.end);
            state.live.insert_range(next..end.max(next));
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
    let missing = state.live.len() - state.live.intersection_len(&on_disk);
    if missing > 0 {
        let cause = format!("a file of the outbox {} is missing or damaged", folder.display());
        telemetry::lost(usize::try_from(missing).unwrap_or(usize::MAX), &cause);
        state.live &= on_disk;
    }
    let last = state.segments.last_entry();
    state.next = state.next.max(last.map_or(1, |last| last.get().end));
    take_last(folder, &mut state, settings.segment_bytes)?;
    state.begin();
    let (pending, dead) = (state.count - state.dead, state.dead);
    tracing::info!(pending, dead, folder = %folder.display(), "outbox opened");
    let shared = Arc::new(Shared::new(folder.clone(), settings.segment_bytes, state, replies));
    let writer = Writer::open(Arc::clone(&shared), lock)?;
    Ok((shared, writer))
}

/// Whether a name in the folder is one of ours.
fn is_ours(name: &str) -> bool {
    name == LOCK || name == JOURNAL || LEFTOVERS.contains(&name) || Segment::parse_name(name).is_some()
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
fn read_journal(folder: &Path) -> Result<Vec<Event>, OpenError> {
    let path = folder.join(JOURNAL);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(OpenError::io("read", &path)(error)),
    };
    let read = OpenError::io("read", &path);
    let scanned = (|| {
        let len = file.metadata()?.len();
        let mut scan = Scan::new(Arc::new(file), 0, len);
        let (mut events, mut unread) = (Vec::new(), 0);
        while let Some(found) = scan.next()? {
            match found {
                Found::Record(_) => match Event::read(scan.payload()) {
                    Ok(event) => events.push(event),
                    Err(_) => unread += 1,
                },
                // At the end it is what was being written when the process died.
                Found::Damage(range) if range.end == len => {}
                Found::Damage(_) => unread += 1,
            }
        }
        if unread > 0 {
            tracing::error!(
                path = %path.display(), places = unread,
                "the journal of the outbox is damaged: some of what had left may leave once more"
            );
        }
        Ok(events)
    })();
    scanned.map_err(read)
}

type Segments = BTreeMap<u64, Segment>;

/// The files of messages, without those that were rewritten into another; and the positions of those that were emptied.
fn segments(folder: &Path) -> Result<(Segments, Vec<Range<u64>>), OpenError> {
    let mut names: Vec<(u64, Option<u64>, std::path::PathBuf)> = Vec::new();
    for entry in fs::read_dir(folder).map_err(OpenError::io("read", folder))? {
        let entry = entry.map_err(OpenError::io("read", folder))?;
        if let Some((base, end)) = entry.file_name().to_str().and_then(Segment::parse_name) {
            names.push((base, end, entry.path()));
        }
    }
    let covers = |base: u64, end: Option<u64>| {
        names.iter().any(|(from, to, _)| {
            to.is_some_and(|to| {
                (*from, Some(to)) != (base, end)
                    && *from <= base
                    && base < to
                    && end.is_none_or(|end| end <= to)
            })
        })
    };
    let (mut segments, mut emptied) = (BTreeMap::new(), Vec::new());
    let (leftovers, mut kept): (Vec<_>, Vec<_>) =
        names.iter().cloned().partition(|(base, end, _)| covers(*base, *end));
    for (_, _, path) in leftovers {
        fs::remove_file(&path).map_err(OpenError::io("delete", &path))?;
    }
    kept.sort();
    let ends: Vec<u64> = kept.iter().skip(1).map(|(base, ..)| *base).collect();
    for (at, (base, end, path)) in kept.into_iter().enumerate() {
        let file = files::writable().open(&path).map_err(OpenError::io("open", &path))?;
        files::tighten(&path, &file);
        let len = file.metadata().map_err(OpenError::io("read", &path))?.len();
        let next = ends.get(at).copied();
        let end = end.or(next).unwrap_or(base);
        if len < MAGIC.len() as u64 {
            // Emptied because all of it had left, or begun and not yet used.
            emptied.push(base..end);
            if next.is_none() {
                fs::remove_file(&path).map_err(OpenError::io("delete", &path))?;
            } else {
                // It says so until the journal does.
                let file = Arc::new(file);
                let empty = Segment { base, end, path, file, len: 0, live: 0, live_bytes: 0, index: None };
                segments.insert(base, empty);
            }
            continue;
        }
        let mut begin = [0; MAGIC.len() + HEADER];
        let read = read_at(&file, &mut begin, 0).map_err(OpenError::io("read", &path))?;
        let (magic, first) = begin[..read].split_at(MAGIC.len().min(read));
        if magic != MAGIC {
            // A record of ours shows that it is a flipped byte that says otherwise.
            let other_version = magic.starts_with(&MAGIC[..7]) && matches!(magic[7], b'2'..=b'9');
            if other_version && Header::read(first).is_none() {
                return Err(OpenError::Version { path });
            }
            tracing::error!(path = %path.display(), "the head of a file of the outbox is damaged");
        }
        let file = Arc::new(file);
        segments.insert(base, Segment { base, end, path, file, len, live: 0, live_bytes: 0, index: None });
    }
    Ok((segments, emptied))
}

/// The positions there may be, and exactly those of the last file, which is cut where what was being written ends.
fn positions(
    segments: &mut Segments,
    snapshot: Option<(u64, Option<(u64, u64)>)>,
) -> Result<RoaringTreemap, OpenError> {
    let mut positions = RoaringTreemap::new();
    let last = segments.last_key_value().map(|(base, _)| *base);
    for segment in segments.values_mut() {
        let compacted = segment.path.file_name().and_then(|name| name.to_str()).and_then(Segment::parse_name);
        let compacted = compacted.is_some_and(|(_, end)| end.is_some());
        if Some(segment.base) == last && !compacted && segment.len > 0 {
            let synced = snapshot.and_then(|(_, end)| end.filter(|(base, _)| *base == segment.base));
            let synced = synced.zip(snapshot).map(|((_, len), (next, _))| (next, len));
            scan_last(segment, synced, &mut positions).map_err(OpenError::io("read", &segment.path))?;
        } else if snapshot.is_some() {
            positions.insert_range(segment.base..segment.end);
        } else {
            let scanned = every_position(segment, &mut positions);
            scanned.map_err(OpenError::io("read", &segment.path))?;
        }
    }
    Ok(positions)
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
    let mut scan = segment.scan(segment.base);
    // What belongs to a batch whose end has not been seen.
    let (mut batch, mut whole, mut expected) = (Vec::new(), scan.offset(), segment.base);
    let mut damage: Vec<Range<u64>> = Vec::new();
    let mut begins = scan.offset();
    while let Some(found) = scan.next()? {
        match found {
            Found::Record(header) => {
                // A hole is a message that was damaged: it counts, and will be found missing.
                let most = expected + (scan.offset() - begins) / HEADER as u64;
                if !(expected..=most).contains(&header.position) {
                    damage.push(begins..scan.offset());
                    continue;
                }
                batch.extend(expected..=header.position);
                expected = header.position + 1;
                begins = scan.offset();
                if header.ends_batch {
                    positions.extend(batch.drain(..));
                    whole = scan.offset();
                }
            }
            Found::Damage(range) => damage.push(range),
        }
    }
    if let Some((next, len)) = closed.filter(|(_, len)| *len > whole) {
        // Its end is damaged: that costs what cannot be read, not the batch.
        positions.insert_range(segment.base..next.max(segment.base));
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
    segment.end = positions.max().map_or(segment.base, |last| (last + 1).max(segment.base));
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
fn take_last(folder: &Path, state: &mut State, segment_bytes: u64) -> Result<(), OpenError> {
    let usable = state.segments.last_key_value().is_some_and(|(base, segment)| {
        let name = segment.path.file_name().and_then(|name| name.to_str()).and_then(Segment::parse_name);
        name == Some((*base, None)) && segment.end == state.next && segment.len > 0
    });
    let has_room = state.segments.last_key_value().is_some_and(|(_, segment)| segment.len < segment_bytes);
    if usable && has_room {
        return Ok(());
    }
    let (base, path) = (state.next, folder.join(Segment::name(state.next)));
    let (file, len) = match writer::create(&path) {
        // What leaves makes some.
        Err(error) if usable && writer::is_full(&error) => return Ok(()),
        created => created.map_err(OpenError::io("write", &path))?,
    };
    writer::sync_folder(folder).map_err(OpenError::io("write", folder))?;
    state
        .segments
        .insert(base, Segment { base, end: base, path, file, len, live: 0, live_bytes: 0, index: None });
    Ok(())
}
