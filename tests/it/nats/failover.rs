//! nats-server killed, frozen and restarted under load. Each of these has the brokers to itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tower_outbox::nats::{Nats, NatsSource};
use tower_outbox::source::Source;
use tower_outbox::{Message, Messenger};

use super::raw::{Place, SOON, body};
use crate::peers::Brokers;

pub fn message(topic: &str, n: u64) -> Message {
    Message::new(topic.to_owned(), n.to_string()).unwrap()
}

/// How many confirmed messages may wait to come.
const BACKLOG: u64 = 20_000;

/// Sends numbers from several tasks until it is stopped; what is not confirmed is sent again, with its id. Gives all numbers.
pub struct Load {
    stop: Arc<AtomicBool>,
    confirmed: Arc<AtomicU64>,
    tasks: Vec<tokio::task::JoinHandle<Vec<u64>>>,
}

impl Load {
    pub fn start(messenger: &Arc<Nats>, topic: &str, first: u64) -> Self {
        let all = Arc::new(AtomicU64::new(u64::MAX - BACKLOG));
        Self::with_consumer(messenger, topic, first, &all)
    }

    /// Waits while many confirmed messages have not come, so that the rest comes soon at the end.
    pub fn with_consumer(messenger: &Arc<Nats>, topic: &str, first: u64, came: &Arc<AtomicU64>) -> Self {
        let (stop, confirmed) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let tasks = (0..4).map(|task: u64| {
            let (messenger, topic) = (Arc::clone(messenger), topic.to_owned());
            let (stop, confirmed, came) = (Arc::clone(&stop), Arc::clone(&confirmed), Arc::clone(came));
            tokio::spawn(async move {
                let mut numbers = Vec::new();
                let mut next = first + task * 1_000_000_000;
                while !stop.load(Ordering::SeqCst) {
                    if confirmed.load(Ordering::SeqCst) > came.load(Ordering::SeqCst) + BACKLOG {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                        continue;
                    }
                    let mut batch: Vec<_> = (next..next + 50).map(|n| message(&topic, n)).collect();
                    numbers.extend(next..next + 50);
                    next += 50;
                    while let Err(unsent) = messenger.send(std::mem::take(&mut batch)).await {
                        assert!(unsent.iter().all(|(_, failure)| failure.is_transient()), "{unsent:?}");
                        batch = unsent.into_messages();
                    }
                    confirmed.fetch_add(50, Ordering::SeqCst);
                }
                numbers
            })
        });
        Self { tasks: tasks.collect(), stop, confirmed }
    }

    /// Waits until so many more are confirmed.
    pub async fn more(&self, count: u64) {
        let goal = self.confirmed.load(Ordering::SeqCst) + count;
        let wait = async {
            while self.confirmed.load(Ordering::SeqCst) < goal {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(SOON, wait).await.expect("nothing is confirmed");
    }

    pub async fn stop(self) -> Vec<u64> {
        self.stop.store(true, Ordering::SeqCst);
        let mut all = Vec::new();
        for task in self.tasks {
            all.extend(tokio::time::timeout(SOON, task).await.expect("a send hangs").unwrap());
        }
        all
    }
}

/// Each number is stored, and once.
async fn assert_stored_once(place: &Place, numbers: Vec<u64>) {
    let stored: Vec<u64> = place.stored().await.iter().map(|stored| body(stored).parse().unwrap()).collect();
    let (found, wanted): (BTreeSet<_>, BTreeSet<_>) = (stored.iter().collect(), numbers.iter().collect());
    let lost: Vec<_> = wanted.difference(&found).collect();
    assert!(lost.is_empty(), "{} of {} are lost: {lost:?}", lost.len(), wanted.len());
    assert_eq!(stored.len(), found.len(), "some are stored twice");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn each_message_is_stored_once_when_the_server_is_killed() {
    let brokers = Brokers::all_up().await;
    let place = Place::new().await;
    let messenger = Arc::new(place.messenger());
    let load = Load::start(&messenger, &place.topic, 0);
    for command in ["kill nats1", "restart nats1"] {
        load.more(2_000).await;
        brokers.command(command).await;
        brokers.command("start nats1").await;
    }
    load.more(2_000).await;
    assert_stored_once(&Place { ..place }, load.stop().await).await;
}

/// Trap N2 of the client library: after a reconnect it sends what it still has.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_message_given_back_is_not_sent_after_a_reconnect() {
    let brokers = Brokers::all_up().await;
    let place = Place::new().await;
    let messenger = place.messenger();
    messenger.send(vec![message(&place.topic, 0)]).await.unwrap();
    brokers.command("kill nats1").await;
    let begun = Instant::now();
    let unsent = messenger.send((1..=900).map(|n| message(&place.topic, n)).collect()).await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    assert_eq!(unsent.iter().count(), 900);
    brokers.command("start nats1").await;
    let again = async { while messenger.send(vec![message(&place.topic, 901)]).await.is_err() {} };
    tokio::time::timeout(SOON, again).await.expect("it does not connect again");
    let place = Place { client: async_nats::connect(&place.url).await.unwrap(), ..place };
    let stored: Vec<_> = place.stored().await.iter().map(|stored| body(stored).to_owned()).collect();
    assert_eq!(stored, ["0", "901"]);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn what_is_in_flight_when_the_server_dies_fails_at_once() {
    let brokers = Brokers::all_up().await;
    let place = Place::new().await;
    let messenger = Arc::new(place.messenger());
    messenger.send(vec![message(&place.topic, 0)]).await.unwrap();
    brokers.command("freeze nats1").await;
    let sending = tokio::spawn({
        let (messenger, topic) = (Arc::clone(&messenger), place.topic.clone());
        async move { messenger.send((1..=200).map(|n| message(&topic, n)).collect()).await }
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    let begun = Instant::now();
    brokers.command("kill nats1").await;
    let sent = tokio::time::timeout(SOON, sending).await.unwrap().unwrap();
    let elapsed = begun.elapsed();
    brokers.command("start nats1").await;
    assert!(sent.is_err() && elapsed < Duration::from_secs(5), "{elapsed:?}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_frozen_server_is_noticed_within_the_idle_timeout() {
    let brokers = Brokers::all_up().await;
    let place = Place::new().await;
    let mut settings = place.settings();
    settings.broker.idle_timeout = Duration::from_secs(3);
    settings.broker.connection_timeout = Some(Duration::from_secs(1));
    settings.broker.send_timeout = Some(Duration::from_secs(20));
    let messenger = Nats::new(&settings).unwrap();
    messenger.send(vec![message(&place.topic, 1)]).await.unwrap();
    brokers.command("freeze nats1").await;
    let begun = Instant::now();
    let sent = messenger.send(vec![message(&place.topic, 2)]).await;
    let elapsed = begun.elapsed();
    brokers.command("thaw nats1").await;
    assert!(sent.is_err() && elapsed < Duration::from_secs(9), "{elapsed:?}");
    let again = async { while messenger.send(vec![message(&place.topic, 2)]).await.is_err() {} };
    tokio::time::timeout(SOON, again).await.expect("it does not connect again");
}

/// The settlements before a kill that a server on its own forgets: it writes them to its disk a few times a second.
const FORGOTTEN: Duration = Duration::from_secs(2);

/// Sends numbers, and acknowledges them, while a command is given; what was settled does not come again.
async fn nothing_is_lost_or_comes_again_at(commands: &[&str], before: u64) {
    let brokers = Brokers::all_up().await;
    let place = Place::new().await;
    let mut settings = place.settings();
    settings.broker.idle_timeout = Duration::from_secs(3);
    let source = NatsSource::new(&settings, &place.subscription()).unwrap();
    let (sender, mut settled) = tokio::sync::mpsc::unbounded_channel();
    let consumer = tokio::spawn(async move {
        loop {
            for delivery in source.receive(50).await.unwrap() {
                let n: u64 = super::receiving::text(&delivery).parse().unwrap();
                let sender = sender.clone();
                tokio::spawn(async move {
                    let outcome = delivery.ack().await;
                    let _ = sender.send((n, outcome.is_ok().then(Instant::now)));
                });
            }
        }
    });
    let messenger = Arc::new(Nats::new(&settings).unwrap());
    let load = Load::start(&messenger, &place.topic, 0);
    load.more(1_000).await;
    let mut killed = None;
    for command in commands {
        load.more(before).await;
        brokers.command(command).await;
        if command.starts_with("kill") {
            killed = Some(Instant::now());
        }
    }
    load.more(1_000).await;
    let wanted: BTreeSet<u64> = load.stop().await.into_iter().collect();
    let (mut found, mut settled_for_sure) = (BTreeSet::new(), BTreeMap::new());
    let arrive = async {
        while wanted.iter().any(|n| !found.contains(n)) {
            let (n, sure_at) = settled.recv().await.unwrap();
            if let Some(at) = settled_for_sure.get(&n) {
                let is_forgotten = killed.is_some_and(|killed| killed - FORGOTTEN < *at && *at < killed);
                assert!(is_forgotten, "{n} was settled, and came again");
            }
            found.insert(n);
            settled_for_sure.extend(sure_at.map(|at| (n, at)));
        }
    };
    let arrived = tokio::time::timeout(Duration::from_secs(60), arrive).await;
    let lost = wanted.difference(&found).count();
    consumer.abort();
    assert!(arrived.is_ok(), "{lost} of {} are lost", wanted.len());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn what_is_settled_does_not_come_again_after_a_kill() {
    nothing_is_lost_or_comes_again_at(&["kill nats1", "start nats1"], 0).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn what_is_settled_does_not_come_again_after_a_restart() {
    nothing_is_lost_or_comes_again_at(&["restart nats1"], 1_000).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn what_is_settled_does_not_come_again_after_a_freeze() {
    nothing_is_lost_or_comes_again_at(&["freeze nats1", "thaw nats1"], 0).await;
}
