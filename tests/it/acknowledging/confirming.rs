//! The side of the consumer.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::post;
use sqlx::Sqlite;
use tokio::time::{Instant, sleep, timeout};
use tower_outbox::acknowledging::{AllowedAddresses, Confirming};
use tower_outbox::message::headers::{ACK, CONFIRM, REJECTED};
use tower_outbox::outbox::{Outbox, RelaySettings};
use tower_outbox::source::Source;
use tower_outbox::store::{SqlStoreSettings, SqliteStore};
use tower_outbox::testing::Memory;
use tower_outbox::{Consumer, Failure, Message, MessagingLayer, Messenger, Tx};

use super::{Handled, text};
use crate::support::counters::{counted, expect};
use crate::support::databases::sqlite;
use crate::support::message;
use crate::support::messengers::{down, fake, panicking, recording};

fn asking(address: &str) -> Message {
    message("order.created").with_header(ACK, address.to_owned())
}

/// Runs messages through a consumer that answers with this status; gives the confirmations.
async fn confirmed_by(status: StatusCode, messages: Vec<Message>) -> Vec<Message> {
    let (queue, (messenger, sent)) = (Memory::new(), recording());
    queue.send(messages).await.unwrap();
    let source = Confirming::new(queue.clone(), messenger);
    let consumer = Consumer::new(source, Handled::default().router(status));
    let idle = async { drop(timeout(Duration::from_secs(1), queue.wait_idle()).await) };
    consumer.with_graceful_shutdown(idle, Duration::from_secs(1)).await;
    sent.messages()
}

#[tokio::test(start_paused = true)]
async fn a_handled_message_is_confirmed_to_its_sender() {
    for address in ["orders/ack", "orders.ack"] {
        let asking = asking(address);
        let confirmations = confirmed_by(StatusCode::NO_CONTENT, vec![asking.clone()]).await;
        let [confirmation] = &confirmations[..] else { panic!("{confirmations:?}") };
        assert_eq!(confirmation.topic().as_str(), "orders.ack");
        assert_eq!(text(confirmation, CONFIRM), asking.id().to_string());
        assert_eq!((&confirmation.body()[..], confirmation.content_type()), (&b"{}"[..], "application/json"));
        assert!(confirmation.header(ACK).is_none() && confirmation.id() != asking.id());
    }
}

#[tokio::test(start_paused = true)]
async fn a_duplicate_is_confirmed_once_more() {
    let asking = asking("orders/ack");
    assert_eq!(confirmed_by(StatusCode::OK, vec![asking.clone(), asking]).await.len(), 2);
}

#[tokio::test]
async fn a_duplicate_is_confirmed_once_more_and_tx_handles_it_once() {
    let folder = tempfile::tempdir().unwrap();
    let (pool, settings) = (sqlite(folder.path()).await, SqlStoreSettings::default());
    SqliteStore::migrate(&pool, &settings).await.unwrap();
    let store = SqliteStore::open(pool, &settings).await.unwrap();
    let (outbox, _relay) = Outbox::new(recording().0, Arc::new(store), RelaySettings::default());
    let handled = Arc::new(AtomicUsize::new(0));
    let calls = Arc::clone(&handled);
    let handler = move |_tx: Tx<Sqlite>| async move {
        calls.fetch_add(1, Ordering::SeqCst);
    };
    let app = Router::new().fallback(post(handler)).layer(MessagingLayer::new(outbox));
    let (queue, (messenger, sent)) = (Memory::new(), recording());
    let asking = asking("orders/ack");
    queue.send(vec![asking.clone(), asking]).await.unwrap();
    let consumer = Consumer::new(Confirming::new(queue.clone(), messenger), app);
    let idle = async move { queue.wait_idle().await };
    consumer.with_graceful_shutdown(idle, Duration::from_secs(10)).await;
    assert_eq!((handled.load(Ordering::SeqCst), sent.messages().len()), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_is_reported_to_its_sender() {
    for status in [StatusCode::NOT_FOUND, StatusCode::FOUND] {
        let asking = asking("orders/ack");
        let answers = confirmed_by(status, vec![asking.clone()]).await;
        let [answer] = &answers[..] else { panic!("{answers:?}") };
        assert_eq!(text(answer, CONFIRM), asking.id().to_string());
        assert!(text(answer, REJECTED).contains(status.as_str()), "{answer:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn only_a_settled_message_is_confirmed() {
    let retried = StatusCode::SERVICE_UNAVAILABLE;
    assert!(confirmed_by(retried, vec![asking("orders/ack")]).await.is_empty());
    assert!(confirmed_by(StatusCode::NOT_FOUND, vec![message("a")]).await.is_empty(), "nobody asks");
    assert!(confirmed_by(StatusCode::OK, vec![message("a")]).await.is_empty(), "nobody asks");
}

#[tokio::test(start_paused = true)]
async fn a_stranger_chooses_no_other_address() {
    let long = format!("{}/ack", "x".repeat(10_000_000));
    let mut odd = vec![message("a").with_header(ACK, 7), message("a").with_header(ACK, true)];
    for address in
        ["orders/created", "orders.created", "a/b/ack", "ack", "#", "*/ack", "", "a\nb/ack", "\0/ack", &long]
    {
        odd.push(asking(address));
    }
    assert!(confirmed_by(StatusCode::OK, odd).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_allowed_addresses_are_settable() {
    let (queue, (messenger, sent)) = (Memory::new(), recording());
    queue.send(vec![asking("orders/ack"), asking("acks/orders/7")]).await.unwrap();
    let source = Confirming::new(queue, messenger).with_allowed(AllowedAddresses::new(["acks/#"]));
    for unsettled in source.receive(10).await.unwrap() {
        unsettled.ack().await.unwrap();
    }
    assert_eq!(sent.topics(), ["acks.orders.7"]);
}

#[tokio::test(start_paused = true)]
async fn the_confirmation_is_sent_before_the_message_is_acknowledged() {
    let queue = Memory::new();
    queue.send(vec![asking("orders/ack")]).await.unwrap();
    let left = Arc::new(Mutex::new(Vec::new()));
    let (seen, view) = (Arc::clone(&left), queue.clone());
    let spy = fake(move |_| {
        seen.lock().unwrap().push(view.len());
        async { Ok(()) }
    });
    let source = Confirming::new(queue.clone(), spy);
    for unsettled in source.receive(10).await.unwrap() {
        unsettled.ack().await.unwrap();
    }
    assert_eq!((&left.lock().unwrap()[..], queue.len()), (&[1][..], 0));
}

/// Its sender gives the message up, so it must be among the dead letters by then.
#[tokio::test(start_paused = true)]
async fn a_dead_letter_is_there_before_it_is_reported() {
    let queue = Memory::new();
    queue.send(vec![asking("orders/ack")]).await.unwrap();
    let dead = Arc::new(Mutex::new(Vec::new()));
    let (seen, view) = (Arc::clone(&dead), queue.clone());
    let spy = fake(move |_| {
        seen.lock().unwrap().push(view.dead_letters().len());
        async { Ok(()) }
    });
    let source = Confirming::new(queue.clone(), spy);
    source.receive(10).await.unwrap().remove(0).reject("never").await.unwrap();
    assert_eq!(dead.lock().unwrap()[..], [1]);
}

#[tokio::test(start_paused = true)]
async fn a_confirmation_is_tried_again_while_the_broker_fails() {
    let (queue, fails) = (Memory::new(), Mutex::new(3));
    queue.send(vec![asking("orders/ack")]).await.unwrap();
    let (messenger, sent) = recording();
    let messenger = Arc::new(messenger);
    let flaky = fake(move |batch: Vec<Message>| {
        let mut fails = fails.lock().unwrap();
        let is_down = *fails > 0;
        *fails -= i32::from(is_down);
        let messenger = Arc::clone(&messenger);
        async move {
            match is_down {
                true => down(Failure::transient("no answer")).send(batch).await,
                false => messenger.send(batch).await,
            }
        }
    });
    let source = Confirming::new(queue.clone(), flaky);
    for unsettled in source.receive(10).await.unwrap() {
        unsettled.ack().await.unwrap();
    }
    assert_eq!((sent.topics(), queue.len()), (vec!["orders.ack".to_owned()], 0));
}

#[tokio::test(start_paused = true)]
async fn a_confirmation_that_cannot_be_sent_is_given_up() {
    for (failure, most) in [(Failure::transient("no answer"), 5), (Failure::rejected("forbidden"), 0)] {
        let queue = Memory::new();
        queue.send(vec![asking("orders/ack")]).await.unwrap();
        let source = Confirming::new(queue.clone(), down(failure));
        let begun = Instant::now();
        for unsettled in source.receive(10).await.unwrap() {
            unsettled.ack().await.unwrap();
        }
        assert_eq!((begun.elapsed().as_secs(), queue.len()), (most, 0), "its sender sends it again");
    }
}

#[tokio::test(start_paused = true)]
async fn a_settlement_cut_short_hands_the_message_back() {
    let queue = Memory::new();
    queue.send(vec![asking("orders/ack")]).await.unwrap();
    let source = Confirming::new(queue.clone(), fake(|_| std::future::pending()));
    let unsettled = source.receive(10).await.unwrap().remove(0);
    timeout(Duration::from_secs(1), unsettled.ack()).await.unwrap_err();
    sleep(Duration::from_millis(1)).await;
    let source = Confirming::new(queue.clone(), panicking(false));
    let unsettled = source.receive(10).await.unwrap().remove(0);
    assert!(unsettled.view().unwrap().redelivered());
    tokio::spawn(unsettled.ack()).await.unwrap_err();
    sleep(Duration::from_millis(1)).await;
    assert_eq!(queue.receive(10).await.unwrap().len(), 1);
}

#[test]
fn sent_confirmations_are_counted() {
    let counts = counted(async {
        let sends = |messenger: Box<dyn Messenger>, message| async move {
            let queue = Memory::new();
            queue.send(vec![message]).await.unwrap();
            let source = Confirming::new(queue, Arc::<dyn Messenger>::from(messenger));
            source.receive(1).await.unwrap().remove(0).ack().await.unwrap();
        };
        sends(Box::new(recording().0), asking("orders/ack")).await;
        sends(Box::new(down(Failure::rejected("forbidden"))), asking("orders/ack")).await;
        sends(Box::new(recording().0), asking("orders/created")).await;
    });
    let expected = expect([
        ("confirmations_sent_total{outcome=failed}", 1),
        ("confirmations_sent_total{outcome=refused}", 1),
        ("confirmations_sent_total{outcome=sent}", 1),
    ]);
    assert_eq!(counts, expected);
}
