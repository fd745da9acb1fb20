//! A connection that publishes: one generation, which ends at the first error.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::Subject;
use async_nats::client::{Request, RequestErrorKind};
use async_nats::jetstream::context::{GetStreamByNameErrorKind, PublishAckFuture, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::publish::PublishAck;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::client::Generation;
use super::failure::{Denied, NoLeader, NoOutcome, NoStream, TooLarge, TooOld, refused};
use super::outgoing::Outgoing;
use super::settings::{NatsSettings, Pattern};
use super::windows::Windows;
use crate::messenger::Failure;

/// How long a server may take to say whether there is a stream.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a server may take to close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// A connection to one server for publishing. A clone is a handle to the same connection.
#[derive(Clone)]
pub(super) struct Connection(Arc<Handle>);

struct Handle {
    generation: Generation,
    window: Arc<Semaphore>,
    window_size: u32,
    send_timeout: Duration,
    pattern: Pattern,
    given_up: AtomicBool,
    windows: Arc<Windows>,
}

/// A published message, or one that was not.
enum Published {
    Sent { ack: PublishAckFuture, subject: String, deadline: Instant, _place: OwnedSemaphorePermit },
    Not(Failure),
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.generation.events.ended.cancel();
    }
}

impl Connection {
    pub(super) fn new(generation: Generation, settings: &NatsSettings, windows: Arc<Windows>) -> Self {
        let window_size = settings.broker.window.min(1 << 20);
        Self(Arc::new(Handle {
            generation,
            window: Arc::new(Semaphore::new(window_size as usize)),
            window_size,
            send_timeout: settings.broker.send_timeout(),
            pattern: settings.pattern,
            given_up: AtomicBool::new(false),
            windows,
        }))
    }

    /// Publishes in order, and returns the outcome of each message.
    ///
    /// # Cancel safety
    /// If it is dropped, messages may be published without an outcome.
    pub(super) async fn publish(
        &self,
        messages: impl IntoIterator<Item = Result<Outgoing, Failure>>,
    ) -> Vec<Result<(), Failure>> {
        let messages = messages.into_iter().map(|message| message.and_then(|message| self.admit(message)));
        match self.0.pattern {
            Pattern::Streams => self.store(messages).await,
            Pattern::Events => self.publish_events(messages).await,
        }
    }

    /// Rejects what this server cannot do.
    fn admit(&self, message: Outgoing) -> Result<Outgoing, Failure> {
        let Generation { client, events, .. } = &self.0.generation;
        let (size, limit) = (message.size(), client.max_payload());
        if size > limit {
            return Err(Failure::rejected(TooLarge { size, limit }));
        }
        if events.is_denied(&message.subject) {
            return Err(Failure::rejected(Denied(message.subject)));
        }
        let too_old = |what, least| {
            let version = client.server_info().version;
            Err(Failure::rejected(TooOld { what, least, version }))
        };
        // Older servers take these messages, and ignore what they do not know.
        if message.needs.delay && !client.is_server_compatible(2, 12, 0) {
            return too_old("messages with a delay", "2.12");
        }
        if message.needs.expiry && !client.is_server_compatible(2, 11, 0) {
            return too_old("messages with an expiry", "2.11");
        }
        Ok(message)
    }

    /// Lets streams store the messages.
    async fn store(
        &self,
        messages: impl Iterator<Item = Result<Outgoing, Failure>>,
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
                Some(place) => self.hand_over(message, place).await,
                None => Published::Not(self.0.generation.events.failure()),
            });
        }
        for published in published {
            outcomes.push(self.outcome_of(published).await);
        }
        outcomes
    }

    async fn hand_over(&self, message: Outgoing, place: OwnedSemaphorePermit) -> Published {
        let Handle { generation, send_timeout, .. } = &*self.0;
        if self.is_closed() {
            return Published::Not(generation.events.failure());
        }
        let deadline = Instant::now() + *send_timeout;
        let Outgoing { subject, headers, payload, .. } = message;
        let publish = PublishMessage::build().headers(headers).payload(payload);
        match generation.context.send_publish(Subject::from(&*subject), publish).await {
            Ok(ack) => Published::Sent { ack, subject, deadline, _place: place },
            Err(error) if error.kind() == PublishErrorKind::TimedOut => Published::Not(self.give_up()),
            Err(_) if self.is_closed() => Published::Not(generation.events.failure()),
            Err(error) => {
                // The message was checked before, so the client itself has ended.
                generation.events.end();
                Published::Not(Failure::transient(error))
            }
        }
    }

    async fn outcome_of(&self, published: Published) -> Result<(), Failure> {
        let (ack, subject, deadline, _place) = match published {
            Published::Sent { ack, subject, deadline, _place } => (ack, subject, deadline, _place),
            Published::Not(failure) => return Err(failure),
        };
        let Handle { generation, windows, .. } = &*self.0;
        let outcome = tokio::select! {
            biased;
            outcome = ack.into_future() => outcome,
            () = generation.events.denied(&subject) => return Err(Failure::rejected(Denied(subject))),
            () = generation.events.ended.cancelled() => return Err(generation.events.failure()),
            () = sleep_until(deadline) => return Err(self.overdue(subject).await),
        };
        match outcome {
            Ok(PublishAck { stream, .. }) => {
                windows.stored_in(&stream, &generation.context);
                Ok(())
            }
            Err(error) => Err(match error.kind() {
                PublishErrorKind::StreamNotFound => self.without_stream(subject).await,
                PublishErrorKind::TimedOut => self.overdue(subject).await,
                PublishErrorKind::BrokenPipe => generation.events.failure(),
                _ => match std::error::Error::source(&error).and_then(|cause| cause.downcast_ref()) {
                    Some(error) => refused(error),
                    None => Failure::transient(error),
                },
            }),
        }
    }

    /// Whether there is no stream for a subject, or none just now: a cluster that elects a leader has none for a while.
    async fn without_stream(&self, subject: String) -> Failure {
        if self.has_stream(&subject).await == Some(false) {
            Failure::rejected(NoStream(subject))
        } else {
            Failure::transient(NoLeader(subject))
        }
    }

    /// If there is no stream, but somebody subscribes to the subject, nobody answers (nats-server#8038).
    async fn overdue(&self, subject: String) -> Failure {
        if !self.is_closed() && self.has_stream(&subject).await == Some(false) {
            return Failure::rejected(NoStream(subject));
        }
        self.give_up()
    }

    async fn has_stream(&self, subject: &str) -> Option<bool> {
        let asked = timeout(ASK_TIMEOUT, self.0.generation.context.stream_by_subject(subject)).await.ok()?;
        match asked {
            Ok(_) => Some(true),
            Err(error) if error.kind() == GetStreamByNameErrorKind::NotFound => Some(false),
            Err(_) => None,
        }
    }

    /// Publishes to those who subscribe now. The answer to a request that comes after them confirms that the server has read them.
    async fn publish_events(
        &self,
        messages: impl Iterator<Item = Result<Outgoing, Failure>>,
    ) -> Vec<Result<(), Failure>> {
        let Generation { client, events, .. } = &self.0.generation;
        let deadline = Instant::now() + self.0.send_timeout;
        let mut outcomes: Vec<Result<String, Failure>> = Vec::new();
        for message in messages {
            let message = match message {
                Ok(message) if !self.is_closed() => message,
                Ok(_) => {
                    outcomes.push(Err(events.failure()));
                    continue;
                }
                Err(failure) => {
                    outcomes.push(Err(failure));
                    continue;
                }
            };
            let Outgoing { subject, headers, payload, .. } = message;
            let sent = client.publish_with_headers(Subject::from(&*subject), headers, payload);
            outcomes.push(match timeout_at(deadline, sent).await {
                Ok(Ok(())) => Ok(subject),
                Ok(Err(_)) => {
                    events.end();
                    Err(events.failure())
                }
                Err(_) => Err(self.give_up()),
            });
        }
        let confirmed = self.confirm(deadline).await;
        let outcome = |outcome: Result<String, Failure>| {
            let subject = outcome?;
            if events.is_denied(&subject) {
                return Err(Failure::rejected(Denied(subject)));
            }
            confirmed.clone()
        };
        outcomes.into_iter().map(outcome).collect()
    }

    /// Nobody answers at an inbox of ours, which the server says at once.
    async fn confirm(&self, deadline: Instant) -> Result<(), Failure> {
        let Generation { client, events, .. } = &self.0.generation;
        let inbox = client.new_inbox();
        let asked = client.send_request(inbox.clone(), Request::new().timeout(None));
        tokio::select! {
            biased;
            asked = asked => match asked {
                Err(error) if error.kind() != RequestErrorKind::NoResponders => Err(events.failure()),
                _ => Ok(()),
            },
            // An error comes in order too.
            () = events.denied(&inbox) => Ok(()),
            () = events.ended.cancelled() => Err(events.failure()),
            () = sleep_until(deadline) => Err(self.give_up()),
        }
    }

    /// Ends it, as the server did not confirm a message in time.
    fn give_up(&self) -> Failure {
        let failure = Failure::transient(NoOutcome);
        self.0.given_up.store(true, Ordering::Release);
        self.0.generation.end(failure.clone());
        failure
    }

    pub(super) fn generation(&self) -> &Generation {
        &self.0.generation
    }

    /// Publishes one message.
    pub(super) async fn publish_one(&self, message: Outgoing) -> Result<(), Failure> {
        self.publish([Ok(message)]).await.pop().unwrap_or(Ok(()))
    }

    pub(super) fn is_closed(&self) -> bool {
        self.0.generation.events.ended.is_cancelled()
    }

    pub(super) fn is_given_up(&self) -> bool {
        self.0.given_up.load(Ordering::Acquire)
    }

    /// Closes it after what is outstanding has ended.
    pub(super) async fn close(&self) {
        let close = async {
            let all = self.0.window_size;
            let _all = self.0.window.acquire_many(all).await;
            self.0.generation.close().await;
        };
        let _ = timeout(self.0.send_timeout + CLOSE_TIMEOUT, close).await;
    }
}
