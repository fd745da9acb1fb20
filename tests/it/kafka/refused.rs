//! Messages that a cluster refuses: each such message fails alone, with the cure.

use std::time::{Duration, Instant};

use tower_outbox::kafka::{Kafka, KafkaSettings};
use tower_outbox::{Health, Message, Messenger};

use super::raw::{Place, body};

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_message_without_a_topic_at_the_cluster_is_rejected_alone() {
    let place = Place::new().await;
    let messenger = Kafka::new(&place.settings().with_auto_create_topics(false)).unwrap();
    let mut batch = vec![place.message("1")];
    batch.extend((0..20).map(|n| Message::new(format!("nowhere-{n}"), "x").unwrap()));
    batch.push(place.message("2"));
    let begun = Instant::now();
    let unsent: Vec<_> = messenger.send(batch).await.unwrap_err().into_iter().collect();
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    assert_eq!(unsent.len(), 20);
    for (message, failure) in &unsent {
        let text = failure.to_string();
        assert!(message.topic().as_str().starts_with("nowhere"), "{text}");
        assert!(!failure.is_transient() && text.contains("create it"), "{text}");
    }
    let stored = place.stored().await;
    assert_eq!(stored.iter().map(body).collect::<Vec<_>>(), ["1", "2"]);
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_message_that_no_cluster_takes_is_rejected_at_enqueue() {
    let place = Place::new().await;
    let messenger = place.messenger();
    let good = place.message("x");
    messenger.check(&good).unwrap();
    for (message, why) in [
        (good.clone().with_delay(Duration::from_secs(1)), "delay"),
        (good.clone().with_expiry(Duration::from_secs(1)), "expire"),
        (Message::new("größe", "x").unwrap(), "ASCII"),
        (Message::new("x".repeat(250), "x").unwrap(), "249"),
        (Message::new(place.topic.clone(), vec![b'x'; 1_048_588]).unwrap(), "MAX_MESSAGE_BYTES"),
    ] {
        let error = messenger.check(&message).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
        let unsent: Vec<_> =
            messenger.send(vec![message, good.clone()]).await.unwrap_err().into_iter().collect();
        assert_eq!(unsent.len(), 1);
        assert!(!unsent[0].1.is_transient() && unsent[0].1.to_string().contains(why), "{}", unsent[0].1);
    }
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_cluster_that_cannot_be_reached_is_down() {
    let place = Place::new().await;
    assert_eq!(place.messenger().health().await, Health::Up);
    let mut settings = KafkaSettings::new(["kafka://127.0.0.1:1"]);
    settings.broker.connection_timeout = Some(Duration::from_secs(1));
    let messenger = Kafka::new(&settings).unwrap();
    let Health::Down { reason } = messenger.health().await else { panic!("it connects") };
    assert!(reason.contains("127.0.0.1:1"), "{reason}");
    let unsent = messenger.send(vec![place.message("x")]).await.unwrap_err();
    assert!(unsent.iter().all(|(_, failure)| failure.is_transient()));
}
