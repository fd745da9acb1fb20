//! The table `OUTBOX`: the store and the relay.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use crate::outbox::{RelaySettings, WhenExpired};
#[cfg(feature = "embedded")]
use crate::store::EmbeddedStoreSettings;
#[cfg(feature = "_sql")]
use crate::store::SqlStoreSettings;
use crate::store::{Limits, WhenFull};

/// The outbox of the deliveries `durable` and `transactional`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct OutboxSettings {
    /// Durable: the folder; `outbox` by default. Its parent must exist.
    pub path: PathBuf,
    /// Transactional: the app's own database, unless the app hands its pool to
    /// [`BusBuilder`](crate::bus::BusBuilder); none by default.
    pub database_url: Option<DatabaseUrl>,
    /// Transactional: how many connections the pool for `database_url` may have; 10 by default.
    pub max_connections: u32,
    /// Transactional: the schema of the tables in Postgres, the prefix of their names in SQLite; `tower_outbox` by default.
    pub schema: String,
    /// Transactional: whether the start installs and migrates the tables; true by default. If false, run
    /// `tower-outbox migrate`.
    pub migrate: bool,
    /// Transactional: whether this process runs the relay; true by default. If false, another process on the same database
    /// must run it.
    pub relay: bool,
    /// Transactional: how long an instance of the app may be silent before the others take over its messages; 15 seconds by
    /// default.
    #[serde(deserialize_with = "crate::util::units::duration")]
    pub lease: Duration,
    /// Transactional: how long the ids of handled messages are kept; seven days by default.
    #[serde(deserialize_with = "crate::util::units::duration")]
    pub inbox_retention: Duration,
    /// The name of this instance for operators; by default its host and process id.
    pub instance_name: Option<String>,
    /// How many messages the outbox may hold, pending and dead; 1,000,000 by default.
    pub max_messages: u64,
    /// How many bytes the outbox may hold; 1 GiB by default.
    #[serde(deserialize_with = "crate::util::units::size_u64")]
    pub max_bytes: u64,
    /// The behaviour of a full outbox; [`WhenFull::Refuse`] by default. [`WhenFull::DropOldest`] is for durable only.
    #[serde(deserialize_with = "crate::util::units::word")]
    pub when_full: WhenFull,
    /// How long a message may wait in the outbox; without limit by default.
    #[serde(deserialize_with = "crate::util::units::optional_duration")]
    pub expiry: Option<Duration>,
    /// The fate of an expired message; [`WhenExpired::DeadLetter`] by default.
    #[serde(deserialize_with = "crate::util::units::word")]
    pub when_expired: WhenExpired,
    /// How many attempts a message gets before it is a dead letter; 50 by default.
    pub max_attempts: u32,
    /// The longest wait before another attempt; one minute by default.
    #[serde(deserialize_with = "crate::util::units::duration")]
    pub max_backoff: Duration,
    /// How many messages may await their confirm; 1,024 by default.
    pub window: usize,
}

impl Default for OutboxSettings {
    fn default() -> Self {
        let (limits, relay) = (Limits::default(), RelaySettings::default());
        Self {
            path: "outbox".into(),
            database_url: None,
            max_connections: 10,
            schema: "tower_outbox".to_owned(),
            migrate: true,
            relay: true,
            lease: Duration::from_secs(15),
            inbox_retention: Duration::from_secs(7 * 24 * 60 * 60),
            instance_name: None,
            max_messages: limits.max_messages,
            max_bytes: limits.max_bytes,
            when_full: limits.when_full,
            expiry: relay.expiry,
            when_expired: relay.when_expired,
            max_attempts: relay.max_attempts,
            max_backoff: relay.max_backoff,
            window: relay.window,
        }
    }
}

impl OutboxSettings {
    /// The settings of the embedded store.
    #[cfg(feature = "embedded")]
    #[must_use]
    pub fn store(&self) -> EmbeddedStoreSettings {
        let mut store = EmbeddedStoreSettings::new(&self.path).with_limits(self.limits());
        store.instance_name.clone_from(&self.instance_name);
        store
    }

    /// The settings of a store in a database.
    #[cfg(feature = "_sql")]
    #[must_use]
    pub fn database(&self) -> SqlStoreSettings {
        let mut database = SqlStoreSettings::default()
            .with_schema(&self.schema)
            .with_lease(self.lease)
            .with_inbox_retention(self.inbox_retention)
            .with_limits(self.limits());
        database.instance_name.clone_from(&self.instance_name);
        database
    }

    /// The settings of the relay.
    #[cfg(any(feature = "embedded", feature = "_sql"))]
    #[must_use]
    pub fn relay_settings(&self) -> RelaySettings {
        let mut relay = RelaySettings::default()
            .with_when_expired(self.when_expired)
            .with_max_attempts(self.max_attempts)
            .with_max_backoff(self.max_backoff)
            .with_window(self.window);
        relay.expiry = self.expiry;
        relay
    }

    #[cfg(any(feature = "embedded", feature = "_sql"))]
    fn limits(&self) -> Limits {
        limits(self.max_messages, self.max_bytes, self.when_full)
    }
}

#[cfg(any(feature = "embedded", feature = "_sql"))]
fn limits(max_messages: u64, max_bytes: u64, when_full: WhenFull) -> Limits {
    Limits { max_messages, max_bytes, when_full }
}

/// The URL of a database: `postgres://user:password@host/name`, `sqlite:path/to/file.db`.
///
/// `Debug` shows the scheme only, since a URL may hold a password.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct DatabaseUrl(String);

impl DatabaseUrl {
    /// Returns the URL with its password.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The scheme; empty if there is none, since the text before a colon may be a user.
    pub(crate) fn scheme_of(url: &str) -> &str {
        match url.split_once(':') {
            Some(("sqlite", _)) => "sqlite",
            Some((scheme, rest)) if rest.starts_with("//") => scheme,
            _ => "",
        }
    }
}

impl<U: Into<String>> From<U> for DatabaseUrl {
    fn from(url: U) -> Self {
        Self(url.into())
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:..", Self::scheme_of(&self.0))
    }
}

/// The keys of the backend `embedded`, a queue in a store of its own.
#[cfg(feature = "embedded")]
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct QueueSettings {
    path: PathBuf,
    max_messages: u64,
    #[serde(deserialize_with = "crate::util::units::size_u64")]
    max_bytes: u64,
    #[serde(deserialize_with = "crate::util::units::word")]
    when_full: WhenFull,
}

#[cfg(feature = "embedded")]
impl Default for QueueSettings {
    fn default() -> Self {
        let limits = Limits::default();
        let Limits { max_messages, max_bytes, when_full } = limits;
        Self { path: "queue".into(), max_messages, max_bytes, when_full }
    }
}

#[cfg(feature = "embedded")]
impl QueueSettings {
    pub(crate) fn store(&self) -> EmbeddedStoreSettings {
        EmbeddedStoreSettings::new(&self.path).with_limits(limits(
            self.max_messages,
            self.max_bytes,
            self.when_full,
        ))
    }
}

#[cfg(all(test, feature = "_sql"))]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_those_of_the_store() {
        assert_eq!(OutboxSettings::default().database(), SqlStoreSettings::default());
    }

    #[test]
    fn a_password_does_not_print() {
        let url = DatabaseUrl::from("postgres://jo:geheim@h/db");
        assert_eq!(format!("{url:?}"), "postgres:..");
    }
}
