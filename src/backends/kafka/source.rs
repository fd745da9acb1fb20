//! The source over Kafka.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::inbox::{Inbox, Limits};
use super::incoming::Reader;
use super::letter::Letter;
use super::settings::KafkaSettings;
use super::settle::LetterSettler;
use super::source_context::SourceContext;
use super::source_worker::SourceWorker;
use super::subscription::KafkaSubscription;
use crate::backends::brokers::{BrokersError, Demand};
use crate::source::{Source, SourceError, Unsettled};
use crate::util::repeated::Repeated;
use crate::util::sync::lock;

/// Receives as a member of a consumer group: the source of the backend `kafka`.
///
/// The first [`receive`](Source::receive) starts a task that joins the group, and does so again when its membership is lost. The
/// [module](super) documents how messages are read and settled.
pub struct KafkaSource {
    context: Arc<SourceContext>,
    demand: watch::Sender<Demand>,
    worker: Mutex<Option<JoinHandle<()>>>,
}

impl KafkaSource {
    /// Reads and checks the settings and their files. It connects with the first `receive`.
    ///
    /// # Errors
    /// [`BrokersError`] names the wrong setting or file, and the cure.
    pub fn new(settings: &KafkaSettings, subscription: &KafkaSubscription) -> Result<Self, BrokersError> {
        let cluster = settings.check()?;
        subscription.check(settings)?;
        let settings = Arc::new(settings.clone());
        let reader = Reader {
            settings: Arc::clone(&settings),
            source: subscription.group.as_str().into(),
            retry_names: subscription.retry_names(&settings),
        };
        let limits = Limits {
            messages: subscription.prefetch.into(),
            bytes: subscription.prefetch_bytes,
            uncommitted: subscription.max_uncommitted.into(),
            is_ordered: subscription.ordered,
        };
        let context = SourceContext {
            settings,
            cluster,
            subscription: subscription.clone(),
            reader,
            inbox: Arc::new(Inbox::new(limits)),
            member: Mutex::default(),
            is_assigned: AtomicBool::default(),
            unreachable: Repeated::default(),
            uncommitted: Repeated::default(),
            committing: tokio::sync::Mutex::default(),
            settlements: TaskTracker::new(),
            sender: tokio::sync::Mutex::default(),
        };
        let (demand, _) = watch::channel(Demand::Messages);
        Ok(Self { context: Arc::new(context), demand, worker: Mutex::default() })
    }

    /// Starts the task if it does not run, and resumes receiving.
    fn start(&self) {
        Demand::resume(&self.demand);
        let mut worker = lock(&self.worker);
        if worker.as_ref().is_none_or(JoinHandle::is_finished) && *self.demand.borrow() != Demand::Close {
            let (context, demand) = (Arc::clone(&self.context), self.demand.subscribe());
            *worker = Some(tokio::spawn(SourceWorker { context, demand }.run()));
        }
    }

    fn unsettled(&self, letter: Letter) -> Unsettled {
        let reader = &self.context.reader;
        let (read, attempt) = (reader.read(&letter), letter.failed.saturating_add(1));
        let failures = [reader.foreign_failures(&letter.record), letter.failures.clone()].concat();
        let settler = LetterSettler::new(letter, &self.context);
        match read {
            Ok(message) => {
                let source = Arc::clone(&reader.source);
                let is_event = reader.settings.broker.envelope.is_event();
                Unsettled::new(message, attempt, attempt > 1, source, failures, settler).with_event(is_event)
            }
            Err(reason) => Unsettled::poison(reason, settler),
        }
    }
}

#[async_trait]
impl Source for KafkaSource {
    async fn receive(&self, limit: usize) -> Result<Vec<Unsettled>, SourceError> {
        loop {
            let arrived = self.context.inbox.arrived();
            self.start();
            if *self.demand.borrow() == Demand::Close {
                return Err(SourceError::Closed);
            }
            if let Some(taken) = self.context.inbox.take(limit.max(1)) {
                return Ok(taken?.into_iter().map(|letter| self.unsettled(letter)).collect());
            }
            arrived.await;
        }
    }

    /// Fetches no further message. The process keeps its partitions: their messages wait, and those that were fetched ahead come first
    /// when the source resumes.
    async fn pause(&self) {
        Demand::pause(&self.demand);
    }

    async fn close(&self, deadline: Duration) {
        self.demand.send_replace(Demand::Close);
        self.context.inbox.wake();
        let worker = lock(&self.worker).take();
        if let Some(worker) = worker {
            // The task still runs to its end after the deadline.
            if timeout(deadline, worker).await.is_err() {
                tracing::warn!(source = %self.context.reader.source, ?deadline, "could not stop receiving within the deadline");
            }
        }
    }

    /// The number of records that the application has not received yet, in the partitions of this process; `None` while the group
    /// gives it none. It asks the brokers for the end of each. Retries of other groups in a shared topic count until they are read and
    /// skipped.
    async fn backlog(&self) -> Option<u64> {
        let member = lock(&self.context.member).upgrade()?;
        if !self.context.is_assigned.load(Ordering::Acquire) {
            return None;
        }
        let assigned = member.assignment().await;
        let partitions =
            assigned.iter().flat_map(|(topic, partitions)| partitions.iter().map(move |it| (topic, *it)));
        let waiting = partitions.map(async |(topic, partition)| {
            let (_, end) = member.fetch_watermarks(topic, partition).await.ok()?;
            let next = member.position(topic, partition).await?;
            Some(u64::try_from(end.saturating_sub(next)).unwrap_or_default())
        });
        let waiting: Option<u64> = join_all(waiting).await.into_iter().sum();
        Some(waiting?.saturating_add(self.context.inbox.ready()))
    }

    fn name(&self) -> Arc<str> {
        Arc::clone(&self.context.reader.source)
    }
}

impl fmt::Debug for KafkaSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaSource")
            .field("urls", &self.context.cluster.urls)
            .field("source", &self.context.reader.source)
            .finish_non_exhaustive()
    }
}
