//! Receiving requests: commands or queries of KubeMQ.

use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryFutureExt};
use prost::Message as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep, timeout};
use tonic::{Response, Status};

use super::connection::Connection;
use super::failure;
use super::incoming::Incoming;
use super::prefetched::Prefetched;
use super::replies;
use super::settings::Pattern;
use super::source_context::SourceContext;
use super::source_worker::Receiver;
use super::units::Units;
use crate::backends::brokers::Demand;
use crate::kubemq_wire::subscribe::SubscribeType;
use crate::kubemq_wire::{Request, Subscribe};
use crate::message::Settlement;
use crate::messenger::Failure;
use crate::reply::{Reply, ReplyTo};
use crate::source::{Settle, SourceError, Unsettled};

/// Receives requests.
pub(super) struct RequestReceiver {
    context: Arc<SourceContext>,
    prefetched: Arc<Prefetched>,
    places: Arc<Semaphore>,
    units: Units,
}

impl RequestReceiver {
    pub(super) fn new(context: Arc<SourceContext>, prefetched: Arc<Prefetched>) -> Self {
        let places = Arc::new(Semaphore::new(context.subscription.prefetch));
        let units = Units::new(context.subscription.prefetch_bytes);
        Self { context, prefetched, places, units }
    }

    /// Subscribes. A server may send nothing before the first request, so this does not wait for it.
    fn subscribe(&self, connection: &Connection) -> BoxStream<'static, Result<Request, Status>> {
        let subscription = &self.context.subscription;
        let kind = match subscription.pattern {
            Some(Pattern::Commands) => SubscribeType::Commands,
            _ => SubscribeType::Queries,
        };
        let request = connection.request(Subscribe {
            subscribe_type_data: kind as i32,
            client_id: self.context.settings.client_id().to_owned(),
            channel: subscription.channel.clone(),
            group: subscription.group.clone().unwrap_or_default(),
            ..Subscribe::default()
        });
        let mut client = connection.client.clone();
        let subscribed = async move { client.subscribe_to_requests(request).await.map(Response::into_inner) };
        Box::pin(subscribed.try_flatten_stream())
    }

    async fn arrived(&self, connection: &Connection, request: Request, place: OwnedSemaphorePermit) {
        let wait = Duration::from_millis(u64::try_from(request.timeout).unwrap_or(0));
        let deadline = Instant::now() + wait;
        let bytes = tokio::select! {
            bytes = self.units.acquire(request.encoded_len()) => bytes,
            () = self.context.closed.cancelled() => None,
        };
        let Some(bytes) = bytes else { return };
        let settle = RequestSettler {
            context: Arc::clone(&self.context),
            prefetched: Arc::downgrade(&self.prefetched),
            connection: connection.clone(),
            deadline,
            request_id: request.request_id.clone(),
            reply_channel: request.reply_channel.clone(),
            incoming: Incoming::from(request),
            attempt: 1,
            _places: (place, bytes),
        };
        self.prefetched.push(settle.into_unsettled());
    }
}

impl Receiver for RequestReceiver {
    async fn serve(
        &mut self,
        connection: &Connection,
        demand: &mut watch::Receiver<Demand>,
    ) -> Option<Failure> {
        let (mut requests, mut place) = (None, None);
        loop {
            let wanted = *demand.borrow_and_update();
            match wanted {
                Demand::Close => return None,
                Demand::Pause => requests = None,
                Demand::Messages if requests.is_none() => requests = Some(self.subscribe(connection)),
                Demand::Messages => {}
            }
            let has_place = place.is_some();
            let next = async {
                match &mut requests {
                    Some(requests) => requests.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                changed = demand.changed() => if changed.is_err() { return None },
                () = connection.lost.cancelled() => {
                    return Some(Failure::transient("the broker no longer answers"));
                }
                free = Arc::clone(&self.places).acquire_owned(), if !has_place => place = free.ok(),
                request = next, if has_place => match request {
                    Some(Ok(request)) => {
                        if let Some(place) = place.take() {
                            self.arrived(connection, request, place).await;
                        }
                    }
                    Some(Err(status)) => return Some(failure::of_subscription(&status)),
                    None => return Some(Failure::transient("the broker ended the subscription")),
                },
            }
        }
    }

    /// Their callers wait no longer than their deadline.
    fn lost(&mut self) {
        drop(self.prefetched.take_all());
    }
}

/// The handle to reply to a request, and to settle it. KubeMQ delivers a request once.
struct RequestSettler {
    context: Arc<SourceContext>,
    /// Not of its own: it has these requests in it.
    prefetched: Weak<Prefetched>,
    connection: Connection,
    deadline: Instant,
    request_id: String,
    reply_channel: String,
    incoming: Incoming,
    attempt: u32,
    _places: (OwnedSemaphorePermit, OwnedSemaphorePermit),
}

impl RequestSettler {
    fn into_unsettled(self) -> Unsettled {
        let reader = &self.context.reader;
        let (name, is_event, attempt) =
            (Arc::clone(&reader.channel), reader.envelope.is_event(), self.attempt);
        // The server made the address: it leads to the caller and to nobody else.
        let reply_to = ReplyTo::new(self.reply_channel.as_str()).with_deadline(self.deadline);
        match reader.read(&self.incoming) {
            Ok(message) => Unsettled::new(message, attempt, attempt > 1, name, Vec::new(), self)
                .with_event(is_event)
                .with_reply_to(reply_to),
            Err(reason) => Unsettled::poison(reason, self),
        }
    }

    /// Delivers it again after a while, as long as its caller waits.
    fn again_after(self, wait: Duration) {
        if Instant::now() + wait >= self.deadline || self.is_stale() {
            return;
        }
        let context = Arc::clone(&self.context);
        let tracker = context.answers.clone();
        tracker.spawn(async move {
            tokio::select! {
                () = sleep(wait) => {
                    if let Some(prefetched) = self.prefetched.upgrade() {
                        prefetched.push_front(self.into_unsettled());
                    }
                }
                () = context.closed.cancelled() => {}
            }
        });
    }
}

#[async_trait]
impl Settle for RequestSettler {
    async fn settle(self: Box<Self>, settlement: Settlement) -> Result<(), SourceError> {
        match settlement {
            Settlement::Ack | Settlement::Discard => {}
            Settlement::Release => self.again_after(Duration::ZERO),
            Settlement::Retry { after, .. } => {
                let mut this = *self;
                this.attempt = this.attempt.saturating_add(1);
                this.again_after(after);
            }
            Settlement::Reject { reason } => {
                let channel = &self.context.reader.channel;
                tracing::warn!(%channel, %reason, "rejected a request; its caller gets no reply");
            }
        }
        Ok(())
    }

    async fn reply(&mut self, reply: Reply) -> Result<(), SourceError> {
        let response =
            replies::encode(reply, self.context.settings.client_id(), &self.request_id, &self.reply_channel);
        let mut client = self.connection.client.clone();
        let sent = client.send_response(self.connection.request(response));
        let limited = timeout(self.connection.send_timeout, sent);
        match self.connection.lost.run_until_cancelled(limited).await {
            Some(Ok(Ok(_))) => Ok(()),
            Some(Ok(Err(status))) => Err(SourceError::unavailable(failure::describe(&status))),
            Some(Err(_)) => {
                Err(SourceError::unavailable("the broker did not take the reply within SEND_TIMEOUT"))
            }
            None => Err(SourceError::unavailable("the connection to the broker was lost")),
        }
    }

    fn is_stale(&self) -> bool {
        self.connection.lost.is_cancelled()
    }
}
