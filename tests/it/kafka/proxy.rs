//! Connections that a test cuts.

use std::sync::{Arc, Mutex};

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

pub struct Proxy {
    pub port: u16,
    connections: Arc<Mutex<JoinSet<()>>>,
    _accepting: JoinSet<()>,
}

impl Proxy {
    /// Forwards connections to another port.
    pub fn start(listener: TcpListener, to: u16) -> Self {
        let port = listener.local_addr().unwrap().port();
        let (connections, mut accepting) = (Arc::<Mutex<JoinSet<()>>>::default(), JoinSet::new());
        let accepted = Arc::clone(&connections);
        accepting.spawn(async move {
            loop {
                let (mut client, _) = listener.accept().await.unwrap();
                let forward = async move {
                    if let Ok(mut server) = TcpStream::connect(("127.0.0.1", to)).await {
                        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                    }
                };
                accepted.lock().unwrap().spawn(forward);
            }
        });
        Self { port, connections, _accepting: accepting }
    }

    /// Ends TLS, and forwards to a port without.
    pub fn start_tls(listener: TcpListener, to: u16, config: ServerConfig) -> Self {
        let (acceptor, port) = (TlsAcceptor::from(Arc::new(config)), listener.local_addr().unwrap().port());
        let mut accepting = JoinSet::new();
        accepting.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let acceptor = acceptor.clone();
                connections.spawn(async move {
                    if let Ok(mut client) = acceptor.accept(client).await
                        && let Ok(mut server) = TcpStream::connect(("127.0.0.1", to)).await
                    {
                        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                    }
                });
            }
        });
        Self { port, connections: Arc::default(), _accepting: accepting }
    }

    /// Ends all connections.
    pub fn cut(&self) {
        self.connections.lock().unwrap().abort_all();
    }
}
