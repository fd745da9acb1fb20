//! Several members of a group, at the broker of the client library's test kit.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;
use tower_outbox::kafka::{Kafka, KafkaSource, KafkaSubscription};
use tower_outbox::source::{Source, SourceError};
use tower_outbox::{Message, Messenger};

use super::faults::{cluster, settings};
use super::raw::SOON;
use super::receiving::text;

/// Acknowledges what comes, and reports each message with whether its settlement succeeded.
fn consume(source: Arc<KafkaSource>, found: UnboundedSender<(u32, bool)>) -> JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            let received = match source.receive(20).await {
                Ok(received) => received,
                Err(SourceError::Closed) => return,
                Err(error) => panic!("{error}"),
            };
            for delivery in received {
                let n = text(&delivery).parse().unwrap();
                let _ = found.send((n, delivery.ack().await.is_ok()));
            }
        }
    })
}

/// A rebalance gives the partitions of a member to others, after it has settled what it had.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_comes_or_goes_loses_and_repeats_nothing() {
    let broker = cluster(1, 6).await;
    let settings = settings(&broker);
    let (messenger, subscription) = (Kafka::new(&settings).unwrap(), KafkaSubscription::new("g", ["t"]));
    let (sender, mut found) = unbounded_channel();
    let send = async |from: u32| {
        let batch = (from..from + 500)
            .map(|n| Message::new("t", n.to_string()).unwrap().with_key((n % 50).to_string()));
        messenger.send(batch.collect()).await.unwrap();
    };
    let member = || Arc::new(KafkaSource::new(&settings, &subscription).unwrap());
    let first = member();
    let mut tasks = vec![consume(Arc::clone(&first), sender.clone())];
    send(0).await;
    let second = member();
    tasks.push(consume(Arc::clone(&second), sender.clone()));
    for round in 1..6 {
        send(round * 500).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    first.close(SOON).await;
    send(3_000).await;
    let third = member();
    tasks.push(consume(Arc::clone(&third), sender.clone()));
    for round in 7..10 {
        send(round * 500).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let mut counts: BTreeMap<u32, (u32, u32)> = BTreeMap::new();
    let arrive = async {
        while counts.values().filter(|(settled, _)| *settled > 0).count() < 5_000 {
            let (n, is_settled) = found.recv().await.unwrap();
            let (settled, failed) = counts.entry(n).or_default();
            *if is_settled { settled } else { failed } += 1;
        }
    };
    tokio::time::timeout(SOON, arrive).await.unwrap_or_else(|_| panic!("{} of 5000 came", counts.len()));
    let twice: Vec<_> = counts.iter().filter(|(_, (settled, _))| *settled > 1).collect();
    assert!(twice.is_empty(), "settled, and came again: {twice:?}");
    second.close(SOON).await;
    third.close(SOON).await;
    for task in tasks {
        task.await.unwrap();
    }
}
