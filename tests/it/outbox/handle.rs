//! Looking into an outbox, and operating on it.

use std::sync::Arc;
use std::time::Duration;

use tower_outbox::outbox::{Breaker, OutboxHandle};
use tower_outbox::store::{EntryState, Filter};

use super::{embedded, quick, start};
use crate::support::messengers::{Act, Bus, scripted};
use crate::support::stores::{batch, ids};
use crate::support::{message, messages};

#[tokio::test]
async fn the_status_says_how_it_fares() {
    let bus = scripted(|message| if message.topic().as_str() == "bad" { Act::Reject } else { Act::Confirm });
    let (outbox, folder) = start(bus.clone(), quick()).await;
    let status = outbox.handle.status().await.unwrap();
    assert_eq!(status.place, folder.path().display().to_string());
    assert_eq!(outbox.handle.location(), status.place);
    assert_eq!((status.stored_per_second, status.confirmed_per_second), (0.0, 0.0));
    assert_eq!((status.breaker, status.last_error), (Breaker::Closed, None));
    outbox.store(batch("a", 600)).await;
    outbox.store(vec![message("bad")]).await;
    outbox.until_left(0, 1).await;
    let status = outbox.handle.status().await.unwrap();
    // Over a minute at most, and over a second at least.
    let expected = 601.0 / 60.0..=601.0;
    assert!(expected.contains(&status.stored_per_second), "{status:?}");
    assert!((600.0 / 60.0..=600.0).contains(&status.confirmed_per_second), "{status:?}");
    assert!(status.stored_per_second > status.confirmed_per_second);
    let (when, error) = status.last_error.unwrap();
    assert!(error.contains("too large") && when.elapsed().unwrap() < Duration::from_secs(60), "{error}");
}

#[tokio::test]
async fn the_status_of_an_outage_names_the_last_error() {
    let bus = scripted(|_| Act::Confirm);
    bus.set(Bus::Down);
    let (outbox, _folder) = start(bus.clone(), quick()).await;
    outbox.store(messages(["a"])).await;
    outbox.until_open().await;
    let status = outbox.handle.status().await.unwrap();
    assert!(status.last_error.unwrap().1.contains("no answer"));
    assert!(status.counts.oldest.is_some() && status.counts.bytes > 0, "{:?}", status.counts);
}

#[tokio::test]
async fn a_panic_of_the_messenger_is_the_last_error() {
    let (outbox, _folder) = start(scripted(|_| Act::Panic), quick()).await;
    outbox.store(messages(["a"])).await;
    outbox.until_left(0, 1).await;
    let error = outbox.handle.status().await.unwrap().last_error.expect("it is said").1;
    assert!(error.contains("panicked"), "{error}");
}

#[tokio::test]
async fn what_is_meant_is_found_and_counted() {
    let bus = scripted(|message| if message.topic().as_str() == "b" { Act::Reject } else { Act::Confirm });
    bus.set(Bus::Down);
    let (outbox, _folder) = start(bus.clone(), quick()).await;
    let (a, b) = (batch("a", 1_300), batch("b", 700));
    outbox.store([a.clone(), b.clone()].concat()).await;
    let handle = outbox.handle.clone();
    let topic = |topic: &str| {
        let mut filter = Filter::default();
        filter.topic = Some(topic.to_owned());
        filter
    };
    assert_eq!(handle.count(&Filter::default()).await.unwrap(), 2_000);
    assert_eq!(handle.count(&topic("b")).await.unwrap(), 700);
    assert_eq!(handle.count(&topic("c")).await.unwrap(), 0);
    let last = b.last().unwrap();
    assert_eq!(handle.find(&Filter::id(last.id())).await.unwrap().unwrap().message.as_ref(), Some(last));
    assert_eq!(handle.find(&topic("b")).await.unwrap().unwrap().message.as_ref(), b.first());
    assert!(handle.find(&Filter::id(message("x").id())).await.unwrap().is_none());
    bus.set(Bus::Up);
    outbox.until_left(0, 700).await;
    assert_eq!(handle.count(&Filter::state(EntryState::Dead)).await.unwrap(), 700);
    assert_eq!(handle.count(&Filter::state(EntryState::Pending)).await.unwrap(), 0);
}

#[tokio::test]
async fn what_is_requeued_gets_another_life() {
    let mended = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let bus = scripted({
        let mended = mended.clone();
        move |message| match message.topic().as_str() {
            "a" | "b" if !mended.load(std::sync::atomic::Ordering::SeqCst) => Act::Reject,
            _ => Act::Confirm,
        }
    });
    let (outbox, _folder) = start(bus.clone(), quick()).await;
    let (a, b) = (batch("a", 600), batch("b", 10));
    outbox.store([a.clone(), b.clone()].concat()).await;
    outbox.until_left(0, 610).await;
    let mut filter = Filter::default();
    filter.topic = Some("a".to_owned());
    // Given up on again, behind our back: each is requeued once.
    assert_eq!(outbox.handle.requeue(&filter, Duration::ZERO).await.unwrap(), 600);
    outbox.until_left(0, 610).await;
    assert!(a.iter().all(|one| bus.tries(one.id()) == 2));
    assert!(b.iter().all(|one| bus.tries(one.id()) == 1));
    mended.store(true, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(outbox.handle.requeue(&filter, Duration::ZERO).await.unwrap(), 600);
    outbox.until_left(0, 10).await;
    assert_eq!(ids(&bus.confirmed()), ids(&a));
    assert_eq!(outbox.handle.requeue(&Filter::default(), Duration::ZERO).await.unwrap(), 10);
    outbox.until_left(0, 0).await;
}

#[tokio::test]
async fn what_is_dropped_is_gone_but_for_what_is_out() {
    let bus = scripted(|_| Act::Confirm);
    bus.set(Bus::Hangs);
    let (outbox, _folder) = start(bus.clone(), quick().with_window(10)).await;
    outbox.store(batch("a", 1_500)).await;
    crate::support::stores::until("they are out", async || bus.most_out() == 10).await;
    assert_eq!(outbox.handle.drop_messages(&Filter::default()).await.unwrap(), 1_490);
    outbox.until_left(10, 0).await;
}

#[tokio::test]
async fn a_message_appended_by_a_handle_is_sent_in_order() {
    let bus = scripted(|_| Act::Confirm);
    let (outbox, _folder) = start(bus.clone(), quick()).await;
    let messages = batch("a", 10);
    outbox.handle.append(messages.clone()).await.unwrap();
    outbox.until_left(0, 0).await;
    assert_eq!(bus.confirmed(), messages);
    let status = outbox.handle.status().await.unwrap();
    assert!(status.stored_per_second > 0.0, "it was stored, too: {status:?}");
}

#[tokio::test]
async fn a_handle_to_a_stopped_store_lists_what_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let handle = OutboxHandle::stopped(Arc::new(embedded(folder.path()).await));
    handle.append(batch("a", 5)).await.unwrap();
    let status = handle.status().await.unwrap();
    assert_eq!((status.counts.pending, status.breaker), (5, Breaker::Closed));
    assert_eq!(handle.count(&Filter::default()).await.unwrap(), 5);
    assert_eq!(handle.drop_messages(&Filter::default()).await.unwrap(), 5);
}
