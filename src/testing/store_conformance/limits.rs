//! How much a store holds, and what it does when it is full.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use crate::message::{Message, Scalar, Settlement, headers};
use crate::store::{EntryState, Leased, Limits, Store, StoreError, WhenFull};
use uuid::Uuid;

use super::harness::StoreHarness;
use crate::testing::support::stores::message;
use crate::testing::support::random::Random;
use crate::testing::support::stores::{
    assert_nothing_due, batch, confirm, dead, depth, find, ids, ids_of, lease, lease_all, limits, list,
    retry, settle, until,
};

const HOUR: Duration = Duration::from_secs(3_600);

/// Appends a batch, which must be refused and returned.
async fn assert_full(store: &(impl Store + ?Sized), messages: Vec<Message>) -> String {
    let before = store.counts().await.unwrap();
    let unstored = store.append(messages.clone()).await.unwrap_err();
    assert_eq!(unstored.batch, messages);
    assert_eq!(store.counts().await.unwrap(), before, "none of it is stored");
    match unstored.source {
        StoreError::Full { what } => what,
        other => panic!("{other:?}"),
    }
}

fn is_open(store: &(impl Store + ?Sized)) -> bool {
    store.admission().expect("a store with limits has an admission").is_open()
}

pub async fn a_full_store_refuses_and_gives_the_batch_back(harness: StoreHarness) {
    let harness = harness.with_limits(limits(10, WhenFull::Refuse));
    let store = harness.open().await;
    let messages = batch("a", 10);
    store.append(messages.clone()).await.unwrap();
    for _ in 0..3 {
        let what = assert_full(&*store, batch("b", 2)).await;
        assert!(what.contains("10"), "it names the limit: {what}");
    }
    let out = lease_all(&*store, 10).await;
    assert_full(&*store, batch("b", 1)).await;
    confirm(&*store, &out[..1]).await;
    let last = batch("b", 1);
    store.append(last.clone()).await.unwrap();
    assert_full(&*store, batch("b", 1)).await;
    confirm(&*store, &out).await;
    assert_eq!(ids_of(&lease_all(&*store, 1).await), ids(&last));
}

pub async fn a_batch_that_would_go_over_the_limit_is_refused_as_a_whole(harness: StoreHarness) {
    let harness = harness.with_limits(limits(10, WhenFull::Refuse));
    let store = harness.open().await;
    store.append(batch("a", 8)).await.unwrap();
    assert_full(&*store, batch("b", 3)).await;
    assert_full(&*store, batch("b", 1_000)).await;
    store.append(batch("c", 2)).await.unwrap();
    assert_eq!(depth(&*store).await, (10, 0));
}

pub async fn dead_letters_take_room(harness: StoreHarness) {
    let harness = harness.with_limits(limits(10, WhenFull::Refuse));
    let store = harness.open().await;
    store.append(batch("a", 10)).await.unwrap();
    let out = lease_all(&*store, 10).await;
    settle(&*store, &out, dead("given up")).await;
    assert_full(&*store, batch("b", 1)).await;
    assert_eq!(store.drop_messages(&[out[0].lease.position]).await.unwrap(), 1);
    store.append(batch("b", 1)).await.unwrap();
    assert_full(&*store, batch("b", 1)).await;
}

pub async fn the_limit_of_bytes_is_kept(harness: StoreHarness) {
    let limits = Limits { max_bytes: 20_000, ..Limits::default() };
    let harness = harness.with_limits(limits);
    let store = harness.open().await;
    let kilobyte = || Message::new("a", vec![7; 1_000]).unwrap();
    let mut appended = 0;
    while store.append(vec![kilobyte()]).await.is_ok() {
        appended += 1;
        assert!(appended <= 20, "more than it may hold");
    }
    assert!(appended >= 10, "{appended} of 20 kB");
    let what = assert_full(&*store, vec![kilobyte()]).await;
    assert!(what.contains("byte") || what.contains("20"), "it names the limit: {what}");
    assert!(store.counts().await.unwrap().bytes <= 20_000);
    assert!(!is_open(&*store));
    // One larger than all it may hold.
    assert_full(&*store, vec![Message::new("a", vec![7; 20_001]).unwrap()]).await;
    let out = lease_all(&*store, appended).await;
    confirm(&*store, &out[..2]).await;
    store.append(vec![kilobyte()]).await.unwrap();
    confirm(&*store, &out).await;
    until("it lets requests in", async || is_open(&*store)).await;
}

pub async fn admission_is_closed_while_there_is_no_room(harness: StoreHarness) {
    let harness = harness.with_limits(limits(10, WhenFull::Refuse));
    let store = harness.open().await;
    assert!(is_open(&*store));
    store.append(batch("a", 5)).await.unwrap();
    assert!(is_open(&*store));
    store.append(batch("a", 5)).await.unwrap();
    assert!(!is_open(&*store), "the next request could not be kept");
    assert_full(&*store, batch("b", 1)).await;
    assert!(!is_open(&*store));
    let out = lease_all(&*store, 10).await;
    assert!(!is_open(&*store), "what is out takes room");
    confirm(&*store, &out[..8]).await;
    until("it lets requests in", async || is_open(&*store)).await;
    store.append(batch("c", 8)).await.unwrap();
    assert!(!is_open(&*store));
    // Dropped by hand.
    let positions: Vec<_> = list(&*store).await.iter().map(|entry| entry.position).collect();
    assert_eq!(store.drop_messages(&positions).await.unwrap(), 8);
    until("it lets requests in", async || is_open(&*store)).await;
}

pub async fn admission_is_known_after_a_reopen(harness: StoreHarness) {
    let harness = harness.with_limits(limits(10, WhenFull::Refuse));
    let store = harness.open().await;
    store.append(batch("a", 10)).await.unwrap();
    let store = harness.reopen(store).await;
    assert!(!is_open(&*store));
    assert_full(&*store, batch("b", 1)).await;
    let out = lease_all(&*store, 10).await;
    confirm(&*store, &out).await;
    until("it lets requests in", async || is_open(&*store)).await;
    let store = harness.close_and_reopen(store).await;
    assert!(is_open(&*store));
}

pub async fn the_oldest_messages_are_dropped_to_make_room(harness: StoreHarness) {
    let Some(harness) = harness.dropping_oldest(10) else { return };
    let store = harness.open().await;
    let mut messages = batch("a", 10);
    store.append(messages.clone()).await.unwrap();
    for count in [1, 3] {
        let more = batch("b", count);
        store.append(more.clone()).await.unwrap();
        messages.extend(more);
        assert_eq!(depth(&*store).await, (10, 0));
        // Requests are let in: there will be room for what they bring.
        assert!(store.admission().is_none_or(|admission| admission.is_open()));
    }
    let out = lease_all(&*store, 10).await;
    assert_eq!(ids_of(&out), ids(&messages[4..]));
    let store = harness.reopen(store).await;
    assert_eq!(ids_of(&lease_all(&*store, 10).await), ids(&messages[4..]), "they stay dropped");
}

pub async fn leased_and_dead_messages_are_not_dropped_to_make_room(harness: StoreHarness) {
    let Some(harness) = harness.dropping_oldest(10) else { return };
    let store = harness.open().await;
    let messages = batch("a", 10);
    store.append(messages.clone()).await.unwrap();
    let out = lease_all(&*store, 6).await;
    settle(&*store, &out[..2], dead("given up")).await;
    settle(&*store, &out[5..], retry(HOUR)).await;
    // Two are dead, three out, one waits for its retry, four for their turn.
    let more = batch("b", 5);
    store.append(more.clone()).await.unwrap();
    assert_eq!(depth(&*store).await, (8, 2));
    for one in &out[..5] {
        find(&*store, one.message.id()).await;
    }
    assert_full(&*store, batch("c", 6)).await;
    let rest = lease_all(&*store, 5).await;
    assert_eq!(ids_of(&rest), ids(&more));
    // Nothing can be dropped.
    assert_full(&*store, batch("c", 1)).await;
    confirm(&*store, &out[2..5]).await;
    confirm(&*store, &rest).await;
    assert_eq!(depth(&*store).await, (0, 2));
}

pub async fn a_batch_larger_than_the_store_drops_nothing(harness: StoreHarness) {
    let Some(harness) = harness.dropping_oldest(10) else { return };
    let store = harness.open().await;
    let messages = batch("a", 4);
    store.append(messages.clone()).await.unwrap();
    assert_full(&*store, batch("b", 11)).await;
    let out = lease_all(&*store, 4).await;
    assert_eq!(ids_of(&out), ids(&messages));
    assert_eq!(dropped(&out[0]), None);
}

/// Returns the number of messages dropped before this one, by its header.
fn dropped(one: &Leased) -> Option<i64> {
    match one.message.header(headers::DROPPED) {
        None => None,
        Some(Scalar::Int(count)) => Some(*count),
        other => panic!("{other:?}"),
    }
}

pub async fn the_next_message_says_how_many_were_dropped(harness: StoreHarness) {
    let Some(harness) = harness.dropping_oldest(10) else { return };
    let store = harness.open().await;
    store.append(batch("a", 10)).await.unwrap();
    store.append(batch("a", 3)).await.unwrap();
    let out = lease_all(&*store, 10).await;
    assert_eq!(dropped(&out[0]), Some(3));
    assert!(out[1..].iter().all(|one| dropped(one).is_none()), "one message carries the number");
    confirm(&*store, &out).await;
    let more = vec![message("a")];
    store.append(more.clone()).await.unwrap();
    let out = lease(&*store, 1).await;
    assert_eq!(out[0].message, more[0], "the number was sent");
}

pub async fn the_count_of_dropped_messages_is_said_until_it_is_confirmed(harness: StoreHarness) {
    let Some(harness) = harness.dropping_oldest(3) else { return };
    let store = harness.open().await;
    store.append(batch("a", 3)).await.unwrap();
    store.append(batch("a", 2)).await.unwrap();
    let first = lease_all(&*store, 1).await;
    assert_eq!(dropped(&first[0]), Some(2));
    settle(&*store, &first, Settlement::Release).await;
    let again = lease_all(&*store, 1).await;
    assert_eq!(dropped(&again[0]), Some(2), "again, after a release");
    settle(&*store, &again, retry(Duration::ZERO)).await;
    let again = lease_all(&*store, 3).await;
    assert_eq!(again.iter().filter_map(dropped).sum::<i64>(), 2, "again, after an attempt that failed");
    confirm(&*store, &again).await;
    store.append(batch("a", 1)).await.unwrap();
    assert_eq!(dropped(&lease(&*store, 1).await[0]), None, "not after a confirm");
}

pub async fn the_count_of_dropped_messages_survives_a_reopen(harness: StoreHarness) {
    let Some(harness) = harness.dropping_oldest(3) else { return };
    let mut store = harness.open().await;
    store.append(batch("a", 3)).await.unwrap();
    store.append(batch("a", 2)).await.unwrap();
    for close in [false, true, false] {
        store = if close { harness.close_and_reopen(store).await } else { harness.reopen(store).await };
        let out = lease_all(&*store, 3).await;
        assert_eq!(out.iter().map(dropped).collect::<Vec<_>>(), [Some(2), None, None]);
    }
    store = harness.reopen(store).await;
    let out = lease_all(&*store, 3).await;
    confirm(&*store, &out).await;
    store = harness.close_and_reopen(store).await;
    store.append(batch("a", 1)).await.unwrap();
    assert_eq!(dropped(&lease(&*store, 1).await[0]), None);
}

/// Headers of confirmed messages add up to the number of dropped ones, whatever happens in between.
pub async fn every_dropped_message_is_counted_once(harness: StoreHarness) {
    let Some(harness) = harness.dropping_oldest(20) else { return };
    let mut store = harness.open().await;
    let mut random = Random::new(3);
    let mut appended: HashSet<Uuid> = HashSet::new();
    let mut confirmed: HashSet<Uuid> = HashSet::new();
    let mut reported = 0;
    for round in 0..200 {
        let more = batch("a", 1 + random.below(12));
        if store.append(more.clone()).await.is_ok() {
            appended.extend(ids(&more));
        }
        let out = lease(&*store, 1 + random.below(8)).await;
        let settlement = match random.below(4) {
            0 => Settlement::Release,
            1 => retry(Duration::ZERO),
            _ => Settlement::Ack,
        };
        if settlement == Settlement::Ack {
            confirmed.extend(ids_of(&out));
            reported += out.iter().filter_map(dropped).sum::<i64>();
        }
        settle(&*store, &out, settlement).await;
        if random.once_in(20) {
            store = harness.close_and_reopen(store).await;
        }
        assert!(depth(&*store).await.0 <= 20, "round {round}");
    }
    // One more, in case the last to leave was dropped itself.
    let last = batch("last", 1);
    store.append(last.clone()).await.unwrap();
    appended.extend(ids(&last));
    let pending = usize::try_from(depth(&*store).await.0).unwrap();
    let out = lease_all(&*store, pending).await;
    reported += out.iter().filter_map(dropped).sum::<i64>();
    confirmed.extend(ids_of(&out));
    confirm(&*store, &out).await;
    assert_nothing_due(&*store).await;
    let store: Arc<dyn Store> = store;
    assert!(list(&*store).await.iter().all(|entry| entry.state == EntryState::Dead));
    assert!(confirmed.is_subset(&appended));
    assert!(reported > 50, "the test drops too few: {reported}");
    assert_eq!(reported, (appended.len() - confirmed.len()) as i64);
}
