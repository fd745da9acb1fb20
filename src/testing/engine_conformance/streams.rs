//! Streams.

use std::time::{Duration, SystemTime};

use super::harness::{EngineHarness, assert_silent, name, next, next_acked, text};
use crate::channels::{ChannelKind, ChannelLimits, EngineError, Start, Subscribe};

fn from(start: Start) -> Subscribe {
    Subscribe { start, ..Subscribe::default() }
}

fn durable(start: Start, name: &str) -> Subscribe {
    Subscribe { durable: Some(name.to_owned()), ..from(start) }
}

fn member(group: &str) -> Subscribe {
    Subscribe { group: Some(group.to_owned()), ..from(Start::First) }
}

pub async fn sequences_begin_at_one_and_have_no_gaps(harness: EngineHarness) {
    assert_eq!(harness.append(&["a", "b"]).await, [1, 2]);
    assert_eq!(harness.append(&["c"]).await, [3]);
    let long = harness.append(&["d"; 100]).await;
    assert_eq!(long, (4..104).collect::<Vec<_>>(), "in the order of appending");
    let all = harness.subscribe(from(Start::First)).await;
    let messages = next(&*all, 3).await;
    assert_eq!(messages.iter().map(|message| message.sequence).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(messages.iter().map(|message| text(&message.content)).collect::<Vec<_>>(), ["a", "b", "c"]);
    assert!(messages.iter().all(|message| message.attempt == 1));
}

pub async fn each_start_begins_at_its_message(harness: EngineHarness) {
    harness.append(&["1", "2", "3"]).await;
    tokio::time::sleep(Duration::from_millis(30)).await;
    let middle = SystemTime::now();
    tokio::time::sleep(Duration::from_millis(30)).await;
    harness.append(&["4", "5", "6"]).await;
    let mut subscriptions = Vec::new();
    for (start, first) in [
        // First, before time has passed.
        (Start::Ago(middle.elapsed().unwrap()), 4),
        (Start::NewOnly, 7),
        (Start::First, 1),
        (Start::Last, 6),
        (Start::Sequence(4), 4),
        (Start::Sequence(0), 1),
        (Start::Sequence(7), 7),
        (Start::Time(middle), 4),
        (Start::Time(SystemTime::UNIX_EPOCH), 1),
        (Start::Time(middle + Duration::from_secs(3_600)), 7),
    ] {
        subscriptions.push((start, first, harness.subscribe(from(start)).await));
    }
    harness.append(&["7"]).await;
    for (start, first, subscription) in subscriptions {
        let wanted: Vec<u64> = (first..=7).collect();
        assert_eq!(next_acked(&*subscription, wanted.len()).await, wanted, "{start:?}");
        assert_silent(&*subscription).await;
    }
}

pub async fn a_durable_name_continues_where_it_was(harness: EngineHarness) {
    harness.append(&["1", "2", "3", "4", "5"]).await;
    let first = harness.subscribe(durable(Start::First, "mailer")).await;
    let messages = next(&*first, 4).await;
    for sequence in [1, 3] {
        first.ack(sequence).await.unwrap();
    }
    first.ack_soon(4);
    assert_eq!(messages.len(), 4);
    drop(first);
    let again = harness.subscribe(durable(Start::NewOnly, "mailer")).await;
    assert_eq!(next_acked(&*again, 2).await, [2, 5], "the start counts the first time only");
    drop(again);
    harness.append(&["6"]).await;
    let again = harness.subscribe(durable(Start::First, "mailer")).await;
    assert_eq!(next_acked(&*again, 1).await, [6]);
    assert_silent(&*again).await;
}

pub async fn a_durable_name_in_use_is_refused(harness: EngineHarness) {
    let one = harness.subscribe(durable(Start::First, "mailer")).await;
    let other = harness.engine.subscribe_stream(&name("s"), durable(Start::First, "mailer")).await;
    assert!(matches!(other.err(), Some(EngineError::InUse { .. })));
    harness.append(&["1"]).await;
    assert_eq!(next_acked(&*one, 1).await, [1], "the first one goes on");
}

pub async fn a_group_gets_one_copy(harness: EngineHarness) {
    let (one, other) = (harness.subscribe(member("g")).await, harness.subscribe(member("g")).await);
    let alone = harness.subscribe(from(Start::First)).await;
    harness.append(&["1", "2", "3", "4"]).await;
    let mut sequences = next_acked(&*one, 2).await;
    sequences.extend(next_acked(&*other, 2).await);
    sequences.sort_unstable();
    assert_eq!(sequences, [1, 2, 3, 4]);
    assert_eq!(next_acked(&*alone, 4).await, [1, 2, 3, 4]);
    assert_silent(&*one).await;
}

pub async fn a_released_message_comes_again(harness: EngineHarness) {
    harness.append(&["1", "2"]).await;
    let subscription = harness.subscribe(from(Start::First)).await;
    next(&*subscription, 2).await;
    subscription.release(2, Duration::from_millis(100), true);
    subscription.release(1, Duration::ZERO, false);
    let again = next(&*subscription, 1).await.remove(0);
    assert_eq!((again.sequence, again.attempt), (1, 1));
    let again = next(&*subscription, 1).await.remove(0);
    assert_eq!((again.sequence, again.attempt), (2, 2));
}

pub async fn what_a_lost_member_had_goes_to_the_others(harness: EngineHarness) {
    harness.append(&["1", "2"]).await;
    let (one, other) = (harness.subscribe(member("g")).await, harness.subscribe(member("g")).await);
    assert_eq!(next(&*one, 1).await[0].sequence, 1);
    assert_eq!(next_acked(&*other, 1).await, [2]);
    other.ack(1).await.unwrap();
    let (again, ()) = tokio::join!(next(&*other, 1), async { drop(one) });
    assert_eq!(again[0].sequence, 1, "only its owner can acknowledge it");
}

pub async fn a_slow_subscriber_loses_nothing(harness: EngineHarness) {
    let subscription = harness.subscribe(from(Start::First)).await;
    let texts: Vec<String> = (1..=3_000).map(|n| n.to_string()).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    for part in texts.chunks(500) {
        harness.append(part).await;
    }
    let unacked = next(&*subscription, 1_024).await;
    assert_silent(&*subscription).await;
    for message in unacked {
        subscription.ack_soon(message.sequence);
    }
    assert_eq!(next_acked(&*subscription, 1_976).await, (1_025..=3_000).collect::<Vec<_>>());
}

pub async fn retention_deletes_the_oldest(harness: EngineHarness) {
    let limits = ChannelLimits { max_messages: Some(3), ..ChannelLimits::default() };
    harness.engine.create(ChannelKind::Stream, &name("s"), limits).await.unwrap();
    let behind = harness.subscribe(from(Start::First)).await;
    harness.append(&["1", "2", "3", "4", "5"]).await;
    assert_eq!(next_acked(&*behind, 3).await, [3, 4, 5]);
    let info = harness.engine.info(ChannelKind::Stream, &name("s")).await.unwrap().unwrap();
    assert_eq!((info.messages, info.last_sequence, info.limits), (3, 5, limits));
    let limits = ChannelLimits { max_bytes: Some(1), ..ChannelLimits::default() };
    harness.engine.create(ChannelKind::Stream, &name("s"), limits).await.unwrap();
    let all = harness.subscribe(from(Start::First)).await;
    assert_eq!(next_acked(&*all, 1).await, [5], "the newest one is kept");
}
