//! The source over JetStream.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::inbox::{Inbox, Taken};
use super::incoming::Reader;
use super::settings::NatsSettings;
use super::settle::LetterSettler;
use super::source_context::SourceContext;
use super::source_worker::SourceWorker;
use super::subscription::NatsSubscription;
use crate::backends::brokers::{BrokersError, Demand};
use crate::source::{Source, SourceError, Unsettled};
use crate::util::sync::lock;

/// Receives from a durable consumer of a stream.
pub(super) struct StreamSource {
    context: Arc<SourceContext>,
    demand: watch::Sender<Demand>,
    worker: Mutex<Option<JoinHandle<()>>>,
}

impl StreamSource {
    pub(super) fn new(
        settings: &NatsSettings,
        subscription: &NatsSubscription,
    ) -> Result<Self, BrokersError> {
        let (urls, tls) = settings.check()?;
        let settings = Arc::new(settings.clone());
        let source = format!("{}/{}", subscription.stream, subscription.durable).into();
        let reader = Reader { settings: Arc::clone(&settings), stream: subscription.stream.clone(), source };
        let context = SourceContext {
            settings,
            urls,
            tls,
            subscription: subscription.clone(),
            reader,
            inbox: Arc::new(Inbox::default()),
            link: watch::Sender::new(None),
            settlements: TaskTracker::new(),
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

    fn unsettled(&self, Taken { letter, attempt, failures }: Taken) -> Unsettled {
        let reader = &self.context.reader;
        let read = reader.read(&letter.raw, letter.ack);
        let failures = [reader.foreign_failures(&letter.raw), failures].concat();
        let redelivered = letter.ack.delivered > 1;
        let settler = LetterSettler::new(letter, &self.context);
        match read {
            Ok(message) => {
                let source = Arc::clone(&reader.source);
                let is_event = reader.settings.broker.envelope.is_event();
                Unsettled::new(message, attempt, redelivered, source, failures, settler).with_event(is_event)
            }
            Err(reason) => Unsettled::poison(reason, settler),
        }
    }
}

#[async_trait]
impl Source for StreamSource {
    async fn receive(&self, limit: usize) -> Result<Vec<Unsettled>, SourceError> {
        loop {
            let arrived = self.context.inbox.arrived();
            self.start();
            if *self.demand.borrow() == Demand::Close {
                return Err(SourceError::Closed);
            }
            if let Some(taken) = self.context.inbox.take(limit.max(1)) {
                return Ok(taken?.into_iter().map(|taken| self.unsettled(taken)).collect());
            }
            arrived.await;
        }
    }

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

    /// The number of messages that the server has not delivered to this consumer yet.
    async fn backlog(&self) -> Option<u64> {
        let link = self.context.link.borrow().clone()?;
        let NatsSubscription { stream, durable, .. } = &self.context.subscription;
        let stream = link.connection.generation().context.get_stream_no_info(stream).await.ok()?;
        Some(stream.consumer_info(durable).await.ok()?.num_pending)
    }

    fn name(&self) -> Arc<str> {
        Arc::clone(&self.context.reader.source)
    }
}

impl fmt::Debug for StreamSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamSource")
            .field("urls", &self.context.urls)
            .field("source", &self.context.reader.source)
            .finish_non_exhaustive()
    }
}
