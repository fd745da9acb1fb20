//! A message leaves the outbox when its consumer has confirmed it.

mod brokers;
mod bus;
mod confirming;
mod killed;
mod mqfactory;
mod proving;
mod relaying;
mod sending;

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::post;
use tower_outbox::acknowledging::{
    AckAddress, Acknowledging, AcknowledgingSettings, Confirmations, Confirming, Taking,
};
use tower_outbox::message::headers::CONFIRM;
use tower_outbox::testing::Memory;
use tower_outbox::{Consumer, Delivery, Message, Messenger};

use crate::support::messengers::fake;

/// The messages that a handler got, in order.
#[derive(Clone, Default)]
pub struct Handled(Arc<Mutex<Vec<Message>>>);

impl Handled {
    pub fn all(&self) -> Vec<Message> {
        self.0.lock().unwrap().clone()
    }

    pub fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    /// A service that takes down each message and answers with this status.
    pub fn router(&self, status: StatusCode) -> Router {
        let handled = self.clone();
        Router::new().fallback(post(move |delivery: Delivery| async move {
            handled.0.lock().unwrap().push(delivery.message().clone());
            status
        }))
    }
}

fn settings(address: &str) -> AcknowledgingSettings {
    AcknowledgingSettings::new(AckAddress::new(address).unwrap())
}

fn text<'a>(message: &'a Message, header: &str) -> &'a str {
    message.header(header).and_then(|value| value.as_str()).unwrap_or_default()
}

/// The confirmation of a message, as a peer sends it.
fn confirmation(message: &Message, address: &'static str) -> Message {
    Message::json(address, &serde_json::json!({})).unwrap().with_header(CONFIRM, message.id().to_string())
}

/// An acknowledging messenger over one queue; `confirm` decides about the confirmations of its consumer.
struct OneQueue {
    messenger: Arc<dyn Messenger>,
    confirmations: Confirmations,
    queue: Memory,
    handled: Handled,
}

impl OneQueue {
    fn new<F>(confirm: F) -> Self
    where
        F: Fn(&Message) -> bool + Send + Sync + 'static,
    {
        let queue = Memory::new();
        let (messenger, confirmations) = Acknowledging::new(queue.clone(), settings("orders.ack"));
        let back = queue.clone();
        let back = fake(move |batch: Vec<Message>| {
            let (back, batch) =
                (back.clone(), batch.into_iter().filter(|message| confirm(message)).collect());
            async move { back.send(batch).await }
        });
        let handled = Handled::default();
        let source = Confirming::new(Taking::new(queue.clone(), &confirmations), back);
        tokio::spawn(Consumer::new(source, handled.router(StatusCode::NO_CONTENT)).into_future());
        Self { messenger: Arc::new(messenger), confirmations, queue, handled }
    }
}
