//! Routers of sites and designated routers, and a link between them that tests cut.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tower_outbox::routing::{
    Namespace, Pattern, PayloadObject, RoutedMessage, SiteRouter, Subscription, Uri,
};
use tower_outbox::wavemq::{Wavemq, WavemqConfig};

pub const STUCK: Duration = Duration::from_secs(30);

pub fn namespace() -> Namespace {
    Namespace::named("site").unwrap()
}

pub fn message(uri: &str, content: &str) -> RoutedMessage {
    let object = PayloadObject { schema: "text".to_owned(), content: content.as_bytes().to_vec().into() };
    RoutedMessage::new(namespace(), Uri::new(uri).unwrap(), vec![object])
}

/// A running router.
pub struct Site {
    pub router: SiteRouter,
    pub clients: SocketAddr,
    pub peers: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    served: JoinHandle<()>,
}

impl Site {
    /// Starts a router in a folder; `extra` is added to its configuration.
    pub async fn start(folder: &Path, peers: Option<SocketAddr>, extra: &str) -> Self {
        std::fs::create_dir_all(folder).unwrap();
        let text = format!("[QueueConfig]\nqueueDataStore = {:?}\n{extra}", folder.join("queue"));
        let file = folder.join("wavemq.toml");
        std::fs::write(&file, text).unwrap();
        let server = Wavemq::open(WavemqConfig::read(&file).unwrap()).await.unwrap();
        let clients = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peers = TcpListener::bind(peers.unwrap_or_else(|| ([127, 0, 0, 1], 0).into())).await.unwrap();
        let (stop, stopped) = oneshot::channel();
        let router = server.router().clone();
        let (at, peers_at) = (clients.local_addr().unwrap(), peers.local_addr().unwrap());
        let serving = async move {
            let stopped = async {
                let _ = stopped.await;
            };
            server.serve_on(clients, peers, stopped).await.unwrap();
        };
        Self { router, clients: at, peers: peers_at, stop: Some(stop), served: tokio::spawn(serving) }
    }

    /// Starts a designated router.
    pub async fn designated(folder: &Path, peers: Option<SocketAddr>) -> Self {
        std::fs::create_dir_all(folder).unwrap();
        let file = folder.join("namespace");
        std::fs::write(&file, namespace().to_string()).unwrap();
        Self::start(folder, peers, &format!("[RoutingConfig]\nDesignatedNamespaceFiles = [{file:?}]")).await
    }

    /// Starts a site whose designated router is at this address.
    pub async fn site(folder: &Path, uplink: SocketAddr, queue: &str) -> Self {
        let uplink =
            format!("[[RoutingConfig.Router]]\nNamespace = \"{}\"\nAddress = \"{uplink}\"", namespace());
        Self::start(folder, None, &format!("{queue}\n{uplink}")).await
    }

    pub async fn stop(mut self) {
        let _ = self.stop.take().unwrap().send(());
        timeout(STUCK, self.served).await.expect("it does not stop").unwrap();
    }

    pub async fn subscribe(&self, identifier: &str, pattern: &str) -> Subscription {
        let pattern = Pattern::new(pattern).unwrap();
        let expiry = Duration::from_secs(60);
        self.router.subscribe(b"jo", identifier, &namespace(), &pattern, expiry).await.unwrap()
    }
}

/// Receives so many messages, and acknowledges them; returns their contents and drops.
pub async fn receive(subscription: &Subscription, count: usize) -> Vec<(String, Vec<i64>)> {
    let mut received = Vec::new();
    while received.len() < count {
        let leased = timeout(STUCK, subscription.lease(count - received.len())).await;
        let leased = leased.unwrap_or_else(|_| panic!("only {} messages came: {received:?}", received.len()));
        for leased in leased.unwrap() {
            subscription.ack(&[leased.seq]);
            let content = String::from_utf8(leased.message.payload[0].content.to_vec()).unwrap();
            received.push((content, leased.message.drops));
        }
    }
    received
}

pub async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !is_so().await {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(STUCK, waiting).await.unwrap_or_else(|_| panic!("it never came that {what}"));
}

/// A proxy in front of a router. Tests cut the link, or let it hang.
pub struct Wire {
    pub address: SocketAddr,
    state: Arc<WireState>,
}

struct WireState {
    /// 0 passes bytes on, 1 refuses and cuts connections, 2 swallows bytes, 3 passes them on slowly.
    mode: AtomicU8,
    changed: Notify,
}

impl Wire {
    pub async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(WireState { mode: AtomicU8::new(0), changed: Notify::new() });
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                if shared.mode.load(Ordering::SeqCst) == 1 {
                    continue;
                }
                let state = Arc::clone(&shared);
                tokio::spawn(async move {
                    let Ok(far) = TcpStream::connect(target).await else { return };
                    let (near, far) = (near.into_split(), far.into_split());
                    tokio::select! {
                        () = pump(near.0, far.1, &state) => {}
                        () = pump(far.0, near.1, &state) => {}
                        () = cut(&state) => {}
                    }
                });
            }
        });
        Self { address, state }
    }

    fn set(&self, mode: u8) {
        self.state.mode.store(mode, Ordering::SeqCst);
        self.state.changed.notify_waiters();
    }

    pub fn restore(&self) {
        self.set(0);
    }

    pub fn cut(&self) {
        self.set(1);
    }

    /// Connections stay open, and nothing passes any more, also later.
    pub fn hang(&self) {
        self.set(2);
    }

    pub fn slow_down(&self) {
        self.set(3);
    }
}

async fn cut(state: &WireState) {
    loop {
        let changed = state.changed.notified();
        if state.mode.load(Ordering::SeqCst) == 1 {
            return;
        }
        changed.await;
    }
}

async fn pump(mut from: impl AsyncReadExt + Unpin, mut to: impl AsyncWriteExt + Unpin, state: &WireState) {
    let mut buffer = vec![0; 16 << 10];
    let mut hangs = false;
    loop {
        let Ok(read @ 1..) = from.read(&mut buffer).await else { return };
        match state.mode.load(Ordering::SeqCst) {
            2 => hangs = true,
            3 => sleep(Duration::from_millis(20)).await,
            _ => {}
        }
        // No connection goes on after it has lost bytes.
        if !hangs && to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
