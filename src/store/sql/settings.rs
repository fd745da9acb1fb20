//! How a store keeps messages in the app's own database.

use std::time::Duration;

use super::versions::WrongTables;
use crate::store::{Limits, WhenFull};

/// How [`PostgresStore`](crate::store::PostgresStore) and [`SqliteStore`](crate::store::SqliteStore) keep messages.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SqlStoreSettings {
    /// Where the tables are: a schema in Postgres, a prefix of their names in SQLite; `tower_outbox` by default.
    /// Letters, digits and underscores; upper case and words of SQL stay as they are.
    pub schema: String,
    /// How much it may hold; see [`Limits`]. [`WhenFull::DropOldest`] is refused when the store is opened: messages that were
    /// committed are not dropped.
    pub limits: Limits,
    /// How long an instance of the app may be silent before others send what it was to send; 15 seconds by default.
    pub lease: Duration,
    /// How long the ids of handled messages are remembered; seven days by default.
    pub inbox_retention: Duration,
}

impl Default for SqlStoreSettings {
    fn default() -> Self {
        Self {
            schema: "tower_outbox".to_owned(),
            limits: Limits::default(),
            lease: Duration::from_secs(15),
            inbox_retention: Duration::from_secs(7 * 24 * 60 * 60),
        }
    }
}

impl SqlStoreSettings {
    /// Sets [`schema`](Self::schema).
    #[must_use]
    pub fn with_schema(mut self, schema: impl Into<String>) -> Self {
        self.schema = schema.into();
        self
    }

    /// Sets [`limits`](Self::limits).
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets [`lease`](Self::lease).
    #[must_use]
    pub fn with_lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// Sets [`inbox_retention`](Self::inbox_retention).
    #[must_use]
    pub fn with_inbox_retention(mut self, inbox_retention: Duration) -> Self {
        self.inbox_retention = inbox_retention;
        self
    }

    /// Warns when the ids of handled messages are forgotten before a consumer gives a message up: one that comes again later
    /// would be handled twice. Says whether they are remembered long enough.
    ///
    /// `retries` is the consumer's [`retry_span`](crate::consumer::ConsumerSettings::retry_span).
    pub fn check_inbox_retention(&self, consumer: &str, retries: Duration) -> bool {
        let is_enough = self.inbox_retention > retries;
        if !is_enough {
            tracing::warn!(
                consumer,
                inbox_retention = ?self.inbox_retention,
                ?retries,
                "handled messages are forgotten while they may still come again: raise the inbox retention"
            );
        }
        is_enough
    }

    /// Returns the name of the schema, if these settings can be used: it stands in statements as it is.
    pub(crate) fn checked_schema(&self) -> Result<&str, WrongTables> {
        let mut bytes = self.schema.bytes();
        // 63 bytes is what Postgres keeps of a name; the longest suffix of ours takes some of them.
        let is_safe = self.schema.len() <= 40
            && bytes.next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
            && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            && !["pg_", "sqlite"].iter().any(|of_system| self.schema.to_lowercase().starts_with(of_system));
        if !is_safe {
            return Err(WrongTables::BadSchema { name: self.schema.chars().take(64).collect() });
        }
        match self.limits.when_full {
            WhenFull::Refuse => Ok(&self.schema),
            WhenFull::DropOldest => Err(WrongTables::DropsOldest),
        }
    }
}
