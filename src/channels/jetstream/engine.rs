//! The engine, and its administration.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream;
use serde::Deserialize;
use serde_json::{Value, json};

use super::connection::Connection;
use super::error::{Fault, JetstreamError};
use super::info::StreamInfo;
use super::message::new_word;
use super::names::{decode, encode_channel, word_of};
use super::opening::CONSUMER;
use super::parts::EngineParts;
use super::settings::JetstreamEngineSettings;
use crate::channels::capabilities::EngineCapabilities;
use crate::channels::engine::Engine;
use crate::channels::error::EngineError;
use crate::channels::info::{ChannelInfo, ChannelKind, ChannelLimits};
use crate::channels::name::ChannelName;
use crate::util::sync::lock;

/// How many channels are asked for at once.
const AT_ONCE: usize = 16;

/// An [`Engine`] on NATS with JetStream, which several processes share. A clone is a handle to the same engine.
///
/// Dropping the last handle hands back what is held; [`close`](Engine::close) waits for it.
#[derive(Clone)]
pub struct JetstreamEngine {
    pub(super) shared: Arc<EngineParts>,
    _open: Arc<OpenEngine>,
}

/// The handles of an engine, of which the last one closes it.
struct OpenEngine(Arc<EngineParts>);

impl Drop for OpenEngine {
    fn drop(&mut self) {
        self.0.stop();
    }
}

impl EngineParts {
    fn stop(self: &Arc<Self>) {
        self.closing.cancel();
        let receipts = lock(&self.taken).receipts();
        receipts.into_iter().for_each(|receipt| self.release(receipt));
    }
}

#[derive(Deserialize)]
struct StreamList {
    #[serde(default)]
    total: usize,
    #[serde(default)]
    streams: Option<Vec<StreamInfo>>,
}

impl JetstreamEngine {
    /// Connects to one of the servers, and creates the two streams that all engines of a prefix share, if they are missing.
    ///
    /// # Errors
    /// [`JetstreamError`].
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection again.
    pub async fn open(settings: JetstreamEngineSettings) -> Result<Self, JetstreamError> {
        let connection = Connection::open(&settings).await?;
        let shared = Arc::new(EngineParts::new(connection, settings));
        let engine = Self { _open: Arc::new(OpenEngine(Arc::clone(&shared))), shared };
        let shared = &engine.shared;
        shared.create_own_streams().await.map_err(|fault| {
            let error = fault.of_channel(&"the engine", ChannelLimits::default());
            JetstreamError::NoJetstream(crate::util::error::Chain(&error).to_string())
        })?;
        shared.spawn(Arc::clone(shared).run_keeper());
        shared.spawn(Arc::clone(shared).run_delayed());
        shared.spawn(Arc::clone(shared).run_quarantine());
        shared.spawn(Arc::clone(shared).run_forgotten());
        Ok(engine)
    }
}

impl fmt::Debug for JetstreamEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JetstreamEngine")
            .field("prefix", &self.shared.settings.prefix)
            .finish_non_exhaustive()
    }
}

fn is_stored(kind: ChannelKind) -> bool {
    matches!(kind, ChannelKind::Queue | ChannelKind::Stream)
}

fn failed(kind: ChannelKind, channel: &ChannelName) -> impl FnOnce(Fault) -> EngineError {
    let what = format!("{kind:?} {channel}").to_lowercase();
    move |fault| fault.of_channel(&what, ChannelLimits::default())
}

impl EngineParts {
    /// Describes a queue or stream.
    async fn describe(
        &self,
        kind: ChannelKind,
        name: ChannelName,
        info: StreamInfo,
    ) -> Result<ChannelInfo, EngineError> {
        let mut described = ChannelInfo {
            limits: info.limits(),
            messages: info.state.messages,
            bytes: info.state.bytes,
            last_sequence: info.state.last_seq.saturating_sub(info.before()),
            ..ChannelInfo::new(kind, name.clone())
        };
        if kind == ChannelKind::Queue {
            let word = encode_channel(&name)?;
            let consumer = format!("CONSUMER.INFO.{}.{CONSUMER}", self.stream_of(kind, &word));
            let held = match self.connection.api::<Value>(&consumer, &json!({})).await {
                Ok(info) => info["num_ack_pending"].as_u64().unwrap_or_default(),
                Err(fault) if fault.is_missing() => 0,
                Err(fault) => return Err(failed(kind, &name)(fault)),
            };
            described.delayed = self.count_delayed(&word).await.map_err(failed(kind, &name))?;
            described.held = held.min(described.messages);
            described.messages += described.delayed;
            if let Some(place) = self.known_queue(&name) {
                place.describe(&mut described);
            }
        } else if let Some(place) = self.known_stream(&name) {
            place.describe(&mut described);
        }
        Ok(described)
    }

    /// Returns the channels without a stream that were created or have a subscriber here, by name.
    async fn live_channels(&self, kind: ChannelKind) -> Result<BTreeMap<ChannelName, usize>, EngineError> {
        let filter = self.subject(&format!("name.{}.*", word_of(kind)));
        let fail = |fault: Fault| fault.of_channel(&"the list of channels", ChannelLimits::default());
        let request = json!({"subjects_filter": filter});
        let info: Value =
            self.connection.api(&format!("STREAM.INFO.{}", self.names()), &request).await.map_err(fail)?;
        let created = info["state"]["subjects"].as_object().into_iter().flatten();
        let created = created.filter_map(|(subject, _)| decode(subject.rsplit('.').next()?));
        let mut names: BTreeMap<ChannelName, usize> = created.map(|name| (name, 0)).collect();
        for ((of, pattern), count) in &*lock(&self.subscribers) {
            if *of == kind
                && let Ok(name) = ChannelName::new(pattern)
            {
                *names.entry(name).or_default() += count;
            }
        }
        Ok(names)
    }

    async fn create_stored(
        &self,
        kind: ChannelKind,
        channel: &ChannelName,
        limits: ChannelLimits,
    ) -> Result<(), EngineError> {
        let created = self.open_stream(kind, channel, Some(limits)).await?;
        let Some(mut info) = created else { return Err(EngineError::Closed) };
        if kind == ChannelKind::Queue {
            self.queue(channel).await?;
        }
        if info.limits() == limits {
            return Ok(());
        }
        let word = encode_channel(channel)?;
        let stream = self.stream_of(kind, &word);
        self.set_limits(&mut info.config, kind, limits);
        if kind == ChannelKind::Stream
            && let Some(most) = limits.max_bytes
        {
            // The newest message is kept, also when it is larger than the limit.
            let subject = self.subject(&format!("stream.{word}"));
            let newest =
                self.raw(&stream, json!({"last_by_subj": subject})).await.map_err(failed(kind, channel))?;
            let least = newest.map_or(0, |raw| raw.size + subject.len() as u64 + 34);
            info.config["max_bytes"] = i64::try_from(most.max(least)).unwrap_or(i64::MAX).into();
        }
        let updated = self.connection.api::<Value>(&format!("STREAM.UPDATE.{stream}"), &info.config).await;
        updated.map_err(failed(kind, channel))?;
        if let Some(place) = self.known_queue(channel).filter(|_| kind == ChannelKind::Queue) {
            place.set_limits(limits);
        }
        Ok(())
    }
}

#[async_trait]
impl Engine for JetstreamEngine {
    async fn create(
        &self,
        kind: ChannelKind,
        channel: &ChannelName,
        limits: ChannelLimits,
    ) -> Result<(), EngineError> {
        let shared = &self.shared;
        shared.check_open()?;
        if is_stored(kind) {
            return shared.create_stored(kind, channel, limits).await;
        }
        let subject = shared.subject(&format!("name.{}.{}", word_of(kind), encode_channel(channel)?));
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", new_word().as_str());
        let stored = shared.store_own(&shared.names(), &subject, headers, Bytes::new()).await;
        stored.map(drop).map_err(failed(kind, channel))
    }

    async fn delete(&self, kind: ChannelKind, channel: &ChannelName) -> Result<bool, EngineError> {
        let shared = &self.shared;
        shared.check_open()?;
        let word = encode_channel(channel)?;
        if is_stored(kind) {
            if kind == ChannelKind::Queue {
                shared.purge_delayed(&word).await.map_err(failed(kind, channel))?;
            }
            let deleted = shared.delete_stream(kind, &word).await.map_err(failed(kind, channel));
            shared.forget(kind, channel);
            return deleted;
        }
        let filter = shared.subject(&format!("name.{}.{word}", word_of(kind)));
        let purge = format!("STREAM.PURGE.{}", shared.names());
        let purged = shared.connection.api::<Value>(&purge, &json!({"filter": filter})).await;
        Ok(purged.map_err(failed(kind, channel))?["purged"].as_u64().unwrap_or_default() > 0)
    }

    async fn list(&self, kind: ChannelKind, search: &str) -> Result<Vec<ChannelInfo>, EngineError> {
        let shared = &self.shared;
        shared.check_open()?;
        if !is_stored(kind) {
            let names = shared.live_channels(kind).await?.into_iter();
            return Ok(names
                .filter(|(name, _)| name.as_str().contains(search))
                .map(|(name, subscribers)| ChannelInfo { subscribers, ..ChannelInfo::new(kind, name) })
                .collect());
        }
        let fail = |fault: Fault| fault.of_channel(&"the list of channels", ChannelLimits::default());
        let of = if kind == ChannelKind::Queue { "queue" } else { "stream" };
        let (subject, mut found, mut offset) = (shared.subject(&format!("{of}.>")), Vec::new(), 0);
        loop {
            let request = json!({"offset": offset, "subject": subject});
            let page: StreamList = shared.connection.api("STREAM.LIST", &request).await.map_err(fail)?;
            let streams = page.streams.unwrap_or_default();
            offset += streams.len();
            let is_last = streams.is_empty() || offset >= page.total;
            found.extend(streams.into_iter().filter_map(|info| {
                let name = info.name().filter(|name| name.as_str().contains(search))?;
                Some((name, info))
            }));
            if is_last {
                break;
            }
        }
        let described = found.into_iter().map(|(name, info)| shared.describe(kind, name, info));
        let described: Vec<_> = stream::iter(described).buffered(AT_ONCE).collect().await;
        let mut described = described.into_iter().collect::<Result<Vec<_>, _>>()?;
        described.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(described)
    }

    async fn info(
        &self,
        kind: ChannelKind,
        channel: &ChannelName,
    ) -> Result<Option<ChannelInfo>, EngineError> {
        let shared = &self.shared;
        shared.check_open()?;
        if is_stored(kind) {
            return match shared.open_stream(kind, channel, None).await? {
                Some(info) => shared.describe(kind, channel.clone(), info).await.map(Some),
                None => Ok(None),
            };
        }
        let subscribers = shared.live_channels(kind).await?.get(channel).copied();
        Ok(subscribers
            .map(|subscribers| ChannelInfo { subscribers, ..ChannelInfo::new(kind, channel.clone()) }))
    }

    fn capabilities(&self) -> EngineCapabilities {
        EngineCapabilities::shared()
    }

    async fn health(&self) -> Result<(), EngineError> {
        self.shared.check_open()?;
        if !self.shared.connection.is_up() {
            return Err(EngineError::unavailable("there is no connection to a NATS server"));
        }
        let info = self.shared.connection.api::<Value>("INFO", &json!({})).await;
        info.map(drop).map_err(|fault| fault.of_channel(&"JetStream", ChannelLimits::default()))
    }

    async fn close(&self, deadline: Duration) {
        self.shared.stop();
        self.shared.tasks.close();
        if tokio::time::timeout(deadline, self.shared.tasks.wait()).await.is_err() {
            tracing::warn!(
                "the channels are closed before all was handed back; the rest comes again after ACK_WAIT"
            );
        }
        let _ = tokio::time::timeout(Duration::from_secs(1), self.shared.connection.client().flush()).await;
    }
}
