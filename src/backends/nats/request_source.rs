//! Receiving requests: a subscription of core NATS, whose members share the messages.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::incoming::Reader;
use super::request_context::RequestContext;
use super::request_settle::unsettled;
use super::request_worker::RequestWorker;
use super::settings::{NatsSettings, Pattern};
use super::subscription::NatsSubscription;
use crate::backends::brokers::{BrokersError, Demand};
use crate::source::{Source, SourceError, Unsettled};
use crate::util::sync::lock;

/// Receives what is published while it is subscribed, and replies to requests.
pub(super) struct RequestSource {
    context: Arc<RequestContext>,
    demand: watch::Sender<Demand>,
    worker: Mutex<Option<JoinHandle<()>>>,
}

impl RequestSource {
    pub(super) fn new(
        settings: &NatsSettings,
        subscription: &NatsSubscription,
    ) -> Result<Self, BrokersError> {
        let (urls, tls) = settings.check()?;
        // Replies are stored nowhere.
        let settings = Arc::new(settings.clone().with_pattern(Pattern::Events));
        let filters = subscription.filters(&settings);
        let source = filters.join(",").into();
        let reader = Reader { settings: Arc::clone(&settings), stream: String::new(), source };
        let prefetch = usize::from(subscription.prefetch());
        let context = RequestContext {
            settings,
            urls,
            tls,
            filters,
            places: Arc::new(Semaphore::new(prefetch)),
            bytes: Arc::new(Semaphore::new(subscription.prefetch_bytes.min(Semaphore::MAX_PERMITS))),
            subscription: subscription.clone(),
            reader,
            ready: Mutex::default(),
            arrived: tokio::sync::Notify::new(),
            link: watch::Sender::new(None),
            closed: tokio_util::sync::CancellationToken::new(),
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
            *worker = Some(tokio::spawn(RequestWorker { context, demand }.run()));
        }
    }
}

#[async_trait]
impl Source for RequestSource {
    async fn receive(&self, limit: usize) -> Result<Vec<Unsettled>, SourceError> {
        loop {
            let arrived = self.context.arrived.notified();
            self.start();
            if *self.demand.borrow() == Demand::Close {
                return Err(SourceError::Closed);
            }
            if let Some(taken) = self.context.take(limit.max(1)) {
                let unsettled = |request| unsettled(request, &self.context);
                return taken.map(|requests| requests.into_iter().map(unsettled).collect());
            }
            arrived.await;
        }
    }

    async fn pause(&self) {
        Demand::pause(&self.demand);
    }

    async fn close(&self, deadline: Duration) {
        self.demand.send_replace(Demand::Close);
        self.context.arrived.notify_waiters();
        let worker = lock(&self.worker).take();
        if let Some(worker) = worker
            && timeout(deadline, worker).await.is_err()
        {
            // The task still runs to its end after the deadline.
            tracing::warn!(source = %self.context.reader.source, ?deadline, "could not stop receiving within the deadline");
        }
    }

    fn name(&self) -> Arc<str> {
        Arc::clone(&self.context.reader.source)
    }
}

impl fmt::Debug for RequestSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestSource").field("source", &self.context.reader.source).finish_non_exhaustive()
    }
}
