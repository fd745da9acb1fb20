//! Writes the messages of nearly empty files again, so that the files can be deleted.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::checkpoints::Checkpoints;
use super::entry::Location;
use super::op::Op;
use super::read::Source;
use super::record::{Key, Record};
use super::shared::EngineShared;
use super::state::{Batch, ChannelState};
use crate::telemetry;

/// The most bytes of one batch.
const MOST: usize = 4 << 20;

/// A message in a file.
struct Found {
    /// The number of its queue, or of its stream.
    index: u32,
    key: Key,
    place: Location,
}

/// Copies the messages of the file with the most waste, if all files together waste too much.
pub(super) fn run(shared: &EngineShared, copying: &mut Arc<AtomicUsize>) {
    if Checkpoints::is_copying(copying) {
        return;
    }
    let range = {
        let state = shared.lock();
        if state.is_closed || state.broken.is_some() {
            return;
        }
        let last = state.segments.all.last_key_value().map(|(base, _)| *base);
        // Files without messages are deleted as they are.
        let all =
            state.segments.all.values().filter(|segment| segment.live > 0 && Some(segment.base) != last);
        let wasted = |len: u64, live: u64| len.saturating_sub(live);
        let waste: u64 = all.clone().map(|segment| wasted(segment.len, segment.live_bytes)).sum();
        if waste <= state.segments.live_bytes + 2 * shared.settings.segment_bytes {
            return;
        }
        let most = all.max_by_key(|segment| wasted(segment.len, segment.live_bytes));
        let Some(segment) = most else { return };
        segment.base..segment.end
    };
    tracing::debug!(from = range.start, to = range.end, "rewriting the messages of a nearly empty file");
    let is_inside = |place: &Location| range.contains(&place.position);
    for found in find(shared, is_inside).chunks(1_024) {
        copy(shared, copying, found);
    }
    shared.wake();
}

/// Finds the messages whose records are in a file.
fn find(shared: &EngineShared, is_inside: impl Fn(&Location) -> bool) -> Vec<Found> {
    let mut all = Vec::new();
    let (queues, streams) = {
        let state = shared.lock();
        (state.queues.len(), state.streams.len())
    };
    for at in 0..queues {
        let (state, index) = (shared.lock(), u32::try_from(at).unwrap_or(u32::MAX));
        let queue = &state.queues[at];
        let settled = queue.iter_settled().filter(|entry| is_inside(&entry.place));
        all.extend(settled.map(|entry| Found { index, key: Key::Queue(entry.sequence), place: entry.place }));
        let delayed = queue.delayed.iter().filter(|(_, entry)| is_inside(&entry.place));
        all.extend(delayed.map(|((due, number), entry)| Found {
            index,
            key: Key::Delayed(*due, *number),
            place: entry.place,
        }));
    }
    for at in 0..streams {
        let (state, index) = (shared.lock(), u32::try_from(at).unwrap_or(u32::MAX));
        let stream = &state.streams[at];
        // The places of a stream rise, but for those that were copied.
        let places =
            stream.places.iter().enumerate().filter(|(_, place)| !place.is_gone() && is_inside(place));
        all.extend(places.map(|(at, place)| Found {
            index,
            key: Key::Stream(stream.first + at as u64),
            place: *place,
        }));
    }
    all
}

/// Copies messages; those that cannot be read are lost.
fn copy(shared: &EngineShared, copying: &Arc<AtomicUsize>, found: &[Found]) {
    let mut batch = Batch::new();
    for message in found {
        let source = Source::of(&shared.lock().segments, message.place);
        let stored = match source.as_ref().map(Source::read) {
            Some(Ok(stored)) => stored,
            // It is tried again.
            Some(Err(_)) => return,
            None => None,
        };
        let from = message.place.position;
        let mut state = shared.lock();
        let Some(mut put) = stored.as_ref().and_then(|stored| stored.put()) else {
            forget(&mut state, message);
            continue;
        };
        // The old record names the queue that the message was sent to; it may have moved since.
        let name = match message.key {
            Key::Stream(_) => state.streams[message.index as usize].name.clone(),
            _ => state.queues[message.index as usize].name.clone(),
        };
        put.channel = name.as_str();
        let op = match message.key {
            Key::Stream(sequence) => Op::CopiedInStream { stream: message.index, sequence, from },
            key => Op::CopiedInQueue { queue: message.index, key, from },
        };
        let record = Record::Copied { from, key: message.key, put };
        if batch.push(state.seed, &record, op).is_ok() && batch.records.len() >= MOST {
            enqueue(&mut state, copying, std::mem::replace(&mut batch, Batch::new()));
        }
    }
    if !batch.ops.is_empty() {
        enqueue(&mut shared.lock(), copying, batch);
    }
}

fn enqueue(state: &mut ChannelState, copying: &Arc<AtomicUsize>, mut batch: Batch) {
    copying.fetch_add(1, Ordering::AcqRel);
    let done = Arc::clone(copying);
    batch.makes_room = false;
    batch.finish = Some(Box::new(move |_, _| {
        done.fetch_sub(1, Ordering::AcqRel);
    }));
    if state.enqueue(batch).is_err() {
        copying.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Forgets a message that cannot be read any more.
fn forget(state: &mut ChannelState, message: &Found) {
    let ChannelState { queues, streams, segments, .. } = state;
    match message.key {
        Key::Queue(sequence) => {
            let queue = &mut queues[message.index as usize];
            if queue.find(sequence).is_some_and(|entry| entry.place == message.place)
                && let Some(entry) = queue.remove(sequence)
            {
                queue.uncount(entry.place, segments);
                telemetry::channel_damaged(1, &queue.name);
            }
        }
        Key::Delayed(due, number) => {
            let queue = &mut queues[message.index as usize];
            if let Some(entry) = queue.delayed.remove(&(due, number)) {
                queue.uncount(entry.place, segments);
                telemetry::channel_damaged(1, &queue.name);
            }
        }
        Key::Stream(sequence) => {
            let stream = &mut streams[message.index as usize];
            if let Some(place) = stream.find(sequence).filter(|place| **place == message.place) {
                let old = std::mem::take(place);
                stream.bytes = stream.bytes.saturating_sub(u64::from(old.len));
                segments.uncount(old);
                telemetry::channel_damaged(1, &stream.name);
            }
        }
    }
}
