//! The configuration file of the original, `wavemq.toml`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::routing::{Namespace, QueueLimits, RouterSettings};
use crate::util::error::debug_as_display;

/// The largest file that is read.
const LARGEST: u64 = 1 << 20;

/// The configuration of a router, as the file of the original has it, with a table of its own for keys and grants.
///
/// Keys may have any case. A missing key has its default, where the original takes zero.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct WavemqConfig {
    /// Keys that need WAVE. They are read, and have no effect.
    pub waveconfig: WaveConfig,
    /// The queues.
    pub queueconfig: QueueConfig,
    /// The listener for clients.
    pub localconfig: LocalConfig,
    /// The listener for other routers.
    pub peerconfig: PeerConfig,
    /// The designated routers.
    pub routingconfig: RoutingConfig,
    /// Keys and grants in place of WAVE's entities and proofs.
    pub security: SecurityConfig,
}

/// `[WaveConfig]`: where WAVE keeps its proofs. Nothing here uses it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct WaveConfig {
    /// Not used.
    pub database: Option<PathBuf>,
    /// Not used.
    pub defaulttounrevoked: Option<bool>,
    /// Not used.
    pub storage: BTreeMap<String, WaveStorage>,
}

/// `[WaveConfig.storage.default]`. Nothing here uses it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct WaveStorage {
    /// Not used.
    pub provider: Option<String>,
    /// Not used.
    pub url: Option<String>,
    /// Not used.
    pub version: Option<String>,
}

/// `[QueueConfig]`: the queues.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct QueueConfig {
    /// The folder. By default `/var/lib/wavemq/queue`.
    pub queuedatastore: PathBuf,
    /// How long a queue lives without a subscriber, in seconds. By default 86,400.
    pub queueexpiry: u64,
    /// The largest number of messages in the queue of a subscriber. By default 10,000.
    pub subscriptionqueuemaxlength: u64,
    /// The largest size of the queue of a subscriber, in MiB. By default 100.
    pub subscriptionqueuemaxsize: u64,
    /// The largest number of messages in the queue for a designated router. By default 100,000.
    pub trunkingqueuemaxlength: u64,
    /// The largest size of the queue for a designated router, in MiB. By default 1,000.
    pub trunkingqueuemaxsize: u64,
    /// The time between two writes to the disk, in seconds. By default 0: each message is on the disk before it is
    /// confirmed. The original's examples have 30.
    pub flushinterval: u64,
}

impl Default for QueueConfig {
    fn default() -> Self {
        Self {
            queuedatastore: "/var/lib/wavemq/queue".into(),
            queueexpiry: 86_400,
            subscriptionqueuemaxlength: 10_000,
            subscriptionqueuemaxsize: 100,
            trunkingqueuemaxlength: 100_000,
            trunkingqueuemaxsize: 1_000,
            flushinterval: 0,
        }
    }
}

/// `[LocalConfig]`: the listener for clients.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct LocalConfig {
    /// The address. By default `127.0.0.1:4516`.
    pub listenaddr: SocketAddr,
}

impl Default for LocalConfig {
    fn default() -> Self {
        Self { listenaddr: SocketAddr::from(([127, 0, 0, 1], 4516)) }
    }
}

/// `[PeerConfig]`: the listener for other routers.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct PeerConfig {
    /// The address. By default `127.0.0.1:4515`.
    pub listenaddr: SocketAddr,
}

impl Default for PeerConfig {
    fn default() -> Self {
        Self { listenaddr: SocketAddr::from(([127, 0, 0, 1], 4515)) }
    }
}

/// `[RoutingConfig]`: the designated routers.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct RoutingConfig {
    /// The folder for last values in the original. Here they are in the folder of the queues.
    pub persistdatastore: Option<PathBuf>,
    /// The WAVE entity of the router in the original. Here `[Security]` has the certificate and its key.
    pub routerentityfile: Option<PathBuf>,
    /// The designated router of each namespace that has it at another address.
    pub router: Vec<DesignatedRouter>,
    /// Files with the namespaces that this router is the designated one for. Each has a namespace in base64url.
    pub designatednamespacefiles: Vec<PathBuf>,
}

/// `[[RoutingConfig.Router]]`: the designated router of a namespace.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct DesignatedRouter {
    /// The namespace, in base64url.
    pub namespace: String,
    /// Its host and port.
    pub address: String,
}

/// `[Security]`: keys and grants in place of WAVE's entities and proofs.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct SecurityConfig {
    /// Files with grants, which are read again when they change. Without any, local clients may do everything.
    pub grants: Vec<PathBuf>,
    /// The certificate of this router with its chain, in PEM. With it routers speak TLS.
    pub certificate: Option<PathBuf>,
    /// The key of the certificate, in PEM.
    pub privatekey: Option<PathBuf>,
    /// The authorities of the certificates of other routers, in PEM.
    pub cacert: Option<PathBuf>,
    /// The Ed25519 key that signs the messages that are published here, in PEM. By default they are not signed.
    pub signingkey: Option<PathBuf>,
    /// The name under which other routers know the key. By default the name of this host.
    pub signingname: Option<String>,
    /// The folder of public keys, `NAME.pem` each, which is read again when it changes. With it the messages of other routers are
    /// verified, and one without a fitting signature is dropped and counted.
    pub trustedkeys: Option<PathBuf>,
    /// Whether messages without a signature are accepted. By default not, if there are `TrustedKeys`.
    pub acceptunsigned: bool,
}

impl WavemqConfig {
    /// Reads a file.
    ///
    /// # Errors
    /// [`ConfigError`], if it cannot be read, has an unknown key, or a value of the wrong type.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        Self::parse(&text(path)?).map_err(|reason| ConfigError::new(path, reason))
    }

    /// Parses the text of a file.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| error.to_string())?;
        lowered(table)?.try_into().map_err(|error| error.to_string())
    }

    /// Warns once of keys that have no effect.
    pub(super) fn warn(&self) {
        let WaveConfig { database, defaulttounrevoked, storage } = &self.waveconfig;
        let has_wave = database.is_some() || defaulttounrevoked.is_some() || !storage.is_empty();
        let RoutingConfig { persistdatastore, routerentityfile, .. } = &self.routingconfig;
        let mut keys = Vec::new();
        keys.extend(has_wave.then_some("WaveConfig"));
        keys.extend(persistdatastore.is_some().then_some("RoutingConfig.PersistDataStore"));
        keys.extend(routerentityfile.is_some().then_some("RoutingConfig.RouterEntityFile"));
        if !keys.is_empty() {
            tracing::warn!(
                keys = keys.join(", "),
                "these keys need WAVE and have no effect; use Security.Grants for proofs, and Security.Certificate for entities"
            );
        }
    }

    /// Returns the settings of the router.
    ///
    /// # Errors
    /// [`ConfigError`], if a namespace cannot be read.
    pub fn settings(&self) -> Result<RouterSettings, ConfigError> {
        let queue = &self.queueconfig;
        let limits = |length: u64, mib: u64| QueueLimits { length, bytes: mib.saturating_mul(1 << 20) };
        let mut settings = RouterSettings::new(&queue.queuedatastore);
        settings.queue_expiry = Duration::from_secs(queue.queueexpiry);
        settings.subscription_limits =
            limits(queue.subscriptionqueuemaxlength, queue.subscriptionqueuemaxsize);
        settings.trunk_limits = limits(queue.trunkingqueuemaxlength, queue.trunkingqueuemaxsize);
        settings.flush_interval = Some(queue.flushinterval).filter(|it| *it > 0).map(Duration::from_secs);
        settings.uplinks = self.uplinks()?.into_iter().map(|(namespace, _)| namespace).collect();
        Ok(settings)
    }

    /// Returns the namespaces with another designated router, and its address.
    pub(super) fn uplinks(&self) -> Result<Vec<(Namespace, String)>, ConfigError> {
        let mut uplinks: Vec<(Namespace, String)> = Vec::new();
        for router in &self.routingconfig.router {
            let namespace: Namespace = router.namespace.parse().map_err(|error| {
                ConfigError::new(
                    Path::new("RoutingConfig.Router"),
                    format!("{:?}: {error}", router.namespace),
                )
            })?;
            if uplinks.iter().any(|(known, _)| *known == namespace) {
                let twice = format!("the namespace {namespace} has two designated routers");
                return Err(ConfigError::new(Path::new("RoutingConfig.Router"), twice));
            }
            uplinks.push((namespace, router.address.clone()));
        }
        Ok(uplinks)
    }

    /// Returns the namespaces that this router is the designated one for.
    pub(super) fn designated(&self) -> Result<Vec<Namespace>, ConfigError> {
        let read = |path: &PathBuf| {
            let fault = "its text must be a namespace in base64url; a WAVE entity cannot be used here";
            text(path)?.parse().map_err(|error| ConfigError::new(path, format!("{error}; {fault}")))
        };
        self.routingconfig.designatednamespacefiles.iter().map(read).collect()
    }
}

fn text(path: &Path) -> Result<String, ConfigError> {
    let fault = |error: std::io::Error| ConfigError::new(path, error.to_string());
    if std::fs::metadata(path).map_err(fault)?.len() > LARGEST {
        return Err(ConfigError::new(path, "it is larger than 1 MiB".to_owned()));
    }
    std::fs::read_to_string(path).map_err(fault)
}

/// Writes all keys in lower case, as the original reads them in any.
fn lowered(table: toml::Table) -> Result<toml::Table, String> {
    let mut out = toml::Table::new();
    for (key, value) in table {
        let value = match value {
            toml::Value::Table(table) => toml::Value::Table(lowered(table)?),
            toml::Value::Array(items) => {
                let item = |item| match item {
                    toml::Value::Table(table) => lowered(table).map(toml::Value::Table),
                    other => Ok(other),
                };
                toml::Value::Array(items.into_iter().map(item).collect::<Result<_, _>>()?)
            }
            other => other,
        };
        let name = key.to_lowercase();
        if out.insert(name, value).is_some() {
            return Err(format!("the key {key} is there twice"));
        }
    }
    Ok(out)
}

/// A file that cannot be used.
#[derive(thiserror::Error)]
#[error("{} cannot be used: {}", path.display(), reason.trim_end())]
pub struct ConfigError {
    path: PathBuf,
    reason: String,
}

debug_as_display!(ConfigError);

impl ConfigError {
    fn new(path: &Path, reason: String) -> Self {
        Self { path: path.to_owned(), reason }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SITE: &str = r#"
        [WaveConfig]
        database = "/var/lib/wavemq/wave"
        defaultToUnrevoked = true
        [WaveConfig.storage]
        [WaveConfig.storage.default]
        provider = "http_v1"
        url = "https://standalone.storage.bwave.io/v1"
        version = "1"

        [QueueConfig]
        queueDataStore = "/var/lib/wavemq/queue"
        queueExpiry = 3600
        subscriptionQueueMaxLength = 1000
        subscriptionQueueMaxSize = 10
        trunkingQueueMaxLength = 20000
        trunkingQueueMaxSize = 200
        flushInterval = 30

        [LocalConfig]
        listenAddr = "127.0.0.1:4516"

        [PeerConfig]
        listenAddr = "127.0.0.1:4515"

        [RoutingConfig]
        PersistDataStore = "/var/lib/wavemq/persist"
        RouterEntityFile = "/etc/wavemq/router.ent"
        [[RoutingConfig.Router]]
        Namespace = "GyC5wUUGKON6uC4gxuH6TpzU9vvuKHGeJa1jUr4G-j_NbA=="
        Address = "127.0.0.1:9"
    "#;

    #[test]
    fn every_key_of_the_original_is_read() {
        let config = WavemqConfig::parse(SITE).unwrap();
        let settings = config.settings().unwrap();
        assert_eq!(settings.path, Path::new("/var/lib/wavemq/queue"));
        assert_eq!(settings.queue_expiry, Duration::from_secs(3_600));
        assert_eq!(settings.subscription_limits, QueueLimits { length: 1_000, bytes: 10 << 20 });
        assert_eq!(settings.trunk_limits, QueueLimits { length: 20_000, bytes: 200 << 20 });
        assert_eq!(settings.flush_interval, Some(Duration::from_secs(30)));
        assert_eq!((settings.uplinks.len(), config.uplinks().unwrap()[0].1.as_str()), (1, "127.0.0.1:9"));
        assert!(config.waveconfig.storage["default"].url.is_some());
    }

    #[test]
    fn a_missing_key_has_its_default_and_not_zero() {
        let settings =
            WavemqConfig::parse("[QueueConfig]\nqueueDataStore = \"q\"").unwrap().settings().unwrap();
        assert_eq!(settings.subscription_limits, QueueLimits { length: 10_000, bytes: 100 << 20 });
        assert_eq!((settings.trunk_limits.length, settings.flush_interval), (100_000, None));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, named) in [
            ("[QueueConfig]\nqueueDatastor = 1", "queuedatastor"),
            ("[QeueConfig]", "qeueconfig"),
            ("[QueueConfig]\nqueueExpiry = \"x\"", "queueexpiry"),
            ("[QueueConfig]\nqueueExpiry = 1\nQueueExpiry = 2", "is there twice"),
            ("[LocalConfig]\nlistenAddr = \"somewhere\"", "listenaddr"),
            ("not toml", "not toml"),
        ] {
            let error = WavemqConfig::parse(text).unwrap_err();
            assert!(error.contains(named) || error.contains("expected"), "{text}: {error}");
        }
        let twice = format!(
            "{SITE}\n[[RoutingConfig.Router]]\nNamespace = \"GyC5wUUGKON6uC4gxuH6TpzU9vvuKHGeJa1jUr4G-j_NbA==\"\nAddress = \"b:1\""
        );
        let error = WavemqConfig::parse(&twice).unwrap().settings().unwrap_err().to_string();
        assert!(error.contains("two designated routers"), "{error}");
    }
}
