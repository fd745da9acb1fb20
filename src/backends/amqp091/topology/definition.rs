//! Exchanges, queues and bindings as plain values, and what is done with them.

use super::declare::{Broker, Found};
use super::error::TopologyError;
use super::items::{Binding, Exchange, Queue};
use super::plan::Plan;
use crate::backends::amqp091::settings::Amqp091Settings;

/// Exchanges, queues and bindings to declare on a broker.
///
/// ```
/// use tower_outbox::amqp091::{Exchange, Queue, Topology};
///
/// let topology = Topology::default()
///     .with_exchange(Exchange::new("orders"))
///     .with_queue(Queue::new("invoices").with_argument("x-message-ttl", 60_000))
///     .with_binding("orders", "invoices", "order.*");
/// assert_eq!(topology.queues.len(), 1);
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Topology {
    /// In the order in which they are declared.
    pub exchanges: Vec<Exchange>,
    /// In the order in which they are declared, after the exchanges.
    pub queues: Vec<Queue>,
    /// Made last.
    pub bindings: Vec<Binding>,
}

impl Topology {
    /// Adds an exchange.
    #[must_use]
    pub fn with_exchange(mut self, exchange: Exchange) -> Self {
        self.exchanges.push(exchange);
        self
    }

    /// Adds a queue.
    #[must_use]
    pub fn with_queue(mut self, queue: Queue) -> Self {
        self.queues.push(queue);
        self
    }

    /// Adds a binding.
    #[must_use]
    pub fn with_binding(
        mut self,
        exchange: impl Into<String>,
        queue: impl Into<String>,
        routing_key: impl Into<String>,
    ) -> Self {
        self.bindings.push(Binding::new(exchange, queue, routing_key));
        self
    }

    /// Creates missing parts on the first broker that responds; existing parts with the same properties stay.
    ///
    /// # Errors
    /// [`TopologyError`]; parts created before the fault stay.
    ///
    /// # Cancel safety
    /// If it is dropped, some parts are created. It can be called again.
    pub async fn apply(&self, settings: &Amqp091Settings) -> Result<(), TopologyError> {
        self.check()?;
        let mut broker = Broker::connect(settings).await?;
        let applied = self.apply_on(&mut broker).await;
        broker.close().await;
        applied
    }

    /// Returns what [`apply`](Self::apply) would create, and the obstacles. It changes nothing.
    ///
    /// # Errors
    /// [`TopologyError`], when it cannot be known.
    ///
    /// # Cancel safety
    /// Nothing happens when it is dropped.
    pub async fn plan(&self, settings: &Amqp091Settings) -> Result<Plan, TopologyError> {
        self.check()?;
        let mut broker = Broker::connect(settings).await?;
        let plan = self.plan_on(&mut broker).await;
        broker.close().await;
        plan
    }

    /// Deletes its queues, **with the messages in them**, and its exchanges, but for those named `amq.*`.
    ///
    /// # Errors
    /// [`TopologyError`]; parts deleted before the fault are gone.
    ///
    /// # Cancel safety
    /// If it is dropped, some parts are deleted. It can be called again.
    pub async fn clear(&self, settings: &Amqp091Settings) -> Result<(), TopologyError> {
        self.check()?;
        let mut broker = Broker::connect(settings).await?;
        let cleared = self.clear_on(&mut broker).await;
        broker.close().await;
        cleared
    }

    /// Rejects names that are too long for AMQP.
    fn check(&self) -> Result<(), TopologyError> {
        let exchanges = self.exchanges.iter().map(|exchange| &exchange.name);
        let queues = self.queues.iter().flat_map(|queue| {
            std::iter::once(&queue.name).chain(queue.arguments.iter().map(|(name, _)| name))
        });
        let bindings = self
            .bindings
            .iter()
            .flat_map(|binding| [&binding.exchange, &binding.queue, &binding.routing_key]);
        match exchanges.chain(queues).chain(bindings).find(|name| name.len() > 255) {
            Some(name) => Err(TopologyError::Name(name.clone())),
            None => Ok(()),
        }
    }

    async fn apply_on(&self, broker: &mut Broker) -> Result<(), TopologyError> {
        for exchange in &self.exchanges {
            broker.declare_exchange(exchange).await?;
        }
        for queue in &self.queues {
            broker.declare_queue(queue).await?;
        }
        for binding in &self.bindings {
            broker.bind(binding).await?;
        }
        Ok(())
    }

    async fn plan_on(&self, broker: &mut Broker) -> Result<Plan, TopologyError> {
        let mut plan = Plan::default();
        for exchange in &self.exchanges {
            match broker.find_exchange(exchange).await? {
                Found::Missing => plan.exchanges.push(exchange.clone()),
                Found::Differs(reason) => plan.differing.push((exchange.to_string(), reason)),
                Found::Same => {}
            }
        }
        for queue in &self.queues {
            match broker.find_queue(queue).await? {
                Found::Missing => plan.queues.push(queue.clone()),
                Found::Differs(reason) => plan.differing.push((queue.to_string(), reason)),
                Found::Same => {}
            }
        }
        let is_new = |binding: &&Binding| {
            plan.exchanges.iter().any(|exchange| exchange.name == binding.exchange)
                || plan.queues.iter().any(|queue| queue.name == binding.queue)
        };
        plan.bindings = self.bindings.iter().filter(is_new).cloned().collect();
        Ok(plan)
    }

    async fn clear_on(&self, broker: &mut Broker) -> Result<(), TopologyError> {
        for queue in &self.queues {
            broker.delete_queue(queue).await?;
        }
        for exchange in self.exchanges.iter().filter(|exchange| !exchange.name.starts_with("amq.")) {
            broker.delete_exchange(exchange).await?;
        }
        Ok(())
    }
}
