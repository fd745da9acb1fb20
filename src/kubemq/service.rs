//! The service: each call to its own file.

use std::sync::Arc;

use tonic::{Request, Response, Status, Streaming};

use super::access::Caller;
use super::face::Face;
use super::worked::Worked;
use super::{convert, downstream, events, fault, queues, requests, upstream, visibility};
use crate::kubemq_wire as wire;
use crate::kubemq_wire::kubemq_server::Kubemq;

/// The newest version of the real server that SDK 4.1.5 knows is 2.6.0; it warns of newer ones.
const VERSION: &str = "2.4.0";

/// A face with its handle, so that streams outlive the call that opened them.
#[derive(Clone, Debug)]
pub(super) struct Service(pub(super) Arc<Face>);

type Answered<T> = Result<Response<T>, Status>;

fn split<T>(request: Request<T>) -> (Caller, T) {
    let (_, mut extensions, message) = request.into_parts();
    (extensions.remove().unwrap_or_default(), message)
}

#[tonic::async_trait]
impl Kubemq for Service {
    type SendEventsStreamStream = Worked<wire::Result>;
    type SubscribeToEventsStream = Worked<wire::EventReceive>;
    type SubscribeToRequestsStream = Worked<wire::Request>;
    type StreamQueueMessageStream = Worked<wire::StreamQueueMessagesResponse>;
    type QueuesUpstreamStream = Worked<wire::QueuesUpstreamResponse>;
    type QueuesDownstreamStream = Worked<wire::QueuesDownstreamResponse>;

    async fn send_event(&self, request: Request<wire::Event>) -> Answered<wire::Result> {
        let (caller, event) = split(request);
        Ok(Response::new(events::send(&self.0, &caller, event).await?))
    }

    async fn send_events_stream(
        &self,
        request: Request<Streaming<wire::Event>>,
    ) -> Answered<Self::SendEventsStreamStream> {
        let (caller, stream) = split(request);
        let face = Arc::clone(&self.0);
        let worker = caller.clone();
        let work = |answers| events::serve(face, worker, stream, answers);
        Ok(Response::new(Worked::new(&self.0, &caller, work)?))
    }

    async fn subscribe_to_events(
        &self,
        request: Request<wire::Subscribe>,
    ) -> Answered<Self::SubscribeToEventsStream> {
        let (caller, subscribe) = split(request);
        let subscribed = events::subscribe(&self.0, &caller, subscribe).await?;
        let work = |items| events::deliver(subscribed, items);
        Ok(Response::new(Worked::new(&self.0, &caller, work)?))
    }

    async fn subscribe_to_requests(
        &self,
        request: Request<wire::Subscribe>,
    ) -> Answered<Self::SubscribeToRequestsStream> {
        let (caller, subscribe) = split(request);
        let face = Arc::clone(&self.0);
        let subscription = requests::subscribe(&face, &caller, subscribe).await?;
        let work = |items| requests::deliver(face, subscription, items);
        Ok(Response::new(Worked::new(&self.0, &caller, work)?))
    }

    async fn send_request(&self, request: Request<wire::Request>) -> Answered<wire::Response> {
        let (caller, request) = split(request);
        Ok(Response::new(requests::send(&self.0, &caller, request).await?))
    }

    async fn send_response(&self, request: Request<wire::Response>) -> Answered<wire::Empty> {
        requests::respond(&self.0, request.into_inner())?;
        Ok(Response::new(wire::Empty {}))
    }

    async fn send_queue_message(
        &self,
        request: Request<wire::QueueMessage>,
    ) -> Answered<wire::SendQueueMessageResult> {
        let (caller, message) = split(request);
        let result = queues::send(&self.0, &caller, vec![message]).await.pop();
        Ok(Response::new(result.unwrap_or_default()))
    }

    async fn send_queue_messages_batch(
        &self,
        request: Request<wire::QueueMessagesBatchRequest>,
    ) -> Answered<wire::QueueMessagesBatchResponse> {
        let (caller, batch) = split(request);
        if batch.messages.is_empty() {
            return Err(Status::unknown(fault::EMPTY_BATCH));
        }
        Ok(Response::new(queues::send_batch(&self.0, &caller, batch).await?))
    }

    async fn receive_queue_messages(
        &self,
        request: Request<wire::ReceiveQueueMessagesRequest>,
    ) -> Answered<wire::ReceiveQueueMessagesResponse> {
        let (caller, request) = split(request);
        Ok(Response::new(queues::receive(&self.0, &caller, request).await))
    }

    async fn stream_queue_message(
        &self,
        request: Request<Streaming<wire::StreamQueueMessagesRequest>>,
    ) -> Answered<Self::StreamQueueMessageStream> {
        let (caller, stream) = split(request);
        let face = Arc::clone(&self.0);
        let worker = caller.clone();
        let work = |answers| visibility::serve(face, worker, stream, answers);
        Ok(Response::new(Worked::new(&self.0, &caller, work)?))
    }

    async fn ack_all_queue_messages(
        &self,
        request: Request<wire::AckAllQueueMessagesRequest>,
    ) -> Answered<wire::AckAllQueueMessagesResponse> {
        let (caller, request) = split(request);
        Ok(Response::new(queues::ack_all(&self.0, &caller, request).await))
    }

    async fn ping(&self, _request: Request<wire::Empty>) -> Answered<wire::PingResult> {
        let (time, instant) = self.0.started;
        Ok(Response::new(wire::PingResult {
            host: "tower-outbox".to_owned(),
            version: VERSION.to_owned(),
            server_start_time: convert::nanos(time) / 1_000_000_000,
            server_up_time_seconds: i64::try_from(instant.elapsed().as_secs()).unwrap_or(i64::MAX),
        }))
    }

    async fn queues_upstream(
        &self,
        request: Request<Streaming<wire::QueuesUpstreamRequest>>,
    ) -> Answered<Self::QueuesUpstreamStream> {
        let (caller, stream) = split(request);
        let face = Arc::clone(&self.0);
        let worker = caller.clone();
        let work = |answers| upstream::serve(face, worker, stream, answers);
        Ok(Response::new(Worked::new(&self.0, &caller, work)?))
    }

    async fn queues_downstream(
        &self,
        request: Request<Streaming<wire::QueuesDownstreamRequest>>,
    ) -> Answered<Self::QueuesDownstreamStream> {
        let (caller, stream) = split(request);
        let face = Arc::clone(&self.0);
        let worker = caller.clone();
        let work = |answers| downstream::serve(face, worker, stream, answers);
        Ok(Response::new(Worked::new(&self.0, &caller, work)?))
    }
}
