//! The end of a message, by the answer of the bus.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tower_outbox::Message;
use tower_outbox::message::Settlement;
use tower_outbox::outbox::RelaySettings;
use tower_outbox::store::{EntryState, Wait};
use tracing::Level;
use uuid::Uuid;

use super::spied::Spied;
use super::{embedded, quick, run, start};
use crate::support::messengers::{Act, Bus, scripted};
use crate::support::stores::{batch, depth, ids, until};
use crate::support::{logs, message, messages, topics};

/// Does this the first `times` times with the message of a topic, by its id; and confirms.
fn at_first(topic: &'static str, times: usize, act: Act) -> impl Fn(&Message) -> Act + Send + Sync {
    let seen = Mutex::new(HashMap::<Uuid, usize>::new());
    move |message| {
        let mut seen = seen.lock().unwrap();
        let seen = seen.entry(message.id()).or_default();
        *seen += 1;
        if message.topic().as_str() == topic && *seen <= times { act } else { Act::Confirm }
    }
}

#[tokio::test]
async fn what_is_confirmed_is_forgotten() {
    let bus = scripted(|_| Act::Confirm);
    let (outbox, folder) = start(bus.clone(), quick()).await;
    let messages = batch("a", 1_000);
    outbox.store(messages.clone()).await;
    outbox.until_left(0, 0).await;
    assert_eq!(bus.confirmed(), messages);
    assert_eq!(outbox.stop().await.pending, 0);
    assert_eq!(depth(&embedded(folder.path()).await).await, (0, 0));
}

#[tokio::test]
async fn a_backlog_is_sent() {
    let folder = tempfile::tempdir().unwrap();
    let messages = batch("a", 1_000);
    let before = scripted(|_| Act::Confirm);
    before.set(Bus::Down);
    let outbox = run(before, embedded(folder.path()).await, quick());
    outbox.store(messages.clone()).await;
    assert_eq!(outbox.stop().await.pending, 1_000);
    let bus = scripted(|_| Act::Confirm);
    let outbox = run(bus.clone(), embedded(folder.path()).await, quick());
    outbox.until_left(0, 0).await;
    assert_eq!(bus.confirmed(), messages);
}

#[tokio::test]
async fn a_rejected_message_is_a_dead_letter_at_once() {
    let log = logs::listen();
    let bus = scripted(at_first("b", usize::MAX, Act::Reject));
    let (outbox, _folder) = start(bus.clone(), quick()).await;
    let messages = messages(["a", "b", "c"]);
    outbox.store(messages.clone()).await;
    outbox.until_left(0, 1).await;
    let dead = outbox.entry(messages[1].id()).await.unwrap();
    assert_eq!(dead.state, EntryState::Dead);
    assert!(dead.failures.last().unwrap().reason.contains("too large"), "{dead:?}");
    assert_eq!(bus.tries(messages[1].id()), 1);
    assert_eq!(topics(&bus.confirmed()), ["a", "c"]);
    let logged = log.find(Level::ERROR, &["id", "reason"]);
    assert!(logged.len() == 1 && logged[0].get("id") == messages[1].id().to_string(), "{logged:?}");
}

#[tokio::test]
async fn what_may_pass_later_is_tried_again_and_its_attempts_are_counted() {
    let bus = scripted(|message| if message.topic().as_str() == "a" { Act::Fail } else { Act::Confirm });
    let (outbox, _folder) = start(bus.clone(), quick()).await;
    let failing = message("a");
    outbox.store(vec![failing.clone()]).await;
    until("some attempts failed", async || outbox.entry(failing.id()).await.unwrap().attempts >= 4).await;
    let entry = outbox.entry(failing.id()).await.unwrap();
    assert_eq!(entry.state, EntryState::Pending);
    assert!(entry.failures.last().unwrap().reason.contains("no answer"), "{entry:?}");
    assert!(bus.tries(failing.id()) >= entry.attempts as usize);
    // Others do not wait for it.
    outbox.store(vec![message("b")]).await;
    until("the other has left", async || topics(&bus.confirmed()) == ["b"]).await;
}

#[tokio::test]
async fn a_message_that_passes_at_last_is_forgotten() {
    let bus = scripted(at_first("a", 4, Act::Fail));
    let (outbox, _folder) = start(bus.clone(), quick()).await;
    let message = message("a");
    outbox.store(vec![message.clone()]).await;
    outbox.until_left(0, 0).await;
    assert_eq!(bus.tries(message.id()), 5);
    assert_eq!(bus.confirmed(), [message]);
}

/// How long each of 100 messages waited after its first attempt, and then the half of them after its second.
async fn waits(settings: RelaySettings) -> (Vec<Duration>, Vec<Duration>) {
    let folder = tempfile::tempdir().unwrap();
    let (store, spy) = Spied::new(embedded(folder.path()).await);
    let (once, twice) = (at_first("once", 1, Act::Fail), at_first("twice", 2, Act::Fail));
    let bus = scripted(
        move |message| if message.topic().as_str() == "once" { once(message) } else { twice(message) },
    );
    let outbox = run(bus.clone(), store, settings);
    outbox.store((0..100).map(|n| message(if n % 2 == 0 { "once" } else { "twice" })).collect()).await;
    outbox.until_left(0, 0).await;
    let settled = spy.settled.lock().unwrap();
    let waits = settled.iter().filter_map(|settled| match settled {
        Settlement::Retry { after, .. } => Some(*after),
        _ => None,
    });
    let mut first: Vec<_> = waits.collect();
    let second = first.split_off(100);
    assert_eq!(second.len(), 50);
    (first, second)
}

#[tokio::test]
async fn attempts_are_ever_farther_apart_each_for_itself() {
    let millis = Duration::from_millis;
    let (first, second) = waits(RelaySettings::default()).await;
    assert!(first.iter().all(|wait| *wait <= millis(100)));
    let mean = first.iter().sum::<Duration>() / 100;
    assert!((millis(30)..millis(70)).contains(&mean), "{mean:?}");
    assert!(second.iter().any(|wait| (millis(101)..=millis(200)).contains(wait)), "{second:?}");
}

#[tokio::test]
async fn attempts_are_no_farther_apart_than_the_setting() {
    let most = Duration::from_millis(20);
    let (first, second) = waits(RelaySettings::default().with_max_backoff(most)).await;
    assert!(first.iter().all(|wait| *wait <= most), "{first:?}");
    assert!(second.iter().filter(|wait| **wait <= most).count() > 10, "{second:?}");
}

#[tokio::test]
async fn a_message_waits_for_its_next_attempt() {
    let bus = scripted(|_| Act::Fail);
    let (outbox, _folder) = start(bus.clone(), quick().with_max_backoff(Duration::from_secs(3_600))).await;
    let messages = batch("a", 50);
    outbox.store(messages.clone()).await;
    until("all were tried", async || messages.iter().all(|one| bus.tries(one.id()) > 0)).await;
    let waits = async |id| outbox.entry(id).await.unwrap().wait;
    until("one waits", async || {
        for message in &messages {
            if matches!(waits(message.id()).await, Some(Wait::Retry { .. })) {
                return true;
            }
        }
        false
    })
    .await;
}

#[tokio::test]
async fn a_message_gets_so_many_attempts_and_is_a_dead_letter_then() {
    let bus = scripted(at_first("a", usize::MAX, Act::Fail));
    let (outbox, _folder) = start(bus.clone(), quick().with_max_attempts(3)).await;
    let messages = messages(["a", "b"]);
    outbox.store(messages.clone()).await;
    outbox.until_left(0, 1).await;
    let dead = outbox.entry(messages[0].id()).await.unwrap();
    let reason = &dead.failures.last().unwrap().reason;
    assert!(reason.starts_with("given up after 3 attempts") && reason.contains("no answer"), "{reason}");
    assert_eq!((dead.state, bus.tries(messages[0].id())), (EntryState::Dead, 3));
    assert_eq!(topics(&bus.confirmed()), ["b"]);
}

#[tokio::test]
async fn each_message_of_a_batch_has_its_own_outcome() {
    let failing = at_first("c", 1, Act::Fail);
    let bus = scripted(move |message| match message.topic().as_str() {
        "b" => Act::Reject,
        _ => failing(message),
    });
    let (outbox, _folder) = start(bus.clone(), quick()).await;
    let messages = messages(["a", "b", "c", "d", "e"]);
    outbox.store(messages.clone()).await;
    outbox.until_left(0, 1).await;
    assert_eq!(bus.sends(), [5, 1]);
    assert_eq!(topics(&bus.confirmed()), ["a", "d", "e", "c"]);
    assert_eq!(outbox.entry(messages[1].id()).await.unwrap().state, EntryState::Dead);
}

/// Whichever of two messages with one id fails, both arrive.
#[tokio::test]
async fn two_messages_of_one_id_are_two_messages() {
    for failing in ["a", "b"] {
        let first = message("a");
        let second = message("b").with_id(first.id());
        let failed = Mutex::new(false);
        let bus = scripted(move |message| {
            let mut failed = failed.lock().unwrap();
            if message.topic().as_str() == failing && !std::mem::replace(&mut *failed, true) {
                return Act::Fail;
            }
            Act::Confirm
        });
        let (outbox, _folder) = start(bus.clone(), quick()).await;
        outbox.store(vec![first, second, message("c")]).await;
        outbox.until_left(0, 0).await;
        let mut arrived = topics(&bus.confirmed());
        arrived.sort();
        arrived.dedup();
        assert_eq!(arrived, ["a", "b", "c"], "{failing} failed at first");
    }
}

#[tokio::test]
async fn a_store_that_cannot_keep_outcomes_is_asked_again() {
    let folder = tempfile::tempdir().unwrap();
    let (store, spy) = Spied::new(embedded(folder.path()).await);
    spy.failing_settles.store(4, Ordering::SeqCst);
    let bus = scripted(|_| Act::Confirm);
    let outbox = run(bus.clone(), store, quick());
    let messages = messages(["a", "b"]);
    outbox.store(messages.clone()).await;
    outbox.until_left(0, 0).await;
    assert_eq!(bus.confirmed(), messages, "once, though the store could not keep it for a while");
}

#[tokio::test]
async fn a_store_that_cannot_be_read_is_asked_again() {
    let folder = tempfile::tempdir().unwrap();
    let (store, spy) = Spied::new(embedded(folder.path()).await);
    spy.failing_leases.store(3, Ordering::SeqCst);
    let bus = scripted(|_| Act::Confirm);
    let outbox = run(bus.clone(), store, quick());
    outbox.store(messages(["a"])).await;
    outbox.until_left(0, 0).await;
    assert_eq!(topics(&bus.confirmed()), ["a"]);
    let (_, error) = outbox.handle.status().await.unwrap().last_error.unwrap();
    assert!(error.contains("the disk does not answer"), "{error}");
}

#[tokio::test]
async fn a_message_the_messenger_panics_over_is_a_dead_letter_alone() {
    let bus =
        scripted(|message| if message.topic().as_str() == "poison" { Act::Panic } else { Act::Confirm });
    let (outbox, _folder) = start(bus.clone(), quick()).await;
    let mut messages = batch("a", 100);
    let poison = message("poison");
    messages.insert(42, poison.clone());
    outbox.store(messages.clone()).await;
    outbox.until_left(0, 1).await;
    let dead = outbox.entry(poison.id()).await.unwrap();
    assert!(dead.failures.last().unwrap().reason.contains("panicked"), "{dead:?}");
    messages.remove(42);
    assert_eq!(ids(&bus.confirmed()), ids(&messages), "each of the others once, in order");
    assert_eq!(bus.tries(poison.id()), 2);
    // Later messages go in batches again.
    outbox.store(batch("b", 10)).await;
    outbox.until_left(0, 1).await;
    assert_eq!(bus.sends().last(), Some(&10));
}

#[tokio::test]
async fn the_panic_of_a_messenger_in_its_call_is_that_of_a_send() {
    let (outbox, _folder) = start(Hasty, quick()).await;
    let message = message("a");
    outbox.store(vec![message.clone()]).await;
    outbox.until_left(0, 1).await;
    outbox.store(messages(["b"])).await;
    outbox.until_left(0, 2).await;
}

/// Panics before it gives a future.
struct Hasty;

impl tower_outbox::Messenger for Hasty {
    fn send<'a, 'b>(
        &'a self,
        _: Vec<Message>,
    ) -> std::pin::Pin<Box<dyn Future<Output = crate::support::messengers::SendResult> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        panic!("it panics at once")
    }
}
