//! The records that settle messages of a queue.

use super::clock;
use super::entry::Extra;
use super::op::Op;
use super::record::{Key, Put, Record};
use super::state::{Batch, ChannelState};
use crate::channels::error::EngineError;
use crate::channels::name::ChannelName;
use crate::channels::queue_types::{QueueMessage, Receipt, Sent, Settle, Which};
use crate::telemetry;
use crate::util::error::BoxError;

/// Returns which messages of a receipt can be settled, up to the first one that it does not hold, and the fault then.
pub(super) fn held(
    state: &ChannelState,
    receipt: Receipt,
    which: Which,
) -> Result<(u32, Vec<u64>, Option<EngineError>), EngineError> {
    let unknown = EngineError::UnknownReceipt(receipt.0);
    let Some(known) = state.receipts.get(&receipt.0) else { return Err(unknown) };
    let queue = &state.queues[known.queue as usize];
    let is_held = |sequence: &u64| {
        queue.held.get(sequence).is_some_and(|held| held.receipt == receipt.0 && !held.is_settling)
    };
    match which {
        Which::All => {
            let held: Vec<u64> = known.sequences.iter().copied().filter(is_held).collect();
            if held.is_empty() { Err(unknown) } else { Ok((known.queue, held, None)) }
        }
        Which::Sequences(mut wanted) => {
            let mut seen = std::collections::HashSet::new();
            let wrong = wanted.iter().position(|sequence| !is_held(sequence) || !seen.insert(*sequence));
            let fault = wrong.map(|at| EngineError::NotHeld { receipt: receipt.0, sequence: wanted[at] });
            wanted.truncate(wrong.unwrap_or(wanted.len()));
            Ok((known.queue, wanted, fault))
        }
    }
}

/// Marks held messages as being settled.
pub(super) fn mark(state: &mut ChannelState, index: u32, sequences: &[u64]) {
    for sequence in sequences {
        if let Some(held) = state.queues[index as usize].held.get_mut(sequence) {
            held.is_settling = true;
            if let Some(deadline) = held.deadline {
                state.visibility.remove(&(deadline, index, *sequence));
            }
        }
    }
}

/// Returns the batch that settles held messages of a queue.
pub(super) fn batch(
    state: &mut ChannelState,
    index: u32,
    sequences: &[u64],
    settle: Settle,
) -> Result<Batch, EngineError> {
    let (mut batch, name) = (Batch::new(), state.queues[index as usize].name.clone());
    let built = match settle {
        Settle::Ack => acked(state, &mut batch, index, &name, sequences.to_vec()),
        Settle::Reject { delay } => {
            let now = clock::now();
            rejected(state, &mut batch, index, &name, sequences, now, clock::after(now, delay))
        }
        Settle::Requeue { to } => {
            let now = clock::now();
            let queue = &state.queues[index as usize];
            let expiry = |sequence: &u64| {
                let policy = queue.held.get(sequence).and_then(|held| held.policy.as_ref());
                policy.map_or(0, |policy| clock::after(now, policy.expiry))
            };
            let moved = sequences.iter().map(|sequence| (*sequence, expiry(sequence))).collect();
            self::moved(state, &mut batch, index, &name, &to, moved, now, false)
        }
        Settle::Replace { to, message, rerouted_from, receives } => {
            acked(state, &mut batch, index, &name, sequences.to_vec()).and_then(|()| {
                let rerouted_from = rerouted_from.as_ref().map(ChannelName::as_str);
                put(state, &mut batch, &to, &message, rerouted_from, receives).map(drop)
            })
        }
        Settle::Release => Ok(()),
    };
    built.map_err(EngineError::unavailable)?;
    Ok(batch)
}

fn acked(
    state: &ChannelState,
    batch: &mut Batch,
    index: u32,
    name: &ChannelName,
    sequences: Vec<u64>,
) -> Result<(), BoxError> {
    let record = Record::Acked { queue: name.as_str(), sequences: sequences.clone() };
    batch.push(state.seed, &record, Op::Acked { queue: index, sequences })
}

/// Rejects messages; those that were received often enough go to their dead-letter queues.
fn rejected(
    state: &mut ChannelState,
    batch: &mut Batch,
    index: u32,
    name: &ChannelName,
    sequences: &[u64],
    time: u64,
    due: u64,
) -> Result<(), BoxError> {
    let (mut again, mut discarded, mut dead) = (Vec::new(), Vec::new(), Vec::<(ChannelName, Vec<_>)>::new());
    for sequence in sequences {
        let held = state.queues[index as usize].held.get(sequence);
        let policy = held.and_then(|held| held.policy.as_ref());
        let receives = held.map_or(0, |held| held.entry.receives()).saturating_add(1);
        match policy.filter(|policy| policy.max_receives > 0 && receives >= policy.max_receives) {
            None => again.push(*sequence),
            Some(policy) => match &policy.dead_letter {
                None => discarded.push(*sequence),
                Some(to) => match dead.iter_mut().find(|(known, _)| known == to) {
                    Some((_, moved)) => moved.push((*sequence, 0)),
                    None => dead.push((to.clone(), vec![(*sequence, 0)])),
                },
            },
        }
    }
    if !again.is_empty() {
        let queue = &mut state.queues[index as usize];
        let count = again.len() as u64;
        let last = if due > 0 { &mut queue.last_delayed } else { &mut queue.last };
        let first = *last + 1;
        *last += count;
        let record = Record::Rejected { queue: name.as_str(), sequences: again.clone(), first, time, due };
        batch.push(state.seed, &record, Op::Rejected { queue: index, sequences: again, first, time, due })?;
    }
    if !discarded.is_empty() {
        telemetry::channel_discarded(name.as_str(), discarded.len());
        acked(state, batch, index, name, discarded)?;
    }
    for (to, moved) in dead {
        telemetry::channel_dead(name.as_str(), to.as_str(), moved.len());
        self::moved(state, batch, index, name, &to, moved, time, true)?;
    }
    Ok(())
}

#[expect(clippy::too_many_arguments, reason = "they are the fields of a record")]
fn moved(
    state: &mut ChannelState,
    batch: &mut Batch,
    index: u32,
    name: &ChannelName,
    to: &ChannelName,
    moved: Vec<(u64, u64)>,
    time: u64,
    is_dead: bool,
) -> Result<(), BoxError> {
    let target = state.queue(to);
    let queue = &mut state.queues[target as usize];
    queue.exists = true;
    let first = queue.last + 1;
    queue.last += moved.len() as u64;
    let record =
        Record::Moved { queue: name.as_str(), to: to.as_str(), moved: moved.clone(), first, time, is_dead };
    batch.push(state.seed, &record, Op::Moved { queue: index, to: target, moved, first, time, is_dead })
}

/// Adds the record of a new message; returns what its sender gets to know.
pub(super) fn put(
    state: &mut ChannelState,
    batch: &mut Batch,
    channel: &ChannelName,
    message: &QueueMessage,
    rerouted_from: Option<&str>,
    receives: u32,
) -> Result<Sent, BoxError> {
    let index = state.queue(channel);
    let (now, seed) = (clock::now(), state.seed);
    let queue = &mut state.queues[index as usize];
    queue.exists = true;
    let policy = &message.policy;
    let due = clock::after(now, policy.delay);
    let expires = clock::after(due.max(now), policy.expiry);
    let key = match due {
        0 => Key::Queue(queue.assign()),
        due => Key::Delayed(due, queue.assign_delayed()),
    };
    let record = Put {
        expires,
        receives,
        max_receives: policy.max_receives,
        dead_letter: policy.dead_letter.as_ref().map(ChannelName::as_str),
        expiry: clock::span(policy.expiry),
        rerouted_from,
        ..Put::new(key, channel.as_str(), now, &message.content)
    };
    let extra = Extra { expires, receives, rerouted_from: rerouted_from.map(Into::into), ..Extra::default() };
    let extra = (extra != Extra::default()).then(|| Box::new(extra));
    batch.push(seed, &Record::Put(record), Op::Put { queue: index, key, extra })?;
    let sequence = if let Key::Queue(sequence) = key { sequence } else { 0 };
    Ok(Sent::new(sequence, clock::time(now), clock::optional(expires), clock::optional(due)))
}
