//! What the tests of stores and of what works on them share.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tower_outbox::store::{
    Counts, Entry, Filter, Lease, Leased, Limits, Overflow, Page, Settlement, Store, StoreError, Unstored,
};
use tower_outbox::{Admission, Embedded, EmbeddedSettings, Message, OpenError, async_trait};
use uuid::Uuid;

/// Long enough to call something stuck, on the clock of the wall.
pub const STUCK: Duration = Duration::from_secs(30);

/// Long enough to say that something does not happen, on the clock of the wall.
pub const QUIET: Duration = Duration::from_millis(150);

/// Opens an embedded store; one that was dropped a moment ago may need another to let go of its folder.
pub async fn open(settings: &EmbeddedSettings) -> Result<Embedded, OpenError> {
    let begun = Instant::now();
    loop {
        match Embedded::open(settings).await {
            Err(OpenError::InUse { .. }) if begun.elapsed() < STUCK => sleep(Duration::from_millis(5)).await,
            opened => return opened,
        }
    }
}

pub async fn embedded(path: &Path) -> Embedded {
    open(&EmbeddedSettings::new(path)).await.unwrap()
}

pub fn limits(max_messages: u64, overflow: Overflow) -> Limits {
    let mut limits = Limits::default();
    (limits.max_messages, limits.overflow) = (max_messages, overflow);
    limits
}

/// `count` messages of one topic, told apart by their ids.
pub fn batch(topic: &'static str, count: usize) -> Vec<Message> {
    (0..count).map(|n| Message::json(topic, &serde_json::json!({"n": n})).unwrap()).collect()
}

pub fn keyed(topic: &'static str, key: &str) -> Message {
    super::message(topic).with_key(key)
}

pub fn ids<'a>(messages: impl IntoIterator<Item = &'a Message>) -> Vec<Uuid> {
    messages.into_iter().map(Message::id).collect()
}

pub fn ids_of(leased: &[Leased]) -> Vec<Uuid> {
    leased.iter().map(|one| one.message.id()).collect()
}

/// What is due now; it must not be nothing.
pub async fn lease(store: &impl Store, limit: usize) -> Vec<Leased> {
    timeout(STUCK, store.lease(limit)).await.expect("nothing is leased").unwrap()
}

/// Leases until `count` messages are out.
pub async fn lease_all(store: &impl Store, count: usize) -> Vec<Leased> {
    let mut all = Vec::new();
    while all.len() < count {
        all.extend(lease(store, count - all.len()).await);
    }
    all
}

pub async fn assert_nothing_due(store: &impl Store) {
    if let Ok(leased) = timeout(QUIET, store.lease(100)).await {
        panic!("nothing is due, and yet: {leased:?}");
    }
}

pub async fn settle(store: &impl Store, leased: &[Leased], settlement: Settlement) {
    let settled: Vec<_> = leased.iter().map(|one| (one.lease, settlement.clone())).collect();
    store.settle(&settled).await.unwrap();
}

pub async fn confirm(store: &impl Store, leased: &[Leased]) {
    settle(store, leased, Settlement::Confirmed).await;
}

pub fn retry(after: Duration) -> Settlement {
    Settlement::Retry { after, reason: "no answer".into() }
}

pub fn dead(reason: &str) -> Settlement {
    Settlement::Dead { reason: reason.into() }
}

/// All that is meant, page by page.
pub async fn list_by(store: &impl Store, filter: &Filter, page: usize) -> Vec<Entry> {
    let (mut entries, mut after) = (Vec::new(), None);
    loop {
        let page = store.list(filter, after, page).await.unwrap();
        entries.extend(page.entries);
        match page.next {
            Some(next) => {
                assert!(after.is_none_or(|after| next > after), "pages go forward");
                after = Some(next);
            }
            None => return entries,
        }
    }
}

pub async fn list(store: &impl Store) -> Vec<Entry> {
    list_by(store, &Filter::default(), 100).await
}

pub async fn find(store: &impl Store, id: Uuid) -> Entry {
    list_by(store, &Filter::id(id), 100).await.pop().expect("it is not stored")
}

/// How many messages are pending, and how many dead.
pub async fn depth(store: &impl Store) -> (u64, u64) {
    let counts = store.counts().await.unwrap();
    (counts.pending, counts.dead)
}

/// Waits until it is so.
pub async fn until<F: Future<Output = bool>>(what: &str, mut is_so: impl FnMut() -> F) {
    let begun = Instant::now();
    while !is_so().await {
        assert!(begun.elapsed() < STUCK, "waited in vain until {what}");
        sleep(Duration::from_millis(2)).await;
    }
}

/// A store that is counted, and fails and waits when it is told to.
#[derive(Clone)]
pub struct Watched(Arc<Watch>);

pub struct Watch {
    store: Embedded,
    /// How many calls of `lease`, `append` and `settle` there were.
    pub leases: AtomicUsize,
    pub appends: AtomicUsize,
    pub settles: AtomicUsize,
    /// How many of the next calls fail.
    pub failing_leases: AtomicUsize,
    pub failing_appends: AtomicUsize,
    pub failing_settles: AtomicUsize,
    /// Whether appends wait at the gate, after they were stored or before.
    pub holding: AtomicBool,
    pub gate: Semaphore,
}

impl Watched {
    pub fn new(store: Embedded) -> Self {
        Self(Arc::new(Watch {
            store,
            leases: AtomicUsize::new(0),
            appends: AtomicUsize::new(0),
            settles: AtomicUsize::new(0),
            failing_leases: AtomicUsize::new(0),
            failing_appends: AtomicUsize::new(0),
            failing_settles: AtomicUsize::new(0),
            holding: AtomicBool::new(false),
            gate: Semaphore::new(0),
        }))
    }
}

impl std::ops::Deref for Watched {
    type Target = Watch;

    fn deref(&self) -> &Watch {
        &self.0
    }
}

/// Counts a call; whether it fails.
fn count(calls: &AtomicUsize, failing: &AtomicUsize) -> bool {
    calls.fetch_add(1, Ordering::SeqCst);
    failing.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
}

fn failed() -> StoreError {
    StoreError::unavailable("the disk is broken")
}

#[async_trait]
impl Store for Watched {
    async fn append(&self, batch: Vec<Message>) -> Result<(), Unstored> {
        if count(&self.appends, &self.failing_appends) {
            return Err(Unstored::new(failed(), batch));
        }
        if self.holding.load(Ordering::SeqCst) {
            self.gate.acquire().await.unwrap().forget();
        }
        self.store.append(batch).await
    }

    async fn lease(&self, limit: usize) -> Result<Vec<Leased>, StoreError> {
        if count(&self.leases, &self.failing_leases) {
            return Err(failed());
        }
        self.store.lease(limit).await
    }

    async fn settle(&self, settled: &[(Lease, Settlement)]) -> Result<(), StoreError> {
        if count(&self.settles, &self.failing_settles) {
            return Err(failed());
        }
        self.store.settle(settled).await
    }

    async fn list(&self, filter: &Filter, after: Option<u64>, limit: usize) -> Result<Page, StoreError> {
        self.store.list(filter, after, limit).await
    }

    async fn requeue(&self, positions: &[u64], pace: Duration) -> Result<usize, StoreError> {
        self.store.requeue(positions, pace).await
    }

    async fn drop_messages(&self, positions: &[u64]) -> Result<usize, StoreError> {
        self.store.drop_messages(positions).await
    }

    async fn counts(&self) -> Result<Counts, StoreError> {
        self.store.counts().await
    }

    fn place(&self) -> String {
        self.store.place()
    }

    fn admission(&self) -> Option<Admission> {
        self.store.admission()
    }

    async fn close(&self) {
        self.store.close().await;
    }
}
