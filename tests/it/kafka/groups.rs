//! Several members of a group. The broker of the client library's test kit has groups of one member only, so it is Tansu.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tower_outbox::Messenger;
use tower_outbox::kafka::{Kafka, KafkaSource};
use tower_outbox::source::{Source, SourceError};

use super::raw::{Place, SOON};
use super::receiving::text;

/// So many keys fill all partitions.
const KEYS: u32 = 50;

/// A message that a member received.
struct Found {
    member: usize,
    n: u32,
    is_settled: bool,
}

/// Acknowledges what comes, and reports each message with whether its settlement succeeded.
fn consume(member: usize, source: Arc<KafkaSource>, found: UnboundedSender<Found>) -> JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            let received = match source.receive(20).await {
                Ok(received) => received,
                Err(SourceError::Closed) => return,
                Err(error) => panic!("{error}"),
            };
            for delivery in received {
                let n = text(&delivery).parse().unwrap();
                let is_settled = delivery.ack().await.is_ok();
                let _ = found.send(Found { member, n, is_settled });
            }
        }
    })
}

/// Messages that are sent, and how often each was settled.
struct Load {
    place: Place,
    messenger: Kafka,
    found: UnboundedReceiver<Found>,
    sent: u32,
    settled: BTreeMap<u32, u32>,
}

impl Load {
    async fn send(&mut self) {
        let numbers = self.sent..self.sent + 200;
        self.sent = numbers.end;
        let message = |n: u32| self.place.message(&n.to_string()).with_key((n % KEYS).to_string());
        self.messenger.send(numbers.map(message).collect()).await.unwrap();
    }

    /// Returns the member and the key of the next message.
    async fn next(&mut self) -> (usize, u32) {
        let Found { member, n, is_settled } = self.found.recv().await.unwrap();
        if is_settled {
            *self.settled.entry(n).or_default() += 1;
        }
        (member, n % KEYS)
    }

    /// Sends until a member receives messages of some keys, or of all.
    async fn until_received_by(&mut self, member: usize, keys: usize) {
        let mut of_member = BTreeSet::new();
        let receiving = async {
            while of_member.len() < keys {
                self.send().await;
                let _ = timeout(Duration::from_millis(300), async {
                    loop {
                        let (by, key) = self.next().await;
                        if by == member {
                            of_member.insert(key);
                        }
                    }
                })
                .await;
            }
        };
        let received = timeout(SOON, receiving).await;
        assert!(received.is_ok(), "member {member} received {} of {keys} keys", of_member.len());
    }
}

/// A rebalance gives the partitions of a member to others, after it has settled what it had.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_member_that_comes_or_goes_loses_and_repeats_nothing() {
    let place = Place::with_partitions(6).await;
    let (messenger, subscription, settings) = (place.messenger(), place.subscription(), place.settings());
    let (sender, found) = unbounded_channel();
    let mut load = Load { place, messenger, found, sent: 0, settled: BTreeMap::new() };
    let mut tasks = Vec::new();
    let mut join = |member| {
        let source = Arc::new(KafkaSource::new(&settings, &subscription).unwrap());
        tasks.push(consume(member, Arc::clone(&source), sender.clone()));
        source
    };
    let first = join(0);
    load.until_received_by(0, KEYS as usize).await;
    let second = join(1);
    load.until_received_by(1, 1).await;
    first.close(SOON).await;
    load.until_received_by(1, KEYS as usize).await;
    let arrive = async {
        while load.settled.len() < load.sent as usize {
            load.next().await;
        }
    };
    let all = timeout(SOON, arrive).await;
    assert!(all.is_ok(), "{} of {} came", load.settled.len(), load.sent);
    second.close(SOON).await;
    for task in tasks {
        task.await.unwrap();
    }
    while !load.found.is_empty() {
        load.next().await;
    }
    let twice: Vec<_> = load.settled.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "settled, and came again: {twice:?}");
}
