//! `tower-outbox serve`.

use std::net::SocketAddr;
#[cfg(feature = "wavemq")]
use std::path::PathBuf;

use clap::Args;
#[cfg(feature = "wavemq")]
use tokio::net::TcpListener;

use super::context::Context;
use super::error::CliError;
#[cfg(feature = "kubemq")]
use super::kubemq::KubemqServer;
#[cfg(feature = "wavemq")]
use crate::util::error::Chain;
#[cfg(feature = "wavemq")]
use crate::util::signals::terminated;
#[cfg(feature = "wavemq")]
use crate::wavemq::{Wavemq, WavemqConfig, WavemqError};

/// Run a server
#[derive(Args)]
#[command(
    arg_required_else_help = true,
    after_help = "SIGTERM and Ctrl-C end it in order.

--kubemq takes certificates, tokens and grants from the table KUBEMQ of --settings; an address that other machines can reach
needs one of them. GET /health and GET /metrics are on the same port.

With --nats (NATS 2.12 or newer, with JetStream) several of these servers share their channels. A list of processes shows a password
in the URL; --nats-credentials names a file instead.

Environment:
  METRICS_ADDRESS   also serve /metrics there, such as 127.0.0.1:6060

Examples:
  tower-outbox serve --kubemq 127.0.0.1:50000 --data channels
  tower-outbox serve --kubemq 127.0.0.1:50000 --nats nats://n1:4222,nats://n2:4222 --nats-replicas 3
  tower-outbox serve --wavemq wavemq.toml"
)]
pub(super) struct Serve {
    #[cfg(feature = "kubemq")]
    #[command(flatten)]
    kubemq: Option<KubemqServer>,
    /// Run a WAVEMQ router with this configuration file
    #[cfg(feature = "wavemq")]
    #[arg(long, value_name = "FILE")]
    #[cfg_attr(feature = "kubemq", arg(conflicts_with_all = ["kubemq", "data"]))]
    wavemq: Option<PathBuf>,
    /// Serve /metrics at this address too
    #[arg(long, value_name = "ADDRESS", env = "METRICS_ADDRESS")]
    metrics_address: Option<SocketAddr>,
}

impl Serve {
    pub(super) fn run(&self, context: &Context) -> Result<(), CliError> {
        #[cfg(feature = "kubemq")]
        if let Some(kubemq) = &self.kubemq {
            return kubemq.run(context, self.metrics_address);
        }
        #[cfg(feature = "wavemq")]
        if let Some(file) = &self.wavemq {
            let served = context.runtime.block_on(self.route(file));
            return served.map_err(|error| CliError::failed(Chain(&error)));
        }
        let _ = context;
        Err(CliError::failed("name a server: see tower-outbox serve --help"))
    }

    #[cfg(feature = "wavemq")]
    async fn route(&self, file: &std::path::Path) -> Result<(), WavemqError> {
        let server = Wavemq::open(WavemqConfig::read(file)?).await?;
        if let Some(address) = self.metrics_address {
            let fault = |source| WavemqError::Listener { address, source };
            let (listener, metrics) = (TcpListener::bind(address).await.map_err(fault)?, server.metrics());
            tokio::spawn(async move { axum::serve(listener, metrics).await });
        }
        let stop = terminated();
        server
            .serve(async {
                match stop {
                    Ok(signal) => signal.await,
                    Err(_) => std::future::pending().await,
                }
            })
            .await
    }
}
