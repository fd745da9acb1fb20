//! The engine, and its administration.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::clock;
use super::op::Op;
use super::open::{Opened, open};
use super::queue_state::Queue;
use super::record::Record;
use super::settings::EmbeddedEngineSettings;
use super::shared::{EngineShared, PENDING_KIB};
use super::state::{Batch, ChannelState};
use super::stream_state::Stream;
use crate::channels::engine::Engine;
use crate::channels::error::EngineError;
use crate::channels::info::{ChannelInfo, ChannelKind, ChannelLimits};
use crate::channels::name::ChannelName;
use crate::log::error::OpenError;

/// An [`Engine`] on the local disk, for one process.
///
/// A message is sent, and a settlement is done, when it is on disk; all calls that wait at one time share one `fdatasync`. At
/// most eight threads write for all logs of a process on one file system. A clone is a handle to the same engine.
///
/// Dropping the last handle closes the engine, and blocks until all is written; [`close`](Engine::close) does not block.
#[derive(Clone)]
pub struct EmbeddedEngine {
    pub(super) shared: Arc<EngineShared>,
    _open: Arc<OpenEngine>,
}

/// The handles of an engine, of which the last one closes it.
struct OpenEngine(Arc<EngineShared>);

impl Drop for OpenEngine {
    fn drop(&mut self) {
        close(&self.0);
    }
}

/// Closes an engine. Blocks.
fn close(shared: &EngineShared) {
    shared.closing.cancel();
    shared.events.close();
    shared.commands.close();
    shared.queries.close();
    if let Some(job) = shared.handle.stop() {
        job.close();
    }
}

impl EmbeddedEngine {
    /// Opens the engine in a folder, or creates it.
    ///
    /// # Errors
    /// A file or folder cannot be used, or another process has the folder open.
    ///
    /// # Cancel safety
    /// Dropping the future closes the engine again.
    pub async fn open(settings: EmbeddedEngineSettings) -> Result<Self, OpenError> {
        let path = settings.path.clone();
        let opened = tokio::task::spawn_blocking(move || Self::open_now(settings)).await;
        opened.unwrap_or_else(|error| Err(OpenError::io("read", &path)(std::io::Error::other(error))))
    }

    fn open_now(settings: EmbeddedEngineSettings) -> Result<Self, OpenError> {
        let folder = settings.path.clone();
        let Opened { shared, writer } = open(settings)?;
        let started = shared.handle.start(Box::new(writer));
        started.map_err(OpenError::io("start a thread for", &folder))?;
        Ok(Self { _open: Arc::new(OpenEngine(Arc::clone(&shared))), shared })
    }

    /// Waits for room among the bytes that wait for the writer.
    pub(super) async fn room(&self, bytes: usize) -> Result<OwnedSemaphorePermit, EngineError> {
        let kib = u32::try_from(bytes / 1_024 + 1).unwrap_or(u32::MAX).min(PENDING_KIB);
        Arc::clone(&self.shared.room).acquire_many_owned(kib).await.map_err(|_| EngineError::Closed)
    }

    /// Returns the number of a queue that is used now.
    pub(super) fn use_queue(
        &self,
        state: &mut ChannelState,
        channel: &ChannelName,
    ) -> Result<u32, EngineError> {
        if let Some(index) = state.known_queue(channel) {
            return Ok(index);
        }
        self.shared.check_channels(state)?;
        let index = state.queue(channel);
        state.queues[index as usize].exists = true;
        Ok(index)
    }

    /// Writes one record; `op` runs under the lock.
    async fn write(
        &self,
        record: Record<'_>,
        op: impl FnOnce(&mut ChannelState) -> Op,
    ) -> Result<(), EngineError> {
        let (reply, stored) = oneshot::channel();
        {
            let mut state = self.shared.lock();
            let (mut batch, seed, op) = (Batch::new(), state.seed, op(&mut state));
            batch.push(seed, &record, op).map_err(EngineError::unavailable)?;
            batch.finish = Some(Box::new(move |_, stored| {
                let _ = reply.send(stored.map(drop).map_err(|error| error.to_string()));
            }));
            state.enqueue(batch)?;
        }
        self.shared.wake();
        match stored.await {
            Ok(stored) => stored.map_err(EngineError::unavailable),
            Err(_) => Err(EngineError::Closed),
        }
    }

    fn of_hub(&self, kind: ChannelKind, name: &ChannelName, limits: ChannelLimits) -> ChannelInfo {
        let subscribers = match kind {
            ChannelKind::Events => self.shared.events.subscribers(name.as_str()),
            ChannelKind::Commands => self.shared.commands.subscribers(name.as_str()),
            _ => self.shared.queries.subscribers(name.as_str()),
        };
        ChannelInfo { limits, subscribers, ..ChannelInfo::new(kind, name.clone()) }
    }
}

impl fmt::Debug for EmbeddedEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedEngine").field("path", self.shared.folder()).finish_non_exhaustive()
    }
}

impl EngineShared {
    /// Refuses a channel too many.
    pub(super) fn check_channels(&self, state: &ChannelState) -> Result<(), EngineError> {
        if state.is_closed {
            return Err(EngineError::Closed);
        }
        let limit = self.settings.max_channels;
        if state.channels() >= limit {
            let (what, setting) = ("the list of channels".to_owned(), "MAX_CHANNELS");
            return Err(EngineError::Full { what, limit: limit as u64, setting });
        }
        Ok(())
    }

    /// Refuses a message that is over the limits of the engine.
    pub(super) fn check_size(
        &self,
        state: &ChannelState,
        size: usize,
        batched: usize,
        is_new: bool,
    ) -> Result<(), EngineError> {
        let (size, limit) = (size as u64, self.settings.max_message_bytes.min(1 << 30));
        if size > limit {
            return Err(EngineError::TooLarge { size, limit, setting: "MAX_MESSAGE_BYTES" });
        }
        let used = state.segments.live_bytes + state.pending_bytes + batched as u64;
        let limit = self.settings.max_bytes;
        if used.saturating_add(size) > limit {
            let what = format!("the folder {}", self.folder().display());
            return Err(EngineError::Full { what, limit, setting: "MAX_BYTES" });
        }
        if is_new { self.check_channels(state) } else { Ok(()) }
    }
}

fn of_queue(queue: &Queue) -> ChannelInfo {
    ChannelInfo {
        limits: queue.limits,
        messages: queue.messages() as u64,
        bytes: queue.bytes,
        held: queue.held.len() as u64,
        delayed: queue.delayed.len() as u64,
        last_sequence: queue.last,
        subscribers: queue.users,
        last_activity: clock::optional(queue.last_activity),
        incoming: queue.incoming,
        outgoing: queue.outgoing,
        ..ChannelInfo::new(ChannelKind::Queue, queue.name.clone())
    }
}

fn of_stream(stream: &Stream) -> ChannelInfo {
    ChannelInfo {
        limits: stream.limits,
        messages: stream.places.len() as u64,
        bytes: stream.bytes,
        last_sequence: stream.assigned,
        subscribers: stream.groups.values().map(|group| group.members).sum(),
        last_activity: clock::optional(stream.last_activity),
        incoming: stream.incoming,
        outgoing: stream.outgoing,
        ..ChannelInfo::new(ChannelKind::Stream, stream.name.clone())
    }
}

#[async_trait]
impl Engine for EmbeddedEngine {
    async fn create(
        &self,
        kind: ChannelKind,
        channel: &ChannelName,
        limits: ChannelLimits,
    ) -> Result<(), EngineError> {
        if self.info(kind, channel).await?.is_none() {
            self.shared.check_channels(&self.shared.lock())?;
        }
        let record = Record::Created { kind: kind.into(), channel: channel.as_str(), limits: limits.into() };
        self.write(record, |_| Op::Created { kind, channel: channel.clone(), limits }).await
    }

    async fn delete(&self, kind: ChannelKind, channel: &ChannelName) -> Result<bool, EngineError> {
        if self.info(kind, channel).await?.is_none() {
            return Ok(false);
        }
        let record = Record::Deleted { kind: kind.into(), channel: channel.as_str() };
        let op = |state: &mut ChannelState| {
            let last = state.begin_delete(kind, channel);
            Op::Deleted { kind, channel: channel.clone(), last: Some(last) }
        };
        self.write(record, op).await?;
        Ok(true)
    }

    async fn list(&self, kind: ChannelKind, search: &str) -> Result<Vec<ChannelInfo>, EngineError> {
        let hub = match kind {
            ChannelKind::Events => self.shared.events.names(),
            ChannelKind::Commands => self.shared.commands.names(),
            ChannelKind::Queries => self.shared.queries.names(),
            _ => Vec::new(),
        };
        let state = self.shared.lock();
        let mut found: Vec<ChannelInfo> = match kind {
            ChannelKind::Queue => {
                let queues = state.queues.iter().filter(|queue| queue.exists);
                queues.filter(|queue| queue.name.as_str().contains(search)).map(of_queue).collect()
            }
            ChannelKind::Stream => {
                let streams = state.streams.iter().filter(|stream| stream.exists);
                streams.filter(|stream| stream.name.as_str().contains(search)).map(of_stream).collect()
            }
            kind => {
                let created = state.created.iter().filter(|((of, _), _)| *of == kind);
                let mut names: BTreeMap<ChannelName, ChannelLimits> =
                    created.map(|((_, name), limits)| (name.clone(), *limits)).collect();
                for name in hub {
                    if let Ok(name) = ChannelName::new(&name) {
                        names.entry(name).or_default();
                    }
                }
                names.retain(|name, _| name.as_str().contains(search));
                names.iter().map(|(name, limits)| self.of_hub(kind, name, *limits)).collect()
            }
        };
        found.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(found)
    }

    async fn info(
        &self,
        kind: ChannelKind,
        channel: &ChannelName,
    ) -> Result<Option<ChannelInfo>, EngineError> {
        let state = self.shared.lock();
        if state.is_closed {
            return Err(EngineError::Closed);
        }
        Ok(match kind {
            ChannelKind::Queue => {
                state.known_queue(channel).map(|index| of_queue(&state.queues[index as usize]))
            }
            ChannelKind::Stream => {
                state.known_stream(channel).map(|index| of_stream(&state.streams[index as usize]))
            }
            kind => {
                let limits = state.created.get(&(kind, channel.clone())).copied();
                let info = self.of_hub(kind, channel, limits.unwrap_or_default());
                (limits.is_some() || info.subscribers > 0).then_some(info)
            }
        })
    }

    async fn health(&self) -> Result<(), EngineError> {
        let state = self.shared.lock();
        if state.is_closed {
            return Err(EngineError::Closed);
        }
        state.broken.clone().map_or(Ok(()), |error| Err(EngineError::unavailable(error)))
    }

    async fn close(&self, deadline: Duration) {
        let shared = Arc::clone(&self.shared);
        let closing = tokio::task::spawn_blocking(move || close(&shared));
        if tokio::time::timeout(deadline, closing).await.is_err() {
            tracing::warn!(folder = %self.shared.folder().display(), "the channels are still being closed; the next start may take longer");
        }
    }
}

impl ChannelState {
    /// Releases what is held, so that it cannot be settled any more; returns the sequence that was assigned last.
    fn begin_delete(&mut self, kind: ChannelKind, channel: &ChannelName) -> u64 {
        match kind {
            ChannelKind::Queue => {
                let index = self.queue(channel);
                let of_queue = self.receipts.iter().filter(|(_, receipt)| receipt.queue == index);
                let receipts: Vec<u64> = of_queue.map(|(receipt, _)| *receipt).collect();
                receipts.into_iter().for_each(|receipt| self.release(receipt));
                self.queues[index as usize].last
            }
            ChannelKind::Stream => {
                let index = self.stream(channel);
                self.streams[index as usize].assigned
            }
            _ => 0,
        }
    }
}
