//! Copies of messages that were handled.

use std::time::Duration;

use tokio::time::timeout;
use tower_outbox::source::Source;

use super::{Queue, STUCK, message, settings};
use crate::support::soon;

/// A short time in which nothing comes.
const QUIET: Duration = Duration::from_millis(50);

async fn assert_nothing_comes(queue: &Queue) {
    let received = timeout(QUIET, queue.source.receive(1)).await;
    assert!(received.is_err(), "{received:?}");
}

#[tokio::test]
async fn a_copy_of_a_handled_message_is_acknowledged_and_not_handled() {
    let queue = Queue::of(&settings());
    let signed = queue.signer.sign(&message(7)).unwrap();
    queue.put(signed.clone()).await;
    queue.receive().await.ack().await.unwrap();
    for _ in 0..10 {
        queue.put(signed.clone()).await;
    }
    assert_nothing_comes(&queue).await;
    soon(queue.memory.wait_idle()).await;
    assert!(queue.memory.dead_letters().is_empty());
}

#[tokio::test]
async fn a_message_that_is_sent_again_is_no_copy() {
    let queue = Queue::of(&settings());
    let sent = message(7);
    for _ in 0..2 {
        queue.send(&sent).await;
        let received = queue.receive().await;
        assert_eq!(received.view().unwrap().message().id(), sent.id());
        received.ack().await.unwrap();
    }
}

#[tokio::test]
async fn a_copy_waits_while_its_original_is_handled() {
    let queue = Queue::of(&settings());
    let signed = queue.signer.sign(&message(7)).unwrap();
    queue.put(signed.clone()).await;
    queue.put(signed.clone()).await;
    let first = queue.receive().await;
    assert_nothing_comes(&queue).await;
    // The attempt failed: both come again, one after the other.
    first.release().await.unwrap();
    let first = queue.receive().await;
    assert_nothing_comes(&queue).await;
    first.ack().await.unwrap();
    soon(queue.memory.wait_idle()).await;
    assert_nothing_comes(&queue).await;
}

#[tokio::test]
async fn a_requeued_dead_letter_is_handled() {
    let queue = Queue::of(&settings());
    queue.send(&message(7)).await;
    queue.receive().await.reject("not today").await.unwrap();
    assert_eq!(queue.memory.requeue_dead_letters(), 1);
    queue.receive().await.ack().await.unwrap();
}

#[tokio::test]
async fn the_memory_for_copies_is_bounded() {
    let queue = Queue::of(&settings().with_remembered(3));
    let signed: Vec<_> = (0..4).map(|n| queue.signer.sign(&message(n)).unwrap()).collect();
    for message in &signed {
        queue.put(message.clone()).await;
        queue.receive().await.ack().await.unwrap();
    }
    // The oldest is forgotten, the others are not.
    for message in &signed {
        queue.put(message.clone()).await;
    }
    let received = timeout(STUCK, queue.source.receive(4)).await.unwrap().unwrap();
    let ids: Vec<_> = received.iter().map(|delivery| delivery.view().unwrap().message().id()).collect();
    assert_eq!(ids, [signed[0].id()]);
}

#[tokio::test]
async fn a_receive_that_is_dropped_loses_no_message() {
    let queue = Queue::of(&settings());
    for n in 0..20 {
        queue.send(&message(n)).await;
    }
    let mut received = 0;
    while received < 20 {
        // Dropped at its first wait, at the latest.
        tokio::select! {
            biased;
            messages = queue.source.receive(7) => for message in messages.unwrap() {
                received += 1;
                message.ack().await.unwrap();
            },
            () = tokio::task::yield_now() => {}
        }
    }
    soon(queue.memory.wait_idle()).await;
    assert_nothing_comes(&queue).await;
}
