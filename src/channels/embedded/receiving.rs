//! Receiving from the queues of an embedded engine, and looking at them.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::clock;
use super::deliveries::Sources;
use super::engine::EmbeddedEngine;
use super::entry::Entry;
use super::settling::{self, held};
use super::state::ChannelState;
use super::taken::{Restore, Taken};
use super::using::{Used, Using};
use crate::channels::content::MOST_BYTES;
use crate::channels::error::EngineError;
use crate::channels::name::ChannelName;
use crate::channels::queue_types::{Peeked, Receipt, Receive, Received, Settle, Which};

/// The most messages of one receive or peek.
const MOST: usize = 10_000;

/// The longest wait: a year.
const LONGEST_WAIT: Duration = Duration::from_secs(365 * 24 * 60 * 60);

impl EmbeddedEngine {
    pub(super) async fn receive_from(
        &self,
        channel: &ChannelName,
        receive: Receive,
    ) -> Result<Received, EngineError> {
        let shared = &self.shared;
        let max = receive.max.clamp(1, MOST);
        let (index, receipt, arrived, _using) = {
            let mut state = shared.lock();
            let index = self.use_queue(&mut state, channel)?;
            let using = Using::new(shared, &mut state, Used::Queue(index));
            (index, state.new_receipt(), Arc::clone(&state.queues[index as usize].arrived), using)
        };
        let mut taken = Taken::new(Arc::clone(shared), receipt);
        let (deadline, mut messages) = (Instant::now() + receive.wait.min(LONGEST_WAIT), Vec::new());
        let mut room = MOST_BYTES;
        let expired = loop {
            let sources = {
                let mut state = shared.lock();
                if state.is_closed {
                    return Err(EngineError::Closed);
                }
                // Acknowledged at once, so that no visibility can run out before.
                let visibility = receive.visibility.filter(|_| !receive.auto_ack);
                let (now, max) = (clock::now(), max - messages.len());
                let wanted = state.take(index, max, &mut room, now, receipt, visibility);
                let due = state.visibility.first().map(|(at, ..)| *at);
                shared.wake_before(&state, due);
                Sources::of(&state, index, wanted)
            };
            messages.extend(sources.read(shared, receipt)?);
            let is_over = Instant::now() >= deadline;
            let is_full = messages.len() >= max || room == 0;
            if is_full || !messages.is_empty() && !receive.until_full || is_over {
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

    pub(super) async fn peek_at(
        &self,
        channel: &ChannelName,
        max: usize,
        wait: Duration,
    ) -> Result<Peeked, EngineError> {
        let shared = &self.shared;
        let (index, arrived, _using) = {
            let mut state = shared.lock();
            let index = self.use_queue(&mut state, channel)?;
            let using = Using::new(shared, &mut state, Used::Queue(index));
            (index, Arc::clone(&state.queues[index as usize].arrived), using)
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
                let mut bytes = 0;
                let visible =
                    queues[index as usize].iter_visible().take(max.clamp(1, MOST)).take_while(|entry| {
                        let is_first = bytes == 0;
                        bytes += u64::from(entry.place.len);
                        is_first || bytes <= MOST_BYTES
                    });
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
