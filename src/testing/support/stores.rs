//! Helpers of the checks of stores.

use std::time::{Duration, Instant};

use crate::message::{Message, Settlement};
use crate::store::{Entry, Filter, Leased, Limits, Store, WhenFull};
use tokio::time::{sleep, timeout};
use uuid::Uuid;

/// Long enough to call something stuck, on the clock of the wall.
pub const STUCK: Duration = Duration::from_secs(30);

/// Long enough to prove that something does not happen, in real time.
pub const QUIET: Duration = Duration::from_millis(150);

pub fn limits(max_messages: u64, when_full: WhenFull) -> Limits {
    let mut limits = Limits::default();
    (limits.max_messages, limits.when_full) = (max_messages, when_full);
    limits
}

/// A message whose body is an object.
pub fn message(topic: &'static str) -> Message {
    Message::json(topic, &serde_json::json!({"topic": topic})).unwrap()
}

pub fn topics<'a>(messages: impl IntoIterator<Item = &'a Message>) -> Vec<String> {
    messages.into_iter().map(|message| message.topic().to_string()).collect()
}

/// `count` messages of one topic, distinguished by their ids.
pub fn batch(topic: &'static str, count: usize) -> Vec<Message> {
    (0..count).map(|n| Message::json(topic, &serde_json::json!({"n": n})).unwrap()).collect()
}

pub fn keyed(topic: &'static str, key: &str) -> Message {
    message(topic).with_key(key)
}

pub fn ids<'a>(messages: impl IntoIterator<Item = &'a Message>) -> Vec<Uuid> {
    messages.into_iter().map(Message::id).collect()
}

pub fn ids_of(leased: &[Leased]) -> Vec<Uuid> {
    leased.iter().map(|one| one.message.id()).collect()
}

/// Leases the due messages; fails if there are none.
pub async fn lease(store: &(impl Store + ?Sized), limit: usize) -> Vec<Leased> {
    timeout(STUCK, store.lease(limit)).await.expect("nothing is leased").unwrap()
}

/// Leases until `count` messages are out.
pub async fn lease_all(store: &(impl Store + ?Sized), count: usize) -> Vec<Leased> {
    let mut all = Vec::new();
    while all.len() < count {
        all.extend(lease(store, count - all.len()).await);
    }
    all
}

pub async fn assert_nothing_due(store: &(impl Store + ?Sized)) {
    if let Ok(leased) = timeout(QUIET, store.lease(100)).await {
        panic!("nothing is due, and yet: {leased:?}");
    }
}

pub async fn settle(store: &(impl Store + ?Sized), leased: &[Leased], settlement: Settlement) {
    let settled: Vec<_> = leased.iter().map(|one| (one.lease, settlement.clone())).collect();
    store.settle(&settled).await.unwrap();
}

pub async fn confirm(store: &(impl Store + ?Sized), leased: &[Leased]) {
    settle(store, leased, Settlement::Ack).await;
}

pub fn retry(after: Duration) -> Settlement {
    Settlement::Retry { after, reason: "no answer".into() }
}

pub fn dead(reason: &str) -> Settlement {
    Settlement::Reject { reason: reason.into() }
}

/// All that is meant, page by page.
pub async fn list_by(store: &(impl Store + ?Sized), filter: &Filter, page: usize) -> Vec<Entry> {
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

pub async fn list(store: &(impl Store + ?Sized)) -> Vec<Entry> {
    list_by(store, &Filter::default(), 100).await
}

pub async fn find(store: &(impl Store + ?Sized), id: Uuid) -> Entry {
    list_by(store, &Filter::id(id), 100).await.pop().expect("it is not stored")
}

/// How many messages are pending, and how many dead.
pub async fn depth(store: &(impl Store + ?Sized)) -> (u64, u64) {
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
