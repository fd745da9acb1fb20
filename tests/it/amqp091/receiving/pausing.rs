//! Pausing, going on, and closing.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tower_outbox::source::{Source, SourceError};

use super::{QUIET, Queue, body, consuming, one, some};
use crate::peers::{Brokers, numbered};
use crate::support::fuse::fuse;

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_pause_hands_back_what_was_not_given_out() {
    let brokers = Brokers::running();
    let queue = Queue::new(&brokers).await;
    let source = queue.source(&queue.subscription()).await;
    queue.send(numbered(&queue.topic, 5)).await;
    let first = one(&source).await;
    source.pause().await;
    queue.until_ready(&queue.name, 4).await;
    assert_eq!(queue.look(&queue.name).await, Some((4, 0)));
    source.pause().await;
    // A message that was given out can be answered all the same.
    first.ack().await.unwrap();
    for seq in 1..5 {
        let delivery = one(&source).await;
        assert_eq!(body(&delivery), format!("{{\"seq\":{seq}}}"));
        delivery.ack().await.unwrap();
    }
    source.close(Duration::from_secs(5)).await;
    assert_eq!(queue.look(&queue.name).await, Some((0, 0)));
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_receive_that_waits_while_it_is_paused_waits_on() {
    let brokers = Brokers::running();
    let queue = Queue::new(&brokers).await;
    let source = Arc::new(queue.source(&queue.subscription()).await);
    let waiting = tokio::spawn({
        let source = Arc::clone(&source);
        async move { some(&source, 10).await.len() }
    });
    // It has called.
    tokio::task::yield_now().await;
    source.pause().await;
    queue.send(numbered(&queue.topic, 1)).await;
    queue.until_ready(&queue.name, 1).await;
    tokio::time::sleep(QUIET).await;
    assert!(!waiting.is_finished());
    assert_eq!(queue.look(&queue.name).await, Some((1, 0)));
    // The next call wakes both; one of them gets the message.
    let again = timeout(2 * QUIET, source.receive(10)).await;
    let got = again.map_or(0, |deliveries| deliveries.unwrap().len());
    assert!(got == 1 || waiting.await.unwrap() == 1);
}

/// Wherever it is dropped: while it connects, consumes, goes on after a pause, or waits.
#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_receive_that_is_dropped_loses_nothing() {
    let brokers = Brokers::running();
    let queue = Queue::new(&brokers).await;
    let source = queue.source(&queue.subscription().with_prefetch(7)).await;
    queue.send(numbered(&queue.topic, 200)).await;
    let mut came = Vec::new();
    let mut round = 0;
    while came.len() < 200 {
        round += 1;
        if round % 10 == 0 {
            fuse(round / 10 % 30, source.pause()).await;
        }
        for delivery in fuse(round % 40, source.receive(3)).await.transpose().unwrap().unwrap_or_default() {
            came.push(body(&delivery).to_owned());
            delivery.ack().await.unwrap();
        }
    }
    came.sort();
    came.dedup();
    assert_eq!(came.len(), 200);
    source.close(Duration::from_secs(5)).await;
    assert_eq!(queue.look(&queue.name).await, Some((0, 0)));
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_pause_after_the_queue_was_deleted_ends() {
    let brokers = Brokers::running();
    let queue = Queue::new(&brokers).await;
    let source = queue.source(&queue.subscription()).await;
    queue.send(numbered(&queue.topic, 1)).await;
    queue.until_ready(&queue.name, 0).await;
    queue.delete(&queue.name).await;
    tokio::time::sleep(QUIET).await;
    let given = some(&source, 10).await;
    timeout(Duration::from_secs(5), source.pause()).await.unwrap();
    assert_eq!((given.len(), queue.look(&queue.name).await), (1, None));
    drop(given);
    consuming(&source, &queue).await;
    queue.send(numbered(&queue.topic, 1)).await;
    one(&source).await.ack().await.unwrap();
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn closing_hands_back_and_ends_every_receive() {
    let brokers = Brokers::running();
    let queue = Queue::new(&brokers).await;
    let source = Arc::new(queue.source(&queue.subscription()).await);
    queue.send(numbered(&queue.topic, 3)).await;
    let mut given = some(&source, 1).await;
    // An answer under way goes out; what is not answered comes again.
    let retry = tokio::spawn(given.remove(0).retry(Duration::from_secs(3_000), "later"));
    let unanswered = one(&source).await;
    tokio::task::yield_now().await;
    source.close(Duration::from_secs(10)).await;
    retry.await.unwrap().unwrap();
    queue.until_ready(&queue.name, 2).await;
    assert_eq!(queue.look(&queue.retry(5_000_000)).await, Some((1, 0)));
    queue.delete(&queue.retry(5_000_000)).await;
    assert!(unanswered.is_stale());
    assert!(matches!(unanswered.ack().await, Err(SourceError::Unavailable(_))));
    assert!(matches!(source.receive(1).await, Err(SourceError::Closed)));
    source.close(Duration::from_secs(5)).await;

    // One that was never used, and one with a receive that waits.
    let source = Arc::new(queue.source(&queue.subscription()).await);
    some(&source, 10).await.clear();
    source.pause().await;
    let waiting = tokio::spawn({
        let source = Arc::clone(&source);
        async move {
            loop {
                source.receive(10).await?;
            }
        }
    });
    tokio::task::yield_now().await;
    source.close(Duration::from_secs(5)).await;
    let ended: Result<(), SourceError> = waiting.await.unwrap();
    assert!(matches!(ended, Err(SourceError::Closed)));
}
