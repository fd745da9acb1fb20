//! How much a relay does at a time, and how little when there is nothing to do.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::sleep;

use super::spied::Spied;
use super::{embedded, quick, run, start};
use crate::support::message;
use crate::support::messengers::{Act, Bus, scripted};
use crate::support::stores::{QUIET, batch, until};

#[tokio::test]
async fn no_more_than_the_window_is_out() {
    for window in [1, 10, 300, 1_000] {
        let bus = scripted(|_| Act::Confirm);
        bus.slow(Duration::from_millis(3));
        let (outbox, _folder) = start(bus.clone(), quick().with_window(window)).await;
        outbox.store(batch("a", (window * 3).max(20))).await;
        outbox.until_left(0, 0).await;
        assert_eq!(bus.most_out(), window);
    }
}

#[tokio::test]
async fn the_window_is_filled_by_several_sends() {
    let bus = scripted(|_| Act::Confirm);
    bus.set(Bus::Hangs);
    let (outbox, _folder) = start(bus.clone(), quick()).await;
    outbox.store(batch("a", 3_000)).await;
    until("it is full", async || bus.most_out() >= 1_024).await;
    sleep(QUIET).await;
    assert_eq!(bus.most_out(), 1_024, "the default");
    assert!(bus.sends().len() > 1);
}

#[tokio::test]
async fn a_window_of_nothing_is_one_of_one() {
    let bus = scripted(|_| Act::Confirm);
    let (outbox, _folder) = start(bus.clone(), quick().with_window(0)).await;
    outbox.store(batch("a", 5)).await;
    outbox.until_left(0, 0).await;
    assert_eq!(bus.sends(), [1; 5]);
}

#[tokio::test]
async fn an_idle_relay_asks_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let (store, spy) = Spied::new(embedded(folder.path()).await);
    let bus = scripted(|_| Act::Confirm);
    let outbox = run(bus.clone(), store, quick());
    outbox.store(vec![message("a"), message("far").with_delay(Duration::from_secs(3_600))]).await;
    outbox.until_left(1, 0).await;
    sleep(QUIET).await;
    let (leases, asked) = (spy.leases.load(Ordering::SeqCst), bus.asked().len());
    sleep(3 * QUIET).await;
    assert_eq!((spy.leases.load(Ordering::SeqCst), bus.asked().len()), (leases, asked));
    assert!(leases <= 3, "{leases} leases for one message");
    // And yet it is awake at once.
    outbox.store(vec![message("b")]).await;
    outbox.until_left(1, 0).await;
}
