//! A way to a server that can be cut or frozen.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// Passes bytes on. Dropping it cuts all connections.
pub struct Proxy {
    address: SocketAddr,
    frozen: watch::Sender<bool>,
    connections: Arc<Mutex<Vec<AbortOnDropHandle<()>>>>,
    _task: AbortOnDropHandle<()>,
}

impl Proxy {
    pub async fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (frozen, watch) = watch::channel(false);
        let connections: Arc<Mutex<Vec<AbortOnDropHandle<()>>>> = Arc::default();
        let accepted = Arc::clone(&connections);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let watch = watch.clone();
                let connection = tokio::spawn(async move {
                    let Ok(server) = TcpStream::connect(to).await else { return };
                    let ((read, write), (back, forth)) = (client.into_split(), server.into_split());
                    tokio::select! {
                        () = pass(read, forth, watch.clone()) => {}
                        () = pass(back, write, watch) => {}
                    }
                });
                accepted.lock().unwrap().push(AbortOnDropHandle::new(connection));
            }
        });
        Self { address, frozen, connections, _task: AbortOnDropHandle::new(task) }
    }

    pub fn url(&self) -> String {
        format!("kubemq://{}", self.address)
    }

    /// Cuts all connections; new ones are accepted.
    pub fn cut(&self) {
        self.connections.lock().unwrap().clear();
    }

    /// Passes nothing on, and keeps the connections.
    pub fn freeze(&self, frozen: bool) {
        self.frozen.send_replace(frozen);
    }
}

/// Passes the bytes of one direction on.
pub async fn pass(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut frozen: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let _ = frozen.wait_for(|frozen| !frozen).await;
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
