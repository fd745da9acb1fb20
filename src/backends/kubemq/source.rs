//! The source for KubeMQ.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::event_receiver::EventReceiver;
use super::prefetched::Prefetched;
use super::queue_receiver::QueueReceiver;
use super::request_receiver::RequestReceiver;
use super::settings::{KubemqSettings, Pattern};
use super::source_context::SourceContext;
use super::source_worker::SourceWorker;
use super::subscription::KubemqSubscription;
use crate::backends::brokers::{BrokersError, Demand, Dialer};
use crate::source::{Source, SourceError, Unsettled};

/// Receives from a queue, from events or from the event store of a KubeMQ server, or replies to its commands or queries.
///
/// The first [`receive`](Source::receive) starts a task that connects to one of the brokers, in a random order, and does so
/// again whenever the connection is lost. The [module](super) documents how messages are read and settled.
pub struct KubemqSource {
    context: Arc<SourceContext>,
    prefetched: Arc<Prefetched>,
    demand: watch::Sender<Demand>,
    worker: Mutex<Option<JoinHandle<()>>>,
}

impl KubemqSource {
    /// Reads and checks the settings and their files. It connects with the first `receive`.
    ///
    /// # Errors
    /// [`BrokersError`] names the wrong setting or file, and the cure.
    pub fn new(settings: &KubemqSettings, subscription: &KubemqSubscription) -> Result<Self, BrokersError> {
        let (urls, tls) = settings.check()?;
        let subscription = subscription.filled(settings)?;
        let context = SourceContext::new(settings.clone(), subscription, urls, Dialer::new(tls));
        Ok(Self {
            context: Arc::new(context),
            prefetched: Arc::default(),
            demand: watch::Sender::new(Demand::Messages),
            worker: Mutex::default(),
        })
    }

    /// Starts the task if it does not run, and resumes receiving.
    fn start(&self) {
        Demand::resume(&self.demand);
        let mut worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        if worker.as_ref().is_none_or(JoinHandle::is_finished) && !self.is_closed() {
            let (context, prefetched) = (Arc::clone(&self.context), Arc::clone(&self.prefetched));
            let demand = self.demand.subscribe();
            *worker = Some(match context.subscription.pattern {
                Some(Pattern::Events | Pattern::EventStore) => {
                    let receiver = EventReceiver::new(Arc::clone(&context), Arc::clone(&prefetched));
                    tokio::spawn(SourceWorker { context, prefetched, demand, receiver }.run())
                }
                Some(Pattern::Commands | Pattern::Queries) => {
                    let receiver = RequestReceiver::new(Arc::clone(&context), Arc::clone(&prefetched));
                    tokio::spawn(SourceWorker { context, prefetched, demand, receiver }.run())
                }
                _ => {
                    let (context_of, prefetched_of) = (Arc::clone(&context), Arc::clone(&prefetched));
                    let receiver = QueueReceiver { context: context_of, prefetched: prefetched_of };
                    tokio::spawn(SourceWorker { context, prefetched, demand, receiver }.run())
                }
            });
        }
    }

    fn is_closed(&self) -> bool {
        *self.demand.borrow() == Demand::Close
    }
}

#[async_trait]
impl Source for KubemqSource {
    async fn receive(&self, limit: usize) -> Result<Vec<Unsettled>, SourceError> {
        self.start();
        self.prefetched.take(limit.max(1), || self.is_closed()).await
    }

    async fn pause(&self) {
        Demand::pause(&self.demand);
    }

    async fn close(&self, deadline: Duration) {
        self.demand.send_replace(Demand::Close);
        self.context.closed.cancel();
        self.prefetched.wake();
        let worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner).take();
        let end = async {
            if let Some(worker) = worker {
                let _ = worker.await;
            }
            // Events and requests that the broker does not deliver again.
            let left = self.prefetched.take_all().len();
            if left > 0 {
                let channel = &self.context.reader.channel;
                tracing::warn!(%channel, events = left, "stopped with fetched events that were not handled; the broker does not deliver them again");
            }
            self.context.answers.close();
            self.context.answers.wait().await;
        };
        // The task still runs to its end after the deadline.
        if timeout(deadline, end).await.is_err() {
            tracing::warn!(channel = %self.context.reader.channel, ?deadline, "could not stop receiving within the deadline");
        }
    }

    fn name(&self) -> Arc<str> {
        Arc::clone(&self.context.reader.channel)
    }
}

impl Drop for KubemqSource {
    /// The broker delivers fetched messages again.
    fn drop(&mut self) {
        self.context.closed.cancel();
    }
}

impl fmt::Debug for KubemqSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KubemqSource")
            .field("urls", &self.context.urls)
            .field("subscription", &self.context.subscription)
            .finish_non_exhaustive()
    }
}
