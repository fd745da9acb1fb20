//! The queue calls with one answer.

use std::time::Duration;

use super::access::{Caller, Right};
use super::check;
use super::convert;
use super::face::Face;
use super::fault::{self, Refusal};
use super::limits;
use crate::channels::{ChannelKind, QueueMessage, Receive};
use crate::kubemq_wire as wire;

/// Stores messages, each of which has its own result.
pub(super) async fn send(
    face: &Face,
    caller: &Caller,
    messages: Vec<wire::QueueMessage>,
) -> Vec<wire::SendQueueMessageResult> {
    let mut results = Vec::with_capacity(messages.len());
    let (mut valid, mut places) = (Vec::new(), Vec::new());
    for message in messages {
        let id = message.message_id.clone();
        match checked(caller, message) {
            Ok((queue, message)) => {
                places.push(results.len());
                results.push(convert::not_sent(message.content.id.clone(), String::new()));
                valid.push((queue, message));
            }
            Err(refusal) => results.push(convert::not_sent(id, refusal.to_string())),
        }
    }
    if valid.is_empty() {
        return results;
    }
    for (place, result) in places.into_iter().zip(face.engine.send(valid).await) {
        let id = std::mem::take(&mut results[place].message_id);
        results[place] = match result {
            Ok(sent) => convert::sent(id, &sent),
            Err(error) => convert::not_sent(id, not_sent(&error.into())),
        };
    }
    results
}

/// The engine's reasons follow the real server's text.
pub(super) fn not_sent(refusal: &Refusal) -> String {
    format!("{}, {refusal}", fault::NOT_SENT)
}

fn checked(
    caller: &Caller,
    message: wire::QueueMessage,
) -> Result<(crate::channels::ChannelName, QueueMessage), Refusal> {
    let (queue, message) = check::queue_message(message)?;
    caller.may(Right::Write, ChannelKind::Queue, queue.as_str())?;
    if let Some(dead_letter) = &message.policy.dead_letter {
        caller.may(Right::Write, ChannelKind::Queue, dead_letter.as_str())?;
    }
    Ok((queue, message))
}

pub(super) async fn send_batch(
    face: &Face,
    caller: &Caller,
    request: wire::QueueMessagesBatchRequest,
) -> Result<wire::QueueMessagesBatchResponse, Refusal> {
    check::text("batch id", &request.batch_id)?;
    batch(request.messages.len())?;
    let results = send(face, caller, request.messages).await;
    let have_errors = results.iter().any(|result| result.is_error);
    Ok(wire::QueueMessagesBatchResponse { batch_id: request.batch_id, results, have_errors })
}

/// Checks the number of messages sent at once.
pub(super) fn batch(messages: usize) -> Result<(), Refusal> {
    if messages > limits::BATCH {
        return Err(Refusal::Text(format!(
            "a batch has {messages} messages, and may have {}",
            limits::BATCH
        )));
    }
    Ok(())
}

pub(super) async fn receive(
    face: &Face,
    caller: &Caller,
    request: wire::ReceiveQueueMessagesRequest,
) -> wire::ReceiveQueueMessagesResponse {
    let (request_id, is_peak) = (request.request_id.clone(), request.is_peak);
    let received = tokio::select! {
        received = receive_or_peek(face, caller, &request) => received,
        () = face.stop.cancelled() => Err(fault::CLOSING.into()),
    };
    match received {
        Ok((messages, expired)) => wire::ReceiveQueueMessagesResponse {
            request_id,
            messages_received: i32::try_from(messages.len()).unwrap_or(i32::MAX),
            messages,
            messages_expired: i32::try_from(expired).unwrap_or(i32::MAX),
            is_peak,
            is_error: false,
            error: String::new(),
        },
        Err(refusal) => wire::ReceiveQueueMessagesResponse {
            request_id,
            is_peak,
            is_error: true,
            error: refusal.to_string(),
            ..Default::default()
        },
    }
}

async fn receive_or_peek(
    face: &Face,
    caller: &Caller,
    request: &wire::ReceiveQueueMessagesRequest,
) -> Result<(Vec<wire::QueueMessage>, u64), Refusal> {
    check::client(&request.client_id)?;
    let queue = check::queue(&request.channel)?;
    let max = check::max_messages(request.max_number_of_messages)?;
    let wait = check::wait(request.wait_time_seconds)?;
    caller.may(Right::Read, ChannelKind::Queue, queue.as_str())?;
    let (messages, expired) = if request.is_peak {
        let mut peeked =
            face.engine.peek(&queue, max, if face.whole_waits { Duration::ZERO } else { wait }).await?;
        if face.whole_waits && peeked.messages.len() < max {
            tokio::time::sleep(wait).await;
            peeked = face.engine.peek(&queue, max, Duration::ZERO).await?;
        }
        (peeked.messages, peeked.expired)
    } else {
        let receive = Receive { max, wait, visibility: None, auto_ack: true, until_full: face.whole_waits };
        let received = face.engine.receive(&queue, receive).await?;
        (received.messages, received.expired)
    };
    Ok((messages.into_iter().map(|message| convert::delivery(&queue, message)).collect(), expired))
}

pub(super) async fn ack_all(
    face: &Face,
    caller: &Caller,
    request: wire::AckAllQueueMessagesRequest,
) -> wire::AckAllQueueMessagesResponse {
    let purge = async {
        check::client(&request.client_id)?;
        let queue = check::queue(&request.channel)?;
        let wait = check::wait(request.wait_time_seconds)?;
        caller.may(Right::Read, ChannelKind::Queue, queue.as_str())?;
        if face.whole_waits {
            tokio::time::sleep(wait).await;
        }
        Ok::<_, Refusal>(face.engine.purge(&queue).await?)
    };
    let (affected_messages, error) = match purge.await {
        Ok(affected) => (affected, String::new()),
        Err(refusal) => (0, refusal.to_string()),
    };
    wire::AckAllQueueMessagesResponse {
        request_id: request.request_id,
        affected_messages,
        is_error: !error.is_empty(),
        error,
    }
}
