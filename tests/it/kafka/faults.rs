//! Faults that Tansu cannot show, by the broker of the client library's test kit: it runs in the process of the test, and keeps its
//! records when it crashes.

use std::sync::Arc;
use std::time::Duration;

use krafka::error::ErrorCode;
use krafka::testing::{ApiKey, Control, FakeBroker};
use tokio::time::timeout;
use tower_outbox::kafka::{Kafka, KafkaSettings, KafkaSource, KafkaSubscription};
use tower_outbox::source::Source;
use tower_outbox::{Health, Message, Messenger};

use super::raw::SOON;
use super::receiving::{receive, text};

pub async fn cluster(nodes: usize, partitions: i32) -> FakeBroker {
    let broker = FakeBroker::start_cluster(nodes).await.unwrap();
    broker.create_topic("t", partitions);
    broker
}

pub fn settings(broker: &FakeBroker) -> KafkaSettings {
    let servers = broker.bootstrap_servers();
    let mut settings = KafkaSettings::new(servers.split(',').map(|server| format!("kafka://{server}")));
    settings.broker.send_timeout = Some(Duration::from_secs(2));
    settings.broker.connection_timeout = Some(Duration::from_secs(1));
    settings.broker.idle_timeout = Duration::from_secs(2);
    settings
}

pub fn messages(range: std::ops::Range<u32>) -> Vec<Message> {
    let message = |n: u32| Message::new("t", n.to_string()).unwrap().with_key((n % 5).to_string());
    range.map(message).collect()
}

/// The stored numbers, by partition and offset.
fn stored(broker: &FakeBroker) -> Vec<u32> {
    let records = broker.all_records("t").unwrap();
    records.iter().map(|record| record.value_str().unwrap().parse().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_of_a_batch_blames_no_other_message() {
    for code in [ErrorCode::InvalidRecord, ErrorCode::InvalidTimestamp, ErrorCode::MessageTooLarge] {
        let broker = cluster(1, 1).await;
        let messenger = Kafka::new(&settings(&broker)).unwrap();
        broker.on_once(ApiKey::Produce, move |_| Control::Error(code));
        messenger.send(messages(0..20)).await.unwrap();
        let mut found = stored(&broker);
        found.sort_unstable();
        assert_eq!(found, (0..20).collect::<Vec<_>>(), "{code:?}");
        broker.on(ApiKey::Produce, move |_| Control::Error(code));
        let unsent = messenger.send(messages(20..25)).await.unwrap_err();
        assert_eq!(unsent.len(), 5, "{code:?}");
        assert!(unsent.iter().all(|(_, failure)| !failure.is_transient()), "{unsent:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_makes_no_duplicate() {
    let broker = cluster(1, 1).await;
    let messenger = Kafka::new(&settings(&broker)).unwrap();
    for from in [0, 100, 200] {
        broker.on_once(ApiKey::Produce, |_| Control::ApplyThen(Box::new(Control::Disconnect)));
        messenger.send(messages(from..from + 100)).await.unwrap();
    }
    assert_eq!(stored(&broker), (0..300).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn too_few_replicas_are_a_transient_failure() {
    let broker = cluster(1, 1).await;
    let messenger = Kafka::new(&settings(&broker)).unwrap();
    broker.on_times(ApiKey::Produce, 2, |_| Control::Error(ErrorCode::NotEnoughReplicas));
    messenger.send(messages(0..10)).await.unwrap();
    broker.on(ApiKey::Produce, |_| Control::Error(ErrorCode::NotEnoughReplicas));
    let unsent = messenger.send(messages(10..20)).await.unwrap_err();
    assert_eq!(unsent.len(), 10);
    assert!(unsent.iter().all(|(_, failure)| failure.is_transient()), "{unsent:?}");
    broker.clear_hooks();
    messenger.send(messages(10..20)).await.unwrap();
    assert_eq!(stored(&broker), (0..20).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_crashes_loses_and_repeats_nothing() {
    let broker = cluster(3, 3).await;
    let messenger = Kafka::new(&settings(&broker)).unwrap();
    messenger.send(messages(0..100)).await.unwrap();
    for node in [1, 2, 0] {
        let next = (node + 1) % 3;
        broker.crash(node);
        for partition in 0..3 {
            broker.set_leader("t", partition, next);
        }
        let from = 100 + u32::try_from(node).unwrap() * 100;
        let mut batch = messages(from..from + 100);
        let sending = async {
            while let Err(unsent) = messenger.send(std::mem::take(&mut batch)).await {
                assert!(unsent.iter().all(|(_, failure)| failure.is_transient()), "{unsent:?}");
                batch = unsent.into_messages();
            }
        };
        timeout(SOON, sending).await.expect("it does not go on at another node");
        broker.restart(node);
    }
    let mut stored = stored(&broker);
    stored.sort_unstable();
    assert_eq!(stored, (0..400).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crashed_broker_that_comes_back_has_what_was_confirmed() {
    let broker = cluster(1, 1).await;
    let settings = settings(&broker);
    let messenger = Kafka::new(&settings).unwrap();
    let source = KafkaSource::new(&settings, &KafkaSubscription::new("g", ["t"])).unwrap();
    messenger.send(messages(0..100)).await.unwrap();
    let held = receive(&source, 100).await;
    broker.crash(0);
    let unsent = messenger.send(messages(100..200)).await.unwrap_err();
    assert_eq!(unsent.len(), 100);
    for delivery in held {
        delivery.ack().await.unwrap();
    }
    broker.restart(0);
    let mut batch = unsent.into_messages();
    let sending = async {
        while let Err(unsent) = messenger.send(std::mem::take(&mut batch)).await {
            batch = unsent.into_messages();
        }
    };
    timeout(SOON, sending).await.expect("it does not connect again");
    let mut found = Vec::new();
    for delivery in receive(&source, 100).await {
        found.push(text(&delivery).parse::<u32>().unwrap());
        delivery.ack().await.unwrap();
    }
    assert_eq!(found, (100..200).collect::<Vec<_>>());
    let reached = async {
        while broker.committed_offset("g", "t", 0) != Some(200) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(SOON, reached).await.expect("the offset is not committed");
    assert_eq!(stored(&broker), (0..200).collect::<Vec<_>>());
}

/// As while a group agrees on its partitions. The first refusal comes while the partition goes already.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_refused_as_the_partition_goes_is_tried_again() {
    let broker = cluster(1, 1).await;
    let settings = settings(&broker);
    Kafka::new(&settings).unwrap().send(messages(0..10)).await.unwrap();
    let source = KafkaSource::new(&settings, &KafkaSubscription::new("g", ["t"])).unwrap();
    let (sender, mut asked) = tokio::sync::mpsc::unbounded_channel();
    broker.on_times(ApiKey::OffsetCommit, 8, move |_| {
        let _ = sender.send(());
        Control::DelayThen(
            Duration::from_millis(100),
            Box::new(Control::Error(ErrorCode::RebalanceInProgress)),
        )
    });
    for delivery in receive(&source, 10).await {
        delivery.ack().await.unwrap();
    }
    timeout(SOON, asked.recv()).await.unwrap();
    source.close(SOON).await;
    assert_eq!(broker.committed_offset("g", "t", 0), Some(10));
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_on_the_way_is_read_again_and_in_the_log_a_dead_letter() {
    let broker = cluster(1, 1).await;
    broker.create_topic("t.dead", 1);
    let settings = settings(&broker);
    Kafka::new(&settings).unwrap().send(messages(0..1)).await.unwrap();
    let source = KafkaSource::new(&settings, &KafkaSubscription::new("g", ["t"])).unwrap();
    broker.on_once(ApiKey::Fetch, |_| Control::CorruptRecords);
    let delivery = receive(&source, 1).await.remove(0);
    assert_eq!(text(&delivery), "0");
    delivery.ack().await.unwrap();
    source.close(SOON).await;

    broker.on(ApiKey::Fetch, |_| Control::CorruptRecords);
    let source = KafkaSource::new(&settings, &KafkaSubscription::new("other", ["t"])).unwrap();
    let poison = receive(&source, 1).await.remove(0);
    let reason = poison.view().unwrap_err().to_string();
    assert!(reason.contains("offset 0"), "{reason}");
    broker.clear_hooks();
    poison.reject(reason).await.unwrap();
    let dead = broker.all_records("t.dead").unwrap();
    assert_eq!((dead.len(), dead[0].header_str("tower-outbox-topic")), (1, Some("t")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_dead_letter_keeps_its_message() {
    let broker = cluster(1, 1).await;
    broker.create_topic("t.dead", 1);
    let settings = settings(&broker);
    Kafka::new(&settings).unwrap().send(messages(0..1)).await.unwrap();
    let source = KafkaSource::new(&settings, &KafkaSubscription::new("g", ["t"])).unwrap();
    let delivery = receive(&source, 1).await.remove(0);
    broker.on(ApiKey::Produce, |_| Control::Error(ErrorCode::NotEnoughReplicas));
    delivery.reject("never").await.unwrap_err();
    assert_eq!(broker.committed_offset("g", "t", 0), None);
    broker.clear_hooks();
    receive(&source, 1).await.remove(0).reject("never").await.unwrap();
    assert_eq!(broker.all_records("t.dead").unwrap().len(), 1);
    source.close(SOON).await;
    assert_eq!(broker.committed_offset("g", "t", 0), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_credentials_are_named() {
    let broker = cluster(1, 1).await;
    broker.require_sasl_plain("shop", "geheim");
    let with = |user: &str| {
        let mut settings = settings(&broker);
        settings.broker.urls =
            settings.broker.urls.iter().map(|url| url.replace("://", &format!("://{user}@"))).collect();
        Kafka::new(&settings).unwrap()
    };
    assert_eq!(with("shop:geheim").health().await, Health::Up);
    let Health::Down { reason } = with("shop:falsch").health().await else { panic!("it connects") };
    assert!(reason.contains("SASL_MECHANISM") && !reason.contains("falsch"), "{reason}");
}

/// A number would say that nothing waits.
#[tokio::test(flavor = "multi_thread")]
async fn the_backlog_is_unknown_until_partitions_are_assigned() {
    let broker = cluster(1, 1).await;
    let settings = settings(&broker);
    Kafka::new(&settings).unwrap().send(messages(0..10)).await.unwrap();
    let source = KafkaSource::new(&settings, &KafkaSubscription::new("g", ["t"])).unwrap();
    broker.on_once(ApiKey::SyncGroup, |_| Control::Delay(Duration::from_secs(1)));
    let mut first = None;
    let asking = async {
        while first.is_none() {
            first = source.backlog().await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let (_, received) = timeout(SOON, async { tokio::join!(asking, receive(&source, 3)) }).await.unwrap();
    assert!(first > Some(0), "{first:?}");
    drop(received);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_goes_after_the_handlers_of_its_messages_have_ended() {
    let broker = cluster(1, 1).await;
    let settings = settings(&broker);
    Kafka::new(&settings).unwrap().send(messages(0..2)).await.unwrap();
    let source = Arc::new(KafkaSource::new(&settings, &KafkaSubscription::new("g", ["t"])).unwrap());
    let held = receive(&source, 1).await.remove(0);
    let closing = tokio::spawn({
        let source = Arc::clone(&source);
        async move { source.close(SOON).await }
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    held.ack().await.unwrap();
    closing.await.unwrap();
    assert_eq!(broker.committed_offset("g", "t", 0), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_that_is_too_large_keeps_less() {
    let broker = cluster(1, 1).await;
    broker.create_topic("t.dead", 1);
    let settings = settings(&broker);
    let message = |n: u32| Message::new("t", n.to_string()).unwrap().with_header("tenant", "acme");
    Kafka::new(&settings).unwrap().send((0..3).map(message).collect()).await.unwrap();
    let source = KafkaSource::new(&settings, &KafkaSubscription::new("g", ["t"])).unwrap();
    for (delivery, refused) in receive(&source, 3).await.into_iter().zip(0..) {
        if refused > 0 {
            broker.on_times(ApiKey::Produce, refused, |_| Control::Error(ErrorCode::MessageTooLarge));
        }
        delivery.reject("never").await.unwrap();
    }
    let dead = broker.all_records("t.dead").unwrap();
    let kept: Vec<_> = dead
        .iter()
        .map(|record| {
            (record.value_str(), record.header_str("tenant"), record.header_str("tower-outbox-reason"))
        })
        .collect();
    let (tenant, reason) = (Some("acme"), Some("never"));
    assert_eq!(kept, [(Some("0"), tenant, reason), (Some("1"), None, reason), (Some("2"), None, None)]);
}
