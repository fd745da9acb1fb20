//! One connection that messages come over, and what their answers go over.

use std::collections::HashMap;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use lapin::message::Delivery;
use lapin::options::QueueDeclareOptions;
use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Acker, Channel, ErrorKind};
use tokio::sync::{Mutex, oneshot};
use tokio::time::{Instant, timeout};

use super::connection::{self, Connection, Publish};
use super::failure::ends_connection;
use super::fit::{bare, fit, left_out};
use super::guard::{Finding, Findings, Held};
use super::outgoing::{Needed, Outgoing, text};
use super::source::Shared;
use crate::backends::brokers::BrokerUrl;
use crate::error::{BoxError, Chain};
use crate::messenger::Failure;

/// How long a queue that was made is taken to be there. A delay queue goes when it was not declared for an hour more
/// than its delay, with what is in it.
const DECLARED: Duration = Duration::from_secs(300);
const UNUSED: u64 = 3_600_000;

/// A connection to one broker for what comes, and one for what is sent on: a broker in need reads nothing more from a
/// connection that publishes, and acknowledgements must get through.
pub(super) struct Link {
    pub(super) shared: Arc<Shared>,
    pub(super) url: BrokerUrl,
    pub(super) channel: Channel,
    connection: Connection,
    publisher: Mutex<Option<Connection>>,
    declared: std::sync::Mutex<HashMap<Needed, Instant>>,
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
            connection,
            publisher: Mutex::default(),
            declared: std::sync::Mutex::default(),
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
    /// the message, without all that are not ours.
    pub(super) async fn send_on(&self, outgoing: Outgoing) -> Result<(), BoxError> {
        let Outgoing { mut publish, queue } = outgoing;
        let (mut ended, mut is_bare) = (0, false);
        let left_out_before = left_out(&publish.properties);
        loop {
            let publisher = self.publisher().await?;
            let known = match &queue {
                Some(queue) => self.declare(&publisher, queue).await?,
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
                return Ok(());
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
            return Err(
                format!("not sent on to {routing_key:?} of the exchange {exchange:?}: {cause}").into()
            );
        }
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

    /// Makes a queue; whether it was known to be there.
    async fn declare(&self, publisher: &Connection, queue: &Needed) -> Result<bool, BoxError> {
        if lock(&self.declared).get(queue).is_some_and(|at| at.elapsed() < DECLARED) {
            return Ok(true);
        }
        let limit = self.shared.settings.send_timeout;
        timeout(limit, declare(publisher, queue))
            .await
            .map_err(|_| format!("no queue within {limit:?}"))??;
        lock(&self.declared).insert(queue.clone(), Instant::now());
        Ok(false)
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
        Needed::Delay { name, ms, back_to } => {
            let number = |ms: u64| AMQPValue::LongLongInt(ms as i64);
            let mut arguments = FieldTable::default();
            arguments.insert("x-message-ttl".into(), number(*ms));
            arguments.insert("x-expires".into(), number(ms + UNUSED));
            arguments.insert("x-dead-letter-exchange".into(), text(""));
            arguments.insert("x-dead-letter-routing-key".into(), text(back_to));
            let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
            let channel = connection.new_channel().await?;
            channel.queue_declare(name.as_str().into(), options, arguments).await.map_err(|error| {
                format!("the retry queue {name:?} cannot be made; allow it, or delete the one that is there: {error}")
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
