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
#[cfg(feature = "nats")]
use crate::channels::jetstream::{JetstreamEngine, JetstreamEngineSettings};
use crate::kubemq::{Kubemq, KubemqError, Settings};
use crate::util::signals::terminated;

/// How long closing the channels may take.
const CLOSE: Duration = Duration::from_secs(10);

#[derive(Args)]
pub(super) struct KubemqServer {
    /// Serve KubeMQ clients at this address; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT", requires = "place", required = false)]
    kubemq: SocketAddr,
    /// The folder of the channels; it is created if its parent exists
    #[arg(long, value_name = "DIR", group = "place", requires = "kubemq")]
    data: Option<PathBuf>,
    /// Keep the channels in these NATS servers with JetStream, instead of a folder; several servers with commas
    #[cfg(feature = "nats")]
    #[arg(long, value_name = "URL", group = "place", requires = "kubemq", value_delimiter = ',')]
    nats: Vec<String>,
    /// The first word of all subjects and streams in NATS, channels by default; servers with one prefix share their channels
    #[cfg(feature = "nats")]
    #[arg(long, value_name = "WORD", requires = "nats")]
    nats_prefix: Option<String>,
    /// The replicas of each stream in NATS, 1 by default
    #[cfg(feature = "nats")]
    #[arg(long, value_name = "1..5", requires = "nats")]
    nats_replicas: Option<usize>,
    /// The credentials file of NATS
    #[cfg(feature = "nats")]
    #[arg(long, value_name = "FILE", requires = "nats")]
    nats_credentials: Option<PathBuf>,
    /// The authorities to trust for tls:// in --nats, instead of the system's
    #[cfg(feature = "nats")]
    #[arg(long, value_name = "FILE", requires = "nats")]
    nats_cacert: Option<PathBuf>,
    /// The client certificate for NATS, with its key in the same file
    #[cfg(feature = "nats")]
    #[arg(long, value_name = "FILE", requires = "nats")]
    nats_certificate: Option<PathBuf>,
}

impl KubemqServer {
    /// Serves until a signal; with `/metrics` at `metrics` too.
    pub(super) fn run(&self, context: &Context, metrics: Option<SocketAddr>) -> Result<(), CliError> {
        let settings = context.settings()?.kubemq;
        context.runtime.block_on(async {
            let signal = terminated().map_err(|error| CliError::error(&error))?;
            let engine = self.engine().await?;
            let served = self.serve(context, Arc::clone(&engine), &settings, metrics, signal).await;
            engine.close(CLOSE).await;
            served
        })
    }

    async fn engine(&self) -> Result<Arc<dyn Engine>, CliError> {
        if let Some(folder) = &self.data {
            let engine = EmbeddedEngine::open(EmbeddedEngineSettings::new(folder)).await;
            return Ok(Arc::new(engine.map_err(|error| CliError::error(&error))?));
        }
        #[cfg(feature = "nats")]
        if !self.nats.is_empty() {
            let engine = JetstreamEngine::open(self.jetstream()).await;
            return Ok(Arc::new(engine.map_err(|error| CliError::error(&error))?));
        }
        Err(CliError::failed("name the place of the channels: see tower-outbox serve --help"))
    }

    #[cfg(feature = "nats")]
    fn jetstream(&self) -> JetstreamEngineSettings {
        let mut settings = JetstreamEngineSettings::new(&self.nats);
        settings.prefix = self.nats_prefix.clone().unwrap_or(settings.prefix);
        settings.replicas = self.nats_replicas.unwrap_or(settings.replicas);
        settings.credentials_file.clone_from(&self.nats_credentials);
        settings.broker.cacert.clone_from(&self.nats_cacert);
        settings.broker.certificate.clone_from(&self.nats_certificate);
        settings
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
