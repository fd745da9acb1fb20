//! Messages wait until confirmations can come back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};
use tower_outbox::acknowledging::Acknowledging;
use tower_outbox::message::headers::CONFIRM;
use tower_outbox::testing::Memory;
use tower_outbox::{Health, Message, Messenger};

use super::{confirmation, settings, text};
use crate::support::message;
use crate::support::messengers::fake;

/// A broker whose consumer confirms each message at once. What goes to `orders.ack` is lost while it is `lossy`.
#[derive(Clone, Default)]
struct Broker {
    acks: Memory,
    lossy: Arc<AtomicBool>,
    messages: Arc<AtomicUsize>,
    proofs: Arc<AtomicUsize>,
}

impl Broker {
    fn messenger(&self) -> impl Messenger + use<> {
        let it = self.clone();
        fake(move |batch: Vec<Message>| {
            let it = it.clone();
            async move {
                for message in batch {
                    let back = match text(&message, CONFIRM) {
                        "" => {
                            it.messages.fetch_add(1, Ordering::SeqCst);
                            confirmation(&message, "orders.ack")
                        }
                        _ => {
                            it.proofs.fetch_add(1, Ordering::SeqCst);
                            message
                        }
                    };
                    if !it.lossy.load(Ordering::SeqCst) {
                        it.acks.send(vec![back]).await?;
                    }
                }
                Ok(())
            }
        })
    }
}

#[tokio::test(start_paused = true)]
async fn messages_wait_until_a_confirmation_has_come_back() {
    let broker = Broker::default();
    broker.lossy.store(true, Ordering::SeqCst);
    let (messenger, confirmations) = Acknowledging::new(broker.messenger(), settings("orders.ack"));
    let (stop, stopped) = oneshot::channel::<()>();
    let stopped = async { drop(stopped.await) };
    let worker = tokio::spawn(confirmations.receive(broker.acks.clone(), broker.messenger(), stopped));
    let begun = Instant::now();
    let unsent = messenger.send(vec![message("a")]).await.unwrap_err();
    assert_eq!(
        (begun.elapsed().as_secs(), broker.messages.load(Ordering::SeqCst)),
        (5, 0),
        "nothing was sent"
    );
    assert!(unsent.to_string().contains("ACK_ADDRESS"), "{unsent}");
    let Health::Down { reason } = messenger.health().await else { panic!("it is up") };
    assert!(reason.contains("no confirmation comes back to orders.ack"), "{reason}");
    let proofs = broker.proofs.load(Ordering::SeqCst);
    assert!((3..30).contains(&proofs), "{proofs} proofs in 7 seconds");

    broker.lossy.store(false, Ordering::SeqCst);
    messenger.send(vec![message("a")]).await.unwrap();
    assert_eq!(messenger.health().await, Health::Up);
    stop.send(()).unwrap();
    worker.await.unwrap();
    messenger.send(vec![message("a")]).await.unwrap_err();
    assert_eq!(broker.messages.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_missing_confirmation_asks_for_a_new_proof() {
    let broker = Broker::default();
    let (messenger, confirmations) = Acknowledging::new(broker.messenger(), settings("orders.ack"));
    tokio::spawn(confirmations.receive(broker.acks.clone(), broker.messenger(), std::future::pending()));
    messenger.send(vec![message("a")]).await.unwrap();
    assert_eq!(broker.proofs.load(Ordering::SeqCst), 1);
    broker.lossy.store(true, Ordering::SeqCst);
    messenger.send(vec![message("a")]).await.unwrap_err();
    sleep(Duration::from_secs(2)).await;
    assert!(!messenger.health().await.is_up());
    broker.lossy.store(false, Ordering::SeqCst);
    sleep(Duration::from_secs(10)).await;
    assert!(messenger.health().await.is_up());
}

#[tokio::test(start_paused = true)]
async fn what_is_no_confirmation_is_acknowledged_and_ignored() {
    let broker = Broker::default();
    let (messenger, confirmations) = Acknowledging::new(broker.messenger(), settings("orders.ack"));
    tokio::spawn(confirmations.receive(broker.acks.clone(), broker.messenger(), std::future::pending()));
    let odd = message("orders.ack").with_header(CONFIRM, 7);
    broker.acks.send(vec![message("a"), message("orders.ack"), odd, message("orders.ack")]).await.unwrap();
    messenger.send(vec![message("b")]).await.unwrap();
    broker.acks.wait_idle().await;
    assert!(broker.acks.dead_letters().is_empty());
}
