//! `tower-outbox serve --kubemq`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::context::Context;
use super::error::CliError;
use crate::channels::Engine;
use crate::channels::embedded::{EmbeddedEngine, EmbeddedEngineSettings};
use crate::kubemq::{Kubemq, KubemqError, Settings};
use crate::util::signals::terminated;

/// How long closing the channels may take.
const CLOSE: Duration = Duration::from_secs(10);

#[derive(Args)]
pub(super) struct KubemqServer {
    /// Serve KubeMQ clients at this address; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT", requires = "data", required = false)]
    kubemq: SocketAddr,
    /// The folder of the channels; it is created if its parent exists
    #[arg(long, value_name = "DIR", requires = "kubemq", required = false)]
    data: PathBuf,
}

impl KubemqServer {
    /// Serves until a signal; with `/metrics` at `metrics` too.
    pub(super) fn run(&self, context: &Context, metrics: Option<SocketAddr>) -> Result<(), CliError> {
        let settings = context.settings()?.kubemq;
        context.runtime.block_on(async {
            let signal = terminated().map_err(|error| CliError::error(&error))?;
            let engine = EmbeddedEngine::open(EmbeddedEngineSettings::new(&self.data)).await;
            let engine: Arc<dyn Engine> = Arc::new(engine.map_err(|error| CliError::error(&error))?);
            let served = self.serve(context, Arc::clone(&engine), &settings, metrics, signal).await;
            engine.close(CLOSE).await;
            served
        })
    }

    async fn serve(
        &self,
        context: &Context,
        engine: Arc<dyn Engine>,
        settings: &Settings,
        metrics: Option<SocketAddr>,
        signal: impl Future<Output = ()> + Send,
    ) -> Result<(), CliError> {
        let face = Kubemq::new(engine).with_settings(settings);
        let face = face.map_err(|error| CliError::error(&error))?;
        let listener = listen(self.kubemq).await?;
        let address = listener.local_addr().map_err(|error| CliError::error(&error))?;
        // Ends with the server.
        let mut beside = JoinSet::new();
        if let Some(address) = metrics {
            let (listener, router) = (listen(address).await?, face.operation());
            let address = listener.local_addr().map_err(|error| CliError::error(&error))?;
            context.output.line(format!("serving /metrics on {address}"))?;
            beside.spawn(async move { axum::serve(listener, router).await });
        }
        let ready = || context.output.line(format!("listening for KubeMQ clients on {address}"));
        face.serve_and_say(listener, signal, ready).await
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener, CliError> {
    let listener = TcpListener::bind(address).await;
    listener.map_err(|error| CliError::failed(format!("cannot listen on {address}: {error}")))
}

impl From<KubemqError> for CliError {
    fn from(error: KubemqError) -> Self {
        Self::error(&error)
    }
}
