//! A queue in a store, without a broker.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use crate::message::{Message, Settlement};
use crate::messenger::{Capabilities, Failure, Health, Messenger, Overloaded, Unsent};
use crate::source::{Settle, Source, SourceError, Unsettled};
use crate::store::{Lease, Store, StoreError};

/// A queue in a [`Store`], such as [`EmbeddedStore`](crate::store::EmbeddedStore): a [`Messenger`] that stores messages, and a
/// [`Source`] of the stored messages. A service that sends messages to itself needs no broker.
///
/// `Ok` from its `send` means *stored*. The store keeps the order of a topic and key, also over retries, and the dead
/// letters with their reasons. Do not share the store with an [`Outbox`](crate::outbox::Outbox), whose relay would send the
/// messages to the broker. A clone is a handle to the same queue.
#[derive(Clone)]
pub struct StoreQueue {
    store: Arc<dyn Store>,
    name: Arc<str>,
    /// Cancelled when the source is closed.
    closed: CancellationToken,
}

impl StoreQueue {
    /// Makes a queue in `store`, which nothing else may use.
    #[must_use]
    pub fn new(store: Arc<dyn Store>) -> Self {
        let name = store.location().into();
        Self { store, name, closed: CancellationToken::new() }
    }

    /// Returns the store.
    #[must_use]
    pub fn store(&self) -> &dyn Store {
        &*self.store
    }
}

impl fmt::Debug for StoreQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreQueue").field("store", &self.name).finish()
    }
}

#[async_trait]
impl Messenger for StoreQueue {
    async fn send(&self, batch: Vec<Message>) -> Result<(), Unsent> {
        let unstored = match self.store.append(batch).await {
            Ok(()) => return Ok(()),
            Err(unstored) => unstored,
        };
        let failure = Failure::transient(Overloaded::new(unstored.source));
        Err(Unsent::new(unstored.batch, &failure))
    }

    async fn health(&self) -> Health {
        match self.store.counts().await {
            Ok(_) => Health::Up,
            Err(error) => Health::Down { reason: crate::util::error::Chain(&error).to_string() },
        }
    }

    async fn close(&self, _: Duration) {
        self.store.close().await;
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { admission: self.store.admission(), ..Capabilities::default() }
    }
}

#[async_trait]
impl Source for StoreQueue {
    async fn receive(&self, limit: usize) -> Result<Vec<Unsettled>, SourceError> {
        let leased = tokio::select! {
            biased;
            () = self.closed.cancelled() => return Err(SourceError::Closed),
            leased = self.store.lease(limit) => leased.map_err(source_error)?,
        };
        let given = leased.into_iter().map(|leased| {
            let out = Out { store: Arc::clone(&self.store), lease: leased.lease };
            let attempt = leased.attempts.saturating_add(1);
            Unsettled::new(leased.message, attempt, attempt > 1, Arc::clone(&self.name), Vec::new(), out)
        });
        Ok(given.collect())
    }

    /// Stops receiving. Messages can still be sent, as the store stays open until the messenger is closed.
    async fn close(&self, _: Duration) {
        self.closed.cancel();
    }

    async fn backlog(&self) -> Option<u64> {
        Some(self.store.counts().await.ok()?.pending)
    }

    fn name(&self) -> Arc<str> {
        Arc::clone(&self.name)
    }
}

struct Out {
    store: Arc<dyn Store>,
    lease: Lease,
}

#[async_trait]
impl Settle for Out {
    async fn settle(self: Box<Self>, settlement: Settlement) -> Result<(), SourceError> {
        self.store.settle(&[(self.lease, settlement)]).await.map_err(source_error)
    }
}

fn source_error(error: StoreError) -> SourceError {
    match error {
        StoreError::Closed => SourceError::Closed,
        error => SourceError::unavailable(error),
    }
}
