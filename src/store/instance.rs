//! An instance of an app that shares a store.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::util::host_name::host_name;
use crate::util::readable::harmless;

/// An instance of an app that sends what is stored, alone or with others.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Instance {
    /// The id. An instance that was away for too long returns with a new one.
    pub id: String,
    /// The name from its settings, by default its host and process id; `None` if it is of an earlier version.
    pub name: Option<String>,
    /// The version of tower-outbox; `None` if that did not say it yet.
    pub version: Option<String>,
    /// When it opened the store.
    pub since: Option<SystemTime>,
    /// How long ago its last heartbeat was; `None` if it needs none.
    pub heartbeat_age: Option<Duration>,
    /// The time until others take its partitions, unless its next heartbeat comes before; `None` if there are no others.
    pub expires_in: Option<Duration>,
    /// The number of the partitions whose messages it sends; it sends nothing if that is 0.
    pub partitions: u64,
}

impl Instance {
    /// An instance with its partitions.
    #[must_use]
    pub fn new(id: impl Into<String>, partitions: u64) -> Self {
        Self { id: id.into(), partitions, ..Self::default() }
    }
}

/// This process, for people.
#[derive(Clone, Debug)]
#[cfg_attr(not(any(feature = "embedded", feature = "_sql")), expect(dead_code, reason = "there is no store"))]
pub(crate) struct ThisInstance {
    pub(crate) name: String,
    pub(crate) since: SystemTime,
}

#[cfg_attr(not(any(feature = "embedded", feature = "_sql")), expect(dead_code, reason = "there is no store"))]
impl ThisInstance {
    pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

    /// With the name of the settings, or else host and process id.
    pub(crate) fn named(name: Option<&str>) -> Self {
        let host = || host_name().unwrap_or_else(|| "unknown-host".to_owned());
        let name = name
            .filter(|name| !name.trim().is_empty())
            .map_or_else(|| format!("{}:{}", host(), std::process::id()), harmless);
        Self { name: name.chars().take(200).collect(), since: SystemTime::now() }
    }

    /// The only instance of its store.
    #[cfg(feature = "embedded")]
    pub(crate) fn alone(&self) -> Instance {
        let mut instance = Instance::new(std::process::id().to_string(), 1);
        (instance.name, instance.since) = (Some(self.name.clone()), Some(self.since));
        instance.version = Some(Self::VERSION.to_owned());
        instance
    }

    /// How long it has the store open.
    #[cfg(feature = "_sql")]
    pub(crate) fn age(&self) -> Duration {
        self.since.elapsed().unwrap_or_default()
    }
}
