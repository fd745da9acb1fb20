//! The task behind a source: reads the partitions of the group that are assigned to this process.

use std::collections::{HashMap, HashSet};
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use krafka::consumer::{AutoOffsetReset, Consumer, IsolationLevel, PartitionAssignmentStrategy};
use krafka::{CloseOptions, ConsumerRecord, KrafkaError};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::client;
use super::failure::{Damage, open_failure, shown, undecodable};
use super::incoming::shorten;
use super::letter::{Arrival, Earlier, Partition};
use super::revoking::{Revoking, commit};
use super::source_context::{SourceContext, create};
use super::unreadable::{Passed, Step, Unreadable};
use crate::backends::brokers::{Demand, Pauses};
use crate::messenger::Failure;
use crate::util::sync::lock;

/// How long a request for messages waits for them.
const FETCH_WAIT: Duration = Duration::from_millis(500);
/// How long one look for messages takes, and one while all partitions are paused.
const POLL: Duration = Duration::from_secs(1);
const PAUSED_POLL: Duration = Duration::from_millis(200);
/// After so many failures in a row the group is joined again.
const MAX_FAILURES: u32 = 10;
/// How long the brokers may take when the group is left.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(12);

/// Fills the inbox while the source is wanted.
pub(super) struct SourceWorker {
    pub(super) context: Arc<SourceContext>,
    pub(super) demand: watch::Receiver<Demand>,
}

/// A membership in the group.
struct Membership {
    consumer: Arc<Consumer>,
    paused: HashSet<Partition>,
    unreadable: Unreadable,
    _committing: AbortOnDropHandle<()>,
}

impl SourceWorker {
    /// Runs until the source is closed or dropped.
    pub(super) async fn run(mut self) {
        let inbox = Arc::clone(&self.context.inbox);
        let _waits = AbortOnDropHandle::new(tokio::spawn(async move { inbox.end_waits().await }));
        let mut pauses = Pauses::default();
        while Demand::is_wanted(&mut self.demand).await {
            let opened = tokio::select! {
                opened = self.join() => opened,
                () = closed(self.demand.clone()) => break,
            };
            let failure = match opened {
                Ok(membership) => {
                    let begun = Instant::now();
                    let failure = self.serve(membership).await;
                    if pauses.lasted(begun.elapsed()) {
                        self.context.unreachable.over();
                    }
                    let Some(failure) = failure else { continue };
                    failure
                }
                Err(failure) => failure,
            };
            if let Some(line) = self.context.unreachable.occurred() {
                let source = &self.context.reader.source;
                tracing::warn!(%source, %failure, times = line.times, "failed to receive; joining the group again");
            }
            if !failure.is_transient() {
                self.context.inbox.set_error(Some(failure.clone()));
            }
            pauses.after(&failure, &mut self.demand).await;
        }
        self.context.settlements.close();
        let limit = self.context.settings.broker.send_timeout();
        let _ = timeout(limit, self.context.settlements.wait()).await;
        self.context.close_sender().await;
    }

    async fn join(&self) -> Result<Membership, Failure> {
        let SourceContext { settings, cluster, subscription, .. } = &*self.context;
        let idle = settings.broker.idle_timeout;
        let client = client::open(settings, cluster, idle).await?;
        let mut names = subscription.names(settings);
        names.extend(subscription.retry_names(settings));
        if settings.auto_create_topics {
            create(&client, names.iter().map(String::as_str), settings.request_timeout()).await;
        }
        let known = Arc::<OnceLock<Weak<Consumer>>>::default();
        let revoking = Revoking { context: Arc::clone(&self.context), consumer: Arc::clone(&known) };
        let limits = &self.context.inbox.limits;
        let bytes = i32::try_from(subscription.prefetch_bytes).unwrap_or(i32::MAX);
        let reset = if subscription.only_new { AutoOffsetReset::Latest } else { AutoOffsetReset::Earliest };
        let consumer = client
            .consumer(&subscription.group)
            .auto_offset_reset(reset)
            .enable_auto_commit(false)
            .isolation_level(IsolationLevel::ReadCommitted)
            .fetch_max_wait(FETCH_WAIT.min(idle / 2))
            .fetch_max_bytes(bytes)
            .max_partition_fetch_bytes(bytes.min(1 << 20))
            .max_poll_records(i32::try_from(limits.batch()).unwrap_or(i32::MAX))
            .max_buffered_records(i32::try_from(limits.buffered()).unwrap_or(i32::MAX))
            .session_timeout(subscription.session_timeout)
            // It is polled all the time; the brokers wait so long for a member that does not join again.
            .max_poll_interval(subscription.session_timeout.max(Duration::from_secs(30)))
            .heartbeat_interval(Duration::from_secs(3).min(subscription.session_timeout / 3))
            .partition_assignment_strategies(vec![
                PartitionAssignmentStrategy::CooperativeSticky,
                PartitionAssignmentStrategy::Range,
            ])
            .rebalance_listener(revoking)
            .metrics_push(false)
            .build()
            .await
            .map_err(|error| open_failure(&error))?;
        let consumer = Arc::new(consumer);
        let _ = known.set(Arc::downgrade(&consumer));
        consumer.subscribe(&names).await.map_err(|error| receive_failure(&error))?;
        self.context.is_assigned.store(false, Ordering::Release);
        *lock(&self.context.member) = Arc::downgrade(&consumer);
        let committing = AbortOnDropHandle::new(tokio::spawn(committing(
            Arc::clone(&self.context),
            Arc::downgrade(&consumer),
        )));
        tracing::info!(source = %self.context.reader.source, "receiving");
        Ok(Membership {
            consumer,
            paused: HashSet::new(),
            unreadable: Unreadable::default(),
            _committing: committing,
        })
    }

    /// Receives until the source is closed, or the group must be joined again.
    async fn serve(&mut self, mut membership: Membership) -> Option<Failure> {
        let (mut pauses, mut failures) = (Pauses::default(), 0);
        let context = Arc::clone(&self.context);
        let failure = loop {
            let demand = *self.demand.borrow_and_update();
            if demand == Demand::Close || self.demand.has_changed().is_err() {
                break None;
            }
            let is_full = demand == Demand::Pause || !context.inbox.has_room();
            let is_paused = membership.pause(&context, is_full).await;
            let rests = membership.unreadable.resting().next().is_some();
            let limit = if is_paused || rests { PAUSED_POLL } else { POLL };
            // A poll is woken, never dropped: it may be applying an assignment, which would be lost.
            let consumer = Arc::clone(&membership.consumer);
            let mut polling = pin!(consumer.poll(limit));
            let polled = tokio::select! {
                polled = &mut polling => polled,
                () = wanted(&mut self.demand, &context, is_paused) => {
                    consumer.wakeup();
                    polling.await
                }
            };
            match polled {
                Err(KrafkaError::Wakeup) => {}
                Ok(records) => {
                    failures = 0;
                    context.inbox.set_error(None);
                    self.arrived(&mut membership, records).await;
                }
                Err(error) => {
                    if let Some(damage) = undecodable(&error) {
                        self.pass(&mut membership, &damage).await;
                        continue;
                    }
                    let failure = receive_failure(&error);
                    failures += 1;
                    if !failure.is_transient() || error.is_fatal() || failures >= MAX_FAILURES {
                        break Some(failure);
                    }
                    if let Some(line) = context.unreachable.occurred() {
                        let source = &context.reader.source;
                        tracing::warn!(%source, %failure, times = line.times, "failed to receive; retrying");
                    }
                    pauses.after(&failure, &mut self.demand).await;
                }
            }
        };
        // It settles what can be settled, and leaves the group.
        let closing = membership.consumer.close_with(CloseOptions::new().timeout(CLOSE_TIMEOUT));
        if let Err(error) = closing.await {
            tracing::debug!(source = %context.reader.source, %error, "could not leave the group");
        }
        context.inbox.remove(&context.inbox.partitions());
        failure
    }

    async fn arrived(&self, membership: &mut Membership, records: Vec<ConsumerRecord>) {
        let (reader, inbox) = (&self.context.reader, &self.context.inbox);
        let records = membership.without_those_beyond(records).await;
        let mut arrivals = Vec::with_capacity(records.len());
        for mut record in records {
            let fault = shorten(&mut record).map(Into::into);
            if fault.is_none() && reader.is_of_others(&record) {
                inbox.push(arrivals.drain(..));
                inbox.pass(&record);
                continue;
            }
            let earlier = reader.earlier(&record);
            arrivals.push(Arrival::new(record, fault, earlier));
        }
        inbox.push(arrivals);
    }

    /// Goes past a batch of records that the client library cannot read, of which the first becomes a dead letter.
    async fn pass(&self, membership: &mut Membership, damage: &Damage) {
        let Damage { topic, partition, offset, fault } = damage;
        let (inbox, place) = (&self.context.inbox, (topic.as_str().into(), *partition));
        let record = |offset| {
            let mut record = ConsumerRecord::new(topic.as_str(), *partition, offset, None, None);
            record.timestamp = -1;
            record
        };
        let next = match membership.unreadable.found(&place, damage) {
            Step::Rest => return,
            Step::DeadLetter => {
                tracing::error!(
                    topic,
                    partition,
                    offset,
                    fault,
                    "a batch of records cannot be read; it becomes a dead letter"
                );
                let why = format!(
                    "the record at offset {offset} of partition {partition} cannot be read, with those after it in its batch: {fault}"
                );
                inbox.push([Arrival::new(record(*offset), Some(why.into()), Earlier::default())]);
                let end =
                    membership.consumer.fetch_watermarks(topic, *partition).await.ok().map(|(_, end)| end);
                membership.unreadable.is_dead_letter(&place, end)
            }
            Step::Passed(last, next) => {
                inbox.pass(&record(last));
                Some(next)
            }
            Step::Back(next) => Some(next),
        };
        if let Some(next) = next {
            membership.seek(&place, next).await;
        }
    }
}

impl Membership {
    /// Leaves out records beyond the end of a damaged batch while that is searched: they are read again.
    async fn without_those_beyond(&mut self, mut records: Vec<ConsumerRecord>) -> Vec<ConsumerRecord> {
        if self.unreadable.is_empty() {
            return records;
        }
        let mut back: HashMap<Partition, i64> = HashMap::new();
        if records.is_empty() {
            back.extend(self.unreadable.nothing_came(&self.paused));
        }
        records.retain(|record| {
            let partition = (Arc::clone(&record.topic), record.partition);
            if back.contains_key(&partition) {
                return false;
            }
            match self.unreadable.readable(&partition, record.offset) {
                Ok(passed) => {
                    if let Some(Passed { first, last }) = passed {
                        let (topic, partition) = partition;
                        tracing::warn!(%topic, partition, first, last, "records can be read again after a damaged batch");
                    }
                    true
                }
                Err(offset) => {
                    back.insert(partition, offset);
                    false
                }
            }
        });
        for (partition, offset) in back {
            self.seek(&partition, offset).await;
        }
        records
    }

    async fn seek(&self, (topic, partition): &Partition, offset: i64) {
        if let Err(error) = self.consumer.seek(topic, *partition, offset).await {
            tracing::debug!(%topic, partition, %error, "the partition is no longer ours");
        }
    }

    /// Pauses the partitions of which no more may be fetched: all, or those far beyond their first unsettled message. Returns whether
    /// all are paused.
    async fn pause(&mut self, context: &SourceContext, is_full: bool) -> bool {
        let assigned = self.consumer.assignment().await;
        let mut far = if is_full { HashSet::new() } else { context.inbox.far_ahead() };
        far.extend(self.unreadable.resting().cloned());
        // The client forgets it when a partition is assigned again.
        let paused = self.consumer.paused_partitions().await.into_iter();
        self.paused = paused.map(|(topic, partition)| (topic.into(), partition)).collect();
        let (mut wanted, mut all) = (HashSet::new(), 0);
        for (topic, partitions) in assigned {
            let topic: Arc<str> = topic.into();
            all += partitions.len();
            let partitions = partitions.into_iter().map(|partition| (Arc::clone(&topic), partition));
            wanted.extend(partitions.filter(|partition| is_full || far.contains(partition)));
        }
        for (is_paused, partitions) in [
            (true, wanted.difference(&self.paused).cloned().collect::<Vec<_>>()),
            (false, self.paused.difference(&wanted).cloned().collect()),
        ] {
            let mut by_topic: HashMap<Arc<str>, Vec<i32>> = HashMap::new();
            for (topic, partition) in partitions {
                by_topic.entry(topic).or_default().push(partition);
            }
            for (topic, partitions) in by_topic {
                match is_paused {
                    true => self.consumer.pause(&topic, &partitions).await,
                    false => self.consumer.resume(&topic, &partitions).await,
                }
            }
        }
        self.paused = wanted;
        all > 0 && self.paused.len() == all
    }
}

/// Commits the positions that moved, from time to time.
async fn committing(context: Arc<SourceContext>, consumer: Weak<Consumer>) {
    loop {
        context.inbox.moved().await;
        sleep(context.subscription.commit_interval).await;
        let Some(consumer) = consumer.upgrade() else { return };
        commit(&context, &consumer, None).await;
    }
}

/// Completes when the demand changes, or when there is room again.
async fn wanted(demand: &mut watch::Receiver<Demand>, context: &SourceContext, is_paused: bool) {
    tokio::select! {
        _ = demand.changed() => {}
        () = context.inbox.freed(), if is_paused => {}
    }
}

async fn closed(mut demand: watch::Receiver<Demand>) {
    while *demand.borrow_and_update() != Demand::Close && demand.changed().await.is_ok() {}
}

/// Why messages cannot be received.
fn receive_failure(error: &KrafkaError) -> Failure {
    use krafka::error::ErrorCode;
    let text = shown(error);
    match error {
        KrafkaError::Broker { code: ErrorCode::GroupAuthorizationFailed, .. } => {
            Failure::rejected(format!("this client may not use GROUP ({text}): check its permissions"))
        }
        KrafkaError::Broker { code: ErrorCode::TopicAuthorizationFailed, .. } => {
            Failure::rejected(format!("this client may not read TOPICS ({text}): check its permissions"))
        }
        KrafkaError::Broker { code: ErrorCode::InvalidSessionTimeout, .. } => {
            Failure::rejected(format!("the brokers do not take SESSION_TIMEOUT ({text}): change it"))
        }
        KrafkaError::Broker { code: ErrorCode::InconsistentGroupProtocol, .. } => Failure::rejected(format!(
            "the members of GROUP use another protocol ({text}): name a group of this application's own"
        )),
        KrafkaError::Auth { .. } | KrafkaError::Config { .. } => open_failure(error),
        _ => Failure::transient(text),
    }
}
