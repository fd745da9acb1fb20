//! Store first, send after: the outbox, its relay and its handle, on the embedded store.

mod breaker;
mod bus;
mod database;
mod expiry;
mod handle;
mod layer;
mod order;
mod outcomes;
mod shutdown;
mod spied;
mod working;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tower_outbox::outbox::{Breaker, Outbox, OutboxHandle, RelaySettings};
use tower_outbox::store::{Counts, EmbeddedStore, EmbeddedStoreSettings, Entry, Filter, Store};
use tower_outbox::{Message, Messenger};
use uuid::Uuid;

use crate::support::stores::{STUCK, open, until};

/// Retries soon.
fn quick() -> RelaySettings {
    RelaySettings::default().with_max_backoff(Duration::from_millis(5))
}

async fn embedded(folder: &Path) -> EmbeddedStore {
    open(&EmbeddedStoreSettings::new(folder)).await.unwrap()
}

/// An outbox whose relay runs.
struct RunningOutbox<M> {
    outbox: Outbox<M>,
    handle: OutboxHandle,
    stop: oneshot::Sender<()>,
    relay: JoinHandle<Counts>,
}

/// Runs a relay from this store to this messenger; at its stop it has `deadline`.
fn run_for<M: Messenger>(
    messenger: M,
    store: impl Store,
    settings: RelaySettings,
    deadline: Duration,
) -> RunningOutbox<M> {
    let (outbox, relay) = Outbox::new(messenger, Arc::new(store), settings);
    let (stop, stopped) = oneshot::channel();
    let relay = tokio::spawn(relay.with_graceful_shutdown(async { drop(stopped.await) }, deadline));
    RunningOutbox { handle: outbox.handle(), outbox, stop, relay }
}

fn run<M: Messenger>(messenger: M, store: impl Store, settings: RelaySettings) -> RunningOutbox<M> {
    run_for(messenger, store, settings, STUCK)
}

/// The same on a new embedded store, whose folder comes with it.
async fn start<M: Messenger>(messenger: M, settings: RelaySettings) -> (RunningOutbox<M>, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let store = embedded(folder.path()).await;
    (run(messenger, store, settings), folder)
}

impl<M: Messenger> RunningOutbox<M> {
    async fn store(&self, messages: Vec<Message>) {
        self.outbox.send(messages).await.unwrap();
    }

    async fn entry(&self, id: Uuid) -> Option<Entry> {
        self.handle.find(&Filter::id(id)).await.unwrap()
    }

    async fn breaker(&self) -> Breaker {
        self.handle.status().await.unwrap().breaker
    }

    async fn is_open(&self) -> bool {
        matches!(self.breaker().await, Breaker::Open { .. })
    }

    /// Waits until this many messages are pending and dead.
    async fn until_left(&self, pending: u64, dead: u64) {
        let mut counts = Counts::default();
        let is_so = timeout(STUCK, async {
            loop {
                counts = self.handle.status().await.unwrap().counts;
                if (counts.pending, counts.dead) == (pending, dead) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
        assert!(is_so.await.is_ok(), "waited in vain for {pending} pending and {dead} dead: {counts:?}");
    }

    async fn until_open(&self) {
        until("the breaker opens", async || self.is_open().await).await;
    }

    /// Stops the relay; gives what is left.
    async fn stop(self) -> Counts {
        self.stop.send(()).unwrap();
        timeout(2 * STUCK, self.relay).await.expect("the relay does not stop").unwrap()
    }
}
