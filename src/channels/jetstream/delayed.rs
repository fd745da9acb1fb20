//! Delayed messages: the server keeps each in a stream of its own until it is due, and an engine sends it to its queue then.

use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use bytes::Bytes;
use serde_json::{Value, json};

use super::error::Fault;
use super::message::visible;
use super::names::decode;
use super::parts::EngineParts;
use super::pull::{LONGEST, Pulled, Puller};
use super::wire::{self, CONTENT, POLICY, QueuePolicy};
use crate::channels::error::EngineError;
use crate::channels::info::{ChannelKind, ChannelLimits};
use crate::telemetry;
use crate::util::in_order::join_in_order;
use crate::util::rfc3339;

/// The consumer that all engines share.
const CONSUMER: &str = "engine";
/// The most messages that are sent to their queues at once.
const BATCH: usize = 256;
/// The pause after a failure.
const PAUSE: Duration = Duration::from_millis(500);

impl EngineParts {
    /// Creates the streams of the engine itself.
    pub(super) async fn create_own_streams(&self) -> Result<(), Fault> {
        let (delayed, names) = (self.delayed(), self.names());
        self.create_own(json!({
            "name": delayed,
            "subjects": [self.subject("delayed.*.*"), self.subject("due.*.*")],
            "retention": "limits",
            "discard": "old",
            "first_seq": wire::first_sequence(),
            "max_msgs_per_subject": 1,
            "allow_msg_ttl": true,
            "allow_msg_schedules": true,
            "storage": "file",
        }))
        .await?;
        self.create_own(json!({
            "name": names,
            "subjects": [self.subject("name.*.*"), self.subject("lease.*.*")],
            "discard": "old",
            "max_msgs_per_subject": 1,
            "allow_msg_ttl": true,
            "storage": "file",
        }))
        .await?;
        let config = json!({"stream_name": delayed, "config": {
            "name": CONSUMER,
            "durable_name": CONSUMER,
            "ack_policy": "explicit",
            "ack_wait": wire::nanos(Duration::from_secs(10)),
            "max_deliver": -1,
            "max_ack_pending": 10_000,
            "max_waiting": 10_000,
            "filter_subject": self.subject("due.*.*"),
        }});
        self.connection.api::<Value>(&format!("CONSUMER.CREATE.{delayed}.{CONSUMER}"), &config).await?;
        Ok(())
    }

    /// Stores a message until it is due. `id` is known when it is stored twice.
    pub(super) async fn store_delayed(
        &self,
        queue: &str,
        word: &str,
        id: &str,
        mut headers: HeaderMap,
        body: Bytes,
        policy: &QueuePolicy,
    ) -> Result<(), Fault> {
        let due = rfc3339::write(wire::time(policy.due)).map_err(|error| {
            EngineError::Invalid(format!("the delay of the message is too long: {error}"))
        })?;
        headers.insert("Nats-Msg-Id", id);
        headers.insert("Nats-Schedule", format!("@at {due}").as_str());
        headers.insert("Nats-Schedule-Target", self.subject(&format!("due.{queue}.{word}")).as_str());
        let subject = self.subject(&format!("delayed.{queue}.{word}"));
        self.store_own(&self.delayed(), &subject, headers, body).await.map(drop)
    }

    /// Sends messages that are due to their queues, until the engine is closed.
    pub(super) async fn run_delayed(self: Arc<Self>) {
        while !self.closing.is_cancelled() {
            if let Err(fault) = self.move_due().await {
                let error = fault.of_channel(&"the stream of delayed messages", ChannelLimits::default());
                tracing::warn!(%error, "failed to look for delayed messages that are due; trying again");
                if self.stream_info(&self.delayed()).await.is_ok_and(|info| info.is_none()) {
                    let _ = self.create_own_streams().await;
                }
                tokio::select! {
                    () = self.closing.cancelled() => {}
                    () = tokio::time::sleep(PAUSE) => {}
                }
            }
        }
    }

    async fn move_due(&self) -> Result<(), Fault> {
        let mut puller = Puller::open(&self.connection, &self.delayed(), CONSUMER).await?;
        while !self.closing.is_cancelled() && puller.is_clean() {
            let mut pulled = puller.pull(&self.connection, 1, Some(LONGEST), &self.closing).await?;
            if pulled.is_empty() {
                continue;
            }
            if pulled[0].pending > 0 {
                pulled.extend(puller.pull(&self.connection, BATCH, None, &self.closing).await?);
            }
            join_in_order(pulled.into_iter().map(|one| self.send_due(one))).await;
        }
        for one in puller.stop(&self.connection).await {
            self.settle_soon(one.reply, b"-NAK").await;
        }
        Ok(())
    }

    async fn send_due(&self, one: Pulled) {
        let subject = one.message.subject.to_string();
        let mut words = subject.rsplit('.');
        let (Some(word), Some(queue)) = (words.next(), words.next()) else { return };
        let Some(channel) = decode(queue) else {
            telemetry::channel_damaged(1, &subject);
            return self.settle_soon(one.reply, b"+TERM").await;
        };
        let policy: QueuePolicy = wire::read(one.message.headers.as_ref(), POLICY);
        let early = policy.due.saturating_sub(wire::now());
        if early > 0 {
            tokio::time::sleep(Duration::from_nanos(early).min(Duration::from_secs(1))).await;
        }
        // A schedule that fires again at the next leader has another sequence. A message of another program may have no time.
        let id = format!("{word}-due-{}", if policy.due == 0 { one.sequence } else { policy.due });
        let policy = policy.visible();
        let mut headers = HeaderMap::new();
        let old = one.message.headers.as_ref().and_then(|headers| headers.get(CONTENT));
        if let Some(content) = old {
            headers.insert(CONTENT, content.clone());
        }
        let stored = match wire::insert(&mut headers, POLICY, &policy) {
            Ok(()) => {
                let headers = visible(headers, &id, &policy);
                self.store_in_queue(&channel, word, headers, one.message.payload).await
            }
            Err(error) => Err(error.into()),
        };
        match stored {
            Ok(_) => {
                let _ = self.remove(&self.delayed(), one.sequence, &one.reply).await;
            }
            Err(fault) => {
                let error = fault.of_channel(&format_args!("queue {channel}"), self.limits_of(&channel));
                if matches!(error, EngineError::Closed) {
                    return self.settle_soon(one.reply, b"-NAK").await;
                }
                tracing::warn!(queue = %channel, %error, "failed to send a delayed message that is due; trying again in 1 s");
                self.settle_soon(one.reply, b"-NAK {\"delay\": 1000000000}").await;
            }
        }
    }

    /// Returns the number of messages of a queue that are not due.
    pub(super) async fn count_delayed(&self, word: &str) -> Result<u64, Fault> {
        self.count_subjects(&self.delayed(), &self.subject(&format!("delayed.{word}.*"))).await
    }

    /// Removes the delayed messages of a queue.
    pub(super) async fn purge_delayed(&self, word: &str) -> Result<(), Fault> {
        for of in ["delayed", "due"] {
            let request = json!({"filter": self.subject(&format!("{of}.{word}.*"))});
            let purged =
                self.connection.api::<Value>(&format!("STREAM.PURGE.{}", self.delayed()), &request).await;
            match purged {
                Err(fault) if !fault.is_missing() => return Err(fault),
                _ => {}
            }
        }
        Ok(())
    }

    /// Forgets what was known about a deleted channel.
    pub(super) async fn delete_stream(&self, kind: ChannelKind, word: &str) -> Result<bool, Fault> {
        let stream = self.stream_of(kind, word);
        match self.connection.api::<Value>(&format!("STREAM.DELETE.{stream}"), &json!({})).await {
            Ok(_) => Ok(true),
            Err(fault) if fault.is_missing() => Ok(false),
            Err(fault) => Err(fault),
        }
    }
}
