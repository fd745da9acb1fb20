//! The effect of a record on the state: the same when it is written and when it is read again.

use super::entry::{Entry, Extra, Location};
use super::op::Op;
use super::record::{Key, Record};
use super::state::ChannelState;
use crate::channels::info::{ChannelKind, ChannelLimits};
use crate::channels::name::ChannelName;
use crate::util::error::BoxError;

impl Op {
    /// The operation of a record that was read.
    ///
    /// # Errors
    /// A name in it is not allowed, which only damage can cause.
    pub(super) fn of(record: Record<'_>, state: &mut ChannelState) -> Result<Self, BoxError> {
        let mut queue = |name: &str| -> Result<u32, BoxError> { Ok(state.queue(&ChannelName::new(name)?)) };
        Ok(match record {
            Record::Put(put) => match put.key {
                Key::Stream(sequence) => {
                    Self::Appended { stream: state.stream(&ChannelName::new(put.channel)?), sequence }
                }
                key => {
                    let rerouted_from = put.rerouted_from.map(Into::into);
                    let extra = Extra {
                        expires: put.expires,
                        receives: put.receives,
                        time: 0,
                        rerouted_from,
                        is_free: false,
                    };
                    let extra = (extra != Extra::default()).then(|| Box::new(extra));
                    Self::Put { queue: queue(put.channel)?, key, extra }
                }
            },
            Record::Copied { from, key: Key::Stream(sequence), put } => {
                let stream = state.stream(&ChannelName::new(put.channel)?);
                Self::CopiedInStream { stream, sequence, from }
            }
            Record::Copied { from, key, put } => {
                Self::CopiedInQueue { queue: queue(put.channel)?, key, from }
            }
            Record::Acked { queue: name, sequences } => Self::Acked { queue: queue(name)?, sequences },
            Record::Purged { queue: name, to, except } => Self::Purged { queue: queue(name)?, to, except },
            Record::Rejected { queue: name, sequences, first, time, due } => {
                Self::Rejected { queue: queue(name)?, sequences, first, time, due }
            }
            Record::Moved { queue: name, to, moved, first, time, is_dead } => {
                Self::Moved { queue: queue(name)?, to: queue(to)?, moved, first, time, is_dead }
            }
            Record::Woken { queue: name, keys, first } => Self::Woken { queue: queue(name)?, keys, first },
            Record::Restored { queue: name, entries } => Self::Restored { queue: queue(name)?, entries },
            Record::Created { kind, channel, limits } => Self::Created {
                kind: kind.into(),
                channel: ChannelName::new(channel)?,
                limits: limits.into(),
            },
            Record::Deleted { kind, channel } => {
                Self::Deleted { kind: kind.into(), channel: ChannelName::new(channel)?, last: None }
            }
            Record::Cursor { stream, name, cursor } => {
                Self::Cursor { stream: state.stream(&ChannelName::new(stream)?), name: name.into(), cursor }
            }
            Record::Forgotten { stream, name } => {
                Self::Forgotten { stream: state.stream(&ChannelName::new(stream)?), name: name.into() }
            }
        })
    }
}

impl ChannelState {
    /// Applies an operation whose record is at `place`; returns how many messages it was about.
    ///
    /// Its channel or message may be gone by now; then it does nothing.
    pub(super) fn apply(&mut self, op: Op, place: Location) -> u64 {
        let planned = match &op {
            Op::Put { extra: None, key: Key::Queue(_), .. } => None,
            Op::Put { queue, .. }
            | Op::Rejected { queue, .. }
            | Op::Moved { to: queue, .. }
            | Op::Woken { queue, .. }
            | Op::Restored { queue, .. } => Some(*queue),
            _ => None,
        };
        let count = self.apply_op(op, place);
        if let Some(queue) = planned {
            self.plan(queue);
        }
        count
    }

    fn apply_op(&mut self, op: Op, place: Location) -> u64 {
        match op {
            Op::Put { queue, key, extra } => {
                let queue = &mut self.queues[queue as usize];
                queue.count(place, &mut self.segments);
                match key {
                    Key::Delayed(due, number) => {
                        queue.add_delayed((due, number), Entry { sequence: 0, place, extra });
                    }
                    Key::Queue(sequence) | Key::Stream(sequence) => {
                        queue.add(Entry { sequence, place, extra })
                    }
                }
                1
            }
            Op::Appended { stream, sequence } => {
                let stream = &mut self.streams[stream as usize];
                stream.add(sequence, place, &mut self.segments);
                stream.trim(&self.stream_limits, &mut self.segments);
                1
            }
            Op::CopiedInQueue { queue, key, from } => self.copied_in_queue(queue, key, from, place),
            Op::CopiedInStream { stream, sequence, from } => {
                let stream = &mut self.streams[stream as usize];
                let Some(known) = stream.find(sequence).filter(|known| known.position == from) else {
                    return 0;
                };
                let old = std::mem::replace(known, place);
                stream.bytes = stream.bytes.saturating_sub(u64::from(old.len)) + u64::from(place.len);
                self.segments.uncount(old);
                self.segments.count(place);
                1
            }
            Op::Acked { queue, sequences } => {
                let queue = &mut self.queues[queue as usize];
                let mut count = 0;
                for sequence in sequences {
                    if let Some(entry) = queue.remove(sequence) {
                        queue.uncount(entry.place, &mut self.segments);
                        count += 1;
                    }
                }
                count
            }
            Op::Purged { queue, to, except } => self.purged(queue, to, &except),
            Op::Rejected { queue, sequences, first, time, due } => {
                let queue = &mut self.queues[queue as usize];
                let (mut next, mut count) = (first, 0);
                for sequence in sequences {
                    let new = next;
                    next += 1;
                    let Some(mut entry) = queue.remove(sequence) else { continue };
                    entry.change(|extra| {
                        (extra.receives, extra.time) = (extra.receives.saturating_add(1), time)
                    });
                    count += 1;
                    if due > 0 {
                        entry.sequence = 0;
                        queue.add_delayed((due, new), entry);
                    } else {
                        entry.sequence = new;
                        queue.add(entry);
                    }
                }
                count
            }
            Op::Moved { queue, to, moved, first, time, is_dead } => {
                let (mut next, mut count) = (first, 0);
                let name = self.queues[queue as usize].name.shared();
                for (sequence, expires) in moved {
                    let new = next;
                    next += 1;
                    let from = &mut self.queues[queue as usize];
                    let Some(mut entry) = from.remove(sequence) else { continue };
                    from.bytes = from.bytes.saturating_sub(u64::from(entry.place.len));
                    let rerouted_from = is_dead.then(|| name.clone());
                    entry.change(|extra| {
                        let is_free = is_dead || extra.is_free;
                        *extra = Extra { expires, receives: 0, time, rerouted_from, is_free };
                    });
                    entry.sequence = new;
                    let to = &mut self.queues[to as usize];
                    to.bytes += u64::from(entry.place.len);
                    to.add(entry);
                    count += 1;
                }
                count
            }
            Op::Woken { queue, keys, first } => {
                let queue = &mut self.queues[queue as usize];
                let (mut next, mut count) = (first, 0);
                for key in keys {
                    let new = next;
                    next += 1;
                    if let Some(mut entry) = queue.delayed.remove(&key) {
                        entry.sequence = new;
                        queue.add(entry);
                        count += 1;
                    }
                }
                count
            }
            Op::Restored { queue, entries } => {
                let queue = &mut self.queues[queue as usize];
                let count = entries.len() as u64;
                for entry in entries {
                    // Its file may be gone if the records between are damaged; reading it tells.
                    if queue.find(entry.sequence).is_none() {
                        queue.count(entry.place, &mut self.segments);
                        queue.exists = true;
                        queue.last = queue.last.max(entry.sequence);
                        if entry.expires() > 0 {
                            queue.expiring.insert((entry.expires(), entry.sequence));
                        }
                        queue.returned.insert(entry.sequence, entry);
                        queue.arrived.notify_one();
                    }
                }
                count
            }
            Op::Created { kind, channel, limits } => {
                self.set_limits(kind, &channel, limits);
                1
            }
            Op::Deleted { kind, channel, last } => self.deleted(kind, &channel, last),
            Op::Cursor { stream, name, cursor } => {
                let stream = &mut self.streams[stream as usize];
                stream.exists = true;
                stream.cursors.insert(name, cursor);
                1
            }
            Op::Forgotten { stream, name } => {
                self.streams[stream as usize].cursors.remove(&name);
                1
            }
        }
    }

    fn copied_in_queue(&mut self, queue: u32, key: Key, from: u64, place: Location) -> u64 {
        let queue = &mut self.queues[queue as usize];
        let entry = match key {
            Key::Delayed(due, number) => queue.delayed.get_mut(&(due, number)),
            Key::Queue(sequence) | Key::Stream(sequence) => queue.find(sequence),
        };
        let Some(entry) = entry.filter(|entry| entry.place.position == from) else { return 0 };
        let old = std::mem::replace(&mut entry.place, place);
        queue.uncount(old, &mut self.segments);
        queue.count(place, &mut self.segments);
        1
    }

    fn purged(&mut self, queue: u32, to: u64, except: &[u64]) -> u64 {
        let queue = &mut self.queues[queue as usize];
        let sequences: Vec<u64> = queue
            .iter_settled()
            .map(|entry| entry.sequence)
            .filter(|sequence| *sequence <= to && except.binary_search(sequence).is_err())
            .collect();
        for sequence in &sequences {
            if let Some(entry) = queue.remove(*sequence) {
                queue.uncount(entry.place, &mut self.segments);
            }
        }
        sequences.len() as u64
    }

    fn deleted(&mut self, kind: ChannelKind, channel: &ChannelName, last: Option<u64>) -> u64 {
        match kind {
            ChannelKind::Queue => {
                let queue = self.queue(channel) as usize;
                let queue = &mut self.queues[queue];
                queue.clear(&mut self.segments);
                queue.exists = false;
                // Messages that were sent meanwhile have the next sequences.
                if last.is_none_or(|last| last == queue.last) {
                    queue.last = 0;
                }
                queue.limits = ChannelLimits::default();
            }
            ChannelKind::Stream => {
                let stream = self.stream(channel) as usize;
                let stream = &mut self.streams[stream];
                stream.clear(&mut self.segments);
                (stream.first, stream.exists) = (1, false);
                if last.is_none_or(|last| last == stream.assigned) {
                    stream.assigned = 0;
                }
                stream.limits = ChannelLimits::default();
                stream.cursors.clear();
                for group in stream.groups.values_mut() {
                    group.next = 1;
                    group.outstanding.clear();
                    group.again.clear();
                }
            }
            kind => drop(self.created.remove(&(kind, channel.clone()))),
        }
        1
    }
}
