//! A router of the backend `routing` that serves others: WAVEMQ's clients, and routers.

use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::message::Message;
use crate::messenger::{Capabilities, Health, Messenger, Unsent};
use crate::routing::{Namespace, Routing};
use crate::util::error::BoxError;
use crate::util::sync::lock;
use crate::wavemq::{Wavemq, WavemqConfig};

/// A router that serves WAVEMQ's clients and other routers while the messenger is open.
pub(super) struct ServedRouter {
    routing: Routing,
    stop: CancellationToken,
    serving: Mutex<Option<JoinHandle<()>>>,
}

impl ServedRouter {
    pub(super) async fn start(file: &Path, namespace: Namespace) -> Result<(Routing, Self), BoxError> {
        let server = Wavemq::open(WavemqConfig::read(file)?).await?;
        let (clients, peers) = server.bind().await?;
        let (routing, stop) = (server.routing(namespace), CancellationToken::new());
        let stopped = stop.clone().cancelled_owned();
        let serving = tokio::spawn(async move {
            if let Err(error) = server.serve_on(clients, peers, stopped).await {
                tracing::error!(%error, "the server of the router failed; the router is closed");
            }
        });
        Ok((routing.clone(), Self { routing, stop, serving: Mutex::new(Some(serving)) }))
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Messenger for ServedRouter {
    async fn send(&self, batch: Vec<Message>) -> Result<(), Unsent> {
        self.routing.send(batch).await
    }

    fn check(&self, message: &Message) -> Result<(), BoxError> {
        self.routing.check(message)
    }

    async fn health(&self) -> Health {
        self.routing.health().await
    }

    /// Stops the server, which closes the router.
    async fn close(&self, deadline: Duration) {
        self.stop.cancel();
        let serving = lock(&self.serving).take();
        if let Some(serving) = serving {
            let _ = timeout(deadline, serving).await;
        }
    }

    fn capabilities(&self) -> Capabilities {
        self.routing.capabilities()
    }
}
