//! Brokers that are killed. Each of these has the brokers to itself.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::process::Command;
use tokio::time::timeout;
use tower_outbox::source::Source;

use crate::amqp091::receiving::{Queue, body, message_of, some, table, text};
use crate::peers::{Brokers, numbered};

const COUNT: usize = 300;

/// Long enough for all of it to be done before it is over.
const WAIT: Duration = Duration::from_secs(20);

/// A queue that has given away its last message writes that down when it has nothing else to do.
const AT_REST: Duration = Duration::from_secs(1);

/// Long enough for a queue to be written down, and for acknowledgements to arrive.
const OLD: Duration = Duration::from_secs(5);
const ANSWERED: Duration = Duration::from_millis(50);

/// The queue that the messages go back to takes none of them before the broker is killed, as if that were one moment.
#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_broker_that_is_killed_as_retries_end_loses_none() {
    let brokers = Brokers::all_up().await;
    let queue = Queue::new(&brokers).await;
    let source = queue.source(&queue.subscription()).await;
    let messages = numbered(&queue.topic, COUNT);
    let mut missing: BTreeSet<_> = messages.iter().map(|message| message.id()).collect();
    queue.send(messages).await;
    let mut retried = 0;
    while retried < COUNT {
        let retries = some(&source, COUNT).await.into_iter().map(|delivery| delivery.retry(WAIT, "not now"));
        retried += join_all(retries).await.into_iter().map(Result::unwrap).count();
    }
    source.close(WAIT).await;
    brokers.command(&format!("stall rabbit1 {}", queue.name)).await;
    let waiting = queue.retry(WAIT.as_millis() as u64);
    assert_eq!(queue.look(&waiting).await, Some((COUNT as u32, 0)));
    queue.until_ready(&waiting, 0).await;
    tokio::time::sleep(AT_REST).await;
    brokers.command("kill rabbit1").await;
    brokers.command("start rabbit1").await;

    let queue = queue.again(&brokers).await;
    let source = queue.source(&queue.subscription()).await;
    while !missing.is_empty() {
        let Ok(deliveries) = timeout(WAIT, source.receive(COUNT)).await else { break };
        for delivery in deliveries.unwrap() {
            missing.remove(&message_of(&delivery).id());
            assert_eq!(delivery.view().unwrap().attempt(), 2);
            delivery.ack().await.unwrap();
        }
    }
    assert_eq!(missing.len(), 0, "of {COUNT} lost");
    queue.delete(&queue.name).await;
    queue.delete(&waiting).await;
}

/// RabbitMQ writes down some time later that there is a new queue, and forgets what it confirmed of one that it forgets.
#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_broker_killed_while_it_makes_queues_loses_no_message() {
    let brokers = Brokers::all_up().await;
    let queue = Queue::new(&brokers).await;
    // It writes down at once what was acknowledged.
    queue.declare(&queue.name, table([("x-queue-type", text("quorum"))])).await;
    tokio::time::sleep(OLD).await;
    let source = queue.source(&queue.subscription()).await;
    queue.send(numbered(&queue.topic, 20)).await;
    let mut came = Vec::new();
    while came.len() < 20 {
        came.extend(some(&source, 20).await);
    }
    let mut missing: BTreeSet<_> = came.iter().map(|delivery| body(delivery).to_owned()).collect();
    let answers = came.into_iter().enumerate().map(async |(n, delivery)| match n % 2 {
        0 => delivery.retry(Duration::from_secs(1), "not now").await.unwrap(),
        _ => delivery.reject("no more").await.unwrap(),
    });
    join_all(answers).await;
    tokio::time::sleep(ANSWERED).await;
    // The command for it looks around first; here it waits for the end.
    let killed = Command::new("kill").args(["-KILL", brokers.get("RABBIT1_PID")]).status().await.unwrap();
    assert!(killed.success());
    brokers.command("kill rabbit1").await;
    brokers.command("start rabbit1").await;

    let queue = queue.again(&brokers).await;
    while !missing.is_empty() {
        let Ok(deliveries) = timeout(WAIT, source.receive(20)).await else { break };
        for delivery in deliveries.unwrap() {
            missing.remove(body(&delivery));
            delivery.ack().await.unwrap();
        }
    }
    if let Some((dead, _)) = queue.look(&queue.dead()).await {
        for _ in 0..dead {
            missing.remove(std::str::from_utf8(&queue.take_first(&queue.dead()).await.data).unwrap());
        }
    }
    assert_eq!(missing.len(), 0, "of 20 lost");
}
