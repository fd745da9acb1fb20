//! One connection that messages come over, and what their answers go over.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use lapin::message::Delivery;
use lapin::options::{ExchangeDeclareOptions, QueueDeclareOptions};
use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Acker, Channel, ErrorKind, ExchangeKind};
use tokio::sync::{Mutex, oneshot};
use tokio::time::{Instant, timeout};

use super::connection::{self, Connection, Publish};
use super::failure::{ends_connection, is_at_fault};
use super::fit::{bare, fit, left_out};
use super::guard::{Finding, Findings, Held};
use super::outgoing::{Needed, Outgoing, text};
use super::source::Shared;
use crate::backends::brokers::BrokerUrl;
use crate::messenger::Failure;
use crate::util::error::{BoxError, Chain};

/// How long a classic delay queue that was made is taken to be there: it goes when it was not declared for an hour more than
/// its delay, and is empty by then. A quorum queue would go with what is in it, as declaring it does not count.
const DECLARED: Duration = Duration::from_secs(300);
const UNUSED: u64 = 3_600_000;

/// How long a queue may be one that RabbitMQ forgets when it is killed, with what it confirmed: it writes down within three
/// seconds that there is a new one.
const YOUNG: Duration = Duration::from_secs(4);

/// A connection to one broker for what comes, and one for what is sent on: a broker in need reads nothing more from a
/// connection that publishes, and acknowledgements must get through.
pub(super) struct Link {
    pub(super) shared: Arc<Shared>,
    pub(super) url: BrokerUrl,
    pub(super) channel: Channel,
    /// Whether the broker makes quorum queues, as far as is known.
    pub(super) has_quorum_queues: AtomicBool,
    connection: Connection,
    publisher: Mutex<Option<Connection>>,
    declared: std::sync::Mutex<HashMap<Needed, Instant>>,
    declaring: Mutex<()>,
    waiting: std::sync::Mutex<HashMap<Way, Vec<Waiting>>>,
    turn: Mutex<()>,
}

/// A delivery, and why it cannot be read if it cannot.
pub(super) struct Received {
    pub(super) delivery: Delivery,
    pub(super) fault: Option<String>,
    /// Whether it was here before, and only handed back for want of room.
    pub(super) came_back: bool,
    pub(super) held: Held,
}

/// A delivery whose body had no room; and how many bytes it has.
pub(super) struct Crowded {
    pub(super) acker: Acker,
    pub(super) bytes: u64,
}

/// Why a message could not be sent on.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub(super) struct NotSentOn {
    pub(super) error: BoxError,
    pub(super) over: Over,
}

/// What a broker did not take a message over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    /// Something that passes.
    Outage,
    /// Where it was to go.
    Address,
    /// The message itself, with all headers left out.
    Message,
}

impl From<BoxError> for NotSentOn {
    fn from(error: BoxError) -> Self {
        Self { error, over: Over::Outage }
    }
}

/// Exchange and routing key.
type Way = (String, String);

/// A message, and who waits for its confirm.
type Waiting = (Publish, oneshot::Sender<Result<(), Failure>>);

impl Link {
    pub(super) fn new(shared: Arc<Shared>, url: BrokerUrl, connection: Connection, channel: Channel) -> Self {
        Self {
            shared,
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

    /// A delivery that came over it, with what its guard has found.
    pub(super) fn received(&self, delivery: Delivery) -> Result<Received, Crowded> {
        let findings = &self.connection.findings;
        let held = Held::new(findings, delivery.data.len());
        let finding = findings.take(self.channel.id(), delivery.delivery_tag);
        let came_back = finding == Some(Finding::CameBack);
        let fault = match finding {
            None | Some(Finding::CameBack) => None,
            Some(Finding::Unreadable(fault)) => Some(fault),
            Some(Finding::NoRoom(bytes)) => return Err(Crowded { acker: delivery.acker, bytes }),
        };
        Ok(Received { delivery, fault, came_back, held })
    }

    pub(super) fn findings(&self) -> &Findings {
        &self.connection.findings
    }

    /// Sends on, and waits for the confirm: without the headers that have no room, and should the broker refuse it over
    /// the message, without all that are not ours. Gives the time until which the queue may still be forgotten.
    pub(super) async fn send_on(&self, outgoing: Outgoing) -> Result<Option<Instant>, NotSentOn> {
        let Outgoing { mut publish, mut queue } = outgoing;
        let (mut ended, mut is_bare) = (0, false);
        let left_out_before = left_out(&publish.properties);
        loop {
            let publisher = self.publisher().await?;
            let known = match &mut queue {
                Some(queue) => match self.declare(&publisher, queue).await {
                    Err(error) if error.is::<NoQuorumQueues>() && self.made_classic(queue, &error) => {
                        publish.routing_key = queue.name();
                        continue;
                    }
                    declared => declared.map_err(|error| {
                        let passes = error.is::<Late>() || !is_refusal(&error);
                        NotSentOn { error, over: if passes { Over::Outage } else { Over::Address } }
                    })?,
                },
                None => false,
            };
            publish.properties = fit(publish.properties, publisher.frame_max());
            // Only alone can it be told to be the one that ends a connection.
            let sent = match ended {
                0 => self.publish(&publisher, publish.clone()).await,
                _ => self.publish_alone(&publisher, &publish).await,
            };
            let Publish { exchange, routing_key, .. } = &publish;
            let Err(failure) = sent else {
                if let Some(headers) =
                    left_out(&publish.properties).filter(|headers| left_out_before.as_ref() != Some(headers))
                {
                    let queue = &self.shared.subscription.queue;
                    tracing::warn!(%queue, to = %routing_key, ?headers, "a failed message was sent on without some of its headers");
                }
                return Ok(queue.and_then(|queue| self.is_young_until(&queue)));
            };
            // Somebody may have deleted the queue since.
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
                format!("not sent on to {routing_key:?} of the exchange {exchange:?}: {cause}").into();
            let over = match () {
                () if is_at_fault(&failure) || ends_connection(&failure) => Over::Message,
                () if failure.is_transient() => Over::Outage,
                () => Over::Address,
            };
            return Err(NotSentOn { error, over });
        }
    }

    /// Whether the broker has a place for what is rejected, as far as that can be seen: an exchange that is there, or a queue.
    pub(super) async fn has_dead_letters(&self) -> bool {
        let kind = self.shared.kind.get().and_then(Option::as_ref);
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
        matches!(timeout(self.shared.settings.send_timeout, look).await, Ok(Ok(true)))
    }

    async fn publish_alone(&self, publisher: &Connection, publish: &Publish) -> Result<(), Failure> {
        let _turn = self.turn.lock().await;
        let results = publisher.publish(std::slice::from_ref(publish)).await;
        results.into_iter().next().unwrap_or_else(|| Err(Failure::transient("it was not published")))
    }

    /// Publishes; those who come meanwhile wait, and one of them publishes for all who go the same way.
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
        answer.await.unwrap_or_else(|_| Err(Failure::transient("its task was stopped")))
    }

    async fn publisher(&self) -> Result<Connection, BoxError> {
        let mut kept = self.publisher.lock().await;
        if let Some(publisher) = kept.as_ref().filter(|publisher| !publisher.is_closed()) {
            return Ok(publisher.clone());
        }
        let shared = &self.shared;
        let limit = shared.settings.connection_timeout;
        let opened =
            timeout(limit, connection::open(&shared.settings, shared.tls.clone(), &self.url, usize::MAX))
                .await;
        let publisher = opened.map_err(|_| format!("no connection within {limit:?}"))??;
        Ok(kept.insert(publisher).clone())
    }

    /// Turns a quorum queue that is needed into a classic one, and says what that means; false if a classic one is needed.
    fn made_classic(&self, queue: &mut Needed, error: &BoxError) -> bool {
        let Needed::Delay { is_quorum, .. } = queue else { return false };
        if self.has_quorum_queues.swap(false, Ordering::Relaxed) {
            let queue = &self.shared.subscription.queue;
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

    /// Makes a queue; whether it was known to be there. One at a time: RabbitMQ says that a quorum queue is there as soon as
    /// another channel has begun to make it, and refuses what is published before that has ended.
    async fn declare(&self, publisher: &Connection, queue: &Needed) -> Result<bool, BoxError> {
        let known = || {
            let declared = lock(&self.declared);
            declared.get(queue).is_some_and(|at| !queue.expires() || at.elapsed() < DECLARED)
        };
        if known() {
            return Ok(true);
        }
        let limit = self.shared.settings.send_timeout;
        let declared = timeout(limit, async {
            let _turn = self.declaring.lock().await;
            if known() {
                return Ok(true);
            }
            declare(publisher, queue).await?;
            lock(&self.declared).insert(queue.clone(), Instant::now());
            Ok(false)
        });
        declared.await.map_err(|_| Late(limit))?
    }

    fn is_young_until(&self, queue: &Needed) -> Option<Instant> {
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

fn lock<T>(mutex: &std::sync::Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn declare(connection: &Connection, queue: &Needed) -> Result<(), BoxError> {
    match queue {
        Needed::Durable(name) => ensure_durable(connection, name).await,
        Needed::Delay { ms, back_to, is_quorum } => {
            let number = |ms: u64| AMQPValue::LongLongInt(ms as i64);
            let mut arguments = FieldTable::default();
            arguments.insert("x-message-ttl".into(), number(*ms));
            arguments.insert("x-dead-letter-exchange".into(), text(""));
            arguments.insert("x-dead-letter-routing-key".into(), text(back_to));
            if *is_quorum {
                arguments.insert("x-queue-type".into(), text("quorum"));
                arguments.insert("x-dead-letter-strategy".into(), text("at-least-once"));
                // RabbitMQ wants it for that strategy.
                arguments.insert("x-overflow".into(), text("reject-publish"));
            } else {
                arguments.insert("x-expires".into(), number(ms + UNUSED));
            }
            let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
            let channel = connection.new_channel().await?;
            let name = queue.name();
            channel.queue_declare(name.as_str().into(), options, arguments).await.map_err(|error| {
                if *is_quorum && makes_no_quorum_queue(&error) {
                    return BoxError::from(NoQuorumQueues(error));
                }
                let cure = "cannot be made; allow it, or delete the one that is there";
                format!("the retry queue {name:?} {cure}: {error}").into()
            })?;
            let _ = channel.close(200, "done".into()).await;
            Ok(())
        }
    }
}

/// Makes a durable queue unless there is one of this name.
pub(super) async fn ensure_durable(connection: &Connection, name: &str) -> Result<(), BoxError> {
    let channel = connection.new_channel().await?;
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    match channel.queue_declare(name.into(), passive, FieldTable::default()).await {
        Ok(_) => {
            let _ = channel.close(200, "done".into()).await;
            return Ok(());
        }
        Err(error) if soft(&error) == Some(AMQPSoftError::NOTFOUND) => {}
        Err(error) => return Err(error.into()),
    }
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    let channel = connection.new_channel().await?;
    channel.queue_declare(name.into(), durable, FieldTable::default()).await?;
    let _ = channel.close(200, "done".into()).await;
    tracing::info!(queue = name, "queue made");
    Ok(())
}

#[derive(Debug, thiserror::Error)]
#[error("no queue within {0:?}")]
struct Late(Duration);

/// The broker has none, or none with a TTL, as RabbitMQ before 3.10.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
struct NoQuorumQueues(lapin::Error);

/// Whether the broker knows no quorum queue as we want it: not whether it refuses us, or has another queue of that name.
fn makes_no_quorum_queue(error: &lapin::Error) -> bool {
    let ErrorKind::ProtocolError(amqp) = error.kind() else { return false };
    match amqp.kind() {
        // "the corresponding feature flag is disabled"
        AMQPErrorKind::Hard(hard) => {
            matches!(hard, AMQPHardError::INTERNALERROR | AMQPHardError::NOTIMPLEMENTED)
        }
        AMQPErrorKind::Soft(soft) => {
            *soft == AMQPSoftError::PRECONDITIONFAILED && error.to_string().contains("invalid arg")
        }
    }
}

/// What the broker said when it closed a channel.
fn soft(error: &lapin::Error) -> Option<AMQPSoftError> {
    match error.kind() {
        ErrorKind::ProtocolError(error) => match error.kind() {
            AMQPErrorKind::Soft(soft) => Some(soft.clone()),
            AMQPErrorKind::Hard(_) => None,
        },
        _ => None,
    }
}

/// Whether a person has to mend it: what the broker refuses, and what was put in words for one. Anything else may pass.
pub(super) fn is_refusal(error: &BoxError) -> bool {
    let Some(error) = error.downcast_ref::<lapin::Error>() else { return true };
    match error.kind() {
        ErrorKind::ProtocolError(error) => {
            matches!(error.kind(), AMQPErrorKind::Soft(_) | AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED))
        }
        _ => false,
    }
}
