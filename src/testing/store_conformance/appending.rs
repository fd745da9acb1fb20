//! Appended messages are leased, complete and in order.

use std::sync::Arc;

use serde_json::{Value, json};
use crate::message::Message;

use super::harness::StoreHarness;
use crate::testing::support::fuse::fuse;
use crate::testing::support::stores::{batch, depth, ids, ids_of, lease, lease_all, list};

pub async fn appended_messages_are_leased_in_order(harness: StoreHarness) {
    let store = harness.open().await;
    let messages = batch("a", 300);
    store.append(messages.clone()).await.unwrap();
    let leased = lease_all(&*store, 300).await;
    assert_eq!(leased.iter().map(|one| one.message.clone()).collect::<Vec<_>>(), messages);
    assert!(leased.iter().all(|one| one.attempts == 0));
    assert!(leased.is_sorted_by(|a, b| a.lease.position < b.lease.position), "positions rise");
}

pub async fn batches_follow_each_other(harness: StoreHarness) {
    let store = harness.open().await;
    let mut appended = Vec::new();
    for count in [1, 7, 100, 2] {
        let batch = batch("a", count);
        appended.extend(ids(&batch));
        store.append(batch).await.unwrap();
    }
    assert_eq!(ids_of(&lease_all(&*store, 110).await), appended);
}

pub async fn an_empty_batch_is_stored(harness: StoreHarness) {
    let store = harness.open().await;
    store.append(Vec::new()).await.unwrap();
    assert_eq!(depth(&*store).await, (0, 0));
}

pub async fn concurrent_batches_are_each_kept_whole_and_in_order(harness: StoreHarness) {
    const WRITERS: usize = 32;
    const BATCHES: usize = 8;
    let store = harness.open().await;
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                for batch in 0..BATCHES {
                    let message = |n| Message::json("a", &json!([writer, batch, n])).unwrap();
                    store.append((0..5).map(message).collect()).await.unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let leased = lease_all(&*store, WRITERS * BATCHES * 5).await;
    let found: Vec<[usize; 3]> =
        leased.iter().map(|one| serde_json::from_slice(one.message.body()).unwrap()).collect();
    for writer in 0..WRITERS {
        let of_writer: Vec<_> =
            found.iter().filter(|[w, ..]| *w == writer).map(|[_, b, n]| [*b, *n]).collect();
        let expected: Vec<_> = (0..BATCHES).flat_map(|batch| (0..5).map(move |n| [batch, n])).collect();
        assert_eq!(of_writer, expected, "writer {writer}");
    }
}

pub async fn a_dropped_append_is_stored_as_a_whole_or_not_at_all(harness: StoreHarness) {
    let store = harness.open().await;
    let mut ended = 0;
    for round in 0..60 {
        let message = |n: usize| Message::json("a", &json!([round, n])).unwrap();
        ended += usize::from(fuse(round / 10, store.append((0..7).map(message).collect())).await.is_some());
        // Beside others, and after them: a batch that was handed over is stored to the end.
        store.append(batch("b", 1)).await.unwrap();
    }
    assert!(ended < 60, "no append was dropped");
    let store = harness.close_and_reopen(store).await;
    let mut found = [const { Vec::new() }; 60];
    for entry in list(&*store).await {
        let message = entry.message.unwrap();
        if message.topic().as_str() == "a" {
            let [round, n]: [usize; 2] = serde_json::from_slice(message.body()).unwrap();
            found[round].push(n);
        }
    }
    for (round, found) in found.iter().enumerate() {
        assert!(found.is_empty() || *found == [0, 1, 2, 3, 4, 5, 6], "{round}: {found:?}");
    }
    let whole = found.iter().filter(|found| !found.is_empty()).count();
    assert!(whole >= ended, "what was appended is there");
}

pub async fn a_limit_of_a_lease_is_kept(harness: StoreHarness) {
    let store = harness.open().await;
    let messages = batch("a", 10);
    store.append(messages.clone()).await.unwrap();
    let mut leased = Vec::new();
    for limit in [1, 2, 3] {
        let some = lease(&*store, limit).await;
        assert!((1..=limit).contains(&some.len()), "{} of {limit}", some.len());
        leased.extend(some);
    }
    let rest = 10 - leased.len();
    leased.extend(lease_all(&*store, rest).await);
    assert_eq!(ids_of(&leased), ids(&messages));
    let bodies: Vec<Value> =
        leased.iter().map(|one| serde_json::from_slice(one.message.body()).unwrap()).collect();
    assert_eq!(bodies, (0..10).map(|n| json!({"n": n})).collect::<Vec<_>>());
}
