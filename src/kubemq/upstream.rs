//! QueuesUpstream: requests with messages to store, each of which has one answer.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use prost::Message;
use tokio::sync::mpsc;
use tokio::task::unconstrained;
use tonic::{Status, Streaming};

use super::access::Caller;
use super::face::Face;
use super::{fault, limits, queues};
use crate::kubemq_wire::{QueuesUpstreamRequest, QueuesUpstreamResponse};

/// Stores the messages of many requests at once, in their order, and answers in their order. The real server keeps neither.
pub(super) async fn serve(
    face: Arc<Face>,
    caller: Caller,
    mut requests: Streaming<QueuesUpstreamRequest>,
    answers: mpsc::Sender<QueuesUpstreamResponse>,
) -> Result<(), Status> {
    let mut storing = FuturesOrdered::new();
    let (mut bytes, mut ended) = (0, false);
    loop {
        let has_room = storing.len() < limits::PIPELINE && bytes < limits::PIPELINE_BYTES;
        tokio::select! {
            biased;
            Some((answer, size)) = storing.next(), if !storing.is_empty() => {
                bytes -= size;
                let _ = answers.send(answer).await;
            }
            request = requests.message(), if has_room && !ended => match request? {
                Some(request) => {
                    let size = request.encoded_len();
                    bytes += size;
                    let (face, caller) = (&face, &caller);
                    // A request whose budget of polls is used up would be polled again behind later ones, and stored behind them.
                    storing.push_back(unconstrained(async move { (answer(face, caller, request).await, size) }));
                }
                None => ended = true,
            },
            // The client has ended its side; the real server keeps its own side open until the client goes away.
            else => std::future::pending().await,
        }
    }
}

async fn answer(face: &Face, caller: &Caller, request: QueuesUpstreamRequest) -> QueuesUpstreamResponse {
    let ref_request_id = request.request_id;
    let error = |error: String| QueuesUpstreamResponse {
        ref_request_id: ref_request_id.clone(),
        is_error: true,
        error,
        ..Default::default()
    };
    if request.messages.is_empty() {
        return error(fault::NO_MESSAGES.to_owned());
    }
    if let Err(refusal) = queues::batch(request.messages.len()) {
        return error(refusal.to_string());
    }
    let results = queues::send(face, caller, request.messages).await;
    QueuesUpstreamResponse { ref_request_id, results, is_error: false, error: String::new() }
}
