//! A message that waits for its retry comes back, whatever its broker does or lacks, and whatever waits beside it.

mod killed;

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tower_outbox::amqp091::{Amqp091Settings, Amqp091Source};
use tower_outbox::source::Source;

use crate::amqp091::receiving::{Queue, body, consuming, message_of, one, some};
use crate::peers::Brokers;
use crate::support::logs;

const WAIT: Duration = Duration::from_millis(200);

/// RabbitMQ 4 looks at messages of a higher priority first, also to see which have expired.
#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_retry_of_a_higher_priority_holds_no_other_up() {
    let brokers = Brokers::running();
    let queue = Queue::new(&brokers).await;
    let source = queue.source(&queue.subscription()).await;
    let mut messages: Vec<_> = (0..20).map(|_| queue.message("low")).collect();
    messages.push(queue.message("high").with_priority(9));
    queue.send(messages).await;
    for attempt in 1..=3 {
        let mut came = Vec::new();
        while came.len() < 21 {
            came.extend(some(&source, 21).await);
        }
        let bodies: Vec<_> = came.iter().map(body).collect();
        assert_eq!((&bodies[..20], bodies[20]), (&["low"; 20][..], "high"), "attempt {attempt}");
        for delivery in came {
            assert_eq!(message_of(&delivery).priority(), (body(&delivery) == "high").then_some(9));
            delivery.retry(WAIT, "not now").await.unwrap();
        }
    }
    for _ in 0..20 {
        one(&source).await.ack().await.unwrap();
    }
    one(&source).await.reject("no more").await.unwrap();
    assert_eq!(*queue.take(&queue.dead()).await.properties.priority(), Some(9));
}

/// It says so once. RabbitMQ answers so before 3.10; without the feature flag it closes the connection instead.
#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_broker_without_quorum_queues_gets_classic_ones() {
    let logs = logs::listen();
    let brokers = Brokers::running();
    let queue = Queue::new(&brokers).await;
    let settings = Amqp091Settings::new([without_quorum_queues(&queue.url).await]);
    let source = Amqp091Source::new(&settings, &queue.subscription()).unwrap();
    consuming(&source, &queue).await;
    queue.send(vec![queue.message("x")]).await;
    for (attempt, wait) in [(1, 50), (2, 50), (3, 20)] {
        let delivery = one(&source).await;
        assert_eq!(delivery.view().unwrap().attempt(), attempt);
        delivery.retry(Duration::from_millis(wait), "again").await.unwrap();
    }
    one(&source).await.ack().await.unwrap();
    source.close(Duration::from_secs(5)).await;
    assert_eq!(queue.look(&queue.retry(50)).await, None);
    for wait in [50, 20] {
        let classic = format!("{}.retry.{wait}", queue.name);
        assert_eq!(queue.look(&classic).await, Some((0, 0)));
        queue.delete(&classic).await;
    }
    let alarms = logs.alarms(&queue.name);
    assert!(alarms.len() == 1 && alarms[0].has("error"), "{alarms:?}");
}

/// A way to a broker on which another word stands where `quorum` is asked for.
async fn without_quorum_queues(url: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let broker = url.strip_prefix("amqp://").unwrap().to_owned();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (mut from_broker, mut to_broker) = TcpStream::connect(&broker).await.unwrap().into_split();
            let (mut from_client, mut to_client) = client.into_split();
            tokio::spawn(async move { copy(&mut from_broker, &mut to_client).await });
            tokio::spawn(async move {
                let mut bytes = vec![0; 1 << 17];
                while let Ok(count @ 1..) = from_client.read(&mut bytes).await {
                    let read = &mut bytes[..count];
                    while let Some(at) = read.windows(6).position(|word| word == b"quorum") {
                        read[at..at + 6].copy_from_slice(b"absent");
                    }
                    to_broker.write_all(read).await.unwrap();
                }
            });
        }
    });
    format!("amqp://{address}")
}
