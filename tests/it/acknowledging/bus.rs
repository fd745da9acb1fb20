//! `ACKNOWLEDGED` in the settings of a bus.

use std::path::Path;
use std::time::Duration;

use axum::http::StatusCode;
use tower_outbox::message::headers::ACK;
use tower_outbox::store::{EntryState, Filter};
use tower_outbox::{Bus, Health, Message, Messenger, Settings};

use super::{Handled, text};
use crate::support::stores::until;
use crate::support::{MINUTE, message};

fn settings(folder: &Path, keys: &str) -> Settings {
    let outbox = folder.join("outbox");
    toml::from_str(&format!("{keys}\n[OUTBOX]\nPATH = '{}'\n[CONSUMERS.orders]\n", outbox.display())).unwrap()
}

async fn pending(bus: &Bus) -> u64 {
    bus.outbox().unwrap().status().await.unwrap().counts.pending
}

#[tokio::test]
async fn a_bus_sends_to_itself_and_confirms() {
    for keys in ["BACKEND = 'memory'", "BACKEND = 'embedded'\nPATH = 'queue'"] {
        let folder = tempfile::tempdir().unwrap();
        let keys = keys.replace("'queue'", &format!("'{}'", folder.path().join("queue").display()));
        let keys = format!("{keys}\nDELIVERY = 'durable'\nACKNOWLEDGED = true");
        let bus = Bus::start(&settings(folder.path(), &keys)).await.unwrap();
        bus.messenger().send((0..50).map(|_| message("order.created")).collect()).await.unwrap();
        // Nothing can confirm yet, so nothing is sent.
        let Health::Down { reason } = bus.health().await else { panic!("it is up") };
        assert!(reason.contains("nothing receives confirmations"), "{reason}");
        let handled = Handled::default();
        let consumer = bus.consumer("orders", handled.router(StatusCode::OK)).unwrap();
        let consumer = tokio::spawn(consumer.into_future());
        until("all have left", || async { pending(&bus).await == 0 }).await;
        assert_eq!(handled.len(), 50);
        assert_eq!(bus.health().await, Health::Up);
        let address = text(&handled.all()[0], ACK).to_owned();
        let (name, rest) = address.rsplit_once('-').unwrap();
        assert!(
            !name.is_empty() && rest.len() == "12345678.ack".len() && rest.ends_with(".ack"),
            "{address}"
        );
        let left = bus.shutdown(MINUTE).await;
        assert!(left.is_clean() && left.stored == 0 && consumer.await.unwrap() == 0);
    }
}

/// Its sender would send it again, and each time it would be another dead letter of the consumer.
#[tokio::test]
async fn a_dead_letter_of_the_consumer_is_one_of_the_outbox_too() {
    for keys in ["BACKEND = 'memory'", "BACKEND = 'embedded'\nPATH = 'queue'"] {
        let folder = tempfile::tempdir().unwrap();
        let keys = keys.replace("'queue'", &format!("'{}'", folder.path().join("queue").display()));
        let keys = format!("{keys}\nDELIVERY = 'durable'\nACKNOWLEDGED = true\nACK_TIMEOUT = '50ms'");
        let bus = Bus::start(&settings(folder.path(), &keys)).await.unwrap();
        let handled = Handled::default();
        tokio::spawn(bus.consumer("orders", handled.router(StatusCode::NOT_FOUND)).unwrap().into_future());
        let sent = message("order.created");
        bus.messenger().send(vec![sent.clone()]).await.unwrap();
        let outbox = bus.outbox().unwrap();
        let dead = async || outbox.status().await.unwrap().counts.dead;
        until("it is dead", || async { dead().await == 1 }).await;
        let page = outbox.list(&Filter::state(EntryState::Dead), None, 10).await.unwrap();
        assert_eq!(page.entries[0].message.as_ref().unwrap().id(), sent.id());
        let reason = page.entries[0].failures.last().unwrap().reason.to_string();
        assert!(
            reason.contains("its consumer made a dead letter of it: ") && reason.contains("404"),
            "{reason}"
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!((handled.len(), pending(&bus).await), (1, 0), "it is not sent again");
        assert!(bus.shutdown(MINUTE).await.is_clean());
    }
}

#[tokio::test]
async fn the_address_of_a_durable_outbox_survives_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let mut addresses = Vec::new();
    for _ in 0..2 {
        let keys = "BACKEND = 'memory'\nDELIVERY = 'durable'\nACKNOWLEDGED = true";
        let bus = Bus::start(&settings(folder.path(), keys)).await.unwrap();
        let handled = Handled::default();
        tokio::spawn(bus.consumer("orders", handled.router(StatusCode::OK)).unwrap().into_future());
        bus.messenger().send(vec![message("a")]).await.unwrap();
        until("it came", || async { handled.len() == 1 }).await;
        addresses.push(text(&handled.all()[0], ACK).to_owned());
        assert!(bus.shutdown(MINUTE).await.is_clean());
    }
    assert_eq!(addresses[0], addresses[1]);
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_confirmations_that_cannot_come() {
    let folder = tempfile::tempdir().unwrap();
    let keys = "BACKEND = 'memory'\nDELIVERY = 'durable'\nACKNOWLEDGED = true\nACK_TIMEOUT = '1m'";
    let bus = Bus::start(&settings(folder.path(), keys)).await.unwrap();
    let handled = Handled::default();
    tokio::spawn(
        bus.consumer("orders", handled.router(StatusCode::SERVICE_UNAVAILABLE)).unwrap().into_future(),
    );
    bus.messenger().send(vec![message("a")]).await.unwrap();
    until("it came", || async { handled.len() == 1 }).await;
    let begun = std::time::Instant::now();
    let left = bus.shutdown(MINUTE).await;
    assert!(left.is_clean() && left.stored == 1, "{left:?}");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn acknowledged_needs_an_outbox_and_consumers_that_confirm() {
    for (keys, problem) in [
        ("ACKNOWLEDGED = true", "ACKNOWLEDGED needs an outbox, and DELIVERY is \"direct\""),
        ("ACKNOWLEDGED = true\nDELIVERY = 'background'", "write \"durable\""),
        ("ACK_TIMEOUT = 0", "ACK_TIMEOUT"),
        ("ACK_ADDRESS = 'orders/#'", "ACK_ADDRESS: \"orders.#\" is not a topic"),
        ("ACK_ADDRES = 'orders/ack'", "did you mean ACK_ADDRESS?"),
    ] {
        let error = match toml::from_str::<Settings>(keys) {
            Err(error) => error.to_string(),
            Ok(settings) => Bus::start(&settings).await.unwrap_err().to_string(),
        };
        assert!(error.contains(problem), "{keys}: {error}");
    }
    for keys in ["", "BACKEND = 'rhmsg'\nURLS = 'amqp://127.0.0.1:9'"] {
        let settings: Settings =
            toml::from_str(&format!("{keys}\nDELIVERY = 'durable'\nACKNOWLEDGED = true")).unwrap();
        let error = Bus::start(&settings).await.unwrap_err().to_string();
        assert!(error.contains("leave ACKNOWLEDGED out"), "{error}");
    }
}

#[tokio::test]
async fn without_allowed_addresses_nothing_is_confirmed() {
    let folder = tempfile::tempdir().unwrap();
    let bus = Bus::start(&settings(folder.path(), "BACKEND = 'memory'\nACK_ALLOWED = []")).await.unwrap();
    let handled = Handled::default();
    tokio::spawn(bus.consumer("orders", handled.router(StatusCode::OK)).unwrap().into_future());
    let asking = |address: &'static str| -> Message { message("a").with_header(ACK, address) };
    bus.messenger().send(vec![asking("orders/ack"), asking("orders/ack")]).await.unwrap();
    until("both came", || async { handled.len() >= 2 }).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(handled.len(), 2, "a confirmation would have come here too");
    assert!(bus.shutdown(MINUTE).await.is_clean());
}
