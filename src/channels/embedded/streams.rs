//! The streams of an embedded engine.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::oneshot;

use super::clock;
use super::engine::EmbeddedEngine;
use super::op::Op;
use super::record::{Key, Put, Record};
use super::state::{Batch, ChannelState};
use super::stream_state::{Again, Group};
use super::subscription::Subscription;
use super::timers::first_since;
use super::using::{Used, Using};
use crate::channels::content::Content;
use crate::channels::error::EngineError;
use crate::channels::name::ChannelName;
use crate::channels::stream::{StreamSubscription, Streams};
use crate::channels::stream_types::{Appended, Start, Subscribe};

/// The most durable names of one stream.
const MOST_CURSORS: usize = 10_000;

/// The longest durable name or group, in bytes.
const LONGEST_NAME: usize = 1_024;

#[async_trait]
impl Streams for EmbeddedEngine {
    async fn append(&self, messages: Vec<(ChannelName, Content)>) -> Vec<Result<Appended, EngineError>> {
        let shared = &self.shared;
        let bytes = messages.iter().map(|(_, content)| content.size()).sum();
        let Ok(room) = self.room(bytes).await else {
            return messages.iter().map(|_| Err(EngineError::Closed)).collect();
        };
        let (mut results, (reply, stored)) = (Vec::with_capacity(messages.len()), oneshot::channel());
        {
            let mut state = shared.lock();
            let mut batch = Batch::new();
            for (channel, content) in &messages {
                let is_new = state.known_stream(channel).is_none();
                let checked = shared.check_size(&state, content.size(), batch.records.len(), is_new);
                results.push(checked.and_then(|()| push(&mut state, &mut batch, channel, content)));
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
        if let Err(error) = stored {
            for result in results.iter_mut().filter(|result| result.is_ok()) {
                *result = Err(EngineError::unavailable(error.clone()));
            }
        }
        results
    }

    async fn subscribe_stream(
        &self,
        channel: &ChannelName,
        subscribe: Subscribe,
    ) -> Result<Box<dyn StreamSubscription>, EngineError> {
        let Subscribe { start, group, durable } = subscribe;
        for name in group.iter().chain(&durable) {
            if name.is_empty() || name.len() > LONGEST_NAME {
                let fault = "a group or a durable name of a stream has 1 to 1,024 bytes";
                return Err(EngineError::Invalid(fault.to_owned()));
            }
        }
        let (index, member, _using) = {
            let mut state = self.shared.lock();
            if state.known_stream(channel).is_none() {
                self.shared.check_channels(&state)?;
            }
            let index = state.stream(channel);
            state.streams[index as usize].exists = true;
            let using = Using::new(&self.shared, &mut state, Used::Stream(index));
            (index, state.new_receipt(), using)
        };
        let name: Arc<str> = match (&group, &durable) {
            (Some(group), _) => format!("group {group}").into(),
            (None, Some(durable)) => format!("durable {durable}").into(),
            (None, None) => format!("subscriber {member}").into(),
        };
        let next = self.first(index, start).await;
        let (subscription, is_new) = {
            let mut state = self.shared.lock();
            let is_new = join(&mut state, index, &name, &group, &durable, next)?;
            let stream = &state.streams[index as usize];
            let arrived =
                stream.groups.get(&name).map(|group| Arc::clone(&group.arrived)).unwrap_or_default();
            (Subscription::new(Arc::clone(&self.shared), index, name, member, arrived), is_new)
        };
        if is_new {
            // Where it begins must be known after a restart, also when nothing is acknowledged until then.
            subscription.store().await?;
        }
        Ok(Box::new(subscription))
    }
}

impl EmbeddedEngine {
    /// Returns the first sequence of a subscription.
    async fn first(&self, index: u32, start: Start) -> u64 {
        let at = index as usize;
        let since = |time: u64| {
            let shared = Arc::clone(&self.shared);
            async move {
                let found = tokio::task::spawn_blocking(move || first_since(&shared, at, time)).await;
                found.unwrap_or(u64::MAX)
            }
        };
        let found = match start {
            Start::Time(time) => Some(since(clock::nanos(time)).await),
            Start::Ago(age) => Some(since(clock::now().saturating_sub(clock::span(age))).await),
            _ => None,
        };
        let state = self.shared.lock();
        let stream = &state.streams[at];
        let next = match start {
            Start::NewOnly => stream.end(),
            Start::First => stream.first,
            Start::Last => stream.end().saturating_sub(1),
            Start::Sequence(sequence) => sequence,
            Start::Time(_) | Start::Ago(_) => found.unwrap_or_else(|| stream.end()).min(stream.end()),
        };
        next.max(stream.first)
    }
}

/// Adds the record of a message.
fn push(
    state: &mut ChannelState,
    batch: &mut Batch,
    channel: &ChannelName,
    content: &Content,
) -> Result<Appended, EngineError> {
    let (index, now, seed) = (state.stream(channel), clock::now(), state.seed);
    let stream = &mut state.streams[index as usize];
    stream.exists = true;
    stream.assigned += 1;
    let sequence = stream.assigned;
    let record = Record::Put(Put::new(Key::Stream(sequence), channel.as_str(), now, content));
    batch.push(seed, &record, Op::Appended { stream: index, sequence }).map_err(EngineError::unavailable)?;
    stream.incoming.add(content.size());
    (stream.last_activity, stream.used) = (now, std::time::Instant::now());
    Ok(Appended::new(sequence, clock::time(now)))
}

/// Adds a member to a group; returns whether its place must be stored.
fn join(
    state: &mut ChannelState,
    index: u32,
    name: &Arc<str>,
    group: &Option<String>,
    durable: &Option<String>,
    next: u64,
) -> Result<bool, EngineError> {
    if state.is_closed {
        return Err(EngineError::Closed);
    }
    let stream = &mut state.streams[index as usize];
    if let Some(known) = stream.groups.get_mut(name) {
        if known.members > 0 && group.is_none() {
            let name = durable.clone().unwrap_or_default();
            return Err(EngineError::InUse { channel: stream.name.clone(), name });
        }
        known.members += 1;
        let is_new = durable.is_some() && !std::mem::replace(&mut known.is_durable, durable.is_some());
        return Ok(is_new);
    }
    let stored = stream.cursors.get(name).cloned();
    if stored.is_none() && durable.is_some() && stream.cursors.len() >= MOST_CURSORS {
        let what = format!("the list of durable names of stream {}", stream.name);
        let setting = "the limit, by deleting the stream";
        return Err(EngineError::Full { what, limit: MOST_CURSORS as u64, setting });
    }
    let mut joined = Group { members: 1, is_durable: durable.is_some(), next, ..Group::default() };
    let is_new = durable.is_some() && stored.is_none();
    if let Some(cursor) = stored {
        joined.is_durable = true;
        joined.next = cursor.next.max(stream.first);
        let due = std::time::Instant::now();
        // They may have been delivered before.
        joined.again =
            cursor.pending.into_iter().map(|sequence| (sequence, Again { due, attempt: 2 })).collect();
    }
    stream.groups.insert(Arc::clone(name), joined);
    Ok(is_new)
}
