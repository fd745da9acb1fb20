//! What happens to a request's queue when its outcome is known.

use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use http::{request, response};

use super::flight::{Flight, FlightLimits};
use crate::message::Message;
use crate::messenger::{Admission, Failure, Overloaded, Unsent};
use crate::queue::transaction::{Slot, Transaction};
use crate::queue::{Closed, MessageQueue, QueueConfig, Taken};
use crate::store::admission::Admitted;
use crate::telemetry;
use crate::util::caught::{called, caught};

type Enrich = dyn Fn(&request::Parts, &response::Parts, &mut Message) + Send + Sync;

/// What the client gets when the messages of its successful request could not be sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "settings", derive(serde::Deserialize), serde(rename_all = "lowercase"))]
pub enum OnSendFailure {
    /// The response of the handler is kept, as in PDC: a 2xx may go out whose messages are lost. They are logged.
    Log,
    /// The client gets 503 with `Retry-After`; the messages are logged. The default.
    #[default]
    Reject,
}

#[derive(Clone)]
pub(super) struct Config {
    pub(super) queue: Arc<QueueConfig>,
    pub(super) admission: Option<Admission>,
    pub(super) flight: Flight,
    pub(super) flight_limits: FlightLimits,
    pub(super) on_send_failure: OnSendFailure,
    pub(super) success: fn(&response::Parts) -> bool,
    pub(super) idempotency_key: bool,
    pub(super) enrich: Option<Arc<Enrich>>,
    pub(super) on_unsent: Option<Arc<dyn Fn(Unsent) + Send + Sync>>,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("max_messages", &self.queue.max_messages)
            .field("max_bytes", &self.queue.max_bytes)
            .field("on_send_failure", &self.on_send_failure)
            .finish_non_exhaustive()
    }
}

const GRPC_STATUS: http::HeaderName = http::HeaderName::from_static("grpc-status");

/// The default rule of [`MessagingLayer::with_success`](super::MessagingLayer::with_success).
pub(crate) fn is_success(response: &response::Parts) -> bool {
    response.status.is_success() && response.headers.get(GRPC_STATUS).is_none_or(|status| status == "0")
}

/// What is done before the response goes out.
pub(super) enum End {
    /// Nothing.
    Done,
    /// It is known how it ends.
    Known(Fate),
    /// Messages are sent, a transaction is committed.
    Work {
        work: Pin<Box<dyn Future<Output = Fate> + Send>>,
        messages: usize,
        /// The response may still be changed by how they fare.
        success: bool,
    },
}

/// The end of one request's queue: closes it exactly once, on a response or on the lack of one.
#[derive(Debug)]
pub(super) struct Flush {
    config: Arc<Config>,
    queue: MessageQueue,
    request: Option<Box<request::Parts>>,
    admitted: Option<Admitted>,
    closed: bool,
    /// The inner future is being polled: a drop that finds it so comes from a panic.
    pub(super) polling: bool,
}

impl Flush {
    #[inline]
    pub(super) fn new(
        config: Arc<Config>,
        queue: MessageQueue,
        request: Option<Box<request::Parts>>,
        admitted: Option<Admitted>,
    ) -> Self {
        Self { config, queue, request, admitted, closed: false, polling: false }
    }

    pub(super) fn config(&self) -> &Arc<Config> {
        &self.config
    }

    /// Closes the queue; gives what it held, if anything.
    pub(super) fn close(&mut self) -> Option<Closed> {
        self.closed = true;
        let closed = self.queue.close();
        if closed.is_none() {
            self.admitted = None;
        }
        closed
    }

    /// Decides what becomes of the messages and of the transaction with this response.
    ///
    /// # Panics
    /// When a hook of the layer does; the request has ended then as when its handler panics.
    pub(super) fn decide(&mut self, closed: Closed, response: &response::Parts) -> End {
        let success = match catch_unwind(AssertUnwindSafe(|| (self.config.success)(response))) {
            Ok(success) => success && !matches!(closed.slot, Slot::Handled),
            Err(panic) => {
                self.give_up(closed, "panic");
                resume_unwind(panic);
            }
        };
        let Closed { mut taken, slot, spoiled, held: decided } = closed;
        let held = success && matches!(slot, Slot::Held);
        let spoiled = success && !held && spoiled;
        if !success || held || spoiled {
            let reason = if held {
                "held"
            } else if spoiled {
                "inner"
            } else {
                "status"
            };
            drop_all_but_always(&mut taken, reason);
        }
        let enriched = catch_unwind(AssertUnwindSafe(|| {
            if let (Some(enrich), Some(request)) = (&self.config.enrich, &self.request) {
                for message in &mut taken.messages {
                    enrich(request, response, message);
                }
            }
        }));
        if let Err(panic) = enriched {
            if !success || held || spoiled {
                // The others are dropped already.
                taken.always = (0..taken.messages.len()).collect();
            }
            self.give_up(Closed { taken, slot, spoiled, held: decided }, "panic");
            resume_unwind(panic);
        }
        let admitted = self.admitted.take();
        let config = || Arc::clone(&self.config);
        let messages = taken.messages.len();
        let work = match slot {
            Slot::Here(transaction) if spoiled => {
                tracing::error!(
                    "a Tx was used by a call that failed inside of this one, and outside of it too: nothing is committed, and the \
                     answer is 500; let each of the two begin its own, or answer as the call did"
                );
                let (rolled_back, send) = (transaction.roll_back("inner"), config().send(taken.messages));
                self.config.queue.in_flight.spawn(with(admitted, async move {
                    rolled_back.await;
                    if messages > 0 {
                        send.await;
                    }
                }));
                return End::Known(Fate::Failed);
            }
            Slot::Here(transaction) if success => {
                let commit = config().commit(transaction, taken);
                with(admitted, async move {
                    let fate = commit.await;
                    drop(decided);
                    fate
                })
            }
            Slot::Here(transaction) if messages == 0 => {
                self.config.queue.in_flight.spawn(transaction.roll_back("status"));
                return End::Done;
            }
            Slot::Here(transaction) => {
                let (rolled_back, send) = (transaction.roll_back("status"), config().send(taken.messages));
                with(admitted, async move {
                    rolled_back.await;
                    send.await
                })
            }
            Slot::Held if held => {
                tracing::error!(
                    "a Tx is still alive while a response that is a success is ready: nothing is committed, and the answer is 500; \
                     drop it before the handler returns, in spawned tasks and streaming bodies too"
                );
                if messages > 0 {
                    // In SQLite that waits for whoever holds it; the response does not.
                    self.config.queue.in_flight.spawn(with(admitted, config().send(taken.messages)));
                }
                return End::Known(Fate::Failed);
            }
            _ if messages == 0 => return End::Done,
            _ => with(admitted, config().send(taken.messages)),
        };
        End::Work { work, messages, success }
    }

    /// Ends a request that has no response.
    pub(super) fn abandon(&mut self, reason: &'static str) {
        if let Some(closed) = self.close() {
            self.give_up(closed, reason);
        }
    }

    /// Drops the messages but for those that leave whatever happens, and rolls the transaction back.
    fn give_up(&mut self, closed: Closed, reason: &'static str) {
        let Closed { mut taken, slot, .. } = closed;
        let admitted = self.admitted.take();
        drop_all_but_always(&mut taken, reason);
        let transaction = if let Slot::Here(transaction) = slot { Some(transaction) } else { None };
        if taken.messages.is_empty() && transaction.is_none() {
            return;
        }
        let rolled_back = transaction.map(|transaction| transaction.roll_back(reason));
        let send = (!taken.messages.is_empty()).then(|| Arc::clone(&self.config).send(taken.messages));
        let end = async move {
            if let Some(rolled_back) = rolled_back {
                rolled_back.await;
            }
            if let Some(send) = send {
                send.await;
            }
        };
        // Without a runtime the future is dropped, and says what is lost.
        drop(self.config.queue.in_flight.try_spawn(with(admitted, end)));
    }
}

impl Drop for Flush {
    fn drop(&mut self) {
        if !self.closed {
            let is_panic = self.polling || std::thread::panicking();
            self.abandon(if is_panic { "panic" } else { "cancelled" });
        }
    }
}

/// Sends with the room that is reserved for it.
fn with<T>(
    admitted: Option<Admitted>,
    send: impl Future<Output = T> + Send + 'static,
) -> Pin<Box<dyn Future<Output = T> + Send>> {
    match admitted {
        None => Box::pin(send),
        Some(admitted) => Box::pin(admitted.send(send)),
    }
}

fn drop_all_but_always(taken: &mut Taken, reason: &'static str) {
    let dropped = taken.retain_always();
    if dropped > 0 {
        telemetry::dropped(dropped, reason);
    }
}

/// How a batch fared, as far as the response cares.
pub(super) enum Fate {
    Sent,
    Unsent,
    /// The messenger refused it: answer 503 whatever the setting.
    Overloaded,
    /// The transaction is not committed, and may be the next time: 503.
    Unavailable,
    /// The transaction is not committed: 500.
    Failed,
}

/// What a request enqueues could not be taken over now.
pub(super) struct Full;

impl Config {
    /// Lets a request in, with room for a message where that is reserved; `Err` when there is none.
    #[inline]
    pub(super) fn enter(&self) -> Result<Option<Admitted>, Full> {
        if self.flight.is_full(self.flight_limits) {
            return Err(Full);
        }
        match &self.admission {
            None => Ok(None),
            Some(gate) => gate.enter().map(Some).ok_or(Full),
        }
    }

    /// Commits the transaction, with the messages in it; when that fails, sends those that leave whatever happens.
    fn commit(
        self: Arc<Self>,
        transaction: Box<dyn Transaction>,
        mut taken: Taken,
    ) -> impl Future<Output = Fate> + Send + 'static {
        let mut always = Taken::default();
        if !taken.always.is_empty() {
            always.messages = taken.messages.clone();
            always.always = std::mem::take(&mut taken.always);
            always.retain_always();
        }
        let guard = LostUnlessEnded { messages: always.messages.len(), ended: false };
        let others = taken.messages.len() - always.messages.len();
        let commit = transaction.commit(taken.messages);
        async move {
            let transient = match caught(commit).await {
                Some(Ok(stored)) => {
                    guard.end();
                    if let Some(outbox) = self.queue.outbox.as_ref().filter(|_| stored > 0) {
                        outbox.record(stored);
                    }
                    return Fate::Sent;
                }
                Some(Err(failure)) => failure.is_transient(),
                None => false,
            };
            if others > 0 {
                telemetry::dropped(others, "transaction");
            }
            guard.end();
            if !always.messages.is_empty() {
                let _ = caught(self.send(always.messages)).await;
            }
            if transient { Fate::Unavailable } else { Fate::Failed }
        }
    }

    /// Sends a batch to its end; what comes back is logged, counted and given to `on_unsent`.
    pub(super) fn send(
        self: Arc<Self>,
        messages: Vec<Message>,
    ) -> impl Future<Output = Fate> + Send + 'static {
        // Made here, not at the first poll: the future may be dropped before it.
        let guard = LostUnlessEnded { messages: messages.len(), ended: false };
        async move {
            let unsent = self.send_and_log(messages).await;
            guard.end();
            self.fate(unsent)
        }
    }

    async fn send_and_log(&self, messages: Vec<Message>) -> Unsent {
        let (count, begun) = (messages.len(), Instant::now());
        let unsent = match self.flight.take(&messages, self.flight_limits) {
            Some(_flying) => self.queue.messenger.send(messages).await.err().unwrap_or_default(),
            None => Unsent::new(messages, &Failure::transient(Overloaded::new(TOO_MANY))),
        };
        if unsent.len() < count {
            telemetry::sent(count - unsent.len(), begun.elapsed());
        }
        unsent.log();
        unsent
    }

    fn fate(&self, unsent: Unsent) -> Fate {
        if unsent.is_empty() {
            return Fate::Sent;
        }
        let refused = unsent.iter().any(|(_, failure)| is_refused(failure));
        if let Some(on_unsent) = &self.on_unsent
            && called(|| on_unsent(unsent)).is_none()
        {
            tracing::error!("the hook for messages that could not be sent panicked");
        }
        if refused { Fate::Overloaded } else { Fate::Unsent }
    }
}

/// Why messages are not sent though their request was let in.
const TOO_MANY: &str = "too many messages are being sent, and wait for the bus; \
    see REQUEST.MAX_MESSAGES_IN_FLIGHT and MAX_BYTES_IN_FLIGHT";

fn is_refused(failure: &Failure) -> bool {
    failure.cause().is::<Overloaded>()
}

/// Says that messages are gone when a hook or the messenger panics, or the runtime drops the send half-way.
struct LostUnlessEnded {
    messages: usize,
    ended: bool,
}

impl LostUnlessEnded {
    fn end(mut self) {
        self.ended = true;
    }
}

impl Drop for LostUnlessEnded {
    fn drop(&mut self) {
        if !self.ended && self.messages > 0 {
            let cause = if std::thread::panicking() { "a panic" } else { "there is no runtime any more" };
            telemetry::lost(self.messages, &cause);
        }
    }
}
