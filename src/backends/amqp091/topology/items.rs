//! The parts of a topology.

use std::fmt;

use crate::message::Scalar;

/// An exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Exchange {
    /// Its name.
    pub name: String,
    /// How it routes; [`ExchangeKind::Topic`] by default.
    pub kind: ExchangeKind,
    /// Whether it survives a restart of the broker; yes by default.
    pub durable: bool,
}

/// How an exchange routes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExchangeKind {
    /// By patterns of the routing key.
    #[default]
    Topic,
    /// By the routing key.
    Direct,
    /// To every queue.
    Fanout,
    /// By headers.
    Headers,
}

impl Exchange {
    /// A durable topic exchange.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), kind: ExchangeKind::default(), durable: true }
    }

    /// Sets how it routes.
    #[must_use]
    pub fn with_kind(mut self, kind: ExchangeKind) -> Self {
        self.kind = kind;
        self
    }
}

impl fmt::Display for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the exchange {:?}", self.name)
    }
}

/// A queue.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Queue {
    /// Its name.
    pub name: String,
    /// Whether it survives a restart of the broker; yes by default.
    pub durable: bool,
    /// Its arguments, such as `x-message-ttl`.
    pub arguments: Vec<(String, Scalar)>,
}

impl Queue {
    /// A durable queue without arguments.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), durable: true, arguments: Vec::new() }
    }

    /// Adds an argument.
    #[must_use]
    pub fn with_argument(mut self, name: impl Into<String>, value: impl Into<Scalar>) -> Self {
        self.arguments.push((name.into(), value.into()));
        self
    }
}

impl fmt::Display for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the queue {:?}", self.name)
    }
}

/// A route from an exchange to a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Binding {
    /// The exchange.
    pub exchange: String,
    /// The queue.
    pub queue: String,
    /// The routing key; for a topic exchange a pattern, with `*` for one segment and `#` for any number.
    pub routing_key: String,
}

impl Binding {
    /// From this exchange to this queue.
    pub fn new(
        exchange: impl Into<String>,
        queue: impl Into<String>,
        routing_key: impl Into<String>,
    ) -> Self {
        Self { exchange: exchange.into(), queue: queue.into(), routing_key: routing_key.into() }
    }
}

impl fmt::Display for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the binding of {:?} to {:?} with {:?}", self.queue, self.exchange, self.routing_key)
    }
}
