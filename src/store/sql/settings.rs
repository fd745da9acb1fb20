//! The settings of a store in a database.

use std::time::Duration;

use crate::store::{Limits, WhenFull};

/// The settings of [`PostgresStore`](crate::store::PostgresStore) and [`SqliteStore`](crate::store::SqliteStore).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SqlStoreSettings {
    /// The schema of the tables in Postgres, the prefix of their names in SQLite; `tower_outbox` by default.
    /// Letters, digits and underscores. Upper case and words of SQL are kept.
    pub schema: String,
    /// How much it may hold; see [`Limits`]. [`WhenFull::DropOldest`] is refused when the store is opened: messages that were
    /// committed are not dropped.
    pub limits: Limits,
    /// How long an instance may be silent before other instances send its messages; 15 seconds by default.
    pub lease: Duration,
    /// How long the ids of handled messages are kept; seven days by default.
    pub inbox_retention: Duration,
    /// The name of this instance for operators; by default its host and process id.
    pub instance_name: Option<String>,
}

/// Why settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnusableSettings {
    #[error(
        "the schema {name:?} cannot be used: write OUTBOX.SCHEMA with letters, digits and underscores, 40 at most, the first no digit, \
         and not beginning like the database's own names (pg_, sqlite)"
    )]
    BadSchema { name: String },
    #[error(
        "WHEN_FULL = \"drop_oldest\" cannot be used with a store in a database (DELIVERY = \"transactional\"): messages that were \
         committed are not dropped. Set OUTBOX.WHEN_FULL = \"refuse\", or DELIVERY = \"durable\""
    )]
    DropsOldest,
}

impl Default for SqlStoreSettings {
    fn default() -> Self {
        Self {
            schema: "tower_outbox".to_owned(),
            limits: Limits::default(),
            lease: Duration::from_secs(15),
            inbox_retention: Duration::from_secs(7 * 24 * 60 * 60),
            instance_name: None,
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

    /// Sets [`instance_name`](Self::instance_name).
    #[must_use]
    pub fn with_instance_name(mut self, name: impl Into<String>) -> Self {
        self.instance_name = Some(name.into());
        self
    }

    /// Returns whether the ids of handled messages are kept until a consumer gives a message up, and warns if not: a message that
    /// is delivered again later would be handled twice.
    ///
    /// `retries` is the consumer's [`retry_span`](crate::consumer::ConsumerSettings::retry_span).
    pub fn check_inbox_retention(&self, consumer: &str, retries: Duration) -> bool {
        let is_enough = self.inbox_retention > retries;
        if !is_enough {
            tracing::warn!(
                consumer,
                inbox_retention = ?self.inbox_retention,
                ?retries,
                "inbox retention is shorter than the retries of a consumer, so a message may be handled twice; raise it"
            );
        }
        is_enough
    }

    /// Returns the name of the schema, if these settings are valid. The name is used in statements without quoting.
    pub(crate) fn checked_schema(&self) -> Result<&str, UnusableSettings> {
        let mut bytes = self.schema.bytes();
        // Postgres keeps 63 bytes of a name, and our longest suffix takes some of them.
        let is_safe = self.schema.len() <= 40
            && bytes.next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
            && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            && !["pg_", "sqlite"].iter().any(|of_system| self.schema.to_lowercase().starts_with(of_system));
        if !is_safe {
            return Err(UnusableSettings::BadSchema { name: self.schema.chars().take(64).collect() });
        }
        match self.limits.when_full {
            WhenFull::Refuse => Ok(&self.schema),
            WhenFull::DropOldest => Err(UnusableSettings::DropsOldest),
        }
    }
}
