//! The queues of an embedded engine.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::clock;
use super::engine::EmbeddedEngine;
use super::entry::Entry;
use super::op::Op;
use super::read::{Source, Stored};
use super::record::Record;
use super::settling;
use super::shared::EngineShared;
use super::state::{Batch, ChannelState};
use super::taken::{Restore, Taken};
use crate::channels::error::EngineError;
use crate::channels::name::ChannelName;
use crate::channels::queue::Queues;
use crate::channels::queue_types::{
    Peeked, Policy, QueueDelivery, QueueMessage, Receipt, Receive, Received, Sent, Settle, Which,
};
use crate::log::files::write_error;
use crate::telemetry;

/// The most messages of one receive or peek.
const MOST: usize = 10_000;

/// The most bytes of the messages of one receive or peek, but for the first message.
const MOST_BYTES: u64 = 256 << 20;

#[async_trait]
impl Queues for EmbeddedEngine {
    async fn send(&self, messages: Vec<(ChannelName, QueueMessage)>) -> Vec<Result<Sent, EngineError>> {
        let shared = &self.shared;
        let bytes = messages.iter().map(|(_, message)| message.content.size()).sum();
        let Ok(room) = self.room(bytes).await else {
            return messages.iter().map(|_| Err(EngineError::Closed)).collect();
        };
        let mut results = Vec::with_capacity(messages.len());
        let (reply, stored) = oneshot::channel();
        {
            let mut state = shared.lock();
            let mut batch = Batch::new();
            for (channel, message) in &messages {
                let sent = check(shared, &state, channel, message, batch.records.len()).and_then(|()| {
                    settling::put(&mut state, &mut batch, channel, message, None, 0)
                        .map_err(EngineError::unavailable)
                });
                results.push(sent);
            }
            if batch.ops.is_empty() {
                return results;
            }
            batch.makes_room = false;
            batch.finish = Some(Box::new(move |_, stored| {
                drop(room);
                let _ = reply.send(stored.map(drop).map_err(|error| error.to_string()));
            }));
            if state.enqueue(batch).is_err() {
                return messages.iter().map(|_| Err(EngineError::Closed)).collect();
            }
        }
        shared.wake();
        let stored = stored.await.unwrap_or_else(|_| Err("the channels are closed".to_owned()));
        let mut state = shared.lock();
        for ((channel, message), result) in messages.iter().zip(&mut results) {
            match &stored {
                Ok(()) if result.is_ok() => {
                    let index = state.queue(channel) as usize;
                    state.queues[index].incoming.add(message.content.size());
                    state.queues[index].last_activity = clock::now();
                }
                Err(error) if result.is_ok() => *result = Err(EngineError::unavailable(error.clone())),
                _ => {}
            }
        }
        results
    }

    async fn receive(&self, channel: &ChannelName, receive: Receive) -> Result<Received, EngineError> {
        let shared = &self.shared;
        let max = receive.max.clamp(1, MOST);
        let (index, receipt, arrived) = {
            let mut state = shared.lock();
            let index = self.use_queue(&mut state, channel)?;
            (index, state.new_receipt(), Arc::clone(&state.queues[index as usize].arrived))
        };
        let mut taken = Taken::new(Arc::clone(shared), receipt);
        let (deadline, mut messages) = (Instant::now() + receive.wait.min(LONGEST_WAIT), Vec::new());
        let _waiting = Waiting::new(shared, index);
        let expired = loop {
            let sources = {
                let mut state = shared.lock();
                if state.is_closed {
                    return Err(EngineError::Closed);
                }
                // Acknowledged at once, so that no visibility can run out before.
                let visibility = receive.visibility.filter(|_| !receive.auto_ack);
                let wanted = state.take(index, max - messages.len(), clock::now(), receipt, visibility);
                let due = state.visibility.first().map(|(at, ..)| *at);
                shared.wake_before(&state, due);
                Sources::of(&state, index, wanted)
            };
            messages.extend(sources.read(shared, receipt)?);
            let is_over = Instant::now() >= deadline;
            if messages.len() >= max || !messages.is_empty() && !receive.until_full || is_over {
                let mut state = shared.lock();
                break std::mem::take(&mut state.queues[index as usize].expired);
            }
            let wait = timeout_at(deadline, arrived.notified());
            tokio::select! {
                () = shared.closing.cancelled() => return Err(EngineError::Closed),
                _ = wait => {}
            }
        };
        if receive.auto_ack && !messages.is_empty() {
            self.ack_all(index, receipt).await?;
        }
        taken.keep();
        let mut state = shared.lock();
        let queue = &mut state.queues[index as usize];
        for message in &messages {
            queue.outgoing.add(message.content.size());
        }
        if !messages.is_empty() {
            queue.last_activity = clock::now();
        }
        Ok(Received::new(Receipt(receipt), messages, expired))
    }

    async fn peek(&self, channel: &ChannelName, max: usize, wait: Duration) -> Result<Peeked, EngineError> {
        let shared = &self.shared;
        let (index, arrived) = {
            let mut state = shared.lock();
            let index = self.use_queue(&mut state, channel)?;
            (index, Arc::clone(&state.queues[index as usize].arrived))
        };
        let deadline = Instant::now() + wait.min(LONGEST_WAIT);
        loop {
            let sources = {
                let mut state = shared.lock();
                if state.is_closed {
                    return Err(EngineError::Closed);
                }
                let now = clock::now();
                let ChannelState { queues, segments, .. } = &mut *state;
                queues[index as usize].drop_expired(now, segments);
                let old = queues[index as usize].old;
                let visible = queues[index as usize].iter_visible().take(max.clamp(1, MOST));
                let entries = visible.map(|entry| (entry.clone(), entry.sequence <= old)).collect();
                Sources::of_entries(&state, index, entries)
            };
            let messages = sources.read(shared, 0)?;
            if !messages.is_empty() || Instant::now() >= deadline {
                // A peek must not take the wake of a consumer.
                arrived.notify_one();
                let expired = shared.lock().queues[index as usize].expired;
                return Ok(Peeked::new(messages, expired));
            }
            let wait = timeout_at(deadline, arrived.notified());
            tokio::select! {
                () = shared.closing.cancelled() => return Err(EngineError::Closed),
                _ = wait => {}
            }
        }
    }

    async fn purge(&self, channel: &ChannelName) -> Result<u64, EngineError> {
        let shared = &self.shared;
        let stored = {
            let mut state = shared.lock();
            let Some(index) = state.known_queue(channel) else { return Ok(0) };
            let queue = &state.queues[index as usize];
            let (to, mut except) = (queue.last, queue.held.keys().copied().collect::<Vec<_>>());
            except.sort_unstable();
            let (mut batch, seed) = (Batch::new(), state.seed);
            let record = Record::Purged { queue: channel.as_str(), to, except: except.clone() };
            let op = Op::Purged { queue: index, to, except };
            batch.push(seed, &record, op).map_err(EngineError::unavailable)?;
            enqueue(&mut state, batch, |_, _| {})?
        };
        shared.wake();
        counted(stored).await
    }

    async fn settle(&self, receipt: Receipt, which: Which, settle: Settle) -> Result<u64, EngineError> {
        let shared = &self.shared;
        if let Settle::Replace { to, message, .. } = &settle {
            check(shared, &shared.lock(), to, message, 0)?;
        }
        let (stored, fault) = {
            let mut state = shared.lock();
            let (index, sequences, fault) = held(&state, receipt, which)?;
            let count = sequences.len() as u64;
            if settle == Settle::Release {
                for sequence in &sequences {
                    state.stop_visibility(index, *sequence);
                    state.queues[index as usize].give_back(*sequence);
                }
                state.forget_held(receipt.0, &sequences);
                return fault.map_or(Ok(count), Err);
            }
            if sequences.is_empty() {
                return fault.map_or(Ok(0), Err);
            }
            let batch = settling::batch(&mut state, index, &sequences, settle)?;
            settling::mark(&mut state, index, &sequences);
            let marked = sequences.clone();
            let enqueued = enqueue(&mut state, batch, move |state, is_stored| {
                if is_stored {
                    state.forget_held(receipt.0, &sequences);
                } else {
                    state.unsettle(index, &sequences);
                }
            });
            match enqueued {
                Ok(stored) => (stored, fault.map_or(Ok(count), Err)),
                Err(error) => {
                    state.unsettle(index, &marked);
                    return Err(error);
                }
            }
        };
        shared.wake();
        counted(stored).await?;
        fault
    }

    async fn extend(&self, receipt: Receipt, which: Which, visibility: Duration) -> Result<(), EngineError> {
        let shared = &self.shared;
        let mut state = shared.lock();
        let (index, sequences, fault) = held(&state, receipt, which)?;
        let deadline = std::time::Instant::now().checked_add(visibility);
        for sequence in sequences {
            state.stop_visibility(index, sequence);
            if let Some(deadline) = deadline
                && let Some(held) = state.queues[index as usize].held.get_mut(&sequence)
            {
                held.deadline = Some(deadline);
                state.visibility.insert((deadline, index, sequence));
            }
        }
        shared.wake_before(&state, deadline);
        fault.map_or(Ok(()), Err)
    }

    async fn held(&self, receipt: Receipt) -> Result<Vec<u64>, EngineError> {
        let state = self.shared.lock();
        let (_, mut sequences, _) = held(&state, receipt, Which::All)?;
        sequences.sort_unstable();
        Ok(sequences)
    }

    fn release(&self, receipt: Receipt) {
        self.shared.lock().release(receipt.0);
    }
}

/// The longest wait: a year.
const LONGEST_WAIT: Duration = Duration::from_secs(365 * 24 * 60 * 60);

impl EmbeddedEngine {
    /// Acknowledges all that a receipt holds; what was acknowledged is restored if the future is dropped meanwhile.
    async fn ack_all(&self, index: u32, receipt: u64) -> Result<(), EngineError> {
        let shared = &self.shared;
        let (reply, stored) = oneshot::channel::<Result<Restore, String>>();
        {
            let mut state = shared.lock();
            let (_, sequences, _) = held(&state, Receipt(receipt), Which::All)?;
            let queue = &state.queues[index as usize];
            let entries: Vec<Entry> = sequences
                .iter()
                .filter_map(|sequence| queue.held.get(sequence).map(|held| held.entry.clone()))
                .collect();
            let mut batch = settling::batch(&mut state, index, &sequences, Settle::Ack)?;
            settling::mark(&mut state, index, &sequences);
            let marked = sequences.clone();
            let engine = Arc::downgrade(shared);
            batch.finish = Some(Box::new(move |state, stored| match stored {
                Ok(_) => {
                    state.forget_held(receipt, &sequences);
                    let restore = Restore::new(engine, index, entries);
                    if let Err(Ok(back)) = reply.send(Ok(restore)) {
                        // The consumer has gone. The lock is held here.
                        back.restore(state);
                    }
                }
                Err(error) => {
                    state.unsettle(index, &sequences);
                    let _ = reply.send(Err(error.to_string()));
                }
            }));
            if let Err(error) = state.enqueue(batch) {
                state.unsettle(index, &marked);
                return Err(error);
            }
        }
        shared.wake();
        match stored.await {
            Ok(Ok(restore)) => {
                restore.forget();
                Ok(())
            }
            Ok(Err(error)) => Err(EngineError::unavailable(error)),
            Err(_) => Err(EngineError::Closed),
        }
    }
}

/// Returns which messages of a receipt can be settled, up to the first one that it does not hold, and the fault then.
fn held(
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

/// Refuses a message that is over a limit.
fn check(
    shared: &EngineShared,
    state: &ChannelState,
    channel: &ChannelName,
    message: &QueueMessage,
    batched: usize,
) -> Result<(), EngineError> {
    let index = state.known_queue(channel);
    shared.check_size(state, message.content.size(), batched, index.is_none())?;
    let Some(queue) = index.map(|index| &state.queues[index as usize]) else { return Ok(()) };
    let full = |limit: u64, setting: &'static str| EngineError::Full {
        what: format!("queue {channel}"),
        limit,
        setting,
    };
    let most = queue.limits.max_messages.or(shared.settings.max_messages);
    if let Some(limit) = most.filter(|most| queue.messages() as u64 >= *most) {
        return Err(full(limit, "MAX_MESSAGES"));
    }
    if let Some(limit) = queue.limits.max_bytes.filter(|most| queue.bytes >= *most) {
        return Err(full(limit, "the bytes of this queue"));
    }
    Ok(())
}

/// Waits for the number of messages that a batch was about.
type Counted = oneshot::Receiver<Result<u64, String>>;

/// Hands a batch to the writer.
fn enqueue(
    state: &mut ChannelState,
    mut batch: Batch,
    then: impl FnOnce(&mut ChannelState, bool) + Send + 'static,
) -> Result<Counted, EngineError> {
    let (reply, stored) = oneshot::channel();
    batch.finish = Some(Box::new(move |state, stored| {
        then(state, stored.is_ok());
        let _ = reply.send(stored.map(|counts| counts.iter().sum()).map_err(|error| error.to_string()));
    }));
    state.enqueue(batch)?;
    Ok(stored)
}

async fn counted(stored: Counted) -> Result<u64, EngineError> {
    match stored.await {
        Ok(stored) => stored.map_err(EngineError::unavailable),
        Err(_) => Err(EngineError::Closed),
    }
}

/// Counts a consumer that waits.
struct Waiting<'a> {
    shared: &'a EngineShared,
    index: u32,
}

impl<'a> Waiting<'a> {
    fn new(shared: &'a EngineShared, index: u32) -> Self {
        shared.lock().queues[index as usize].waiting += 1;
        Self { shared, index }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.shared.lock().queues[self.index as usize].waiting -= 1;
    }
}

/// Messages that are to be read.
struct Sources {
    index: u32,
    entries: Vec<(Entry, bool, Option<Source>)>,
}

impl Sources {
    /// Of messages that a receipt holds.
    fn of(state: &ChannelState, index: u32, taken: Vec<(u64, bool)>) -> Self {
        let queue = &state.queues[index as usize];
        let entries = taken.into_iter().filter_map(|(sequence, redelivered)| {
            queue.held.get(&sequence).map(|held| (held.entry.clone(), redelivered))
        });
        Self::of_entries(state, index, entries.collect())
    }

    fn of_entries(state: &ChannelState, index: u32, entries: Vec<(Entry, bool)>) -> Self {
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
    fn read(self, shared: &EngineShared, receipt: u64) -> Result<Vec<QueueDelivery>, EngineError> {
        let Self { index, entries } = self;
        let (mut messages, mut policies, mut damaged, mut bytes) = (Vec::new(), Vec::new(), Vec::new(), 0);
        let mut left = Vec::new();
        for (entry, redelivered, source) in entries {
            if bytes > MOST_BYTES {
                left.push(entry.sequence);
                continue;
            }
            bytes += u64::from(entry.place.len);
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
        if policies.is_empty() && damaged.is_empty() && left.is_empty() {
            return Ok(messages);
        }
        let mut state = shared.lock();
        for (sequence, policy) in policies {
            if let Some(held) = state.queues[index as usize].held.get_mut(&sequence) {
                held.policy = Some(Box::new(policy));
            }
        }
        if receipt > 0 {
            for sequence in &left {
                state.stop_visibility(index, *sequence);
                state.queues[index as usize].give_back(*sequence);
            }
            state.forget_held(receipt, &left);
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
        entry.receives() + 1,
        rerouted_from.and_then(|name| ChannelName::new(name).ok()),
        clock::optional(entry.expires()),
    );
    Some((message.with_redelivered(redelivered || entry.receives() > 0), policy))
}
