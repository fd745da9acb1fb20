//! Removes the channels and the durable names that nobody uses.
//!
//! A channel is removed in two steps: first a record of the log deletes it, then its name and its number become free, when nothing
//! refers to them any more.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::op::Op;
use super::record::Record;
use super::settings::EmbeddedEngineSettings;
use super::shared::EngineShared;
use super::state::{Batch, ChannelState};
use crate::channels::info::{ChannelKind, ChannelLimits};
use crate::channels::name::ChannelName;
use crate::telemetry;

/// The longest and the shortest time between two looks.
const LONGEST: Duration = Duration::from_secs(60);
const SHORTEST: Duration = Duration::from_millis(10);

/// The most channels of one batch.
const MOST: usize = 16_384;

/// Removes what nobody has used for too long; returns when it looks again. Nothing may be on its way to the disk that names a
/// channel by its number, but for what waits.
pub(super) fn run(shared: &EngineShared, look: &mut Instant) -> Option<Instant> {
    let EmbeddedEngineSettings { max_inactivity, durable_max_inactivity, .. } = shared.settings;
    let shortest = max_inactivity.into_iter().chain(durable_max_inactivity).min();
    let now = Instant::now();
    if *look > now {
        return Some(*look);
    }
    let mut state = shared.lock();
    // A batch that waits may be about these channels.
    if state.is_closed || !state.pending.is_empty() {
        return Some(*look).filter(|_| shortest.is_some());
    }
    state.free_deleted();
    if let Some(limit) = durable_max_inactivity {
        forget_names(&mut state, now, limit);
    }
    if let Some(limit) = max_inactivity {
        delete_channels(&mut state, now, limit);
    }
    let wait = shortest? / 4;
    *look = now + wait.clamp(SHORTEST, LONGEST);
    Some(*look)
}

/// Deletes the channels that are empty and unused, but for those with limits of their own.
fn delete_channels(state: &mut ChannelState, now: Instant, limit: Duration) {
    let is_old = |used: Instant| now.saturating_duration_since(used) >= limit;
    let queues = state.queues.iter().filter(|queue| {
        queue.exists && queue.is_unused() && is_old(queue.used) && queue.limits == ChannelLimits::default()
    });
    let queues = queues.map(|queue| (ChannelKind::Queue, queue.name.clone(), queue.last));
    let streams = state.streams.iter().filter(|stream| {
        stream.exists
            && stream.is_unused()
            && stream.cursors.is_empty()
            && is_old(stream.used)
            && stream.limits == ChannelLimits::default()
    });
    let streams = streams.map(|stream| (ChannelKind::Stream, stream.name.clone(), stream.assigned));
    let unused: Vec<(ChannelKind, ChannelName, u64)> = queues.chain(streams).take(MOST).collect();
    let (mut batch, seed) = (Batch::new(), state.seed);
    for (kind, channel, last) in &unused {
        let record = Record::Deleted { kind: (*kind).into(), channel: channel.as_str() };
        let op = Op::Deleted { kind: *kind, channel: channel.clone(), last: Some(*last) };
        if batch.push(seed, &record, op).is_err() {
            return;
        }
    }
    if !batch.ops.is_empty() && state.enqueue(batch).is_ok() {
        telemetry::channels_removed(unused.len());
    }
}

/// Forgets the durable names without a subscriber.
fn forget_names(state: &mut ChannelState, now: Instant, limit: Duration) {
    let (mut batch, seed) = (Batch::new(), state.seed);
    for (index, stream) in state.streams.iter_mut().enumerate() {
        let groups = &stream.groups;
        let is_used = |name: &Arc<str>| groups.get(name).is_some_and(|group| group.members > 0);
        let unused: HashSet<Arc<str>> =
            stream.cursors.keys().filter(|name| !is_used(name)).cloned().collect();
        stream.unused.retain(|name, _| unused.contains(name));
        for name in unused {
            let since = *stream.unused.entry(Arc::clone(&name)).or_insert(now);
            if now.saturating_duration_since(since) < limit || batch.ops.len() >= MOST {
                continue;
            }
            let record = Record::Forgotten { stream: stream.name.as_str(), name: &name };
            let op =
                Op::Forgotten { stream: u32::try_from(index).unwrap_or(u32::MAX), name: Arc::clone(&name) };
            if batch.push(seed, &record, op).is_ok() {
                telemetry::durable_name_removed(stream.name.as_str(), &name);
                // From now on a subscriber of this name is a new one.
                stream.cursors.remove(&name);
                stream.groups.remove(&name);
                stream.unused.remove(&name);
            }
        }
    }
    if !batch.ops.is_empty() {
        let _ = state.enqueue(batch);
    }
}
