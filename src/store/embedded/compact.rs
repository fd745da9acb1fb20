//! Rewriting files of which little is left: dead letters and messages that wait long must not keep what has left.

use std::fs;
use std::io::{self, Write};
use std::sync::{Arc, PoisonError};

use super::files;
use super::head::Head;
use super::positions::Positions;
use super::record;
use super::scan::Found;
use super::segment::{INDEX_STEP, Segment};
use super::state::State;
use super::writer::{Shared, sync_folder};
use crate::util::crash;

/// The name of a file that is being rewritten.
const FRESH: &str = "compacted.new";

/// How many small files may stand beside each other.
const SMALL_FILES: usize = 8;

/// Rewrites in a thread of its own what is worth it, if there is such.
pub(super) fn begin(shared: &Arc<Shared>) {
    let mut thread = shared.compaction.lock().unwrap_or_else(PoisonError::into_inner);
    if thread.as_ref().is_some_and(|thread| !thread.is_finished()) {
        return;
    }
    let run = next_run(shared);
    if run.is_empty() {
        return;
    }
    let shared = Arc::clone(shared);
    let spawned = std::thread::Builder::new().name("outbox-compact".to_owned()).spawn(move || {
        let mut run = run;
        while !run.is_empty() {
            if let Err(error) = rewrite(&shared, &run) {
                // Half of a file is no use, and takes room that may be short.
                let _ = fs::remove_file(shared.folder.join(FRESH));
                tracing::warn!(%error, "files of the outbox could not be compacted; it is tried again later");
                return;
            }
            run = next_run(&shared);
        }
    });
    // Without a thread it is tried again later.
    *thread = spawned.ok();
}

fn next_run(shared: &Shared) -> Vec<Segment> {
    let state = shared.lock();
    if state.closed { Vec::new() } else { choose(&state, shared.segment_bytes) }
}

/// Neighbouring files with much to gain, all of whose messages have had their turn, and that have had time to leave.
fn choose(state: &State, segment_bytes: u64) -> Vec<Segment> {
    let sealed: Vec<&Segment> =
        state.segments.values().filter(|segment| segment.end <= state.cursor()).collect();
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

/// Writes what is left of these files into one that takes their place.
fn rewrite(shared: &Shared, run: &[Segment]) -> io::Result<()> {
    let (Some(first), Some(last)) = (run.first(), run.last()) else { return Ok(()) };
    let (base, end) = (first.base, last.end);
    let live: Vec<u64> = shared.lock().live.within(base..end).collect();
    // What is left out must be known to have left.
    shared.sync().map_err(io::Error::other)?;

    let fresh = shared.folder.join(FRESH);
    let path = shared.folder.join(Segment::compacted_name(base, end));
    let mut file = files::create(&fresh)?;
    let head = Head::log(shared.store, base, Some(end));
    let mut written = head.to_bytes().to_vec();
    let (mut len, mut index): (u64, Vec<(u64, u64)>) = (0, Vec::new());
    let mut wanted = live.iter().copied().peekable();
    for segment in run {
        let mut scan = segment.scan(segment.base);
        while let Some(found) = scan.next()? {
            let Found::Record(header) = found else { continue };
            // Those that are passed over cannot be read; whoever asks for them will see it.
            while wanted.next_if(|wanted| *wanted < header.position).is_some() {}
            if wanted.next_if_eq(&header.position).is_none() {
                continue;
            }
            let offset = len + written.len() as u64;
            if index.last().is_none_or(|(_, last)| offset - last >= INDEX_STEP) {
                index.push((header.position, offset));
            }
            let at = written.len();
            written.extend_from_slice(scan.raw());
            record::place(&mut written[at..], &head.key(), offset, header.position);
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

    let mut state = shared.lock();
    let old: Vec<Segment> = run.iter().filter_map(|segment| state.segments.remove(&segment.base)).collect();
    let live_bytes: u64 = old.iter().map(|segment| segment.live_bytes).sum();
    let live = state.live.count_within(base..end);
    let index = Some(Arc::new(index));
    let segment =
        Segment { live, live_bytes, index, ..Segment::new(head, path.clone(), Arc::new(file), len) };
    if live == 0 {
        state.empty.push(base);
    }
    state.segments.insert(base, segment);
    drop(state);
    shared.work();
    for segment in old.iter().filter(|segment| segment.path != path) {
        fs::remove_file(&segment.path)?;
    }
    tracing::debug!(files = old.len(), bytes = len, "files of the outbox compacted");
    Ok(())
}
