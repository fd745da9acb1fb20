//! Receiving from a queue over one connection.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prost::Message as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use super::connection::Connection;
use super::incoming::Incoming;
use super::prefetched::Prefetched;
use super::receiver_link::{ReceiverLink, Transaction, WAIT};
use super::settle::MessageSettler;
use super::source_context::SourceContext;
use super::source_worker::Receiver;
use super::units::Units;
use crate::backends::brokers::Demand;
use crate::kubemq_wire::QueueMessage;
use crate::messenger::Failure;
use crate::source::Unsettled;

/// The most streams of a connection; more unsettled messages share them. Servers allow 100 or more.
const MOST_LINKS: usize = 48;
/// How long a request for a message waits on a stream with unsettled messages, whose settlements wait for it.
const SHORT_WAIT: Duration = Duration::from_secs(1);
/// The most messages that wait for their next attempt without a place among the fetched ones.
const MOST_DELAYED: usize = 1_000;

/// Receives from a queue.
pub(super) struct QueueReceiver {
    pub(super) context: Arc<SourceContext>,
    pub(super) prefetched: Arc<Prefetched>,
}

impl Receiver for QueueReceiver {
    async fn serve(
        &mut self,
        connection: &Connection,
        demand: &mut watch::Receiver<Demand>,
    ) -> Option<Failure> {
        let subscription = &self.context.subscription;
        let session = Arc::new(Session {
            context: Arc::clone(&self.context),
            connection: connection.clone(),
            links: Mutex::default(),
            places: Arc::new(Semaphore::new(subscription.prefetch)),
            units: Units::new(subscription.prefetch_bytes),
            delayed: Arc::new(Semaphore::new(MOST_DELAYED)),
        });
        let mut fetches = JoinSet::new();
        loop {
            let wanted = *demand.borrow_and_update();
            match wanted {
                Demand::Close => {
                    session.pause(&mut fetches).await;
                    drop(self.prefetched.take_all());
                    return None;
                }
                Demand::Pause => {
                    session.pause(&mut fetches).await;
                    drop(self.prefetched.take_all());
                }
                Demand::Messages => {
                    while fetches.len() < subscription.fetches {
                        fetches.spawn(Arc::clone(&session).fetch());
                    }
                }
            }
            tokio::select! {
                changed = demand.changed() => if changed.is_err() { return None },
                () = connection.lost.cancelled() => {
                    return Some(Failure::transient("the broker no longer answers"));
                }
                Some(fetched) = fetches.join_next(), if !fetches.is_empty() => match fetched {
                    Ok(Ok(message)) => self.prefetched.push(message),
                    Ok(Err(failure)) => return Some(failure),
                    Err(error) => return Some(Failure::transient(error)),
                },
            }
        }
    }

    /// The broker delivers them again.
    fn lost(&mut self) {
        drop(self.prefetched.take_all());
        self.context.attempts().give_all_back();
    }
}

/// A connection that fetches, with its streams.
struct Session {
    context: Arc<SourceContext>,
    connection: Connection,
    links: Mutex<Vec<Arc<ReceiverLink>>>,
    /// How many messages may still be fetched, and how many bytes.
    places: Arc<Semaphore>,
    units: Units,
    delayed: Arc<Semaphore>,
}

impl Session {
    /// Fetches one message as soon as there is room for it.
    async fn fetch(self: Arc<Self>) -> Result<Unsettled, Failure> {
        let closed = || Failure::transient("the source is closed");
        let place = Arc::clone(&self.places).acquire_owned().await.map_err(|_| closed())?;
        let link = self.reserved();
        let wait = || if link.held() == 0 { WAIT } else { SHORT_WAIT };
        let (transaction, message) = link.get(&self.context.subscription.channel, wait).await?;
        // One message may be in memory beyond the limit: its size is known only now.
        let bytes = self.units.acquire(message.encoded_len()).await.ok_or_else(closed)?;
        Ok(self.unsettled(transaction, message, (place, bytes)))
    }

    /// A stream for the next request for a message: one without unsettled messages, a new one, or the one with the fewest.
    fn reserved(&self) -> Arc<ReceiverLink> {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.retain(|link| !link.is_ended());
        links.sort_by_key(|link| link.held());
        let is_full = links.len() >= MOST_LINKS;
        let free = links.iter().find(|link| (is_full || link.held() == 0) && link.reserve());
        if let Some(link) = free {
            return Arc::clone(link);
        }
        let link = Arc::new(ReceiverLink::open(&self.connection, self.context.settings.client_id().into()));
        link.reserve();
        links.push(Arc::clone(&link));
        link
    }

    /// Stops fetching: requests under way are given up, and their streams are closed unless they have unsettled messages.
    async fn pause(&self, fetches: &mut JoinSet<Result<Unsettled, Failure>>) {
        fetches.shutdown().await;
        self.links.lock().unwrap_or_else(PoisonError::into_inner).retain(|link| link.held() > 0);
    }

    fn unsettled(
        &self,
        transaction: Transaction,
        message: QueueMessage,
        places: (OwnedSemaphorePermit, OwnedSemaphorePermit),
    ) -> Unsettled {
        let context = Arc::clone(&self.context);
        let received = message.attributes.as_ref().map_or(1, |attributes| attributes.receive_count);
        let received = u32::try_from(received).unwrap_or(0).max(1);
        let policy = message.policy.clone().unwrap_or_default();
        let most = u32::try_from(policy.max_receive_count).unwrap_or(0);
        let is_last = most > 0 && received >= most && policy.max_receive_queue.is_empty();
        let incoming = Incoming::from(message);
        let read = context.reader.read(&incoming);
        let (record, count, last) = {
            let mut attempts = context.attempts();
            let record = if attempts.is_empty() { None } else { attempts.take(incoming.content()) };
            (record, attempts.count(record), attempts.last(record).to_vec())
        };
        let failures = [incoming.foreign_failures(&context.reader.channel), last].concat();
        let attempt = received.max(count.saturating_add(1));
        let (name, is_event) = (Arc::clone(&context.reader.channel), context.reader.envelope.is_event());
        let (connection, delayed) = (self.connection.clone(), Arc::clone(&self.delayed));
        let settle =
            MessageSettler { context, connection, transaction, incoming, record, is_last, delayed, places };
        match read {
            // A message that came back after a lost connection looks like a new one.
            Ok(message) => {
                Unsettled::new(message, attempt, true, name, failures, settle).with_event(is_event)
            }
            Err(reason) => Unsettled::poison(reason, settle),
        }
    }
}
