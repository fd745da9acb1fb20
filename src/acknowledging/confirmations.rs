//! The worker that receives confirmations.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::awaited::{Answer, Awaited, Confirmed};
use super::confirmation::{confirmation, confirmed_by};
use super::return_path::ReturnPath;
use super::settings::AcknowledgingSettings;
use crate::messenger::Messenger;
use crate::source::{Source, SourceError, Unsettled};
use crate::telemetry;
use crate::util::backoff::Backoff;
use crate::util::caught::caught;
use crate::util::error::Chain;

/// How many confirmations are received at a time.
const BATCH: usize = 256;

/// How long the first proof may take; a later one takes up to twice the one before.
const FIRST_PROOF: Duration = Duration::from_millis(250);

/// The receiver of confirmations, for one [`Acknowledging`](super::Acknowledging). A clone is a handle to the same.
#[derive(Clone, Debug)]
pub struct Confirmations {
    awaited: Arc<Awaited>,
    path: Arc<ReturnPath>,
    settings: AcknowledgingSettings,
}

impl Confirmations {
    pub(super) fn new(awaited: Arc<Awaited>, path: Arc<ReturnPath>, settings: AcknowledgingSettings) -> Self {
        Self { awaited, path, settings }
    }

    /// Receives confirmations from `source` until `shutdown`, and proves at the start, and when a confirmation is missing, that they
    /// come back: it sends one to itself through `messenger`, which is the one inside of
    /// [`Acknowledging`](super::Acknowledging). All messages of the source are acknowledged, whatever they are.
    ///
    /// # Cancel safety
    /// Dropping the future loses confirmations that were received and not handed on: their messages are sent again.
    pub async fn receive<S: Source, M: Messenger>(
        self,
        source: S,
        messenger: M,
        shutdown: impl Future<Output = ()>,
    ) {
        let address = self.settings.address.as_str();
        self.path.block(format!("no confirmation has come back to {address} yet"));
        let mut received = pin!(self.receive_all(&source));
        let mut proved = pin!(self.prove_when_doubted(&messenger));
        tokio::select! {
            () = shutdown => {}
            () = &mut received => tracing::error!(address, "the source of confirmations was closed; no message is confirmed any more"),
            () = &mut proved => {}
        }
        self.close();
        source.close(self.settings.timeout).await;
    }

    /// Ends all sends that wait for a confirmation, now and later: for the time when nothing receives confirmations any more.
    /// Their messages come back as transient.
    pub fn close(&self) {
        self.path.close();
    }

    /// Opens the way back without a proof, for a queue that holds both messages and confirmations.
    pub(super) fn open(&self) {
        self.path.open();
    }

    /// Hands on the confirmation in a received message. Returns the message if it is another one.
    pub(super) fn take(&self, unsettled: Unsettled) -> Result<Unsettled, Unsettled> {
        let confirmed = match unsettled.view() {
            Ok(view) => confirmed_by(view.message(), self.settings.address.topic()),
            Err(_) => None,
        };
        match confirmed {
            None => return Err(unsettled),
            Some(Ok((id, answer))) => {
                let is_rejected = answer != Answer::Handled;
                let outcome = match self.awaited.confirm(id, answer) {
                    Confirmed::InTime if is_rejected => "rejected",
                    outcome => outcome.as_str(),
                };
                telemetry::confirmation_received(outcome, &id);
            }
            Some(Err(reason)) => telemetry::no_confirmation(&reason),
        }
        Ok(unsettled)
    }

    async fn receive_all(&self, source: &impl Source) {
        let mut settling = JoinSet::new();
        loop {
            let received = caught(source.receive(BATCH)).await;
            let received = received.unwrap_or_else(|| Err(SourceError::unavailable("the source panicked")));
            match received {
                Ok(received) => {
                    let taken =
                        received.into_iter().map(|unsettled| self.take(unsettled).unwrap_or_else(ignored));
                    settling.spawn(acknowledge(taken.collect()));
                    while settling.try_join_next().is_some() {}
                }
                Err(SourceError::Closed) => return,
                Err(error) => {
                    let reason = format!("confirmations cannot be received: {}", Chain(&error));
                    tracing::error!(%reason, "failed to receive confirmations; retrying");
                    self.path.block(reason);
                    self.path.doubt();
                    sleep(FIRST_PROOF).await;
                }
            }
        }
    }

    async fn prove_when_doubted(&self, messenger: &impl Messenger) {
        loop {
            self.prove(messenger).await;
            self.path.doubted().await;
        }
    }

    /// Sends confirmations to itself until one comes back.
    async fn prove(&self, messenger: &impl Messenger) {
        let address = &self.settings.address;
        let mut wait = FIRST_PROOF;
        for attempt in 0_u32.. {
            let id = Uuid::from_u128(rand::random());
            let Ok(mut proof) = self.awaited.await_one(id) else { continue };
            let sent = caught(messenger.send(vec![confirmation(id.to_string(), address.topic())])).await;
            let reason = match sent {
                Some(Ok(())) if proof.come_by(Instant::now() + wait).await.is_some() => {
                    proof.done();
                    return self.path.open();
                }
                Some(Ok(())) => format!(
                    "no confirmation comes back to {}: see whether ACK_ADDRESS may be read",
                    address.as_str()
                ),
                Some(Err(unsent)) => {
                    format!("a confirmation to {} cannot be sent: {unsent}", address.as_str())
                }
                None => "the messenger panicked".to_owned(),
            };
            proof.done();
            // A missing proof may be due to a subscription that has just begun.
            if attempt > 0 {
                tracing::warn!(%reason, "messages wait until their confirmations can come back");
                self.path.block(reason);
            }
            sleep(Backoff::default().delay(attempt)).await;
            wait = (wait * 2).min(self.settings.timeout);
        }
    }
}

/// Counts a message at the address of confirmations that is none.
fn ignored(unsettled: Unsettled) -> Unsettled {
    match unsettled.view() {
        Ok(view) => {
            telemetry::no_confirmation(&format_args!("message {} confirms nothing", view.message().id()))
        }
        Err(reason) => telemetry::no_confirmation(reason),
    }
    unsettled
}

async fn acknowledge(taken: Vec<Unsettled>) {
    for unsettled in taken {
        if let Err(error) = unsettled.ack().await {
            tracing::debug!(error = %Chain(&error), "failed to acknowledge a confirmation; it comes again");
        }
    }
}
