//! Receiving events, or from the event store, over one connection.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryFutureExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tonic::{Response, Status};

use super::connection::Connection;
use super::event_settle::{EventContext, EventSettler};
use super::failure;
use super::incoming::Incoming;
use super::prefetched::Prefetched;
use super::settings::Pattern;
use super::source_context::SourceContext;
use super::source_worker::Receiver;
use super::subscription::Start;
use super::units::Units;
use crate::backends::brokers::Demand;
use crate::kubemq_wire::subscribe::{EventsStoreType, SubscribeType};
use crate::kubemq_wire::{EventReceive, Subscribe};
use crate::messenger::Failure;

/// Receives events.
pub(super) struct EventReceiver {
    context: Arc<SourceContext>,
    shared: Arc<EventContext>,
    places: Arc<Semaphore>,
    units: Units,
    prefetched: Arc<Prefetched>,
    /// The sequence number of the last event of an event store.
    last: u64,
    /// The number of extra subscriptions so far.
    extra: u64,
}

type Events = BoxStream<'static, Result<EventReceive, Status>>;

/// An extra subscription that gets the events that the broker took for delivered.
struct Missed {
    events: Events,
    /// The last event of the main subscription, once it is known.
    until: Option<u64>,
}

impl EventReceiver {
    pub(super) fn new(context: Arc<SourceContext>, prefetched: Arc<Prefetched>) -> Self {
        let subscription = &context.subscription;
        Self {
            places: Arc::new(Semaphore::new(subscription.prefetch)),
            units: Units::new(subscription.prefetch_bytes),
            shared: Arc::new(EventContext {
                context: Arc::clone(&context),
                prefetched: Arc::downgrade(&prefetched),
                connection: Mutex::default(),
            }),
            prefetched,
            context,
            last: 0,
            extra: 0,
        }
    }

    /// Whether every event of the store must come to this subscriber, so that a gap shows a loss.
    fn is_gapless(&self) -> bool {
        let subscription = &self.context.subscription;
        subscription.pattern == Some(Pattern::EventStore) && subscription.group.is_none()
    }

    fn subscribe(&self, connection: &Connection) -> Events {
        let (subscription, settings) = (&self.context.subscription, &self.context.settings);
        let is_store = subscription.pattern == Some(Pattern::EventStore);
        let (kind, value) = match is_store {
            true => position(subscription.start),
            false => (EventsStoreType::Undefined, 0),
        };
        let request = Subscribe {
            subscribe_type_data: match is_store {
                true => SubscribeType::EventsStore,
                false => SubscribeType::Events,
            } as i32,
            client_id: settings.client_id().to_owned(),
            channel: subscription.channel.clone(),
            group: subscription.group.clone().unwrap_or_default(),
            events_store_type_data: kind as i32,
            events_store_type_value: value,
        };
        events(connection, request)
    }

    /// Subscribes under a name of its own to the events after the last one.
    fn subscribe_missed(&mut self, connection: &Connection, until: Option<u64>) -> Missed {
        self.extra += 1;
        let unique = uuid::Builder::from_random_bytes(rand::random()).into_uuid();
        let request = Subscribe {
            subscribe_type_data: SubscribeType::EventsStore as i32,
            client_id: format!("{}-{unique}", self.context.settings.client_id()),
            channel: self.context.subscription.channel.clone(),
            group: String::new(),
            events_store_type_data: EventsStoreType::StartAtSequence as i32,
            events_store_type_value: i64::try_from(self.last.saturating_add(1)).unwrap_or(i64::MAX),
        };
        Missed { events: events(connection, request), until }
    }

    /// Whether an event of the main subscription is the next one.
    fn is_next(&self, sequence: u64) -> bool {
        !self.is_gapless() || self.last == 0 || sequence == self.last + 1
    }

    /// Hands an event over; it takes a place, which is free when the event is settled.
    async fn deliver(&mut self, event: EventReceive, place: OwnedSemaphorePermit) {
        self.last = self.last.max(event.sequence);
        let incoming = Incoming::from(event);
        let bytes = tokio::select! {
            bytes = self.units.acquire(incoming.size()) => bytes,
            () = self.context.closed.cancelled() => None,
        };
        let Some(bytes) = bytes else { return };
        let settle = EventSettler {
            shared: Arc::clone(&self.shared),
            incoming,
            failures: Vec::new(),
            places: Some((place, bytes)),
        };
        self.prefetched.push(settle.into_unsettled());
    }
}

impl Receiver for EventReceiver {
    async fn serve(
        &mut self,
        connection: &Connection,
        demand: &mut watch::Receiver<Demand>,
    ) -> Option<Failure> {
        *self.shared.connection.lock().unwrap_or_else(PoisonError::into_inner) = Some(connection.clone());
        let (mut main, mut missed, mut place) = (None::<Events>, None::<Missed>, None);
        loop {
            let wanted = *demand.borrow_and_update();
            match wanted {
                Demand::Close => return None,
                Demand::Pause => (main, missed) = (None, None),
                Demand::Messages if main.is_none() => {
                    main = Some(self.subscribe(connection));
                    // The broker counts events as delivered that were on their way when a connection was lost.
                    if self.is_gapless() && self.last > 0 {
                        missed = Some(self.subscribe_missed(connection, None));
                    }
                }
                Demand::Messages => {}
            }
            let has_place = place.is_some();
            tokio::select! {
                biased;
                changed = demand.changed() => if changed.is_err() { return None },
                () = connection.lost.cancelled() => {
                    return Some(Failure::transient("the broker no longer answers"));
                }
                free = Arc::clone(&self.places).acquire_owned(), if !has_place => place = free.ok(),
                event = next(missed.as_mut().map(|missed| &mut missed.events)), if has_place => match event {
                    Some(Ok(event)) if event.sequence <= self.last => {}
                    Some(Ok(event)) => {
                        let lost = event.sequence - self.last - 1;
                        if lost > 0 {
                            let channel = &self.context.reader.channel;
                            tracing::warn!(%channel, events = lost, "the event store no longer has some events; they are skipped");
                        }
                        if let Some(place) = place.take() {
                            self.deliver(event, place).await;
                        }
                    }
                    Some(Err(status)) => return Some(failure::of_subscription(&status)),
                    None => return Some(Failure::transient("the broker ended the subscription")),
                },
                event = next(main.as_mut()), if has_place => match event {
                    Some(Ok(event)) => {
                        if let Some(missed) = &mut missed {
                            missed.until = missed.until.max(Some(event.sequence));
                        } else if self.is_next(event.sequence) {
                            if let Some(place) = place.take() {
                                self.deliver(event, place).await;
                            }
                        } else if event.sequence > self.last {
                            let events = event.sequence - self.last - 1;
                            let channel = &self.context.reader.channel;
                            tracing::warn!(%channel, events, "the broker has left out events, as this subscriber was slow or away; fetching them");
                            missed = Some(self.subscribe_missed(connection, Some(event.sequence)));
                        }
                    }
                    Some(Err(status)) => return Some(failure::of_subscription(&status)),
                    None => return Some(Failure::transient("the broker ended the subscription")),
                },
            }
            if missed.as_ref().and_then(|missed| missed.until).is_some_and(|until| self.last >= until) {
                missed = None;
            }
        }
    }

    /// Events are settled here: they outlive the connection.
    fn lost(&mut self) {}
}

/// The next event; waits for ever without a subscription.
async fn next(events: Option<&mut Events>) -> Option<Result<EventReceive, Status>> {
    match events {
        Some(events) => events.next().await,
        None => std::future::pending().await,
    }
}

/// Subscribes. A server may send nothing before the first event, so this does not wait for it.
fn events(connection: &Connection, request: Subscribe) -> Events {
    let mut client = connection.client.clone();
    let request = connection.request(request);
    let subscribed = async move { client.subscribe_to_events(request).await.map(Response::into_inner) };
    Box::pin(subscribed.try_flatten_stream())
}

fn position(start: Start) -> (EventsStoreType, i64) {
    let nanos = |time: SystemTime| {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_nanos()).unwrap_or(i64::MAX).max(1)
    };
    match start {
        Start::New => (EventsStoreType::StartNewOnly, 0),
        Start::First => (EventsStoreType::StartFromFirst, 0),
        Start::Last => (EventsStoreType::StartFromLast, 0),
        Start::Sequence(sequence) => {
            (EventsStoreType::StartAtSequence, i64::try_from(sequence).unwrap_or(i64::MAX))
        }
        Start::Time(time) => (EventsStoreType::StartAtTime, nanos(time)),
        Start::Ago(span) => {
            let time = SystemTime::now().checked_sub(span).unwrap_or(SystemTime::UNIX_EPOCH);
            (EventsStoreType::StartAtTime, nanos(time))
        }
    }
}
