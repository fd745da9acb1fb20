//! Requeue and drop.

use std::time::{Duration, Instant};

use crate::message::{Message, Settlement};
use crate::store::{EntryState, Store};

use super::harness::StoreHarness;
use crate::testing::support::stores::{message, assert_nothing_due, batch, confirm, dead, depth, find, ids, ids_of, keyed, lease, lease_all, list, retry, settle};

const HOUR: Duration = Duration::from_secs(3_600);

/// These messages as dead letters, and their positions.
async fn dead_letters(store: &(impl Store + ?Sized), messages: &[Message]) -> Vec<u64> {
    store.append(messages.to_vec()).await.unwrap();
    let out = lease_all(store, messages.len()).await;
    settle(store, &out, retry(Duration::ZERO)).await;
    let out = lease_all(store, messages.len()).await;
    settle(store, &out, dead("given up after 2 attempts")).await;
    out.iter().map(|one| one.lease.position).collect()
}

pub async fn a_requeued_dead_letter_comes_with_no_attempts_made(harness: StoreHarness) {
    let store = harness.open().await;
    let messages = batch("a", 3);
    let positions = dead_letters(&*store, &messages).await;
    assert_eq!(depth(&*store).await, (0, 3));
    assert_eq!(store.requeue(&positions[..2], Duration::ZERO).await.unwrap(), 2);
    assert_eq!(depth(&*store).await, (2, 1));
    let out = lease_all(&*store, 2).await;
    assert_eq!(ids_of(&out), ids(&messages[..2]));
    assert!(out.iter().all(|one| one.attempts == 0));
    confirm(&*store, &out).await;
    assert_eq!(depth(&*store).await, (0, 1));
    assert_nothing_due(&*store).await;
}

pub async fn a_pace_spreads_what_is_requeued(harness: StoreHarness) {
    const PACE: Duration = Duration::from_millis(100);
    let store = harness.open().await;
    let messages = batch("a", 4);
    let positions = dead_letters(&*store, &messages).await;
    let begun = Instant::now();
    assert_eq!(store.requeue(&positions, PACE).await.unwrap(), 4);
    assert_eq!(depth(&*store).await, (4, 0));
    let mut out = Vec::new();
    for (n, message) in messages.iter().enumerate() {
        let one = lease(&*store, 1).await;
        assert_eq!(ids_of(&one), [message.id()]);
        let elapsed = begun.elapsed();
        assert!(elapsed >= PACE * n as u32, "{n} came after {elapsed:?}");
        out.extend(one);
    }
    confirm(&*store, &out).await;
    assert_eq!(depth(&*store).await, (0, 0));
}

pub async fn a_waiting_retry_is_due_at_once_when_requeued(harness: StoreHarness) {
    let store = harness.open().await;
    let messages = batch("a", 3);
    store.append(messages.clone()).await.unwrap();
    let out = lease_all(&*store, 3).await;
    settle(&*store, &out, retry(HOUR)).await;
    assert_nothing_due(&*store).await;
    let positions = [out[1].lease.position];
    assert_eq!(store.requeue(&positions, HOUR).await.unwrap(), 1);
    let again = lease(&*store, 10).await;
    assert_eq!(ids_of(&again), [messages[1].id()]);
    assert_eq!(store.requeue(&[out[0].lease.position], Duration::ZERO).await.unwrap(), 1);
    assert_eq!(ids_of(&lease(&*store, 10).await), [messages[0].id()]);
    assert_nothing_due(&*store).await;
}

pub async fn a_retry_after_a_requeue_waits_its_own_time(harness: StoreHarness) {
    const AFTER: Duration = Duration::from_secs(1);
    let store = harness.open().await;
    for message in [message("a"), keyed("a", "k")] {
        store.append(vec![message]).await.unwrap();
        let out = lease(&*store, 1).await;
        settle(&*store, &out, retry(AFTER)).await;
        assert_eq!(store.requeue(&[out[0].lease.position], Duration::ZERO).await.unwrap(), 1);
        let out = lease(&*store, 1).await;
        tokio::time::sleep(AFTER / 2).await;
        let begun = Instant::now();
        settle(&*store, &out, retry(AFTER)).await;
        let out = lease(&*store, 1).await;
        assert!(begun.elapsed() >= AFTER, "it came after {:?}", begun.elapsed());
        confirm(&*store, &out).await;
    }
}

pub async fn requeue_ignores_messages_that_are_neither_dead_nor_waiting(harness: StoreHarness) {
    let store = harness.open().await;
    store.append(batch("a", 3)).await.unwrap();
    let positions: Vec<_> = list(&*store).await.iter().map(|entry| entry.position).collect();
    let out = lease_all(&*store, 2).await;
    confirm(&*store, &out[..1]).await;
    // Gone, leased, due already, and never there.
    assert_eq!(store.requeue(&positions[..2], Duration::ZERO).await.unwrap(), 0);
    assert_eq!(store.requeue(&[u64::MAX], Duration::ZERO).await.unwrap(), 0);
    assert_eq!(store.requeue(&[], Duration::ZERO).await.unwrap(), 0);
    let third = lease(&*store, 10).await;
    assert_eq!(third[0].lease.position, positions[2]);
    assert_nothing_due(&*store).await;
    assert_eq!(depth(&*store).await, (2, 0));
    confirm(&*store, &out).await;
    confirm(&*store, &third).await;
    assert_eq!(depth(&*store).await, (0, 0));
}

pub async fn dropped_messages_are_gone_for_good(harness: StoreHarness) {
    let store = harness.open().await;
    let dead = batch("dead", 3);
    let dead_positions = dead_letters(&*store, &dead).await;
    let waiting = batch("waiting", 1);
    store.append(waiting.clone()).await.unwrap();
    let out = lease_all(&*store, 1).await;
    settle(&*store, &out, retry(HOUR)).await;
    let pending = batch("pending", 3);
    store.append(pending.clone()).await.unwrap();
    let pending_positions: Vec<_> = list(&*store).await.iter().map(|entry| entry.position).skip(4).collect();
    let dropped =
        [dead_positions[0], dead_positions[2], out[0].lease.position, pending_positions[1], u64::MAX];
    assert_eq!(store.drop_messages(&dropped).await.unwrap(), 4);
    assert_eq!(store.drop_messages(&dropped).await.unwrap(), 0);
    assert_eq!(store.requeue(&dropped, Duration::ZERO).await.unwrap(), 0);
    assert_eq!(depth(&*store).await, (2, 1));
    assert_eq!(ids_of(&lease_all(&*store, 2).await), [pending[0].id(), pending[2].id()]);
    let store = harness.reopen(store).await;
    let left: Vec<_> = list(&*store).await.into_iter().map(|entry| entry.message.unwrap().id()).collect();
    for message in [&dead[0], &dead[2], &waiting[0], &pending[1]] {
        assert!(!left.contains(&message.id()), "{message:?} is back");
    }
}

pub async fn a_leased_message_is_not_dropped(harness: StoreHarness) {
    let store = harness.open().await;
    store.append(batch("a", 2)).await.unwrap();
    let out = lease_all(&*store, 1).await;
    let positions: Vec<_> = list(&*store).await.iter().map(|entry| entry.position).collect();
    assert_eq!(store.drop_messages(&positions).await.unwrap(), 1);
    assert_eq!(depth(&*store).await, (1, 0));
    settle(&*store, &out, Settlement::Release).await;
    assert_eq!(ids_of(&lease(&*store, 10).await), ids_of(&out));
}

pub async fn dropping_a_waiting_message_frees_its_key(harness: StoreHarness) {
    let store = harness.open().await;
    let messages = vec![keyed("a", "k"), keyed("a", "k")];
    store.append(messages.clone()).await.unwrap();
    let out = lease(&*store, 1).await;
    settle(&*store, &out, retry(HOUR)).await;
    assert_nothing_due(&*store).await;
    assert_eq!(store.drop_messages(&[out[0].lease.position]).await.unwrap(), 1);
    assert_eq!(ids_of(&lease(&*store, 10).await), [messages[1].id()]);
}

pub async fn requeue_and_drop_are_durable(harness: StoreHarness) {
    let store = harness.open().await;
    let messages = batch("a", 3);
    let positions = dead_letters(&*store, &messages).await;
    let store = harness.close_and_reopen(store).await;
    assert_eq!(store.requeue(&positions[..1], Duration::ZERO).await.unwrap(), 1);
    assert_eq!(store.drop_messages(&positions[1..2]).await.unwrap(), 1);
    // Nobody closes it.
    let store = harness.reopen(store).await;
    assert_eq!(depth(&*store).await, (1, 1));
    let requeued = find(&*store, messages[0].id()).await;
    assert_eq!((requeued.state, requeued.attempts), (EntryState::Pending, 0));
    assert_eq!(find(&*store, messages[2].id()).await.state, EntryState::Dead);
    let out = lease(&*store, 10).await;
    assert_eq!((ids_of(&out), out[0].attempts), (ids(&messages[..1]), 0));
}

pub async fn a_stale_lease_does_not_settle_what_was_requeued(harness: StoreHarness) {
    let store = harness.open().await;
    let messages = batch("a", 1);
    store.append(messages.clone()).await.unwrap();
    let first = lease(&*store, 1).await;
    settle(&*store, &first, dead("given up")).await;
    store.requeue(&[first[0].lease.position], Duration::ZERO).await.unwrap();
    for settlement in [Settlement::Ack, dead("stale")] {
        settle(&*store, &first, settlement).await;
    }
    assert_eq!(depth(&*store).await, (1, 0));
    let second = lease(&*store, 1).await;
    for settlement in [Settlement::Ack, dead("stale"), Settlement::Release] {
        settle(&*store, &first, settlement).await;
    }
    assert_eq!(depth(&*store).await, (1, 0));
    assert_nothing_due(&*store).await;
    confirm(&*store, &second).await;
    assert_eq!(depth(&*store).await, (0, 0));
}
