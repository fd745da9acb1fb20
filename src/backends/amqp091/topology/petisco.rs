//! The topology of petisco, as its versions 1.9 and 2.2 declare it.

use std::time::Duration;

use super::definition::Topology;
use super::fnmatch::matches;
use super::items::{Exchange, Queue};

/// The topology of a service of petisco, made by [`Topology::petisco`].
///
/// For each subscriber a queue, one for its retries and one for its dead letters.
///
/// ```
/// use tower_outbox::amqp091::{PetiscoSubscriber, Topology};
///
/// let mail = PetiscoSubscriber::event("user.created", "SendMailOnUserCreated");
/// let petisco = Topology::petisco("acme", "registration").with_subscriber(mail.clone()).with_store();
/// assert_eq!(petisco.queue_of(&mail), "acme.registration.1.event.user_created.send_mail_on_user_created");
/// let topology = petisco.topology();
/// assert_eq!((topology.exchanges.len(), topology.queues.len()), (5, 6));
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct PetiscoTopology {
    organization: String,
    exchange: String,
    subscribers: Vec<PetiscoSubscriber>,
    store: bool,
    ttl: PetiscoTtl,
    ttls: Vec<(String, PetiscoTtl)>,
}

impl Topology {
    /// The topology of a service that speaks as petisco does.
    pub fn petisco(organization: &str, service: &str) -> PetiscoTopology {
        PetiscoTopology::new(organization, service)
    }
}

impl PetiscoTopology {
    fn new(organization: &str, service: &str) -> Self {
        let exchange = format!("{organization}.{service}");
        let (subscribers, ttls) = (Vec::new(), Vec::new());
        let organization = organization.to_owned();
        Self { organization, exchange, subscribers, store: false, ttl: PetiscoTtl::default(), ttls }
    }

    /// Adds a subscriber.
    pub fn with_subscriber(mut self, subscriber: PetiscoSubscriber) -> Self {
        self.subscribers.push(subscriber);
        self
    }

    /// Adds the queue `store`, which every message comes to. Its name is the same in every organization: two of them
    /// cannot share a virtual host.
    pub fn with_store(mut self) -> Self {
        self.store = true;
        self
    }

    /// Sets how long messages wait in queues without a matching pattern; 5 s by default.
    pub fn with_ttl(mut self, ttl: PetiscoTtl) -> Self {
        self.ttl = ttl;
        self
    }

    /// Sets how long messages wait in queues whose name matches, `*mail*`; the first matching pattern counts.
    ///
    /// It is the name of the subscriber's queue, not of the one for its retries, but for `store` and `retry.store`.
    pub fn with_ttl_where(mut self, pattern: impl Into<String>, ttl: PetiscoTtl) -> Self {
        self.ttls.push((pattern.into(), ttl));
        self
    }

    /// The queue that a subscriber receives from.
    #[must_use]
    pub fn queue_of(&self, subscriber: &PetiscoSubscriber) -> String {
        format!("{}.{}", self.routing_key_of(subscriber), subscriber.name)
    }

    fn routing_key_of(&self, subscriber: &PetiscoSubscriber) -> String {
        let PetiscoSubscriber { kind, message, version, .. } = subscriber;
        format!("{}.{version}.{kind}.{message}", self.exchange)
    }

    fn ttl_of(&self, queue: &str) -> PetiscoTtl {
        self.ttls.iter().find(|(pattern, _)| matches(pattern, queue)).map_or(self.ttl, |(_, ttl)| *ttl)
    }

    /// All of it as plain values.
    #[must_use]
    pub fn topology(&self) -> Topology {
        let (main, retry, dead_letter) = self.exchanges();
        let mut topology = Topology::default()
            .with_exchange(Exchange::new(&main))
            .with_exchange(Exchange::new(&retry))
            .with_exchange(Exchange::new(&dead_letter));
        for subscriber in &self.subscribers {
            let (key, queue) = (self.routing_key_of(subscriber), self.queue_of(subscriber));
            let (retry_queue, dead_queue) = (format!("retry.{queue}"), format!("dead_letter.{queue}"));
            let ttl = self.ttl_of(&queue);
            topology = topology
                .with_queue(waiting(&queue, &dead_letter, &dead_queue, ttl.main))
                .with_queue(waiting(&retry_queue, &main, &retry_queue, ttl.retry))
                .with_queue(Queue::new(&dead_queue))
                .with_binding(&main, &queue, &key)
                .with_binding(&main, &queue, &retry_queue)
                .with_binding(&retry, &retry_queue, &retry_queue)
                .with_binding(&dead_letter, &dead_queue, &dead_queue);
        }
        if self.store { self.add_store(topology) } else { topology }
    }

    fn add_store(&self, topology: Topology) -> Topology {
        let (main, _, dead_letter) = self.exchanges();
        let store_retry = format!("retry.{}.store", self.organization);
        let store_dead = format!("dead_letter.{}.store", self.organization);
        let mut topology = topology
            .with_exchange(Exchange::new(&store_retry))
            .with_exchange(Exchange::new(&store_dead))
            .with_queue(waiting("store", &store_dead, "dead_letter.store", self.ttl_of("store").main))
            .with_queue(waiting("retry.store", &store_retry, "store", self.ttl_of("retry.store").retry))
            .with_queue(Queue::new("dead_letter.store"));
        for pattern in ["*.*.*.event.*", "*.*.*.command.*"] {
            topology = topology
                .with_binding(&main, "store", pattern)
                .with_binding(&store_retry, "store", pattern)
                .with_binding(&dead_letter, "dead_letter.store", format!("dead_letter.{pattern}"));
        }
        topology
            .with_binding(&main, "store", "retry.store")
            .with_binding(&main, "store", "store")
            .with_binding(&store_retry, "store", "store")
            .with_binding(&store_retry, "retry.store", "retry.store")
            .with_binding(&store_dead, "dead_letter.store", "dead_letter.store")
            .with_binding(&dead_letter, "dead_letter.store", "dead_letter.store")
    }

    /// For messages, for retries, for dead letters.
    fn exchanges(&self) -> (String, String, String) {
        let main = &self.exchange;
        (main.clone(), format!("retry.{main}"), format!("dead_letter.{main}"))
    }
}

/// A queue that messages leave by themselves.
fn waiting(name: &str, exchange: &str, routing_key: &str, ttl: Option<Duration>) -> Queue {
    let queue = Queue::new(name)
        .with_argument("x-dead-letter-exchange", exchange.to_owned())
        .with_argument("x-dead-letter-routing-key", routing_key.to_owned());
    match ttl.and_then(|ttl| i64::try_from(ttl.as_millis()).ok()).filter(|ttl| *ttl > 0) {
        Some(ttl) => queue.with_argument("x-message-ttl", ttl),
        None => queue,
    }
}

/// A subscriber to the events or commands of one name and version.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct PetiscoSubscriber {
    kind: &'static str,
    message: String,
    version: u32,
    name: String,
}

impl PetiscoSubscriber {
    /// A subscriber to an event of version 1. The event is `user.created` or `UserCreated`, the subscriber
    /// `send_mail` or `SendMail`.
    pub fn event(event: &str, name: &str) -> Self {
        Self { kind: "event", message: underscored(event), version: 1, name: underscored(name) }
    }

    /// The handler of a command of version 1, named as an event.
    pub fn command(command: &str, name: &str) -> Self {
        Self { kind: "command", ..Self::event(command, name) }
    }

    /// Sets the version of the event or command.
    pub fn with_version(mut self, version: u32) -> Self {
        self.version = version;
        self
    }
}

/// As petisco writes the name of a class: `_` before each capital but the first, all in lower case.
fn underscored(name: &str) -> String {
    let mut text = String::new();
    for (index, c) in name.chars().enumerate() {
        if c.is_ascii_uppercase() && index > 0 {
            text.push('_');
        }
        text.push(if c == '.' { '_' } else { c.to_ascii_lowercase() });
    }
    text
}

/// How long messages wait in queues of petisco; 5 s by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PetiscoTtl {
    /// How long a message waits for its subscriber before it is a dead letter; for ever if there is none.
    pub main: Option<Duration>,
    /// How long a message waits for its retry.
    pub retry: Option<Duration>,
}

impl PetiscoTtl {
    /// For its subscriber, and for its retry.
    #[must_use]
    pub fn new(main: Option<Duration>, retry: Option<Duration>) -> Self {
        Self { main, retry }
    }
}

impl Default for PetiscoTtl {
    fn default() -> Self {
        Self::new(Some(Duration::from_secs(5)), Some(Duration::from_secs(5)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Scalar;

    #[test]
    fn classes_are_named_as_petisco_names_them() {
        for (name, expected) in [
            ("SendMailOnUserCreated", "send_mail_on_user_created"),
            ("user.created", "user_created"),
            ("UserCreated", "user_created"),
            ("HTTPDone", "h_t_t_p_done"),
        ] {
            assert_eq!(underscored(name), expected);
        }
    }

    #[test]
    fn times_to_wait_go_by_the_name_of_the_queue() {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        let (mail, log) = (PetiscoSubscriber::event("a", "mail"), PetiscoSubscriber::event("a", "log"));
        let topology = Topology::petisco("acme", "s")
            .with_subscriber(mail)
            .with_subscriber(log)
            .with_store()
            .with_ttl(PetiscoTtl::new(seconds(9), seconds(8)))
            .with_ttl_where("*.mail", PetiscoTtl::new(None, seconds(1)))
            .with_ttl_where("retry.*", PetiscoTtl::new(seconds(2), seconds(3)))
            .with_ttl_where("*.mail", PetiscoTtl::default())
            .topology();
        let ttl = |name: &str| {
            let queue = topology.queues.iter().find(|queue| queue.name == name).unwrap();
            queue.arguments.iter().find(|(name, _)| name == "x-message-ttl").map(|(_, ttl)| ttl.clone())
        };
        assert_eq!(ttl("acme.s.1.event.a.mail"), None);
        assert_eq!(ttl("retry.acme.s.1.event.a.mail"), Some(Scalar::Int(1_000)));
        assert_eq!(ttl("acme.s.1.event.a.log"), Some(Scalar::Int(9_000)));
        assert_eq!(ttl("retry.acme.s.1.event.a.log"), Some(Scalar::Int(8_000)));
        assert_eq!((ttl("store"), ttl("retry.store")), (Some(Scalar::Int(9_000)), Some(Scalar::Int(3_000))));
    }
}
