//! Stores after the end of a process, orderly or not.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use crate::message::Settlement;
use crate::store::{EntryState, Filter, StoreError};

use super::harness::StoreHarness;
use crate::testing::support::random::Random;
use crate::testing::support::stores::{
    STUCK, assert_nothing_due, batch, confirm, dead, depth, find, ids, ids_of, keyed, lease, lease_all, list,
    retry, settle,
};

const HOUR: Duration = Duration::from_secs(3_600);

pub async fn appended_messages_are_there_after_a_reopen(harness: StoreHarness) {
    let store = harness.open().await;
    let messages = batch("a", 100);
    store.append(messages[..40].to_vec()).await.unwrap();
    let store = harness.reopen(store).await;
    assert_eq!(depth(&*store).await, (40, 0));
    store.append(messages[40..].to_vec()).await.unwrap();
    let store = harness.close_and_reopen(store).await;
    assert_eq!(depth(&*store).await, (100, 0));
    assert_eq!(ids_of(&lease_all(&*store, 100).await), ids(&messages));
}

pub async fn a_backlog_is_read_whole_across_segments(harness: StoreHarness) {
    let store = harness.open().await;
    // One read ahead may end where a segment ends.
    let batches: Vec<_> = [512, 512, 256, 256, 1_024, 511, 513].map(|count| batch("a", count)).into();
    for batch in &batches {
        store.append(batch.clone()).await.unwrap();
    }
    let store = harness.reopen(store).await;
    let messages = batches.concat();
    let out = lease_all(&*store, messages.len()).await;
    assert_eq!(ids_of(&out), ids(&messages));
    assert_eq!(depth(&*store).await, (messages.len() as u64, 0));
}

pub async fn leased_messages_are_pending_after_a_reopen(harness: StoreHarness) {
    let mut store = harness.open().await;
    let messages = batch("a", 10);
    store.append(messages.clone()).await.unwrap();
    for close in [false, true, false] {
        let out = lease_all(&*store, 7).await;
        assert_eq!(ids_of(&out), ids(&messages[..7]));
        store = if close { harness.close_and_reopen(store).await } else { harness.reopen(store).await };
    }
    let out = lease_all(&*store, 10).await;
    assert_eq!(ids_of(&out), ids(&messages));
    assert!(out.iter().all(|one| one.attempts == 0));
}

pub async fn confirmed_messages_are_gone_after_close_and_reopen(harness: StoreHarness) {
    let store = harness.open().await;
    let messages = batch("a", 100);
    store.append(messages.clone()).await.unwrap();
    let out = lease_all(&*store, 100).await;
    let (odd, even): (Vec<_>, Vec<_>) = out.into_iter().partition(|one| one.lease.position % 2 == 1);
    confirm(&*store, &odd).await;
    let store = harness.close_and_reopen(store).await;
    assert_eq!(depth(&*store).await, (50, 0));
    let out = lease_all(&*store, 50).await;
    assert_eq!(ids_of(&out), ids_of(&even));
    settle(&*store, &out, Settlement::Discard).await;
    let store = harness.close_and_reopen(store).await;
    assert_eq!(depth(&*store).await, (0, 0));
    assert!(list(&*store).await.is_empty());
    assert_nothing_due(&*store).await;
}

pub async fn dead_letters_and_retries_survive_a_reopen(harness: StoreHarness) {
    let store = harness.open().await;
    let messages = batch("a", 3);
    store.append(messages.clone()).await.unwrap();
    let out = lease_all(&*store, 3).await;
    settle(&*store, &out, retry(Duration::ZERO)).await;
    let out = lease_all(&*store, 3).await;
    settle(&*store, &out[..1], dead("forbidden")).await;
    settle(&*store, &out[1..2], retry(HOUR)).await;
    settle(&*store, &out[2..], retry(Duration::from_millis(100))).await;
    let store = harness.close_and_reopen(store).await;
    assert_eq!(depth(&*store).await, (2, 1));
    let given_up = find(&*store, messages[0].id()).await;
    assert_eq!(given_up.state, EntryState::Dead);
    assert_eq!(&*given_up.failures.last().unwrap().reason, "forbidden");
    assert_eq!(given_up.message.as_ref(), Some(&messages[0]));
    let waiting = find(&*store, messages[1].id()).await;
    assert_eq!((waiting.state, waiting.attempts), (EntryState::Pending, 2));
    assert_eq!(&*waiting.failures.last().unwrap().reason, "no answer");
    let again = lease(&*store, 10).await;
    assert_eq!((ids_of(&again), again[0].attempts), (ids(&messages[2..]), 2));
    assert_nothing_due(&*store).await;
    assert_eq!(store.requeue(&[given_up.position], Duration::ZERO).await.unwrap(), 1);
    let again = lease(&*store, 10).await;
    assert_eq!((ids_of(&again), again[0].attempts), (ids(&messages[..1]), 0));
}

pub async fn a_lease_from_before_a_reopen_settles_nothing(harness: StoreHarness) {
    let mut store = harness.open().await;
    let messages = batch("a", 2);
    store.append(messages.clone()).await.unwrap();
    // From the second round on, all is as in the round before, up to the lease.
    for close in [false, false, false, true, true, true] {
        let stale = lease_all(&*store, 2).await;
        store = if close { harness.close_and_reopen(store).await } else { harness.reopen(store).await };
        confirm(&*store, &stale).await;
        assert_eq!(depth(&*store).await, (2, 0), "they are not leased");
        let out = lease_all(&*store, 2).await;
        assert_eq!(ids_of(&out), ids(&messages));
        confirm(&*store, &stale).await;
        assert_eq!(depth(&*store).await, (2, 0), "another lease holds them");
        store = if close { harness.close_and_reopen(store).await } else { harness.reopen(store).await };
    }
}

pub async fn order_is_kept_over_a_reopen(harness: StoreHarness) {
    let store = harness.open().await;
    let messages = vec![keyed("a", "k"), keyed("a", "k"), keyed("a", "l"), keyed("a", "l")];
    store.append(messages.clone()).await.unwrap();
    let out = lease_all(&*store, 4).await;
    settle(&*store, &out[..1], retry(Duration::from_secs(3_600))).await;
    settle(&*store, &out[3..], Settlement::Release).await;
    let store = harness.close_and_reopen(store).await;
    // The first message of one key waits for its retry; those of the other key were leased.
    let out = lease_all(&*store, 2).await;
    assert_eq!(ids_of(&out), ids(&messages[2..]));
    confirm(&*store, &out).await;
    let first = find(&*store, messages[0].id()).await;
    assert_eq!(store.requeue(&[first.position], Duration::ZERO).await.unwrap(), 1);
    assert_eq!(ids_of(&lease_all(&*store, 2).await), ids(&messages[..2]));
}

pub async fn positions_rise_over_a_reopen(harness: StoreHarness) {
    let mut store = harness.open().await;
    let mut last = None;
    for round in 0..6 {
        store.append(batch("a", 2)).await.unwrap();
        let out = lease_all(&*store, 2).await;
        for one in &out {
            assert!(last.is_none_or(|last| one.lease.position > last), "round {round}");
            last = Some(one.lease.position);
        }
        // A position is never used again, even when the store is empty.
        confirm(&*store, &out).await;
        store = harness.close_and_reopen(store).await;
    }
}

pub async fn nothing_is_lost_over_many_reopens(harness: StoreHarness) {
    let mut random = Random::new(11);
    let (mut store, mut appended, mut confirmed) = (harness.open().await, Vec::new(), Vec::new());
    for _ in 0..30 {
        let batch = batch("a", random.below(40));
        appended.extend(ids(&batch));
        store.append(batch).await.unwrap();
        let pending = depth(&*store).await.0;
        if pending > 0 {
            let out = lease(&*store, 1 + random.below(30)).await;
            confirmed.extend(ids_of(&out));
            confirm(&*store, &out).await;
        }
        let close = random.once_in(2);
        store = if close { harness.close_and_reopen(store).await } else { harness.reopen(store).await };
    }
    let left: Vec<_> = list(&*store).await.into_iter().map(|entry| entry.message.unwrap().id()).collect();
    for id in &appended {
        assert!(left.contains(id) || confirmed.contains(id), "{id} is lost");
    }
    assert!(left.iter().all(|id| appended.contains(id)));
    assert_eq!(depth(&*store).await, (left.len() as u64, 0));
    assert_eq!(left.iter().collect::<std::collections::HashSet<_>>().len(), left.len(), "each is there once");
}

pub async fn settlements_survive_many_reopens(harness: StoreHarness) {
    let (mut store, mut left, mut dead_letters) = (harness.open().await, Vec::new(), Vec::new());
    for _ in 0..12 {
        let messages = batch("a", 20);
        store.append(messages.clone()).await.unwrap();
        left.extend(ids(&messages));
        let out = lease_all(&*store, left.len()).await;
        assert_eq!(ids_of(&out), left);
        let keep: Vec<_> = (0..out.len()).filter(|n| n % 3 == 0).collect();
        let settlement = |n: usize| match n % 3 {
            0 => Settlement::Release,
            1 => Settlement::Ack,
            _ => dead("given up"),
        };
        let settled: Vec<_> = out.iter().enumerate().map(|(n, one)| (one.lease, settlement(n))).collect();
        store.settle(&settled).await.unwrap();
        dead_letters.extend((0..out.len()).filter(|n| n % 3 == 2).map(|n| left[n]));
        left = keep.into_iter().map(|n| left[n]).collect();
        store = harness.close_and_reopen(store).await;
        assert_eq!(depth(&*store).await, (left.len() as u64, dead_letters.len() as u64));
    }
    let mut found: Vec<_> = crate::testing::support::stores::list_by(&*store, &Filter::state(EntryState::Dead), 50)
        .await
        .into_iter()
        .map(|entry| entry.message.unwrap().id())
        .collect();
    found.sort();
    dead_letters.sort();
    assert_eq!(found, dead_letters);
}

pub async fn a_closed_store_refuses_every_call(harness: StoreHarness) {
    let store = harness.open().await;
    store.append(batch("a", 1)).await.unwrap();
    let out = lease(&*store, 1).await;
    store.close().await;
    let messages = batch("a", 2);
    let unstored = store.append(messages.clone()).await.unwrap_err();
    assert!(matches!(unstored.source, StoreError::Closed), "{unstored:?}");
    assert_eq!(unstored.batch, messages);
    let settled = [(out[0].lease, Settlement::Ack)];
    let closed = |what: &str, result: Result<(), StoreError>| {
        assert!(matches!(result, Err(StoreError::Closed)), "{what}: {result:?}");
    };
    closed("lease", timeout(STUCK, store.lease(1)).await.expect("it waits").map(drop));
    closed("settle", store.settle(&settled).await);
    closed("list", store.list(&Filter::default(), None, 1).await.map(drop));
    closed("requeue", store.requeue(&[out[0].lease.position], Duration::ZERO).await.map(drop));
    closed("drop", store.drop_messages(&[out[0].lease.position]).await.map(drop));
    closed("counts", store.counts().await.map(drop));
    timeout(STUCK, store.close()).await.expect("closing twice");
    assert!(!store.location().is_empty());
}

pub async fn a_lease_that_waits_ends_when_the_store_is_closed(harness: StoreHarness) {
    let store = harness.open().await;
    let waiting = tokio::spawn({
        let store = Arc::clone(&store);
        async move { store.lease(1).await.map(drop) }
    });
    assert_nothing_due(&*store).await;
    store.close().await;
    let ended = timeout(STUCK, waiting).await.expect("it waits for ever").unwrap();
    assert!(matches!(ended, Err(StoreError::Closed)), "{ended:?}");
}
