//! A bus that is down is left alone.

use std::time::Duration;

use tokio::time::sleep;
use tower_outbox::Message;
use tower_outbox::outbox::Breaker;
use tower_outbox::store::Filter;
use tracing::Level;

use super::{quick, start};
use crate::support::logs;
use crate::support::messengers::{Act, Asked, Bus, Scripted, scripted};
use crate::support::stores::{batch, ids, until};

/// A bus that is down.
fn fallen(bus: Bus) -> Scripted {
    let scripted = scripted(|_| Act::Confirm);
    scripted.set(bus);
    scripted
}

/// How many messages the first send after so many answers had.
fn first_send_after(bus: &Scripted, answers: usize) -> usize {
    let asked = bus.asked().into_iter().skip(answers);
    asked
        .filter_map(|asked| if let Asked::Send(messages) = asked { Some(messages) } else { None })
        .next()
        .unwrap()
}

#[tokio::test]
async fn while_the_bus_is_down_there_is_no_storm_and_no_attempt_is_counted() {
    for fault in [Bus::Down, Bus::Mad] {
        let log = logs::listen();
        let bus = fallen(fault);
        let (outbox, _folder) = start(bus.clone(), quick().with_max_attempts(1)).await;
        let messages = batch("a", 10_000);
        for chunk in messages.chunks(1_000) {
            outbox.store(chunk.to_vec()).await;
        }
        outbox.until_open().await;
        sleep(Duration::from_secs(1)).await;
        let asked = bus.asked();
        // At most what fits into the window, and probes at random times that get rarer.
        assert!(bus.sends().len() <= 5, "{asked:?}");
        assert!(asked.len() <= 40, "{asked:?}");
        let status = outbox.handle.status().await.unwrap();
        let Breaker::Open { since, next_probe } = status.breaker else { panic!("{status:?}") };
        assert!(since <= next_probe);
        assert_eq!((status.counts.pending, status.counts.dead), (10_000, 0));
        let page = outbox.handle.list(&Filter::default(), None, 1_000).await.unwrap();
        assert!(page.entries.iter().all(|entry| entry.attempts == 0 && entry.failures.is_empty()));
        // The store of the round before may have been closed after its folder was deleted.
        let warnings = log.find(Level::WARN, &[]).into_iter().filter(|event| !event.has("error"));
        assert_eq!(warnings.count(), 1);
        let (before, log) = (bus.asked().len(), logs::listen());
        bus.set(Bus::Up);
        outbox.until_left(0, 0).await;
        assert_eq!(first_send_after(&bus, before), 1);
        let (mut arrived, mut expected) = (ids(&bus.confirmed()), ids(&messages));
        arrived.sort();
        expected.sort();
        assert_eq!(arrived, expected, "each once");
        assert_eq!(outbox.breaker().await, Breaker::Closed);
        assert_eq!(log.find(Level::INFO, &[]).len(), 1);
    }
}

#[tokio::test]
async fn there_is_one_probe_at_a_time() {
    let bus = fallen(Bus::Down);
    let (outbox, _folder) = start(bus.clone(), quick()).await;
    for _ in 0..10 {
        outbox.store(batch("a", 500)).await;
    }
    outbox.until_open().await;
    until("all are back", async || bus.sends().len() >= 2).await;
    // Every message that was out when it opened has been answered.
    sleep(Duration::from_millis(100)).await;
    let (sends, before) = (bus.sends().len(), bus.asked().len());
    bus.slow(Duration::from_millis(100));
    bus.take_most_probes();
    outbox.store(batch("b", 500)).await;
    until("it was probed", async || bus.asked().len() >= before + 3).await;
    assert_eq!(bus.take_most_probes(), 1);
    assert_eq!(bus.sends().len(), sends, "nothing is sent to a bus that says it is down");
}

#[tokio::test]
async fn a_bus_that_says_it_is_up_and_takes_nothing_is_left_alone_after_three_sends() {
    let bus = fallen(Bus::Mute);
    let (outbox, _folder) = start(bus.clone(), quick().with_window(100)).await;
    outbox.store(batch("a", 1_000)).await;
    until("it was tried with one", async || bus.sends().len() >= 6).await;
    let asked = bus.asked();
    let all = [Asked::Send(100), Asked::Health];
    let one = [Asked::Health, Asked::Send(1), Asked::Health];
    let expected: Vec<_> = [&all[..], &all, &all, &one, &one].concat();
    assert_eq!(asked[..expected.len()], expected);
    let before = bus.asked().len();
    bus.set(Bus::Up);
    outbox.until_left(0, 0).await;
    assert_eq!(first_send_after(&bus, before), 1);
    assert_eq!(outbox.breaker().await, Breaker::Closed);
}

#[tokio::test]
async fn an_outage_began_when_the_first_send_failed() {
    let bus = fallen(Bus::Mute);
    let (outbox, _folder) = start(bus.clone(), quick()).await;
    outbox.store(batch("a", 1)).await;
    outbox.until_open().await;
    let Breaker::Open { since: begun, .. } = outbox.breaker().await else { panic!("it is open") };
    let sends = bus.sends().len();
    until("it was tried with one", async || bus.sends().len() >= sends + 2 && outbox.is_open().await).await;
    let Breaker::Open { since, .. } = outbox.breaker().await else { panic!("it is open") };
    assert_eq!(since, begun);
}

#[tokio::test]
async fn a_send_that_passed_begins_the_count_of_failures_anew() {
    // Two of three sends fail.
    let count = std::sync::atomic::AtomicUsize::new(0);
    let bus = scripted(move |_: &Message| {
        let nth = count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        if nth % 3 == 2 { Act::Confirm } else { Act::Fail }
    });
    let (outbox, _folder) = start(bus.clone(), quick().with_window(1)).await;
    outbox.store(batch("a", 20)).await;
    outbox.until_left(0, 0).await;
    let probes = bus.asked().windows(2).filter(|pair| *pair == [Asked::Health, Asked::Health]).count();
    assert_eq!(probes, 0, "it never opened");
}
