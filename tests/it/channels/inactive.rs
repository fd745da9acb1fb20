//! Channels and durable names that nobody uses, and how much is read at once.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tower_outbox::channels::embedded::{EmbeddedEngine, EmbeddedEngineSettings};
use tower_outbox::channels::{
    ChannelKind, ChannelLimits, Engine, EngineError, Policy, QueueMessage, Queues, Receive, Settle, Start,
    StreamSubscription, Streams, Subscribe, Which,
};
use tower_outbox::testing::support::stores::until;

use super::{content, message, name};

const SHORT: Option<Duration> = Some(Duration::from_millis(100));

fn settings(folder: &Path) -> EmbeddedEngineSettings {
    let mut settings = EmbeddedEngineSettings::new(folder.join("channels"));
    settings.max_inactivity = SHORT;
    settings
}

async fn open(folder: &Path) -> EmbeddedEngine {
    EmbeddedEngine::open(settings(folder)).await.unwrap()
}

async fn exists(engine: &EmbeddedEngine, kind: ChannelKind, channel: &str) -> bool {
    engine.info(kind, &name(channel)).await.unwrap().is_some()
}

async fn until_gone(engine: &EmbeddedEngine, kind: ChannelKind, channel: &str) {
    until("the channel is gone", || async { !exists(engine, kind, channel).await }).await;
}

async fn send(engine: &EmbeddedEngine, queue: &str) -> u64 {
    engine.send(vec![(name(queue), message("x"))]).await.remove(0).unwrap().sequence
}

async fn take(engine: &EmbeddedEngine, queue: &str) {
    let receive = Receive { auto_ack: true, ..Receive::default() };
    assert_eq!(engine.receive(&name(queue), receive).await.unwrap().messages.len(), 1);
}

#[tokio::test]
async fn an_unused_channel_is_removed_with_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = settings(folder.path());
    settings.max_channels = 2;
    let engine = EmbeddedEngine::open(settings).await.unwrap();
    assert_eq!((send(&engine, "q").await, send(&engine, "q").await), (1, 2));
    engine.append(vec![(name("s"), content("x"))]).await.remove(0).unwrap();
    take(&engine, "q").await;
    take(&engine, "q").await;
    let full = engine.send(vec![(name("another"), message("x"))]).await.remove(0);
    assert!(matches!(full, Err(EngineError::Full { .. })), "{full:?}");
    until_gone(&engine, ChannelKind::Queue, "q").await;
    // Its place is free for another name.
    until("there is room", || async { engine.send(vec![(name("another"), message("x"))]).await[0].is_ok() })
        .await;
    drop(engine);
    let engine = open(folder.path()).await;
    assert!(!exists(&engine, ChannelKind::Queue, "q").await);
    assert!(
        exists(&engine, ChannelKind::Stream, "s").await
            && exists(&engine, ChannelKind::Queue, "another").await
    );
    assert_eq!(send(&engine, "q").await, 1);
}

#[tokio::test]
async fn a_used_channel_stays() {
    let folder = tempfile::tempdir().unwrap();
    let engine = Arc::new(open(folder.path()).await);
    let limits = ChannelLimits { max_messages: Some(7), ..ChannelLimits::default() };
    engine.create(ChannelKind::Queue, &name("limited"), limits).await.unwrap();
    send(&engine, "full").await;
    send(&engine, "held").await;
    let held = engine.receive(&name("held"), Receive::default()).await.unwrap();
    let policy = Policy { delay: Duration::from_secs(60), ..Policy::default() };
    let delayed = QueueMessage { content: content("x"), policy };
    engine.send(vec![(name("delayed"), delayed)]).await.remove(0).unwrap();
    let waiting = tokio::spawn({
        let engine = Arc::clone(&engine);
        async move {
            let wait = Duration::from_secs(60);
            let receive = Receive { wait, auto_ack: true, ..Receive::default() };
            engine.receive(&name("waited"), receive).await.unwrap().messages.len()
        }
    });
    let durable = Subscribe { durable: Some("d".to_owned()), ..Subscribe::default() };
    drop(engine.subscribe_stream(&name("durable"), durable).await.unwrap());
    let subscriber = engine.subscribe_stream(&name("subscribed"), Subscribe::default()).await.unwrap();
    until("somebody waits", || async { exists(&engine, ChannelKind::Queue, "waited").await }).await;
    for channel in ["canary", "bird"] {
        send(&engine, channel).await;
        take(&engine, channel).await;
        until_gone(&engine, ChannelKind::Queue, channel).await;
    }
    for queue in ["limited", "full", "held", "delayed", "waited"] {
        assert!(exists(&engine, ChannelKind::Queue, queue).await, "{queue}");
    }
    for stream in ["durable", "subscribed"] {
        assert!(exists(&engine, ChannelKind::Stream, stream).await, "{stream}");
    }
    assert_eq!(engine.settle(held.receipt, Which::All, Settle::Ack).await.unwrap(), 1);
    assert_eq!(send(&engine, "waited").await, 1);
    assert_eq!(waiting.await.unwrap(), 1);
    drop(subscriber);
    for queue in ["held", "waited"] {
        until_gone(&engine, ChannelKind::Queue, queue).await;
    }
    until_gone(&engine, ChannelKind::Stream, "subscribed").await;
}

#[tokio::test]
async fn a_durable_name_without_a_subscriber_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = settings(folder.path());
    settings.durable_max_inactivity = SHORT;
    let engine = EmbeddedEngine::open(settings.clone()).await.unwrap();
    for body in ["1", "2"] {
        engine.append(vec![(name("s"), content(body))]).await.remove(0).unwrap();
    }
    let subscribe = |durable: &str| Subscribe {
        start: Start::First,
        durable: Some(durable.to_owned()),
        ..Subscribe::default()
    };
    let first =
        async |subscription: &dyn StreamSubscription| subscription.receive(1).await.unwrap()[0].sequence;
    let kept = engine.subscribe_stream(&name("s"), subscribe("kept")).await.unwrap();
    for durable in [&*kept, &*engine.subscribe_stream(&name("s"), subscribe("lost")).await.unwrap()] {
        assert_eq!(first(durable).await, 1);
        durable.ack(1).await.unwrap();
    }
    until("the name is gone", || async {
        let again = engine.subscribe_stream(&name("s"), subscribe("lost")).await.unwrap();
        let is_gone = first(&*again).await == 1;
        drop(again);
        if !is_gone {
            tokio::time::sleep(2 * SHORT.unwrap()).await;
        }
        is_gone
    })
    .await;
    assert_eq!(first(&*kept).await, 2);
    drop(kept);
    drop(engine);
    // The time begins with the engine.
    settings.durable_max_inactivity = None;
    let engine = EmbeddedEngine::open(settings).await.unwrap();
    let kept = engine.subscribe_stream(&name("s"), subscribe("kept")).await.unwrap();
    assert_eq!(first(&*kept).await, 2);
}

#[tokio::test]
async fn what_is_sent_while_its_channel_is_deleted_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let engine = open(folder.path()).await;
    send(&engine, "q").await;
    engine.append(vec![(name("s"), content("x"))]).await.remove(0).unwrap();
    let (queue, stream) = (name("q"), name("s"));
    let (deleted, sent, cut, appended) = tokio::join!(
        engine.delete(ChannelKind::Queue, &queue),
        engine.send(vec![(name("q"), message("later"))]),
        engine.delete(ChannelKind::Stream, &stream),
        engine.append(vec![(name("s"), content("later"))]),
    );
    assert!(deleted.unwrap() && cut.unwrap() && sent[0].is_ok() && appended[0].is_ok());
    // It is in the checkpoints that are written at the ends.
    drop(engine);
    drop(open(folder.path()).await);
    let engine = open(folder.path()).await;
    let messages = engine.peek(&queue, 10, Duration::ZERO).await.unwrap().messages;
    assert_eq!(messages.iter().map(|message| &message.content.body[..]).collect::<Vec<_>>(), [b"later"]);
    assert_eq!(engine.info(ChannelKind::Stream, &stream).await.unwrap().unwrap().messages, 1);
    // It may have been received before the restart; the next one has a sequence of its own.
    let received = engine.receive(&queue, Receive::default()).await.unwrap().messages;
    assert!(messages[0].redelivered && received[0].redelivered);
    let next = engine.send(vec![(name("q"), message("next"))]).await.remove(0).unwrap();
    assert!(next.sequence > messages[0].sequence, "{} after {}", next.sequence, messages[0].sequence);
}

#[tokio::test]
async fn large_messages_are_not_read_all_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let engine = open(folder.path()).await;
    let body = bytes::Bytes::from(vec![b'x'; 1 << 20]);
    for _ in 0..70 {
        engine.send(vec![(name("q"), message(body.clone()))]).await.remove(0).unwrap();
        engine.append(vec![(name("s"), content(body.clone()))]).await.remove(0).unwrap();
    }
    let subscribe = Subscribe { start: Start::First, ..Subscribe::default() };
    let subscription = engine.subscribe_stream(&name("s"), subscribe).await.unwrap();
    assert_eq!(subscription.receive(1_024).await.unwrap().len(), 63);
    assert_eq!(subscription.receive(1_024).await.unwrap().len(), 7);
    assert_eq!(engine.peek(&name("q"), 1_024, Duration::ZERO).await.unwrap().messages.len(), 63);
    let begun = Instant::now();
    let wait = Duration::from_secs(60);
    let receive = Receive { max: 1_024, wait, until_full: true, ..Receive::default() };
    let received = engine.receive(&name("q"), receive).await.unwrap();
    assert_eq!(
        received.messages.iter().map(|message| message.sequence).collect::<Vec<_>>(),
        Vec::from_iter(1..=63)
    );
    let rest = Receive { max: 1_024, auto_ack: true, ..Receive::default() };
    assert_eq!(engine.receive(&name("q"), rest).await.unwrap().messages.len(), 7);
    assert!(begun.elapsed() < wait);
}
