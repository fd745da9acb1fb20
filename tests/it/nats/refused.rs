//! Messages that servers refuse: each such message fails alone, with the cure.

use std::time::{Duration, Instant};

use tower_outbox::nats::{Nats, NatsSettings, Pattern};
use tower_outbox::{Failure, Health, Message, Messenger};

use super::raw::{Place, body};
use crate::peers::Brokers;

async fn failure(messenger: &Nats, message: Message) -> Failure {
    let unsent = messenger.send(vec![message]).await.expect_err("it is refused");
    unsent.into_iter().next().unwrap().1
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_message_that_no_stream_takes_is_rejected_alone() {
    let place = Place::new().await;
    let messenger = place.messenger();
    let nowhere = Message::new(format!("other-{}", place.topic), "x").unwrap();
    let batch = vec![place.message("1"), nowhere.clone(), place.message("2")];
    let unsent: Vec<_> = messenger.send(batch).await.unwrap_err().into_iter().collect();
    assert_eq!((unsent.len(), unsent[0].0.id()), (1, nowhere.id()));
    let text = unsent[0].1.to_string();
    assert!(!unsent[0].1.is_transient() && text.contains("create one with this subject"), "{text}");
    let stored = place.stored().await;
    assert_eq!(stored.iter().map(|stored| body(stored)).collect::<Vec<_>>(), ["1", "2"]);
}

/// nats-server#8038: a subscriber of the subject keeps the server from saying that there is no stream.
#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_subject_with_subscribers_but_no_stream_is_rejected_too() {
    let place = Place::without_stream().await;
    let _subscriber = place.client.subscribe(place.topic.clone()).await.unwrap();
    place.client.request(place.client.new_inbox(), "".into()).await.unwrap_err();
    let mut settings = place.settings();
    settings.broker.send_timeout = Some(Duration::from_secs(1));
    let failure = failure(&Nats::new(&settings).unwrap(), place.message("x")).await;
    assert!(!failure.is_transient() && failure.to_string().contains("no stream"), "{failure}");
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_subject_that_this_client_may_not_use_is_rejected_at_once() {
    let place = Place::new().await;
    let url = place.url.replace("://", "://limited:limited@");
    for pattern in [Pattern::Streams, Pattern::Events] {
        let messenger = Nats::new(&NatsSettings::new([&url]).with_pattern(pattern)).unwrap();
        let closed = Message::new("closed.x", "x").unwrap();
        let begun = Instant::now();
        let unsent: Vec<_> =
            messenger.send(vec![closed.clone(), place.message("1")]).await.unwrap_err().into_iter().collect();
        assert_eq!((unsent.len(), unsent[0].0.id()), (1, closed.id()));
        let text = unsent[0].1.to_string();
        assert!(!unsent[0].1.is_transient() && text.contains("may not publish"), "{text}");
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    }
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_message_that_is_too_large_is_rejected_at_enqueue() {
    let place = Place::with(|config| config.max_message_size = 1_000).await;
    let messenger = place.messenger();
    let large = Message::new(place.topic.clone(), vec![b'x'; 9 << 20]).unwrap();
    messenger.check(&large).expect("the limit is not known yet");
    assert_eq!(messenger.health().await, Health::Up);
    let error = messenger.check(&large).unwrap_err().to_string();
    assert!(error.contains("max_payload"), "{error}");
    let text = failure(&messenger, large).await.to_string();
    assert!(text.contains("max_payload"), "{text}");
    let medium = Message::new(place.topic.clone(), vec![b'x'; 2_000]).unwrap();
    let failure = failure(&messenger, medium).await;
    assert!(!failure.is_transient() && failure.to_string().contains("max_msg_size"), "{failure}");
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_full_stream_is_a_transient_failure() {
    use async_nats::jetstream::stream::DiscardPolicy;
    let place = Place::with(|config| {
        config.max_messages = 1;
        config.discard = DiscardPolicy::New;
    })
    .await;
    let messenger = place.messenger();
    messenger.send(vec![place.message("1")]).await.unwrap();
    let failure = failure(&messenger, place.message("2")).await;
    assert!(failure.is_transient() && failure.to_string().contains("maximum messages"), "{failure}");
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn wrong_credentials_are_named() {
    let brokers = Brokers::running();
    let url = brokers.get("NATS1").replace("://", "://open:wrong@");
    let Health::Down { reason } = Nats::new(&NatsSettings::new([&url])).unwrap().health().await else {
        panic!("it connects")
    };
    assert!(reason.contains("authorization violation") && reason.contains("NKEY_FILE"), "{reason}");
    assert!(!reason.contains("wrong"), "{reason}");
}
