//! Reads the messages of a queue that are delivered.

use std::time::Duration;

use super::clock;
use super::entry::Entry;
use super::op::Op;
use super::read::{Source, Stored};
use super::record::Record;
use super::settling;
use super::shared::EngineShared;
use super::state::{Batch, ChannelState};
use crate::channels::error::EngineError;
use crate::channels::name::ChannelName;
use crate::channels::queue_types::{Policy, QueueDelivery};
use crate::log::files::write_error;
use crate::telemetry;

/// Messages that are to be read.
pub(super) struct Sources {
    index: u32,
    entries: Vec<(Entry, bool, Option<Source>)>,
}

impl Sources {
    /// Of messages that a receipt holds.
    pub(super) fn of(state: &ChannelState, index: u32, taken: Vec<(u64, bool)>) -> Self {
        let queue = &state.queues[index as usize];
        let entries = taken.into_iter().filter_map(|(sequence, redelivered)| {
            queue.held.get(&sequence).map(|held| (held.entry.clone(), redelivered))
        });
        Self::of_entries(state, index, entries.collect())
    }

    pub(super) fn of_entries(state: &ChannelState, index: u32, entries: Vec<(Entry, bool)>) -> Self {
        let entries = entries
            .into_iter()
            .map(|(entry, redelivered)| {
                let source = Source::of(&state.segments, entry.place);
                (entry, redelivered, source)
            })
            .collect();
        Self { index, entries }
    }

    /// Reads the messages. Those that are damaged are dropped, logged and counted; those of a receipt get their policy.
    pub(super) fn read(self, shared: &EngineShared, receipt: u64) -> Result<Vec<QueueDelivery>, EngineError> {
        let Self { index, entries } = self;
        let (mut messages, mut policies, mut damaged) = (Vec::new(), Vec::new(), Vec::new());
        for (entry, redelivered, source) in entries {
            let folder = shared.folder().display();
            let read = source.as_ref().map_or(Ok(None), Source::read);
            match read.map_err(|error| EngineError::unavailable(write_error(&folder, &error)))? {
                None => damaged.push(entry.sequence),
                Some(stored) => match delivery(&entry, redelivered, &stored) {
                    None => damaged.push(entry.sequence),
                    Some((message, policy)) => {
                        if receipt > 0 && policy != Policy::default() {
                            policies.push((entry.sequence, policy));
                        }
                        messages.push(message);
                    }
                },
            }
        }
        if policies.is_empty() && damaged.is_empty() {
            return Ok(messages);
        }
        let mut state = shared.lock();
        for (sequence, policy) in policies {
            if let Some(held) = state.queues[index as usize].held.get_mut(&sequence) {
                held.policy = Some(Box::new(policy));
            }
        }
        if !damaged.is_empty() {
            drop_damaged(&mut state, index, receipt, &damaged);
            shared.wake();
        }
        Ok(messages)
    }
}

/// Removes messages that cannot be read any more.
fn drop_damaged(state: &mut ChannelState, index: u32, receipt: u64, sequences: &[u64]) {
    let name = state.queues[index as usize].name.clone();
    telemetry::channel_damaged(sequences.len() as u64, &name);
    for sequence in sequences {
        state.stop_visibility(index, *sequence);
    }
    settling::mark(state, index, sequences);
    let (mut batch, seed) = (Batch::new(), state.seed);
    let record = Record::Acked { queue: name.as_str(), sequences: sequences.to_vec() };
    let op = Op::Acked { queue: index, sequences: sequences.to_vec() };
    if batch.push(seed, &record, op).is_ok() {
        let _ = state.enqueue(batch);
    }
    state.forget_held(receipt, sequences);
}

/// Returns a message as it is received, and the policy that counts for it.
fn delivery(entry: &Entry, redelivered: bool, stored: &Stored) -> Option<(QueueDelivery, Policy)> {
    let put = stored.put()?;
    let extra = entry.extra.as_deref();
    let policy = if extra.is_some_and(|extra| extra.is_free) {
        Policy::default()
    } else {
        let dead_letter = put.dead_letter.and_then(|name| ChannelName::new(name).ok());
        let (expiry, delay) = (Duration::from_nanos(put.expiry), Duration::ZERO);
        Policy { expiry, delay, max_receives: put.max_receives, dead_letter }
    };
    let time = extra.map_or(0, |extra| extra.time);
    let rerouted_from = extra.and_then(|extra| extra.rerouted_from.as_deref());
    let message = QueueDelivery::new(
        stored.content(&put),
        policy.clone(),
        entry.sequence,
        clock::time(if time > 0 { time } else { put.time }),
        entry.receives().saturating_add(1),
        rerouted_from.and_then(|name| ChannelName::new(name).ok()),
        clock::optional(entry.expires()),
    );
    Some((message.with_redelivered(redelivered || entry.receives() > 0), policy))
}
