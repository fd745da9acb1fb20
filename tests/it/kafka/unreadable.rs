//! Records that the client library cannot read.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use krafka::error::ErrorCode;
use krafka::testing::{ApiKey, Control, FakeBroker};
use tokio::time::{sleep, timeout};
use tower_outbox::kafka::{KafkaSource, KafkaSubscription};
use tower_outbox::message::headers;
use tower_outbox::source::Source;

use super::batch::{batch, damaged, record, records};
use super::faults::{cluster, settings};
use super::raw::{Place, QUIET, SOON};
use super::receiving::{receive, text, until_committed};

/// Lets a test broker keep a batch as it is.
fn store(broker: &FakeBroker, partition: i32, values: std::ops::Range<u32>, change: fn(Vec<u8>) -> Vec<u8>) {
    broker.with_state(|state| {
        let partition = state.partition_mut("t", partition).unwrap();
        let stored = records(values);
        let count = i32::try_from(stored.len()).unwrap();
        partition.log.push(change(batch(partition.next_offset, &stored, count)).into());
        partition.next_offset += i64::from(count);
    });
}

/// A damaged batch, or one whose header says that it has all records that can be counted, lies between good ones.
async fn is_one_dead_letter(bad: &[u8], count: i64, why: &str) {
    let place = Place::new().await;
    place.send(0..1).await;
    assert_eq!(place.store(bad).await, 1);
    place.send(1..2).await;
    let subscription = place.subscription();
    let source = place.source(&subscription);
    let mut received = receive(&source, 2).await;
    let (poison, before) = (received.pop().unwrap(), received.pop().unwrap());
    assert_eq!(text(&before), "0");
    let reason = poison.view().unwrap_err().to_string();
    assert!(reason.contains("offset 1 ") && reason.contains(why), "{reason}");
    before.ack().await.unwrap();
    until_committed(&place, &subscription.group, 1).await;
    poison.reject(reason.clone()).await.unwrap();
    let after = receive(&source, 1).await.remove(0);
    assert_eq!(text(&after), "1");
    after.ack().await.unwrap();
    until_committed(&place, &subscription.group, count + 2).await;
    assert!(timeout(QUIET, source.receive(10)).await.is_err());
    let dead = place.stored_in(&format!("{}.dead", place.topic)).await;
    assert_eq!(dead.len(), 1);
    assert_eq!(dead[0].header_str(headers::REASON), Some(&*reason));
    let written = UNIX_EPOCH + Duration::from_millis(dead[0].timestamp.try_into().unwrap());
    let age = SystemTime::now().duration_since(written).unwrap();
    assert!(age < 2 * SOON, "{age:?}: a dead letter of 1970 is soon removed");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_damaged_batch_is_one_dead_letter() {
    is_one_dead_letter(&damaged(batch(0, &records(0..700), 700)), 700, "CRC").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_batch_that_lies_about_its_count_is_one_dead_letter() {
    let lie = batch(0, &records(0..3), i32::MAX);
    is_one_dead_letter(&lie, i32::MAX.into(), "2147483647 records").await;
    is_one_dead_letter(&damaged(lie), i32::MAX.into(), "CRC").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn good_messages_between_damaged_batches_arrive() {
    let broker = cluster(1, 1).await;
    let numbers = |n: u32| n * 100..n * 100 + 100;
    for n in 0..6 {
        store(&broker, 0, numbers(n), if n % 2 == 0 { damaged } else { |batch| batch });
    }
    store(&broker, 0, 600..601, damaged);
    let source = KafkaSource::new(&settings(&broker), &KafkaSubscription::new("g", ["t"])).unwrap();
    let (mut good, mut bad) = (Vec::new(), 0);
    while good.len() + bad < 304 {
        let delivery = receive(&source, 1).await.remove(0);
        match delivery.view() {
            Ok(_) => good.push(text(&delivery).parse::<u32>().unwrap()),
            Err(_) => bad += 1,
        }
        delivery.ack().await.unwrap();
    }
    assert_eq!(good, numbers(1).chain(numbers(3)).chain(numbers(5)).collect::<Vec<_>>());
    assert_eq!(bad, 4);
    store(&broker, 0, 601..602, |batch| batch);
    assert_eq!(text(&receive(&source, 1).await[0]), "601");
    source.close(SOON).await;
    assert_eq!(broker.committed_offset("g", "t", 0), Some(601));
}

/// The client library reports one of them at a time, in turn.
#[tokio::test(flavor = "multi_thread")]
async fn damage_in_several_partitions_stops_none() {
    let broker = cluster(2, 4).await;
    for partition in 0..3 {
        store(&broker, partition, 0..1, damaged);
        store(&broker, partition, 1..2, |batch| batch);
    }
    let source = KafkaSource::new(&settings(&broker), &KafkaSubscription::new("g", ["t"])).unwrap();
    let received = receive(&source, 6).await;
    assert_eq!(received.iter().filter(|delivery| delivery.view().is_ok()).count(), 3);
    let fetches = broker.request_count(ApiKey::Fetch);
    assert!(fetches < 60, "{fetches} requests");
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_in_one_partition_does_not_delay_another() {
    let broker = cluster(1, 2).await;
    store(&broker, 0, 0..1, damaged);
    store(&broker, 1, 1..2, |batch| batch);
    let source = KafkaSource::new(&settings(&broker), &KafkaSubscription::new("g", ["t"])).unwrap();
    let first = receive(&source, 1).await.remove(0);
    assert!(first.view().is_ok());
    assert!(receive(&source, 1).await[0].view().is_err());
}

/// As after a long silence of this process.
#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_record_comes_again_after_its_partition_was_lost() {
    let broker = cluster(1, 1).await;
    broker.create_topic("t.dead", 1);
    store(&broker, 0, 0..1, damaged);
    let subscription = KafkaSubscription::new("g", ["t"]).with_session_timeout(Duration::from_secs(6));
    let source = KafkaSource::new(&settings(&broker), &subscription).unwrap();
    let held = receive(&source, 1).await.remove(0);
    broker.on_once(ApiKey::Heartbeat, |_| Control::Error(ErrorCode::UnknownMemberId));
    let again = receive(&source, 1).await.remove(0);
    held.ack().await.unwrap_err();
    broker.clear_requests();
    sleep(Duration::from_secs(2)).await;
    let fetches = broker.request_count(ApiKey::Fetch);
    assert!(fetches < 20, "{fetches} requests in two seconds");
    again.reject("never").await.unwrap();
    source.close(SOON).await;
    assert_eq!(broker.committed_offset("g", "t", 0), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_record_with_very_many_headers_is_one_dead_letter_with_the_first_of_them() {
    let place = Place::new().await;
    let subscription = place.subscription();
    let named = |count: u32, name: fn(u32) -> String| record(0, b"x", (0..count).map(name));
    for poison in [
        named(100_000, |_| "h".to_owned()),
        named(20_000, |n| format!("h{n}")),
        // These the client library does not read.
        named(100_001, |_| "h".to_owned()),
    ] {
        place.store(&batch(0, &[poison], 1)).await;
    }
    place.send(1..2).await;
    let source = place.source(&subscription);
    let mut received = receive(&source, 4).await;
    assert_eq!(text(&received.pop().unwrap()), "1");
    for (poison, count) in received.into_iter().zip(["100000", "20000", "100001"]) {
        let reason = poison.view().unwrap_err().to_string();
        assert!(reason.contains(count) && reason.contains("header"), "{reason}");
        timeout(SOON, poison.reject(reason)).await.expect("it is never published").unwrap();
    }
    let dead = place.stored_in(&format!("{}.dead", place.topic)).await;
    let counts: Vec<_> = dead.iter().map(|record| record.headers_by_key("h").len()).collect();
    assert_eq!(counts, [1_000, 0, 0]);
    assert!(dead[1].header_str("h999").is_none() && dead[1].headers.iter().any(|(name, _)| name == "h999"));
    assert_eq!(dead[1].value_str(), Some("x"));
}

/// Each of them has to be compared with those before it.
#[tokio::test(flavor = "multi_thread")]
async fn many_headers_of_one_name_cost_little() {
    let broker = cluster(1, 1).await;
    let name = |n: u32| format!("{:0>100}", n.min(998));
    broker.with_state(|state| {
        let partition = state.partition_mut("t", 0).unwrap();
        for _ in 0..20 {
            let many = record(0, b"x", (0..9_000).map(name));
            partition.log.push(batch(partition.next_offset, &[many], 1).into());
            partition.next_offset += 1;
        }
    });
    let source = KafkaSource::new(&settings(&broker), &KafkaSubscription::new("g", ["t"])).unwrap();
    let begun = std::time::Instant::now();
    receive(&source, 20).await;
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
}
