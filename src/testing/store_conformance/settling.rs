//! Settling leased messages.

use std::time::{Duration, Instant, SystemTime};

use crate::message::Settlement;
use crate::store::{EntryState, Filter, Lease, Wait};

use super::harness::StoreHarness;
use crate::testing::support::stores::{message, assert_nothing_due, batch, confirm, dead, depth, find, ids, ids_of, lease, lease_all, list, list_by, retry, settle};

pub async fn a_confirmed_message_is_removed(harness: StoreHarness) {
    let store = harness.open().await;
    let messages = batch("a", 5);
    store.append(messages.clone()).await.unwrap();
    let out = lease_all(&*store, 5).await;
    assert_eq!(depth(&*store).await, (5, 0), "what is out is pending");
    confirm(&*store, &out[1..4]).await;
    assert_eq!(depth(&*store).await, (2, 0));
    let left: Vec<_> = list(&*store).await.into_iter().map(|entry| entry.message.unwrap().id()).collect();
    assert_eq!(left, [messages[0].id(), messages[4].id()]);
    confirm(&*store, &out).await;
    assert_eq!(depth(&*store).await, (0, 0));
    assert_nothing_due(&*store).await;
}

pub async fn a_discarded_message_is_removed(harness: StoreHarness) {
    let store = harness.open().await;
    store.append(batch("a", 2)).await.unwrap();
    let out = lease_all(&*store, 2).await;
    settle(&*store, &out, Settlement::Discard).await;
    assert_eq!(depth(&*store).await, (0, 0));
    assert!(list(&*store).await.is_empty());
    assert_nothing_due(&*store).await;
}

pub async fn a_released_message_is_due_again_without_an_attempt(harness: StoreHarness) {
    let store = harness.open().await;
    let messages = batch("a", 3);
    store.append(messages.clone()).await.unwrap();
    for _ in 0..3 {
        let out = lease_all(&*store, 3).await;
        assert_eq!(ids_of(&out), ids(&messages));
        assert!(out.iter().all(|one| one.attempts == 0));
        settle(&*store, &out, Settlement::Release).await;
    }
    let entry = find(&*store, messages[0].id()).await;
    assert!(entry.attempts == 0 && entry.failures.is_empty());
}

pub async fn a_retry_is_not_leased_before_its_time(harness: StoreHarness) {
    let store = harness.open().await;
    store.append(batch("a", 3)).await.unwrap();
    let out = lease_all(&*store, 3).await;
    let begun = Instant::now();
    let after = [180, 60, 120].map(Duration::from_millis);
    let settled: Vec<_> = out.iter().zip(after).map(|(one, after)| (one.lease, retry(after))).collect();
    store.settle(&settled).await.unwrap();
    let mut left = vec![0, 1, 2];
    while !left.is_empty() {
        let again = lease(&*store, 1).await;
        let elapsed = begun.elapsed();
        let n = left.iter().position(|n| out[*n].message.id() == again[0].message.id());
        let n = left.remove(n.expect("each comes once"));
        assert!(elapsed >= after[n], "{n} came after {elapsed:?}");
        assert_eq!(again[0].attempts, 1);
    }
}

pub async fn attempts_and_failures_add_up(harness: StoreHarness) {
    let store = harness.open().await;
    let message = message("a");
    store.append(vec![message.clone()]).await.unwrap();
    let begun = SystemTime::now() - Duration::from_millis(1);
    for attempt in 0..4 {
        let out = lease(&*store, 1).await;
        assert_eq!(out[0].attempts, attempt);
        let retry =
            Settlement::Retry { after: Duration::ZERO, reason: format!("no answer {attempt}").into() };
        settle(&*store, &out, retry).await;
    }
    let entry = find(&*store, message.id()).await;
    assert_eq!((entry.state, entry.attempts), (EntryState::Pending, 4));
    let reasons: Vec<_> = entry.failures.iter().map(|failure| failure.reason.to_string()).collect();
    let all = ["no answer 0", "no answer 1", "no answer 2", "no answer 3"];
    assert!(!reasons.is_empty() && all.ends_with(&reasons.iter().map(String::as_str).collect::<Vec<_>>()));
    let now = SystemTime::now() + Duration::from_millis(1);
    assert!(entry.failures.iter().all(|failure| (begun..now).contains(&failure.at)), "{:?}", entry.failures);
    // A release keeps what was counted.
    let out = lease(&*store, 1).await;
    settle(&*store, &out, Settlement::Release).await;
    assert_eq!(lease(&*store, 1).await[0].attempts, 4);
}

pub async fn a_dead_letter_is_kept_with_its_reason_and_not_leased(harness: StoreHarness) {
    let store = harness.open().await;
    let messages = batch("a", 3);
    store.append(messages.clone()).await.unwrap();
    let out = lease_all(&*store, 3).await;
    settle(&*store, &out[1..2], dead("too large for größe ☃")).await;
    confirm(&*store, &out[..1]).await;
    assert_eq!(depth(&*store).await, (1, 1));
    let entries = list_by(&*store, &Filter::state(EntryState::Dead), 10).await;
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].message.as_ref(), Some(&messages[1]));
    assert_eq!((entries[0].state, entries[0].wait), (EntryState::Dead, None));
    assert_eq!(&*entries[0].failures.last().unwrap().reason, "too large for größe ☃");
    assert_eq!(entries[0].explain(), "given up on: too large for größe ☃");
    assert_eq!(find(&*store, messages[2].id()).await.wait, Some(Wait::Sending));
    assert_nothing_due(&*store).await;
}

pub async fn a_stale_lease_settles_nothing(harness: StoreHarness) {
    let store = harness.open().await;
    let messages = batch("a", 2);
    store.append(messages.clone()).await.unwrap();
    let first = lease_all(&*store, 2).await;
    settle(&*store, &first, Settlement::Release).await;
    for settlement in [Settlement::Ack, Settlement::Discard, dead("stale"), retry(Duration::ZERO)] {
        settle(&*store, &first, settlement).await;
    }
    assert_eq!(depth(&*store).await, (2, 0), "nobody holds them");
    let second = lease_all(&*store, 2).await;
    assert!(second.iter().all(|one| one.attempts == 0));
    for settlement in
        [Settlement::Ack, Settlement::Release, Settlement::Discard, dead("stale"), retry(Duration::ZERO)]
    {
        settle(&*store, &first, settlement).await;
    }
    assert_eq!(depth(&*store).await, (2, 0), "another holds them");
    assert_nothing_due(&*store).await;
    settle(&*store, &second, dead("the holder gave up")).await;
    assert_eq!(depth(&*store).await, (0, 2));
    settle(&*store, &second, Settlement::Ack).await;
    assert_eq!(depth(&*store).await, (0, 2), "settled twice");
}

pub async fn a_lease_of_a_message_that_is_gone_settles_nothing(harness: StoreHarness) {
    let store = harness.open().await;
    store.append(batch("a", 2)).await.unwrap();
    let out = lease_all(&*store, 2).await;
    confirm(&*store, &out[..1]).await;
    for settlement in [dead("gone"), Settlement::Release, retry(Duration::ZERO), Settlement::Ack] {
        settle(&*store, &out[..1], settlement).await;
    }
    let unknown = [(Lease::new(u64::MAX, 1), dead("unknown")), (Lease::new(0, u64::MAX), dead("unknown"))];
    store.settle(&unknown).await.unwrap();
    assert_eq!(depth(&*store).await, (1, 0));
    assert_nothing_due(&*store).await;
    confirm(&*store, &out).await;
    assert_eq!(depth(&*store).await, (0, 0));
}

pub async fn settlements_of_one_call_may_differ(harness: StoreHarness) {
    let store = harness.open().await;
    let messages = batch("a", 5);
    store.append(messages.clone()).await.unwrap();
    let out = lease_all(&*store, 5).await;
    let settlements =
        [Settlement::Ack, Settlement::Release, retry(Duration::ZERO), dead("given up"), Settlement::Discard];
    let settled: Vec<_> = out.iter().map(|one| one.lease).zip(settlements).collect();
    store.settle(&settled).await.unwrap();
    store.settle(&[]).await.unwrap();
    assert_eq!(depth(&*store).await, (2, 1));
    let again = lease_all(&*store, 2).await;
    assert_eq!(ids_of(&again), [messages[1].id(), messages[2].id()]);
    assert_eq!(again.iter().map(|one| one.attempts).collect::<Vec<_>>(), [0, 1]);
}
