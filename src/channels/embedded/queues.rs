//! The queues of an embedded engine.

use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::oneshot;

use super::clock;
use super::engine::EmbeddedEngine;
use super::op::Op;
use super::record::Record;
use super::settling::{self, held};
use super::shared::EngineShared;
use super::state::{Batch, ChannelState};
use crate::channels::error::EngineError;
use crate::channels::name::ChannelName;
use crate::channels::queue::Queues;
use crate::channels::queue_types::{Peeked, QueueMessage, Receipt, Receive, Received, Sent, Settle, Which};

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
                    // It may be deleted by now.
                    let Some(index) = state.known_queue(channel) else { continue };
                    let queue = &mut state.queues[index as usize];
                    queue.incoming.add(message.content.size());
                    (queue.last_activity, queue.used) = (clock::now(), std::time::Instant::now());
                }
                Err(error) if result.is_ok() => *result = Err(EngineError::unavailable(error.clone())),
                _ => {}
            }
        }
        results
    }

    async fn receive(&self, channel: &ChannelName, receive: Receive) -> Result<Received, EngineError> {
        self.receive_from(channel, receive).await
    }

    async fn peek(&self, channel: &ChannelName, max: usize, wait: Duration) -> Result<Peeked, EngineError> {
        self.peek_at(channel, max, wait).await
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
