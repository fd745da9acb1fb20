//! Receiving and settling.

use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::{AckPolicy, pull};
use tokio::time::timeout;
use tower_outbox::nats::{NatsSource, NatsSubscription};
use tower_outbox::source::{Source, SourceError, Unsettled};
use tower_outbox::{Message, Messenger};

use super::raw::{Place, QUIET, SOON, header};

impl Place {
    pub fn subscription(&self) -> NatsSubscription {
        NatsSubscription::new(&*self.stream, "all")
    }

    pub fn source(&self, subscription: &NatsSubscription) -> NatsSource {
        NatsSource::new(&self.settings(), subscription).unwrap()
    }

    pub async fn send(&self, bodies: &[&str]) {
        let messages = bodies.iter().map(|body| self.message(body)).collect();
        self.messenger().send(messages).await.unwrap();
    }

    async fn waiting(&self) -> usize {
        let stream = self.context.get_stream(&self.stream).await.unwrap();
        stream.consumer_info("all").await.unwrap().num_ack_pending
    }
}

pub async fn next(source: &impl Source) -> Unsettled {
    timeout(SOON, source.receive(1)).await.expect("nothing comes").unwrap().remove(0)
}

async fn assert_quiet(source: &impl Source) {
    if let Ok(more) = timeout(QUIET, source.receive(10)).await {
        panic!("it comes: {more:?}");
    }
}

pub fn text(delivery: &Unsettled) -> String {
    String::from_utf8_lossy(delivery.view().unwrap().message().body()).into_owned()
}

async fn refused(source: &NatsSource) -> String {
    let SourceError::Unavailable(cause) = timeout(SOON, source.receive(1)).await.unwrap().unwrap_err() else {
        panic!("it is closed")
    };
    cause.to_string()
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_missing_stream_is_created_with_the_subjects() {
    let place = Place::without_stream().await;
    let none = place.source(&place.subscription());
    let error = refused(&none).await;
    assert!(error.contains("SUBJECTS"), "{error}");
    let source = place.source(&place.subscription().with_subject(&*place.topic));
    assert!(timeout(QUIET, source.receive(1)).await.is_err());
    let made = async {
        while place.context.get_stream(format!("{}-all-dead", place.stream)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(SOON, made).await.expect("it is not created");
    place.send(&["x"]).await;
    let delivery = next(&source).await;
    assert_eq!(text(&delivery), "x");
    delivery.ack().await.unwrap();
}

/// Trap N5: at its limit of deliveries the server leaves a message in the stream.
#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_consumer_that_would_lose_messages_is_refused() {
    let place = Place::new().await;
    let stream = place.context.get_stream(&place.stream).await.unwrap();
    for (name, config, cure) in [
        ("limited", pull::Config { max_deliver: 3, ..pull::Config::default() }, "max_deliver"),
        ("none", pull::Config { ack_policy: AckPolicy::None, ..pull::Config::default() }, "explicit"),
        ("heads", pull::Config { headers_only: true, ..pull::Config::default() }, "no bodies"),
    ] {
        let config = pull::Config { durable_name: Some(name.to_owned()), ..config };
        stream.create_consumer(config).await.unwrap();
        let error = refused(&place.source(&NatsSubscription::new(&*place.stream, name))).await;
        assert!(error.contains(cure), "{error}");
    }
    let same = place.subscription().with_dead_letter_subject(&*place.topic);
    let error = refused(&place.source(&same)).await;
    assert!(error.contains("DEAD_LETTER_SUBJECT"), "{error}");
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_message_stays_ours_while_it_is_handled() {
    let place = Place::new().await;
    let source = place.source(&place.subscription().with_ack_wait(Duration::from_secs(1)));
    place.send(&["1", "2"]).await;
    let first = next(&source).await;
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    first.ack().await.unwrap();
    let second = next(&source).await;
    assert_eq!((text(&second).as_str(), second.view().unwrap().attempt()), ("2", 1));
    second.ack().await.unwrap();
    assert_quiet(&source).await;
    assert_eq!(place.waiting().await, 0);
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn messages_of_a_process_that_died_come_again() {
    let place = Place::new().await;
    let subscription = place.subscription().with_ack_wait(Duration::from_secs(1));
    place.send(&["x"]).await;
    let runtime = std::thread::spawn({
        let source = place.source(&subscription);
        move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            let delivery = runtime.block_on(next(&source));
            // All its tasks end here, as if it was killed.
            runtime.shutdown_background();
            drop(delivery);
        }
    });
    runtime.join().unwrap();
    let source = place.source(&subscription);
    let again = next(&source).await;
    let view = again.view().unwrap();
    assert_eq!((view.attempt(), view.redelivered()), (2, true));
    again.ack().await.unwrap();
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_closed_source_returns_what_it_has_at_once() {
    let place = Place::new().await;
    let first = place.source(&place.subscription());
    place.send(&["1", "2", "3"]).await;
    next(&first).await.ack().await.unwrap();
    first.close(SOON).await;
    let second = place.source(&place.subscription());
    let begun = Instant::now();
    let mut rest = [text(&next(&second).await), text(&next(&second).await)];
    rest.sort();
    assert_eq!(rest, ["2", "3"]);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn two_sources_share_a_consumer() {
    let place = Place::new().await;
    let subscription = place.subscription().with_prefetch(1);
    let sources = [place.source(&subscription), place.source(&subscription)];
    place.send(&["1", "2"]).await;
    let (first, second) = (next(&sources[0]).await, next(&sources[1]).await);
    let mut both = [text(&first), text(&second)];
    both.sort();
    assert_eq!(both, ["1", "2"]);
    first.ack().await.unwrap();
    second.ack().await.unwrap();
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_message_larger_than_all_room_arrives_alone() {
    let place = Place::new().await;
    let source = place.source(&place.subscription().with_prefetch_bytes(100_000));
    let large = "x".repeat(300_000);
    place.send(&["1", &large, "2"]).await;
    for expected in ["1", &large, "2"] {
        let delivery = next(&source).await;
        assert_eq!(text(&delivery).len(), expected.len());
        delivery.ack().await.unwrap();
    }
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_stranger_becomes_a_message_or_one_dead_letter() {
    let place = Place::with(|config| config.subjects = vec![format!("{}.>", config.name)]).await;
    let source = place.source(&place.subscription());
    let mut headers = HeaderMap::new();
    headers.insert("tower-outbox-attempt", "90");
    headers.insert("Key", "value");
    let topic = format!("{}.a", place.topic);
    let publish = place.context.publish_with_headers(topic.clone(), headers, "body".into()).await.unwrap();
    publish.await.unwrap();
    let delivery = next(&source).await;
    let view = delivery.view().unwrap();
    assert_eq!((view.attempt(), view.message().topic().as_str()), (1, &*topic));
    let found: Vec<_> = view.message().headers().map(|(name, _)| name.to_owned()).collect();
    assert_eq!(found, ["Key"]);
    delivery.ack().await.unwrap();

    // A subject that is no topic of ours.
    place.context.publish(format!("{}.a#b", place.topic), "x".into()).await.unwrap().await.unwrap();
    let poison = next(&source).await;
    let reason = poison.view().unwrap_err().to_string();
    assert!(reason.contains("is not a topic"), "{reason}");
    poison.reject(reason).await.unwrap();
    let dead = Place { stream: format!("{}-all-dead", place.stream), ..place };
    let letter = dead.stored().await.remove(0);
    assert_eq!(header(&letter, "tower-outbox-attempt"), Some("1"));
    assert!(header(&letter, "tower-outbox-reason").unwrap().contains("is not a topic"));
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_pause_gives_messages_to_others() {
    let place = Place::new().await;
    let sources = [place.source(&place.subscription()), place.source(&place.subscription())];
    place.send(&["1"]).await;
    next(&sources[0]).await.ack().await.unwrap();
    sources[0].pause().await;
    let bodies = ["2", "3", "4"];
    place.send(&bodies).await;
    let mut found = Vec::new();
    while found.len() < 3 {
        let delivery = next(&sources[1]).await;
        found.push(text(&delivery));
        delivery.ack().await.unwrap();
    }
    found.sort();
    assert_eq!(found, bodies);
    sources[1].close(SOON).await;
    place.send(&["5"]).await;
    let message: Message = next(&sources[0]).await.view().unwrap().message().clone();
    assert_eq!(message.body(), "5");
}
