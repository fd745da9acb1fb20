//! The parts that the handles and tasks of an engine share.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use async_nats::{HeaderMap, Subject};
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::answering::Answering;
use super::connection::{Connection, Stored};
use super::error::Fault;
use super::held::Taken;
use super::in_use::{ChannelInUse, QueueInUse};
use super::info::StreamInfo;
use super::leases::Leases;
use super::names::encode;
use super::outstanding::Outstanding;
use super::settings::JetstreamEngineSettings;
use super::sharing::Sharing;
use crate::channels::error::EngineError;
use crate::channels::info::ChannelKind;
use crate::channels::name::ChannelName;
use crate::util::sync::lock;

/// The most messages that an engine deletes at once. A server drops all requests to JetStream that wait when they are 10,000.
const DELETED_AT_ONCE: usize = 500;
/// The pause before a message is stored again whose stream has no leader, or was deleted.
const PAUSE: Duration = Duration::from_millis(100);

pub(super) struct EngineParts {
    pub(super) connection: Connection,
    pub(super) settings: JetstreamEngineSettings,
    pub(super) runtime: tokio::runtime::Handle,
    pub(super) closing: CancellationToken,
    pub(super) tasks: TaskTracker,
    pub(super) taken: Mutex<Taken>,
    /// Wakes the task that does what is due.
    pub(super) due: Notify,
    pub(super) queues: Mutex<HashMap<ChannelName, Arc<QueueInUse>>>,
    pub(super) streams: Mutex<HashMap<ChannelName, Arc<ChannelInUse>>>,
    pub(super) opening: tokio::sync::Mutex<()>,
    deleting: Semaphore,
    pub(super) leases: Leases,
    pub(super) answering: Answering,
    /// The messages that the subscriptions of streams have not acknowledged.
    pub(super) outstanding: Mutex<Vec<Weak<Outstanding>>>,
    /// By stream and consumer.
    pub(super) sharing: Mutex<HashMap<String, Weak<Sharing>>>,
    /// The subscribers to events and requests here, by kind and pattern.
    pub(super) subscribers: Mutex<HashMap<(ChannelKind, String), usize>>,
}

impl EngineParts {
    pub(super) fn new(connection: Connection, settings: JetstreamEngineSettings) -> Self {
        Self {
            connection,
            settings,
            runtime: tokio::runtime::Handle::current(),
            closing: CancellationToken::new(),
            tasks: TaskTracker::new(),
            taken: Mutex::default(),
            due: Notify::new(),
            queues: Mutex::default(),
            streams: Mutex::default(),
            opening: tokio::sync::Mutex::default(),
            deleting: Semaphore::new(DELETED_AT_ONCE),
            leases: Leases::default(),
            answering: Answering::default(),
            outstanding: Mutex::default(),
            sharing: Mutex::default(),
            subscribers: Mutex::default(),
        }
    }

    pub(super) fn check_open(&self) -> Result<(), EngineError> {
        if self.closing.is_cancelled() { Err(EngineError::Closed) } else { Ok(()) }
    }

    /// Runs a task that the engine awaits when it is closed. It may be called on any thread.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn_on(task, &self.runtime);
    }

    /// A subject of the engine.
    pub(super) fn subject(&self, words: &str) -> String {
        format!("{}.{words}", self.settings.prefix)
    }

    /// The stream in which delayed messages wait.
    pub(super) fn delayed(&self) -> String {
        format!("{}-delayed", self.settings.prefix)
    }

    /// The stream of names: channels without a stream of their own, and durable names in use.
    pub(super) fn names(&self) -> String {
        format!("{}-names", self.settings.prefix)
    }

    pub(super) fn stream_of(&self, kind: ChannelKind, word: &str) -> String {
        let of = if kind == ChannelKind::Queue { "queue" } else { "stream" };
        format!("{}-{of}-{word}", self.settings.prefix)
    }

    pub(super) async fn stream_info(&self, stream: &str) -> Result<Option<StreamInfo>, Fault> {
        match self.connection.api(&format!("STREAM.INFO.{stream}"), &json!({})).await {
            Ok(info) => Ok(Some(info)),
            Err(fault) if fault.is_missing() => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    /// Returns the number of subjects of a stream that match.
    pub(super) async fn count_subjects(&self, stream: &str, filter: &str) -> Result<u64, Fault> {
        let request = json!({"subjects_filter": filter});
        let info: StreamInfo = self.connection.api(&format!("STREAM.INFO.{stream}"), &request).await?;
        Ok(info.total)
    }

    /// Creates a stream of the engine itself, if it does not exist.
    pub(super) async fn create_own(&self, mut config: Value) -> Result<(), Fault> {
        let name = config["name"].as_str().unwrap_or_default().to_owned();
        if self.stream_info(&name).await?.is_none() {
            config["num_replicas"] = self.settings.replicas.into();
            config["duplicate_window"] = super::wire::nanos(self.settings.duplicate_window).into();
            self.create(&name, &config).await?;
        }
        Ok(())
    }

    /// Creates a stream, unless another engine has created it meanwhile, with another first sequence.
    pub(super) async fn create(&self, name: &str, config: &Value) -> Result<StreamInfo, Fault> {
        match self.connection.api(&format!("STREAM.CREATE.{name}"), config).await {
            Err(fault) if fault.is_taken() => self.stream_info(name).await?.ok_or(fault),
            created => created,
        }
    }

    /// Returns a queue that this engine has used, for what it counts.
    pub(super) fn known_queue(&self, channel: &ChannelName) -> Option<Arc<QueueInUse>> {
        lock(&self.queues).get(channel).cloned()
    }

    pub(super) fn known_stream(&self, channel: &ChannelName) -> Option<Arc<ChannelInUse>> {
        lock(&self.streams).get(channel).cloned()
    }

    /// Forgets a channel, so that its next use looks for it again.
    pub(super) fn forget(&self, kind: ChannelKind, channel: &ChannelName) {
        if kind == ChannelKind::Queue {
            if let Some(place) = lock(&self.queues).remove(channel) {
                lock(&self.taken).forget_place(place.number);
            }
        } else {
            lock(&self.streams).remove(channel);
        }
    }

    /// Forgets a channel whose stream was deleted, or created again.
    pub(super) async fn check(
        &self,
        kind: ChannelKind,
        channel: &ChannelName,
        created: &str,
    ) -> Result<(), EngineError> {
        let info = self.open_stream(kind, channel, None).await?;
        if info.is_none_or(|info| info.created != created) {
            self.forget(kind, channel);
        }
        Ok(())
    }

    /// Stores a message in a queue under a word of its own.
    pub(super) async fn store_in_queue(
        &self,
        channel: &ChannelName,
        word: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<(Arc<QueueInUse>, Stored), Fault> {
        let deadline = self.connection.deadline();
        loop {
            let place = self.queue(channel).await?;
            let subject = place.subject(word);
            match self.connection.store(&subject, headers.clone(), body.clone(), deadline).await {
                Ok(stored) => return Ok((place, stored)),
                Err(Fault::NoResponders) if Instant::now() + PAUSE < deadline => {
                    self.check(ChannelKind::Queue, channel, &place.created).await?;
                    tokio::time::sleep(PAUSE).await;
                }
                Err(fault) => return Err(fault),
            }
        }
    }

    /// Appends a message to a stream.
    pub(super) async fn store_in_stream(
        &self,
        channel: &ChannelName,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<(Arc<ChannelInUse>, Stored), Fault> {
        let deadline = self.connection.deadline();
        loop {
            let place = self.stream(channel).await?;
            let subject = self.subject(&format!("stream.{}", place.word));
            match self.connection.store(&subject, headers.clone(), body.clone(), deadline).await {
                Ok(stored) => return Ok((place, stored)),
                Err(Fault::NoResponders) if Instant::now() + PAUSE < deadline => {
                    self.check(ChannelKind::Stream, channel, &place.created).await?;
                    tokio::time::sleep(PAUSE).await;
                }
                Err(fault) => return Err(fault),
            }
        }
    }

    /// Publishes to a stream of the engine itself, also while it elects a leader. Creates the stream again if somebody has deleted it.
    pub(super) async fn store_own(
        &self,
        stream: &str,
        subject: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Stored, Fault> {
        let deadline = self.connection.deadline();
        loop {
            match self.connection.store(subject, headers.clone(), body.clone(), deadline).await {
                Err(Fault::NoResponders) if Instant::now() + PAUSE < deadline => {
                    if self.stream_info(stream).await?.is_none() {
                        self.create_own_streams().await?;
                    }
                    tokio::time::sleep(PAUSE).await;
                }
                stored => return stored,
            }
        }
    }

    /// Removes a delivered message from its stream, and completes when the stream has done so. One that is gone counts as removed.
    ///
    /// It is deleted before it is acknowledged, and not by the stream: nats-server 2.15.1 counts messages as acknowledged that it was
    /// about to deliver when it was killed. Those that are still there are [found](Self::run_forgotten).
    pub(super) async fn remove(&self, stream: &str, sequence: u64, reply: &Subject) -> Result<(), Fault> {
        self.delete_stored(stream, sequence).await?;
        self.settle_soon(reply.clone(), b"+ACK").await;
        Ok(())
    }

    /// Deletes a message of a stream. One that is gone counts as deleted.
    pub(super) async fn delete_stored(&self, stream: &str, sequence: u64) -> Result<(), Fault> {
        let turn = timeout_at(self.connection.deadline(), self.deleting.acquire());
        let Ok(_turn) = turn.await else {
            return Err(EngineError::unavailable("the NATS server does not keep up with settlements").into());
        };
        let delete = json!({"seq": sequence, "no_erase": true});
        match self.connection.api::<Value>(&format!("STREAM.MSG.DELETE.{stream}"), &delete).await {
            Err(fault) if !fault.is_gone() => Err(fault),
            _ => Ok(()),
        }
    }

    /// Settles a delivery, and completes when the server knows.
    pub(super) async fn settle_delivery(&self, reply: &Subject, kind: &'static [u8]) -> Result<(), Fault> {
        self.settle_with(reply, Bytes::from_static(kind)).await
    }

    pub(super) async fn settle_with(&self, reply: &Subject, kind: Bytes) -> Result<(), Fault> {
        let deadline = self.connection.deadline();
        loop {
            let settled = self.connection.request(reply, None, kind.clone(), deadline).await;
            match settled {
                Err(Fault::NoResponders) if Instant::now() + PAUSE < deadline => {
                    tokio::time::sleep(PAUSE).await
                }
                settled => return settled.map(drop),
            }
        }
    }

    /// Settles a delivery without waiting.
    pub(super) async fn settle_soon(&self, reply: Subject, kind: &'static [u8]) {
        let _ = self.connection.client().publish(reply, Bytes::from_static(kind)).await;
    }

    pub(super) fn durable_word(name: &str) -> Result<String, EngineError> {
        let word = encode(name);
        if name.is_empty() || word.len() > 200 {
            let fault =
                "a group or a durable name of a stream has 1 to 200 bytes as the name of a consumer of NATS";
            return Err(EngineError::Invalid(fault.to_owned()));
        }
        Ok(word)
    }
}
