//! StreamQueueMessage: one message at a time, held for its visibility.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tonic::{Status, Streaming};

use super::access::{Caller, Right};
use super::check;
use super::convert;
use super::face::Face;
use super::fault::{self, Fault, Refusal};
use super::queues;
use crate::channels::{ChannelKind, Engine, EngineError, Receipt, Receive, Settle, Which};
use crate::kubemq_wire::{
    StreamQueueMessagesRequest, StreamQueueMessagesResponse, StreamRequestType as Kind,
};

/// Serves one message: the stream ends once it is settled, when its visibility ends, and when there was none.
pub(super) async fn serve(
    face: Arc<Face>,
    caller: Caller,
    mut requests: Streaming<StreamQueueMessagesRequest>,
    answers: mpsc::Sender<StreamQueueMessagesResponse>,
) -> Result<(), Status> {
    let mut held: Option<Held> = None;
    loop {
        let expiry = held.as_ref().map(|held| held.until);
        let request = tokio::select! {
            request = requests.message() => request?,
            () = sleep_until(expiry.unwrap_or_else(Instant::now)), if expiry.is_some() => {
                // The engine has sent the message to the tail of its queue.
                if let Some(held) = held.take() {
                    held.forget();
                }
                let _ = answers.send(failure(String::new(), Kind::ReceiveMessage, &fault::VISIBILITY_EXPIRED.into())).await;
                return Ok(());
            }
        };
        // The end of the client's side gives the message up.
        let Some(request) = request else { return Ok(()) };
        let (id, kind) = (request.request_id.clone(), request.stream_request_type_data());
        let (answer, is_over) = match handle(&face, &caller, &mut held, request, kind).await {
            Ok((message, is_over)) => {
                let answer = StreamQueueMessagesResponse {
                    request_id: id,
                    stream_request_type_data: kind as i32,
                    message,
                    ..Default::default()
                };
                (answer, is_over)
            }
            Err(refusal) => {
                let is_over =
                    matches!(refusal, Refusal::Fault(fault::NO_MESSAGE | fault::VISIBILITY_EXPIRED));
                (failure(id, kind, &refusal), is_over)
            }
        };
        let _ = answers.send(answer).await;
        if is_over {
            return Ok(());
        }
    }
}

fn failure(request_id: String, kind: Kind, refusal: &Refusal) -> StreamQueueMessagesResponse {
    StreamQueueMessagesResponse {
        request_id,
        stream_request_type_data: kind as i32,
        message: None,
        is_error: true,
        error: refusal.to_string(),
    }
}

/// A message that the stream holds. Dropping it rejects the message, as the real server does when the client goes away: a
/// message that kills its consumers becomes a dead letter.
struct Held {
    engine: Arc<dyn Engine>,
    receipt: Option<Receipt>,
    sequence: u64,
    until: Instant,
}

impl Held {
    /// Its message is settled.
    fn forget(mut self) {
        self.receipt = None;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let Some(receipt) = self.receipt.take() else { return };
        let engine = Arc::clone(&self.engine);
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => {
                runtime.spawn(async move {
                    let reject = Settle::Reject { delay: Duration::ZERO };
                    if engine.settle(receipt, Which::All, reject).await.is_err() {
                        engine.release(receipt);
                    }
                });
            }
            Err(_no_runtime) => engine.release(receipt),
        }
    }
}

type Done = (Option<crate::kubemq_wire::QueueMessage>, bool);

async fn handle(
    face: &Face,
    caller: &Caller,
    held: &mut Option<Held>,
    request: StreamQueueMessagesRequest,
    kind: Kind,
) -> Result<Done, Refusal> {
    check::text("request id", &request.request_id)?;
    check::client(&request.client_id)?;
    match kind {
        Kind::ReceiveMessage => receive(face, caller, held, &request).await,
        Kind::AckMessage => {
            acked(held, request.ref_sequence, fault::NOTHING_TO_ACK)?;
            settle(held, Settle::Ack, fault::NOTHING_TO_ACK).await
        }
        Kind::RejectMessage => {
            acked(held, request.ref_sequence, fault::NOTHING_TO_REJECT)?;
            settle(held, Settle::Reject { delay: Duration::ZERO }, fault::NOTHING_TO_REJECT).await
        }
        Kind::ModifyVisibility => {
            let visibility = check::visibility(request.visibility_seconds)?;
            let open = held.as_mut().ok_or(fault::NOTHING_TO_ACK)?;
            let Some(receipt) = open.receipt else { return Err(fault::NOTHING_TO_ACK.into()) };
            match open.engine.extend(receipt, Which::All, visibility).await {
                Ok(()) => open.until = Instant::now() + visibility,
                Err(EngineError::UnknownReceipt(_)) => return Err(expired(held)),
                Err(error) => return Err(error.into()),
            }
            Ok((None, false))
        }
        Kind::ResendMessage => {
            let to = check::queue(&request.channel)?;
            caller.may(Right::Write, ChannelKind::Queue, to.as_str())?;
            settle(held, Settle::Requeue { to }, fault::NOTHING_TO_SEND).await
        }
        Kind::SendModifiedMessage => {
            let modified = request.modified_message.ok_or(fault::INVALID_MESSAGE)?;
            let (to, message) = check::queue_message(modified)?;
            caller.may(Right::Write, ChannelKind::Queue, to.as_str())?;
            let message = Box::new(message);
            let replace = Settle::Replace { to, message, rerouted_from: None, receives: 0 };
            settle(held, replace, fault::NOTHING_TO_SEND).await
        }
        Kind::Unknown => Err(fault::STREAM_REQUEST.into()),
    }
}

async fn receive(
    face: &Face,
    caller: &Caller,
    held: &mut Option<Held>,
    request: &StreamQueueMessagesRequest,
) -> Result<Done, Refusal> {
    let queue = check::queue(&request.channel)?;
    let visibility = check::visibility(request.visibility_seconds)?;
    let wait = check::wait(request.wait_time_seconds)?;
    caller.may(Right::Read, ChannelKind::Queue, queue.as_str())?;
    if held.is_some() {
        return Err(fault::ALREADY_ACTIVE.into());
    }
    let receive =
        Receive { max: 1, wait, visibility: Some(visibility), auto_ack: false, until_full: face.whole_waits };
    let received = face.engine.receive(&queue, receive).await?;
    let message = received.messages.into_iter().next().ok_or(fault::NO_MESSAGE)?;
    *held = Some(Held {
        engine: Arc::clone(&face.engine),
        receipt: Some(received.receipt),
        sequence: message.sequence,
        until: Instant::now() + visibility,
    });
    Ok((Some(convert::delivery(&queue, message)), false))
}

/// Checks the sequence that the client gives back.
fn acked(held: &Option<Held>, sequence: u64, nothing: Fault) -> Result<(), Refusal> {
    match held {
        _ if sequence == 0 => Err(fault::ACK_SEQUENCE.into()),
        None => Err(nothing.into()),
        Some(held) if held.sequence != sequence => Err(fault::NOT_ACKED.into()),
        Some(_) => Ok(()),
    }
}

async fn settle(held: &mut Option<Held>, settle: Settle, nothing: Fault) -> Result<Done, Refusal> {
    let Some(Held { engine, receipt: Some(receipt), .. }) = held else { return Err(nothing.into()) };
    let sends = matches!(settle, Settle::Requeue { .. } | Settle::Replace { .. });
    match engine.settle(*receipt, Which::All, settle).await {
        Ok(_) => {
            if let Some(held) = held.take() {
                held.forget();
            }
            Ok((None, true))
        }
        Err(EngineError::UnknownReceipt(_)) => Err(expired(held)),
        Err(error) if sends => Err(Refusal::Text(queues::not_sent(&error.into()))),
        Err(error) => Err(error.into()),
    }
}

/// The engine has ended the visibility before our clock did.
fn expired(held: &mut Option<Held>) -> Refusal {
    if let Some(held) = held.take() {
        held.forget();
    }
    fault::VISIBILITY_EXPIRED.into()
}
