//! The end of a relay, in order or not.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep;
use tower_outbox::Messenger;
use tower_outbox::outbox::Outbox;

use super::{embedded, quick, run, run_for, start};
use crate::support::messengers::{Act, Bus, Scripted, held, scripted};
use crate::support::stores::{STUCK, batch, ids, until};
use crate::support::{message, topics};

fn confirming() -> Scripted {
    scripted(|_| Act::Confirm)
}

#[tokio::test]
async fn due_messages_are_sent_before_the_deadline() {
    let bus = confirming();
    bus.slow(Duration::from_millis(10));
    let (outbox, _folder) = start(bus.clone(), quick().with_window(20)).await;
    let messages = batch("a", 400);
    outbox.store(messages.clone()).await;
    let counts = outbox.stop().await;
    assert_eq!((counts.pending, counts.dead), (0, 0));
    assert_eq!(ids(&bus.confirmed()), ids(&messages));
}

#[tokio::test]
async fn a_messenger_that_hangs_is_given_up_on_at_the_deadline_and_nothing_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let (bus, deadline) = (confirming(), Duration::from_millis(400));
    bus.set(Bus::Hangs);
    let outbox = run_for(bus.clone(), embedded(folder.path()).await, quick(), deadline);
    let messages = batch("a", 2_000);
    outbox.store(messages.clone()).await;
    until("it hangs", async || !bus.sends().is_empty()).await;
    let begun = Instant::now();
    assert_eq!(outbox.stop().await.pending, 2_000);
    let took = begun.elapsed();
    assert!(took >= deadline && took < deadline + Duration::from_secs(3), "{took:?}");
    let bus = confirming();
    let outbox = run(bus.clone(), embedded(folder.path()).await, quick());
    outbox.until_left(0, 0).await;
    assert_eq!(bus.confirmed(), messages);
}

#[tokio::test]
async fn a_bus_that_is_down_is_not_waited_for() {
    for fault in [Bus::Down, Bus::Mad] {
        let bus = confirming();
        bus.set(fault);
        let (outbox, _folder) = start(bus.clone(), quick()).await;
        outbox.store(batch("a", 1_000)).await;
        outbox.until_open().await;
        let begun = Instant::now();
        assert_eq!(outbox.stop().await.pending, 1_000);
        assert!(begun.elapsed() < STUCK / 3, "{:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn a_retry_that_is_not_due_is_not_waited_for() {
    let bus = scripted(|message| if message.topic().as_str() == "a" { Act::Fail } else { Act::Confirm });
    let (outbox, _folder) = start(bus.clone(), quick()).await;
    let later = message("later").with_delay(Duration::from_secs(3_600));
    outbox.store(vec![later]).await;
    let begun = Instant::now();
    assert_eq!(outbox.stop().await.pending, 1);
    assert!(begun.elapsed() < STUCK / 3, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn an_idle_relay_stops_at_once() {
    let (outbox, _folder) = start(confirming(), quick()).await;
    let begun = Instant::now();
    assert_eq!(outbox.stop().await.pending, 0);
    assert!(begun.elapsed() < STUCK / 3, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_run_that_is_dropped_anywhere_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let bus = confirming();
    let mut stored = Vec::new();
    for pause in [0, 1, 2, 3, 5, 8, 13] {
        bus.slow(Duration::from_millis(pause % 4));
        let outbox = run(bus.clone(), embedded(folder.path()).await, quick().with_window(10));
        let messages = batch("a", 100);
        outbox.store(messages.clone()).await;
        stored.extend(messages);
        sleep(Duration::from_millis(pause)).await;
        outbox.relay.abort();
        assert!(outbox.relay.await.is_err());
    }
    let outbox = run(bus.clone(), embedded(folder.path()).await, quick());
    outbox.until_left(0, 0).await;
    let confirmed = ids(&bus.confirmed());
    let lost: Vec<_> = ids(&stored).into_iter().filter(|id| !confirmed.contains(id)).collect();
    assert!(lost.is_empty(), "{} of {} are lost", lost.len(), stored.len());
}

#[tokio::test]
async fn a_run_that_is_dropped_in_a_send_sends_it_again_the_next_time() {
    let folder = tempfile::tempdir().unwrap();
    let (messenger, gate, sent) = held();
    let outbox = run(messenger, embedded(folder.path()).await, quick());
    outbox.store(vec![message("a")]).await;
    gate.begun().await;
    outbox.relay.abort();
    assert!(outbox.relay.await.is_err());
    assert!(sent.topics().is_empty());
    drop((outbox.outbox, outbox.handle));
    let bus = confirming();
    let outbox = run(bus.clone(), embedded(folder.path()).await, quick());
    outbox.until_left(0, 0).await;
    assert_eq!(topics(&bus.confirmed()), ["a"]);
}

#[tokio::test]
async fn a_relay_ends_when_its_store_is_closed() {
    let (outbox, folder) = start(confirming(), quick()).await;
    outbox.store(vec![message("a")]).await;
    outbox.until_left(0, 0).await;
    outbox.outbox.close(STUCK).await;
    tokio::time::timeout(STUCK, outbox.relay).await.expect("it goes on").unwrap();
    let unsent = outbox.outbox.send(vec![message("b")]).await.unwrap_err();
    assert_eq!(topics(&unsent.into_messages()), ["b"]);
    // Its folder is free.
    let store = tower_outbox::store::EmbeddedStore::open(&tower_outbox::store::EmbeddedStoreSettings::new(
        folder.path(),
    ))
    .await
    .unwrap();
    let _ = Outbox::new(confirming(), Arc::new(store), quick());
}
