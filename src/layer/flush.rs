//! Deciding what happens to a request's queue when its outcome is known.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::Arc;

use http::{StatusCode, request, response};

use super::commit::{commit, send};
use super::config::LayerConfig;
use super::on_send_failure::SendOutcome;
use crate::queue::MessageQueue;
use crate::queue::buffer::{Closed, Taken};
use crate::queue::transaction::TransactionSlot;
use crate::store::admission::Admitted;
use crate::telemetry;

/// The work that remains before the client gets the response.
pub(super) enum Decision {
    /// Nothing.
    Done,
    /// Nothing; the outcome is known.
    Known(SendOutcome),
    /// Messages are sent, or a transaction is committed.
    Work {
        work: Pin<Box<dyn Future<Output = SendOutcome> + Send>>,
        messages: usize,
        /// Whether the outcome of the work may change the response.
        success: bool,
    },
}

/// Ends one request's queue: closes it exactly once, with a response or without one.
#[derive(Debug)]
pub(super) struct Flush {
    config: Arc<LayerConfig>,
    queue: MessageQueue,
    request: Option<Box<request::Parts>>,
    admitted: Option<Admitted>,
    closed: bool,
    /// Whether the inner future is being polled: a drop during a poll means a panic.
    pub(super) polling: bool,
}

impl Flush {
    #[inline]
    pub(super) fn new(
        config: Arc<LayerConfig>,
        queue: MessageQueue,
        request: Option<Box<request::Parts>>,
        admitted: Option<Admitted>,
    ) -> Self {
        Self { config, queue, request, admitted, closed: false, polling: false }
    }

    pub(super) fn config(&self) -> &Arc<LayerConfig> {
        &self.config
    }

    /// Closes the queue; returns its content, if it has any.
    pub(super) fn close(&mut self) -> Option<Closed> {
        self.closed = true;
        let closed = self.queue.close();
        if closed.is_none() {
            self.admitted = None;
        }
        closed
    }

    /// Decides what happens to the messages and the transaction with this response.
    ///
    /// # Panics
    /// When a hook of the layer panics; the request has then ended as if its handler had panicked.
    pub(super) fn decide(&mut self, closed: Closed, response: &response::Parts) -> Decision {
        let success = match catch_unwind(AssertUnwindSafe(|| (self.config.success)(response))) {
            Ok(success) => success && !matches!(closed.slot, TransactionSlot::AlreadyHandled),
            Err(panic) => {
                self.give_up(closed, "panic");
                resume_unwind(panic);
            }
        };
        let Closed { mut taken, slot, spoiled, until_decided } = closed;
        let in_use = success && matches!(slot, TransactionSlot::InUse);
        let spoiled = success && !in_use && spoiled;
        if in_use {
            drop_all_but_always(&mut taken, "held");
        } else if spoiled {
            drop_all_but_always(&mut taken, "inner");
        } else if !success {
            drop_by_status(&mut taken, response.status);
        }
        let enriched = catch_unwind(AssertUnwindSafe(|| {
            if let (Some(enrich), Some(request)) = (&self.config.enrich, &self.request) {
                for message in &mut taken.messages {
                    enrich(request, response, message);
                }
            }
        }));
        if let Err(panic) = enriched {
            if !success || in_use || spoiled {
                // The other messages are dropped already.
                taken.always = (0..taken.messages.len()).collect();
            }
            self.give_up(Closed { taken, slot, spoiled, until_decided }, "panic");
            resume_unwind(panic);
        }
        let admitted = self.admitted.take();
        let config = || Arc::clone(&self.config);
        let messages = taken.messages.len();
        let work = match slot {
            TransactionSlot::Idle(transaction) if spoiled => {
                tracing::error!(
                    "rolled back and answered 500: a Tx was used both by an inner call that failed and outside it; begin one in \
                     each of the two, or answer as the inner call did"
                );
                let (rolled_back, send) = (transaction.roll_back("inner"), send(config(), taken.messages));
                self.config.queue.in_flight.spawn(with(admitted, async move {
                    rolled_back.await;
                    if messages > 0 {
                        send.await;
                    }
                }));
                return Decision::Known(SendOutcome::Failed);
            }
            TransactionSlot::Idle(transaction) if success => {
                let commit = commit(config(), transaction, taken);
                with(admitted, async move {
                    let outcome = commit.await;
                    drop(until_decided);
                    outcome
                })
            }
            TransactionSlot::Idle(transaction) if messages == 0 => {
                self.config.queue.in_flight.spawn(transaction.roll_back("status"));
                return Decision::Done;
            }
            TransactionSlot::Idle(transaction) => {
                let (rolled_back, send) = (transaction.roll_back("status"), send(config(), taken.messages));
                with(admitted, async move {
                    rolled_back.await;
                    send.await
                })
            }
            TransactionSlot::InUse if in_use => {
                tracing::error!(
                    "rolled back and answered 500: a Tx was still alive when a successful response was ready; drop it before the \
                     handler returns, in spawned tasks and streaming bodies too"
                );
                if messages > 0 {
                    // In SQLite sending waits for the holder of the transaction; the response does not.
                    self.config.queue.in_flight.spawn(with(admitted, send(config(), taken.messages)));
                }
                return Decision::Known(SendOutcome::Failed);
            }
            _ if messages == 0 => return Decision::Done,
            _ => with(admitted, send(config(), taken.messages)),
        };
        Decision::Work { work, messages, success }
    }

    /// Ends a request that has no response.
    pub(super) fn abandon(&mut self, reason: &'static str) {
        if let Some(closed) = self.close() {
            self.give_up(closed, reason);
        }
    }

    /// Drops the messages except those sent whatever the outcome, and rolls the transaction back.
    fn give_up(&mut self, closed: Closed, reason: &'static str) {
        let Closed { mut taken, slot, .. } = closed;
        let admitted = self.admitted.take();
        drop_all_but_always(&mut taken, reason);
        let transaction =
            if let TransactionSlot::Idle(transaction) = slot { Some(transaction) } else { None };
        if taken.messages.is_empty() && transaction.is_none() {
            return;
        }
        let rolled_back = transaction.map(|transaction| transaction.roll_back(reason));
        let send = (!taken.messages.is_empty()).then(|| send(Arc::clone(&self.config), taken.messages));
        let end = async move {
            if let Some(rolled_back) = rolled_back {
                rolled_back.await;
            }
            if let Some(send) = send {
                send.await;
            }
        };
        // Without a runtime the future is dropped, and logs the messages as lost.
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

/// Sends with the capacity that is reserved for the request.
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
    if !dropped.is_empty() {
        telemetry::dropped(dropped.len(), reason);
    }
}

fn drop_by_status(taken: &mut Taken, status: StatusCode) {
    let dropped = taken.retain_always();
    if !dropped.is_empty() {
        telemetry::dropped_by_status(&dropped, status);
    }
}
