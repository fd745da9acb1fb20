//! A connection that publishes: one generation, which ends at the first error.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::jetstream::context::GetStreamByNameErrorKind;
use async_nats::{StatusCode, Subject};
use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};

use super::calls::{Calls, Pending, Unanswered};
use super::client::Generation;
use super::confirm::Confirm;
use super::failure::{Denied, NoLeader, NoOutcome, NoStream, TooLarge, TooOld};
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
    calls: Calls,
    window: Arc<Semaphore>,
    window_size: u32,
    send_timeout: Duration,
    pattern: Pattern,
    given_up: AtomicBool,
    windows: Arc<Windows>,
}

/// A published message, or one that was not.
enum Published {
    Sent { confirm: Pending, subject: Subject, _place: OwnedSemaphorePermit },
    Not(Failure),
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.generation.events.ended.cancel();
    }
}

impl Connection {
    pub(super) async fn new(
        generation: Generation,
        settings: &NatsSettings,
        windows: Arc<Windows>,
    ) -> Result<Self, Failure> {
        let window_size = settings.broker.window.min(1 << 20);
        // A confirm that comes too late is no news.
        let calls = Calls::new(&generation, Some(settings.broker.send_timeout()), |_| {}).await?;
        Ok(Self(Arc::new(Handle {
            generation,
            calls,
            window: Arc::new(Semaphore::new(window_size as usize)),
            window_size,
            send_timeout: settings.broker.send_timeout(),
            pattern: settings.pattern,
            given_up: AtomicBool::new(false),
            windows,
        })))
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
                Some(place) => self.hand_over(message, place),
                None => Published::Not(self.0.generation.events.failure()),
            });
        }
        for published in published {
            outcomes.push(self.outcome_of(published).await);
        }
        outcomes
    }

    fn hand_over(&self, message: Outgoing, place: OwnedSemaphorePermit) -> Published {
        let Handle { generation, calls, .. } = &*self.0;
        if self.is_closed() {
            return Published::Not(generation.events.failure());
        }
        let Outgoing { subject, headers, payload, .. } = message;
        let subject = Subject::from(subject);
        let confirm = calls.begin(subject.clone(), Some(headers), payload);
        Published::Sent { confirm, subject, _place: place }
    }

    async fn outcome_of(&self, published: Published) -> Result<(), Failure> {
        let (confirm, subject, _place) = match published {
            Published::Sent { confirm, subject, _place } => (confirm, subject, _place),
            Published::Not(failure) => return Err(failure),
        };
        let Handle { generation, windows, .. } = &*self.0;
        match confirm.answer().await {
            Ok(answer) if answer.status == Some(StatusCode::NO_RESPONDERS) => {
                Err(Box::pin(self.without_stream(&subject)).await)
            }
            Ok(answer) => {
                let stream = Confirm::read(&answer.payload)?;
                windows.stored_in(&stream, &generation.context);
                Ok(())
            }
            Err(Unanswered::Denied) => Err(Failure::rejected(Denied(subject.to_string()))),
            Err(Unanswered::Ended) => Err(generation.events.failure()),
            Err(Unanswered::Overdue) => Err(Box::pin(self.overdue(&subject)).await),
        }
    }

    /// Whether there is no stream for a subject, or none just now: a cluster that elects a leader has none for a while.
    async fn without_stream(&self, subject: &str) -> Failure {
        if self.has_stream(subject).await == Some(false) {
            Failure::rejected(NoStream(subject.to_owned()))
        } else {
            Failure::transient(NoLeader(subject.to_owned()))
        }
    }

    /// If there is no stream, but somebody subscribes to the subject, nobody answers (nats-server#8038).
    async fn overdue(&self, subject: &str) -> Failure {
        if !self.is_closed() && self.has_stream(subject).await == Some(false) {
            return Failure::rejected(NoStream(subject.to_owned()));
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
        let confirmed = self.confirm().await;
        let outcome = |outcome: Result<String, Failure>| {
            let subject = outcome?;
            if events.is_denied(&subject) {
                return Err(Failure::rejected(Denied(subject)));
            }
            confirmed.clone()
        };
        outcomes.into_iter().map(outcome).collect()
    }

    /// Nobody answers at an address of ours that has no call, which the server says at once.
    async fn confirm(&self) -> Result<(), Failure> {
        let Handle { generation, calls, .. } = &*self.0;
        let asked = calls.begin(generation.client.new_inbox().into(), None, Bytes::new());
        match asked.answer().await {
            // An error comes in order too.
            Ok(_) | Err(Unanswered::Denied) => Ok(()),
            Err(Unanswered::Ended) => Err(generation.events.failure()),
            Err(Unanswered::Overdue) => Err(self.give_up()),
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

    /// Publishes a settlement, and completes with the answer of the server.
    pub(super) async fn settle(&self, reply: &Subject, kind: Bytes) -> Result<(), Failure> {
        let Handle { generation, calls, .. } = &*self.0;
        match calls.begin(reply.clone(), None, kind).answer().await {
            Ok(answer) if answer.status == Some(StatusCode::NO_RESPONDERS) => {
                Err(Failure::transient("the server does not know the consumer now"))
            }
            Ok(_) => Ok(()),
            Err(Unanswered::Denied) => Err(Failure::rejected(Denied(reply.to_string()))),
            Err(Unanswered::Ended) => Err(generation.events.failure()),
            Err(Unanswered::Overdue) => Err(Failure::transient(NoOutcome)),
        }
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
