//! The shape of messages on the wire.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use tokio::time::timeout;
use tower_outbox::envelope::Envelope;
use tower_outbox::kafka::{BrokerSettings, Compression, Kafka};
use tower_outbox::{Message, Messenger};

use super::raw::{Place, SOON, body};

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_message_is_a_record_with_its_key_time_and_headers() {
    let place = Place::new().await;
    let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
    let message = place.message("{}").with_content_type("application/json").with_header("tenant", "größe");
    let message = message.with_header("n", 7).with_key("k").with_time(time);
    place.messenger().send(vec![message.clone()]).await.unwrap();
    let stored = place.stored().await.remove(0);
    assert_eq!((body(&stored), stored.key_str(), stored.timestamp), ("{}", Some("k"), 1_700_000_000_123));
    let id = message.id().to_string();
    for (name, value) in [
        ("tower-outbox-id", &*id),
        ("tower-outbox-time", "2023-11-14T22:13:20.123000Z"),
        ("content-type", "application/json"),
        ("tenant", "größe"),
        ("n", "7"),
        ("tower-outbox-types", r#"{"n":"int"}"#),
    ] {
        assert_eq!(stored.header_str(name), Some(value), "{name}");
    }
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn messages_of_one_key_keep_their_order_in_one_partition() {
    let place = Place::with_partitions(5).await;
    let messenger = place.messenger();
    let batch = |from: u32| {
        (from..from + 300).map(|n| place.message(&n.to_string()).with_key((n % 17).to_string())).collect()
    };
    for from in [0, 300, 600] {
        messenger.send(batch(from)).await.unwrap();
    }
    let stored = place.stored().await;
    let mut by_key: BTreeMap<String, (i32, Vec<u32>)> = BTreeMap::new();
    for record in &stored {
        let key = record.key_str().unwrap().to_owned();
        let (partition, numbers) = by_key.entry(key).or_insert((record.partition, Vec::new()));
        assert_eq!(*partition, record.partition);
        numbers.push(body(record).parse().unwrap());
    }
    assert_eq!((stored.len(), by_key.len()), (900, 17));
    assert!(by_key.values().all(|(_, numbers)| numbers.is_sorted()));
    let used: std::collections::BTreeSet<_> = by_key.values().map(|(partition, _)| partition).collect();
    assert!(used.len() > 2, "{used:?}");
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_batch_larger_than_the_window_is_stored_in_order() {
    let place = Place::new().await;
    let mut settings = place.settings();
    settings.broker.window = 3;
    let messenger = Kafka::new(&settings).unwrap();
    let batch = (0..200).map(|n| place.message(&n.to_string())).collect();
    timeout(SOON, messenger.send(batch)).await.expect("it hangs").unwrap();
    let stored = place.stored().await;
    let bodies: Vec<_> = stored.iter().map(body).collect();
    assert_eq!(bodies, (0..200).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn messages_are_compressed_and_have_the_prefix() {
    let place = Place::new().await;
    for compression in [Compression::Gzip, Compression::Snappy, Compression::Lz4] {
        let mut settings = place.settings().with_compression(compression);
        settings.broker.topic_prefix = Some("shop".to_owned());
        let text = "x".repeat(10_000);
        let message = Message::new("order.created", text.clone()).unwrap();
        Kafka::new(&settings).unwrap().send(vec![message]).await.unwrap();
        let stored = place.stored_in("shop.order.created").await;
        assert_eq!(stored.last().map(body), Some(&*text), "{compression:?}");
    }
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_cloud_event_has_the_headers_of_its_binding() {
    let place = Place::new().await;
    let settings = BrokerSettings::new([place.server.url()]).with_envelope(Envelope::CloudEvents);
    let message = Message::json(place.topic.clone(), &7).unwrap().with_key("k");
    Kafka::new(&settings.into()).unwrap().send(vec![message.clone()]).await.unwrap();
    let stored = place.stored().await.remove(0);
    assert_eq!((body(&stored), stored.key_str()), ("7", Some("k")));
    let id = message.id().to_string();
    for (name, value) in [
        ("ce_id", &*id),
        ("ce_specversion", "1.0"),
        ("ce_type", &*place.topic),
        ("ce_source", "/tower-outbox"),
        ("content-type", "application/json"),
    ] {
        assert_eq!(stored.header_str(name), Some(value), "{name} in {:?}", stored.headers);
    }
}
