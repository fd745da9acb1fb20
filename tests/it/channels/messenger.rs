//! Channels in an app: messengers, settings, and what KubeMQ clients may send.

use std::sync::Arc;
use std::time::Duration;

use tower_outbox::channels::{Channels, Content, Policy, QueueMessage, SendPattern, Start};
use tower_outbox::source::Source;
use tower_outbox::testing::messenger_conformance::{self, MessengerCapabilities, Received};
use tower_outbox::{Bus, Message, Messenger, Settings};

use super::{content, name};

async fn channels() -> (Channels, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    (Channels::open(folder.path().join("channels")).await.unwrap(), folder)
}

fn inbox(source: impl Source) -> impl AsyncFnMut(usize) -> Vec<Received> {
    async move |count| {
        let mut received = Vec::new();
        while received.len() < count {
            for delivery in source.receive(count - received.len()).await.unwrap() {
                received.push(Received::from(delivery.view().unwrap().message()));
                delivery.ack().await.unwrap();
            }
        }
        received
    }
}

fn capabilities() -> MessengerCapabilities {
    let capabilities = MessengerCapabilities::default().with_arrival(true).with_any_body(true);
    capabilities.with_headers(true).with_closes(true)
}

#[tokio::test]
async fn a_queue_conforms() {
    let (channels, _folder) = channels().await;
    let messenger = Arc::new(channels.messenger(SendPattern::Queue));
    let inbox = inbox(channels.queue("user.created").unwrap());
    messenger_conformance::all(messenger, "user.created", capabilities(), inbox).await;
}

#[tokio::test]
async fn a_stream_conforms() {
    let (channels, _folder) = channels().await;
    let stream = channels.stream("users").unwrap().from(Start::First);
    messenger_conformance::all(Arc::new(stream.clone()), "user.created", capabilities(), inbox(stream)).await;
}

#[tokio::test]
async fn settings_give_messenger_and_consumer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("channels");
    let settings: Settings = toml::from_str(&format!(
        r#"
        BACKEND = "channels"
        PATH = {path:?}
        PATTERN = "stream"
        CHANNEL = "users"
        [CONSUMERS.mailer]
        CHANNEL = "users"
        PATTERN = "stream"
        FROM = 1
        DURABLE = "mailer"
        "#
    ))
    .unwrap();
    let bus = Bus::start(&settings).await.unwrap();
    let source = bus.source("mailer").unwrap();
    bus.messenger().send(vec![Message::new("user.created", "x").unwrap()]).await.unwrap();
    let delivery = source.receive(10).await.unwrap().remove(0);
    assert_eq!(delivery.view().unwrap().message().topic().as_str(), "user.created");
    delivery.ack().await.unwrap();
    let _ = bus.shutdown(Duration::from_secs(10)).await;
}

#[tokio::test]
async fn a_message_of_a_stranger_is_read_with_its_tags() {
    let (channels, _folder) = channels().await;
    let tags =
        vec![("tenant".to_owned(), "acme".to_owned()), ("tower-outbox-failures".to_owned(), "[]".to_owned())];
    let content = Content { id: "1".to_owned(), metadata: "m".to_owned(), tags, ..content("x") };
    for sent in channels
        .engine()
        .send(vec![(name("orders"), QueueMessage { content, policy: Policy::default() })])
        .await
    {
        sent.unwrap();
    }
    let delivery = channels.queue("orders").unwrap().receive(1).await.unwrap().remove(0);
    let message = delivery.view().unwrap().message();
    assert_eq!((message.topic().as_str(), &**message.body()), ("orders", &b"x"[..]));
    assert_eq!(message.header("tenant").unwrap().as_str(), Some("acme"));
    assert_eq!(message.header("metadata").unwrap().as_str(), Some("m"));
    assert!(message.header("tower-outbox-failures").is_none());
}

#[tokio::test]
async fn an_extended_message_stays_with_its_handler() {
    let (channels, _folder) = channels().await;
    let queue = channels.queue("orders").unwrap().with_visibility(Duration::from_millis(100));
    queue.send(vec![Message::new("a", "x").unwrap()]).await.unwrap();
    let mut delivery = queue.receive(1).await.unwrap().remove(0);
    delivery.extend(Duration::from_secs(60)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(150)).await;
    delivery.ack().await.unwrap();
    assert!(queue.peek(10).await.unwrap().is_empty());
}

#[tokio::test]
async fn only_queues_take_a_delay() {
    let (channels, _folder) = channels().await;
    let late = || Message::new("a", "x").unwrap().with_delay(Duration::from_millis(50));
    assert!(channels.messenger(SendPattern::Events).check(&late()).is_err());
    assert!(channels.messenger(SendPattern::Stream).check(&late()).is_err());
    let queue = channels.queue("a").unwrap();
    queue.check(&late()).unwrap();
    let begun = std::time::Instant::now();
    queue.send(vec![late()]).await.unwrap();
    assert_eq!(queue.receive(1).await.unwrap().len(), 1);
    assert!(begun.elapsed() >= Duration::from_millis(50));
}
