//! Compaction: rewrites segments with few live messages, so that dead letters and long waits do not keep the room of
//! messages that were removed.

use std::fs;
use std::io::{self, Write};
use std::sync::Arc;

use super::index::LogIndex;
use super::positions::Positions;
use super::shared::{Compaction, StoreShared};
use crate::log::background::run_later;
use crate::log::files::{self, sync_folder};
use crate::log::head::Head;
use crate::log::record::assign_positions;
use crate::log::scan::Found;
use crate::log::segment::{INDEX_STEP, Index, Segment};
use crate::util::crash;

/// The name of the new segment while it is written.
pub(super) const FRESH: &str = "compacted.new";

/// The number of small neighbouring segments that are joined.
const SMALL_FILES: usize = 8;

/// Rewrites the segments that are worth it, on the background thread that all stores of the process share.
pub(super) fn begin(shared: &Arc<StoreShared>) {
    let mut compaction = shared.compaction();
    if *compaction != Compaction::Idle || next_run(shared).is_empty() {
        return;
    }
    let queued = Arc::clone(shared);
    // A failure is retried with the next segment.
    if run_later(move || run(&queued)).is_ok() {
        *compaction = Compaction::Queued;
    }
}

/// Rewrites one run of segments, and lets the next run wait for its turn among the stores.
fn run(shared: &Arc<StoreShared>) {
    {
        let mut compaction = shared.compaction();
        if *compaction != Compaction::Queued {
            return;
        }
        *compaction = Compaction::Running;
    }
    let running = Running(shared);
    let run = next_run(shared);
    if let Err(error) = rewrite(shared, &run) {
        // The disk may be full; half a segment must not take room.
        let _ = fs::remove_file(shared.folder.join(FRESH));
        tracing::warn!(folder = %shared.folder.display(), %error, "could not compact segments; retrying later");
        return;
    }
    drop(running);
    begin(shared);
}

/// Ends the compaction when it is dropped, also by a panic.
struct Running<'a>(&'a StoreShared);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.end_compaction();
    }
}

fn next_run(shared: &StoreShared) -> Vec<Segment> {
    let index = shared.lock();
    if index.closed { Vec::new() } else { choose(&index, shared.segment_bytes) }
}

/// Chooses the neighbouring segments with the most bytes to free. All their messages were leased before, and the newest of
/// such segments is left out, since most of its messages will be removed soon.
fn choose(index: &LogIndex, segment_bytes: u64) -> Vec<Segment> {
    let sealed: Vec<&Segment> =
        index.segments.values().filter(|segment| segment.end <= index.cursor).collect();
    let passed = sealed.len().saturating_sub(1);
    let mut best: Vec<Segment> = Vec::new();
    let mut run: Vec<Segment> = Vec::new();
    for segment in sealed.into_iter().take(passed) {
        let sparse = segment.live_bytes < segment.len / 4;
        if segment.live > 0 && (sparse || segment.len < segment_bytes / 4) {
            run.push(segment.clone());
        } else {
            best = better(best, std::mem::take(&mut run), segment_bytes);
        }
    }
    better(best, run, segment_bytes)
}

fn better(best: Vec<Segment>, run: Vec<Segment>, segment_bytes: u64) -> Vec<Segment> {
    let gain = |run: &[Segment]| {
        run.iter().map(|segment| segment.len - segment.live_bytes.min(segment.len)).sum::<u64>()
    };
    let worth = gain(&run) >= segment_bytes / 2 || run.len() >= SMALL_FILES;
    if worth && gain(&run) >= gain(&best) { run } else { best }
}

/// Copies the live messages of these segments into one that replaces them.
fn rewrite(shared: &StoreShared, run: &[Segment]) -> io::Result<()> {
    let (Some(first), Some(last)) = (run.first(), run.last()) else { return Ok(()) };
    let (base, end) = (first.base, last.end);
    let live: Vec<u64> = shared.lock().live.within(base..end).collect();
    // The journal must have the removal of every message that is left out.
    shared.sync().map_err(io::Error::other)?;

    let fresh = shared.folder.join(FRESH);
    let path = shared.folder.join(Segment::compacted_name(base, end));
    let mut file = files::create(&fresh)?;
    let head = Head::segment(shared.log, base, Some(end));
    let mut written = head.to_bytes().to_vec();
    let (mut len, mut offsets): (u64, Index) = (0, Vec::new());
    let mut wanted = live.iter().copied().peekable();
    for segment in run {
        let mut scan = segment.scan(segment.base);
        while let Some(found) = scan.next()? {
            let Found::Record(header) = found else { continue };
            // A skipped message is damaged, which is detected when it is read.
            while wanted.next_if(|wanted| *wanted < header.position).is_some() {}
            if wanted.next_if_eq(&header.position).is_none() {
                continue;
            }
            let offset = len + written.len() as u64;
            if offsets.last().is_none_or(|(_, last)| offset - last >= INDEX_STEP) {
                offsets.push((header.position, offset));
            }
            let at = written.len();
            written.extend_from_slice(scan.raw());
            assign_positions(&mut written[at..], &head.key(), offset, header.position);
            if written.len() >= 1 << 20 {
                if shared.lock().closed {
                    return Ok(());
                }
                file.write_all(&written)?;
                len += written.len() as u64;
                written.clear();
            }
        }
    }
    file.write_all(&written)?;
    len += written.len() as u64;
    file.sync_all()?;
    crash::point("compaction_before_rename");
    fs::rename(&fresh, &path)?;
    crash::point("compaction_after_rename");
    sync_folder(&shared.folder)?;

    let mut index = shared.lock();
    let old: Vec<Segment> = run.iter().filter_map(|segment| index.segments.remove(&segment.base)).collect();
    let live_bytes: u64 = old.iter().map(|segment| segment.live_bytes).sum();
    let live = index.live.count_within(base..end);
    let segment = Segment {
        live,
        live_bytes,
        index: Some(Arc::new(offsets)),
        ..Segment::new(head, path.clone(), Arc::new(file), len)
    };
    if live == 0 {
        index.empty.push(base);
    }
    index.segments.insert(base, segment);
    drop(index);
    shared.wake_writer();
    for segment in old.iter().filter(|segment| segment.path != path) {
        fs::remove_file(&segment.path)?;
    }
    tracing::debug!(segments = old.len(), bytes = len, "compacted segments");
    Ok(())
}
