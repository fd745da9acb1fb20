//! WAVEMQ's gRPC interface over a [`SiteRouter`](crate::routing::SiteRouter): unmodified WAVEMQ clients use it as their site router.
//!
//! The command `tower-outbox serve --wavemq wavemq.toml` runs [`Wavemq`] alone. In an app:
//!
//! ```no_run
//! use tower_outbox::wavemq::{Wavemq, WavemqConfig};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let server = Wavemq::open(WavemqConfig::read("wavemq.toml".as_ref())?).await?;
//! let router = server.router().clone(); // publish, subscribe, query
//! tokio::spawn(server.serve(async { drop(tokio::signal::ctrl_c().await) }));
//! # drop(router);
//! # Ok(())
//! # }
//! ```

mod access;
mod config;
mod convert;
mod error;
#[cfg(feature = "_fuzzing")]
pub(crate) mod fuzzing;
mod link;
mod links;
mod local;
mod metrics;
mod peering;
mod seal;
mod server;

pub use self::config::{
    ConfigError, DesignatedRouter, LocalConfig, PeerConfig, QueueConfig, RoutingConfig, SecurityConfig,
    WaveConfig, WaveStorage, WavemqConfig,
};
pub use self::error::WavemqError;
pub use self::server::Wavemq;
