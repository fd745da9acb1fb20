//! A store that tells what is asked of it, and fails or waits when it is told to.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Semaphore;
use tower_outbox::message::Settlement;
use tower_outbox::messenger::Admission;
use tower_outbox::store::{Counts, EmbeddedStore, Filter, Lease, Leased, Page, Store, StoreError, Unstored};
use tower_outbox::{Message, async_trait};

/// A clone is another handle.
#[derive(Clone)]
pub struct Spied {
    inner: EmbeddedStore,
    spy: Arc<Spy>,
}

pub struct Spy {
    pub leases: AtomicUsize,
    pub settled: Mutex<Vec<Settlement>>,
    /// How many more times it fails.
    pub failing_settles: AtomicUsize,
    pub failing_leases: AtomicUsize,
    /// Appends wait here.
    pub appending: Semaphore,
    pub appends: AtomicUsize,
}

impl Spied {
    pub fn new(inner: EmbeddedStore) -> (Self, Arc<Spy>) {
        let spy = Arc::new(Spy {
            leases: AtomicUsize::new(0),
            settled: Mutex::default(),
            failing_settles: AtomicUsize::new(0),
            failing_leases: AtomicUsize::new(0),
            appending: Semaphore::new(Semaphore::MAX_PERMITS),
            appends: AtomicUsize::new(0),
        });
        (Self { inner, spy: Arc::clone(&spy) }, spy)
    }
}

/// Whether it fails this time.
fn fails(times: &AtomicUsize) -> bool {
    times.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |times| times.checked_sub(1)).is_ok()
}

#[async_trait]
impl Store for Spied {
    async fn append(&self, batch: Vec<Message>) -> Result<(), Unstored> {
        self.spy.appends.fetch_add(1, Ordering::SeqCst);
        let _permit = self.spy.appending.acquire().await;
        self.inner.append(batch).await
    }

    async fn lease(&self, limit: usize) -> Result<Vec<Leased>, StoreError> {
        self.spy.leases.fetch_add(1, Ordering::SeqCst);
        if fails(&self.spy.failing_leases) {
            return Err(StoreError::unavailable("the disk does not answer"));
        }
        self.inner.lease(limit).await
    }

    async fn settle(&self, settled: &[(Lease, Settlement)]) -> Result<(), StoreError> {
        if fails(&self.spy.failing_settles) {
            return Err(StoreError::unavailable("the disk does not answer"));
        }
        self.spy.settled.lock().unwrap().extend(settled.iter().map(|(_, settlement)| settlement.clone()));
        self.inner.settle(settled).await
    }

    async fn list(&self, filter: &Filter, after: Option<u64>, limit: usize) -> Result<Page, StoreError> {
        self.inner.list(filter, after, limit).await
    }

    async fn requeue(&self, positions: &[u64], pace: Duration) -> Result<usize, StoreError> {
        self.inner.requeue(positions, pace).await
    }

    async fn drop_messages(&self, positions: &[u64]) -> Result<usize, StoreError> {
        self.inner.drop_messages(positions).await
    }

    async fn counts(&self) -> Result<Counts, StoreError> {
        self.inner.counts().await
    }

    fn location(&self) -> String {
        self.inner.location()
    }

    fn admission(&self) -> Option<Admission> {
        self.inner.admission()
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}
