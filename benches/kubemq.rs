//! The cost of storage for a client of KubeMQ: the face on the embedded engine, against the same calls answered without storage.
//!
//!     cargo bench -p tower-outbox-benches --bench kubemq
//!     cargo bench -p tower-outbox-benches --bench kubemq -- --quick     a short run
//!
//! 64 clients, each on a connection of its own, send a message of 300 bytes to their queue (on disk: one shared fdatasync) and receive
//! it. Server and clients live in this process. Turns alternate; the ratio is taken within one round.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::serve::ListenerExt;
use futures_util::Stream;
use tokio::net::TcpListener;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status, Streaming};
use tower_outbox::async_trait;
use tower_outbox::channels::embedded::{EmbeddedEngine, EmbeddedEngineSettings};
use tower_outbox::kubemq::Kubemq as Face;
use tower_outbox::kubemq_wire as wire;
use tower_outbox::kubemq_wire::kubemq_client::KubemqClient;
use tower_outbox::kubemq_wire::kubemq_server::{Kubemq, KubemqServer};

const CLIENTS: usize = 64;

#[tokio::main(worker_threads = 2)]
async fn main() {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let (rounds, turn) = if quick { (3, Duration::from_millis(500)) } else { (11, Duration::from_secs(2)) };
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let engine = EmbeddedEngine::open(EmbeddedEngineSettings::new(folder.path().join("channels")));
    let face = Face::new(Arc::new(engine.await.expect("the engine opens")));
    let face = listen(face.into_router()).await;
    let service = KubemqServer::new(Stub);
    let stub = listen(axum::Router::new().route_service("/kubemq.kubemq/{*method}", service)).await;

    let mut ratios = Vec::new();
    for round in 0..=rounds {
        let stored = load(&face, turn).await;
        let bare = load(&stub, turn).await;
        // The first round warms up.
        if round > 0 {
            println!("face {stored:>8.0}/s   stub {bare:>8.0}/s   ratio {:.2}", stored / bare);
            ratios.push(stored / bare);
        }
    }
    ratios.sort_by(f64::total_cmp);
    println!("median ratio {:.2}   target >= 0.5", ratios[ratios.len() / 2]);
}

async fn listen(router: axum::Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let listener = listener.tap_io(|tcp| tcp.set_nodelay(true).expect("it is TCP"));
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}")
}

/// Pairs of send and receive a second.
async fn load(address: &str, turn: Duration) -> f64 {
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let endpoint = Endpoint::from_shared(address.to_owned()).expect("an address");
        clients
            .push((KubemqClient::new(endpoint.connect().await.expect("a connection")), format!("q{number}")));
    }
    let begun = Instant::now();
    let clients: Vec<_> =
        clients.into_iter().map(|(client, queue)| tokio::spawn(pairs(client, queue, begun + turn))).collect();
    let mut done = 0;
    for client in clients {
        done += client.await.expect("a client");
    }
    f64::from(done) / begun.elapsed().as_secs_f64()
}

async fn pairs(mut client: KubemqClient<Channel>, queue: String, until: Instant) -> u32 {
    let message = wire::QueueMessage {
        message_id: "1".to_owned(),
        client_id: "client".to_owned(),
        channel: queue.clone(),
        body: vec![b'x'; 300].into(),
        ..Default::default()
    };
    let receive = wire::ReceiveQueueMessagesRequest {
        client_id: "client".to_owned(),
        channel: queue,
        max_number_of_messages: 1,
        wait_time_seconds: 10,
        ..Default::default()
    };
    let mut done = 0;
    while Instant::now() < until {
        let sent = client.send_queue_message(message.clone()).await.expect("sent").into_inner();
        assert!(!sent.is_error, "{}", sent.error);
        let received = client.receive_queue_messages(receive.clone()).await.expect("received").into_inner();
        assert_eq!(received.messages.len(), 1);
        done += 1;
    }
    done
}

/// Answers sends and receives without storing anything.
struct Stub;

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;
type Answered<T> = Result<Response<T>, Status>;

fn none<T>() -> Answered<T> {
    Err(Status::unimplemented("only sends and receives"))
}

#[async_trait]
impl Kubemq for Stub {
    type SendEventsStreamStream = Answers<wire::Result>;
    type SubscribeToEventsStream = Answers<wire::EventReceive>;
    type SubscribeToRequestsStream = Answers<wire::Request>;
    type StreamQueueMessageStream = Answers<wire::StreamQueueMessagesResponse>;
    type QueuesUpstreamStream = Answers<wire::QueuesUpstreamResponse>;
    type QueuesDownstreamStream = Answers<wire::QueuesDownstreamResponse>;

    async fn send_queue_message(
        &self,
        request: Request<wire::QueueMessage>,
    ) -> Answered<wire::SendQueueMessageResult> {
        let message_id = request.into_inner().message_id;
        Ok(Response::new(wire::SendQueueMessageResult { message_id, sent_at: 1, ..Default::default() }))
    }

    async fn receive_queue_messages(
        &self,
        request: Request<wire::ReceiveQueueMessagesRequest>,
    ) -> Answered<wire::ReceiveQueueMessagesResponse> {
        let message = wire::QueueMessage {
            message_id: "1".to_owned(),
            client_id: "client".to_owned(),
            channel: request.into_inner().channel,
            body: vec![b'x'; 300].into(),
            attributes: Some(wire::QueueMessageAttributes {
                sequence: 1,
                receive_count: 1,
                ..Default::default()
            }),
            ..Default::default()
        };
        let answer = wire::ReceiveQueueMessagesResponse {
            messages: vec![message],
            messages_received: 1,
            ..Default::default()
        };
        Ok(Response::new(answer))
    }

    async fn send_event(&self, _: Request<wire::Event>) -> Answered<wire::Result> {
        none()
    }

    async fn send_events_stream(
        &self,
        _: Request<Streaming<wire::Event>>,
    ) -> Answered<Self::SendEventsStreamStream> {
        none()
    }

    async fn subscribe_to_events(
        &self,
        _: Request<wire::Subscribe>,
    ) -> Answered<Self::SubscribeToEventsStream> {
        none()
    }

    async fn subscribe_to_requests(
        &self,
        _: Request<wire::Subscribe>,
    ) -> Answered<Self::SubscribeToRequestsStream> {
        none()
    }

    async fn send_request(&self, _: Request<wire::Request>) -> Answered<wire::Response> {
        none()
    }

    async fn send_response(&self, _: Request<wire::Response>) -> Answered<wire::Empty> {
        none()
    }

    async fn send_queue_messages_batch(
        &self,
        _: Request<wire::QueueMessagesBatchRequest>,
    ) -> Answered<wire::QueueMessagesBatchResponse> {
        none()
    }

    async fn stream_queue_message(
        &self,
        _: Request<Streaming<wire::StreamQueueMessagesRequest>>,
    ) -> Answered<Self::StreamQueueMessageStream> {
        none()
    }

    async fn ack_all_queue_messages(
        &self,
        _: Request<wire::AckAllQueueMessagesRequest>,
    ) -> Answered<wire::AckAllQueueMessagesResponse> {
        none()
    }

    async fn ping(&self, _: Request<wire::Empty>) -> Answered<wire::PingResult> {
        none()
    }

    async fn queues_upstream(
        &self,
        _: Request<Streaming<wire::QueuesUpstreamRequest>>,
    ) -> Answered<Self::QueuesUpstreamStream> {
        none()
    }

    async fn queues_downstream(
        &self,
        _: Request<Streaming<wire::QueuesDownstreamRequest>>,
    ) -> Answered<Self::QueuesDownstreamStream> {
        none()
    }
}
