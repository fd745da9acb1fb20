//! A subscription to a stream of an embedded engine.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout_at;

use super::clock;
use super::op::Op;
use super::read::Source;
use super::record::Record;
use super::shared::EngineShared;
use super::state::{Batch, ChannelState};
use super::stream_state::{Again, Outstanding, WINDOW};
use crate::channels::content::MOST_BYTES;
use crate::channels::error::EngineError;
use crate::channels::stream::StreamSubscription;
use crate::channels::stream_types::StreamMessage;
use crate::log::files::write_error;
use crate::telemetry;

/// One member of a group, or a subscriber alone.
pub(super) struct Subscription {
    shared: Arc<EngineShared>,
    stream: u32,
    /// The name of its group in the memory.
    name: Arc<str>,
    member: u64,
    arrived: Arc<Notify>,
}

/// The result of a receive.
enum Step {
    Take(Vec<(u64, u32, Option<Source>)>),
    /// Nothing is due before this time.
    Wait(Option<Instant>),
}

impl Subscription {
    pub(super) fn new(
        shared: Arc<EngineShared>,
        stream: u32,
        name: Arc<str>,
        member: u64,
        arrived: Arc<Notify>,
    ) -> Self {
        Self { shared, stream, name, member, arrived }
    }

    /// Stores the place of the group.
    pub(super) async fn store(&self) -> Result<(), EngineError> {
        let stored = self.begin_store(&mut self.shared.lock())?;
        self.shared.wake();
        match stored.await {
            Ok(stored) => stored.map_err(EngineError::unavailable),
            Err(_) => Err(EngineError::Closed),
        }
    }

    fn begin_store(
        &self,
        state: &mut ChannelState,
    ) -> Result<oneshot::Receiver<Result<(), String>>, EngineError> {
        let (reply, stored) = oneshot::channel();
        let (mut batch, seed) = (Batch::new(), state.seed);
        let stream = &state.streams[self.stream as usize];
        let Some(cursor) = stream.cursor(&self.name) else { return Err(EngineError::Closed) };
        let record =
            Record::Cursor { stream: stream.name.as_str(), name: &self.name, cursor: cursor.clone() };
        let op = Op::Cursor { stream: self.stream, name: Arc::clone(&self.name), cursor };
        batch.push(seed, &record, op).map_err(EngineError::unavailable)?;
        batch.finish = Some(Box::new(move |_, stored| {
            let _ = reply.send(stored.map(drop).map_err(|error| error.to_string()));
        }));
        state.enqueue(batch)?;
        Ok(stored)
    }

    /// Takes what is due for this member.
    fn step(&self, max: usize) -> Result<Step, EngineError> {
        let mut state = self.shared.lock();
        if state.is_closed {
            return Err(EngineError::Closed);
        }
        let ChannelState { streams, segments, .. } = &mut *state;
        let stream = &mut streams[self.stream as usize];
        let (first, end) = (stream.first, stream.end());
        let Some(group) = stream.groups.get_mut(&self.name) else { return Err(EngineError::Closed) };
        let now = Instant::now();
        // The retention may have deleted some.
        group.again = group.again.split_off(&first);
        let due = group.again.iter().filter(|(_, again)| again.due <= now).take(max);
        let mut chosen: Vec<(u64, u32)> = due.map(|(sequence, again)| (*sequence, again.attempt)).collect();
        for (sequence, _) in &chosen {
            group.again.remove(sequence);
        }
        group.next = group.next.max(first);
        while chosen.len() < max
            && group.next < end
            && group.outstanding.len() + group.again.len() + chosen.len() < WINDOW
        {
            chosen.push((group.next, 1));
            group.next += 1;
        }
        if chosen.is_empty() {
            return Ok(Step::Wait(group.again.values().map(|again| again.due).min()));
        }
        let mut bytes = 0;
        let mut taken = Vec::with_capacity(chosen.len());
        let mut left = Vec::new();
        for (sequence, attempt) in chosen {
            let place = stream.get(sequence);
            bytes += place.map_or(0, |place| u64::from(place.len));
            if bytes > MOST_BYTES && !taken.is_empty() {
                left.push((sequence, attempt));
            } else {
                taken.push((sequence, attempt, place.and_then(|place| Source::of(segments, place))));
            }
        }
        if let Some(group) = stream.groups.get_mut(&self.name) {
            for (sequence, attempt, _) in &taken {
                group.outstanding.insert(*sequence, Outstanding { member: self.member, attempt: *attempt });
            }
            group
                .again
                .extend(left.into_iter().map(|(sequence, attempt)| (sequence, Again { due: now, attempt })));
            if group.next < end || !group.again.is_empty() {
                group.arrived.notify_one();
            }
        }
        Ok(Step::Take(taken))
    }

    /// Reads messages; those that are gone or damaged count as acknowledged.
    fn read(&self, taken: Vec<(u64, u32, Option<Source>)>) -> Result<Vec<StreamMessage>, EngineError> {
        let (mut messages, mut gone, mut damaged) = (Vec::with_capacity(taken.len()), Vec::new(), 0);
        let mut taken = taken.into_iter();
        while let Some((sequence, attempt, source)) = taken.next() {
            let Some(source) = source else {
                gone.push(sequence);
                continue;
            };
            match source.read() {
                Ok(stored) => match stored.as_ref().and_then(|stored| Some((stored, stored.put()?))) {
                    Some((stored, put)) => {
                        let (content, time) = (stored.content(&put), clock::time(put.time));
                        messages.push(StreamMessage::new(content, sequence, time, attempt));
                    }
                    None => {
                        damaged += 1;
                        gone.push(sequence);
                    }
                },
                Err(error) => {
                    let back = messages.iter().map(|message| message.sequence).chain([sequence]);
                    let back: Vec<u64> = back.chain(taken.map(|(sequence, ..)| sequence)).collect();
                    for sequence in back {
                        self.release(sequence, Duration::from_secs(1), false);
                    }
                    let folder = self.shared.folder().display();
                    return Err(EngineError::unavailable(write_error(&folder, &error)));
                }
            }
        }
        let mut state = self.shared.lock();
        let stream = &mut state.streams[self.stream as usize];
        if damaged > 0 {
            telemetry::channel_damaged(damaged, &stream.name);
        }
        for message in &messages {
            stream.outgoing.add(message.content.size());
        }
        if let Some(group) = stream.groups.get_mut(&self.name) {
            for sequence in gone {
                group.outstanding.remove(&sequence);
            }
        }
        Ok(messages)
    }

    /// Acknowledges a message; returns whether the place must be stored.
    fn acknowledge(&self, state: &mut ChannelState, sequence: u64) -> bool {
        let stream = &mut state.streams[self.stream as usize];
        let Some(group) = stream.groups.get_mut(&self.name) else { return false };
        let is_own = group.outstanding.get(&sequence).is_some_and(|out| out.member == self.member);
        if !is_own {
            return false;
        }
        let was_full = group.outstanding.len() + group.again.len() >= WINDOW;
        group.outstanding.remove(&sequence);
        if was_full {
            group.arrived.notify_one();
        }
        group.is_durable
    }
}

#[async_trait]
impl StreamSubscription for Subscription {
    async fn receive(&self, max: usize) -> Result<Vec<StreamMessage>, EngineError> {
        let max = max.clamp(1, WINDOW);
        loop {
            match self.step(max)? {
                Step::Take(taken) => {
                    let messages = self.read(taken)?;
                    if !messages.is_empty() {
                        return Ok(messages);
                    }
                }
                Step::Wait(due) => {
                    let notified = self.arrived.notified();
                    tokio::select! {
                        () = self.shared.closing.cancelled() => return Err(EngineError::Closed),
                        () = async {
                            match due {
                                Some(due) => drop(timeout_at(due.into(), notified).await),
                                None => notified.await,
                            }
                        } => {}
                    }
                }
            }
        }
    }

    async fn ack(&self, sequence: u64) -> Result<(), EngineError> {
        let stored = {
            let mut state = self.shared.lock();
            if state.is_closed {
                return Err(EngineError::Closed);
            }
            if !self.acknowledge(&mut state, sequence) {
                return Ok(());
            }
            self.begin_store(&mut state)?
        };
        self.shared.wake();
        match stored.await {
            Ok(stored) => stored.map_err(EngineError::unavailable),
            Err(_) => Err(EngineError::Closed),
        }
    }

    fn ack_soon(&self, sequence: u64) {
        let mut state = self.shared.lock();
        if self.acknowledge(&mut state, sequence) {
            let _ = self.begin_store(&mut state);
            drop(state);
            self.shared.wake();
        }
    }

    fn release(&self, sequence: u64, after: Duration, counts: bool) {
        let mut state = self.shared.lock();
        let stream = &mut state.streams[self.stream as usize];
        let Some(group) = stream.groups.get_mut(&self.name) else { return };
        let Some(out) = group.outstanding.get(&sequence).filter(|out| out.member == self.member).copied()
        else {
            return;
        };
        group.outstanding.remove(&sequence);
        let due = Instant::now().checked_add(after).unwrap_or_else(Instant::now);
        let attempt = if counts { out.attempt.saturating_add(1) } else { out.attempt };
        group.again.insert(sequence, Again { due, attempt });
        group.arrived.notify_one();
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        let stream = &mut state.streams[self.stream as usize];
        let Some(group) = stream.groups.get_mut(&self.name) else { return };
        group.members = group.members.saturating_sub(1);
        let own = group.outstanding.iter().filter(|(_, out)| out.member == self.member);
        let own: Vec<(u64, u32)> = own.map(|(sequence, out)| (*sequence, out.attempt)).collect();
        let due = Instant::now();
        for (sequence, attempt) in own {
            group.outstanding.remove(&sequence);
            group.again.insert(sequence, Again { due, attempt });
        }
        group.arrived.notify_one();
        stream.used = due;
        if group.members == 0 && !group.is_durable {
            stream.groups.remove(&self.name);
        }
    }
}
