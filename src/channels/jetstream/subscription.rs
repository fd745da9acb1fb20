//! A subscription of a stream.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::Subject;
use async_trait::async_trait;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::consumer::Consumer;
use super::error::Fault;
use super::in_use::{ChannelInUse, Use};
use super::lease::Lease;
use super::outstanding::Outstanding;
use super::parts::EngineParts;
use super::pull::{LONGEST, Pulled, Puller};
use super::sharing::Sharing;
use super::wire;
use crate::channels::error::EngineError;
use crate::channels::info::{ChannelKind, ChannelLimits};
use crate::channels::stream::StreamSubscription;
use crate::channels::stream_types::{Start, StreamMessage};
use crate::util::in_order::join_in_order;
use crate::util::sync::lock;

/// The most messages that are received and not acknowledged.
const MOST: usize = 1_024;
/// The pause before a stream is looked for again that was deleted, or has no leader.
const PAUSE: Duration = Duration::from_millis(200);

/// A subscription.
pub(super) struct Subscription {
    inner: Arc<Inner>,
    lease: Mutex<Option<Lease>>,
    _use: Use,
}

struct Inner {
    shared: Arc<EngineParts>,
    place: Mutex<Arc<ChannelInUse>>,
    consumer: Consumer,
    sharing: Arc<Sharing>,
    outstanding: Arc<Outstanding>,
    /// Cancelled when the subscription is dropped, or the engine closed.
    ended: CancellationToken,
    puller: Arc<tokio::sync::Mutex<Option<Puller>>>,
    /// The messages that were delivered and not received, in order. Only who has the puller adds to them.
    ready: Mutex<VecDeque<Pulled>>,
    /// The last sequence that was delivered here.
    last: AtomicU64,
}

impl Subscription {
    pub(super) fn new(
        shared: Arc<EngineParts>,
        place: Arc<ChannelInUse>,
        consumer: Consumer,
        sharing: Arc<Sharing>,
        outstanding: Arc<Outstanding>,
        lease: Option<Lease>,
    ) -> Self {
        let used = place.used();
        let (place, puller, ready) = (Mutex::new(place), Arc::default(), Mutex::default());
        let (ended, last) = (shared.closing.child_token(), AtomicU64::new(0));
        let inner =
            Arc::new(Inner { shared, place, consumer, sharing, outstanding, ended, puller, ready, last });
        Self { inner, lease: Mutex::new(lease), _use: used }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let inner = Arc::clone(&self.inner);
        let lease = lock(&self.lease).take();
        inner.ended.cancel();
        inner.sharing.returning.begin();
        self.inner.shared.spawn(async move {
            let place = inner.place();
            if inner.consumer.is_own {
                inner.shared.delete_consumer(&place.stream, &inner.consumer.name).await;
            } else {
                // With what was on its way.
                let _puller = inner.puller.lock().await;
                let mut outstanding: Vec<(u64, Subject)> =
                    lock(&inner.outstanding.messages).drain().collect();
                outstanding.sort_unstable_by_key(|(sequence, _)| *sequence);
                let backs = outstanding.iter().map(|(_, reply)| inner.shared.settle_delivery(reply, b"-NAK"));
                join_in_order(backs).await;
            }
            inner.sharing.returning.end();
        });
        // A new subscriber of the name waits for what comes back.
        drop(lease);
    }
}

impl Inner {
    fn place(&self) -> Arc<ChannelInUse> {
        Arc::clone(&lock(&self.place))
    }

    /// Gets messages ready until there are some, or it is cancelled.
    async fn fill(
        &self,
        puller: &mut Option<Puller>,
        max: usize,
        cancel: &CancellationToken,
    ) -> Result<(), EngineError> {
        // A request that waits goes on for the next receive, unless its message could go to another member meanwhile.
        let stop = if self.consumer.is_group { cancel } else { &self.ended };
        let mut failing = None::<Instant>;
        loop {
            let room = tokio::select! {
                biased;
                () = cancel.cancelled() => return Ok(()),
                room = self.room() => room,
            };
            match self.pull(puller, max.max(1).min(room), stop).await {
                Ok(()) if !lock(&self.ready).is_empty() => return Ok(()),
                Ok(()) => failing = None,
                Err(fault) => {
                    let since = *failing.get_or_insert_with(Instant::now);
                    let is_lasting = since.elapsed() >= self.shared.settings.broker.send_timeout();
                    if !fault.is_transient() && !fault.is_missing() || is_lasting {
                        let place = self.place();
                        return Err(fault.of_channel(&format_args!("stream {}", place.name), place.limits()));
                    }
                    if self.renew().await? {
                        failing = None;
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Waits for room; returns how many messages may come.
    async fn room(&self) -> usize {
        loop {
            let room = MOST.saturating_sub(lock(&self.outstanding.messages).len());
            if room > 0 {
                return room;
            }
            self.outstanding.freed.notified().await;
        }
    }

    async fn pull(
        &self,
        kept: &mut Option<Puller>,
        max: usize,
        stop: &CancellationToken,
    ) -> Result<(), Fault> {
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            () = self.sharing.returning.done() => {}
        }
        let connection = &self.shared.connection;
        let mut puller = match kept.take().filter(|puller| puller.is_of(connection)) {
            Some(puller) => puller,
            None => Puller::open(connection, &self.place().stream, &self.consumer.name).await?,
        };
        let mut pulled = puller.pull(connection, max, None, stop).await;
        if pulled.as_ref().is_ok_and(Vec::is_empty) && !stop.is_cancelled() && puller.is_clean() {
            pulled = puller.pull(connection, 1, Some(LONGEST), stop).await;
            if let Ok(first) = &mut pulled
                && !first.is_empty()
                && max > 1
                && !stop.is_cancelled()
                && let Ok(more) = puller.pull(connection, max - 1, None, stop).await
            {
                first.extend(more);
            }
        }
        let mut rest = Vec::new();
        if puller.is_clean() {
            *kept = Some(puller);
        } else {
            rest = puller.stop(connection).await;
        }
        let fault = match pulled {
            Ok(pulled) => {
                rest.extend(pulled);
                None
            }
            Err(fault) => Some(fault),
        };
        rest.sort_by_key(|one| one.sequence);
        for one in rest {
            // Delivered again while it is here: the server has not heard of it for ACK_WAIT.
            match lock(&self.outstanding.messages).insert(one.sequence, one.reply.clone()) {
                Some(_) => {}
                None => lock(&self.ready).push_back(one),
            }
        }
        fault.map_or(Ok(()), Err)
    }

    /// Takes messages that are ready.
    fn take_ready(&self, max: usize) -> Vec<StreamMessage> {
        let mut ready = lock(&self.ready);
        let count = max.max(1).min(ready.len());
        let (place, uncounted) = (self.place(), lock(&self.sharing.uncounted));
        let take = |one: Pulled| {
            self.last.fetch_max(one.sequence, Ordering::AcqRel);
            let uncounted = uncounted.get(&one.sequence).copied().unwrap_or_default();
            let attempt = u32::try_from(one.delivered.saturating_sub(uncounted).max(1)).unwrap_or(u32::MAX);
            let content = wire::read_content(one.message.headers.as_ref(), one.message.payload);
            place.count_out(content.size());
            StreamMessage::new(content, one.sequence, wire::time(one.time), attempt)
        };
        ready.drain(..count).map(take).collect()
    }

    /// Finds the stream again, and creates the consumer if it has gone; returns whether it is there.
    async fn renew(&self) -> Result<bool, EngineError> {
        let place = self.place();
        let info = self.shared.open_stream(ChannelKind::Stream, &place.name, None).await;
        let Ok(Some(info)) = info else { return Ok(matches!(info, Ok(None))) };
        let is_new = info.created != place.created;
        if is_new {
            self.shared.forget(ChannelKind::Stream, &place.name);
            lock(&self.outstanding.messages).clear();
            lock(&self.ready).clear();
            self.last.store(0, Ordering::Release);
        }
        let place = self.shared.stream(&place.name).await?;
        *lock(&self.place) = Arc::clone(&place);
        let last = self.last.load(Ordering::Acquire);
        let first = lock(&self.outstanding.messages).keys().min().copied();
        let start = match (is_new, first, last) {
            (true, ..) => Start::First,
            (false, Some(first), _) => Start::Sequence(first),
            (false, None, 0) => Start::NewOnly,
            (false, None, last) => Start::Sequence(last + 1),
        };
        let opened = self.shared.open_consumer(&place, &self.consumer, start).await;
        if let Err(fault) = &opened {
            tracing::debug!(stream = %place.name, ?fault, "a consumer cannot be created again now");
        }
        Ok(opened.is_ok())
    }

    /// Settles a delivery in a task of its own.
    fn settle_in_task(
        self: &Arc<Self>,
        reply: Subject,
        kind: &'static [u8],
    ) -> oneshot::Receiver<Result<(), Fault>> {
        let (sender, settled) = oneshot::channel();
        let inner = Arc::clone(self);
        self.shared.spawn(async move {
            let _ = sender.send(inner.shared.settle_delivery(&reply, kind).await);
        });
        settled
    }
}

#[async_trait]
impl StreamSubscription for Subscription {
    async fn receive(&self, max: usize) -> Result<Vec<StreamMessage>, EngineError> {
        loop {
            self.inner.shared.check_open()?;
            let messages = self.inner.take_ready(max);
            if !messages.is_empty() {
                return Ok(messages);
            }
            let mut puller = Arc::clone(&self.inner.puller).lock_owned().await;
            if !lock(&self.inner.ready).is_empty() {
                // Of a receive that was dropped.
                continue;
            }
            let cancel = self.inner.ended.child_token();
            let _cancel = cancel.clone().drop_guard();
            let (sender, filled) = oneshot::channel();
            let inner = Arc::clone(&self.inner);
            self.inner.shared.spawn(async move {
                let filled = inner.fill(&mut puller, max, &cancel).await;
                drop(puller);
                let _ = sender.send(filled);
            });
            filled.await.map_err(|_| EngineError::Closed)??;
        }
    }

    async fn ack(&self, sequence: u64) -> Result<(), EngineError> {
        let Some(reply) = self.inner.outstanding.take(sequence) else { return Ok(()) };
        lock(&self.inner.sharing.uncounted).remove(&sequence);
        let settled = self.inner.settle_in_task(reply, b"+ACK").await;
        let place = self.inner.place();
        settled.map_err(|_| EngineError::Closed)?.map_err(|fault| {
            fault.of_channel(&format_args!("stream {}", place.name), ChannelLimits::default())
        })
    }

    fn ack_soon(&self, sequence: u64) {
        let Some(reply) = self.inner.outstanding.take(sequence) else { return };
        lock(&self.inner.sharing.uncounted).remove(&sequence);
        drop(self.inner.settle_in_task(reply, b"+ACK"));
    }

    fn release(&self, sequence: u64, after: Duration, counts: bool) {
        let Some(reply) = self.inner.outstanding.take(sequence) else { return };
        if !counts {
            *lock(&self.inner.sharing.uncounted).entry(sequence).or_default() += 1;
        }
        let inner = Arc::clone(&self.inner);
        self.inner.sharing.returning.begin();
        self.inner.shared.spawn(async move {
            let nak = format!("-NAK {{\"delay\": {}}}", wire::nanos(after));
            let released = inner.shared.settle_with(&reply, nak.into()).await;
            if let Err(fault) = released {
                tracing::warn!(
                    sequence,
                    ?fault,
                    "failed to release a message of a stream; it comes again after ACK_WAIT"
                );
            }
            inner.sharing.returning.end();
        });
    }
}
