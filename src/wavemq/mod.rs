//! WAVEMQ's gRPC interface over a [`SiteRouter`](crate::routing::SiteRouter): unmodified WAVEMQ clients use it as their site router.

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
mod server;

pub use self::config::{
    ConfigError, DesignatedRouter, LocalConfig, PeerConfig, QueueConfig, RoutingConfig, SecurityConfig,
    WaveConfig, WaveStorage, WavemqConfig,
};
pub use self::error::WavemqError;
pub use self::server::Wavemq;
