//! Lists and counts.

use std::time::{Duration, SystemTime};

use crate::message::{Message, Settlement};
use crate::store::{EntryState, Filter, Store, Wait};

use super::harness::StoreHarness;
use crate::testing::support::stores::{STUCK, batch, confirm, dead, depth, find, ids, keyed, lease_all, list, list_by, retry, settle, message, topics};

const HOUR: Duration = Duration::from_secs(3_600);

async fn listed(store: &(impl Store + ?Sized), filter: &Filter) -> Vec<String> {
    let entries = list_by(store, filter, 2).await;
    assert!(entries.iter().all(|entry| filter.matches(entry)));
    topics(entries.iter().map(|entry| entry.message.as_ref().unwrap()))
}

pub async fn a_list_has_everything_in_order(harness: StoreHarness) {
    let store = harness.open().await;
    assert!(list(&*store).await.is_empty());
    let messages = batch("a", 40);
    store.append(messages.clone()).await.unwrap();
    let out = lease_all(&*store, 30).await;
    settle(&*store, &out[..10], dead("given up")).await;
    settle(&*store, &out[10..20], retry(HOUR)).await;
    let entries = list(&*store).await;
    assert_eq!(ids(entries.iter().map(|entry| entry.message.as_ref().unwrap())), ids(&messages));
    assert!(entries.is_sorted_by(|a, b| a.position < b.position));
    for (n, entry) in entries.iter().enumerate() {
        assert_eq!(entry.state, if n < 10 { EntryState::Dead } else { EntryState::Pending }, "{n}");
    }
    assert_eq!(entries[3].position, out[3].lease.position);
}

pub async fn pages_go_through_everything(harness: StoreHarness) {
    let store = harness.open().await;
    let messages = batch("a", 120);
    store.append(messages.clone()).await.unwrap();
    let out = lease_all(&*store, 120).await;
    // Holes of all sizes.
    let gone: Vec<_> = out.into_iter().filter(|one| one.lease.position % 7 < 4).collect();
    confirm(&*store, &gone).await;
    let left: Vec<_> =
        ids(&messages).into_iter().filter(|id| !gone.iter().any(|one| one.message.id() == *id)).collect();
    for page in [1, 2, 7, 1_000] {
        let entries = list_by(&*store, &Filter::default(), page).await;
        assert_eq!(ids(entries.iter().map(|entry| entry.message.as_ref().unwrap())), left, "pages of {page}");
    }
    let page = store.list(&Filter::default(), None, 5).await.unwrap();
    assert!(page.entries.len() <= 5);
    let after_the_end = store.list(&Filter::default(), Some(u64::MAX), 5).await.unwrap();
    assert!(after_the_end.entries.is_empty() && after_the_end.next.is_none());
}

pub async fn each_condition_of_a_filter_holds(harness: StoreHarness) {
    let store = harness.open().await;
    let old = SystemTime::now() - HOUR;
    let messages = [
        message("user.created").with_time(old),
        keyed("user.deleted", "k"),
        keyed("compose.created", "k").with_time(old),
        message("user"),
    ];
    store.append(messages.to_vec()).await.unwrap();
    let out = lease_all(&*store, 4).await;
    settle(&*store, &out[..1], dead("Too LARGE: größe")).await;
    settle(&*store, &out[1..2], dead("forbidden")).await;
    settle(&*store, &out[2..3], retry(HOUR)).await;

    let filter = |change: fn(&mut Filter)| {
        let mut filter = Filter::default();
        change(&mut filter);
        filter
    };
    let all = ["user.created", "user.deleted", "compose.created", "user"];
    assert_eq!(listed(&*store, &Filter::default()).await, all);
    assert_eq!(listed(&*store, &Filter::state(EntryState::Dead)).await, all[..2]);
    assert_eq!(listed(&*store, &Filter::state(EntryState::Pending)).await, all[2..]);
    assert_eq!(listed(&*store, &Filter::id(messages[2].id())).await, all[2..3]);
    assert!(listed(&*store, &Filter::id(message("x").id())).await.is_empty());
    assert_eq!(listed(&*store, &filter(|f| f.topic = Some("user".into()))).await, all[3..]);
    assert_eq!(
        listed(&*store, &filter(|f| f.topic = Some("user*".into()))).await,
        ["user.created", "user.deleted", "user"]
    );
    assert_eq!(listed(&*store, &filter(|f| f.topic = Some("user.*".into()))).await, all[..2]);
    assert_eq!(listed(&*store, &filter(|f| f.topic = Some("*".into()))).await, all);
    assert_eq!(listed(&*store, &filter(|f| f.key = Some("k".into()))).await, all[1..3]);
    assert!(listed(&*store, &filter(|f| f.key = Some(String::new()))).await.is_empty());
    assert_eq!(listed(&*store, &filter(|f| f.reason = Some("too large".into()))).await, all[..1]);
    assert_eq!(listed(&*store, &filter(|f| f.reason = Some("GRÖSSE".into()))).await, [""; 0]);
    assert_eq!(listed(&*store, &filter(|f| f.reason = Some("GRÖßE".into()))).await, all[..1]);
    assert_eq!(listed(&*store, &filter(|f| f.reason = Some("answer".into()))).await, all[2..3]);
    assert_eq!(listed(&*store, &filter(|f| f.older_than = Some(3_500))).await, [all[0], all[2]]);
    assert!(listed(&*store, &filter(|f| f.older_than = Some(3_700))).await.is_empty());
}

pub async fn conditions_add_up(harness: StoreHarness) {
    let store = harness.open().await;
    store.append(vec![keyed("a", "k"), keyed("a", "l"), keyed("b", "k"), keyed("a", "k")]).await.unwrap();
    let out = lease_all(&*store, 4).await;
    settle(&*store, &out[..3], dead("given up")).await;
    let mut filter = Filter::state(EntryState::Dead);
    (filter.topic, filter.key, filter.reason) = (Some("a".into()), Some("k".into()), Some("given".into()));
    let entries = list_by(&*store, &filter, 1).await;
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].position, out[0].lease.position);
}

pub async fn an_entry_says_what_it_waits_for(harness: StoreHarness) {
    let store = harness.open().await;
    let messages = [
        keyed("sending", "k"),
        keyed("sending", "k"),
        message("retry"),
        message("delayed").with_delay(HOUR),
        message("turn"),
    ];
    store.append(messages[..1].to_vec()).await.unwrap();
    lease_all(&*store, 1).await;
    store.append(messages[1..3].to_vec()).await.unwrap();
    let out = lease_all(&*store, 1).await;
    let settled_at = SystemTime::now();
    settle(&*store, &out, retry(HOUR)).await;
    store.append(messages[3..].to_vec()).await.unwrap();
    let mut waits = Vec::new();
    for message in &messages {
        let entry = find(&*store, message.id()).await;
        assert_eq!(entry.state, EntryState::Pending);
        waits.push(entry.wait.unwrap());
    }
    assert_eq!([waits[0], waits[1], waits[4]], [Wait::Sending, Wait::Key, Wait::Turn]);
    let Wait::Retry { until } = waits[2] else { panic!("{waits:?}") };
    let wait = until.duration_since(settled_at).unwrap();
    assert!(wait + Duration::from_secs(1) > HOUR && wait < HOUR + STUCK, "{wait:?}");
    let Wait::Delayed { until } = waits[3] else { panic!("{waits:?}") };
    let late = until.duration_since(messages[3].time() + HOUR - Duration::from_millis(1)).unwrap();
    assert!(late < Duration::from_secs(1), "{late:?}");
    // The next of a key waits for one that waits for its retry, too.
    let store_of_keys = vec![keyed("retry", "k"), keyed("retry", "k")];
    store.append(store_of_keys.clone()).await.unwrap();
    let out = lease_all(&*store, 3).await;
    settle(&*store, &out[1..2], retry(HOUR)).await;
    settle(&*store, &out[2..], Settlement::Release).await;
    assert!(matches!(find(&*store, store_of_keys[0].id()).await.wait, Some(Wait::Retry { .. })));
    assert_eq!(find(&*store, store_of_keys[1].id()).await.wait, Some(Wait::Key));
}

pub async fn counts_are_right_at_each_step(harness: StoreHarness) {
    let store = harness.open().await;
    let counts = async || store.counts().await.unwrap();
    let empty = counts().await;
    assert_eq!((empty.pending, empty.dead, empty.bytes, empty.oldest), (0, 0, 0, None));
    store.append((0..10).map(|_| Message::new("a", vec![7; 1_000]).unwrap()).collect()).await.unwrap();
    let full = counts().await;
    assert_eq!((full.pending, full.dead), (10, 0));
    assert!((10_000..30_000).contains(&full.bytes), "{} bytes", full.bytes);
    let out = lease_all(&*store, 10).await;
    assert_eq!(counts().await.pending, 10, "what is out is pending");
    settle(&*store, &out[..5], dead("given up")).await;
    let some = counts().await;
    assert_eq!((some.pending, some.dead), (5, 5));
    assert!((10_000..30_000).contains(&some.bytes), "dead letters take room: {} bytes", some.bytes);
    confirm(&*store, &out[5..8]).await;
    settle(&*store, &out[8..9], retry(HOUR)).await;
    let some = counts().await;
    assert_eq!((some.pending, some.dead), (2, 5));
    assert!((7_000..20_000).contains(&some.bytes), "{} bytes", some.bytes);
    let dead: Vec<_> = out[..5].iter().map(|one| one.lease.position).collect();
    assert_eq!(store.requeue(&dead[..2], Duration::ZERO).await.unwrap(), 2);
    assert_eq!(depth(&*store).await, (4, 3));
    assert_eq!(store.drop_messages(&dead[2..]).await.unwrap(), 3);
    assert_eq!(store.drop_messages(&[out[8].lease.position]).await.unwrap(), 1);
    assert_eq!(depth(&*store).await, (3, 0));
    confirm(&*store, &out[9..]).await;
    let rest = lease_all(&*store, 2).await;
    confirm(&*store, &rest).await;
    let empty = counts().await;
    assert_eq!((empty.pending, empty.dead, empty.bytes, empty.oldest), (0, 0, 0, None));
    let store = harness.close_and_reopen(store).await;
    let empty = store.counts().await.unwrap();
    assert_eq!((empty.pending, empty.dead, empty.bytes, empty.oldest), (0, 0, 0, None));
}

pub async fn the_oldest_is_that_of_the_pending_messages(harness: StoreHarness) {
    let store = harness.open().await;
    let begun = SystemTime::now() - HOUR;
    let time = |n: u64| begun + Duration::from_secs(n);
    store.append((0..4).map(|n| message("a").with_time(time(n))).collect()).await.unwrap();
    let assert_oldest = async |store: &std::sync::Arc<dyn Store>, expected: Option<u64>| {
        let oldest = store.counts().await.unwrap().oldest;
        let difference =
            |oldest: SystemTime, n| oldest.duration_since(time(n)).unwrap_or_else(|error| error.duration());
        match (oldest, expected) {
            (Some(oldest), Some(n)) => {
                assert!(difference(oldest, n) < Duration::from_millis(2), "{oldest:?}, {n}")
            }
            (oldest, expected) => {
                assert_eq!(oldest.is_some(), expected.is_some(), "{oldest:?}, {expected:?}")
            }
        }
    };
    assert_oldest(&store, Some(0)).await;
    let out = lease_all(&*store, 4).await;
    assert_oldest(&store, Some(0)).await;
    confirm(&*store, &out[..1]).await;
    assert_oldest(&store, Some(1)).await;
    settle(&*store, &out[1..2], dead("given up")).await;
    assert_oldest(&store, Some(2)).await;
    confirm(&*store, &out[3..]).await;
    assert_oldest(&store, Some(2)).await;
    let store = harness.close_and_reopen(store).await;
    assert_oldest(&store, Some(2)).await;
    store.requeue(&[out[1].lease.position], Duration::ZERO).await.unwrap();
    assert_oldest(&store, Some(1)).await;
    let out = lease_all(&*store, 2).await;
    confirm(&*store, &out).await;
    assert_oldest(&store, None).await;
}
