//! Order for each topic and key.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use serde_json::json;
use tokio::time::timeout;
use crate::message::{Message, Settlement};
use crate::store::{Leased, Store};
use uuid::Uuid;

use super::harness::StoreHarness;
use crate::testing::support::random::Random;
use crate::testing::support::stores::{
    STUCK, assert_nothing_due, confirm, dead, depth, ids, ids_of, keyed, lease, lease_all, retry, settle,
};

const HOUR: Duration = Duration::from_secs(3_600);
const SHORT: Duration = Duration::from_millis(60);

async fn append(store: &(impl Store + ?Sized), messages: Vec<Message>) -> Vec<Uuid> {
    let ids = ids(&messages);
    store.append(messages).await.unwrap();
    ids
}

pub async fn several_of_a_key_are_leased_together_in_order(harness: StoreHarness) {
    let store = harness.open().await;
    let mut all = append(&*store, vec![keyed("a", "k"), keyed("a", "l"), keyed("a", "k")]).await;
    all.extend(append(&*store, vec![keyed("a", "k"), keyed("a", "l")]).await);
    assert_eq!(ids_of(&lease(&*store, 10).await), all);
}

pub async fn the_next_of_a_key_waits_while_one_is_leased(harness: StoreHarness) {
    let store = harness.open().await;
    let first = append(&*store, vec![keyed("a", "k")]).await;
    let out = lease(&*store, 10).await;
    assert_eq!(ids_of(&out), first);
    let second = append(&*store, vec![keyed("a", "k")]).await;
    let other = append(&*store, vec![keyed("a", "other")]).await;
    assert_eq!(ids_of(&lease(&*store, 10).await), other);
    assert_nothing_due(&*store).await;
    confirm(&*store, &out).await;
    assert_eq!(ids_of(&lease(&*store, 10).await), second);
}

pub async fn the_next_of_a_key_waits_for_an_earlier_retry(harness: StoreHarness) {
    let store = harness.open().await;
    let all = append(&*store, vec![keyed("a", "k"), keyed("a", "k"), keyed("a", "other")]).await;
    let out = lease(&*store, 1).await;
    settle(&*store, &out, retry(SHORT)).await;
    assert_eq!(ids_of(&lease(&*store, 10).await), all[2..]);
    assert_eq!(ids_of(&lease_all(&*store, 2).await), all[..2]);
}

pub async fn a_released_message_waits_for_an_earlier_retry_of_its_key(harness: StoreHarness) {
    let store = harness.open().await;
    let all = append(&*store, vec![keyed("a", "k"), keyed("a", "k"), keyed("a", "k")]).await;
    let out = lease_all(&*store, 3).await;
    // The second is confirmed, as by a broker that accepts a part of a batch.
    let settled =
        [(out[2].lease, Settlement::Release), (out[0].lease, retry(SHORT)), (out[1].lease, Settlement::Ack)];
    store.settle(&settled).await.unwrap();
    assert_eq!(ids_of(&lease_all(&*store, 2).await), [all[0], all[2]]);
}

pub async fn a_dead_letter_frees_its_key(harness: StoreHarness) {
    let store = harness.open().await;
    let all = append(&*store, vec![keyed("a", "k"), keyed("a", "k")]).await;
    let out = lease(&*store, 1).await;
    settle(&*store, &out, dead("too large")).await;
    assert_eq!(ids_of(&lease(&*store, 10).await), all[1..]);
    let third = append(&*store, vec![keyed("a", "l"), keyed("a", "l")]).await;
    let out = lease(&*store, 1).await;
    settle(&*store, &out, Settlement::Discard).await;
    assert_eq!(ids_of(&lease(&*store, 10).await), third[1..]);
}

pub async fn released_messages_of_a_key_come_back_in_order(harness: StoreHarness) {
    let store = harness.open().await;
    let all = append(&*store, (0..6).map(|_| keyed("a", "k")).collect()).await;
    let out = lease_all(&*store, 4).await;
    assert_eq!(ids_of(&out), all[..4]);
    // From the last to the first: no other may slip in between.
    for one in out.iter().rev() {
        assert_nothing_due_of_key(&*store).await;
        settle(&*store, std::slice::from_ref(one), Settlement::Release).await;
    }
    assert_eq!(ids_of(&lease_all(&*store, 6).await), all);
}

/// A short look: what is behind one that is out is not due.
async fn assert_nothing_due_of_key(store: &(impl Store + ?Sized)) {
    if let Ok(leased) = tokio::time::timeout(Duration::from_millis(20), store.lease(10)).await {
        panic!("an earlier one is out: {leased:?}");
    }
}

pub async fn other_keys_and_messages_without_one_go_on(harness: StoreHarness) {
    let store = harness.open().await;
    append(&*store, vec![keyed("a", "k")]).await;
    let stuck = lease(&*store, 1).await;
    settle(&*store, &stuck, retry(HOUR)).await;
    let bare = || Message::new("a", "").unwrap();
    let all = append(&*store, vec![bare(), keyed("a", "k"), keyed("a", "l"), keyed("a", ""), bare()]).await;
    let out = lease_all(&*store, 4).await;
    assert_eq!(ids_of(&out), [all[0], all[2], all[3], all[4]]);
    // One without a key waits for nobody, also of its own.
    settle(&*store, &out[..1], retry(HOUR)).await;
    let more = append(&*store, vec![bare()]).await;
    assert_eq!(ids_of(&lease(&*store, 10).await), more);
    assert_nothing_due(&*store).await;
}

pub async fn the_same_key_of_another_topic_is_another(harness: StoreHarness) {
    let store = harness.open().await;
    append(&*store, vec![keyed("a", "k")]).await;
    let stuck = lease(&*store, 1).await;
    settle(&*store, &stuck, retry(HOUR)).await;
    // Nor do a topic and a key run together.
    let all =
        append(&*store, vec![keyed("b", "k"), keyed("a.k", ""), keyed("ak", "k"), keyed("a", "kk")]).await;
    assert_eq!(ids_of(&lease_all(&*store, 4).await), all);
}

pub async fn a_key_that_exceeds_the_limit_of_a_lease_waits_for_its_rest(harness: StoreHarness) {
    let store = harness.open().await;
    let all = append(&*store, (0..5).map(|_| keyed("a", "k")).collect()).await;
    let out = lease_all(&*store, 2).await;
    assert_nothing_due(&*store).await;
    confirm(&*store, &out[..1]).await;
    assert_nothing_due(&*store).await;
    confirm(&*store, &out[1..]).await;
    assert_eq!(ids_of(&lease_all(&*store, 3).await), all[2..]);
}

/// Two keys whose messages lie between each other, due again at the same time.
pub async fn interleaved_keys_are_all_leased(harness: StoreHarness) {
    let store = harness.open().await;
    let all = append(&*store, (0..6).map(|n| keyed("a", ["k", "l"][n % 2])).collect()).await;
    for settlement in [Settlement::Release, retry(Duration::ZERO)] {
        let out = lease_all(&*store, 6).await;
        assert_eq!(
            out.iter().map(|one| one.message.id()).collect::<HashSet<_>>(),
            all.iter().copied().collect()
        );
        settle(&*store, &out, settlement).await;
    }
    assert_eq!(depth(&*store).await, (6, 0), "none is given up on");
    let store = harness.reopen(store).await;
    assert_eq!(lease_all(&*store, 6).await.len(), 6);
}

/// A thousand messages of ten keys, sent to a broker that confirms, returns and delays at random.
pub async fn many_keys_keep_their_order_whatever_happens(harness: StoreHarness) {
    let store = harness.open().await;
    let mut random = Random::new(7);
    let key = |n: usize| format!("key-{}", n * n % 17 % 10);
    let all: Vec<_> = (0..1_000).map(|n| Message::json("a", &json!(n)).unwrap().with_key(key(n))).collect();
    for batch in all.chunks(50) {
        store.append(batch.to_vec()).await.unwrap();
    }
    let mut out: BTreeMap<u64, (Leased, usize)> = BTreeMap::new();
    let mut left: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for n in (0..1_000).rev() {
        left.entry(key(n)).or_default().push(n);
    }
    while left.values().any(|left| !left.is_empty()) {
        // A lease that is dropped again and again may never come to its end.
        let patience = if out.is_empty() { STUCK } else { Duration::from_millis(5) };
        let leased = timeout(patience, store.lease(1 + random.below(50))).await;
        for one in leased.into_iter().flat_map(Result::unwrap) {
            let n = serde_json::from_slice(one.message.body()).unwrap();
            let of_key = &left[&key(n)];
            let before = of_key.iter().rev().take_while(|before| **before != n);
            let is_out = |before: &usize| out.values().any(|(_, n)| n == before);
            assert!(before.clone().all(is_out), "{n} is leased before {:?}", before.collect::<Vec<_>>());
            out.insert(one.lease.position, (one, n));
        }
        let mut settled = Vec::new();
        for (one, n) in out.values() {
            let of_key = left.get_mut(&key(*n)).unwrap();
            // It confirms none before an earlier one.
            let settlement = match random.below(10) {
                0..3 => continue,
                3 => retry(Duration::from_millis(random.below(10) as u64)),
                4.. if of_key.last() == Some(n) => Settlement::Ack,
                _ => Settlement::Release,
            };
            if settlement == Settlement::Ack {
                of_key.pop();
            }
            settled.push((one.lease, settlement));
        }
        store.settle(&settled).await.unwrap();
        for (lease, _) in settled {
            out.remove(&lease.position);
        }
    }
    assert_eq!(depth(&*store).await, (0, 0));
}
