//! The relay of an outbox, which sends to consumers that confirm late or never.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tower_outbox::acknowledging::{Acknowledging, Confirming, Taking};
use tower_outbox::outbox::{Breaker, Outbox, OutboxHandle, RelaySettings};
use tower_outbox::store::{EmbeddedStore, EmbeddedStoreSettings, Filter};
use tower_outbox::testing::Memory;
use tower_outbox::{Consumer, Message, Messenger};

use super::{Handled, settings, text};
use crate::support::message;
use crate::support::messengers::fake;
use crate::support::stores::until;

struct Relayed {
    outbox: OutboxHandle,
    messenger: Arc<dyn Messenger>,
    handled: Handled,
    _folder: tempfile::TempDir,
}

/// An outbox over a queue whose consumer confirms messages but those of the topic `deaf`.
async fn relayed(timeout: Duration, relay: RelaySettings) -> Relayed {
    let (folder, queue) = (tempfile::tempdir().unwrap(), Memory::new());
    let (messenger, confirmations) =
        Acknowledging::new(queue.clone(), settings("orders.ack").with_timeout(timeout));
    let handled = Handled::default();
    let (back, seen) = (queue.clone(), handled.clone());
    let back = fake(move |batch: Vec<Message>| {
        let all = seen.all();
        let is_deaf =
            |id: &str| all.iter().any(|it| it.id().to_string() == id && it.topic().as_str() == "deaf");
        let batch = batch.into_iter().filter(|it| !is_deaf(text(it, "confirm"))).collect();
        let back = back.clone();
        async move { back.send(batch).await }
    });
    let source = Confirming::new(Taking::new(queue, &confirmations), back);
    tokio::spawn(Consumer::new(source, handled.router(axum::http::StatusCode::OK)).into_future());
    let store = EmbeddedStore::open(&EmbeddedStoreSettings::new(folder.path().join("outbox"))).await.unwrap();
    let (outbox, relay) = Outbox::new(messenger, Arc::new(store), relay);
    let handle = outbox.handle();
    tokio::spawn(relay.into_future());
    Relayed { outbox: handle, messenger: Arc::new(outbox), handled, _folder: folder }
}

impl Relayed {
    async fn pending(&self) -> u64 {
        self.outbox.status().await.unwrap().counts.pending
    }
}

#[tokio::test]
async fn a_missing_confirmation_delays_no_other_message() {
    let it = relayed(Duration::from_secs(60), RelaySettings::default().with_one_by_one(true)).await;
    let mut batch: Vec<_> = (0..200).map(|_| message("a")).collect();
    batch[100] = message("deaf");
    it.messenger.send(batch).await.unwrap();
    until("all but one have left", || async { it.pending().await == 1 }).await;
    assert_eq!(it.handled.len(), 200, "each once");
    let page = it.outbox.list(&Filter::default(), None, 10).await.unwrap();
    assert_eq!(page.entries[0].message.as_ref().unwrap().topic().as_str(), "deaf");
}

#[tokio::test]
async fn a_deaf_consumer_does_not_open_the_breaker() {
    let relay = RelaySettings::default().with_one_by_one(true).with_max_attempts(3);
    let it = relayed(Duration::from_millis(50), relay).await;
    it.messenger.send((0..20).map(|_| message("deaf")).collect()).await.unwrap();
    until("they are given up", || async {
        let status = it.outbox.status().await.unwrap();
        assert_eq!(status.breaker, Breaker::Closed);
        status.counts.dead == 20
    })
    .await;
    assert_eq!(it.handled.len(), 60, "three attempts each");
    let page = it.outbox.list(&Filter::default(), None, 1).await.unwrap();
    let reason = page.entries[0].failures.last().unwrap().reason.to_string();
    assert!(
        reason.contains("given up after 3 attempts") && reason.contains("not confirmed it within 50ms"),
        "{reason}"
    );
    it.messenger.send(vec![message("a")]).await.unwrap();
    until("the next one leaves", || async { it.pending().await == 0 }).await;
}

#[tokio::test]
async fn it_is_sent_again_with_the_same_id() {
    let it = relayed(Duration::from_millis(50), RelaySettings::default().with_one_by_one(true)).await;
    let sent = message("deaf");
    it.messenger.send(vec![sent.clone()]).await.unwrap();
    until("it came three times", || async { it.handled.len() >= 3 }).await;
    assert!(it.handled.all().iter().all(|message| message.id() == sent.id()));
}

#[tokio::test]
async fn messages_of_a_key_stay_in_order() {
    let it = relayed(Duration::from_secs(60), RelaySettings::default().with_one_by_one(true)).await;
    let batch = (0..300).map(|n| Message::json("a", &n).unwrap().with_key(format!("key-{}", n % 3)));
    for chunk in batch.collect::<Vec<_>>().chunks(50) {
        it.messenger.send(chunk.to_vec()).await.unwrap();
        sleep(Duration::from_millis(3)).await;
    }
    until("all have left", || async { it.pending().await == 0 }).await;
    for key in ["key-0", "key-1", "key-2"] {
        let of_key: Vec<u32> = it
            .handled
            .all()
            .iter()
            .filter(|message| message.key() == Some(key))
            .map(|message| serde_json::from_slice(message.body()).unwrap())
            .collect();
        assert_eq!(of_key.len(), 100);
        assert!(of_key.is_sorted(), "{key}: {of_key:?}");
    }
}
