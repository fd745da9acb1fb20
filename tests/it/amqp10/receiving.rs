//! Receiving, at ActiveMQ and RabbitMQ.

mod answers;
mod links;
mod shapes;

use std::time::Duration;

use tokio::time::timeout;
use tower_outbox::amqp10::{Amqp10, Amqp10Settings, Amqp10Source, Amqp10Subscription};
use tower_outbox::source::{Source, SourceError, Unsettled};
use tower_outbox::{Message, Messenger};

use crate::peers::{Brokers, RabbitQueue, numbered, unique};

const LONG: Duration = Duration::from_secs(20);
/// Long enough to say that nothing comes.
const SHORT: Duration = Duration::from_millis(500);

/// A queue of its own at one broker.
struct Queue {
    settings: Amqp10Settings,
    address: String,
    /// Whether the broker counts attempts.
    counts: bool,
}

impl Queue {
    fn activemq(brokers: &Brokers) -> Self {
        let settings = Amqp10Settings::new([brokers.get("ACTIVEMQ_AMQP")]);
        Self { settings, address: format!("queue://{}", unique("receiving")), counts: true }
    }

    async fn rabbitmq(brokers: &Brokers) -> Self {
        let queue = RabbitQueue::declare(brokers, "RABBIT1_AMQP", &unique("receiving")).await;
        let settings = Amqp10Settings::new([brokers.get("RABBIT1_AMQP")]);
        Self { settings, address: queue.address(), counts: false }
    }

    /// One at each kind of broker.
    async fn at_each(brokers: &Brokers, test: &str) -> Vec<Self> {
        let mut queues = vec![Self::rabbitmq(brokers).await];
        if !brokers.without_activemq(test) {
            queues.push(Self::activemq(brokers));
        }
        queues
    }

    fn subscription(&self) -> Amqp10Subscription {
        Amqp10Subscription::new(&self.address)
    }

    fn source(&self) -> Amqp10Source {
        self.source_of(&self.subscription())
    }

    fn source_of(&self, subscription: &Amqp10Subscription) -> Amqp10Source {
        Amqp10Source::new(&self.settings, subscription).unwrap()
    }

    /// Another queue at the same broker.
    async fn another(&self, brokers: &Brokers) -> Self {
        if self.counts { Self::activemq(brokers) } else { Self::rabbitmq(brokers).await }
    }

    async fn send(&self, batch: Vec<Message>) {
        send(&self.settings, &self.address, batch).await;
    }
}

async fn send(settings: &Amqp10Settings, address: &str, batch: Vec<Message>) {
    let mut settings = settings.clone();
    settings.address = Some(address.to_owned());
    let messenger = Amqp10::new(&settings).unwrap();
    messenger.send(batch).await.unwrap();
    messenger.close(LONG).await;
}

/// Waits until what is sent to this topic comes to all of them.
async fn attached(sources: &[&Amqp10Source], settings: &Amqp10Settings, topic: &str) {
    for source in sources {
        let probe = async || {
            send(settings, topic, numbered("probe", 1)).await;
            timeout(SHORT, source.receive(1)).await.is_ok_and(|received| !received.unwrap().is_empty())
        };
        timeout(LONG, async { while !probe().await {} }).await.expect("attached in time");
    }
    for source in sources {
        while let Ok(received) = timeout(SHORT, source.receive(16)).await {
            for delivery in received.unwrap() {
                delivery.ack().await.unwrap();
            }
        }
    }
}

async fn next(source: &Amqp10Source) -> Unsettled {
    let mut deliveries = timeout(LONG, source.receive(1)).await.expect("a message in time").unwrap();
    assert_eq!(deliveries.len(), 1);
    deliveries.remove(0)
}

async fn nothing_comes(source: &Amqp10Source) {
    let received = timeout(SHORT, source.receive(1)).await;
    assert!(received.is_err(), "{received:?}");
}

fn seq(delivery: &Unsettled) -> u64 {
    seq_of(delivery.view().unwrap().message())
}

fn seq_of(message: &Message) -> u64 {
    serde_json::from_slice::<serde_json::Value>(message.body()).unwrap()["seq"].as_u64().unwrap()
}

async fn failure(source: &Amqp10Source) -> String {
    let error = timeout(LONG, source.receive(1)).await.expect("an error in time").unwrap_err();
    let SourceError::Unavailable(cause) = error else { panic!("{error:?}") };
    cause.to_string()
}
