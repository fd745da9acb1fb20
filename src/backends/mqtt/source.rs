//! The source over MQTT.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::inbox::{Inbox, Letter};
use super::incoming::Reader;
use super::replies;
use super::settings::MqttSettings;
use super::settle::LetterSettler;
use super::source_context::SourceContext;
use super::source_worker::SourceWorker;
use super::subscription::MqttSubscription;
use crate::backends::brokers::{BrokersError, Demand, Dialer};
use crate::message::FailedAttempt;
use crate::source::{Source, SourceError, Unsettled};
use crate::util::repeated::Repeated;
use crate::util::sync::lock;

/// Receives from any MQTT 5 broker: the source of the backend `mqtt`.
///
/// The first [`receive`](Source::receive) starts a task that connects to one of the brokers, in a random order, and does so
/// again whenever the connection is lost. The [module](super) documents how messages are read and settled.
pub struct MqttSource {
    context: Arc<SourceContext>,
    demand: watch::Sender<Demand>,
    worker: Mutex<Option<JoinHandle<()>>>,
}

impl MqttSource {
    /// Reads and checks the settings and their files. It connects with the first `receive`.
    ///
    /// # Errors
    /// [`BrokersError`] names the wrong setting or file, and the cure.
    pub fn new(settings: &MqttSettings, subscription: &MqttSubscription) -> Result<Self, BrokersError> {
        let (urls, tls) = settings.check()?;
        subscription.check(settings)?;
        let settings = Arc::new(settings.clone());
        let filters = subscription.filters(&settings);
        let reader = Reader { settings: Arc::clone(&settings), source: filters.join(", ").into() };
        let context = SourceContext {
            client_id: subscription.client_id(&settings),
            settings,
            urls,
            dialer: Arc::new(Dialer::new(tls)),
            subscription: subscription.clone(),
            filters,
            reader,
            inbox: Inbox::default(),
            unreachable: Repeated::default(),
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

    fn unsettled(&self, (letter, attempt, failed): (Letter, u32, Vec<FailedAttempt>)) -> Unsettled {
        let reader = &self.context.reader;
        let read = reader.read(&letter.publish, letter.arrived);
        let redelivered = letter.publish.dup || attempt > 1;
        let failures = [reader.foreign_failures(&letter.publish), failed].concat();
        let reply_to =
            replies::reply_to(&letter.publish, &self.context.subscription.reply_topics, letter.arrived_at);
        let settler = LetterSettler { letter, context: Arc::clone(&self.context) };
        match read {
            Ok(message) => {
                let source = Arc::clone(&reader.source);
                let is_event = reader.settings.broker.envelope.is_event();
                let unsettled = Unsettled::new(message, attempt, redelivered, source, failures, settler)
                    .with_event(is_event);
                match reply_to {
                    Some(reply_to) => unsettled.with_reply_to(reply_to),
                    None => unsettled,
                }
            }
            Err(reason) => Unsettled::poison(reason, settler),
        }
    }
}

#[async_trait]
impl Source for MqttSource {
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

    /// Reads no further message. Those that were fetched ahead stay, and come first when the source resumes: a broker would
    /// give them to nobody else while it keeps the session.
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

    fn name(&self) -> Arc<str> {
        Arc::clone(&self.context.reader.source)
    }
}

impl fmt::Debug for MqttSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MqttSource")
            .field("urls", &self.context.urls)
            .field("source", &self.context.reader.source)
            .finish_non_exhaustive()
    }
}
