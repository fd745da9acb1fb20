//! A connection that a queue is consumed over.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{FutureExt, join_all};
use futures_util::stream::StreamExt;
use lapin::Consumer;
use lapin::options::{
    BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions, QueueBindOptions,
};
use lapin::types::FieldTable;
use tokio::time::{Instant, sleep_until};

use super::connection::{self, Connection};
use super::incoming::Incoming;
use super::queue_kind::{self, QueueKind};
use super::queues::{self, is_permanent};
use super::settle::DeliverySettler;
use super::source_context::SourceContext;
use super::source_link::{Received, SourceLink, Unbuffered};
use crate::backends::brokers::BrokerUrl;
use crate::source::Unsettled;
use crate::util::error::{BoxError, Chain};
use crate::util::sync::lock;

/// A connection that consumes, or is paused.
pub(super) struct SourceSession {
    pub(super) link: Arc<SourceLink>,
    consumer: Option<Consumer>,
    /// Messages that were prefetched before a pause, kept because returning them would count as an attempt.
    kept: VecDeque<Received>,
    /// The error that ended the consumer, reported after the remaining messages.
    ended: Option<BoxError>,
    /// The messages without memory for their bodies, returned one by one when there is space.
    unbuffered: VecDeque<Unbuffered>,
    /// When the last of them was returned, if it was not delivered again yet.
    handed_back: Option<Instant>,
}

/// After this time a returned message is taken to be at another consumer, or at the end of the queue.
const STRAYED: Duration = Duration::from_secs(1);

const REQUEUE: BasicNackOptions = BasicNackOptions { multiple: false, requeue: true };

/// Why a session could not be opened.
pub(super) struct SessionError {
    pub(super) error: BoxError,
    /// Whether the error is permanent.
    pub(super) is_permanent: bool,
}

impl SourceSession {
    /// Connects, and creates the queue and its bindings. It does not consume yet.
    pub(super) async fn open(context: &Arc<SourceContext>, url: &BrokerUrl) -> Result<Self, SessionError> {
        let room = context.subscription.prefetch_bytes;
        let connection = connection::open(&context.settings, context.tls.clone(), url, room).await;
        let connection =
            connection.map_err(|error| SessionError { is_permanent: is_permanent(&error), error })?;
        let subscription = &context.subscription;
        let queue = subscription.queue.as_str();
        if let Err(error) = queues::ensure_durable(&connection, queue, queues::arguments(subscription)).await
        {
            let cure = format!(
                "the queue {queue:?} cannot be used or created: check QUEUE and the configure permissions of this client"
            );
            return Err(refused(&cure, &error));
        }
        // Without an answer it is taken for a queue that does not count.
        let _ = context.kind.get_or_try_init(|| kind_of(&connection, queue)).await;
        let exchange = subscription.exchange.as_deref().unwrap_or_default();
        let opened = async {
            let channel =
                connection.new_channel().await.map_err(|error| refused("no channel", &error.into()))?;
            for pattern in &subscription.bindings {
                let options = QueueBindOptions::default();
                let bound = channel
                    .queue_bind(
                        queue.into(),
                        exchange.into(),
                        pattern.as_str().into(),
                        options,
                        FieldTable::default(),
                    )
                    .await;
                bound.map_err(|error| {
                    let cure = format!(
                        "{queue:?} cannot be bound to {exchange:?}: check EXCHANGE, which must exist, and that this \
                         client may write to the queue and read from the exchange"
                    );
                    refused(&cure, &error.into())
                })?;
            }
            let qos = channel.basic_qos(subscription.prefetch, BasicQosOptions::default()).await;
            qos.map_err(|error| refused("the broker rejects PREFETCH", &error.into()))?;
            Ok(channel)
        };
        let channel = opened.await?;
        *lock(&context.looking) = connection.new_channel().await.ok();
        let link = Arc::new(SourceLink::new(Arc::clone(context), url.clone(), connection, channel));
        let (kept, unbuffered) = (VecDeque::new(), VecDeque::new());
        Ok(Self { link, consumer: None, kept, ended: None, unbuffered, handed_back: None })
    }

    /// Begins to consume.
    pub(super) async fn consume(mut self) -> Result<Self, SessionError> {
        let queue = self.link.context.subscription.queue.as_str();
        let options = BasicConsumeOptions::default();
        let consumer =
            self.link.channel.basic_consume(queue.into(), "".into(), options, FieldTable::default());
        self.consumer = Some(consumer.await.map_err(|error| {
            let cure = format!(
                "{queue:?} cannot be consumed: check the read permissions of this client, and other consumers"
            );
            refused(&cure, &error.into())
        })?);
        Ok(self)
    }

    /// The next messages, at least one, or the error that ended the session. It may be dropped without loss.
    pub(super) async fn next(&mut self, limit: usize) -> Result<Vec<Received>, BoxError> {
        loop {
            if let Some(error) = self.ended.take() {
                return Err(error);
            }
            let mut kept = Vec::new();
            while kept.len() < limit
                && let Some(received) = self.kept.pop_front()
            {
                if !received.delivery.poisoned() {
                    kept.push(received);
                }
            }
            if !kept.is_empty() {
                return Ok(kept);
            }
            let Some(consumer) = &mut self.consumer else { return Err("the source does not consume".into()) };
            let findings = self.link.findings();
            if self.handed_back.is_some_and(|at| at.elapsed() >= STRAYED) {
                self.handed_back = None;
                findings.strayed();
            }
            if let Some(unbuffered) = self.unbuffered.front()
                && self.handed_back.is_none()
                && findings.has_room(unbuffered.bytes)
                && let Some(unbuffered) = self.unbuffered.pop_front()
            {
                self.handed_back = Some(Instant::now());
                findings.handed_back(unbuffered.bytes);
                // In a task, because this future may be dropped.
                tokio::spawn(async move { unbuffered.acker.nack(REQUEUE).await });
            }
            let strayed = self.handed_back.filter(|_| !self.unbuffered.is_empty()).map(|at| at + STRAYED);
            let mut deliveries = Vec::new();
            let mut next = tokio::select! {
                biased;
                item = consumer.next() => Some(item),
                () = findings.freed() => None,
                () = sleep_until(strayed.unwrap_or_else(Instant::now)), if strayed.is_some() => None,
            };
            while let Some(item) = next {
                match item {
                    Some(Ok(delivery)) => {
                        if delivery.redelivered {
                            self.handed_back = None;
                        }
                        match self.link.received(delivery) {
                            Ok(received) if received.delivery.poisoned() => {}
                            Ok(received) => deliveries.push(received),
                            Err(unbuffered) => {
                                let (queue, bytes) =
                                    (&self.link.context.subscription.queue, unbuffered.bytes);
                                if self.unbuffered.is_empty() {
                                    tracing::warn!(%queue, bytes, "PREFETCH_BYTES are used up; a message is delivered again once others are settled");
                                }
                                self.unbuffered.push_back(unbuffered);
                            }
                        }
                    }
                    Some(Err(error)) => self.ended = Some(error.into()),
                    None => {
                        self.ended = Some("the broker cancelled the consumer: was the queue deleted?".into())
                    }
                }
                let go_on = self.ended.is_none() && deliveries.len() < limit;
                next = if go_on { consumer.next().now_or_never() } else { None };
            }
            if !deliveries.is_empty() {
                return Ok(deliveries);
            }
        }
    }

    /// Stops consuming, and returns the prefetched messages. A quorum queue would count that as a failed delivery:
    /// its messages are kept, up to `prefetch`, and delivered first after the pause.
    pub(super) async fn pause(self) -> Result<Self, SessionError> {
        let lost = |error| SessionError { error, is_permanent: false };
        let Self { link, consumer, mut kept, ended, mut unbuffered, handed_back } = self;
        if let Some(error) = ended {
            return Err(lost(error));
        }
        if let Some(mut consumer) = consumer {
            let cancelled = link.channel.basic_cancel(consumer.tag(), BasicCancelOptions::default()).await;
            cancelled.map_err(|error| lost(error.into()))?;
            let mut left = Vec::new();
            while let Some(delivery) = consumer.next().await {
                match link.received(delivery.map_err(|error| lost(error.into()))?) {
                    Ok(received) => left.push(received),
                    Err(without_room) => unbuffered.push_back(without_room),
                }
            }
            let most =
                if link.context.is_quorum() { usize::from(link.context.subscription.prefetch) } else { 0 };
            let room = most.saturating_sub(kept.len());
            kept.extend(left.drain(..room.min(left.len())));
            let room = most.saturating_sub(kept.len());
            let without_room = unbuffered.split_off(room.min(unbuffered.len()));
            link.findings().let_go(without_room.len());
            let mut ackers: Vec<_> = without_room.into_iter().map(|unbuffered| unbuffered.acker).collect();
            ackers.extend(left.iter().map(|received| received.delivery.acker.clone()));
            for handed_back in join_all(ackers.iter().map(|acker| acker.nack(REQUEUE))).await {
                handed_back.map_err(|error| lost(error.into()))?;
            }
        }
        Ok(Self { link, consumer: None, kept, ended: None, unbuffered, handed_back })
    }
}

/// The kind of the queue. Warns of a delivery limit without a dead-letter exchange.
async fn kind_of(connection: &Connection, queue: &str) -> Result<Option<QueueKind>, BoxError> {
    let kind = queue_kind::queue_kind(connection, queue).await?;
    if let Some(QueueKind { is_quorum: true, delivery_limit: Some(limit), dead_letters: None, .. }) = &kind {
        tracing::warn!(
            queue,
            %limit,
            "the queue has a delivery limit and no dead-letter exchange: unless a policy sets one, RabbitMQ drops each \
             message that was delivered more often and not acknowledged; give the queue an x-dead-letter-exchange"
        );
    }
    Ok(kind)
}

/// The error of a session, with the cure if the broker rejected it.
fn refused(cure: &str, error: &BoxError) -> SessionError {
    let text = format!("{cure} ({})", Chain(error.as_ref()));
    SessionError { error: text.into(), is_permanent: is_permanent(error) }
}

/// The unsettled message of a delivery.
pub(super) fn unsettled(context: &SourceContext, link: &Arc<SourceLink>, received: Received) -> Unsettled {
    let Received { delivery: raw, fault, came_back, held, arrived } = received;
    let redelivered = raw.redelivered;
    let (mut incoming, acker) = Incoming::new(raw, &context.subscription.queue);
    incoming.unanswered = match context.is_quorum() {
        true if redelivered => incoming.delivery_count().saturating_sub(came_back.into()),
        true => 0,
        false => context.attempts.of(&incoming),
    };
    let prefix = context.settings.broker.topic_prefix.as_deref();
    let message = match fault {
        Some(fault) => Err(fault.into()),
        None => incoming.decode(context.dialect, prefix, &context.subscription.queue),
    };
    let message = message.and_then(|message| context.settings.broker.envelope.open(message));
    let (failed, failures) = (incoming.failed(), incoming.failures());
    let reply_to = incoming.reply_to(arrived);
    let unanswered = |id| DeliverySettler { link: Arc::clone(link), acker, incoming, id, _held: held };
    match message {
        Ok(message) => {
            let settle = unanswered(Some(message.id()));
            let attempt = failed.saturating_add(1);
            let unsettled =
                Unsettled::new(message, attempt, redelivered, Arc::clone(&context.name), failures, settle)
                    .with_event(context.settings.broker.envelope.is_event());
            match reply_to {
                Some(reply_to) => unsettled.with_reply_to(reply_to),
                None => unsettled,
            }
        }
        Err(error) => Unsettled::poison(Chain(error.as_ref()).to_string(), unanswered(None)),
    }
}
