//! A lease waits until something is due, and no longer.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::task::JoinHandle;
use tokio::time::timeout;
use crate::message::Settlement;
use crate::store::{Leased, Store};

use super::harness::StoreHarness;
use crate::testing::support::fuse::fuse;
use crate::testing::support::stores::message;
use crate::testing::support::random::Random;
use crate::testing::support::stores::{
    QUIET, STUCK, assert_nothing_due, batch, confirm, dead, depth, ids, ids_of, keyed, lease, lease_all,
    retry, settle,
};

const HOUR: Duration = Duration::from_secs(3_600);

/// A lease that has begun to wait.
async fn waiting(store: &Arc<dyn Store>) -> JoinHandle<Vec<Leased>> {
    let lease = tokio::spawn({
        let store = Arc::clone(store);
        async move { store.lease(100).await.unwrap() }
    });
    tokio::time::sleep(QUIET).await;
    assert!(!lease.is_finished(), "nothing is due");
    lease
}

async fn ended(lease: JoinHandle<Vec<Leased>>) -> Vec<Leased> {
    timeout(STUCK, lease).await.expect("it was not woken").unwrap()
}

pub async fn a_lease_waits_for_an_append(harness: StoreHarness) {
    let store = harness.open().await;
    for _ in 0..3 {
        let lease = waiting(&store).await;
        let messages = batch("a", 2);
        store.append(messages.clone()).await.unwrap();
        let mut out = ended(lease).await;
        out.extend(lease_all(&*store, 2 - out.len()).await);
        assert_eq!(ids_of(&out), ids(&messages));
        confirm(&*store, &out).await;
    }
}

pub async fn a_lease_waits_for_a_retry(harness: StoreHarness) {
    let store = harness.open().await;
    store.append(batch("a", 2)).await.unwrap();
    let out = lease_all(&*store, 2).await;
    settle(&*store, &out[..1], retry(HOUR)).await;
    let lease = waiting(&store).await;
    // Sooner than the one it waits for.
    settle(&*store, &out[1..], retry(Duration::from_millis(50))).await;
    assert_eq!(ids_of(&ended(lease).await), ids_of(&out[1..]));
}

pub async fn a_lease_waits_for_a_delay(harness: StoreHarness) {
    let store = harness.open().await;
    let begun = Instant::now();
    let messages = [
        message("a").with_delay(HOUR),
        message("a").with_delay(Duration::from_millis(3_500)),
        message("a").with_delay(Duration::from_millis(2_000)),
    ];
    store.append(messages.to_vec()).await.unwrap();
    let lease_first = waiting(&store).await;
    let first = ended(lease_first).await;
    assert_eq!(ids_of(&first), [messages[2].id()]);
    // The time of a message is on another clock.
    assert!(begun.elapsed() >= Duration::from_millis(1_990), "{:?}", begun.elapsed());
    assert_eq!(first[0].message.delay(), messages[2].delay(), "it is the sender's to take away");
    let store = harness.reopen(store).await;
    let out = lease_all(&*store, 2).await;
    assert_eq!(out.iter().map(|one| one.message.id()).collect::<HashSet<_>>().len(), 2);
    assert!(!ids_of(&out).contains(&messages[0].id()));
    assert!(begun.elapsed() >= Duration::from_millis(3_490), "{:?}", begun.elapsed());
    assert_nothing_due(&*store).await;
}

pub async fn a_lease_waits_for_a_key_to_be_freed(harness: StoreHarness) {
    let store = harness.open().await;
    for settlement in [Settlement::Ack, Settlement::Discard, dead("given up")] {
        let messages = [keyed("a", "k"), keyed("a", "k")];
        store.append(messages.to_vec()).await.unwrap();
        let out = lease(&*store, 1).await;
        let lease = waiting(&store).await;
        settle(&*store, &out, settlement).await;
        let next = ended(lease).await;
        assert_eq!(ids_of(&next), [messages[1].id()]);
        confirm(&*store, &next).await;
    }
}

pub async fn a_lease_waits_for_a_release(harness: StoreHarness) {
    let store = harness.open().await;
    store.append(batch("a", 1)).await.unwrap();
    let out = lease(&*store, 1).await;
    let lease = waiting(&store).await;
    settle(&*store, &out, Settlement::Release).await;
    assert_eq!(ids_of(&ended(lease).await), ids_of(&out));
}

pub async fn a_lease_waits_for_a_requeue(harness: StoreHarness) {
    let store = harness.open().await;
    for settlement in [dead("given up"), retry(HOUR)] {
        store.append(batch("a", 1)).await.unwrap();
        let out = lease(&*store, 1).await;
        settle(&*store, &out, settlement).await;
        let lease = waiting(&store).await;
        assert_eq!(store.requeue(&[out[0].lease.position], Duration::ZERO).await.unwrap(), 1);
        let again = ended(lease).await;
        assert_eq!(ids_of(&again), ids_of(&out));
        confirm(&*store, &again).await;
    }
}

pub async fn a_delay_is_counted_from_the_time_of_the_message(harness: StoreHarness) {
    let store = harness.open().await;
    let past = message("a").with_time(SystemTime::now() - HOUR).with_delay(HOUR / 2);
    let hour_ago = message("b").with_time(SystemTime::now() - HOUR).with_delay(HOUR + HOUR / 2);
    store.append(vec![hour_ago, past.clone()]).await.unwrap();
    assert_eq!(ids_of(&lease(&*store, 10).await), [past.id()]);
    assert_nothing_due(&*store).await;
}

pub async fn a_delay_of_another_does_not_hold_up_what_is_due(harness: StoreHarness) {
    let store = harness.open().await;
    let held_back: Vec<_> = (0..50).map(|_| message("a").with_delay(HOUR)).collect();
    store.append(held_back).await.unwrap();
    let messages = batch("b", 3);
    store.append(messages.clone()).await.unwrap();
    assert_eq!(ids_of(&lease_all(&*store, 3).await), ids(&messages));
    let store = harness.reopen(store).await;
    assert_eq!(ids_of(&lease_all(&*store, 3).await), ids(&messages));
    assert_eq!(depth(&*store).await, (53, 0));
}

/// As of an app whose clock was set back since.
pub async fn a_message_from_the_future_is_due_at_once(harness: StoreHarness) {
    let store = harness.open().await;
    let messages = [message("a").with_time(SystemTime::now() + 1_000 * HOUR), message("a")];
    store.append(messages.to_vec()).await.unwrap();
    assert_eq!(ids_of(&lease_all(&*store, 2).await), ids(&messages));
}

pub async fn a_dropped_lease_has_leased_nothing(harness: StoreHarness) {
    let store = harness.open().await;
    // Dropped while it waits: what comes later is not its own.
    for polls in 0..20 {
        assert!(fuse(polls, store.lease(10)).await.is_none());
    }
    let messages = batch("a", 20);
    store.append(messages.clone()).await.unwrap();
    // Dropped while it is given something.
    for polls in 0..200 {
        if let Some(leased) = fuse(polls % 5, store.lease(1 + polls % 25)).await {
            settle(&*store, &leased.unwrap(), Settlement::Release).await;
        }
    }
    assert_eq!(ids_of(&lease_all(&*store, 20).await), ids(&messages));
}

pub async fn leases_dropped_beside_appends_lose_nothing(harness: StoreHarness) {
    const MESSAGES: usize = 2_000;
    let store = harness.open().await;
    let appending = tokio::spawn({
        let store = Arc::clone(&store);
        async move {
            for _ in 0..MESSAGES / 10 {
                store.append(batch("a", 10)).await.unwrap();
            }
        }
    });
    let mut random = Random::new(5);
    let (mut confirmed, mut dropped) = (HashSet::new(), 0);
    let begun = Instant::now();
    while confirmed.len() < MESSAGES {
        assert!(begun.elapsed() < STUCK, "{} of {MESSAGES} came", confirmed.len());
        let patience = Duration::from_micros(random.below(400) as u64);
        let leased = match random.below(3) {
            0 => fuse(1, store.lease(20)).await,
            1 => timeout(patience, store.lease(20)).await.ok(),
            _ => timeout(QUIET, store.lease(20)).await.ok(),
        };
        let Some(leased) = leased else {
            dropped += 1;
            continue;
        };
        let leased = leased.unwrap();
        confirm(&*store, &leased).await;
        for id in ids_of(&leased) {
            assert!(confirmed.insert(id), "{id} was given out twice");
        }
    }
    appending.await.unwrap();
    assert!(dropped > 0, "no lease was dropped");
    assert_eq!(depth(&*store).await, (0, 0));
}

pub async fn two_leases_share_what_is_due(harness: StoreHarness) {
    let store = harness.open().await;
    let leases = [waiting(&store).await, waiting(&store).await];
    let messages = batch("a", 200);
    for chunk in messages.chunks(50) {
        store.append(chunk.to_vec()).await.unwrap();
    }
    let [a, b] = leases;
    let mut found: Vec<_> = ids_of(&ended(a).await);
    let rest = tokio::spawn({
        let store = Arc::clone(&store);
        async move {
            let mut found = Vec::new();
            while let Ok(leased) = timeout(QUIET, store.lease(30)).await {
                found.extend(ids_of(&leased.unwrap()));
            }
            found
        }
    });
    found.extend(ids_of(&ended(b).await));
    found.extend(rest.await.unwrap());
    found.sort();
    let mut all = ids(&messages);
    all.sort();
    assert_eq!(found, all);
}
