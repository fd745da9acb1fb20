//! One step at a time on one broker.

use std::fmt::Display;

use lapin::options::{
    ExchangeDeclareOptions, ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::FieldTable;
use lapin::{Channel, ErrorKind};

use super::super::any_broker;
use super::super::connection::Connection;
use super::super::outgoing::header;
use super::super::settings::Amqp091Settings;
use super::error::TopologyError;
use super::items::{Binding, Exchange, ExchangeKind, Queue};

/// A broker, by a channel that is opened anew after a fault.
pub(super) struct Broker {
    connection: Connection,
    channel: Option<Channel>,
}

/// The existing exchange or queue of a name.
pub(super) enum Found {
    Missing,
    Same,
    /// With the text of the broker.
    Differs(String),
}

impl Broker {
    pub(super) async fn connect(settings: &Amqp091Settings) -> Result<Self, TopologyError> {
        let (connection, _) = any_broker::connect(settings).await?.map_err(TopologyError::Unreachable)?;
        Ok(Self { connection, channel: None })
    }

    pub(super) async fn close(self) {
        self.connection.close().await;
    }

    async fn channel(&mut self) -> lapin::Result<&Channel> {
        let channel = match self.channel.take().filter(|channel| channel.status().connected()) {
            Some(channel) => channel,
            None => self.connection.new_channel().await?,
        };
        Ok(self.channel.insert(channel))
    }

    pub(super) async fn declare_exchange(&mut self, exchange: &Exchange) -> Result<(), TopologyError> {
        self.exchange(exchange, false).await.map_err(|error| fault(exchange, &error))
    }

    pub(super) async fn declare_queue(&mut self, queue: &Queue) -> Result<(), TopologyError> {
        self.queue(queue, false).await.map_err(|error| fault(queue, &error))
    }

    /// Looks first: declaring an existing exchange with the same properties changes nothing.
    pub(super) async fn find_exchange(&mut self, exchange: &Exchange) -> Result<Found, TopologyError> {
        match self.exchange(exchange, true).await {
            Ok(()) => found(self.declare_exchange(exchange).await),
            Err(error) if soft(&error) == Some(AMQPSoftError::NOTFOUND) => Ok(Found::Missing),
            Err(error) => Err(fault(exchange, &error)),
        }
    }

    /// As [`find_exchange`](Self::find_exchange).
    pub(super) async fn find_queue(&mut self, queue: &Queue) -> Result<Found, TopologyError> {
        match self.queue(queue, true).await {
            Ok(()) => found(self.declare_queue(queue).await),
            Err(error) if soft(&error) == Some(AMQPSoftError::NOTFOUND) => Ok(Found::Missing),
            Err(error) => Err(fault(queue, &error)),
        }
    }

    async fn exchange(&mut self, exchange: &Exchange, passive: bool) -> lapin::Result<()> {
        let kind = match exchange.kind {
            ExchangeKind::Topic => lapin::ExchangeKind::Topic,
            ExchangeKind::Direct => lapin::ExchangeKind::Direct,
            ExchangeKind::Fanout => lapin::ExchangeKind::Fanout,
            ExchangeKind::Headers => lapin::ExchangeKind::Headers,
        };
        let options = ExchangeDeclareOptions {
            passive,
            durable: exchange.durable,
            ..ExchangeDeclareOptions::default()
        };
        let name = exchange.name.as_str().into();
        self.channel().await?.exchange_declare(name, kind, options, FieldTable::default()).await
    }

    async fn queue(&mut self, queue: &Queue, passive: bool) -> lapin::Result<()> {
        let mut arguments = FieldTable::default();
        for (name, value) in &queue.arguments {
            arguments.insert(name.as_str().into(), header(value));
        }
        let options =
            QueueDeclareOptions { passive, durable: queue.durable, ..QueueDeclareOptions::default() };
        self.channel().await?.queue_declare(queue.name.as_str().into(), options, arguments).await.map(drop)
    }

    pub(super) async fn bind(&mut self, binding: &Binding) -> Result<(), TopologyError> {
        let bind = async {
            self.channel()
                .await?
                .queue_bind(
                    binding.queue.as_str().into(),
                    binding.exchange.as_str().into(),
                    binding.routing_key.as_str().into(),
                    QueueBindOptions::default(),
                    FieldTable::default(),
                )
                .await
        };
        bind.await.map_err(|error| fault(binding, &error))
    }

    pub(super) async fn delete_queue(&mut self, queue: &Queue) -> Result<(), TopologyError> {
        let delete = async {
            let name = queue.name.as_str().into();
            self.channel().await?.queue_delete(name, QueueDeleteOptions::default()).await
        };
        delete.await.map(drop).map_err(|error| fault(queue, &error))
    }

    pub(super) async fn delete_exchange(&mut self, exchange: &Exchange) -> Result<(), TopologyError> {
        let delete = async {
            let name = exchange.name.as_str().into();
            self.channel().await?.exchange_delete(name, ExchangeDeleteOptions::default()).await
        };
        delete.await.map_err(|error| fault(exchange, &error))
    }
}

fn found(declared: Result<(), TopologyError>) -> Result<Found, TopologyError> {
    match declared {
        Ok(()) => Ok(Found::Same),
        Err(TopologyError::Differs { reason, .. }) => Ok(Found::Differs(reason)),
        Err(error) => Err(error),
    }
}

fn fault(what: &impl Display, error: &lapin::Error) -> TopologyError {
    let what = what.to_string();
    let reason = match error.kind() {
        ErrorKind::ProtocolError(amqp) => amqp.get_message().to_string(),
        _ => error.to_string(),
    };
    match soft(error) {
        Some(AMQPSoftError::PRECONDITIONFAILED) => TopologyError::Differs { what, reason },
        _ => TopologyError::Refused { what, reason },
    }
}

fn soft(error: &lapin::Error) -> Option<AMQPSoftError> {
    match error.kind() {
        ErrorKind::ProtocolError(amqp) => match amqp.kind() {
            AMQPErrorKind::Soft(soft) => Some(soft.clone()),
            AMQPErrorKind::Hard(_) => None,
        },
        _ => None,
    }
}
