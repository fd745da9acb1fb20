//! The messenger that ends when the consumer has confirmed.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;
use uuid::Uuid;

use super::awaited::{Answer, Awaited};
use super::confirmations::Confirmations;
use super::return_path::ReturnPath;
use super::settings::AcknowledgingSettings;
use crate::message::Message;
use crate::message::headers::ACK;
use crate::messenger::{Capabilities, Failure, Health, Messenger, Unacknowledged, Unsent};
use crate::telemetry;
use crate::util::deadline::after;
use crate::util::error::BoxError;

/// How long a health check waits until confirmations come back.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(2);

/// Sends through an inner messenger, and ends when the *consumer* of each message has confirmed it.
///
/// `Ok` means confirmed by the consumer. A message that the broker has, and that is not confirmed within
/// [`timeout`](AcknowledgingSettings::timeout), comes back as transient, with [`Unacknowledged`] as the cause. One of which its consumer
/// made a dead letter comes back as rejected, with the consumer's reason. Put an
/// [`Outbox`](crate::outbox::Outbox) around it, with [`one_by_one`](crate::outbox::RelaySettings::one_by_one).
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use axum::{Router, routing::post};
/// use tower_outbox::acknowledging::{AckAddress, Acknowledging, AcknowledgingSettings, Confirming, Taking};
/// use tower_outbox::testing::Memory;
/// use tower_outbox::{Consumer, Message, Messenger};
///
/// let queue = Memory::new();
/// let settings = AcknowledgingSettings::new(AckAddress::new("orders.ack")?);
/// let (messenger, confirmations) = Acknowledging::new(queue.clone(), settings);
///
/// // One queue holds both the messages and their confirmations.
/// let source = Confirming::new(Taking::new(queue.clone(), &confirmations), queue);
/// let handlers: Router = Router::new().route("/order/created", post(|| async {}));
/// tokio::spawn(Consumer::new(source, handlers).into_future());
///
/// messenger.send(vec![Message::json("order.created", &7)?]).await?; // the handler has answered 200
/// # Ok::<(), tower_outbox::BoxError>(())
/// # }).unwrap();
/// ```
pub struct Acknowledging<M> {
    inner: M,
    settings: AcknowledgingSettings,
    awaited: Arc<Awaited>,
    path: Arc<ReturnPath>,
}

impl<M: Messenger> Acknowledging<M> {
    /// Confirmed messages through `inner`, and what their confirmations are handed to: its
    /// [worker](Confirmations::receive), or a source that [takes](super::Taking) them out of a queue.
    pub fn new(inner: M, settings: AcknowledgingSettings) -> (Self, Confirmations) {
        let awaited = Arc::new(Awaited::default());
        let path = Arc::new(ReturnPath::new(
            "nothing receives confirmations: run Confirmations::receive, or a consumer",
        ));
        let confirmations = Confirmations::new(Arc::clone(&awaited), Arc::clone(&path), settings.clone());
        (Self { inner, settings, awaited, path }, confirmations)
    }

    /// The failure of a message that the broker has, and its consumer has not confirmed.
    fn missing(&self, message: &Message) -> Failure {
        telemetry::unacknowledged(message);
        self.path.doubt();
        let reason = match self.path.blocked() {
            Some(reason) => reason.to_string(),
            None => format!("its consumer has not confirmed it within {:?}", self.settings.timeout),
        };
        Failure::transient(Unacknowledged::new(reason))
    }

    fn addressed(&self, message: &Message) -> Message {
        message.clone().with_header(ACK, self.settings.address.as_str().to_owned())
    }
}

/// The failure of a message of which its consumer made a dead letter.
fn rejected(reason: Arc<str>) -> Failure {
    Failure::rejected(RejectedByConsumer(reason))
}

#[derive(Debug, thiserror::Error)]
#[error("its consumer made a dead letter of it: {0}")]
struct RejectedByConsumer(Arc<str>);

impl<M> fmt::Debug for Acknowledging<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acknowledging").field("settings", &self.settings).finish_non_exhaustive()
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<M: Messenger> Messenger for Acknowledging<M> {
    async fn send(&self, batch: Vec<Message>) -> Result<(), Unsent> {
        let timeout = self.settings.timeout;
        if let Err(reason) = self.path.is_open(timeout).await {
            return Err(Unsent::new(batch, &Failure::transient(&*reason)));
        }
        let (mut awaited, mut unsent) = (Vec::with_capacity(batch.len()), Unsent::default());
        for message in batch {
            match self.awaited.await_one(message.id()) {
                Ok(confirmation) => awaited.push((confirmation, message)),
                Err(Answer::Handled) => {}
                Err(Answer::Rejected(reason)) => unsent.extend([(message, rejected(reason))]),
            }
        }
        if awaited.is_empty() {
            return unsent.into_result();
        }
        let addressed = awaited.iter().map(|(_, message)| self.addressed(message)).collect();
        let failures: HashMap<Uuid, Failure> = match self.inner.send(addressed).await {
            Ok(()) => HashMap::new(),
            Err(unsent) => unsent.into_iter().map(|(message, failure)| (message.id(), failure)).collect(),
        };
        let until = after(Instant::now(), timeout);
        for (mut confirmation, message) in awaited {
            let answer = match failures.get(&confirmation.id()) {
                // The broker may have got it all the same.
                Some(failure) => confirmation.answer().ok_or_else(|| failure.clone()),
                None => tokio::select! {
                    come = confirmation.come_by(until) => come.ok_or_else(|| self.missing(&message)),
                    () = self.path.closed() => Err(self.missing(&message)),
                },
            };
            match answer {
                Ok(Answer::Handled) => confirmation.done(),
                Ok(Answer::Rejected(reason)) => {
                    confirmation.done();
                    unsent.extend([(message, rejected(reason))]);
                }
                Err(failure) => unsent.extend([(message, failure)]),
            }
        }
        unsent.into_result()
    }

    fn check(&self, message: &Message) -> Result<(), BoxError> {
        self.inner.check(&self.addressed(message))
    }

    /// Down also while no confirmation can come back.
    async fn health(&self) -> Health {
        let health = self.inner.health().await;
        if !health.is_up() {
            return health;
        }
        match self.path.is_open(HEALTH_TIMEOUT.min(self.settings.timeout)).await {
            Ok(()) => Health::Up,
            Err(reason) => Health::Down { reason: reason.to_string() },
        }
    }

    async fn close(&self, deadline: Duration) {
        self.inner.close(deadline).await;
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
}
