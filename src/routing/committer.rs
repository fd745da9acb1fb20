//! The one task that changes a router: it collects what was asked meanwhile, writes it at once, and applies it.

use std::borrow::Cow;
use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use super::command::{Command, Publisher, Reply};
use super::error::RouteError;
use super::message::RoutedMessage;
use super::namespace::Namespace;
use super::record::{MessageRecord, Progress, QueueHeader, QueueId, QueueRecord, Record};
use super::rewrite;
use super::router_shared::RouterShared;
use super::router_state::RouterState;
use super::uri::Uri;
use crate::telemetry;
use crate::util::error::BoxError;
use crate::util::sync::lock;

/// The time between two looks at what is to be written besides.
const TICK: Duration = Duration::from_millis(100);
/// The time between two looks at expired queues and at old segments.
const TIDY: Duration = Duration::from_secs(1);
/// The largest number of commands that are written at once.
const BATCH: usize = 1_024;
/// The size of the newest messages that stay in memory, and of those that may wait for a write.
const CACHE: usize = 16 << 20;

/// The change that is applied when its record is written.
enum Applied {
    Message(NewMessage, Option<Publisher>),
    Queue(Box<QueueRecord>, u64, Reply<QueueId>),
    Removed(QueueId, Option<Reply<()>>),
    /// The record only repeats what is already so.
    Progress(QueueId),
}

/// A message that is about to be stored.
struct NewMessage {
    seq: u64,
    queues: Vec<QueueId>,
    /// Set for a last value.
    value_of: Option<(Namespace, Uri)>,
    encoded: Bytes,
}

pub(super) struct Committer {
    router: Weak<RouterShared>,
    /// Commands that must wait for the next write.
    deferred: Vec<Command>,
    /// The messages in memory, oldest first, and the sum of their sizes.
    cached: VecDeque<(u64, usize)>,
    cached_bytes: usize,
    /// With a flush interval: the messages that are not written yet.
    unwritten: Vec<NewMessage>,
    unwritten_bytes: usize,
    flushed: Instant,
    tidied: Instant,
    /// The time of the newest message in nanoseconds since 1970. No two messages have the same.
    stamp: i64,
}

impl Committer {
    pub(super) fn new(router: &Arc<RouterShared>) -> Self {
        Self {
            router: Arc::downgrade(router),
            deferred: Vec::new(),
            cached: VecDeque::new(),
            cached_bytes: 0,
            unwritten: Vec::new(),
            unwritten_bytes: 0,
            flushed: Instant::now(),
            tidied: Instant::now(),
            stamp: 0,
        }
    }

    /// Runs until the router is closed, or its last handle is dropped.
    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let mut batch = std::mem::take(&mut self.deferred);
            if batch.is_empty() {
                tokio::select! {
                    received = commands.recv_many(&mut batch, BATCH) => if received == 0 { return },
                    _ = tick.tick() => {}
                }
            }
            let Some(router) = self.router.upgrade() else { return };
            let closing = batch.iter().position(|command| matches!(command, Command::Close { .. }));
            let closing = closing.map(|at| batch.split_off(at));
            self.commit(&router, batch).await;
            if let Some(closing) = closing {
                commands.close();
                self.flush(&router).await;
                self.write_progress(&router).await;
                for command in closing {
                    if let Command::Close { reply } = command {
                        let _ = reply.send(());
                    }
                }
                return;
            }
            self.tend(&router).await;
        }
    }

    /// Does what is due besides.
    async fn tend(&mut self, router: &RouterShared) {
        let interval = router.settings.flush_interval.unwrap_or(TICK);
        if self.flushed.elapsed() >= interval || self.unwritten_bytes > CACHE {
            self.flushed = Instant::now();
            self.flush(router).await;
            self.write_progress(router).await;
        }
        if self.tidied.elapsed() >= TIDY {
            self.tidied = Instant::now();
            let expired = lock(&router.state).expired(SystemTime::now());
            let expired = expired.into_iter().map(|queue| Command::Remove { queue, reply: None });
            self.commit(router, expired.collect()).await;
            rewrite::oldest_segment(router).await;
        }
    }

    /// Writes what was asked, and applies it.
    async fn commit(&mut self, router: &RouterShared, commands: Vec<Command>) {
        let mut batch = Batch::default();
        {
            let mut state = lock(&router.state);
            // The numbers in these records count the messages that are applied; so they come before new messages.
            if router.settings.flush_interval.is_none() && !commands.is_empty() {
                batch.push_progress(&mut state);
            }
            let is_message = |command: &Command| matches!(command, Command::Publish { .. });
            let (messages, others): (Vec<_>, Vec<_>) = commands.into_iter().partition(is_message);
            let mut named = HashSet::new();
            for command in others.into_iter().chain(messages) {
                match command {
                    Command::Publish { messages, queue } => {
                        for (message, publisher) in messages {
                            self.publish(router, &mut state, &mut batch, message, queue, publisher);
                        }
                    }
                    Command::Subscribe { header, subscriber, reply } if named.insert(header.name.clone()) => {
                        subscribe(router, &mut state, &mut batch, header, subscriber, reply);
                    }
                    again @ Command::Subscribe { .. } => self.deferred.push(again),
                    Command::Remove { queue, reply } => {
                        batch.push(Record::Removed(queue).encode(), Applied::Removed(queue, reply));
                    }
                    Command::Close { .. } => {}
                }
            }
        }
        self.append(router, batch).await;
    }

    fn publish(
        &mut self,
        router: &RouterShared,
        state: &mut RouterState,
        batch: &mut Batch,
        mut message: RoutedMessage,
        queue: Option<QueueId>,
        publisher: Publisher,
    ) {
        self.stamp = now_nanos().max(self.stamp.saturating_add(1));
        message.timestamps.push(self.stamp);
        let is_value = queue.is_none() && message.persist && router.keeps_values(&message.namespace);
        let queues = queue.map_or_else(|| state.route(&message), |queue| vec![queue]);
        if queues.is_empty() && !is_value {
            return publisher.answer(Ok(()));
        }
        let encoded = match message.encode() {
            Ok(encoded) => Bytes::from(encoded),
            Err(error) => return publisher.answer(Err(RouteError::Storage(error.to_string().into()))),
        };
        let value_of = is_value.then_some((message.namespace, message.uri));
        let message = NewMessage { seq: state.next_message(), queues, value_of, encoded };
        if router.settings.flush_interval.is_none() {
            batch.push(message.record().encode(), Applied::Message(message, Some(publisher)));
        } else if self.unwritten_bytes > 4 * CACHE {
            let full = "too many messages wait for the disk".into();
            publisher.answer(Err(RouteError::Storage(full)));
        } else {
            self.unwritten_bytes += message.encoded.len();
            message.store(router, state, None);
            self.unwritten.push(message);
            publisher.answer(Ok(()));
        }
    }

    /// Writes what left the queues.
    async fn write_progress(&mut self, router: &RouterShared) {
        let mut batch = Batch::default();
        batch.push_progress(&mut lock(&router.state));
        self.append(router, batch).await;
    }

    /// With a flush interval: writes the messages that are still needed.
    async fn flush(&mut self, router: &RouterShared) {
        let (unwritten, mut batch) = (std::mem::take(&mut self.unwritten), Batch::default());
        {
            let state = lock(&router.state);
            for mut message in unwritten {
                let seq = message.seq;
                if state.message(seq).is_none() {
                    continue;
                }
                message.queues.retain(|id| state.queue(*id).is_some_and(|queue| queue.contains(seq)));
                batch.push(message.record().encode(), Applied::Message(message, None));
            }
        }
        self.unwritten_bytes = 0;
        self.append(router, batch).await;
    }

    async fn append(&mut self, router: &RouterShared, batch: Batch) {
        let Batch { records, applied } = batch;
        if records.is_empty() {
            return;
        }
        let positions = match router.log.append(&records).await {
            Ok(positions) => positions,
            Err(error) => return self.refuse(router, applied, &error.to_string().into()),
        };
        let mut state = lock(&router.state);
        for (position, applied) in positions.zip(applied) {
            match applied {
                Applied::Message(message, publisher) => {
                    match publisher {
                        Some(publisher) => {
                            message.store(router, &mut state, Some(position));
                            publisher.answer(Ok(()));
                        }
                        None => {
                            if let Some(stored) = state.message_mut(message.seq) {
                                stored.position = Some(position);
                            }
                        }
                    }
                    self.cached.push_back((message.seq, message.encoded.len()));
                    self.cached_bytes += message.encoded.len();
                }
                Applied::Queue(record, subscriber, reply) => {
                    let id = record.progress.queue;
                    state.set_queue(&record);
                    router.subscriptions_changed.notify_waiters();
                    if let Some(queue) = state.queue_mut(id) {
                        queue.subscribe(subscriber);
                    }
                    state.mark_dirty(id);
                    // Nobody will use the queue.
                    if reply.send(Ok(id)).is_err()
                        && let Some(queue) = state.queue_mut(id)
                    {
                        queue.unsubscribe(subscriber);
                    }
                }
                Applied::Removed(id, reply) => {
                    let messages = state.remove_queue(id);
                    router.subscriptions_changed.notify_waiters();
                    router.counters.dropped.add(messages);
                    telemetry::routing_dropped("removed", messages);
                    tracing::info!(queue = id, messages, "removed a queue; its messages are dropped");
                    if let Some(reply) = reply {
                        let _ = reply.send(Ok(()));
                    }
                }
                Applied::Progress(_) => {}
            }
        }
        while self.cached_bytes > CACHE {
            let Some((seq, bytes)) = self.cached.pop_front() else { break };
            self.cached_bytes -= bytes;
            if let Some(stored) = state.message_mut(seq).filter(|stored| stored.position.is_some()) {
                stored.cached = None;
            }
        }
    }

    /// Answers that nothing was written.
    fn refuse(&mut self, router: &RouterShared, applied: Vec<Applied>, error: &Arc<str>) {
        let failure = || RouteError::Storage(Arc::clone(error));
        for applied in applied {
            match applied {
                Applied::Message(_, Some(publisher)) => publisher.answer(Err(failure())),
                Applied::Removed(_, Some(reply)) => drop(reply.send(Err(failure()))),
                Applied::Message(message, None) => {
                    self.unwritten_bytes += message.encoded.len();
                    self.unwritten.push(message);
                }
                Applied::Queue(_, _, reply) => drop(reply.send(Err(failure()))),
                Applied::Removed(_, None) => {}
                Applied::Progress(queue) => lock(&router.state).mark_dirty(queue),
            }
        }
    }
}

/// Opens a queue, or resumes one.
fn subscribe(
    router: &RouterShared,
    state: &mut RouterState,
    batch: &mut Batch,
    header: QueueHeader,
    subscriber: u64,
    reply: Reply<QueueId>,
) {
    let former = state.named(&header.name);
    let is_expired = |id: &QueueId| state.queue(*id).is_some_and(|queue| queue.is_expired(SystemTime::now()));
    let expired = former.filter(is_expired);
    if let Some(id) = expired {
        batch.push(Record::Removed(id).encode(), Applied::Removed(id, None));
    }
    let resumed = former.filter(|_| expired.is_none()).and_then(|id| state.queue_record(id));
    let most = router.settings.max_queues;
    if resumed.is_none() && state.queue_count() >= most {
        let full = format!("the router has {most} queues already; remove some, or raise the limit");
        return drop(reply.send(Err(RouteError::SubscriptionFailed(full.into()))));
    }
    let progress = match resumed {
        Some(record) => record.progress,
        None => {
            Progress { queue: state.next_queue(), floor: state.last_message() + 1, ..Progress::default() }
        }
    };
    let record = QueueRecord { header, progress };
    let applied = Applied::Queue(Box::new(record.clone()), subscriber, reply);
    batch.push(Record::Queue(record).encode(), applied);
}

impl NewMessage {
    fn record(&self) -> Record<'_> {
        Record::Message(MessageRecord {
            seq: self.seq,
            queues: Cow::Borrowed(&self.queues),
            is_value: self.value_of.is_some(),
            message: Cow::Borrowed(&self.encoded),
        })
    }

    fn store(&self, router: &RouterShared, state: &mut RouterState, position: Option<u64>) {
        let bytes = u32::try_from(self.encoded.len()).unwrap_or(u32::MAX);
        let value_of = self.value_of.as_ref().map(|(namespace, uri)| (namespace, uri));
        let stored = (position, Some(self.encoded.clone()), bytes);
        let change = state.store(self.seq, &self.queues, value_of, stored, true);
        router.counters.enqueued.add(change.enqueued);
        router.counters.persisted.add(usize::from(value_of.is_some()));
        if change.dropped > 0 {
            router.counters.dropped.add(change.dropped);
            telemetry::routing_dropped("limit", change.dropped);
            tracing::debug!(messages = change.dropped, "dropped the oldest messages of full queues");
        }
    }
}

/// The records of a batch, and what is applied when they are written.
#[derive(Default)]
struct Batch {
    records: Vec<Vec<u8>>,
    applied: Vec<Applied>,
}

impl Batch {
    fn push(&mut self, record: Result<Vec<u8>, BoxError>, applied: Applied) {
        match record {
            Ok(record) => {
                self.records.push(record);
                self.applied.push(applied);
            }
            Err(error) => tracing::error!(%error, "a record cannot be encoded; it is not written"),
        }
    }

    /// Adds what left the queues.
    fn push_progress(&mut self, state: &mut RouterState) {
        for progress in state.take_progress() {
            let queue = progress.queue;
            self.push(Record::Progress(progress).encode(), Applied::Progress(queue));
        }
    }
}

fn now_nanos() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
