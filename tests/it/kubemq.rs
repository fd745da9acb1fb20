//! The KubeMQ face: unmodified clients of KubeMQ, and raw gRPC, against our server.

mod downstream;
mod events;
mod generated;
mod limits;
mod readme;
mod requests;
mod sdk4;
mod security;
mod serve;
mod upstream;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Streaming;
use tonic::codegen::tokio_stream::Stream;
use tonic::transport::{Channel, Endpoint};
use tower_outbox::channels::Engine;
use tower_outbox::channels::embedded::{EmbeddedEngine, EmbeddedEngineSettings};
use tower_outbox::channels::jetstream::{JetstreamEngine, JetstreamEngineSettings};
use tower_outbox::kubemq::{Kubemq, Settings};
use tower_outbox::kubemq_wire::kubemq_client::KubemqClient;
use tower_outbox::kubemq_wire::{QueueMessage, QueuesUpstreamRequest, SendQueueMessageResult};

/// The variable with which these tests run on NATS.
pub const ON_NATS: &str = "TOWER_OUTBOX_KUBEMQ_ON_NATS";

/// A server with an engine of its own, which stops with the test.
pub struct Server {
    pub address: String,
    folder: Arc<TempDir>,
    stop: DropGuard,
    serving: JoinHandle<()>,
}

impl Server {
    pub async fn start() -> Self {
        Self::with(&Settings::default()).await
    }

    pub async fn with(settings: &Settings) -> Self {
        Self::on(Arc::new(tempfile::tempdir().unwrap()), settings).await
    }

    async fn on(folder: Arc<TempDir>, settings: &Settings) -> Self {
        let engine = open(folder.path()).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let face = Kubemq::new(Arc::clone(&engine)).with_settings(settings).unwrap();
        let stop = CancellationToken::new();
        let stopped = stop.clone().cancelled_owned();
        let serving = tokio::spawn(async move {
            face.serve(listener, stopped).await.unwrap();
            engine.close(Duration::from_secs(5)).await;
        });
        Self { address, folder, stop: stop.drop_guard(), serving }
    }

    /// A new server with the same channels.
    pub async fn restart(self) -> Self {
        let Self { folder, stop, serving, .. } = self;
        drop(stop);
        serving.await.unwrap();
        Self::on(folder, &Settings::default()).await
    }

    pub async fn client(&self) -> Client {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address)).unwrap();
        KubemqClient::new(endpoint.connect().await.unwrap())
    }
}

/// Opens the channels of a folder: in it, or in NATS below the prefix that the variable names.
async fn open(folder: &Path) -> Arc<dyn Engine> {
    let Ok(prefix) = std::env::var(ON_NATS) else {
        let settings = EmbeddedEngineSettings::new(folder.join("channels"));
        return Arc::new(EmbeddedEngine::open(settings).await.unwrap());
    };
    let name = folder.file_name().unwrap().to_str().unwrap().replace('.', "-");
    let settings = JetstreamEngineSettings::new([crate::peers::Brokers::running().get("NATS1")]);
    Arc::new(JetstreamEngine::open(settings.with_prefix(prefix + &name)).await.unwrap())
}

pub type Client = KubemqClient<Channel>;

/// The requests of a stream.
pub struct Requests<T>(mpsc::Receiver<T>);

impl<T> Stream for Requests<T> {
    type Item = T;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<T>> {
        self.0.poll_recv(cx)
    }
}

pub fn requests<T>() -> (mpsc::Sender<T>, Requests<T>) {
    let (sender, receiver) = mpsc::channel(1_024);
    (sender, Requests(receiver))
}

/// The next answer of a stream.
pub async fn next<T>(stream: &mut Streaming<T>) -> T {
    let next = timeout(Duration::from_secs(10), stream.message()).await.expect("an answer in time");
    next.unwrap().expect("the stream goes on")
}

/// Whether a stream answers nothing for a while.
pub async fn is_silent<T>(stream: &mut Streaming<T>) -> bool {
    timeout(Duration::from_millis(200), stream.message()).await.is_err()
}

pub fn message(channel: &str, body: &str) -> QueueMessage {
    QueueMessage {
        client_id: "client".to_owned(),
        channel: channel.to_owned(),
        body: body.to_owned().into(),
        ..Default::default()
    }
}

/// Returns the page `/metrics` of a server.
pub async fn metrics(address: &str, token: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET /metrics HTTP/1.0\r\nauthorization: {token}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

/// Sends messages with these bodies in one request.
pub async fn send(client: &mut Client, channel: &str, bodies: &[&str]) -> Vec<SendQueueMessageResult> {
    let messages = bodies.iter().map(|body| message(channel, body)).collect();
    let (sender, stream) = requests();
    sender.send(QueuesUpstreamRequest { request_id: "1".to_owned(), messages }).await.unwrap();
    let mut answers = client.queues_upstream(stream).await.unwrap().into_inner();
    let answer = next(&mut answers).await;
    assert_eq!(answer.ref_request_id, "1");
    answer.results
}
