//! The real petisco 2.2.3 is the peer.

mod receiving;
mod requeue;
mod topology;
mod wire;

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::timeout;
use tower_outbox::amqp091::{Amqp091Settings, PetiscoSubscriber, PetiscoTopology, PetiscoTtl, Topology};
use tower_outbox::envelope::Envelope;

use crate::peers::{Brokers, Peer, unique};
use crate::support::stores::STUCK;

/// A virtual host of its own: some queues of petisco have the same name everywhere.
struct Vhost<'a> {
    brokers: &'a Brokers,
    name: String,
}

impl<'a> Vhost<'a> {
    async fn create(brokers: &'a Brokers) -> Self {
        let vhost = Self { brokers, name: unique("petisco") };
        vhost.manage("create").await;
        vhost
    }

    async fn manage(&self, command: &str) -> Vec<Value> {
        let url = self.brokers.get("RABBIT1_MANAGEMENT");
        self.brokers.python("rabbit_vhost.py", &[url, command, &self.name]).await
    }

    /// Its exchanges, queues with arguments, and bindings.
    async fn describe(&self) -> Value {
        self.manage("describe").await.remove(0)
    }

    async fn delete(self) {
        self.manage("delete").await;
    }

    fn url(&self) -> String {
        format!("{}/{}", self.brokers.get("RABBIT1_AMQP"), self.name)
    }

    /// How our side speaks there.
    fn settings(&self) -> Amqp091Settings {
        let mut settings = Amqp091Settings::new([self.url()]);
        settings.broker.envelope = Envelope::Petisco;
        settings.broker.organization = Some("acme".to_owned());
        settings.broker.service = Some("registration".to_owned());
        settings.mandatory = true;
        settings
    }

    /// Runs petisco there to its end.
    async fn petisco(&self, args: &[&str]) -> Vec<Value> {
        let url = self.url();
        self.brokers.python("petisco_peer.py", &[&[url.as_str()], args].concat()).await
    }

    /// The consumer of petisco, which fails the first `fail` messages.
    async fn petisco_consumer(&self, retries: u32, fail: u32) -> Peer {
        self.petisco_consume(&[&retries.to_string(), &fail.to_string()]).await
    }

    async fn petisco_consume(&self, args: &[&str]) -> Peer {
        let url = self.url();
        let args = [&[url.as_str(), "consume"], args].concat();
        let (peer, ready) = self.brokers.start("petisco_peer.py", &args).await;
        assert_eq!(ready, json!({"event": "ready"}));
        peer
    }

    /// Waits until this many messages are in a queue.
    async fn until_in(&self, queue: &str, messages: u64) {
        let look = async {
            while self.brokers.python("rabbit.py", &[&self.url(), "count", queue]).await[0] != messages {}
        };
        timeout(STUCK, look).await.unwrap_or_else(|_| panic!("{messages} in {queue}"));
    }

    /// The messages in a queue, which are gone then.
    async fn drain(&self, queue: &str) -> Vec<Value> {
        self.brokers.python("rabbit.py", &[&self.url(), "drain", queue]).await
    }
}

fn mail() -> PetiscoSubscriber {
    PetiscoSubscriber::event("UserCreated", "SendMailOnUserCreated")
}

fn persist() -> PetiscoSubscriber {
    PetiscoSubscriber::command("PersistUser", "PersistUserHandler")
}

/// How long messages wait, in tests that do not measure it: for their subscriber for ever, for a retry 100 ms.
fn lasting() -> PetiscoTopology {
    registration().with_ttl(PetiscoTtl::new(None, Some(Duration::from_millis(100))))
}

/// The messages of the peer.
fn registration() -> PetiscoTopology {
    Topology::petisco("acme", "registration").with_subscriber(mail()).with_subscriber(persist()).with_store()
}
