//! Store first, send after: the durable decorator, and the relay that comes with it.

mod batch;
mod breaker;
mod handle;
mod relay;
mod settings;
mod status;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tracing::Instrument;

pub use self::handle::OutboxHandle;
pub use self::relay::Relay;
pub use self::settings::{RelaySettings, WhenExpired};
use self::status::Status;
pub use self::status::{Breaker, OutboxStatus};
use crate::message::Message;
use crate::messenger::{Capabilities, Failure, Health, Messenger, OutboxStore, Overloaded, Stage, Unsent};
use crate::store::{Store, Unstored};
use crate::trace;
use crate::util::error::BoxError;

/// Stores messages durably and then returns `Ok`; a [`Relay`] sends the stored messages through the inner messenger.
///
/// A message survives a broker that is down and a process that dies. It is sent **at least once**, in order for each topic
/// and key; messages without a key have no order across requests. When the store cannot accept it, the request is answered 503, whatever
/// [`OnSendFailure`](crate::layer::OnSendFailure) is; while the store is full, requests are answered 503 before their handler
/// runs ([`Admission`](crate::messenger::Admission)).
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// # #[cfg(feature = "embedded")] {
/// use std::sync::Arc;
/// use std::time::Duration;
/// use tower_outbox::dummy::Dummy;
/// use tower_outbox::store::{EmbeddedStore, EmbeddedStoreSettings};
/// use tower_outbox::outbox::{Outbox, RelaySettings};
/// use tower_outbox::MessagingLayer;
///
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path();
/// let store = EmbeddedStore::open(&EmbeddedStoreSettings::new(path)).await?;
/// let (outbox, relay) = Outbox::new(Dummy::new(), Arc::new(store), RelaySettings::default());
/// let layer = MessagingLayer::new(outbox);
/// let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
/// let relay = tokio::spawn(relay.with_graceful_shutdown(async { drop(stopped.await) }, Duration::from_secs(10)));
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
    outbox: OutboxStore,
    status: Arc<Status>,
}

impl<M: Messenger> Outbox<M> {
    /// A store in front of `inner`, and the relay between the two, which the caller spawns.
    pub fn new(inner: M, store: Arc<dyn Store>, settings: RelaySettings) -> (Self, Relay<M>) {
        let (inner, status) = (Arc::new(inner), Arc::new(Status::default()));
        let relay = Relay::new(Arc::clone(&inner), Arc::clone(&store), Arc::clone(&status), settings);
        (Self { inner, outbox: OutboxStore::new(store), status }, relay)
    }

    /// Returns a handle to look into the store and to operate on it.
    #[must_use]
    pub fn handle(&self) -> OutboxHandle {
        OutboxHandle::new(self.outbox.clone(), Arc::clone(&self.status))
    }
}

impl<M> fmt::Debug for Outbox<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox").field("store", &self.outbox.store().location()).finish_non_exhaustive()
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<M: Messenger> Messenger for Outbox<M> {
    async fn send(&self, batch: Vec<Message>) -> Result<(), Unsent> {
        let (count, span) = (batch.len(), trace::store(&batch));
        match self.outbox.store().append(batch).instrument(span.clone()).await {
            Ok(()) => {
                self.outbox.record(count);
                Ok(())
            }
            Err(Unstored { source, batch, .. }) => {
                trace::failed(&span, "unstored");
                Err(Unsent::new(batch, &Failure::transient(Overloaded::new(source))))
            }
        }
    }

    fn check(&self, message: &Message) -> Result<(), BoxError> {
        match message.delay() {
            None => self.inner.check(message),
            // The store keeps the delay; the broker never sees it.
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

    /// Closes the inner messenger, then the store. Stored messages stay stored.
    async fn close(&self, deadline: Duration) {
        self.inner.close(deadline).await;
        self.outbox.store().close().await;
    }

    /// The inner messenger's, with the admission of the store, and with the store.
    fn capabilities(&self) -> Capabilities {
        let mut capabilities = self.inner.capabilities();
        capabilities.admission = self.outbox.store().admission();
        capabilities.outbox = Some(self.outbox.clone());
        capabilities.stage = Stage::Stored;
        capabilities
    }
}
