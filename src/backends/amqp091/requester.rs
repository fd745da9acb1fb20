//! Sending requests over RabbitMQ's direct reply-to.

use std::collections::HashMap;
use std::fmt;
use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures_util::stream::{FuturesUnordered, StreamExt};
use lapin::message::Delivery;
use lapin::options::{BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Confirmation, Consumer};
use rand::seq::SliceRandom;
use rustls::ClientConfig;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::connection::{self, Connection};
use super::guard::HeldBytes;
use super::limits::{Limits, fields};
use super::messenger::checked;
use super::outgoing::{Plain, Publish, Shape};
use super::replies::{self, DIRECT};
use super::settings::Amqp091Settings;
use crate::backends::brokers::{BrokerUrl, BrokersError};
use crate::message::Message;
use crate::reply::{Reply, RequestError, Requester};
use crate::telemetry;
use crate::util::error::{BoxError, Chain};
use crate::util::sync::lock;

/// How many requests may wait to be published.
const QUEUED: usize = 1_024;

/// Sends requests to the exchange of the messages, with the topic as routing key, over one kept connection to one of the brokers. Their
/// replies come to the channel itself, through no queue.
pub struct Amqp091Requester {
    settings: Arc<Amqp091Settings>,
    urls: Vec<BrokerUrl>,
    tls: Option<Arc<ClientConfig>>,
    limits: Limits,
    caller: tokio::sync::Mutex<Option<Arc<Caller>>>,
}

impl Amqp091Requester {
    /// Reads and checks the settings and their files. It connects with the first request.
    ///
    /// # Errors
    /// [`BrokersError`] names the wrong setting or file, and the cure.
    pub fn new(settings: &Amqp091Settings) -> Result<Self, BrokersError> {
        let (settings, (urls, tls)) = checked(settings, Plain::WRAPS)?;
        let caller = tokio::sync::Mutex::default();
        Ok(Self { settings, urls, tls, limits: Limits::default(), caller })
    }

    /// The kept connection, or a new one. Callers that come while one connects wait for it.
    async fn caller(&self) -> Result<Arc<Caller>, BoxError> {
        let mut kept = self.caller.lock().await;
        if let Some(caller) = kept.as_ref().filter(|caller| !caller.lost.is_cancelled()) {
            return Ok(Arc::clone(caller));
        }
        *kept = None;
        let mut order: Vec<_> = self.urls.iter().collect();
        order.shuffle(&mut rand::rng());
        let (mut last, limit) = (None, self.settings.broker.connection_timeout());
        for url in order {
            // Seldom, and large.
            let opened = Box::pin(timeout(limit, Caller::open(&self.settings, self.tls.clone(), url))).await;
            match opened.unwrap_or_else(|_| Err(format!("no connection within {limit:?}").into())) {
                Ok(caller) => {
                    tracing::info!(broker = %url, "connected for requests");
                    self.limits.renew(caller.frame_max);
                    return Ok(Arc::clone(kept.insert(Arc::new(caller))));
                }
                Err(error) => {
                    tracing::warn!(broker = %url, error = %Chain(&*error), "failed to connect; trying the next broker");
                    last = Some(error);
                }
            }
        }
        Err(last.unwrap_or_else(|| "there are no brokers".into()))
    }

    fn publish(&self, request: &Message, correlation_id: &str) -> Result<Publish, BoxError> {
        let broker = &self.settings.broker;
        let sealed = &*broker.envelope.seal(request, broker.origin())?;
        broker.check_message(sealed)?;
        fields(sealed)?;
        let properties = Plain::encode(&self.settings, sealed);
        Ok(Publish {
            exchange: self.settings.exchange.clone().unwrap_or_else(|| "amq.topic".to_owned()),
            routing_key: broker.prefixed(sealed.topic()),
            mandatory: true,
            properties: properties
                .with_delivery_mode(1)
                .with_reply_to(DIRECT.into())
                .with_correlation_id(correlation_id.into()),
            body: sealed.body().clone(),
        })
    }
}

#[async_trait]
impl Requester for Amqp091Requester {
    async fn request(&self, request: Message) -> Result<Reply, RequestError> {
        // A responder knows the id of its own requests, and must not guess that of another one.
        let correlation_id = format!("{:032x}", rand::random::<u128>());
        let publish = self.publish(&request, &correlation_id).map_err(RequestError::rejected)?;
        let caller = self.caller().await;
        let caller = caller.map_err(|error| RequestError::unavailable(Chain(&*error).to_string()))?;
        self.limits.check_publish(&publish, caller.frame_max).map_err(RequestError::rejected)?;
        caller.call(publish, correlation_id).await
    }
}

impl fmt::Debug for Amqp091Requester {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Amqp091Requester").field("urls", &self.urls).finish_non_exhaustive()
    }
}

type Answer = Result<(BasicProperties, Vec<u8>), RequestError>;
type Waiting = Arc<Mutex<HashMap<String, oneshot::Sender<Answer>>>>;

/// One connection, and the requests that wait for their replies over it.
struct Caller {
    requests: mpsc::Sender<Publish>,
    waiting: Waiting,
    lost: CancellationToken,
    frame_max: u32,
    _task: AbortOnDropHandle<()>,
}

impl Caller {
    async fn open(
        settings: &Amqp091Settings,
        tls: Option<Arc<ClientConfig>>,
        url: &BrokerUrl,
    ) -> Result<Self, BoxError> {
        let connection = connection::open(settings, tls, url, usize::MAX).await?;
        let channel = connection.new_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let replies = channel.basic_consume(DIRECT.into(), "".into(), options, FieldTable::default()).await?;
        let (requests, queued) = mpsc::channel(QUEUED);
        let (waiting, lost) = (Waiting::default(), CancellationToken::new());
        let frame_max = connection.frame_max();
        let exchange = Exchange { connection, channel, replies, waiting: Arc::clone(&waiting) };
        let ended = lost.clone().drop_guard();
        let task = tokio::spawn(async move {
            let error = exchange.run(queued).await;
            tracing::warn!(%error, "lost the connection for requests; the next request connects");
            drop(ended);
        });
        Ok(Self { requests, waiting, lost, frame_max, _task: AbortOnDropHandle::new(task) })
    }

    async fn call(&self, publish: Publish, correlation_id: String) -> Result<Reply, RequestError> {
        let lost = || RequestError::unavailable("the connection to the broker was lost");
        let (sender, receiver) = oneshot::channel();
        lock(&self.waiting).insert(correlation_id.clone(), sender);
        let _slot = SlotGuard { waiting: &self.waiting, correlation_id };
        let answered = async {
            self.requests.send(publish).await.map_err(|_| lost())?;
            receiver.await.map_err(|_| lost())?
        };
        let (properties, body) = tokio::select! {
            biased;
            answered = answered => answered?,
            () = self.lost.cancelled() => return Err(lost()),
        };
        replies::decode(&properties, body).map_err(RequestError::bad_reply)
    }
}

/// The entry of a request among those that wait, removed also when its caller goes away.
struct SlotGuard<'a> {
    waiting: &'a Waiting,
    correlation_id: String,
}

impl Drop for SlotGuard<'_> {
    fn drop(&mut self) {
        lock(self.waiting).remove(&self.correlation_id);
    }
}

type Confirm = Pin<Box<dyn Future<Output = lapin::Result<Confirmation>> + Send>>;

/// The channel over which requests go out and replies come in.
struct Exchange {
    connection: Connection,
    channel: Channel,
    replies: Consumer,
    waiting: Waiting,
}

impl Exchange {
    /// Runs until the channel is closed.
    async fn run(mut self, mut queued: mpsc::Receiver<Publish>) -> lapin::Error {
        let mut confirms = FuturesUnordered::<Confirm>::new();
        loop {
            let confirmed = async {
                match confirms.next().await {
                    Some(confirmed) => confirmed,
                    None => pending().await,
                }
            };
            tokio::select! {
                reply = self.replies.next() => match reply {
                    Some(Ok(delivery)) => self.replied(delivery),
                    Some(Err(error)) => return error,
                    None => return lapin::ErrorKind::InvalidChannel(self.channel.id()).into(),
                },
                confirmed = confirmed => match confirmed {
                    Ok(confirmation) => self.confirmed(confirmation),
                    Err(error) => return error,
                },
                Some(publish) = queued.recv() => match self.publish(publish).await {
                    Ok(confirm) => confirms.push(confirm),
                    Err(error) => return error,
                },
            }
        }
    }

    async fn publish(&self, publish: Publish) -> lapin::Result<Confirm> {
        let options = BasicPublishOptions { mandatory: publish.mandatory, ..BasicPublishOptions::default() };
        let (exchange, key) = (publish.exchange.into(), publish.routing_key.into());
        let confirm =
            self.channel.basic_publish(exchange, key, options, &publish.body, publish.properties).await?;
        Ok(Box::pin(confirm))
    }

    /// A returned message found no queue. lapin gives it with the confirm of another one.
    fn confirmed(&self, confirmation: Confirmation) {
        if let Confirmation::Ack(Some(returned)) | Confirmation::Nack(Some(returned)) = confirmation {
            self.answer(returned.delivery.properties.correlation_id(), Err(RequestError::NoResponder));
        }
    }

    fn replied(&self, delivery: Delivery) {
        let _held = HeldBytes::new(&self.connection.findings, delivery.data.len());
        let fault = self.connection.findings.take(self.channel.id(), delivery.delivery_tag);
        let id = delivery.properties.correlation_id().clone();
        let answer = match fault {
            Some(fault) => Err(RequestError::bad_reply(format!("{fault:?}"))),
            None => Ok((delivery.properties, delivery.data)),
        };
        self.answer(&id, answer);
    }

    fn answer(&self, correlation_id: &Option<ShortString>, answer: Answer) {
        let id = correlation_id.as_ref().map(ShortString::as_str).unwrap_or_default();
        match lock(&self.waiting).remove(id) {
            Some(caller) => drop(caller.send(answer)),
            None => telemetry::stray_reply(id),
        }
    }
}
