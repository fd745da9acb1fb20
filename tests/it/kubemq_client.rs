//! The backend `kubemq`, against a server with the quirks of the real one and with faults that it cannot show.

mod crash;
mod events;
pub(crate) mod face;
pub(crate) mod imitation;
pub mod proxy;
mod receiving;
mod requests;
mod sending;
mod settings;
mod tls;

use std::sync::Arc;
use std::time::Duration;

use tower_outbox::kubemq_client::{Kubemq, KubemqSettings, KubemqSource, KubemqSubscription};
use tower_outbox::source::{Source, Unsettled};
use tower_outbox::{Message, Messenger};

use self::imitation::Imitation;

/// Long enough to call something stuck.
const STUCK: Duration = Duration::from_secs(60);

fn settings(server: &Imitation) -> KubemqSettings {
    KubemqSettings::new([server.url()])
}

fn messenger(settings: &KubemqSettings) -> Arc<Kubemq> {
    Arc::new(Kubemq::new(settings).unwrap())
}

fn source(settings: &KubemqSettings, subscription: &KubemqSubscription) -> KubemqSource {
    KubemqSource::new(settings, subscription).unwrap()
}

fn message(body: &str) -> Message {
    Message::new("order.created", body.to_owned()).unwrap()
}

fn numbered(range: std::ops::Range<u64>) -> Vec<Message> {
    range.map(|n| message(&n.to_string())).collect()
}

fn body(delivery: &Unsettled) -> String {
    String::from_utf8(delivery.view().unwrap().message().body().to_vec()).unwrap()
}

async fn receive(source: &impl Source, count: usize) -> Vec<Unsettled> {
    let mut received = Vec::new();
    while received.len() < count {
        let more = tokio::time::timeout(STUCK, source.receive(count - received.len())).await;
        received.extend(more.expect("no message comes").expect("messages are received"));
    }
    received
}

async fn receive_one(source: &impl Source) -> Unsettled {
    receive(source, 1).await.remove(0)
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(STUCK, wait).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

async fn send(messenger: &impl Messenger, messages: Vec<Message>) {
    messenger.send(messages).await.unwrap();
}
