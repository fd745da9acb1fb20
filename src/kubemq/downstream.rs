//! QueuesDownstream: receives, each of which opens a transaction, and operations on these.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::access::{Caller, Right};
use super::check;
use super::convert;
use super::face::Face;
use super::fault::{self, Refusal};
use super::limits;
use super::transactions::{Operation, Transactions};
use crate::channels::{ChannelKind, Receive};
use crate::kubemq_wire::{
    QueuesDownstreamRequest, QueuesDownstreamRequestType as Kind, QueuesDownstreamResponse,
};

/// Serves the requests one after the other. What is held is back at once when the client goes away.
pub(super) async fn serve(
    face: Arc<Face>,
    caller: Caller,
    mut requests: Streaming<QueuesDownstreamRequest>,
    answers: mpsc::Sender<QueuesDownstreamResponse>,
) -> Result<(), Status> {
    let mut transactions = Transactions::new(&face);
    while let Some(request) = requests.message().await? {
        let (ref_request_id, kind) = (request.request_id.clone(), request.request_type_data());
        let done = match kind {
            Kind::Get => get(&face, &caller, &mut transactions, request).await.map(Some),
            _ => operate(&caller, &mut transactions, request, kind).await,
        };
        let answer = match done {
            // The real server answers an operation only if it failed.
            Ok(None) => continue,
            Ok(Some(answer)) => answer,
            Err(failed) => QueuesDownstreamResponse {
                transaction_id: failed.transaction,
                request_type_data: failed.kind as i32,
                is_error: true,
                error: failed.error,
                ..Default::default()
            },
        };
        let _ = answers.send(QueuesDownstreamResponse { ref_request_id, ..answer }).await;
    }
    // The client has ended its side; what it holds stays held until it goes away.
    std::future::pending().await
}

/// An answer with an error.
struct Fault {
    transaction: String,
    kind: Kind,
    error: String,
}

async fn get(
    face: &Face,
    caller: &Caller,
    transactions: &mut Transactions,
    request: QueuesDownstreamRequest,
) -> Result<QueuesDownstreamResponse, Fault> {
    let transaction = transactions.new_id();
    let receive = async {
        check::text("request id", &request.request_id)?;
        check::client(&request.client_id)?;
        let queue = check::queue(&request.channel)?;
        caller.may(Right::Read, ChannelKind::Queue, queue.as_str())?;
        transactions.check_room()?;
        let max = match usize::try_from(request.max_items) {
            Ok(0) | Err(_) => limits::RECEIVE,
            Ok(max) => max.min(limits::RECEIVE),
        };
        let longest = Duration::from_secs(u64::from(limits::WAIT.unsigned_abs()));
        let wait = Duration::from_millis(u64::try_from(request.wait_timeout).unwrap_or_default().max(1_000));
        let receive = Receive {
            max,
            wait: wait.min(longest),
            // A downstream has no visibility: messages are held as long as it is open.
            visibility: None,
            auto_ack: request.auto_ack,
            until_full: face.whole_waits,
        };
        let received = face.engine.receive(&queue, receive).await?;
        Ok::<_, Refusal>((queue, received))
    };
    match receive.await {
        Ok((queue, received)) => {
            let is_open = !request.auto_ack && !received.messages.is_empty();
            transactions.opened(&transaction, is_open.then_some(received.receipt), received.messages.len());
            let messages = received.messages.into_iter();
            Ok(QueuesDownstreamResponse {
                transaction_id: transaction,
                request_type_data: Kind::Get as i32,
                messages: messages.map(|message| convert::delivery(&queue, message)).collect(),
                ..Default::default()
            })
        }
        Err(refusal) => Err(Fault { transaction, kind: Kind::Get, error: refusal.to_string() }),
    }
}

async fn operate(
    caller: &Caller,
    transactions: &mut Transactions,
    request: QueuesDownstreamRequest,
    kind: Kind,
) -> Result<Option<QueuesDownstreamResponse>, Fault> {
    let transaction = request.ref_transaction_id;
    let failed = |error: String| Fault { transaction: transaction.clone(), kind, error };
    if !transactions.knows(&transaction) {
        return Err(failed(fault::UNKNOWN_TRANSACTION.to_owned()));
    }
    let (list, to) = (request.sequence_range, request.re_queue_channel);
    let operation = match kind {
        Kind::AckAll | Kind::AckRange => Operation::Ack,
        Kind::NAckAll | Kind::NAckRange => Operation::Nack,
        Kind::ReQueueAll | Kind::ReQueueRange => Operation::Requeue(to),
        Kind::CloseByClient => {
            transactions.close(&transaction).await;
            return Ok(None);
        }
        Kind::ActiveOffsets => {
            let active_offsets = transactions.offsets(&transaction).await.map_err(failed)?;
            let kind = kind as i32;
            return Ok(Some(QueuesDownstreamResponse {
                transaction_id: transaction,
                request_type_data: kind,
                active_offsets,
                ..Default::default()
            }));
        }
        Kind::Unknown | Kind::Get | Kind::TransactionStatus | Kind::CloseByServer => {
            let error = fault::UNKNOWN_REQUEST.to_owned();
            return Err(Fault { transaction, kind: Kind::Unknown, error });
        }
    };
    let is_all = matches!(kind, Kind::AckAll | Kind::NAckAll | Kind::ReQueueAll);
    let list = if is_all { None } else { Some(list) };
    transactions.operate(caller, &transaction, operation, list).await.map_err(failed)?;
    Ok(None)
}
