//! The task behind a source of requests: connects to a server, and does so again when the connection is lost.

use std::sync::Arc;

use async_nats::{Message, Subscriber};
use futures_util::StreamExt;
use futures_util::stream::SelectAll;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::client::{self, Generation};
use super::replies;
use super::request::Request;
use super::request_context::RequestContext;
use crate::backends::brokers::{Demand, Pauses};
use crate::messenger::Failure;

/// Subscribes while the source is wanted.
pub(super) struct RequestWorker {
    pub(super) context: Arc<RequestContext>,
    pub(super) demand: watch::Receiver<Demand>,
}

impl RequestWorker {
    /// Runs until the source is closed or dropped.
    pub(super) async fn run(mut self) {
        let mut pauses = Pauses::default();
        // A lost connection is made again during a pause too: replies go over it.
        loop {
            let demand = *self.demand.borrow_and_update();
            if demand == Demand::Close || self.demand.has_changed().is_err() {
                self.context.closed.cancel();
                return;
            }
            let context = Arc::clone(&self.context);
            let opened = tokio::select! {
                opened = client::open_any(&context.settings, context.tls.as_ref(), &context.urls) => opened,
                _ = self.demand.wait_for(|demand| *demand == Demand::Close) => continue,
            };
            let failure = match opened {
                Ok((generation, broker)) => {
                    tracing::info!(%broker, source = %self.context.reader.source, "receiving requests");
                    let begun = Instant::now();
                    let failure = self.serve(Arc::new(generation)).await;
                    pauses.lasted(begun.elapsed());
                    let Some(failure) = failure else { continue };
                    tracing::warn!(source = %self.context.reader.source, %failure, "lost the connection while receiving requests; reconnecting");
                    failure
                }
                Err(failure) => failure,
            };
            if !failure.is_transient() {
                self.context.set_error(Some(failure.clone()));
            }
            pauses.after(&failure, &mut self.demand).await;
        }
    }

    /// Receives until the connection is lost, or the source is closed.
    async fn serve(&mut self, generation: Arc<Generation>) -> Option<Failure> {
        self.context.set_error(None);
        self.context.link.send_replace(Some(Arc::clone(&generation)));
        let failure = self.receive(&generation).await;
        if failure.is_none() {
            self.context.closed.cancel();
            self.context.refuse_all().await;
        }
        self.context.link.send_replace(None);
        let _ = timeout(RequestContext::CLOSE_TIMEOUT, generation.close()).await;
        failure
    }

    async fn receive(&mut self, generation: &Generation) -> Option<Failure> {
        let mut subscribers: SelectAll<Subscriber> = SelectAll::new();
        let mut is_subscribed = false;
        loop {
            let demand = *self.demand.borrow_and_update();
            match demand {
                Demand::Messages if !is_subscribed => {
                    if let Err(failure) = self.subscribe(generation, &mut subscribers).await {
                        return Some(failure);
                    }
                    is_subscribed = true;
                }
                Demand::Messages => {}
                Demand::Pause | Demand::Close => {
                    // Those that are on the way still come; then the streams end.
                    for subscriber in subscribers.iter_mut() {
                        let _ = subscriber.drain().await;
                    }
                    is_subscribed = false;
                }
            }
            if demand == Demand::Close || self.demand.has_changed().is_err() {
                let rest = async {
                    while let Some(message) = subscribers.next().await {
                        self.arrived(message).await;
                    }
                };
                let _ = timeout(RequestContext::CLOSE_TIMEOUT, rest).await;
                return None;
            }
            tokio::select! {
                biased;
                _ = self.demand.changed() => {}
                () = generation.events.ended.cancelled() => return Some(generation.events.failure_of_source()),
                message = subscribers.next(), if !subscribers.is_empty() => match message {
                    Some(message) => self.arrived(message).await,
                    None if is_subscribed => {
                        generation.events.end();
                        return Some(generation.events.failure_of_source());
                    }
                    None => {}
                },
            }
        }
    }

    async fn subscribe(
        &self,
        generation: &Generation,
        subscribers: &mut SelectAll<Subscriber>,
    ) -> Result<(), Failure> {
        let group = self.context.subscription.group();
        for filter in &self.context.filters {
            let subscribed = generation.client.queue_subscribe(filter.clone(), group.clone()).await;
            subscribers.push(subscribed.map_err(Failure::transient)?);
        }
        Ok(())
    }

    /// Takes a request, or refuses it if there are too many here.
    async fn arrived(&self, message: Message) {
        let context = &self.context;
        let allowed = &context.subscription.reply_subjects;
        let size = u32::try_from(message.length).unwrap_or(u32::MAX);
        // A larger one than all room comes alone.
        let size = size.min(u32::try_from(context.subscription.prefetch_bytes).unwrap_or(u32::MAX));
        let place = Arc::clone(&context.places).try_acquire_owned();
        let bytes = Arc::clone(&context.bytes).try_acquire_many_owned(size);
        let (Ok(place), Ok(bytes)) = (place, bytes) else {
            let reply_to = message.reply.filter(|reply| replies::is_allowed(reply, allowed));
            context
                .refuse(reply_to.as_ref(), "the responder has PREFETCH or PREFETCH_BYTES of requests")
                .await;
            return;
        };
        context.push(Request::new(message, allowed, (place, bytes)));
    }
}
