//! Brokers that die, freeze and come back, under load. Each of these has the brokers to itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use tower_outbox::amqp10::{Amqp10, Amqp10Settings};
use tower_outbox::amqp091::{Amqp091, Amqp091Settings};
use tower_outbox::{Health, Message, Messenger};

use crate::peers::{Brokers, RabbitQueue, numbered, sequence, unique};

const NODES: [&str; 2] = ["RABBIT1_AMQP", "RABBIT2_AMQP"];

fn both(brokers: &Brokers) -> Amqp10Settings {
    let mut settings = Amqp10Settings::new(NODES.map(|key| brokers.get(key)));
    settings.address = Some("/topic/{topic}".to_owned());
    settings
}

/// The node whose queue grew: the one in use.
async fn in_use<'a>(queues: &[RabbitQueue<'_>; 2]) -> (&'a str, &'a str) {
    if queues[0].count().await > 0 { ("rabbit1", NODES[0]) } else { ("rabbit2", NODES[1]) }
}

/// The bodies' `seq` for each topic.
fn by_topic(messages: &[Value]) -> BTreeMap<String, Vec<u64>> {
    let mut topics = BTreeMap::<String, Vec<u64>>::new();
    for (message, seq) in messages.iter().zip(sequence(messages)) {
        topics.entry(message["routing_key"].as_str().unwrap().to_owned()).or_default().push(seq);
    }
    topics
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn amqp10_loses_nothing_confirmed_when_a_broker_is_killed_under_load() {
    let brokers = Brokers::all_up().await;
    killed_under_load(&brokers, Arc::new(Amqp10::new(&both(&brokers)).unwrap())).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn amqp091_loses_nothing_confirmed_when_a_broker_is_killed_under_load() {
    let brokers = Brokers::all_up().await;
    let settings = Amqp091Settings::new(NODES.map(|key| brokers.get(key)));
    killed_under_load(&brokers, Arc::new(Amqp091::new(&settings).unwrap())).await;
}

async fn killed_under_load(brokers: &Brokers, messenger: Arc<dyn Messenger>) {
    let prefix = unique("load");
    let queues = [
        RabbitQueue::declare(brokers, NODES[0], &format!("{prefix}.#")).await,
        RabbitQueue::declare(brokers, NODES[1], &format!("{prefix}.#")).await,
    ];
    let killed = Arc::new(AtomicBool::new(false));
    let senders: Vec<_> = (0..8)
        .map(|n| {
            let (messenger, killed, topic) =
                (Arc::clone(&messenger), Arc::clone(&killed), format!("{prefix}.{n}"));
            tokio::spawn(async move {
                let (mut next, mut after) = (0_u64, 0);
                // Some batches before the kill, one it falls into, and some after it.
                while after < 5 {
                    after += usize::from(killed.load(Ordering::SeqCst));
                    let message =
                        |seq| Message::json(topic.clone(), &serde_json::json!({"seq": seq})).unwrap();
                    messenger
                        .send((next..next + 50).map(message).collect())
                        .await
                        .expect("the other broker takes it");
                    next += 50;
                }
                (topic, next)
            })
        })
        .collect();
    while queues[0].count().await + queues[1].count().await < 1_000 {
        tokio::task::yield_now().await;
    }
    let (name, node) = in_use(&queues).await;
    brokers.command(&format!("kill {name}")).await;
    killed.store(true, Ordering::SeqCst);
    let mut confirmed = BTreeMap::new();
    for sender in senders {
        let (topic, count) = sender.await.unwrap();
        confirmed.insert(topic, count);
    }
    brokers.command(&format!("start {name}")).await;

    let [first, second] = queues;
    let received = [by_topic(&first.drain().await), by_topic(&second.drain().await)];
    let (before, after) =
        if node == NODES[0] { (&received[0], &received[1]) } else { (&received[1], &received[0]) };
    let none = Vec::new();
    for (topic, count) in &confirmed {
        let (before, after) = (before.get(topic).unwrap_or(&none), after.get(topic).unwrap_or(&none));
        for received in [before, after] {
            assert!(received.is_sorted_by(|a, b| a < b), "order of {topic}: {received:?}");
        }
        let mut all = [before.as_slice(), after].concat();
        all.sort_unstable();
        let total = all.len();
        all.dedup();
        assert_eq!(all, (0..*count).collect::<Vec<_>>(), "every confirmed message of {topic}");
        // The messages sent again were unconfirmed: no more than one batch of this sender.
        assert!(total - all.len() <= 50, "{} of {topic} twice", total - all.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn amqp10_notices_a_frozen_broker_within_its_idle_timeout() {
    let brokers = Brokers::all_up().await;
    let mut settings = both(&brokers);
    settings.broker.idle_timeout = Duration::from_secs(2);
    settings.broker.connection_timeout = Some(Duration::from_secs(5));
    frozen(&brokers, &Amqp10::new(&settings).unwrap(), Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn amqp091_notices_a_frozen_broker_within_its_idle_timeout() {
    let brokers = Brokers::all_up().await;
    let mut settings = Amqp091Settings::new(NODES.map(|key| brokers.get(key)));
    settings.broker.idle_timeout = Duration::from_secs(4);
    settings.broker.connection_timeout = Some(Duration::from_secs(5));
    frozen(&brokers, &Amqp091::new(&settings).unwrap(), Duration::from_secs(7)).await;
}

async fn frozen(brokers: &Brokers, messenger: &dyn Messenger, limit: Duration) {
    let topic = unique("freeze");
    let queues = [
        RabbitQueue::declare(brokers, NODES[0], &topic).await,
        RabbitQueue::declare(brokers, NODES[1], &topic).await,
    ];
    messenger.send(numbered(&topic, 10)).await.unwrap();
    let (name, _) = in_use(&queues).await;
    brokers.command(&format!("freeze {name}")).await;
    let begun = Instant::now();
    let result = messenger.send(numbered(&topic, 10)).await;
    let took = begun.elapsed();
    brokers.command(&format!("thaw {name}")).await;
    result.expect("the other broker takes it");
    assert!(took > Duration::from_secs(1) && took < limit, "{took:?}");
    for queue in queues {
        assert!(sequence(&queue.drain().await).len() >= 10);
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_broker_that_comes_back_is_used_again() {
    let brokers = Brokers::all_up().await;
    let queue = RabbitQueue::declare(&brokers, NODES[1], &unique("back")).await;
    let mut settings = Amqp10Settings::new([brokers.get(NODES[1])]);
    settings.address = Some(queue.address());
    let messenger = Amqp10::new(&settings).unwrap();
    messenger.send(numbered("back", 1)).await.unwrap();
    assert_eq!(messenger.health().await, Health::Up);
    brokers.command("kill rabbit2").await;
    let begun = Instant::now();
    // Refused, or reset while the process goes: either way worth another try.
    let unsent = messenger.send(numbered("back", 1)).await.unwrap_err();
    assert!(unsent.iter().all(|(_, failure)| failure.is_transient()), "{unsent}");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!(!messenger.health().await.is_up());
    brokers.command("start rabbit2").await;
    messenger.send(numbered("back", 1)).await.unwrap();
    assert_eq!(messenger.health().await, Health::Up);
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn activemq_killed_is_a_lost_connection() {
    let brokers = Brokers::all_up().await;
    if brokers.without_activemq("activemq_killed_is_a_lost_connection") {
        return;
    }
    let mut settings = Amqp10Settings::new([brokers.get("ACTIVEMQ_AMQP")]);
    settings.address = Some("topic://{topic}".to_owned());
    let messenger = Amqp10::new(&settings).unwrap();
    messenger.send(numbered("killed", 1)).await.unwrap();
    brokers.command("kill activemq").await;
    let begun = Instant::now();
    let failed = messenger.send(numbered("killed", 64)).await.unwrap_err();
    assert_eq!(failed.len(), 64);
    assert!(begun.elapsed() < Duration::from_secs(5));
    brokers.command("start activemq").await;
    messenger.send(numbered("killed", 64)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn amqp091_uses_a_broker_again_that_was_restarted() {
    let brokers = Brokers::all_up().await;
    let topic = unique("restart");
    let queue = RabbitQueue::declare(&brokers, NODES[1], &topic).await;
    let messenger = Amqp091::new(&Amqp091Settings::new([brokers.get(NODES[1])])).unwrap();
    messenger.send(numbered(&topic, 1)).await.unwrap();
    for (down, up) in [("stop rabbit2", "start rabbit2"), ("kill rabbit2", "start rabbit2")] {
        brokers.command(down).await;
        let begun = Instant::now();
        let unsent = messenger.send(numbered(&topic, 3)).await.unwrap_err();
        assert!(unsent.len() == 3 && unsent.iter().all(|(_, failure)| failure.is_transient()), "{unsent}");
        assert!(begun.elapsed() < Duration::from_secs(5));
        assert!(!messenger.health().await.is_up());
        brokers.command(up).await;
        messenger.send(numbered(&topic, 1)).await.unwrap();
        assert_eq!(messenger.health().await, Health::Up);
    }
    assert_eq!(queue.drain().await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn an_alarm_of_the_broker_is_waited_for_and_said() {
    let brokers = Brokers::all_up().await;
    let topic = unique("alarm");
    let queue = RabbitQueue::declare(&brokers, NODES[1], &topic).await;
    let mut settings = Amqp091Settings::new([brokers.get(NODES[1])]);
    settings.broker.send_timeout = Some(Duration::from_secs(2));
    let messenger = Amqp091::new(&settings).unwrap();
    messenger.send(numbered(&topic, 1)).await.unwrap();
    brokers.command("alarm rabbit2 on").await;
    let begun = Instant::now();
    let unsent = messenger.send(numbered(&topic, 2)).await;
    let (took, health) = (begun.elapsed(), messenger.health().await);
    // The next does not even leave.
    let next = messenger.send(numbered(&topic, 1)).await;
    brokers.command("alarm rabbit2 off").await;
    let unsent = unsent.unwrap_err();
    assert!(unsent.iter().all(|(_, failure)| failure.is_transient()), "{unsent}");
    assert!(
        unsent.to_string().contains("blocks publishers") && unsent.to_string().contains("memory"),
        "{unsent}"
    );
    assert!(next.unwrap_err().to_string().contains("blocks publishers"));
    assert!(took > Duration::from_secs(1) && took < Duration::from_secs(5), "{took:?}");
    let Health::Down { reason } = health else { panic!("healthy under an alarm") };
    assert!(reason.contains("blocks publishers"), "{reason}");
    messenger.send(numbered(&topic, 1)).await.unwrap();
    assert_eq!(messenger.health().await, Health::Up);
    // Messages that timed out may come late: at least once.
    assert!(queue.drain().await.len() >= 2);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_right_that_is_taken_away_rejects_and_given_back_sends() {
    let brokers = Brokers::all_up().await;
    let url = brokers.get(NODES[1]).replace("://", "://revocable:revocable@");
    let messenger = Amqp091::new(&Amqp091Settings::new([url])).unwrap();
    messenger.send(numbered("revoked", 1)).await.unwrap();
    brokers.command("permissions rabbit2 revocable .* ^$ .*").await;
    let result = messenger.send(numbered("revoked", 2)).await;
    brokers.command("permissions rabbit2 revocable .* .* .*").await;
    let unsent = result.unwrap_err();
    assert!(unsent.iter().all(|(_, failure)| !failure.is_transient()), "{unsent}");
    assert!(unsent.to_string().contains("ACCESS_REFUSED"), "{unsent}");
    messenger.send(numbered("revoked", 1)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn amqp091_does_not_wait_for_a_channel_longer_than_for_a_confirm() {
    let brokers = Brokers::all_up().await;
    let mut settings = Amqp091Settings::new([brokers.get(NODES[1])]);
    settings.broker.send_timeout = Some(Duration::from_secs(2));
    settings.broker.connection_timeout = Some(Duration::from_secs(1));
    let messenger = Amqp091::new(&settings).unwrap();
    // Connected, and no channel yet.
    assert_eq!(messenger.health().await, Health::Up);
    brokers.command("freeze rabbit2").await;
    let begun = Instant::now();
    let result = messenger.send(numbered("channel", 2)).await;
    let took = begun.elapsed();
    brokers.command("thaw rabbit2").await;
    let unsent = result.unwrap_err();
    assert!(
        unsent.len() == 2 && unsent.to_string().contains("opened no channel within SEND_TIMEOUT"),
        "{unsent}"
    );
    assert!(took < Duration::from_secs(6), "{took:?}");
}
