//! A broker that is killed, frozen and comes back.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tower_outbox::kafka::Kafka;
use tower_outbox::{Message, Messenger};

use super::raw::{Place, SOON, body};

fn numbers(place: &Place, range: std::ops::Range<u32>) -> Vec<Message> {
    range.map(|n| place.message(&n.to_string()).with_key((n % 7).to_string())).collect()
}

async fn send_until_confirmed(messenger: &Kafka, mut batch: Vec<Message>) {
    let sending = async {
        while let Err(unsent) = messenger.send(std::mem::take(&mut batch)).await {
            assert!(unsent.iter().all(|(_, failure)| failure.is_transient()), "{unsent:?}");
            batch = unsent.into_messages();
        }
    };
    tokio::time::timeout(SOON, sending).await.expect("it does not connect again");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_message_given_back_is_not_sent_when_the_broker_comes_back() {
    let mut place = Place::new().await;
    let messenger = Kafka::new(&place.hasty()).unwrap();
    messenger.send(numbers(&place, 0..1)).await.unwrap();
    place.server.kill().await;
    let begun = Instant::now();
    let unsent = messenger.send(numbers(&place, 1..900)).await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert_eq!(unsent.len(), 899);
    assert!(unsent.iter().all(|(_, failure)| failure.is_transient()), "{unsent:?}");
    place.server.again().await;
    place.create(&place.topic, 1).await;
    send_until_confirmed(&messenger, numbers(&place, 900..901)).await;
    let stored = place.stored().await;
    assert_eq!(stored.iter().map(body).collect::<Vec<_>>(), ["900"]);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn the_unsent_are_sent_when_the_broker_comes_back() {
    let mut place = Place::new().await;
    let messenger = Arc::new(Kafka::new(&place.hasty()).unwrap());
    messenger.send(numbers(&place, 0..1)).await.unwrap();
    place.server.kill().await;
    let sending = tokio::spawn({
        let (messenger, batch) = (Arc::clone(&messenger), numbers(&place, 1..500));
        async move { send_until_confirmed(&messenger, batch).await }
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    place.server.again().await;
    place.create(&place.topic, 1).await;
    sending.await.unwrap();
    let stored: BTreeSet<u32> =
        place.stored().await.iter().map(|record| body(record).parse().unwrap()).collect();
    assert_eq!(stored, (1..500).collect());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_frozen_broker_is_noticed_within_the_send_timeout() {
    let place = Place::new().await;
    let messenger = Kafka::new(&place.hasty()).unwrap();
    messenger.send(numbers(&place, 0..1)).await.unwrap();
    place.server.freeze().await;
    let begun = Instant::now();
    let sent = messenger.send(numbers(&place, 1..300)).await;
    let elapsed = begun.elapsed();
    place.server.thaw().await;
    assert_eq!(sent.unwrap_err().len(), 299);
    assert!(elapsed < Duration::from_secs(6), "{elapsed:?}");
    send_until_confirmed(&messenger, numbers(&place, 1..300)).await;
    let stored: Vec<u32> = place.stored().await.iter().map(|record| body(record).parse().unwrap()).collect();
    assert_eq!(stored.iter().copied().collect::<BTreeSet<_>>(), (0..300).collect());
}

/// The producer is idempotent: a batch whose answer came late is stored once.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_short_silence_makes_no_duplicates() {
    let place = Place::new().await;
    let mut settings = place.hasty();
    settings.broker.send_timeout = Some(Duration::from_secs(8));
    let messenger = Arc::new(Kafka::new(&settings).unwrap());
    messenger.send(numbers(&place, 0..1)).await.unwrap();
    for round in 0..3 {
        let sending = tokio::spawn({
            let messenger = Arc::clone(&messenger);
            let batch = numbers(&place, 1 + round * 1_000..1 + (round + 1) * 1_000);
            async move { messenger.send(batch).await }
        });
        place.server.freeze().await;
        tokio::time::sleep(Duration::from_millis(600)).await;
        place.server.thaw().await;
        sending.await.unwrap().unwrap();
    }
    let stored: Vec<u32> = place.stored().await.iter().map(|record| body(record).parse().unwrap()).collect();
    assert_eq!(stored, (0..3_001).collect::<Vec<_>>());
}
