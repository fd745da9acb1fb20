//! Connections, queues and brokers that go while messages come. Those that kill have the brokers to themselves.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lapin::BasicProperties;
use lapin::types::FieldTable;
use tower_outbox::Messenger;
use tower_outbox::amqp091::Amqp091;
use tower_outbox::source::Source;

use super::{Queue, body, consuming, one, some, table, text, until};
use crate::peers::{Brokers, numbered};
use crate::support::logs;

const AGAIN: Duration = Duration::from_millis(200);

const PAST_THE_KILL: Duration = Duration::from_secs(20);

/// Everything confirmed arrives, and what was given out over the lost connection is known to be stale.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_broker_that_is_killed_and_comes_back_loses_nothing() {
    let brokers = Brokers::all_up().await;
    let queue = Queue::new(&brokers).await;
    let source = queue.source(&queue.subscription()).await;
    let messenger = Arc::new(Amqp091::new(&queue.settings()).unwrap());
    let stop = Arc::new(AtomicBool::new(false));
    let sender = tokio::spawn({
        let (messenger, stop, topic) = (Arc::clone(&messenger), Arc::clone(&stop), queue.topic.clone());
        async move {
            let mut confirmed = BTreeSet::new();
            while !stop.load(Ordering::SeqCst) {
                let batch = numbered(&topic, 20);
                let ids: Vec<_> = batch.iter().map(|message| message.id()).collect();
                match messenger.send(batch).await {
                    Ok(()) => confirmed.extend(ids),
                    Err(unsent) => {
                        let unsent: BTreeSet<_> = unsent.iter().map(|(message, _)| message.id()).collect();
                        confirmed.extend(ids.into_iter().filter(|id| !unsent.contains(id)));
                    }
                }
            }
            confirmed
        }
    });
    let mut came = BTreeSet::new();
    // Some come again soon.
    let mut waiting = BTreeSet::new();
    let mut receive = async |least: usize, fails: bool| {
        let goal = came.len() + least;
        while came.len() < goal {
            for (n, delivery) in some(&source, 50).await.into_iter().enumerate() {
                let id = delivery.view().unwrap().message().id();
                if fails && n % 5 == 0 && delivery.view().unwrap().attempt() == 1 {
                    let _ = delivery.retry(AGAIN, "again").await;
                    waiting.insert(id);
                } else if delivery.ack().await.is_ok() {
                    waiting.remove(&id);
                    came.insert(id);
                }
            }
        }
        (came.clone(), waiting.len())
    };
    receive(500, true).await;
    while receive(1, false).await.1 > 0 {}
    for delivery in some(&source, 10).await {
        delivery.retry(PAST_THE_KILL, "later").await.unwrap();
    }
    let held = some(&source, 3).await;
    brokers.command("kill rabbit1").await;
    until(async || held.iter().all(|delivery| delivery.is_stale())).await;
    for delivery in held {
        assert!(delivery.ack().await.is_err());
    }
    tokio::join!(brokers.command("start rabbit1"), receive(500, true));
    stop.store(true, Ordering::SeqCst);
    let confirmed = sender.await.unwrap();
    let mut missing = confirmed.len();
    while missing > 0 {
        let (came, _) = receive(1, true).await;
        missing = confirmed.difference(&came).count();
    }
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_queue_that_is_deleted_is_made_again() {
    let logs = logs::listen();
    let brokers = Brokers::running();
    let queue = Queue::new(&brokers).await;
    let source = Arc::new(queue.source(&queue.subscription()).await);
    queue.send(numbered(&queue.topic, 1)).await;
    let held = one(&source).await;
    let waiting = tokio::spawn({
        let source = Arc::clone(&source);
        async move { one(&source).await }
    });
    tokio::task::yield_now().await;
    queue.delete(&queue.name).await;
    until(async || queue.look(&queue.name).await == Some((0, 1))).await;
    // Bound as it was; what was given out before can still be answered.
    held.retry(Duration::from_millis(50), "again").await.unwrap();
    let delivery = waiting.await.unwrap();
    assert_eq!((body(&delivery), delivery.view().unwrap().attempt()), (r#"{"seq":0}"#, 2));
    delivery.ack().await.unwrap();
    queue.send(vec![queue.message("x")]).await;
    one(&source).await.ack().await.unwrap();
    assert!(logs.alarms(&queue.name)[0].has("error"), "{:?}", logs.alarms(&queue.name));
}

/// A broker in need reads nothing from a connection that publishes; acknowledgements get through.
#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn acknowledgements_get_through_while_publishers_are_blocked() {
    let brokers = Brokers::all_up().await;
    let queue = Queue::new(&brokers).await;
    let source = queue.source(&queue.subscription()).await;
    queue.send(numbered(&queue.topic, 20)).await;
    let mut held = Vec::new();
    while held.len() < 20 {
        held.extend(some(&source, 20).await);
    }
    held.remove(0).retry(Duration::from_secs(3_000), "later").await.unwrap();
    brokers.command("alarm rabbit1 on").await;
    let retry = tokio::spawn(held.remove(0).retry(Duration::from_secs(3_000), "later"));
    for delivery in held {
        delivery.ack().await.unwrap();
    }
    source.pause().await;
    // All but the one whose retry waits for the end of the alarm have left.
    assert!(!retry.is_finished());
    brokers.command("alarm rabbit1 off").await;
    retry.await.unwrap().unwrap();
    source.close(Duration::from_secs(5)).await;
    assert_eq!(queue.look(&queue.name).await, Some((0, 0)));
    queue.until_ready(&queue.retry(5_000_000), 2).await;
    queue.delete(&queue.retry(5_000_000)).await;
}

/// The other broker, with whatever it has.
#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_broker_that_is_down_is_passed_over() {
    let brokers = Brokers::running();
    let queue = Queue::new(&brokers).await;
    queue.declare(&queue.name, FieldTable::default()).await;
    for _ in 0..5 {
        let mut settings = queue.settings();
        settings.broker.urls = vec!["amqp://127.0.0.1:1".to_owned(), queue.url.clone()];
        let source = tower_outbox::amqp091::Amqp091Source::new(&settings, &queue.subscription()).unwrap();
        consuming(&source, &queue).await;
        source.close(Duration::from_secs(5)).await;
        until(async || queue.look(&queue.name).await == Some((0, 0))).await;
    }
}

/// Nobody can publish it again.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_body_that_became_too_large_is_counted_and_dead_lettered() {
    let brokers = Brokers::all_up().await;
    let (largest, body) = (if brokers.rabbitmq_4() { 16 << 20 } else { 128 << 20 }, vec![b'x'; 300_000]);
    let mut left = Vec::new();
    for (kind, has_exchange) in [("classic", false), ("quorum", false), ("classic", true), ("quorum", true)] {
        let queue = Queue::new(&brokers).await;
        let place = format!("{}.place", queue.name);
        let mut arguments = table([("x-queue-type", text(kind))]);
        if has_exchange {
            arguments.insert("x-dead-letter-exchange".into(), text(""));
            arguments.insert("x-dead-letter-routing-key".into(), text(&place));
        }
        queue.declare(&place, FieldTable::default()).await;
        queue.declare(&queue.name, arguments).await;
        let source = queue.source(&queue.subscription()).await;
        queue.publish("", &queue.name, BasicProperties::default(), &body).await;
        left.push((kind, has_exchange, queue, source, place));
    }
    brokers.command("largest rabbit1 200000").await;
    let mut seen = Vec::new();
    for (kind, has_exchange, queue, source, place) in &left {
        let first = one(source).await;
        let first = (first.view().unwrap().attempt(), first.retry(Duration::ZERO, "not now").await);
        if *has_exchange {
            seen.push((*kind, first.0, first.1.is_ok(), queue.take(place).await.data.len()));
            continue;
        }
        let second = one(source).await;
        let attempt = second.view().unwrap().attempt();
        seen.push((*kind, attempt, second.reject("no more").await.is_ok(), 0));
    }
    brokers.command(&format!("largest rabbit1 {largest}")).await;
    let len = body.len();
    let counted = [("classic", 2, false, 0), ("quorum", 2, false, 0)];
    assert_eq!(seen, [counted.as_slice(), &[("classic", 1, true, len), ("quorum", 1, true, len)]].concat());
    for (kind, has_exchange, queue, source, place) in left {
        if !has_exchange {
            let third = one(&source).await;
            assert_eq!(third.view().unwrap().attempt(), 3, "{kind}");
            third.ack().await.unwrap();
        }
        queue.delete(&place).await;
        queue.delete(&queue.name).await;
    }
}
