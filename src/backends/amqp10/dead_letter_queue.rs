//! The dead letters at an address, and how they are requeued.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use fe2o3_amqp::Receiver;
use fe2o3_amqp::link::RecvError;
use fe2o3_amqp::link::delivery::DeliveryInfo;
use fe2o3_amqp::session::SessionHandle;
use fe2o3_amqp_types::messaging::{Batch, Data};
use tokio::sync::watch;
use tokio::time::timeout;

use super::connection::Connection;
use super::failure::receive_failure;
use super::incoming::scalar;
use super::original::{Original, joined};
use super::settings::Amqp10Settings;
use super::source::Amqp10Source;
use super::source_context::SourceContext;
use super::source_link::knows_modified;
use super::subscription::Amqp10Subscription;
use crate::backends::brokers::Demand;
use crate::message::headers;
use crate::messenger::Failure;
use crate::source::dead_letters::{DeadLetter, DeadLetterQueue, DeadLettersError, Target};
use crate::util::error::Chain;

/// The address is empty when no message arrives for so long. AMQP 1.0 has no count of messages.
const IDLE: Duration = Duration::from_secs(2);
/// How many messages are requested at a time.
const CREDIT: u32 = 100;
/// How long a peer may take to close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The dead letters at an address. A broker that knows `copy`, such as ActiveMQ, shows them to a browser; from others they are received and
/// not settled, so they return when the link ends.
pub(crate) struct Amqp10DeadLetters {
    context: Arc<SourceContext>,
    connection: Arc<Connection>,
    session: SessionHandle<()>,
    receiver: Receiver,
    current: Option<(Original, DeliveryInfo)>,
}

impl Amqp10DeadLetters {
    /// The dead letters of `amqp10`; with `looks` none of them will be settled.
    pub(crate) async fn open(
        settings: Amqp10Settings,
        address: String,
        looks: bool,
    ) -> Result<Box<dyn DeadLetterQueue>, DeadLettersError> {
        Self::of(Amqp10Source::new, settings, address, looks).await
    }

    /// The dead letters of `rhmsg`.
    pub(crate) async fn rhmsg(
        settings: Amqp10Settings,
        address: String,
        looks: bool,
    ) -> Result<Box<dyn DeadLetterQueue>, DeadLettersError> {
        Self::of(Amqp10Source::rhmsg, settings, address, looks).await
    }

    async fn of(
        source: fn(&Amqp10Settings, &Amqp10Subscription) -> Result<Amqp10Source, super::BrokersError>,
        settings: Amqp10Settings,
        address: String,
        looks: bool,
    ) -> Result<Box<dyn DeadLetterQueue>, DeadLettersError> {
        let subscription = Amqp10Subscription { browses: looks, ..Amqp10Subscription::new(address) };
        let source = source(&settings, &subscription);
        let context = source.map_err(|error| DeadLettersError::Broker(error.into()))?.context;
        let (_demand, mut demand) = watch::channel(Demand::Messages);
        let attached = context.attach(&mut demand).await;
        let (connection, session, receiver) = attached.map_err(|failure| match failure.is_transient() {
            true => DeadLettersError::Unreachable(Chain(failure.cause()).to_string()),
            false => broker(&failure),
        })?;
        Ok(Box::new(Self { context, connection, session, receiver, current: None }))
    }

    async fn received(&mut self) -> Result<Option<(DeliveryInfo, Bytes)>, Failure> {
        if self.receiver.credit() == 0 {
            self.receiver.set_credit(CREDIT).await.map_err(Failure::transient)?;
        }
        // The guard packs every message as data.
        let received = self.connection.lifeline().while_alive(self.receiver.recv::<Batch<Data>>());
        match timeout(IDLE, received).await {
            Err(_) => Ok(None),
            Ok(received) => match received? {
                Ok(delivery) => {
                    let (info, message) = delivery.into_parts();
                    let message = joined(message.body.into_iter());
                    self.connection.held().subtract(message.len());
                    Ok(Some((info, message)))
                }
                Err(RecvError::MessageDecode(dropped)) => Ok(Some((dropped.info, Bytes::new()))),
                Err(error) => Err(receive_failure(error)),
            },
        }
    }

    fn take_current(&mut self) -> Result<(Original, DeliveryInfo), DeadLettersError> {
        self.current.take().ok_or_else(|| DeadLettersError::Broker("no dead letter was taken".into()))
    }

    async fn accept(&mut self, info: DeliveryInfo) -> Result<(), DeadLettersError> {
        let accepted = self.receiver.accept(info).await;
        accepted.map_err(|error| DeadLettersError::Broker(error.into()))
    }
}

fn broker(failure: &Failure) -> DeadLettersError {
    DeadLettersError::Broker(Chain(failure.cause()).to_string().into())
}

/// All headers, as texts.
fn texts(original: &Original) -> BTreeMap<String, String> {
    let texts =
        original.headers().filter_map(|(name, value)| Some((name.clone(), scalar(value)?.to_string())));
    texts.collect()
}

/// The name of a queue in an address of ActiveMQ or RabbitMQ.
fn queue_of(address: &str) -> &str {
    let prefixes = ["queue://", "/amq/queue/", "/queues/", "/queue/"];
    prefixes.iter().find_map(|prefix| address.strip_prefix(prefix)).unwrap_or(address)
}

#[async_trait]
impl DeadLetterQueue for Amqp10DeadLetters {
    fn left(&self) -> Option<u64> {
        None
    }

    fn caution(&self) -> Option<String> {
        None
    }

    async fn next(&mut self) -> Result<Option<DeadLetter>, DeadLettersError> {
        self.current = None;
        let Some((info, message)) = self.received().await.map_err(|failure| broker(&failure))? else {
            return Ok(None);
        };
        let (original, message) = self.context.reader.read(message, !knows_modified(&self.receiver));
        let headers = texts(&original);
        let number = |name| headers.get(name).and_then(|number: &String| number.parse().ok());
        let letter = DeadLetter {
            message: message.map_err(|reason| reason.to_string()),
            reason: headers.get(headers::REASON).cloned(),
            attempts: number(headers::ATTEMPT).unwrap_or(0),
            failures: original.foreign_failures(&self.context.reader.address),
            headers,
        };
        self.current = Some((original, info));
        Ok(Some(letter))
    }

    /// A dead letter of ours names its address in a header.
    fn target(&self, also: &[String]) -> Result<Target, DeadLettersError> {
        let named = self.current.as_ref().and_then(|(original, _)| texts(original).remove(headers::QUEUE));
        let named = named.ok_or(DeadLettersError::NoTarget)?;
        // A message for a pattern would go to every queue that fits it.
        if named.contains(['>', '*', '#']) {
            return Err(DeadLettersError::NoTarget);
        }
        let base = queue_of(&self.context.reader.address).strip_suffix(".dead");
        match base == Some(queue_of(&named)) || also.contains(&named) {
            true => Ok(Target::Address { address: named }),
            false => Err(DeadLettersError::Foreign(named)),
        }
    }

    fn named(&self, to: &str) -> Target {
        Target::Address { address: to.to_owned() }
    }

    async fn requeue(&mut self, target: Target) -> Result<(), DeadLettersError> {
        let (original, info) = self.take_current()?;
        let refused = |target, reason: String| DeadLettersError::NotTaken { target, reason };
        let address = match &target {
            Target::Address { address: named }
            | Target::Queue { queue: named }
            | Target::Subject { subject: named, .. } => named.clone(),
            Target::Exchange { .. } => {
                let why = "AMQP 1.0 has no exchanges; give --to".to_owned();
                return Err(refused(target, why));
            }
        };
        let sent = self.connection.batch(false).deliver(address, original.into_requeued()).await;
        sent.map_err(|failure| refused(target, Chain(failure.cause()).to_string()))?;
        self.accept(info).await
    }

    async fn remove(&mut self) -> Result<(), DeadLettersError> {
        let (_, info) = self.take_current()?;
        self.accept(info).await
    }

    async fn close(self: Box<Self>) {
        let Self { connection, mut session, receiver, .. } = *self;
        // RabbitMQ 3.10 replies with a meaningless error.
        let _ = timeout(CLOSE_TIMEOUT, receiver.close()).await;
        let _ = timeout(CLOSE_TIMEOUT, session.end()).await;
        let _ = timeout(CLOSE_TIMEOUT, connection.close()).await;
    }
}
