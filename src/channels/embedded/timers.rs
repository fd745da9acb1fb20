//! Work that is due without a call: delays and visibilities that are over, messages that expire, streams that are too old.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::clock;
use super::op::Op;
use super::read::Source;
use super::record::Record;
use super::settling;
use super::shared::EngineShared;
use super::state::{Batch, ChannelState};
use crate::channels::queue_types::Settle;

/// The time until a failed write is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// The time between two looks at the ages of streams.
const SWEEP: Duration = Duration::from_secs(1);

/// The most messages of one batch.
const MOST: usize = 4_096;

/// Does what is due; returns when it looks at streams again.
pub(super) fn run(shared: &Arc<EngineShared>, sweep: &mut Instant) -> Option<Instant> {
    let (now, wall) = (Instant::now(), clock::now());
    {
        let mut state = shared.lock();
        if state.is_closed {
            return None;
        }
        while let Some((due, index)) = state.timers.first().copied()
            && due <= wall
        {
            state.timers.pop_first();
            let ChannelState { queues, segments, .. } = &mut *state;
            queues[index as usize].timer = None;
            queues[index as usize].drop_expired(wall, segments);
            wake(&mut state, index, wall);
            state.plan(index);
        }
        run_out(&mut state, now);
    }
    if *sweep <= now {
        *sweep = now + SWEEP;
        trim(shared, wall);
    }
    let state = shared.lock();
    let default = state.stream_limits.max_age;
    let ages = |places: bool, own: Option<Duration>| places && own.or(default).is_some();
    let has_ages = state.streams.iter().any(|stream| ages(!stream.places.is_empty(), stream.limits.max_age));
    has_ages.then_some(*sweep)
}

/// Makes delayed messages visible.
fn wake(state: &mut ChannelState, index: u32, wall: u64) {
    let seed = state.seed;
    let queue = &mut state.queues[index as usize];
    let keys: Vec<_> = queue.delayed.range(..=(wall, u64::MAX)).map(|(key, _)| *key).take(MOST).collect();
    if queue.is_waking || keys.is_empty() {
        return;
    }
    let first = queue.last + 1;
    queue.last += keys.len() as u64;
    let (mut batch, name) = (Batch::new(), queue.name.clone());
    let record = Record::Woken { queue: name.as_str(), keys: keys.clone(), first };
    if batch.push(seed, &record, Op::Woken { queue: index, keys, first }).is_err() {
        return;
    }
    queue.is_waking = true;
    batch.finish = Some(Box::new(move |state, stored| {
        let queue = &mut state.queues[index as usize];
        queue.is_waking = false;
        if stored.is_err() && queue.timer.is_none() {
            let again = clock::now().saturating_add(clock::span(RETRY));
            queue.timer = Some(again);
            state.timers.insert((again, index));
        } else {
            state.plan(index);
        }
    }));
    let _ = state.enqueue(batch);
}

/// Rejects the messages whose visibility has run out.
fn run_out(state: &mut ChannelState, now: Instant) {
    let mut due: HashMap<u32, Vec<u64>> = HashMap::new();
    while let Some((at, index, sequence)) = state.visibility.first().copied()
        && at <= now
    {
        state.visibility.pop_first();
        let held = state.queues[index as usize].held.get(&sequence);
        if held.is_some_and(|held| !held.is_settling) {
            due.entry(index).or_default().push(sequence);
        }
    }
    for (index, sequences) in due {
        let receipts: Vec<(u64, u64)> = sequences
            .iter()
            .filter_map(|sequence| {
                let held = state.queues[index as usize].held.get(sequence)?;
                Some((held.receipt, *sequence))
            })
            .collect();
        let Ok(mut batch) =
            settling::batch(state, index, &sequences, Settle::Reject { delay: Duration::ZERO })
        else {
            continue;
        };
        settling::mark(state, index, &sequences);
        batch.finish = Some(Box::new(move |state, stored| match stored {
            Ok(_) => {
                for (receipt, sequence) in receipts {
                    state.forget_held(receipt, &[sequence]);
                }
            }
            Err(_) => {
                for sequence in &sequences {
                    if let Some(held) = state.queues[index as usize].held.get_mut(sequence) {
                        held.deadline = Some(Instant::now() + RETRY);
                    }
                }
                state.unsettle(index, &sequences);
            }
        }));
        let _ = state.enqueue(batch);
    }
}

/// Deletes the messages of streams that are too old.
fn trim(shared: &EngineShared, wall: u64) {
    let count = shared.lock().streams.len();
    for index in 0..count {
        let cutoff = {
            let state = shared.lock();
            let stream = &state.streams[index];
            let Some(age) = stream.limits.max_age.or(state.stream_limits.max_age) else { continue };
            let cutoff = wall.saturating_sub(clock::span(age));
            let is_young =
                stream.first_time.is_some_and(|(first, time)| first == stream.first && time >= cutoff);
            if stream.places.is_empty() || is_young {
                continue;
            }
            cutoff
        };
        let keep = first_since(shared, index, cutoff);
        let mut state = shared.lock();
        let ChannelState { streams, segments, .. } = &mut *state;
        let stream = &mut streams[index];
        while stream.first < keep && !stream.places.is_empty() {
            stream.pop(segments);
        }
        let first = stream.first;
        drop(state);
        let time = time_at(shared, index, first);
        shared.lock().streams[index].first_time = time.map(|time| (first, time));
    }
}

/// Returns the first sequence of a stream that was appended at a time or later, by bisection. Blocks.
pub(super) fn first_since(shared: &EngineShared, index: usize, time: u64) -> u64 {
    let (mut low, mut high) = {
        let state = shared.lock();
        (state.streams[index].first, state.streams[index].end())
    };
    while low < high {
        let middle = low + (high - low) / 2;
        // A message that cannot be read says nothing; the next one that can does.
        let known = (middle..high).find_map(|sequence| Some((sequence, time_at(shared, index, sequence)?)));
        match known {
            Some((sequence, at)) if at < time => low = sequence + 1,
            _ => high = middle,
        }
    }
    low
}

/// Returns when a message of a stream was appended; `None` if it is gone or cannot be read. Blocks.
fn time_at(shared: &EngineShared, index: usize, sequence: u64) -> Option<u64> {
    let source = {
        let state = shared.lock();
        Source::of(&state.segments, state.streams[index].get(sequence)?)?
    };
    let stored = source.read().ok()??;
    stored.put().map(|put| put.time)
}
