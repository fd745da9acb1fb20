//! mosquitto killed, frozen, restarted, and its ACL changed, under load. Each of these has the brokers to itself.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rumqttc::QoS;
use tower_outbox::mqtt::{Mqtt, MqttSettings, MqttSource, MqttSubscription};
use tower_outbox::source::Source;
use tower_outbox::{Health, Message, Messenger};

use super::raw::{QUIET, Raw, SOON, body, subscribed};
use crate::peers::{Brokers, unique};

const KEYS: [&str; 2] = ["MOSQUITTO1_MQTT", "MOSQUITTO2_MQTT"];

fn both(brokers: &Brokers) -> MqttSettings {
    MqttSettings::new(KEYS.map(|key| brokers.get(key)))
}

fn message(topic: &str, n: u64) -> Message {
    Message::new(topic.to_owned(), n.to_string()).unwrap()
}

/// More than the tasks of a load have in flight.
const UNRECEIVED: u64 = 200;

/// Sends numbers from several tasks until it is stopped; the confirmed ones.
struct Load {
    stop: Arc<AtomicBool>,
    confirmed: Arc<AtomicU64>,
    tasks: Vec<tokio::task::JoinHandle<Vec<u64>>>,
}

impl Load {
    fn start(messenger: &Arc<Mqtt>, topic: &str, first: u64) -> Self {
        Self::bounded(messenger, topic, first, &Arc::new(AtomicU64::new(u64::MAX / 2)))
    }

    /// Waits while so many of the confirmed messages are not received yet: the broker keeps those in memory.
    fn bounded(messenger: &Arc<Mqtt>, topic: &str, first: u64, received: &Arc<AtomicU64>) -> Self {
        let (stop, confirmed) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let tasks = (0..4).map(|task: u64| {
            let (messenger, topic) = (Arc::clone(messenger), topic.to_owned());
            let (stop, confirmed) = (Arc::clone(&stop), Arc::clone(&confirmed));
            let received = Arc::clone(received);
            tokio::spawn(async move {
                let mut numbers = Vec::new();
                let mut next = first + task * 1_000_000;
                while !stop.load(Ordering::SeqCst) {
                    if confirmed.load(Ordering::SeqCst) > received.load(Ordering::SeqCst) + UNRECEIVED {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                        continue;
                    }
                    let batch: Vec<_> = (next..next + 20).collect();
                    next += 20;
                    let sent = messenger.send(batch.iter().map(|n| message(&topic, *n)).collect()).await;
                    let unsent: Vec<u64> = sent
                        .err()
                        .into_iter()
                        .flatten()
                        .map(|(message, failure)| {
                            assert!(failure.is_transient(), "{failure}");
                            String::from_utf8_lossy(message.body()).parse().unwrap()
                        })
                        .collect();
                    numbers.extend(batch.iter().filter(|n| !unsent.contains(n)));
                    confirmed.fetch_add(20 - unsent.len() as u64, Ordering::SeqCst);
                }
                numbers
            })
        });
        Self { tasks: tasks.collect(), stop, confirmed }
    }

    /// Waits until so many more are confirmed.
    async fn more(&self, count: u64) {
        let goal = self.confirmed.load(Ordering::SeqCst) + count;
        let wait = async {
            while self.confirmed.load(Ordering::SeqCst) < goal {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(SOON, wait).await.expect("nothing is confirmed");
    }

    async fn stop(self) -> Vec<u64> {
        self.stop.store(true, Ordering::SeqCst);
        let mut all = Vec::new();
        for task in self.tasks {
            all.extend(tokio::time::timeout(SOON, task).await.expect("a send hangs").unwrap());
        }
        all
    }
}

/// mosquitto writes a message of QoS 0 to the subscriber's socket before it confirms it, so a kill loses nothing of it as
/// long as the socket has room. It queues messages of QoS 1 in memory once 20 are unacknowledged, and loses those.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn nothing_confirmed_is_lost_when_mosquitto_is_killed_under_load() {
    let brokers = Brokers::all_up().await;
    let topic = unique("killed");
    let received = Arc::<AtomicU64>::default();
    let (sender, mut bodies) = tokio::sync::mpsc::unbounded_channel();
    let mut readers = tokio::task::JoinSet::new();
    for key in KEYS {
        let mut raw = Raw::connect(brokers.get(key)).await;
        raw.subscribe_at(&topic, QoS::AtMostOnce).await;
        let (sender, received) = (sender.clone(), Arc::clone(&received));
        readers.spawn(async move {
            while let Some(publish) = raw.publish_or_end().await {
                received.fetch_add(1, Ordering::SeqCst);
                let _ = sender.send(body(&publish).parse::<u64>().unwrap());
            }
        });
    }
    drop(sender);
    let messenger = Arc::new(Mqtt::new(&both(&brokers)).unwrap());
    let load = Load::bounded(&messenger, &topic, 0, &received);
    load.more(2_000).await;
    brokers.command("kill mosquitto1").await;
    load.more(2_000).await;
    // When it is back it may be used again, and has no subscriber.
    let confirmed = load.stop().await;
    brokers.command("start mosquitto1").await;
    let mut all = BTreeSet::new();
    while let Ok(Some(n)) = tokio::time::timeout(QUIET, bodies.recv()).await {
        all.insert(n);
    }
    let lost: Vec<_> = confirmed.iter().filter(|n| !all.contains(n)).collect();
    assert!(lost.is_empty(), "{} of {} are lost: {lost:?}", lost.len(), confirmed.len());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_frozen_mosquitto_is_noticed_within_the_idle_timeout() {
    let brokers = Brokers::all_up().await;
    let mut settings = both(&brokers);
    settings.broker.idle_timeout = Duration::from_secs(4);
    settings.broker.send_timeout = Some(Duration::from_secs(20));
    let messenger = Mqtt::new(&settings).unwrap();
    let topic = unique("frozen");
    for name in ["mosquitto1", "mosquitto2"] {
        messenger.send(vec![message(&topic, 1)]).await.unwrap();
        brokers.command(&format!("freeze {name}")).await;
        let begun = Instant::now();
        let sent = messenger.send(vec![message(&topic, 2)]).await;
        brokers.command(&format!("thaw {name}")).await;
        sent.expect("the other broker takes it");
        assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
    }
}

/// mosquitto 2.0.21 confirms and drops what comes after its restart for a session whose client is not connected yet, whoever
/// the client is. So nothing is sent until the source receives again.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn nothing_is_lost_when_mosquitto_restarts_under_load() {
    let brokers = Brokers::all_up().await;
    let topic = unique("restarted");
    let settings = MqttSettings::new([brokers.get(KEYS[0])]);
    let subscription = MqttSubscription::new(&*topic).with_client_id(unique("client"));
    let source = MqttSource::new(&settings, &subscription).unwrap();
    subscribed(&source, &settings, &topic).await;
    let messenger = Arc::new(Mqtt::new(&settings).unwrap());
    let (sender, mut received) = tokio::sync::mpsc::unbounded_channel();
    let consumer = tokio::spawn(async move {
        loop {
            for delivery in source.receive(50).await.unwrap() {
                let body = super::raw::text(&delivery);
                if delivery.ack().await.is_ok() {
                    let _ = sender.send(body);
                }
            }
        }
    });
    let (mut confirmed, mut all) = (BTreeSet::new(), BTreeSet::new());
    for round in 1..=2 {
        let load = Load::start(&messenger, &topic, round * 100_000_000);
        load.more(500).await;
        load.stop.store(true, Ordering::SeqCst);
        brokers.command("restart mosquitto1").await;
        confirmed.extend(load.stop().await);
        let again = async {
            let probe = format!("probe {round}");
            loop {
                let _ = messenger.send(vec![Message::new(topic.clone(), probe.clone()).unwrap()]).await;
                while let Ok(body) = received.try_recv() {
                    all.insert(body.clone());
                    if body == probe {
                        return;
                    }
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(SOON, again).await.expect("the source does not receive again");
    }
    let arrive = async {
        while confirmed.iter().any(|n| !all.contains(&n.to_string())) {
            all.insert(received.recv().await.unwrap());
        }
    };
    let outcome = tokio::time::timeout(SOON, arrive).await;
    let lost: Vec<_> = confirmed.iter().filter(|n| !all.contains(&n.to_string())).collect();
    assert!(outcome.is_ok(), "{} of {} are lost: {lost:?}", lost.len(), confirmed.len());
    consumer.abort();
    assert_eq!(messenger.health().await, Health::Up);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn messages_are_rejected_while_the_acl_forbids_them() {
    let brokers = Brokers::all_up().await;
    let url = brokers.get(KEYS[0]);
    let topic = unique("acl");
    let mut raw = Raw::subscribed(url, &topic).await;
    let revocable = MqttSettings::new([url.replace("://", "://revocable:revocable@")]);
    let messenger = Arc::new(Mqtt::new(&revocable).unwrap());
    let load = tokio::spawn({
        let (messenger, topic) = (Arc::clone(&messenger), topic.clone());
        async move {
            let (mut confirmed, mut rejected, mut after) = (Vec::new(), 0, 0);
            for n in 0.. {
                match messenger.send(vec![message(&topic, n)]).await {
                    Ok(()) => {
                        confirmed.push(n);
                        after += usize::from(rejected > 0);
                    }
                    Err(unsent) => {
                        let (_, failure) = unsent.iter().next().unwrap();
                        assert!(
                            !failure.is_transient() && failure.to_string().contains("NotAuthorized"),
                            "{failure}"
                        );
                        rejected += 1;
                    }
                }
                if after > 100 {
                    break;
                }
            }
            confirmed
        }
    });
    brokers.command("acl mosquitto1 revocable other/# #").await;
    brokers.command("acl mosquitto1 revocable # #").await;
    let confirmed = tokio::time::timeout(SOON, load).await.expect("it never ends").unwrap();
    let received: BTreeSet<u64> =
        raw.drain().await.iter().map(|publish| body(publish).parse().unwrap()).collect();
    assert!(confirmed.iter().all(|n| received.contains(n)));
    assert_eq!(received.len(), confirmed.len(), "what is rejected does not arrive");
}
