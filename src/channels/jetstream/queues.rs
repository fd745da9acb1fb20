//! The queues of an engine on JetStream.

use std::sync::Arc;
use std::time::Duration;

use async_nats::Subject;
use async_trait::async_trait;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::engine::JetstreamEngine;
use super::error::Fault;
use super::message::{delivery, headers, new_word, visible};
use super::opening::CONSUMER;
use super::parts::EngineParts;
use super::pull::{Pulled, Puller};
use super::receiving::{LONGEST_WAIT, MOST, Taking};
use super::wire::{self, POLICY, QueuePolicy};
use crate::channels::error::EngineError;
use crate::channels::info::ChannelLimits;
use crate::channels::name::ChannelName;
use crate::channels::queue::Queues;
use crate::channels::queue_types::{Peeked, QueueMessage, Receipt, Receive, Received, Sent, Settle, Which};
use crate::util::in_order::join_in_order;
use crate::util::sync::lock;

/// The pause between two looks at an empty queue.
const PEEK_AGAIN: Duration = Duration::from_millis(100);

impl EngineParts {
    /// Sends one message.
    async fn send_one(&self, channel: &ChannelName, message: QueueMessage) -> Result<Sent, EngineError> {
        let failed =
            |fault: Fault| fault.of_channel(&format_args!("queue {channel}"), self.limits_of(channel));
        let QueueMessage { content, policy } = message;
        let policy = QueuePolicy::new(&policy);
        let headers = headers(&content, &policy)?;
        self.connection.check_size(&headers, &content.body)?;
        let (word, size) = (new_word(), content.size());
        let (time, expires, due) =
            (wire::time(policy.time), wire::optional(policy.expires), wire::optional(policy.due));
        let (place, sequence) = if policy.due > 0 {
            let place = self.queue(channel).await?;
            self.store_delayed(&place.word, &word, &word, headers, content.body, &policy)
                .await
                .map_err(failed)?;
            (place, 0)
        } else {
            let headers = visible(headers, &word, &policy);
            let (place, stored) =
                self.store_in_queue(channel, &word, headers, content.body).await.map_err(failed)?;
            let sequence = place.sequence(stored.seq);
            (place, sequence)
        };
        place.count_in(size);
        Ok(Sent::new(sequence, time, expires, due))
    }

    pub(super) fn limits_of(&self, channel: &ChannelName) -> ChannelLimits {
        self.known_queue(channel).map_or_else(ChannelLimits::default, |place| place.limits())
    }

    /// Returns visible messages. A queue on JetStream has one consumer, so they are read one by one; the server does not say when more come.
    async fn look(&self, channel: &ChannelName, max: usize, wait: Duration) -> Result<Peeked, EngineError> {
        let place = self.queue(channel).await?;
        place.returning.done().await;
        let failed = |fault: Fault| fault.of_channel(&format_args!("queue {channel}"), place.limits());
        let deadline = tokio::time::Instant::now() + wait.min(LONGEST_WAIT);
        loop {
            let mut peeked = Peeked::default();
            let (mut next, mut bytes) = (1, 0);
            while peeked.messages.len() < max {
                let Some(raw) = self.next_raw(&place.stream, next).await.map_err(failed)? else { break };
                next = raw.sequence + 1;
                let policy: QueuePolicy = wire::read(Some(&raw.headers), POLICY);
                if policy.has_expired() {
                    peeked.expired += 1;
                    continue;
                }
                let sequence = place.sequence(raw.sequence);
                if lock(&self.taken).is_held(&place, sequence) {
                    continue;
                }
                bytes += raw.body.len() as u64;
                if !peeked.messages.is_empty() && bytes > crate::channels::content::MOST_BYTES {
                    break;
                }
                let content = wire::read_content(Some(&raw.headers), raw.body);
                peeked.messages.push(delivery(content, &policy, sequence, raw.time));
            }
            let left = deadline.saturating_duration_since(tokio::time::Instant::now());
            if !peeked.messages.is_empty() || left.is_zero() {
                return Ok(peeked);
            }
            tokio::select! {
                () = self.closing.cancelled() => return Err(EngineError::Closed),
                () = tokio::time::sleep(left.min(PEEK_AGAIN)) => {}
            }
        }
    }

    /// Takes all visible messages, and acknowledges them.
    async fn purge_queue(self: &Arc<Self>, channel: &ChannelName) -> Result<u64, EngineError> {
        let place = self.queue(channel).await?;
        place.returning.done().await;
        let failed = |fault: Fault| fault.of_channel(&format_args!("queue {channel}"), place.limits());
        let mut puller = Puller::open(&self.connection, &place.stream, CONSUMER).await.map_err(failed)?;
        let (mut count, never) = (0, CancellationToken::new());
        loop {
            let pulled = puller.pull(&self.connection, 500, None, &never).await.map_err(failed)?;
            if pulled.is_empty() {
                break;
            }
            let is_free = |one: &&Pulled| !lock(&self.taken).is_held(&place, place.sequence(one.sequence));
            let acks = pulled.iter().filter(is_free);
            let acked =
                join_in_order(acks.map(|one| self.remove(&place.stream, one.sequence, &one.reply))).await;
            count += acked.len() as u64;
            acked.into_iter().collect::<Result<(), Fault>>().map_err(failed)?;
        }
        for one in puller.stop(&self.connection).await {
            self.settle_soon(one.reply, b"-NAK").await;
        }
        Ok(count)
    }
}

#[async_trait]
impl Queues for JetstreamEngine {
    async fn send(&self, messages: Vec<(ChannelName, QueueMessage)>) -> Vec<Result<Sent, EngineError>> {
        // Each queue is opened before, so that its messages are stored in their order.
        for (at, (channel, _)) in messages.iter().enumerate() {
            if self.shared.known_queue(channel).is_none()
                && messages[..at].iter().all(|(known, _)| known != channel)
            {
                // Its messages say why it failed.
                let _ = self.shared.queue(channel).await;
            }
        }
        join_in_order(messages.into_iter().map(async |(channel, message)| {
            self.shared.check_open()?;
            self.shared.send_one(&channel, message).await
        }))
        .await
    }

    async fn receive(&self, channel: &ChannelName, receive: Receive) -> Result<Received, EngineError> {
        let place = self.shared.queue(channel).await?;
        let _use = place.used();
        let (sender, received) = oneshot::channel();
        let cancel = self.shared.closing.child_token();
        let _cancel = cancel.clone().drop_guard();
        let receipt = lock(&self.shared.taken).new_receipt();
        let taking = Taking::new(Arc::clone(&self.shared), place, receive, receipt, cancel);
        self.shared.spawn(async move {
            // Without a receiver, what was taken is handed back when it is dropped.
            let _ = sender.send(taking.run().await);
        });
        let taken = received.await.map_err(|_| EngineError::Closed)??;
        Ok(taken.keep())
    }

    async fn peek(&self, channel: &ChannelName, max: usize, wait: Duration) -> Result<Peeked, EngineError> {
        self.shared.look(channel, max.clamp(1, MOST), wait).await
    }

    async fn purge(&self, channel: &ChannelName) -> Result<u64, EngineError> {
        let (shared, channel) = (Arc::clone(&self.shared), channel.clone());
        let (sender, purged) = oneshot::channel();
        // It goes on when the future is dropped: messages on their way would wait for their ack_wait.
        self.shared.spawn(async move {
            let _ = sender.send(shared.purge_queue(&channel).await);
        });
        purged.await.map_err(|_| EngineError::Closed)?
    }

    async fn settle(&self, receipt: Receipt, which: Which, settle: Settle) -> Result<u64, EngineError> {
        self.shared.check_open()?;
        let settling = lock(&self.shared.taken).begin(receipt, which)?;
        let (sender, settled) = oneshot::channel();
        let shared = Arc::clone(&self.shared);
        self.shared.spawn(async move {
            let _ = sender.send(shared.settle_all(settling, settle).await);
        });
        settled.await.map_err(|_| EngineError::Closed)?
    }

    async fn extend(&self, receipt: Receipt, which: Which, visibility: Duration) -> Result<(), EngineError> {
        let extended = lock(&self.shared.taken).extend(receipt, which, visibility);
        self.shared.due.notify_one();
        extended
    }

    async fn held(&self, receipt: Receipt) -> Result<Vec<u64>, EngineError> {
        lock(&self.shared.taken).sequences(receipt)
    }

    fn release(&self, receipt: Receipt) {
        self.shared.release(receipt.0);
    }
}

impl EngineParts {
    /// Hands back what a receipt holds.
    pub(super) fn release(self: &Arc<Self>, receipt: u64) {
        let Some((place, held)) = lock(&self.taken).release(receipt) else { return };
        place.returning.begin();
        lock(&place.released).extend(held.into_iter().map(|held| held.reply));
        let shared = Arc::clone(self);
        self.spawn(async move {
            // In the order in which they were released, whichever task comes first.
            let _turn = place.turn.lock().await;
            let replies = std::mem::take(&mut *lock(&place.released));
            shared.hand_back(replies.iter()).await;
            place.returning.end();
        });
    }

    /// Lets the server deliver messages again, in their order.
    pub(super) async fn hand_back(&self, replies: impl Iterator<Item = &Subject>) {
        let backs = replies.map(|reply| self.settle_delivery(reply, b"-NAK"));
        if let Some(Err(fault)) = join_in_order(backs).await.into_iter().find(Result::is_err) {
            let error = fault.of_channel(&"a queue", ChannelLimits::default());
            tracing::warn!(%error, "failed to hand messages of a queue back; the server delivers them again after ACK_WAIT");
        }
    }
}
