//! Store first, send after: the durable decorator, and the relay that comes with it.

mod handle;
mod relay;
mod settings;
mod status;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

pub use self::handle::OutboxHandle;
pub use self::relay::Relay;
pub use self::settings::{RelaySettings, WhenExpired};
use self::status::Status;
pub use self::status::{Breaker, OutboxStatus};
use crate::message::Message;
use crate::messenger::in_flight::InFlight;
use crate::messenger::{Admission, Failure, Health, Messenger, Overloaded, Unsent};
use crate::store::{Store, Unstored};
use crate::telemetry;
use crate::util::error::BoxError;

/// Stores messages durably, then says `Ok`; a [`Relay`] sends what is stored through the inner messenger.
///
/// A message survives a broker that is down and a process that dies, and leaves **at least once**, in order for each
/// topic and key. When the store cannot take it, the request is answered 503, whatever
/// [`OnSendFailure`](crate::layer::OnSendFailure) says; while it is full, requests are turned away before their handler
/// runs ([`Admission`]).
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// # #[cfg(feature = "embedded")] {
/// use std::time::Duration;
/// use tower_outbox::dummy::Dummy;
/// use tower_outbox::store::{EmbeddedStore, EmbeddedStoreSettings};
/// use tower_outbox::outbox::{Outbox, RelaySettings};
/// use tower_outbox::MessagingLayer;
///
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path();
/// let store = EmbeddedStore::open(&EmbeddedStoreSettings::new(path)).await?;
/// let (outbox, relay) = Outbox::new(Dummy::new(), store, RelaySettings::default());
/// let layer = MessagingLayer::new(outbox);
/// let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
/// let relay = tokio::spawn(relay.run(async { drop(stopped.await) }, Duration::from_secs(10)));
/// // .. serve ..
/// stop.send(()).unwrap();
/// let left = relay.await.unwrap();
/// assert_eq!(left.pending, 0);
/// # }
/// # Ok::<(), tower_outbox::BoxError>(())
/// # }).unwrap();
/// ```
pub struct Outbox<M> {
    inner: Arc<M>,
    store: Arc<dyn Store>,
    status: Arc<Status>,
    in_flight: InFlight,
}

impl<M: Messenger> Outbox<M> {
    /// A store before `inner`, and the relay between the two, which the caller spawns.
    pub fn new(inner: M, store: impl Store, settings: RelaySettings) -> (Self, Relay<M>) {
        let (inner, store): (_, Arc<dyn Store>) = (Arc::new(inner), Arc::new(store));
        let status = Arc::new(Status::default());
        let relay = Relay::new(Arc::clone(&inner), Arc::clone(&store), Arc::clone(&status), settings);
        let in_flight = inner.in_flight();
        (Self { inner, store, status, in_flight }, relay)
    }

    /// A handle to look into the store and to operate on it.
    #[must_use]
    pub fn handle(&self) -> OutboxHandle {
        OutboxHandle::new(Arc::clone(&self.store), Arc::clone(&self.status))
    }
}

impl<M> fmt::Debug for Outbox<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox").field("store", &self.store.location()).finish_non_exhaustive()
    }
}

#[async_trait]
impl<M: Messenger> Messenger for Outbox<M> {
    async fn send(&self, batch: Vec<Message>) -> Result<(), Unsent> {
        let count = batch.len();
        match self.store.append(batch).await {
            Ok(()) => {
                self.stored(count);
                Ok(())
            }
            Err(Unstored { source, batch, .. }) => {
                Err(Unsent::new(batch, &Failure::transient(Overloaded::new(source))))
            }
        }
    }

    fn check(&self, message: &Message) -> Result<(), BoxError> {
        match message.delay() {
            None => self.inner.check(message),
            // The delay is the store's.
            Some(_) => self.inner.check(&message.clone().without_delay()),
        }
    }

    /// Down also when its relay ended before its time, or cannot read the store.
    async fn health(&self) -> Health {
        match self.status.down() {
            Some(reason) => Health::Down { reason },
            None => self.inner.health().await,
        }
    }

    async fn brokers(&self) -> Vec<(String, Health)> {
        self.inner.brokers().await
    }

    /// Closes the store and the inner messenger. What is stored stays stored: nothing is left.
    async fn close(&self, deadline: Duration) -> Vec<Message> {
        let left = self.inner.close(deadline).await;
        self.store.close().await;
        left
    }

    fn in_flight(&self) -> InFlight {
        self.in_flight.clone()
    }

    fn admission(&self) -> Option<Admission> {
        self.store.admission()
    }

    fn store(&self) -> Option<Arc<dyn Store>> {
        Some(Arc::clone(&self.store))
    }

    fn stored(&self, messages: usize) {
        self.status.stored.add(messages);
        telemetry::stored(messages);
    }
}
