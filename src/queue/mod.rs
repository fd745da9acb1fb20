//! The queue of one request, an extractor for its handlers.

pub(crate) mod buffer;
mod causation;
mod error;
#[cfg_attr(not(feature = "_sql"), allow(dead_code, reason = "only databases have transactions"))]
pub(crate) mod transaction;

#[cfg(feature = "_sql")]
use std::any::Any;
use std::convert::Infallible;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum_core::extract::{FromRequestParts, OptionalFromRequestParts};
use http::request::Parts;
use uuid::Uuid;

use self::buffer::{Closed, QueueBuffer};
use self::causation::follow;
pub use self::error::{EnqueueError, MissingMessagingLayer};
use self::transaction::Transaction;
#[cfg(feature = "_sql")]
use self::transaction::TransactionSlot;
use crate::message::trace_context::TraceContext;
use crate::message::{Event, Message};
use crate::messenger::in_flight::InFlight;
use crate::messenger::{Messenger, OutboxStore};
use crate::source::delivery::Delivery;
use crate::{telemetry, trace};

/// The messages of one request, which are sent when the request succeeds.
///
/// [`MessagingLayer`](crate::layer::MessagingLayer) puts one into the extensions of every request; a handler takes it
/// as an argument. A clone is a handle to the same queue, for spawned tasks too. The queue closes when the response is
/// decided: from then on `enqueue` fails with [`EnqueueError::Closed`].
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
    inner: Arc<QueueInner>,
    always: bool,
    /// The call of an inner layer that this handle belongs to; zero is the whole request.
    call: u32,
}

struct QueueInner {
    buffer: Mutex<QueueBuffer>,
    config: Arc<QueueConfig>,
    trace: TraceContext,
    /// The message that a consumer turned into the request.
    cause: Option<Delivery>,
    /// The seed of message ids, so that a retry of the request makes the same ids.
    seed: Option<Uuid>,
}

/// The configuration that all queues of a layer share.
#[derive(Clone)]
pub(crate) struct QueueConfig {
    pub(crate) messenger: Arc<dyn Messenger>,
    pub(crate) outbox: Option<OutboxStore>,
    pub(crate) in_flight: InFlight,
    pub(crate) max_messages: usize,
    pub(crate) max_bytes: usize,
}

impl MessageQueue {
    #[inline]
    pub(crate) fn new(
        config: Arc<QueueConfig>,
        trace: TraceContext,
        cause: Option<Delivery>,
        seed: Option<Uuid>,
    ) -> Self {
        let inner = QueueInner { buffer: Mutex::default(), config, trace, cause, seed };
        Self { inner: Arc::new(inner), always: false, call: 0 }
    }

    /// Adds a message, to be sent when the request succeeds; returns its id.
    ///
    /// # Errors
    /// [`EnqueueError`]: the queue is closed, a limit is reached, or the messenger can never send this message.
    pub fn enqueue(&self, mut message: Message) -> Result<Uuid, EnqueueError> {
        let span = trace::create(&mut message, &self.inner.trace);
        let added = self.add(message);
        if !span.is_none() {
            trace::created(&span, added.as_ref().ok());
        }
        added
    }

    #[inline]
    fn add(&self, mut message: Message) -> Result<Uuid, EnqueueError> {
        let QueueInner { config, cause, .. } = &*self.inner;
        if let Some(cause) = cause {
            follow(&mut message, cause.message());
        }
        config.messenger.check(&message).map_err(EnqueueError::Rejected)?;

        let size = message.size();
        let mut state = self.lock();
        if state.closed || (!self.always && self.call > 0 && state.failed.contains(&self.call)) {
            drop(state);
            tracing::warn!(id = %message.id(), topic = %message.topic(), "rejected a message enqueued after the response was decided");
            return Err(EnqueueError::Closed);
        }
        if state.taken.messages.len() >= config.max_messages {
            return Err(EnqueueError::TooManyMessages { limit: config.max_messages });
        }
        if size > config.max_bytes.saturating_sub(state.bytes) {
            return Err(EnqueueError::TooManyBytes { limit: config.max_bytes });
        }
        if let Some(seed) = &self.inner.seed {
            message.set_once(|| Uuid::new_v5(seed, &state.enqueued.to_be_bytes()));
        }
        let id = message.id();
        telemetry::enqueued(&message);
        state.bytes += size;
        state.enqueued += 1;
        let QueueBuffer { taken, .. } = &mut *state;
        if self.always {
            taken.always.push(taken.messages.len());
        } else if self.call > 0 {
            taken.scoped.push((taken.messages.len(), self.call));
        }
        if taken.messages.is_empty() {
            // Most requests enqueue one message; `Vec` would allocate space for four.
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

    /// Returns a handle to the same queue whose messages are sent whatever the outcome: on any status, an error, a panic, a
    /// client that hangs up. For audit events.
    #[must_use]
    pub fn always(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), always: true, call: self.call }
    }

    /// Begins a call of an inner layer: messages of its handle are sent only if the call succeeds too.
    pub(crate) fn begin_call(&self) -> Call {
        let mut state = self.lock();
        state.calls = state.calls.wrapping_add(1).max(1);
        let (call, enqueued) = (state.calls, state.enqueued);
        drop(state);
        let queue = Self { inner: Arc::clone(&self.inner), always: self.always, call };
        Call { queue, outer: self.call, enqueued, ended: false }
    }

    /// Returns how many messages are enqueued.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().taken.messages.len()
    }

    /// Whether no message is enqueued.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the queue is closed: the response is decided, and nothing can be enqueued any more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Closes the queue; returns its content, if it has any.
    #[inline]
    pub(crate) fn close(&self) -> Option<Closed> {
        self.lock().close()
    }

    #[cfg(feature = "_sql")]
    pub(crate) fn outbox(&self) -> Option<&OutboxStore> {
        self.inner.config.outbox.as_ref()
    }

    #[cfg(feature = "_sql")]
    pub(crate) fn in_flight(&self) -> &InFlight {
        &self.inner.config.in_flight
    }

    fn roll_back(&self, transaction: Option<Box<dyn Transaction>>, reason: &'static str) {
        if let Some(transaction) = transaction {
            // Without a runtime the future is dropped, and with it the transaction.
            drop(self.inner.config.in_flight.try_spawn(transaction.roll_back(reason)));
        }
    }

    /// Takes the transaction, to be returned by [`put_back`](Self::put_back); `None` when the queue is closed or the call
    /// has failed.
    #[cfg(feature = "_sql")]
    pub(crate) fn take_transaction(&self) -> Option<TransactionSlot> {
        let mut state = self.lock();
        if state.closed || state.failed.contains(&self.call) {
            return None;
        }
        Some(match state.slot {
            TransactionSlot::AlreadyHandled => TransactionSlot::AlreadyHandled,
            TransactionSlot::InUse => TransactionSlot::InUse,
            TransactionSlot::Empty | TransactionSlot::Idle(_) => {
                if !state.users.contains(&self.call) {
                    state.users.push(self.call);
                }
                std::mem::replace(&mut state.slot, TransactionSlot::InUse)
            }
        })
    }

    /// Returns a taken transaction; it is rolled back when the response is already decided.
    #[cfg(feature = "_sql")]
    pub(crate) fn put_back(&self, slot: TransactionSlot) {
        let mut state = self.lock();
        if !state.closed {
            if !matches!(slot, TransactionSlot::Idle(_)) {
                state.users.clear();
            }
            state.slot = slot;
            let failed = state.take_failed();
            drop(state);
            self.roll_back(failed, "inner");
            return;
        }
        drop(state);
        if let TransactionSlot::Idle(transaction) = slot {
            self.roll_back(Some(transaction), "held");
        }
    }

    /// Keeps a value until the response is decided.
    #[cfg(feature = "_sql")]
    pub(crate) fn keep_until_decided(&self, value: Box<dyn Any + Send>) {
        let mut state = self.lock();
        if !state.closed {
            state.until_decided.push(value);
        }
    }

    /// Takes the messages of the request, or of the call of this handle, except those sent whatever the outcome; `None`
    /// when the queue is closed.
    #[cfg(feature = "_sql")]
    pub(crate) fn take_messages(&self) -> Option<Vec<Message>> {
        let mut state = self.lock();
        let is_open = !state.closed && !state.failed.contains(&self.call);
        is_open.then(|| state.take_messages(self.call))
    }

    /// Puts taken messages back, before all others; returns them when the queue is closed.
    #[cfg(feature = "_sql")]
    pub(crate) fn put_back_messages(&self, messages: Vec<Message>) -> Vec<Message> {
        let mut state = self.lock();
        if state.closed || state.failed.contains(&self.call) {
            return messages;
        }
        state.put_back_messages(messages, self.call);
        Vec::new()
    }

    fn lock(&self) -> MutexGuard<'_, QueueBuffer> {
        self.inner.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call of an inner layer. Dropping it before its end counts as a failure.
#[derive(Debug)]
pub(crate) struct Call {
    queue: MessageQueue,
    outer: u32,
    /// How many messages were enqueued before the call.
    enqueued: u32,
    ended: bool,
}

impl Call {
    /// Returns a handle whose messages belong to the call.
    pub(crate) fn queue(&self) -> MessageQueue {
        self.queue.clone()
    }

    /// Keeps the messages of the call, or drops them except those sent whatever the outcome.
    pub(crate) fn end(mut self, success: bool) {
        self.decide(success);
    }

    fn decide(&mut self, success: bool) {
        self.ended = true;
        let mut state = self.queue.lock();
        if state.closed {
            return;
        }
        let call = self.queue.call;
        if success {
            let scoped = &mut state.taken.scoped;
            scoped.iter_mut().filter(|(_, of)| *of == call).for_each(|(_, of)| *of = self.outer);
            scoped.retain(|(_, of)| *of > 0);
            state.users.iter_mut().filter(|of| **of == call).for_each(|of| *of = self.outer);
            return;
        }
        state.failed.push(call);
        let transaction = state.take_failed();
        let (messages, bytes) = state.taken.remove(call);
        state.bytes = state.bytes.saturating_sub(bytes);
        // A retry of the call makes the same ids, unless other calls enqueued in between.
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
