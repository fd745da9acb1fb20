//! Opens an engine: reads the newest checkpoint that is whole, and the log from there on.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use roaring::RoaringTreemap;

use super::checkpoint;
use super::entry::Location;
use super::op::Op;
use super::record;
use super::settings::EmbeddedEngineSettings;
use super::shared::EngineShared;
use super::state::ChannelState;
use super::writer::{RESERVE, Writer};
use crate::channels::info::ChannelLimits;
use crate::log::appender::Appender;
use crate::log::error::OpenError;
use crate::log::folder::FolderLock;
use crate::log::format::RECORD_HEADER;
use crate::log::head::Head;
use crate::log::inventory::{ASIDE, Inventory, set_aside};
use crate::log::recover::{continue_or_begin, truncate_torn_tail};
use crate::log::scan::Found;
use crate::log::segment::{Segment, Segments};
use crate::log::writer::LogWriter;
use crate::telemetry;

/// The state that was found on disk.
pub(super) struct Opened {
    pub(super) shared: Arc<EngineShared>,
    pub(super) writer: Writer,
}

/// Opens the engine in this folder. Blocks.
pub(super) fn open(settings: EmbeddedEngineSettings) -> Result<Opened, OpenError> {
    let folder = settings.path.clone();
    let segment_bytes = settings.segment_bytes.min(1 << 30);
    let lock = FolderLock::open(&folder, is_known)?;
    let leftover = folder.join(checkpoint::NEW);
    if leftover.exists() {
        fs::remove_file(&leftover).map_err(OpenError::io("delete", &leftover))?;
    }
    let Inventory { log, mut segments, .. } = Inventory::of(&folder, &[])?;
    if let Some(mut last) = segments.last_entry() {
        let truncated = truncate_torn_tail(last.get_mut(), None, &mut RoaringTreemap::new());
        truncated.map_err(OpenError::io("read", &last.get().path))?;
    }
    let (mut state, bases) = restore(&folder, log, &segments)?;
    let from = bases.last().copied();
    let next = segments.last_key_value().map_or(1, |(_, last)| last.end).max(from.unwrap_or(1));
    continue_or_begin(&folder, log, &mut segments, next, segment_bytes)?;
    // The counts of the checkpoint were made on a copy.
    for (base, counted) in std::mem::take(&mut state.segments.all) {
        if let Some(segment) = segments.get_mut(&base) {
            (segment.live, segment.live_bytes) = (counted.live, counted.live_bytes);
        }
    }
    state.segments.all = segments;
    let max_age = settings.stream_max_age;
    let (max_messages, max_bytes) = (settings.stream_max_messages, settings.stream_max_bytes);
    state.stream_limits = ChannelLimits { max_age, max_messages, max_bytes };
    state.seed = Head::segment(log, 0, None).key().payload;
    let replayed = replay(&mut state, from.unwrap_or(1), &folder)?;
    begin(&mut state);
    let messages: usize = state.queues.iter().map(|queue| queue.messages()).sum();
    let in_streams: usize = state.streams.iter().map(|stream| stream.places.len()).sum();
    tracing::info!(
        folder = %folder.display(), queues = state.queues.len(), messages, streams = state.streams.len(), in_streams,
        replayed, "opened the channels"
    );
    let appender = {
        let (_, last) = state.segments.all.last_key_value().expect("a segment is open");
        Appender::new(folder.clone(), segment_bytes, last)
    };
    let handle = LogWriter::of(&folder).add();
    let shared = Arc::new(EngineShared::new(settings, log, state, handle));
    let writer = Writer::new(Arc::clone(&shared), appender, bases, lock);
    Ok(Opened { shared, writer })
}

/// Whether an engine has files of this name.
fn is_known(name: &str) -> bool {
    name == checkpoint::NEW
        || name == RESERVE
        || name.contains(ASIDE)
        || checkpoint::parse_name(name).is_some()
        || Segment::parse_name(name).is_some()
}

/// Reads the newest checkpoint that is whole; returns the positions of those there are, oldest first.
fn restore(folder: &Path, log: u64, segments: &Segments) -> Result<(ChannelState, Vec<u64>), OpenError> {
    let read = OpenError::io("read", folder);
    let names: io::Result<Vec<_>> =
        fs::read_dir(folder).and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect());
    let names = names.map_err(read)?;
    let mut bases: Vec<u64> =
        names.iter().filter_map(|name| name.to_str().and_then(checkpoint::parse_name)).collect();
    bases.sort_unstable();
    let mut has_failed = false;
    while let Some(base) = bases.last().copied() {
        let path = folder.join(checkpoint::name(base));
        let mut state = ChannelState::default();
        state.segments.all = segments.clone();
        match checkpoint::read(&path, log, base, &mut state) {
            Ok(_) => return Ok((state, bases)),
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "a checkpoint of the channels is damaged; an older one is used");
                set_aside(&path, "it is damaged")?;
                bases.pop();
                has_failed = true;
            }
        }
    }
    let has_gaps = segments.first_key_value().is_some_and(|(base, _)| *base > 1);
    if has_failed || has_gaps {
        tracing::error!(
            folder = %folder.display(),
            "no checkpoint of the channels can be read; some messages that were acknowledged are delivered again"
        );
    }
    let mut state = ChannelState::default();
    state.segments.all = segments.clone();
    Ok((state, bases))
}

/// Applies the records of the log from a position on; returns their number.
fn replay(state: &mut ChannelState, from: u64, folder: &Path) -> Result<u64, OpenError> {
    let segments: Vec<Segment> =
        state.segments.all.values().filter(|segment| segment.end > from).cloned().collect();
    let (mut expected, mut replayed, mut unread) = (from, 0, 0);
    for segment in segments {
        let mut scan = segment.scan_to_end().before(segment.end);
        loop {
            let offset = scan.offset();
            let found = scan.next().map_err(OpenError::io("read", &segment.path))?;
            let Some(found) = found else { break };
            let Found::Record(header) = found else { continue };
            if header.position < from {
                continue;
            }
            unread += header.position.saturating_sub(expected);
            expected = header.position + 1;
            let len = scan.offset() - offset;
            let place = Location {
                position: header.position,
                offset: u32::try_from(offset).unwrap_or(u32::MAX),
                len: u32::try_from(len).unwrap_or(u32::MAX),
            };
            debug_assert_eq!(len, (RECORD_HEADER + header.len as usize) as u64);
            let op = record::decode(scan.payload()).and_then(|record| Op::of(record, state));
            match op {
                Ok(op) => {
                    state.apply(op, place);
                    replayed += 1;
                }
                Err(_) => unread += 1,
            }
        }
        unread += segment.end.saturating_sub(expected.max(segment.base));
        expected = expected.max(segment.end);
    }
    if unread > 0 {
        telemetry::channel_damaged(unread, &folder.display());
    }
    Ok(replayed)
}

/// The state that is true at the start only.
fn begin(state: &mut ChannelState) {
    for index in 0..state.queues.len() {
        let queue = &mut state.queues[index];
        queue.old = queue.last;
        queue.ready.shrink_to_fit();
        state.plan(u32::try_from(index).unwrap_or(u32::MAX));
    }
    for stream in &mut state.streams {
        stream.places.shrink_to_fit();
    }
}
