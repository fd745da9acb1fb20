//! Sending the messages of a request, or committing them with its transaction, to the end.

use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use tracing::Instrument;

use super::config::LayerConfig;
use super::on_send_failure::SendOutcome;
use crate::message::Message;
use crate::messenger::{Failure, Overloaded, Unsent};
use crate::queue::buffer::Taken;
use crate::queue::transaction::Transaction;
use crate::util::caught::{called, caught};
use crate::{telemetry, trace};

/// Why messages are not sent although their request was admitted.
const TOO_MANY: &str = "too many messages wait for the broker's confirm; \
    see REQUEST.MAX_MESSAGES_IN_FLIGHT and MAX_BYTES_IN_FLIGHT";

/// Commits the transaction with the messages in it. If that fails, sends the messages that are sent whatever the outcome.
pub(super) fn commit(
    config: Arc<LayerConfig>,
    transaction: Box<dyn Transaction>,
    mut taken: Taken,
) -> impl Future<Output = SendOutcome> + Send + 'static {
    let mut always = Taken::default();
    if !taken.always.is_empty() {
        always.messages = taken.messages.clone();
        always.always = std::mem::take(&mut taken.always);
        always.retain_always();
    }
    let guard = LostUnlessEnded { messages: always.messages.len(), ended: false };
    let others = taken.messages.len() - always.messages.len();
    let span = trace::store(&taken.messages);
    let commit = caught(transaction.commit(taken.messages)).instrument(span.clone());
    async move {
        let transient = match commit.await {
            Some(Ok(stored)) => {
                guard.end();
                if let Some(outbox) = config.queue.outbox.as_ref().filter(|_| stored > 0) {
                    outbox.record(stored);
                }
                return SendOutcome::Sent;
            }
            Some(Err(failure)) => failure.is_transient(),
            None => false,
        };
        trace::failed(&span, "rolled_back");
        if others > 0 {
            telemetry::dropped(others, "transaction");
        }
        guard.end();
        if !always.messages.is_empty() {
            let _ = caught(send(config, always.messages)).await;
        }
        if transient { SendOutcome::Unavailable } else { SendOutcome::Failed }
    }
}

/// Sends a batch; unsent messages are logged, counted and passed to `on_unsent`.
pub(super) fn send(
    config: Arc<LayerConfig>,
    messages: Vec<Message>,
) -> impl Future<Output = SendOutcome> + Send + 'static {
    // Made here, not at the first poll: the future may be dropped before it.
    let guard = LostUnlessEnded { messages: messages.len(), ended: false };
    async move {
        let unsent = send_and_log(&config, messages).await;
        guard.end();
        outcome(&config, unsent)
    }
}

async fn send_and_log(config: &LayerConfig, messages: Vec<Message>) -> Unsent {
    let (count, begun) = (messages.len(), Instant::now());
    let unsent = match config.flight.take(&messages, config.flight_limits) {
        Some(_in_flight) => config.queue.messenger.send(messages).await.err().unwrap_or_default(),
        None => Unsent::new(messages, &Failure::transient(Overloaded::new(TOO_MANY))),
    };
    if unsent.len() < count {
        telemetry::sent(config.stage, config.backend.as_ref(), count - unsent.len(), begun.elapsed());
    }
    unsent.log();
    unsent
}

fn outcome(config: &LayerConfig, unsent: Unsent) -> SendOutcome {
    if unsent.is_empty() {
        return SendOutcome::Sent;
    }
    let overloaded = unsent.iter().any(|(_, failure)| failure.cause().is::<Overloaded>());
    if let Some(on_unsent) = &config.on_unsent
        && called(|| on_unsent(unsent)).is_none()
    {
        tracing::error!("the on_unsent hook panicked");
    }
    if overloaded { SendOutcome::Overloaded } else { SendOutcome::Unsent }
}

/// Logs messages as lost when a hook or the messenger panics, or the runtime drops the send.
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
            let cause = if std::thread::panicking() { "a panic" } else { "the runtime stopped" };
            telemetry::lost(self.messages, &cause);
        }
    }
}
