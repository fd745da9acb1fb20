//! The queue of one request, and the extractor that gives it to handlers.

#[cfg_attr(not(feature = "_sql"), allow(dead_code, reason = "only databases have transactions"))]
pub(crate) mod transaction;

use std::any::Any;
use std::convert::Infallible;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum_core::extract::{FromRequestParts, OptionalFromRequestParts};
use axum_core::response::{IntoResponse, Response};
use http::StatusCode;
use http::request::Parts;
use uuid::Uuid;

use crate::message::headers::{CAUSATION_ID, CORRELATION_ID};
use crate::message::topic::TopicError;
use crate::message::trace_context::TraceContext;
use crate::message::{Event, Message, MessageError, Scalar};
use crate::messenger::in_flight::InFlight;
use crate::messenger::{Messenger, OutboxStore};
use crate::queue::transaction::{Slot, Transaction};
use crate::source::delivery::Delivery;
use crate::telemetry;
use crate::util::error::{BoxError, debug_as_display};

/// The messages of one request, which leave when the request succeeds.
///
/// [`MessagingLayer`](crate::layer::MessagingLayer) puts one into the extensions of every request; a handler takes it
/// as an argument. A clone is a handle to the same queue, and may go to spawned tasks. The queue
/// closes when the response is decided: from then on `enqueue` fails with [`EnqueueError::Closed`].
///
/// ```
/// use axum::http::StatusCode;
/// use tower_outbox::{EnqueueError, Message, MessageQueue};
///
/// async fn create_user(queue: MessageQueue) -> Result<StatusCode, EnqueueError> {
///     queue.enqueue(Message::json("user.created", &serde_json::json!({"id": 7}))?)?;
///     Ok(StatusCode::CREATED)
/// }
/// ```
#[derive(Clone)]
pub struct MessageQueue {
    shared: Arc<Shared>,
    always: bool,
    /// The call of an inner layer this handle belongs to; zero is the whole request.
    scope: u32,
}

struct Shared {
    state: Mutex<State>,
    config: Arc<QueueConfig>,
    trace: TraceContext,
    /// The message that is being handled.
    cause: Option<Delivery>,
    /// What the ids of the messages are made of, if a retry of the request is to make the same.
    seed: Option<Uuid>,
}

#[derive(Default)]
struct State {
    closed: bool,
    bytes: usize,
    /// How many messages have been enqueued, those that are gone included.
    enqueued: u32,
    taken: Taken,
    /// How many calls of inner layers have begun, and those that have failed.
    scopes: u32,
    failed: Vec<u32>,
    slot: Slot,
    /// The calls that have used the transaction.
    users: Vec<u32>,
    /// What is dropped when the response is decided.
    held: Vec<Box<dyn Any + Send>>,
}

impl State {
    /// Whether the transaction holds what a call that failed has done.
    fn is_spoiled(&self) -> bool {
        self.users.iter().any(|user| self.failed.contains(user))
    }

    /// Takes out a transaction that only calls that failed have used: it is rolled back, and another can be begun.
    fn take_failed(&mut self) -> Option<Box<dyn Transaction>> {
        if self.users.is_empty() || !self.users.iter().all(|user| self.failed.contains(user)) {
            return None;
        }
        match std::mem::take(&mut self.slot) {
            Slot::Here(transaction) => {
                self.users.clear();
                Some(transaction)
            }
            slot => {
                self.slot = slot;
                None
            }
        }
    }
}

/// What every queue of a layer shares.
#[derive(Clone)]
pub(crate) struct QueueConfig {
    pub(crate) messenger: Arc<dyn Messenger>,
    pub(crate) outbox: Option<OutboxStore>,
    pub(crate) in_flight: InFlight,
    pub(crate) max_messages: usize,
    pub(crate) max_bytes: usize,
}

/// What a queue held when it closed, and where the transaction of the request was.
pub(crate) struct Closed {
    pub(crate) taken: Taken,
    /// Who holds the transaction finds the queue closed.
    pub(crate) slot: Slot,
    /// A call that failed has used it, and others have too.
    pub(crate) spoiled: bool,
    /// What is dropped when all is decided.
    pub(crate) held: Vec<Box<dyn Any + Send>>,
}

/// The messages of a queue.
#[derive(Default)]
pub(crate) struct Taken {
    /// All messages, in the order they were enqueued.
    pub(crate) messages: Vec<Message>,
    /// Where those stand that leave whatever happens.
    pub(crate) always: Vec<usize>,
    /// Where those stand that leave only if a call of an inner layer succeeds, and which call.
    scoped: Vec<(usize, u32)>,
}

impl Taken {
    /// Keeps the messages that leave whatever happens; says how many others there were.
    pub(crate) fn retain_always(&mut self) -> usize {
        let all = self.messages.len();
        let mut always = std::mem::take(&mut self.always).into_iter().peekable();
        let mut index = 0;
        self.messages.retain(|_| {
            let keep = always.next_if_eq(&index).is_some();
            index += 1;
            keep
        });
        all - self.messages.len()
    }

    /// Takes out those of a call of an inner layer; gives how many messages and bytes they were.
    fn remove(&mut self, scope: u32) -> (usize, usize) {
        let gone: Vec<usize> = self.scoped.iter().filter(|(_, of)| *of == scope).map(|(at, _)| *at).collect();
        if gone.is_empty() {
            return (0, 0);
        }
        let (mut index, mut bytes) = (0, 0);
        let mut next = gone.iter().peekable();
        self.messages.retain(|message| {
            let goes = next.next_if(|at| **at == index).is_some();
            index += 1;
            bytes += if goes { message.size() } else { 0 };
            !goes
        });
        let moved = |at: usize| at - gone.partition_point(|gone| *gone < at);
        self.always.iter_mut().for_each(|at| *at = moved(*at));
        self.scoped.retain(|(_, of)| *of != scope);
        self.scoped.iter_mut().for_each(|(at, _)| *at = moved(*at));
        (gone.len(), bytes)
    }
}

impl MessageQueue {
    #[inline]
    pub(crate) fn new(
        config: Arc<QueueConfig>,
        trace: TraceContext,
        cause: Option<Delivery>,
        seed: Option<Uuid>,
    ) -> Self {
        let shared = Shared { state: Mutex::default(), config, trace, cause, seed };
        Self { shared: Arc::new(shared), always: false, scope: 0 }
    }

    /// Adds a message; it leaves when the request succeeds.
    ///
    /// Gives the id of the message.
    ///
    /// # Errors
    /// [`EnqueueError`]: the queue is closed, a limit is reached, or the messenger can never send this message.
    pub fn enqueue(&self, mut message: Message) -> Result<Uuid, EnqueueError> {
        let Shared { config, trace, cause, .. } = &*self.shared;
        trace.complete(&mut message);
        if let Some(cause) = cause {
            follow(&mut message, cause.message());
        }
        config.messenger.check(&message).map_err(EnqueueError::Rejected)?;

        let size = message.size();
        let mut state = self.lock();
        if state.closed || (!self.always && self.scope > 0 && state.failed.contains(&self.scope)) {
            drop(state);
            tracing::warn!(id = %message.id(), topic = %message.topic(), "message enqueued after the response was decided: refused");
            return Err(EnqueueError::Closed);
        }
        if state.taken.messages.len() >= config.max_messages {
            return Err(EnqueueError::TooManyMessages { limit: config.max_messages });
        }
        if size > config.max_bytes.saturating_sub(state.bytes) {
            return Err(EnqueueError::TooManyBytes { limit: config.max_bytes });
        }
        if let Some(seed) = &self.shared.seed {
            message.set_once(|| Uuid::new_v5(seed, &state.enqueued.to_be_bytes()));
        }
        let id = message.id();
        telemetry::enqueued(&message);
        state.bytes += size;
        state.enqueued += 1;
        let State { taken, .. } = &mut *state;
        if self.always {
            taken.always.push(taken.messages.len());
        } else if self.scope > 0 {
            taken.scoped.push((taken.messages.len(), self.scope));
        }
        if taken.messages.is_empty() {
            // Most requests enqueue one message: do not hold room for four.
            taken.messages.reserve_exact(1);
        }
        taken.messages.push(message);
        Ok(id)
    }

    /// Serialises an event and adds it under its topic.
    ///
    /// # Errors
    /// [`EnqueueError`], as [`enqueue`](Self::enqueue), and when the event cannot be serialised.
    pub fn emit<E: Event>(&self, event: &E) -> Result<Uuid, EnqueueError> {
        let message = Message::json(E::TOPIC, event)?;
        self.enqueue(match event.key() {
            Some(key) => message.with_key(key),
            None => message,
        })
    }

    /// A handle to the same queue whose messages leave whatever the outcome: on any status, an
    /// error, a panic, a client that hangs up. For audit events.
    #[must_use]
    pub fn always(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), always: true, scope: self.scope }
    }

    /// Begins a call of an inner layer: what its handle enqueues leaves only if the call succeeds too.
    pub(crate) fn begin_call(&self) -> Call {
        let mut state = self.lock();
        state.scopes = state.scopes.wrapping_add(1).max(1);
        let (scope, enqueued) = (state.scopes, state.enqueued);
        drop(state);
        let queue = Self { shared: Arc::clone(&self.shared), always: self.always, scope };
        Call { queue, outer: self.scope, enqueued, ended: false }
    }

    /// How many messages are enqueued.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().taken.messages.len()
    }

    /// Whether no message is enqueued.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the response is decided, so that nothing can be enqueued any more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Closes the queue; gives what it held, if anything.
    #[inline]
    pub(crate) fn close(&self) -> Option<Closed> {
        let mut state = self.lock();
        state.closed = true;
        let spoiled = state.is_spoiled();
        let State { taken, slot, held, .. } = &mut *state;
        if taken.messages.is_empty() && matches!(slot, Slot::Unused) && held.is_empty() {
            return None;
        }
        let (taken, slot, held) = (std::mem::take(taken), std::mem::take(slot), std::mem::take(held));
        Some(Closed { taken, slot, spoiled, held })
    }

    #[cfg(feature = "_sql")]
    pub(crate) fn outbox(&self) -> Option<&OutboxStore> {
        self.shared.config.outbox.as_ref()
    }

    #[cfg(feature = "_sql")]
    pub(crate) fn in_flight(&self) -> &InFlight {
        &self.shared.config.in_flight
    }

    fn roll_back(&self, transaction: Option<Box<dyn Transaction>>, reason: &'static str) {
        if let Some(transaction) = transaction {
            // Without a runtime the future is dropped, and with it the transaction.
            drop(self.shared.config.in_flight.try_spawn(transaction.roll_back(reason)));
        }
    }

    /// Takes the transaction out, to be given back by [`put_back`](Self::put_back); none when the queue is closed, or the call
    /// has failed.
    #[cfg(feature = "_sql")]
    pub(crate) fn take_transaction(&self) -> Option<Slot> {
        let mut state = self.lock();
        if state.closed || state.failed.contains(&self.scope) {
            return None;
        }
        Some(match state.slot {
            Slot::Handled => Slot::Handled,
            Slot::Held => Slot::Held,
            Slot::Unused | Slot::Here(_) => {
                if !state.users.contains(&self.scope) {
                    state.users.push(self.scope);
                }
                std::mem::replace(&mut state.slot, Slot::Held)
            }
        })
    }

    /// Gives back what was taken out, which is rolled back when the response is decided already.
    #[cfg(feature = "_sql")]
    pub(crate) fn put_back(&self, slot: Slot) {
        let mut state = self.lock();
        if !state.closed {
            if !matches!(slot, Slot::Here(_)) {
                state.users.clear();
            }
            state.slot = slot;
            let failed = state.take_failed();
            drop(state);
            self.roll_back(failed, "inner");
            return;
        }
        drop(state);
        if let Slot::Here(transaction) = slot {
            self.roll_back(Some(transaction), "held");
        }
    }

    /// Keeps something until the response is decided.
    #[cfg(feature = "_sql")]
    pub(crate) fn hold(&self, held: Box<dyn Any + Send>) {
        let mut state = self.lock();
        if !state.closed {
            state.held.push(held);
        }
    }

    /// Takes out the messages of the request, or of the call this handle belongs to, but for those that leave whatever happens;
    /// none when the queue is closed.
    #[cfg(feature = "_sql")]
    pub(crate) fn take_messages(&self) -> Option<Vec<Message>> {
        let mut state = self.lock();
        if state.closed || state.failed.contains(&self.scope) {
            return None;
        }
        let Taken { messages, always, scoped } = std::mem::take(&mut state.taken);
        let (mut always, mut scoped) = (always.into_iter().peekable(), scoped.into_iter().peekable());
        let (mut kept, mut taken) = (Taken::default(), Vec::with_capacity(messages.len()));
        for (index, message) in messages.into_iter().enumerate() {
            let is_always = always.next_if_eq(&index).is_some();
            let scope = scoped.next_if(|(at, _)| *at == index).map_or(0, |(_, scope)| scope);
            if !is_always && scope == self.scope {
                taken.push(message);
                continue;
            }
            if is_always {
                kept.always.push(kept.messages.len());
            } else if scope > 0 {
                kept.scoped.push((kept.messages.len(), scope));
            }
            kept.messages.push(message);
        }
        state.bytes = kept.messages.iter().map(Message::size).sum();
        state.taken = kept;
        Some(taken)
    }

    /// Gives back messages that were taken out, which come before all others; those that are too late come back.
    #[cfg(feature = "_sql")]
    pub(crate) fn put_back_messages(&self, mut messages: Vec<Message>) -> Vec<Message> {
        let mut state = self.lock();
        if state.closed || state.failed.contains(&self.scope) {
            return messages;
        }
        let before = messages.len();
        state.bytes += messages.iter().map(Message::size).sum::<usize>();
        messages.append(&mut state.taken.messages);
        state.taken.messages = messages;
        state.taken.always.iter_mut().for_each(|index| *index += before);
        state.taken.scoped.iter_mut().for_each(|(index, _)| *index += before);
        if self.scope > 0 {
            // They stand or fall with the call that could not persist them.
            state.taken.scoped.splice(0..0, (0..before).map(|index| (index, self.scope)));
        }
        Vec::new()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The longest correlation id that is taken over from the message that is handled, in bytes.
const MAX_CORRELATION: usize = 255;

/// Says what a message follows from, unless it says so itself.
fn follow(message: &mut Message, cause: &Message) {
    let id = || cause.id().to_string();
    if message.header(CORRELATION_ID).is_none() {
        // Anybody may have sent it: one of any length would make every message of the handler impossible.
        let correlation = cause.header(CORRELATION_ID).map(Scalar::to_string);
        let correlation = correlation.filter(|text| text.len() <= MAX_CORRELATION).unwrap_or_else(id);
        message.set_header(CORRELATION_ID, correlation);
    }
    if message.header(CAUSATION_ID).is_none() {
        message.set_header(CAUSATION_ID, id());
    }
}

/// A call of an inner layer. Dropped before it has ended, it has failed.
#[derive(Debug)]
pub(crate) struct Call {
    queue: MessageQueue,
    outer: u32,
    /// How many had been enqueued before.
    enqueued: u32,
    ended: bool,
}

impl Call {
    /// What is enqueued by it belongs to the call.
    pub(crate) fn queue(&self) -> MessageQueue {
        self.queue.clone()
    }

    /// Keeps the messages of the call, or drops them but for those that leave whatever happens.
    pub(crate) fn end(mut self, success: bool) {
        self.decide(success);
    }

    fn decide(&mut self, success: bool) {
        self.ended = true;
        let mut state = self.queue.lock();
        if state.closed {
            return;
        }
        let scope = self.queue.scope;
        if success {
            let scoped = &mut state.taken.scoped;
            scoped.iter_mut().filter(|(_, of)| *of == scope).for_each(|(_, of)| *of = self.outer);
            scoped.retain(|(_, of)| *of > 0);
            state.users.iter_mut().filter(|of| **of == scope).for_each(|of| *of = self.outer);
            return;
        }
        state.failed.push(scope);
        let transaction = state.take_failed();
        let (messages, bytes) = state.taken.remove(scope);
        state.bytes = state.bytes.saturating_sub(bytes);
        // A retry of the call makes the same ids, unless others have enqueued meanwhile.
        if state.enqueued - self.enqueued == u32::try_from(messages).unwrap_or(u32::MAX) {
            state.enqueued = self.enqueued;
        }
        drop(state);
        self.queue.roll_back(transaction, "inner");
        if messages > 0 {
            telemetry::dropped(messages, "inner");
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if !self.ended {
            self.decide(false);
        }
    }
}

/// Marks the answer to a request that was not let in because its messages could not be kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TurnedAway;

impl fmt::Debug for MessageQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (len, closed) = {
            let state = self.lock();
            (state.taken.messages.len(), state.closed)
        };
        f.debug_struct("MessageQueue").field("len", &len).field("closed", &closed).finish_non_exhaustive()
    }
}

impl<S: Sync> FromRequestParts<S> for MessageQueue {
    type Rejection = MissingMessagingLayer;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        parts.extensions.get().cloned().ok_or(MissingMessagingLayer)
    }
}

impl<S: Sync> OptionalFromRequestParts<S> for MessageQueue {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Self::Rejection> {
        Ok(parts.extensions.get().cloned())
    }
}

/// The rejection of the [`MessageQueue`] extractor; answers 500.
#[derive(thiserror::Error)]
#[error("no MessageQueue in the request: add tower_outbox::MessagingLayer around this route")]
#[non_exhaustive]
pub struct MissingMessagingLayer;

debug_as_display!(MissingMessagingLayer);

impl IntoResponse for MissingMessagingLayer {
    fn into_response(self) -> Response {
        (StatusCode::INTERNAL_SERVER_ERROR, self.to_string()).into_response()
    }
}

/// Why a message was not enqueued. As a response it is a 500 whose body does not give the details.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum EnqueueError {
    /// The response is decided; the message would never leave.
    #[error("the queue is closed: the response is already decided; enqueue before the handler returns")]
    Closed,
    /// The request has enqueued as many messages as it may.
    #[error("a request may enqueue {limit} messages; raise it with MessagingLayer::with_max_messages")]
    TooManyMessages {
        /// The limit.
        limit: usize,
    },
    /// The messages of the request are as large as they may be.
    #[error("the messages of a request may hold {limit} bytes; raise it with MessagingLayer::with_max_bytes")]
    TooManyBytes {
        /// The limit, in bytes.
        limit: usize,
    },
    /// The message could not be made.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// The messenger could never send this message.
    #[error("the message can never be sent")]
    Rejected(#[source] BoxError),
}

debug_as_display!(EnqueueError);

impl From<TopicError> for EnqueueError {
    fn from(error: TopicError) -> Self {
        Self::Message(error.into())
    }
}

impl IntoResponse for EnqueueError {
    fn into_response(self) -> Response {
        tracing::error!(error = %crate::util::error::Chain(&self), "message not enqueued");
        (StatusCode::INTERNAL_SERVER_ERROR, "an event of this request could not be enqueued").into_response()
    }
}

#[cfg(all(test, feature = "_sql"))]
mod tests {
    use super::*;
    use crate::backends::dummy::Dummy;

    fn message(bytes: usize) -> Message {
        Message::new("a.b", vec![b'x'; bytes]).expect("a topic")
    }

    #[test]
    fn limits_hold_after_persist_failed_while_a_clone_enqueued() {
        let (messenger, in_flight) = (Arc::new(Dummy::new()), InFlight::default());
        let config = QueueConfig { messenger, outbox: None, in_flight, max_messages: 100, max_bytes: 1_000 };
        let queue = MessageQueue::new(Arc::new(config), TraceContext::default(), None, None);
        queue.enqueue(message(700)).unwrap();
        let persisting = queue.take_messages().unwrap();
        queue.clone().enqueue(message(700)).unwrap();
        assert!(queue.put_back_messages(persisting).is_empty());
        for bytes in [1, 50_000_000] {
            let refused = queue.enqueue(message(bytes));
            assert!(matches!(refused, Err(EnqueueError::TooManyBytes { limit: 1_000 })), "{refused:?}");
        }
    }
}
