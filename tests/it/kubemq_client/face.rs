//! The suites of messengers and sources against our own KubeMQ interface.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use tower_outbox::channels::embedded::{EmbeddedEngine, EmbeddedEngineSettings};
use tower_outbox::kubemq::Kubemq;
use tower_outbox::kubemq_client::{KubemqSettings, KubemqSubscription, Pattern, Start};
use tower_outbox::source::Source;
use tower_outbox::testing::messenger_conformance::{self, MessengerCapabilities};
use tower_outbox::testing::source_conformance::{self, Dead, SourceCapabilities, SourceHarness};

use super::sending::inbox;
use super::{STUCK, body, messenger, numbered, receive, send, source};

/// Our own server, on a folder.
pub struct Face {
    address: SocketAddr,
    _server: AbortOnDropHandle<()>,
    folder: TempDir,
}

async fn serve(folder: &Path, listener: TcpListener) -> AbortOnDropHandle<()> {
    let engine = EmbeddedEngine::open(EmbeddedEngineSettings::new(folder.join("channels"))).await.unwrap();
    let app = Kubemq::new(Arc::new(engine)).into_router();
    AbortOnDropHandle::new(tokio::spawn(async move { axum::serve(listener, app).await.unwrap() }))
}

impl Face {
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        Self { address, _server: serve(folder.path(), listener).await, folder }
    }

    pub fn url(&self) -> String {
        format!("kubemq://{}", self.address)
    }

    pub fn settings(&self) -> KubemqSettings {
        KubemqSettings::new([self.url()])
    }
}

const QUEUE: &str = "order.created";

#[tokio::test(flavor = "multi_thread")]
async fn kubemq_conforms_on_our_server() {
    let face = Face::start().await;
    let capabilities = MessengerCapabilities::default()
        .with_arrival(true)
        .with_any_body(true)
        .with_headers(true)
        .with_closes(true);
    let inbox = inbox(&face.settings(), QUEUE);
    messenger_conformance::all(messenger(&face.settings()), QUEUE, capabilities, inbox).await;
}

async fn harness() -> SourceHarness {
    let face = Face::start().await;
    let settings = face.settings();
    let subscription = KubemqSubscription::new(QUEUE).with_prefetch(256);
    let of_dead = Arc::new(source(&settings, &KubemqSubscription::new("order.created.dead")));
    let found = Arc::new(tokio::sync::Mutex::new((Vec::new(), Vec::new())));
    let letters = move || {
        let (of_dead, found) = (Arc::clone(&of_dead), Arc::clone(&found));
        async move {
            let mut found = found.lock().await;
            let (dead, kept) = &mut *found;
            while let Ok(received) = timeout(Duration::from_millis(100), of_dead.receive(100)).await {
                for delivery in received.unwrap() {
                    let view = delivery.view().unwrap();
                    let reasons = view.failures().iter().map(|it| it.reason.to_string()).collect();
                    dead.push(Dead { id: view.message().id(), reasons });
                    kept.push(delivery);
                }
            }
            dead.clone()
        }
    };
    SourceHarness::new(messenger(&settings), Arc::new(source(&settings, &subscription)), QUEUE, letters)
        .with_capabilities(SourceCapabilities::default().with_history(true))
        .with_kept(face)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_source_conforms_on_our_server() {
    source_conformance::all(harness).await;
}

/// An unsettled message comes again from the new process.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_our_server_loses_nothing() {
    let face = Face::start().await;
    let settings = face.settings();
    send(&messenger(&settings), numbered(0..20)).await;
    let source = source(&settings, &KubemqSubscription::new(QUEUE));
    let mut received = receive(&source, 5).await;
    received.remove(0).ack().await.unwrap();
    let Face { address, _server, folder } = face;
    drop(_server);
    drop(received);
    drop(source);
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    let server = serve_again(folder.path(), listener).await;
    let source = super::source(&settings, &KubemqSubscription::new(QUEUE));
    let received = receive(&source, 19).await;
    assert_eq!(
        received.iter().map(body).collect::<Vec<_>>(),
        (1..20).map(|n| n.to_string()).collect::<Vec<_>>()
    );
    drop(server);
}

/// The engine of the server that stopped may need a moment to release its folder.
async fn serve_again(folder: &Path, listener: TcpListener) -> AbortOnDropHandle<()> {
    let opened = async {
        loop {
            let settings = EmbeddedEngineSettings::new(folder.join("channels"));
            match EmbeddedEngine::open(settings).await {
                Ok(engine) => return engine,
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    let engine = timeout(STUCK, opened).await.unwrap();
    let app = Kubemq::new(Arc::new(engine)).into_router();
    AbortOnDropHandle::new(tokio::spawn(async move { axum::serve(listener, app).await.unwrap() }))
}

#[tokio::test(flavor = "multi_thread")]
async fn events_and_stored_events_pass_our_server() {
    let face = Face::start().await;
    let stored = face.settings().with_pattern(Pattern::EventStore).with_client_id("mailer");
    send(&messenger(&stored), numbered(0..10)).await;
    let source = source(&stored, &KubemqSubscription::new(QUEUE).with_start(Start::Sequence(4)));
    let received = receive(&source, 7).await;
    assert_eq!(body(&received[0]), "3");
    for delivery in received {
        delivery.ack().await.unwrap();
    }
    let events = face.settings().with_pattern(Pattern::Events);
    send(&messenger(&events), numbered(0..10)).await;
}
