//! `tower-outbox serve`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use tokio::net::TcpListener;

use super::context::Context;
use super::error::CliError;
use crate::util::error::Chain;
use crate::wavemq::{Wavemq, WavemqConfig, WavemqError};

/// Run a server
#[derive(Args)]
#[command(after_help = "SIGTERM and Ctrl-C end it in order.

Environment:
  METRICS_ADDRESS   also serve /metrics there, such as 127.0.0.1:6060")]
pub(super) struct Serve {
    /// Run a WAVEMQ router with this configuration file
    #[arg(long, value_name = "FILE", required = true)]
    wavemq: PathBuf,
    /// Serve /metrics at this address too
    #[arg(long, value_name = "ADDRESS", env = "METRICS_ADDRESS")]
    metrics_address: Option<SocketAddr>,
}

impl Serve {
    pub(super) fn run(&self, context: &Context) -> Result<(), CliError> {
        let served = context.runtime.block_on(self.serve());
        served.map_err(|error| CliError::failed(Chain(&error)))
    }

    async fn serve(&self) -> Result<(), WavemqError> {
        let server = Wavemq::open(WavemqConfig::read(&self.wavemq)?).await?;
        if let Some(address) = self.metrics_address {
            let fault = |source| WavemqError::Listener { address, source };
            let (listener, metrics) = (TcpListener::bind(address).await.map_err(fault)?, server.metrics());
            tokio::spawn(async move { axum::serve(listener, metrics).await });
        }
        server.serve(stopped()).await
    }
}

/// Waits for Ctrl-C or SIGTERM.
async fn stopped() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};

        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
            return;
        }
    }
    let _ = tokio::signal::ctrl_c().await;
}
