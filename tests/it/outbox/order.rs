//! Order for each topic and key, whatever fails.

use std::collections::{BTreeMap, HashSet};
use std::sync::Mutex;

use tower_outbox::Message;
use uuid::Uuid;

use super::{quick, start};
use crate::support::messengers::{Act, Bus, scripted};
use crate::support::random::Random;
use crate::support::stores::{ids, keyed, until};

fn of_key(messages: &[Message], key: &str) -> Vec<Uuid> {
    ids(messages.iter().filter(|message| message.key() == Some(key)))
}

#[tokio::test]
async fn messages_of_a_key_arrive_in_order_over_failures() {
    for seed in 0..3 {
        let random = Mutex::new(Random::new(seed));
        let bus = scripted(move |_| if random.lock().unwrap().once_in(4) { Act::Fail } else { Act::Confirm });
        let (outbox, _folder) = start(bus.clone(), quick().with_window(40)).await;
        let keys = ["k0", "k1", "k2", "k3", "k4", "k5", "k6", "k7"];
        let messages: Vec<_> = (0..400).map(|n| keyed("a", keys[n % keys.len()])).collect();
        for chunk in messages.chunks(17) {
            outbox.store(chunk.to_vec()).await;
        }
        // An outage in between.
        bus.set(Bus::Down);
        outbox.until_open().await;
        bus.set(Bus::Up);
        outbox.until_left(0, 0).await;
        let confirmed = bus.confirmed();
        for key in keys {
            assert_eq!(
                of_key(&confirmed, key),
                of_key(&messages, key),
                "seed {seed}, {key}: in order, each once"
            );
        }
    }
}

#[tokio::test]
async fn a_key_that_cannot_leave_holds_up_no_other() {
    let bus = scripted(|message| if message.key() == Some("stuck") { Act::Fail } else { Act::Confirm });
    let (outbox, _folder) = start(bus.clone(), quick()).await;
    let messages: Vec<_> = (0..100).map(|n| keyed("a", if n % 2 == 0 { "stuck" } else { "free" })).collect();
    outbox.store(messages.clone()).await;
    outbox.until_left(50, 0).await;
    assert_eq!(ids(&bus.confirmed()), of_key(&messages, "free"));
}

#[tokio::test]
async fn the_next_of_a_key_goes_on_when_one_is_a_dead_letter() {
    let first = keyed("a", "k");
    let id = first.id();
    let bus = scripted(move |message| if message.id() == id { Act::Fail } else { Act::Confirm });
    let (outbox, _folder) = start(bus.clone(), quick().with_max_attempts(2).with_window(1)).await;
    let rest: Vec<_> = (0..10).map(|_| keyed("a", "k")).collect();
    outbox.store([vec![first], rest.clone()].concat()).await;
    outbox.until_left(0, 1).await;
    assert_eq!(bus.confirmed(), rest);
}

/// After a panic the messages go out one by one; those of a key whose first fails then wait behind it.
#[tokio::test]
async fn messages_of_a_key_keep_their_order_when_they_go_one_by_one() {
    let messages: Vec<_> = (0..30).map(|n| keyed("a", ["k0", "k1", "k2"][n % 3])).collect();
    let poison = messages[7].id();
    let seen = Mutex::new(HashSet::new());
    let tried = Mutex::new(BTreeMap::<Uuid, usize>::new());
    let bus = scripted(move |message| {
        if message.id() == poison {
            return Act::Panic;
        }
        let mut tried = tried.lock().unwrap();
        let times = tried.entry(message.id()).or_default();
        *times += 1;
        // Each fails once when it is tried for the second time, which is alone for those before the poison.
        if *times == 2 && seen.lock().unwrap().insert(message.id()) { Act::Fail } else { Act::Confirm }
    });
    let (outbox, _folder) = start(bus.clone(), quick()).await;
    outbox.store(messages.clone()).await;
    outbox.until_left(0, 1).await;
    let confirmed = bus.confirmed();
    for key in ["k0", "k1", "k2"] {
        let expected: Vec<_> = of_key(&messages, key).into_iter().filter(|id| *id != poison).collect();
        assert_eq!(of_key(&confirmed, key), expected, "{key}");
    }
}

/// A bus that goes down while messages go out one by one is not asked for each of them.
#[tokio::test]
async fn messages_that_go_one_by_one_stop_when_the_bus_is_down() {
    let messages: Vec<_> = (0..200).map(|_| crate::support::message("a")).collect();
    let poison = messages[100].id();
    let bus = scripted(move |message| if message.id() == poison { Act::Panic } else { Act::Confirm });
    let fall = bus.clone();
    let (outbox, _folder) = start(Falling(bus.clone()), quick()).await;
    outbox.store(messages).await;
    until("the breaker opened", async || outbox.is_open().await).await;
    let alone = bus.sends().iter().filter(|send| **send == 1).count();
    assert!(alone <= 5, "{alone} sends to a bus that is down");
    fall.set(Bus::Up);
    outbox.until_left(0, 1).await;
    assert_eq!(bus.confirmed().len(), 199);
}

/// Goes down with its first send.
struct Falling(crate::support::messengers::Scripted);

#[tower_outbox::async_trait]
impl tower_outbox::Messenger for Falling {
    async fn send(&self, batch: Vec<Message>) -> crate::support::messengers::SendResult {
        if self.0.sends().is_empty() {
            let fallen = Fall(self.0.clone());
            let sent = self.0.send(batch).await;
            drop(fallen);
            return sent;
        }
        self.0.send(batch).await
    }

    async fn health(&self) -> tower_outbox::Health {
        self.0.health().await
    }
}

/// Also when the send panics.
struct Fall(crate::support::messengers::Scripted);

impl Drop for Fall {
    fn drop(&mut self) {
        self.0.set(Bus::Down);
    }
}
