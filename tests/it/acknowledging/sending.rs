//! The meaning of the messenger's `send`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tower_outbox::acknowledging::{Acknowledging, Taking};
use tower_outbox::message::headers::ACK;
use tower_outbox::messenger::Unacknowledged;
use tower_outbox::source::Source;
use tower_outbox::testing::Memory;
use tower_outbox::{Failure, Health, Message, Messenger, Unsent};

use super::{OneQueue, confirmation, settings, text};
use crate::support::counters::{counted, expect};
use crate::support::message;
use crate::support::messengers::{down, fake};

async fn acknowledge_all(source: impl Source) {
    while let Ok(received) = source.receive(10).await {
        for unsettled in received {
            unsettled.ack().await.unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn send_ends_when_the_consumer_has_confirmed() {
    let it = OneQueue::new(|_| true);
    it.messenger.send((0..100).map(|_| message("order.created")).collect()).await.unwrap();
    assert_eq!(it.handled.len(), 100);
    assert!(it.handled.all().iter().all(|message| text(message, ACK) == "orders.ack"));
    it.queue.wait_idle().await;
}

#[tokio::test(start_paused = true)]
async fn without_a_confirmation_it_is_a_transient_failure() {
    let it = OneQueue::new(|_| false);
    let (begun, sent) = (Instant::now(), message("order.created"));
    let unsent = it.messenger.send(vec![sent.clone()]).await.unwrap_err();
    assert_eq!(begun.elapsed().as_secs(), 5);
    let (back, failure) = unsent.into_iter().next().unwrap();
    assert!(failure.is_transient() && failure.cause().is::<Unacknowledged>(), "{failure}");
    assert!(failure.to_string().contains("within 5s"), "{failure}");
    assert_eq!((back, it.handled.len()), (sent, 1));
}

#[tokio::test(start_paused = true)]
async fn one_missing_confirmation_leaves_the_others_confirmed() {
    let nth = AtomicUsize::new(0);
    let it = OneQueue::new(move |_| nth.fetch_add(1, Ordering::SeqCst) != 3);
    let unsent = it.messenger.send((0..10).map(|_| message("a")).collect()).await.unwrap_err();
    assert_eq!(unsent.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_late_confirmation_counts_and_nothing_is_sent_again() {
    let it = OneQueue::new(|_| false);
    let sent = message("a");
    it.messenger.send(vec![sent.clone()]).await.unwrap_err();
    it.queue.send(vec![confirmation(&sent, "orders.ack")]).await.unwrap();
    it.queue.wait_idle().await;
    it.messenger.send(vec![sent.clone()]).await.unwrap();
    assert_eq!(it.handled.len(), 1);
    // It counts once.
    it.messenger.send(vec![sent]).await.unwrap_err();
    assert_eq!(it.handled.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn nobody_confirms_a_message_in_advance() {
    let it = OneQueue::new(|_| false);
    let sent = message("a");
    it.queue.send(vec![confirmation(&sent, "orders.ack")]).await.unwrap();
    it.queue.wait_idle().await;
    it.messenger.send(vec![sent]).await.unwrap_err();
    assert_eq!(it.handled.len(), 1);
}

#[test]
fn confirmations_are_counted() {
    let counts = counted(async {
        let queue = Memory::new();
        let (messenger, confirmations) = Acknowledging::new(queue.clone(), settings("orders.ack"));
        let source = Taking::new(queue.clone(), &confirmations);
        tokio::spawn(acknowledge_all(source));
        let sent = message("a");
        messenger.send(vec![sent.clone()]).await.unwrap_err();
        let mut unreadable = confirmation(&sent, "orders.ack");
        unreadable.set_header("confirm", "no id");
        let twice = [confirmation(&sent, "orders.ack"), confirmation(&sent, "orders.ack")];
        queue
            .send([vec![confirmation(&message("b"), "orders.ack"), unreadable], twice.into()].concat())
            .await
            .unwrap();
        sleep(Duration::from_secs(1)).await;
    });
    let counts = counts
        .into_iter()
        .filter(|(name, _)| name.contains("confirm") || name.contains("unack"))
        .collect::<std::collections::BTreeMap<_, _>>();
    let expected = expect([
        ("confirmations_received_total{outcome=again}", 1),
        ("confirmations_received_total{outcome=late}", 1),
        ("confirmations_received_total{outcome=unknown}", 1),
        ("confirmations_received_total{outcome=unreadable}", 1),
        ("unacknowledged_total", 1),
    ]);
    assert_eq!(counts, expected);
}

/// Sends to one queue, and loses the answer of the broker.
#[tokio::test(start_paused = true)]
async fn a_confirmed_message_is_sent_though_the_broker_failed() {
    let queue = Memory::new();
    let back = queue.clone();
    let lossy = fake(move |batch: Vec<Message>| {
        let back = back.clone();
        async move {
            let confirmed: Vec<_> =
                batch.iter().take(1).map(|message| confirmation(message, "orders.ack")).collect();
            back.send(confirmed).await?;
            sleep(Duration::from_secs(1)).await;
            Err(Unsent::new(batch, &Failure::transient("connection lost")))
        }
    });
    let (messenger, confirmations) = Acknowledging::new(lossy, settings("orders.ack"));
    let source = Taking::new(queue, &confirmations);
    tokio::spawn(acknowledge_all(source));
    let (first, second) = (message("a"), message("b"));
    let unsent = messenger.send(vec![first, second.clone()]).await.unwrap_err();
    assert_eq!(unsent.into_messages(), [second]);
}

#[tokio::test(start_paused = true)]
async fn what_the_broker_refuses_comes_back_at_once() {
    let (messenger, confirmations) =
        Acknowledging::new(down(Failure::rejected("too large")), settings("orders.ack"));
    let _source = Taking::new(Memory::new(), &confirmations);
    let begun = Instant::now();
    let unsent = messenger.send(vec![message("a")]).await.unwrap_err();
    assert!(unsent.iter().all(|(_, failure)| !failure.is_transient()));
    assert!(begun.elapsed().is_zero());
}

#[tokio::test(start_paused = true)]
async fn a_dropped_send_is_remembered() {
    let it = OneQueue::new(|_| false);
    let sent = message("a");
    timeout(Duration::from_secs(1), it.messenger.send(vec![sent.clone()])).await.unwrap_err();
    it.queue.send(vec![confirmation(&sent, "orders.ack")]).await.unwrap();
    it.queue.wait_idle().await;
    it.messenger.send(vec![sent]).await.unwrap();
    assert_eq!(it.handled.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn closed_confirmations_end_all_waits() {
    let it = OneQueue::new(|_| false);
    let (messenger, sent) = (Arc::clone(&it.messenger), message("a"));
    let waiting = tokio::spawn(async move { messenger.send(vec![sent]).await });
    sleep(Duration::from_secs(1)).await;
    let begun = Instant::now();
    it.confirmations.close();
    waiting.await.unwrap().unwrap_err();
    it.messenger.send(vec![message("b")]).await.unwrap_err();
    let Health::Down { reason } = it.messenger.health().await else { panic!("it is up") };
    assert!(reason.contains("any more"), "{reason}");
    assert!(begun.elapsed().is_zero());
}
