//! Settling messages of a queue.

use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use serde_json::json;

use super::error::Fault;
use super::held::{Held, Settling};
use super::in_use::QueueInUse;
use super::message::{headers, visible};
use super::parts::EngineParts;
use super::raw::Raw;
use super::wire::{self, QueuePolicy};
use crate::channels::content::Content;
use crate::channels::error::EngineError;
use crate::channels::name::ChannelName;
use crate::channels::queue_types::{QueueMessage, Settle};
use crate::telemetry;
use crate::util::in_order::join_in_order;
use crate::util::sync::lock;

impl EngineParts {
    /// Settles messages; returns how many.
    pub(super) async fn settle_all(
        self: Arc<Self>,
        settling: Settling,
        settle: Settle,
    ) -> Result<u64, EngineError> {
        let Settling { place, receipt, messages, fault } = settling;
        let settled: Vec<Result<(), Fault>> = match settle {
            Settle::Ack => self.remove_each(&place, &messages).await,
            Settle::Release => {
                let backs = messages.iter().map(|held| self.settle_delivery(&held.reply, b"-NAK"));
                join_in_order(backs).await
            }
            Settle::Reject { delay } => {
                let read = self.read_each(&place, &messages).await;
                let rejects = messages.iter().zip(read);
                join_in_order(rejects.map(|(held, read)| self.reject(&place, held, read, delay))).await
            }
            Settle::Requeue { to } => {
                let read = self.read_each(&place, &messages).await;
                let requeues = messages.iter().zip(read);
                join_in_order(requeues.map(|(held, read)| self.requeue(&place, held, read, &to))).await
            }
            Settle::Replace { to, message, rerouted_from, receives } => {
                match self.replace(&place, &messages, &to, *message, rerouted_from.as_ref(), receives).await {
                    Ok(()) => self.remove_each(&place, &messages).await,
                    Err(fault) => {
                        let mut failed: Vec<Result<(), Fault>> = Vec::new();
                        failed.resize_with(messages.len(), || Err(Fault::NoResponders));
                        failed.splice(..failed.len().min(1), [Err(fault)]);
                        failed
                    }
                }
            }
        };
        let (mut count, mut failed) = (0, None);
        {
            let mut taken = lock(&self.taken);
            for (held, settled) in messages.iter().zip(settled) {
                match settled {
                    Ok(()) => {
                        taken.settled(&place, receipt, held.sequence);
                        count += 1;
                    }
                    Err(fault) => {
                        taken.unsettled(&place, held.sequence);
                        failed.get_or_insert(fault);
                    }
                }
            }
        }
        self.due.notify_one();
        match failed {
            Some(failed) => Err(failed.of_channel(&format_args!("queue {}", place.name), place.limits())),
            None => fault.map_or(Ok(count), Err),
        }
    }

    pub(super) async fn remove_each(&self, place: &QueueInUse, messages: &[Held]) -> Vec<Result<(), Fault>> {
        join_in_order(messages.iter().map(|held| self.remove_held(place, held))).await
    }

    async fn remove_held(&self, place: &QueueInUse, held: &Held) -> Result<(), Fault> {
        self.remove(&place.stream, place.in_stream(held.sequence), &held.reply).await
    }

    /// Reads messages before they are moved, so that they are stored in the order of the list. One may be gone.
    async fn read_each(&self, place: &QueueInUse, messages: &[Held]) -> Vec<Result<Option<Raw>, Fault>> {
        let read =
            async |held: &Held| self.raw(&place.stream, json!({"seq": place.in_stream(held.sequence)})).await;
        join_in_order(messages.iter().map(read)).await
    }

    /// Rejects a message; one that was received often enough goes to its dead-letter queue.
    async fn reject(
        &self,
        place: &QueueInUse,
        held: &Held,
        read: Result<Option<Raw>, Fault>,
        delay: Duration,
    ) -> Result<(), Fault> {
        if held.policy.is_worn_out() {
            let Some(to) = held.policy.dead_letter() else {
                self.remove_held(place, held).await?;
                telemetry::channel_discarded(place.name.as_str(), 1);
                return Ok(());
            };
            self.move_to(place, held, read?, &to, QueuePolicy::dead(&place.name)).await?;
            telemetry::channel_dead(place.name.as_str(), to.as_str(), 1);
            return Ok(());
        }
        self.move_to(place, held, read?, &place.name, held.policy.clone().rejected(delay)).await
    }

    async fn requeue(
        &self,
        place: &QueueInUse,
        held: &Held,
        read: Result<Option<Raw>, Fault>,
        to: &ChannelName,
    ) -> Result<(), Fault> {
        self.move_to(place, held, read?, to, held.policy.clone().requeued()).await
    }

    /// Sends a message to the tail of a queue, and removes it from its place.
    async fn move_to(
        &self,
        place: &QueueInUse,
        held: &Held,
        read: Option<Raw>,
        to: &ChannelName,
        policy: QueuePolicy,
    ) -> Result<(), Fault> {
        let Some(Raw { headers: stored, body, .. }) = read else {
            // Its time in the stream is over, or an engine that had it meanwhile has settled it.
            return Ok(());
        };
        let content = wire::read_content(Some(&stored), body);
        self.put(place, held, to, content, &policy).await?;
        self.remove_held(place, held).await
    }

    async fn replace(
        &self,
        place: &QueueInUse,
        messages: &[Held],
        to: &ChannelName,
        message: QueueMessage,
        rerouted_from: Option<&ChannelName>,
        receives: u32,
    ) -> Result<(), Fault> {
        let Some(first) = messages.first() else { return Ok(()) };
        let policy = QueuePolicy::new(&message.policy).with_rerouted_from(rerouted_from, receives);
        self.put(place, first, to, message.content, &policy).await
    }

    /// Stores what becomes of a held message. In its own queue it replaces the message, if it is still there; in another one a second
    /// attempt is known by its id.
    async fn put(
        &self,
        place: &QueueInUse,
        held: &Held,
        to: &ChannelName,
        content: Content,
        policy: &QueuePolicy,
    ) -> Result<(), Fault> {
        let headers: HeaderMap = headers(&content, policy)?;
        self.connection.check_size(&headers, &content.body)?;
        let sequence = place.in_stream(held.sequence);
        // With the queue it comes from: in another one it may have had the same sequence.
        let id = format!("{}-{}-{sequence}", held.word, place.word);
        if policy.due > 0 {
            let target = self.queue(to).await?;
            return self.store_delayed(&target.word, &held.word, &id, headers, content.body, policy).await;
        }
        let mut headers = visible(headers, &id, policy);
        if *to == place.name {
            headers.insert("Nats-Expected-Last-Subject-Sequence", sequence.to_string().as_str());
        }
        let size = content.size();
        match self.store_in_queue(to, &held.word, headers, content.body).await {
            Ok((target, _)) => {
                if *to != place.name {
                    target.count_in(size);
                }
                Ok(())
            }
            // Another engine had it meanwhile, and has settled it.
            Err(fault) if fault.is_outdated() => Ok(()),
            Err(fault) => Err(fault),
        }
    }
}
