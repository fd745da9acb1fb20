//! The administration of channels, and the end of an engine.

use std::time::Duration;

use tokio::time::timeout;

use super::harness::{EngineHarness, content, name};
use crate::channels::{
    ChannelKind, ChannelLimits, EngineError, Policy, QueueMessage, Receive, Settle, Start, Subscribe, Which,
};
use crate::testing::support::stores::STUCK;

pub async fn channels_are_listed_with_what_they_hold(harness: EngineHarness) {
    harness.send(&["a", "b"]).await;
    let delay = STUCK;
    harness.send_with(&["late"], &Policy { delay, ..Policy::default() }).await;
    let (receipt, _) = harness.receive_one().await;
    harness.append(&["1"]).await;
    harness.engine.create(ChannelKind::Queue, &name("made"), ChannelLimits::default()).await.unwrap();
    harness.engine.create(ChannelKind::Commands, &name("quote"), ChannelLimits::default()).await.unwrap();
    let list = async |kind, search: &str| -> Vec<String> {
        let found = harness.engine.list(kind, search).await.unwrap();
        found.into_iter().map(|info| info.name.to_string()).collect()
    };
    assert_eq!(list(ChannelKind::Queue, "").await, ["made", "q"]);
    assert_eq!(list(ChannelKind::Queue, "ma").await, ["made"]);
    assert_eq!(list(ChannelKind::Stream, "").await, ["s"]);
    assert_eq!(list(ChannelKind::Commands, "").await, ["quote"]);
    assert!(list(ChannelKind::Events, "").await.is_empty());
    let info = harness.engine.info(ChannelKind::Queue, &name("q")).await.unwrap().unwrap();
    assert_eq!((info.messages, info.held, info.delayed, info.last_sequence), (3, 1, 1, 2));
    assert_eq!((info.incoming.messages, info.outgoing.messages), (3, 1));
    assert!(harness.engine.info(ChannelKind::Queue, &name("none")).await.unwrap().is_none());
    harness.engine.settle(receipt, Which::All, Settle::Ack).await.unwrap();
}

pub async fn a_deleted_channel_begins_anew(harness: EngineHarness) {
    harness.send(&["a", "b"]).await;
    let (receipt, _) = harness.receive_one().await;
    assert!(harness.engine.delete(ChannelKind::Queue, &name("q")).await.unwrap());
    assert!(!harness.engine.delete(ChannelKind::Queue, &name("q")).await.unwrap());
    let held = harness.engine.settle(receipt, Which::All, Settle::Ack).await;
    assert!(matches!(held, Err(EngineError::UnknownReceipt(_))));
    assert_eq!(harness.send(&["c"]).await[0].sequence, 1);
    assert_eq!(harness.peek("q").await, ["c"]);

    harness.append(&["1", "2"]).await;
    let subscription = harness.subscribe(Subscribe { start: Start::First, ..Subscribe::default() }).await;
    assert_eq!(subscription.receive(10).await.unwrap().len(), 2);
    assert!(harness.engine.delete(ChannelKind::Stream, &name("s")).await.unwrap());
    assert_eq!(harness.append(&["3"]).await, [1]);
    let next = timeout(STUCK, subscription.receive(10)).await.expect("it continues").unwrap();
    assert_eq!(next[0].sequence, 1);
}

pub async fn a_full_queue_refuses(harness: EngineHarness) {
    let limits = ChannelLimits { max_messages: Some(2), ..ChannelLimits::default() };
    harness.engine.create(ChannelKind::Queue, &name("q"), limits).await.unwrap();
    harness.send(&["a", "b"]).await;
    let message = || (name("q"), QueueMessage { content: content("c"), policy: Policy::default() });
    let refused = harness.engine.send(vec![message()]).await.remove(0);
    assert!(matches!(&refused, Err(error @ EngineError::Full { .. }) if error.is_transient()), "{refused:?}");
    let (receipt, _) = harness.receive_one().await;
    harness.engine.settle(receipt, Which::All, Settle::Ack).await.unwrap();
    harness.engine.send(vec![message()]).await.remove(0).unwrap();
}

pub async fn a_closed_engine_says_so(harness: EngineHarness) {
    harness.send(&["a"]).await;
    let queue = name("empty");
    let waiting = harness.engine.receive(&queue, Receive { wait: STUCK, ..Receive::default() });
    let closing = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        harness.engine.close(STUCK).await;
    };
    let (waited, ()) = tokio::join!(timeout(STUCK / 2, waiting), closing);
    assert!(matches!(waited.expect("it waits on"), Err(EngineError::Closed)));
    let message = QueueMessage { content: content("b"), policy: Policy::default() };
    let sent = harness.engine.send(vec![(name("q"), message)]).await.remove(0);
    assert!(matches!(sent, Err(EngineError::Closed)), "{sent:?}");
    assert!(matches!(harness.engine.health().await, Err(EngineError::Closed)));
    assert!(matches!(harness.engine.publish(&name("e"), content("x")).await, Err(EngineError::Closed)));
}
