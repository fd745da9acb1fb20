//! Finds the streams of channels, and creates them.

use std::sync::Arc;

use serde_json::{Value, json};

use super::error::Fault;
use super::in_use::{ChannelInUse, QueueInUse};
use super::info::StreamInfo;
use super::names::encode_channel;
use super::parts::EngineParts;
use crate::channels::error::EngineError;
use crate::channels::info::{ChannelKind, ChannelLimits};
use crate::channels::name::ChannelName;
use crate::util::sync::lock;

/// The consumer of a queue.
pub(super) const CONSUMER: &str = "engine";

impl EngineParts {
    fn config(&self, kind: ChannelKind, channel: &ChannelName, word: &str, limits: ChannelLimits) -> Value {
        let mut config = json!({
            "name": self.stream_of(kind, word),
            "storage": "file",
            "num_replicas": self.settings.replicas,
            "duplicate_window": super::wire::nanos(self.settings.duplicate_window),
            "allow_msg_ttl": true,
            "metadata": {"tower-outbox-channel": channel.as_str()},
        });
        if kind == ChannelKind::Queue {
            config["subjects"] = json!([self.subject(&format!("queue.{word}.*"))]);
            // A queue removes what is settled itself: see `remove`.
            config["retention"] = "limits".into();
            config["discard"] = "new".into();
            config["first_seq"] = super::wire::first_sequence().into();
            // A message that is sent again at its subject replaces itself.
            config["max_msgs_per_subject"] = 1.into();
        } else {
            config["subjects"] = json!([self.subject(&format!("stream.{word}"))]);
            config["retention"] = "limits".into();
            config["discard"] = "old".into();
        }
        self.set_limits(&mut config, kind, limits);
        config
    }

    /// Writes limits to the config of a stream.
    pub(super) fn set_limits(&self, config: &mut Value, kind: ChannelKind, limits: ChannelLimits) {
        let signed = |limit: Option<u64>| limit.map_or(-1, |limit| i64::try_from(limit).unwrap_or(i64::MAX));
        config["max_msgs"] = signed(limits.max_messages).into();
        config["max_bytes"] = signed(limits.max_bytes).into();
        if kind == ChannelKind::Stream {
            let age = limits.max_age.or(self.settings.stream_max_age).map_or(0, super::wire::nanos);
            config["max_age"] = age.into();
            if age > 0 {
                let window = super::wire::nanos(self.settings.duplicate_window).min(age);
                config["duplicate_window"] = window.into();
            }
        }
        let known = [
            ("tower-outbox-max-age", limits.max_age.map(super::wire::nanos)),
            ("tower-outbox-max-messages", limits.max_messages),
            ("tower-outbox-max-bytes", limits.max_bytes),
        ];
        if let Some(metadata) = config["metadata"].as_object_mut() {
            for (name, limit) in known {
                metadata.remove(name);
                if let Some(limit) = limit {
                    metadata.insert(name.to_owned(), limit.to_string().into());
                }
            }
        }
    }

    /// Returns the stream of a channel, which is created unless it exists; `None` if it may not be created.
    pub(super) async fn open_stream(
        &self,
        kind: ChannelKind,
        channel: &ChannelName,
        create: Option<ChannelLimits>,
    ) -> Result<Option<StreamInfo>, EngineError> {
        self.check_open()?;
        let word = encode_channel(channel)?;
        let name = self.stream_of(kind, &word);
        let failed =
            |fault: Fault| fault.of_channel(&format_args!("channel {channel}"), ChannelLimits::default());
        if let Some(info) = self.stream_info(&name).await.map_err(failed)? {
            return Ok(Some(info));
        }
        let Some(limits) = create else { return Ok(None) };
        let account: Value = self.connection.api("INFO", &json!({})).await.map_err(failed)?;
        let limit = self.settings.max_channels as u64;
        if account["streams"].as_u64().unwrap_or_default() >= limit {
            let what = "the list of channels".to_owned();
            return Err(EngineError::Full { what, limit, setting: "MAX_CHANNELS" });
        }
        let config = self.config(kind, channel, &word, limits);
        self.create(&name, &config).await.map(Some).map_err(failed)
    }

    /// Returns a queue, which is created unless it exists.
    pub(super) async fn queue(&self, channel: &ChannelName) -> Result<Arc<QueueInUse>, EngineError> {
        self.check_open()?;
        if let Some(place) = lock(&self.queues).get(channel) {
            return Ok(Arc::clone(place));
        }
        let _opening = self.opening.lock().await;
        if let Some(place) = lock(&self.queues).get(channel) {
            return Ok(Arc::clone(place));
        }
        let limits = ChannelLimits::default();
        let info = self.open_stream(ChannelKind::Queue, channel, Some(limits)).await?;
        let info = info.ok_or(EngineError::Closed)?;
        let word = encode_channel(channel)?;
        let subjects = self.subject(&format!("queue.{word}"));
        let stream = self.stream_of(ChannelKind::Queue, &word);
        let place = ChannelInUse::new(channel.clone(), word, stream, &info);
        let place = Arc::new(QueueInUse::new(place, subjects));
        let stream = &place.stream;
        let config = json!({"stream_name": stream, "config": {
            "name": CONSUMER,
            "durable_name": CONSUMER,
            "ack_policy": "explicit",
            "ack_wait": super::wire::nanos(self.settings.ack_wait),
            "max_deliver": -1,
            "max_ack_pending": -1,
            "max_waiting": 10_000,
        }});
        let created =
            self.connection.api::<Value>(&format!("CONSUMER.CREATE.{stream}.{CONSUMER}"), &config).await;
        created.map_err(|fault| fault.of_channel(&format_args!("queue {channel}"), limits))?;
        lock(&self.queues).insert(channel.clone(), Arc::clone(&place));
        Ok(place)
    }

    /// Returns a stream, which is created unless it exists.
    pub(super) async fn stream(&self, channel: &ChannelName) -> Result<Arc<ChannelInUse>, EngineError> {
        self.check_open()?;
        if let Some(place) = lock(&self.streams).get(channel) {
            return Ok(Arc::clone(place));
        }
        let _opening = self.opening.lock().await;
        if let Some(place) = lock(&self.streams).get(channel) {
            return Ok(Arc::clone(place));
        }
        let info = self.open_stream(ChannelKind::Stream, channel, Some(ChannelLimits::default())).await?;
        let info = info.ok_or(EngineError::Closed)?;
        let word = encode_channel(channel)?;
        let stream = self.stream_of(ChannelKind::Stream, &word);
        let place = Arc::new(ChannelInUse::new(channel.clone(), word, stream, &info));
        lock(&self.streams).insert(channel.clone(), Arc::clone(&place));
        Ok(place)
    }
}
