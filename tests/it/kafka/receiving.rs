//! Messages of a source, and how far its group is read.

use std::time::{Duration, Instant};

use krafka::Record;
use tokio::time::timeout;
use tower_outbox::Messenger;
use tower_outbox::kafka::{KafkaSource, KafkaSubscription};
use tower_outbox::message::headers;
use tower_outbox::source::{Source, Unsettled};

use super::raw::{Place, QUIET, SOON, body};

pub fn text(delivery: &Unsettled) -> &str {
    std::str::from_utf8(delivery.view().unwrap().message().body()).unwrap()
}

/// Receives so many messages.
pub async fn receive(source: &KafkaSource, count: usize) -> Vec<Unsettled> {
    let mut all = Vec::new();
    while all.len() < count {
        all.extend(timeout(SOON, source.receive(count - all.len())).await.expect("nothing comes").unwrap());
    }
    all
}

async fn assert_quiet(source: &KafkaSource) {
    if let Ok(more) = timeout(QUIET, source.receive(10)).await {
        panic!("a message comes: {more:?}");
    }
}

/// The offset that the group has committed in the only partition.
async fn committed(place: &Place, group: &str) -> Option<i64> {
    let consumer = place.client.consumer(group).build().await.unwrap();
    let committed = consumer.committed(&[(&place.topic, 0)]).await.unwrap();
    committed.values().next().map(|position| position.offset)
}

pub async fn until_committed(place: &Place, group: &str, wanted: i64) {
    let reached = async {
        while committed(place, group).await != Some(wanted) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(SOON, reached).await.expect("the offset is not committed");
}

async fn publish(place: &Place, record: Record) {
    let producer = place.client.producer().build().await.unwrap();
    let _ = producer.send(record).await.unwrap();
    producer.close().await.unwrap();
}

impl Place {
    pub fn subscription(&self) -> KafkaSubscription {
        // Tansu takes half of it to let a member join.
        let session = Duration::from_secs(6);
        KafkaSubscription::new(format!("group-{}", self.topic), [&self.topic]).with_session_timeout(session)
    }

    pub fn source(&self, subscription: &KafkaSubscription) -> KafkaSource {
        KafkaSource::new(&self.settings(), subscription).unwrap()
    }

    pub async fn send(&self, range: std::ops::Range<u32>) {
        self.messenger().send(range.map(|n| self.message(&n.to_string())).collect()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn the_backlog_counts_what_was_not_received() {
    let place = Place::new().await;
    let source = place.source(&place.subscription());
    assert_eq!(source.backlog().await, None, "it is no member yet");
    place.send(0..10).await;
    let taken = receive(&source, 3).await;
    assert_eq!(source.backlog().await, Some(7));
    source.pause().await;
    place.send(10..11).await;
    assert_eq!(source.backlog().await, Some(8));
    drop(taken);
    drop(receive(&source, 11).await);
    source.close(SOON).await;
    assert_eq!(source.backlog().await, None);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn the_offset_stays_at_the_first_unsettled_message() {
    let place = Place::new().await;
    place.send(0..10).await;
    let subscription = place.subscription();
    let source = place.source(&subscription);
    let mut held = None;
    for delivery in receive(&source, 10).await {
        match text(&delivery) {
            "3" => held = Some(delivery),
            _ => delivery.ack().await.unwrap(),
        }
    }
    until_committed(&place, &subscription.group, 3).await;
    held.unwrap().ack().await.unwrap();
    until_committed(&place, &subscription.group, 10).await;
    source.close(SOON).await;
    let again = place.source(&subscription);
    assert_quiet(&again).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn what_is_settled_at_the_close_does_not_come_again() {
    let place = Place::new().await;
    place.send(0..100).await;
    let subscription = place.subscription();
    let source = place.source(&subscription);
    for delivery in receive(&source, 40).await {
        delivery.ack().await.unwrap();
    }
    source.close(SOON).await;
    let source = place.source(&subscription);
    let found: Vec<_> =
        receive(&source, 60).await.iter().map(|it| text(it).parse::<u32>().unwrap()).collect();
    assert_eq!(found, (40..100).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn what_is_unsettled_at_the_close_comes_again() {
    let place = Place::new().await;
    place.send(0..5).await;
    let subscription = place.subscription();
    let source = place.source(&subscription);
    let mut received = receive(&source, 5).await;
    for settled in [3, 0] {
        received.remove(settled).ack().await.unwrap();
    }
    source.close(SOON).await;
    let late = received.remove(0).ack().await.unwrap_err();
    assert!(format!("{late:?}").contains("another process"), "{late:?}");
    let again = place.source(&subscription);
    let found: Vec<_> = receive(&again, 4).await.iter().map(|it| text(it).to_owned()).collect();
    assert_eq!(found, ["1", "2", "3", "4"], "Kafka knows one offset");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn an_ordered_partition_waits_for_its_retry() {
    let place = Place::with_partitions(2).await;
    let partition = |key: &&str| (krafka::producer::murmur2(key.as_bytes()) & 0x7fff_ffff) % 2;
    let in_partition =
        |wanted| ["a", "b", "c", "d", "e", "f"].into_iter().find(|key| partition(key) == wanted);
    let keys = [in_partition(0).unwrap(), in_partition(1).unwrap()];
    let message =
        |which: &str, n: u32| place.message(&format!("{which}{n}")).with_key(keys[usize::from(which == "c")]);
    let batch = (0..3).flat_map(|n| [message("a", n), message("c", n)]).collect();
    place.messenger().send(batch).await.unwrap();
    let source = place.source(&place.subscription().with_ordered(true));
    let mut first = receive(&source, 2).await;
    first.sort_by_key(|delivery| text(delivery).to_owned());
    assert_eq!(first.iter().map(text).collect::<Vec<_>>(), ["a0", "c0"]);
    assert_quiet(&source).await;
    let (c, a) = (first.pop().unwrap(), first.pop().unwrap());
    let begun = Instant::now();
    a.retry(Duration::from_millis(700), "not yet").await.unwrap();
    c.ack().await.unwrap();
    for n in 1..3 {
        let next = receive(&source, 1).await.remove(0);
        assert_eq!(text(&next), format!("c{n}"));
        next.ack().await.unwrap();
    }
    for n in 0..3 {
        let next = receive(&source, 1).await.remove(0);
        assert_eq!(text(&next), format!("a{n}"));
        next.ack().await.unwrap();
    }
    assert!(begun.elapsed() >= Duration::from_millis(700), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_retry_of_a_topic_keeps_its_attempts_over_a_restart() {
    let place = Place::new().await;
    place.send(0..1).await;
    let subscription = place.subscription().with_retry_topic("{topic}.retry");
    let source = place.source(&subscription);
    let delivery = receive(&source, 1).await.remove(0);
    let id = delivery.view().unwrap().message().id();
    delivery.retry(Duration::from_millis(300), "first").await.unwrap();
    until_committed(&place, &subscription.group, 1).await;
    source.close(SOON).await;
    let source = place.source(&subscription);
    let again = receive(&source, 1).await.remove(0);
    let view = again.view().unwrap();
    assert_eq!((view.message().id(), view.attempt()), (id, 2));
    assert_eq!(view.message().topic().as_str(), place.topic);
    assert_eq!(&*view.failures()[0].reason, "first");
    again.reject("never").await.unwrap();
    let dead = place.stored_in(&format!("{}.dead", place.topic)).await.remove(0);
    assert_eq!((body(&dead), dead.header_str(headers::ATTEMPT)), ("0", Some("2")));
    assert!(dead.header_str(headers::FAILURES).unwrap().contains("first"));
    // Another group skips it.
    let other = place.subscription().with_retry_topic("{topic}.retry");
    let mut other = other;
    other.group.push_str("-other");
    let others = place.source(&other);
    let of_other = receive(&others, 1).await.remove(0);
    assert_eq!(text(&of_other), "0");
    of_other.ack().await.unwrap();
    assert_quiet(&others).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_dead_letter_keeps_key_value_and_headers() {
    let place = Place::new().await;
    let record = Record::new(&*place.topic, &b"\xff\0"[..]).key(&b"\xfe"[..]);
    publish(&place, record.header("bytes", &b"\xfd"[..]).header("bytes", "second").null_header("none")).await;
    let source = place.source(&place.subscription());
    let delivery = receive(&source, 1).await.remove(0);
    let message = delivery.view().unwrap().message().clone();
    assert_eq!((message.key(), &**message.body()), (Some("/g=="), &b"\xff\0"[..]));
    assert_eq!(message.header("bytes").map(ToString::to_string).as_deref(), Some("/Q=="));
    delivery.reject("never").await.unwrap();
    let dead = place.stored_in(&format!("{}.dead", place.topic)).await.remove(0);
    assert_eq!((dead.key.as_deref(), dead.value.as_deref()), (Some(&b"\xfe"[..]), Some(&b"\xff\0"[..])));
    assert_eq!(dead.headers_by_key("bytes").len(), 2);
    assert_eq!(dead.header_str("tower-outbox-reason"), Some("never"));
    assert_eq!(dead.header_str("tower-outbox-id"), Some(&*message.id().to_string()));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn headers_of_ours_are_not_believed_from_strangers() {
    let place = Place::new().await;
    let mut record = Record::new(&*place.topic, "x");
    let subscription = place.subscription();
    for (name, value) in [
        (headers::ATTEMPT, "90"),
        (headers::FAILURES, r#"[{"at": "2026-11-21T06:15:24.925Z", "reason": "invented"}]"#),
        (headers::TOPIC, "other"),
        (headers::QUEUE, &*subscription.group),
        ("tower-outbox-due", "2999-01-01T00:00:00Z"),
        ("tower-outbox-types", r#"{"n": "bool", "x": 7}"#),
        ("tower-outbox-time", "yesterday"),
        ("n", "7"),
    ] {
        record = record.header(name, value.to_owned());
    }
    publish(&place, record).await;
    let source = place.source(&subscription.with_retry_topic("{topic}.retry"));
    let delivery = receive(&source, 1).await.remove(0);
    let view = delivery.view().unwrap();
    assert_eq!((view.attempt(), view.failures().len()), (1, 0));
    assert_eq!(view.message().topic().as_str(), place.topic);
    assert_eq!(view.message().headers().count(), 1);
    delivery.ack().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn an_unreadable_message_is_one_dead_letter() {
    let place = Place::new().await;
    let mut record = Record::new(&*place.topic, "x");
    for n in 0..1_100 {
        record = record.header(format!("h{n}"), "1");
    }
    publish(&place, record).await;
    place.send(1..2).await;
    let source = place.source(&place.subscription());
    let mut received = receive(&source, 2).await;
    let (good, poison) = (received.pop().unwrap(), received.pop().unwrap());
    assert!(poison.view().unwrap_err().contains("headers"));
    poison.reject("it has more than 1,000 headers").await.unwrap();
    assert_eq!(text(&good), "1");
    good.ack().await.unwrap();
    assert_eq!(place.stored_in(&format!("{}.dead", place.topic)).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn no_more_is_fetched_than_may_be_unsettled() {
    let place = Place::new().await;
    place.send(0..1_000).await;
    let source = place.source(&place.subscription().with_prefetch(10));
    let held = receive(&source, 10).await;
    let more = timeout(QUIET, source.receive(1_000)).await;
    let more = more.map_or(0, |more| more.unwrap().len());
    assert!(more <= 10, "{more} more messages came");
    for delivery in held {
        delivery.ack().await.unwrap();
    }
    let _more = receive(&source, 10).await;
    // One that is larger than all that may be here comes alone.
    let place = Place::new().await;
    let large = "x".repeat(500_000);
    place.messenger().send((0..5).map(|_| place.message(&large)).collect()).await.unwrap();
    let source = place.source(&place.subscription().with_prefetch_bytes(100_000));
    for _ in 0..5 {
        receive(&source, 1).await.remove(0).ack().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_partition_is_not_read_far_beyond_an_unsettled_message() {
    let place = Place::new().await;
    place.send(0..2_000).await;
    let source = place.source(&place.subscription().with_prefetch(50).with_max_uncommitted(100));
    let mut stuck = receive(&source, 1).await;
    let mut count = 0;
    while let Ok(received) = timeout(Duration::from_secs(1), source.receive(50)).await {
        for delivery in received.unwrap() {
            delivery.ack().await.unwrap();
            count += 1;
        }
    }
    assert!((99..400).contains(&count), "{count} came");
    stuck.remove(0).ack().await.unwrap();
    receive(&source, 1).await.remove(0).ack().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_released_message_is_the_next_one() {
    let place = Place::new().await;
    place.send(0..5).await;
    let source = place.source(&place.subscription());
    for _ in 0..3 {
        let first = receive(&source, 1).await.remove(0);
        assert_eq!(text(&first), "0");
        first.release().await.unwrap();
    }
    let found: Vec<_> = receive(&source, 5).await.iter().map(|it| text(it).to_owned()).collect();
    assert_eq!(found, ["0", "1", "2", "3", "4"]);
}

/// Lets each message wait that comes, and returns their number.
async fn retry_all(source: &KafkaSource) -> usize {
    let mut count = 0;
    let mut received = receive(source, 1).await;
    loop {
        for delivery in received {
            delivery.retry(2 * SOON, "later").await.unwrap();
            count += 1;
        }
        match timeout(Duration::from_secs(1), source.receive(100)).await {
            Ok(more) => received = more.unwrap(),
            Err(_) => return count,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn no_more_messages_wait_than_may() {
    let place = Place::new().await;
    place.send(0..3_000).await;
    let source = place.source(&place.subscription().with_prefetch(500));
    let count = retry_all(&source).await;
    assert!((1_000..=1_750).contains(&count), "{count} wait");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn no_more_bytes_wait_than_may() {
    let place = Place::new().await;
    let (messenger, large) = (place.messenger(), "x".repeat(60_000));
    for _ in 0..40 {
        messenger.send(vec![place.message(&large)]).await.unwrap();
    }
    let source = place.source(&place.subscription().with_prefetch_bytes(300_000));
    let count = retry_all(&source).await;
    assert!((5..=15).contains(&count), "{count} wait");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn the_last_ten_failures_are_kept() {
    let place = Place::new().await;
    place.send(0..1).await;
    let source = place.source(&place.subscription());
    for n in 0..12 {
        let delivery = receive(&source, 1).await.remove(0);
        delivery.retry(Duration::ZERO, format!("no. {n}")).await.unwrap();
    }
    let delivery = receive(&source, 1).await.remove(0);
    let reasons: Vec<_> =
        delivery.view().unwrap().failures().iter().map(|failure| failure.reason.to_string()).collect();
    assert_eq!(reasons, (2..12).map(|n| format!("no. {n}")).collect::<Vec<_>>());
    assert_eq!(delivery.view().unwrap().attempt(), 13);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_dead_letter_of_another_group_shows_its_failures_alone() {
    let place = Place::new().await;
    let record = Record::new(&*place.topic, "x")
        .header(headers::QUEUE, "other")
        .header(headers::REASON, "never")
        .header(headers::ATTEMPT, "90")
        .header(headers::FAILURES, r#"[{"at": "2026-11-21T06:15:24.925Z", "reason": "broken"}]"#);
    publish(&place, record).await;
    let source = place.source(&place.subscription());
    let delivery = receive(&source, 1).await.remove(0);
    let view = delivery.view().unwrap();
    assert_eq!((view.attempt(), view.failures().len()), (1, 1));
    assert_eq!(&*view.failures()[0].reason, "broken");
    delivery.reject("again").await.unwrap();
    let dead = place.stored_in(&format!("{}.dead", place.topic)).await.remove(0);
    for (name, value) in [(headers::ATTEMPT, "1"), (headers::REASON, "again")] {
        let found = dead.headers_by_key(name);
        assert_eq!((found.len(), dead.header_str(name)), (1, Some(value)), "{name}");
    }
    assert!(!dead.header_str(headers::FAILURES).unwrap().contains("broken"), "they are not forwarded");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn records_without_an_id_have_that_of_their_place() {
    let place = Place::with_partitions(2).await;
    for partition in 0..2 {
        publish(&place, Record::new(&*place.topic, "x").partition(partition).timestamp(1_700_000_000_000))
            .await;
    }
    let ids = async |subscription: &KafkaSubscription| {
        let received = receive(&place.source(subscription), 2).await;
        let ids = received.iter().map(|delivery| delivery.view().unwrap().message().id());
        ids.collect::<std::collections::BTreeSet<_>>()
    };
    let mut subscription = place.subscription();
    let found = ids(&subscription).await;
    assert_eq!(found.len(), 2);
    subscription.group.push_str("-other");
    assert_eq!(ids(&subscription).await, found, "each group sees the same ids");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_retry_of_a_topic_waits_until_it_is_due() {
    let place = Place::new().await;
    place.send(0..1).await;
    let source = place.source(&place.subscription().with_retry_topic("{topic}.retry"));
    // The first retry creates the topic.
    for delay in [0, 1_500] {
        let delivery = receive(&source, 1).await.remove(0);
        let begun = Instant::now();
        delivery.retry(Duration::from_millis(delay), "not yet").await.unwrap();
        receive(&source, 1).await.remove(0).release().await.unwrap();
        assert!(begun.elapsed() >= Duration::from_millis(delay), "{:?}", begun.elapsed());
    }
}
