//! Recovers a log after a crash: finds the end of the last segment, and truncates an incomplete batch.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;

use roaring::RoaringTreemap;

use super::error::OpenError;
use super::files::{is_full, read_at, sync_folder};
use super::format::{HEAD, RECORD_HEADER};
use super::head::Head;
use super::scan::Found;
use super::segment::{Segment, Segments};

/// Adds the positions of all readable records of a segment.
pub(crate) fn find_positions(segment: &Segment, positions: &mut RoaringTreemap) -> io::Result<()> {
    let mut scan = segment.scan(segment.base);
    while let Some(found) = scan.next()? {
        match found {
            Found::Record(header) => {
                positions.insert(header.position);
            }
            Found::Damage(range) => log_damage(segment, &range),
        }
    }
    Ok(())
}

/// Finds the end of the last segment, truncates everything behind its last whole batch, and adds the positions up to there.
/// `closed` is the next position and the length of a log that was closed in order: its last batch is whole, however damaged.
pub(crate) fn truncate_torn_tail(
    segment: &mut Segment,
    closed: Option<(u64, u64)>,
    positions: &mut RoaringTreemap,
) -> io::Result<()> {
    let mut scan = segment.scan_to_end();
    // The positions of a batch whose end has not been found.
    let (mut batch, mut whole, mut expected) = (Vec::new(), scan.offset(), segment.base);
    let mut damage: Vec<Range<u64>> = Vec::new();
    let mut found_here = RoaringTreemap::new();
    while let Some(found) = scan.next()? {
        match found {
            Found::Record(header) => {
                // A gap is a damaged record, whose loss is detected when it is read.
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
    // A forged `closed` must not claim more records than the file can hold.
    let fits = |next: u64| next.saturating_sub(segment.base) <= segment.len / RECORD_HEADER as u64;
    if let Some((next, len)) = closed.filter(|(next, len)| *len > whole && fits(*next)) {
        found_here.insert_range(segment.base..next.max(segment.base));
        whole = len.min(segment.len);
    }
    for range in damage.iter().filter(|range| range.start < whole) {
        log_damage(segment, range);
    }
    if whole < segment.len && !is_zero(&segment.file, whole, segment.len)? {
        tracing::warn!(
            path = %segment.path.display(), bytes = segment.len - whole,
            "truncated an incomplete batch at the end of the newest segment, as a crash during a write leaves it"
        );
    }
    segment.end = found_here.max().map_or(segment.base, |last| last + 1);
    *positions |= found_here;
    segment.file.set_len(whole)?;
    segment.file.sync_all()?;
    segment.len = whole;
    Ok(())
}

/// Whether a part of a file has zeros only, as bytes that were allocated ahead.
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

fn log_damage(segment: &Segment, range: &Range<u64>) {
    tracing::error!(
        path = %segment.path.display(), from = range.start, to = range.end,
        "a segment is damaged between these offsets; the records there cannot be read"
    );
}

/// Continues the last segment if it ends at `next` and has room, or if the disk has no room for another; else begins one.
pub(crate) fn continue_or_begin(
    folder: &Path,
    log: u64,
    segments: &mut Segments,
    next: u64,
    segment_bytes: u64,
) -> Result<(), OpenError> {
    let last = segments.last_key_value().map(|(_, last)| last);
    let is_usable = last.is_some_and(|last| {
        last.head == Head::segment(log, last.base, None) && last.end == next && last.len > 0
    });
    let has_room = last.is_some_and(|last| last.len < segment_bytes.max(HEAD + 1));
    if is_usable && has_room {
        return Ok(());
    }
    let segment = match Segment::create(folder, Head::segment(log, next, None)) {
        // Settled segments will make room.
        Err(error) if is_usable && is_full(&error) => return Ok(()),
        created => created.map_err(OpenError::io("write", &folder.join(Segment::name(next))))?,
    };
    sync_folder(folder).map_err(OpenError::io("write", folder))?;
    segments.insert(segment.base, segment);
    Ok(())
}
