//! A connection that publishes: one generation, which ends at the first error.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use rumqttc::{
    AsyncClient, ConnAckProperties, EventLoop, PublishNotice, PublishNoticeError, PublishOptions,
    PublishResult, QoS,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::client::{self, Client, largest};
use super::failure::{Lost, NoOutcome, NoQos, NoRetain, TooLarge, end_failure, outcome};
use super::outgoing::Outgoing;
use super::settings::MqttSettings;
use crate::backends::brokers::{BrokerUrl, Dialer};
use crate::messenger::Failure;
use crate::util::sync::lock;

/// How long a broker may take to close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// A connection to one broker for publishing. A clone is a handle to the same connection; it ends with the last one.
#[derive(Clone)]
pub(super) struct Connection(Arc<Handle>);

struct Handle {
    generation: Arc<Generation>,
    window: Arc<Semaphore>,
    window_size: u32,
    send_timeout: Duration,
    qos: QoS,
    mandatory: bool,
    limits: ConnAckProperties,
}

/// One connection of the client library, which its task owns.
struct Generation {
    /// The only handle that publishes. It is dropped with the connection: while there is one, the client library leaves the
    /// messages that it had not begun to send without an outcome.
    requests: Mutex<Option<AsyncClient>>,
    /// Asks the task to end.
    cut: CancellationToken,
    ended: CancellationToken,
    failure: OnceLock<Failure>,
    given_up: AtomicBool,
}

/// A published message, or one that was not.
enum Published {
    Sent { notice: PublishNotice, deadline: Instant, _place: OwnedSemaphorePermit },
    Not(Failure),
}

pub(super) async fn open(
    settings: &MqttSettings,
    dialer: &Arc<Dialer>,
    url: &BrokerUrl,
) -> Result<Connection, Failure> {
    let opening = client::open_sender(settings, dialer, url, client::random_id(settings));
    let Client { requests, events, limits, .. } = opening.await?;
    let (qos, highest) = match settings.qos {
        0 => (QoS::AtMostOnce, 0),
        1 => (QoS::AtLeastOnce, 1),
        _ => (QoS::ExactlyOnce, 2),
    };
    if let Some(most) = limits.max_qos.filter(|most| *most < highest) {
        return Err(Failure::rejected(NoQos(most)));
    }
    let window_size = settings.broker.window.min(u16::MAX.into());
    let window = Arc::new(Semaphore::new(window_size as usize));
    let generation = Arc::new(Generation {
        requests: Mutex::new(Some(requests)),
        cut: CancellationToken::new(),
        ended: CancellationToken::new(),
        failure: OnceLock::new(),
        given_up: AtomicBool::new(false),
    });
    let owner = Owner { generation: Arc::clone(&generation), window: Arc::clone(&window) };
    tokio::spawn(owner.run(events));
    Ok(Connection(Arc::new(Handle {
        generation,
        window,
        window_size,
        send_timeout: settings.broker.send_timeout(),
        qos,
        mandatory: settings.mandatory,
        limits,
    })))
}

/// The task of a generation. Dropping it ends the generation.
struct Owner {
    generation: Arc<Generation>,
    window: Arc<Semaphore>,
}

impl Owner {
    async fn run(self, mut events: EventLoop) {
        let drive = async {
            loop {
                if let Err(error) = events.poll().await {
                    return error;
                }
            }
        };
        let failure = tokio::select! {
            biased;
            () = self.generation.cut.cancelled() => None,
            error = drive => Some(end_failure(&error)),
        };
        if let Some(failure) = failure {
            let _ = self.generation.failure.set(failure);
        }
        // The outcomes of all that is in flight become known when both the handle and the loop are gone.
        drop(lock(&self.generation.requests).take());
        drop(events);
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let _ = self.generation.failure.set(Failure::transient(Lost("it was closed".to_owned())));
        drop(lock(&self.generation.requests).take());
        self.window.close();
        self.generation.ended.cancel();
    }
}

impl Generation {
    fn failure(&self) -> Failure {
        self.failure.get().cloned().unwrap_or_else(|| Failure::transient(Lost("it was closed".to_owned())))
    }

    /// Ends it, as the broker did not confirm a message in time.
    fn give_up(&self) -> Failure {
        let failure = Failure::transient(NoOutcome);
        self.given_up.store(true, Ordering::Release);
        let _ = self.failure.set(failure.clone());
        self.cut.cancel();
        failure
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.generation.cut.cancel();
    }
}

impl Connection {
    /// Publishes in order, and returns the outcome of each message.
    ///
    /// # Cancel safety
    /// If it is dropped, messages may be published without an outcome.
    pub(super) async fn publish(
        &self,
        messages: impl IntoIterator<Item = Result<Outgoing, Failure>>,
    ) -> Vec<Result<(), Failure>> {
        let (mut outcomes, mut published) = (Vec::new(), VecDeque::new());
        for message in messages {
            let message = match message {
                Ok(message) => message,
                Err(failure) => {
                    published.push_back(Published::Not(failure));
                    continue;
                }
            };
            let place = loop {
                match Arc::clone(&self.0.window).try_acquire_owned() {
                    Ok(place) => break Some(place),
                    // The window may be full of messages of this batch.
                    Err(_) => match published.pop_front() {
                        Some(first) => outcomes.push(self.outcome_of(first).await),
                        None => break Arc::clone(&self.0.window).acquire_owned().await.ok(),
                    },
                }
            };
            published.push_back(match place {
                Some(place) => self.hand_over(message, place),
                None => Published::Not(self.0.generation.failure()),
            });
        }
        for published in published {
            outcomes.push(self.outcome_of(published).await);
        }
        outcomes
    }

    fn hand_over(&self, message: Outgoing, place: OwnedSemaphorePermit) -> Published {
        let Handle { generation, limits, .. } = &*self.0;
        let (size, limit) = (message.size(), largest(limits));
        if size > limit as usize {
            return Published::Not(Failure::rejected(TooLarge { size, limit }));
        }
        if message.retain && limits.retain_available == Some(0) {
            return Published::Not(Failure::rejected(NoRetain));
        }
        let options = PublishOptions::new(self.0.qos).retain(message.retain).properties(message.properties);
        let deadline = Instant::now() + self.0.send_timeout;
        let requests = lock(&generation.requests);
        let Some(requests) = &*requests else { return Published::Not(generation.failure()) };
        match requests.try_publish_tracked(message.topic, message.payload, options) {
            Ok(notice) => Published::Sent { notice, deadline, _place: place },
            // The message is in the error.
            Err(rumqttc::ClientError::InvalidRequest(_)) => {
                Published::Not(Failure::rejected("its topic is not the name of a topic of MQTT"))
            }
            Err(_) => Published::Not(generation.failure()),
        }
    }

    async fn outcome_of(&self, published: Published) -> Result<(), Failure> {
        let (notice, deadline, _place) = match published {
            Published::Sent { notice, deadline, _place } => (notice, deadline, _place),
            Published::Not(failure) => return Err(failure),
        };
        let mandatory = self.0.mandatory;
        match timeout_at(deadline, notice.wait_async()).await {
            Ok(Ok(PublishResult::Qos1(ack))) => {
                let reason =
                    ack.properties.as_ref().and_then(|properties| properties.reason_string.as_deref());
                outcome(ack.reason, reason, mandatory)
            }
            Ok(Ok(PublishResult::Qos2PubRecRejected(received))) => {
                let properties = received.properties.as_ref();
                let reason = properties.and_then(|properties| properties.reason_string.as_deref());
                outcome(client::as_puback(received.reason), reason, mandatory)
            }
            Ok(Ok(PublishResult::Qos0Flushed | PublishResult::Qos2Completed(_))) => Ok(()),
            Ok(Err(PublishNoticeError::RetainNotSupported)) => Err(Failure::rejected(NoRetain)),
            Ok(Err(_)) => {
                // The reason is known before the notices are dropped.
                Err(self.0.generation.failure())
            }
            Err(_) => Err(self.0.generation.give_up()),
        }
    }

    pub(super) fn largest(&self) -> u32 {
        largest(&self.0.limits)
    }

    pub(super) fn is_closed(&self) -> bool {
        let generation = &self.0.generation;
        generation.failure.get().is_some() || generation.ended.is_cancelled()
    }

    pub(super) fn is_given_up(&self) -> bool {
        self.0.generation.given_up.load(Ordering::Acquire)
    }

    /// Closes it after the outcomes of all messages are known.
    pub(super) async fn close(&self) {
        let generation = &self.0.generation;
        // Fails once the connection has ended.
        if let Ok(_all) = self.0.window.acquire_many(self.0.window_size).await {
            if let Some(requests) = &*lock(&generation.requests) {
                let _ = requests.try_disconnect();
            }
            let _ = timeout(CLOSE_TIMEOUT, generation.ended.cancelled()).await;
        }
        generation.cut.cancel();
        generation.ended.cancelled().await;
    }
}
