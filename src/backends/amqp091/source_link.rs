//! The connection that messages arrive over, and the one that retries and dead letters are forwarded over.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lapin::message::Delivery;
use lapin::options::{ExchangeDeclareOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{Acker, Channel, ExchangeKind};
use tokio::sync::{Mutex, oneshot};
use tokio::time::{Instant, timeout};

use super::connection::{self, Connection};
use super::failure::{ends_connection, is_at_fault};
use super::fit::{bare, fit, left_out};
use super::forwarding::{Forward, NeededQueue};
use super::guard::{Finding, Findings, HeldBytes};
use super::outgoing::Publish;
use super::queues::{QuorumQueuesUnsupported, declare, is_permanent};
use super::source_context::SourceContext;
use crate::backends::brokers::BrokerUrl;
use crate::messenger::Failure;
use crate::util::error::{BoxError, Chain};
use crate::util::sync::lock;

/// A classic delay queue that was declared within this time is taken to exist: the broker deletes it an hour after its
/// delay, when it is empty. Declaring a quorum queue does not count as use, so it would go with its messages.
const DECLARED: Duration = Duration::from_secs(300);

/// The age until which RabbitMQ may forget a queue with confirmed messages when it is killed: it persists a new queue
/// within three seconds.
const YOUNG: Duration = Duration::from_secs(4);

/// A connection to one broker for receiving, and one for forwarding: a broker under a memory alarm stops reading from a
/// connection that publishes, and acknowledgements must get through.
pub(super) struct SourceLink {
    pub(super) context: Arc<SourceContext>,
    pub(super) url: BrokerUrl,
    pub(super) channel: Channel,
    /// Whether the broker supports quorum queues, as far as known.
    pub(super) has_quorum_queues: AtomicBool,
    connection: Connection,
    publisher: Mutex<Option<Connection>>,
    declared: std::sync::Mutex<HashMap<NeededQueue, Instant>>,
    declaring: Mutex<()>,
    waiting: std::sync::Mutex<HashMap<Way, Vec<Waiting>>>,
    turn: Mutex<()>,
}

/// A delivery, with its fault if it cannot be read.
pub(super) struct Received {
    pub(super) delivery: Delivery,
    pub(super) fault: Option<String>,
    /// Whether it arrived before, and was only returned for lack of memory.
    pub(super) came_back: bool,
    pub(super) held: HeldBytes,
    /// When a request with an expiry arrived.
    pub(super) arrived: Option<Instant>,
}

/// A delivery whose body did not fit into memory, with its size.
pub(super) struct Unbuffered {
    pub(super) acker: Acker,
    pub(super) bytes: u64,
}

/// The failure to forward a message.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub(super) struct ForwardError {
    pub(super) error: BoxError,
    pub(super) over: ForwardFault,
}

/// The cause for which a broker did not accept a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ForwardFault {
    /// A transient failure.
    Outage,
    /// The exchange or queue it was sent to.
    Address,
    /// The message itself, even without its headers.
    Message,
}

impl From<BoxError> for ForwardError {
    fn from(error: BoxError) -> Self {
        Self { error, over: ForwardFault::Outage }
    }
}

/// Exchange and routing key.
type Way = (String, String);

/// A message, and the channel to the caller that waits for its confirm.
type Waiting = (Publish, oneshot::Sender<Result<(), Failure>>);

impl SourceLink {
    pub(super) fn new(
        context: Arc<SourceContext>,
        url: BrokerUrl,
        connection: Connection,
        channel: Channel,
    ) -> Self {
        Self {
            context,
            url,
            channel,
            has_quorum_queues: AtomicBool::new(true),
            connection,
            publisher: Mutex::default(),
            declared: std::sync::Mutex::default(),
            declaring: Mutex::default(),
            waiting: std::sync::Mutex::default(),
            turn: Mutex::default(),
        }
    }

    /// A delivery of this link, with the findings of its guard.
    pub(super) fn received(&self, delivery: Delivery) -> Result<Received, Unbuffered> {
        let findings = &self.connection.findings;
        let held = HeldBytes::new(findings, delivery.data.len());
        let finding = findings.take(self.channel.id(), delivery.delivery_tag);
        let of_request = delivery.properties.reply_to().is_some();
        let arrived =
            of_request.then(|| findings.take_arrival(self.channel.id(), delivery.delivery_tag)).flatten();
        let came_back = finding == Some(Finding::CameBack);
        let fault = match finding {
            None | Some(Finding::CameBack) => None,
            Some(Finding::Unreadable(fault)) => Some(fault),
            Some(Finding::NoRoom(bytes)) => return Err(Unbuffered { acker: delivery.acker, bytes }),
        };
        Ok(Received { delivery, fault, came_back, held, arrived })
    }

    pub(super) fn findings(&self) -> &Findings {
        &self.connection.findings
    }

    /// Publishes a reply. The broker drops one whose caller is gone.
    pub(super) async fn reply(&self, reply: Publish) -> Result<(), Failure> {
        let publisher = self.publisher().await.map_err(Failure::transient)?;
        publisher.publish(&[reply]).await.pop().unwrap_or(Ok(()))
    }

    /// Forwards a message and awaits the confirm: without headers that do not fit, and if the broker rejects
    /// the message, without all foreign headers. Returns the time until which RabbitMQ may still forget the queue.
    pub(super) async fn forward(&self, outgoing: Forward) -> Result<Option<Instant>, ForwardError> {
        let Forward { mut publish, mut queue } = outgoing;
        let (mut ended, mut is_bare) = (0, false);
        let left_out_before = left_out(&publish.properties);
        loop {
            let publisher = self.publisher().await?;
            let known = match &mut queue {
                Some(queue) => match self.declare(&publisher, queue).await {
                    Err(error)
                        if error.is::<QuorumQueuesUnsupported>()
                            && self.fall_back_to_classic(queue, &error) =>
                    {
                        publish.routing_key = queue.name();
                        continue;
                    }
                    declared => declared.map_err(|error| {
                        let passes = error.is::<DeclareTimeout>() || !is_permanent(&error);
                        ForwardError {
                            error,
                            over: if passes { ForwardFault::Outage } else { ForwardFault::Address },
                        }
                    })?,
                },
                None => false,
            };
            publish.properties = fit(publish.properties, publisher.frame_max());
            // Only a message sent alone can be identified as the one that ends a connection.
            let sent = match ended {
                0 => self.publish(&publisher, publish.clone()).await,
                _ => self.publish_alone(&publisher, &publish).await,
            };
            let Publish { exchange, routing_key, .. } = &publish;
            let Err(failure) = sent else {
                if let Some(headers) =
                    left_out(&publish.properties).filter(|headers| left_out_before.as_ref() != Some(headers))
                {
                    let queue = &self.context.subscription.queue;
                    tracing::warn!(%queue, to = %routing_key, ?headers, "forwarded a failed message without some of its headers");
                }
                return Ok(queue.and_then(|queue| self.is_young_until(&queue)));
            };
            // The queue may have been deleted since.
            if let (true, false, Some(queue)) = (known, failure.is_transient(), &queue) {
                lock(&self.declared).remove(queue);
                continue;
            }
            if ends_connection(&failure) {
                ended += 1;
                if ended == 1 {
                    continue;
                }
            }
            if !is_bare && (ended > 1 || !failure.is_transient()) {
                is_bare = true;
                publish.properties = bare(&publish.properties);
                continue;
            }
            let cause = Chain(failure.cause());
            let error =
                format!("not forwarded to {routing_key:?} of the exchange {exchange:?}: {cause}").into();
            let over = match () {
                () if is_at_fault(&failure) || ends_connection(&failure) => ForwardFault::Message,
                () if failure.is_transient() => ForwardFault::Outage,
                () => ForwardFault::Address,
            };
            return Err(ForwardError { error, over });
        }
    }

    /// Whether the broker has an existing dead-letter exchange or queue for rejected messages, as far as visible.
    pub(super) async fn has_dead_letters(&self) -> bool {
        let kind = self.context.kind.get().and_then(Option::as_ref);
        let Some((exchange, routing_key)) = kind.and_then(|kind| kind.dead_letters.as_ref()) else {
            return false;
        };
        let look = async {
            let channel = self.connection.new_channel().await?;
            match (exchange.as_str(), routing_key) {
                ("", None) => return Ok(false),
                ("", Some(queue)) => {
                    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
                    channel.queue_declare(queue.as_str().into(), passive, FieldTable::default()).await?;
                }
                (exchange, _) => {
                    let passive =
                        ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
                    let kind = ExchangeKind::Topic;
                    channel.exchange_declare(exchange.into(), kind, passive, FieldTable::default()).await?;
                }
            }
            let _ = channel.close(200, "done".into()).await;
            lapin::Result::Ok(true)
        };
        matches!(timeout(self.context.settings.broker.send_timeout(), look).await, Ok(Ok(true)))
    }

    async fn publish_alone(&self, publisher: &Connection, publish: &Publish) -> Result<(), Failure> {
        let _turn = self.turn.lock().await;
        let results = publisher.publish(std::slice::from_ref(publish)).await;
        results.into_iter().next().unwrap_or_else(|| Err(Failure::transient("it was not published")))
    }

    /// Publishes. Concurrent callers wait, and one of them publishes for all with the same exchange and routing key.
    async fn publish(&self, publisher: &Connection, publish: Publish) -> Result<(), Failure> {
        let way = (publish.exchange.clone(), publish.routing_key.clone());
        let (reply, answer) = oneshot::channel();
        lock(&self.waiting).entry(way.clone()).or_default().push((publish, reply));
        let turn = self.turn.lock().await;
        let waiting = lock(&self.waiting).remove(&way).unwrap_or_default();
        if !waiting.is_empty() {
            let (batch, replies): (Vec<_>, Vec<_>) = waiting.into_iter().unzip();
            let results = publisher.publish(&batch).await;
            for (reply, result) in replies.into_iter().zip(results) {
                let _ = reply.send(result);
            }
        }
        drop(turn);
        answer.await.unwrap_or_else(|_| Err(Failure::transient("its task was cancelled")))
    }

    async fn publisher(&self) -> Result<Connection, BoxError> {
        let mut kept = self.publisher.lock().await;
        if let Some(publisher) = kept.as_ref().filter(|publisher| !publisher.is_closed()) {
            return Ok(publisher.clone());
        }
        let context = &self.context;
        let limit = context.settings.broker.connection_timeout();
        let opened =
            timeout(limit, connection::open(&context.settings, context.tls.clone(), &self.url, usize::MAX))
                .await;
        let publisher = opened.map_err(|_| format!("no connection within {limit:?}"))??;
        Ok(kept.insert(publisher).clone())
    }

    /// Replaces a needed quorum queue by a classic one, with a warning. Returns false if it is classic already.
    fn fall_back_to_classic(&self, queue: &mut NeededQueue, error: &BoxError) -> bool {
        let NeededQueue::Delay { is_quorum, .. } = queue else { return false };
        if self.has_quorum_queues.swap(false, Ordering::Relaxed) {
            let queue = &self.context.subscription.queue;
            tracing::warn!(
                %queue,
                error = %Chain(error.as_ref()),
                "the broker makes no quorum queue with a TTL, so retries wait in classic ones, out of which it may lose a \
                 message when it is killed as its wait ends; enable the feature flags quorum_queue and stream_queue, or use \
                 RabbitMQ 3.10 or later"
            );
        }
        std::mem::take(is_quorum)
    }

    /// Creates a queue; returns whether it was known to exist. One at a time: RabbitMQ reports a quorum queue as soon as
    /// another channel begins to create it, and rejects messages until that has ended.
    async fn declare(&self, publisher: &Connection, queue: &NeededQueue) -> Result<bool, BoxError> {
        let known = || {
            let declared = lock(&self.declared);
            declared.get(queue).is_some_and(|at| !queue.expires() || at.elapsed() < DECLARED)
        };
        if known() {
            return Ok(true);
        }
        let limit = self.context.settings.broker.send_timeout();
        let declared = timeout(limit, async {
            let _turn = self.declaring.lock().await;
            if known() {
                return Ok(true);
            }
            declare(publisher, queue).await?;
            lock(&self.declared).insert(queue.clone(), Instant::now());
            Ok(false)
        });
        declared.await.map_err(|_| DeclareTimeout(limit))?
    }

    fn is_young_until(&self, queue: &NeededQueue) -> Option<Instant> {
        let until = *lock(&self.declared).get(queue)? + YOUNG;
        (!queue.expires() && until > Instant::now()).then_some(until)
    }

    pub(super) async fn close(&self) {
        if let Some(publisher) = self.publisher.lock().await.take() {
            publisher.close().await;
        }
        self.connection.close().await;
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the broker did not create the queue within {0:?}")]
struct DeclareTimeout(Duration);
