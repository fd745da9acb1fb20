//! The source over AMQP 1.0.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::incoming::Reader;
use super::prefetched::{Prefetched, PrefetchedMessage};
use super::settings::Amqp10Settings;
use super::source_context::SourceContext;
use super::source_worker::SourceWorker;
use super::subscription::Amqp10Subscription;
use crate::backends::brokers::{BrokersError, Demand, Dialer};
use crate::source::{Source, SourceError, Unsettled};
use crate::util::repeated::Repeated;

/// Receives from any AMQP 1.0 broker: the source of the backends `amqp10` and `rhmsg`.
///
/// The first [`receive`](Source::receive) starts a task that connects to one of the brokers, in a random order, and does so
/// again whenever the link is lost. The [module](super) documents how messages are read and settled.
pub struct Amqp10Source {
    pub(super) context: Arc<SourceContext>,
    prefetched: Arc<Prefetched>,
    demand: watch::Sender<Demand>,
    worker: Mutex<Option<JoinHandle<()>>>,
}

impl Amqp10Source {
    /// Reads and checks the settings and their files. It connects with the first `receive`.
    ///
    /// # Errors
    /// [`BrokersError`] names the wrong setting or file, and the cure.
    pub fn new(settings: &Amqp10Settings, subscription: &Amqp10Subscription) -> Result<Self, BrokersError> {
        Self::with_content_types(settings, subscription, Reader::PLAIN)
    }

    /// As [`new`](Self::new), for the messages of rhmsg: the body is JSON in any section.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn rhmsg(settings: &Amqp10Settings, subscription: &Amqp10Subscription) -> Result<Self, BrokersError> {
        Self::with_content_types(settings, subscription, Reader::RHMSG)
    }

    fn with_content_types(
        settings: &Amqp10Settings,
        subscription: &Amqp10Subscription,
        content_types: [&'static str; 2],
    ) -> Result<Self, BrokersError> {
        check(subscription)?;
        let wraps = content_types == Reader::PLAIN;
        let (urls, tls) = settings.check(wraps)?;
        let reader = Reader {
            address: subscription.address.as_str().into(),
            topic_prefix: settings.broker.topic_prefix.clone(),
            envelope: settings.broker.envelope,
            content_types,
        };
        let context = SourceContext {
            settings: if wraps { settings.clone() } else { settings.clone().with_rhmsg_timeouts() },
            urls,
            dialer: Dialer::new(tls),
            subscription: subscription.clone(),
            reader,
            unreachable: Repeated::default(),
        };
        Ok(Self {
            context: Arc::new(context),
            prefetched: Arc::default(),
            demand: watch::channel(Demand::Messages).0,
            worker: Mutex::default(),
        })
    }

    /// Starts the task if it does not run, and resumes receiving.
    fn start(&self) {
        Demand::resume(&self.demand);
        let mut worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        if worker.as_ref().is_none_or(JoinHandle::is_finished) && *self.demand.borrow() != Demand::Close {
            let (context, prefetched) = (Arc::clone(&self.context), Arc::clone(&self.prefetched));
            let demand = self.demand.subscribe();
            *worker = Some(tokio::spawn(SourceWorker { context, prefetched, demand }.run()));
        }
    }
}

fn check(subscription: &Amqp10Subscription) -> Result<(), BrokersError> {
    let fault = |key, problem: &str| Err(BrokersError::setting(key, problem));
    let Amqp10Subscription {
        address,
        selector,
        durable,
        credit,
        prefetch_bytes,
        dead_letter_address,
        reply_addresses,
        ..
    } = subscription;
    let is_empty = |text: &Option<String>| text.as_ref().is_some_and(|text| text.trim().is_empty());
    if address.trim().is_empty() {
        return fault(
            "ADDRESS",
            "of the subscription is empty: write \"queue://Q\", or at RabbitMQ \"/amq/queue/Q\"",
        );
    }
    if *credit == 0 {
        return fault("CREDIT", "is 0: nothing could be received; write 1 or more");
    }
    if *prefetch_bytes == 0 {
        return fault("PREFETCH_BYTES", "is 0: nothing could be received; write \"1MiB\" or more");
    }
    if is_empty(selector) {
        return fault("SELECTOR", "is empty: leave it out to receive everything");
    }
    if is_empty(durable) {
        return fault("DURABLE", "is empty: write a name for the subscription, or leave it out");
    }
    if durable.is_some() && (address.starts_with("queue://") || address.starts_with("/amq/queue/")) {
        return fault("DURABLE", "is for topics, \"topic://T\": a queue keeps its messages anyway");
    }
    if is_empty(dead_letter_address) {
        return fault("DEAD_LETTER_ADDRESS", "is empty: write an address, or leave it out");
    }
    if reply_addresses.iter().any(|start| start.trim().is_empty()) {
        return fault(
            "REPLY_ADDRESSES",
            "holds an empty text, which any address begins with: write \"temp-queue://\"",
        );
    }
    if dead_letter_address.as_ref() == Some(address) {
        return fault(
            "DEAD_LETTER_ADDRESS",
            "is ADDRESS itself: dead letters would be received again; write another",
        );
    }
    Ok(())
}

#[async_trait]
impl Source for Amqp10Source {
    async fn receive(&self, limit: usize) -> Result<Vec<Unsettled>, SourceError> {
        loop {
            let arrived = self.prefetched.arrived();
            self.start();
            if *self.demand.borrow() == Demand::Close {
                return Err(SourceError::Closed);
            }
            if let Some(taken) = self.prefetched.take(limit.max(1)) {
                let (source, is_event) =
                    (&self.context.reader.address, self.context.reader.envelope.is_event());
                let delivery =
                    |fetched: PrefetchedMessage| fetched.into_delivery(source).with_event(is_event);
                return Ok(taken?.into_iter().map(delivery).collect());
            }
            arrived.await;
        }
    }

    async fn pause(&self) {
        Demand::pause(&self.demand);
    }

    async fn close(&self, deadline: Duration) {
        self.demand.send_replace(Demand::Close);
        self.prefetched.wake();
        let worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(worker) = worker {
            // The task still runs to its end after the deadline.
            if timeout(deadline, worker).await.is_err() {
                tracing::warn!(address = %self.context.reader.address, ?deadline, "could not close the source link within the deadline");
            }
        }
    }

    fn name(&self) -> Arc<str> {
        Arc::clone(&self.context.reader.address)
    }
}

impl fmt::Debug for Amqp10Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Amqp10Source")
            .field("urls", &self.context.urls)
            .field("subscription", &self.context.subscription)
            .finish_non_exhaustive()
    }
}
