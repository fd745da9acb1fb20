//! The store in the app's own database, from a URL or a pool.

use crate::settings::{DatabaseUrl, OutboxSettings, SettingsError};
#[cfg(feature = "postgres")]
use crate::store::PostgresStore;
#[cfg(feature = "sqlite")]
use crate::store::SqliteStore;
use crate::util::error::{BoxError, Chain};
use crate::util::secret::redacted;

/// A database for messages.
#[derive(Clone, Debug)]
pub(crate) enum Database {
    #[cfg(feature = "postgres")]
    Postgres(sqlx::PgPool),
    #[cfg(feature = "sqlite")]
    Sqlite(sqlx::SqlitePool),
}

/// A store in a database.
pub(crate) enum DatabaseStore {
    #[cfg(feature = "postgres")]
    Postgres(PostgresStore),
    #[cfg(feature = "sqlite")]
    Sqlite(SqliteStore),
}

#[cfg(feature = "cli")]
impl DatabaseStore {
    pub(crate) fn into_store(self) -> std::sync::Arc<dyn crate::store::Store> {
        match self {
            #[cfg(feature = "postgres")]
            Self::Postgres(store) => std::sync::Arc::new(store),
            #[cfg(feature = "sqlite")]
            Self::Sqlite(store) => std::sync::Arc::new(store),
        }
    }
}

impl Database {
    /// Connects to the database of the settings.
    pub(crate) async fn connect(settings: &OutboxSettings) -> Result<Self, SettingsError> {
        let url = settings.database_url.as_ref().map(DatabaseUrl::expose);
        let Some(url) = url else {
            return Err(fault(
                "set OUTBOX.DATABASE_URL, or hand the app's pool to BusBuilder::with_postgres or with_sqlite",
            ));
        };
        let scheme = DatabaseUrl::scheme_of(url);
        let unreachable = |error: sqlx::Error| {
            fault(format!(
                "the database of OUTBOX.DATABASE_URL ({}) cannot be used: {}",
                redacted(url),
                Chain(&error)
            ))
        };
        match scheme {
            #[cfg(feature = "postgres")]
            "postgres" | "postgresql" => {
                let pool = sqlx::postgres::PgPoolOptions::new().max_connections(settings.max_connections);
                // PgBouncer refuses this parameter, which sqlx sets by default: it matters only to servers before version 12.
                let options: sqlx::postgres::PgConnectOptions = url.parse().map_err(unreachable)?;
                let options = options.extra_float_digits(None);
                pool.connect_with(options).await.map(Self::Postgres).map_err(unreachable)
            }
            #[cfg(feature = "sqlite")]
            "sqlite" => {
                use std::str::FromStr;

                use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode};

                let options = SqliteConnectOptions::from_str(url).map_err(unreachable)?;
                // With a write-ahead log readers do not wait for the writer.
                let options = options.create_if_missing(true).journal_mode(SqliteJournalMode::Wal);
                create_for_us_alone(url, options.get_filename());
                let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(settings.max_connections);
                pool.connect_with(options).await.map(Self::Sqlite).map_err(unreachable)
            }
            #[cfg(not(feature = "postgres"))]
            "postgres" | "postgresql" => Err(not_compiled(&["postgres"])),
            #[cfg(not(feature = "sqlite"))]
            "sqlite" => Err(not_compiled(&["sqlite"])),
            _ => Err(fault(format!(
                "OUTBOX.DATABASE_URL is of the scheme {scheme:?}: write postgres://.. or sqlite:.."
            ))),
        }
    }

    /// Installs or migrates the tables, and returns their version.
    pub(crate) async fn migrate(&self, settings: &OutboxSettings) -> Result<u32, SettingsError> {
        let database = settings.database();
        match self {
            #[cfg(feature = "postgres")]
            Self::Postgres(pool) => PostgresStore::migrate(pool, &database).await.map_err(fault),
            #[cfg(feature = "sqlite")]
            Self::Sqlite(pool) => SqliteStore::migrate(pool, &database).await.map_err(fault),
        }
    }

    /// Opens the table of trusted keys.
    #[cfg(feature = "signing")]
    pub(crate) async fn trusted_keys(
        &self,
        settings: &OutboxSettings,
    ) -> Result<crate::signing::TrustedTable, SettingsError> {
        let database = settings.database();
        let opened = match self {
            #[cfg(feature = "postgres")]
            Self::Postgres(pool) => crate::signing::TrustedTable::open(pool.clone(), &database).await,
            #[cfg(feature = "sqlite")]
            Self::Sqlite(pool) => crate::signing::TrustedTable::open(pool.clone(), &database).await,
        };
        opened.map_err(|error| SettingsError::value(format!("SIGNING.TRUSTED = \"database\": {error}")))
    }

    /// Opens the store, and migrates its tables first if the settings ask for it.
    pub(crate) async fn open(self, settings: &OutboxSettings) -> Result<DatabaseStore, SettingsError> {
        if settings.migrate {
            self.migrate(settings).await?;
        }
        let database = settings.database();
        match self {
            #[cfg(feature = "postgres")]
            Self::Postgres(pool) => {
                PostgresStore::open(pool, &database).await.map(DatabaseStore::Postgres).map_err(fault)
            }
            #[cfg(feature = "sqlite")]
            Self::Sqlite(pool) => {
                SqliteStore::open(pool, &database).await.map(DatabaseStore::Sqlite).map_err(fault)
            }
        }
    }
}

/// Creates a missing database file so that only this user may read it. SQLite reports what fails.
#[cfg(feature = "sqlite")]
fn create_for_us_alone(url: &str, path: &std::path::Path) {
    let in_memory = path.as_os_str().as_encoded_bytes().starts_with(b"file:");
    if in_memory || url.contains("mode=memory") || url.contains("mode=ro") || path.exists() {
        return;
    }
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    if let Err(error) = options.open(path) {
        tracing::debug!(path = %path.display(), %error, "could not create the database file beforehand");
    }
}

fn fault(source: impl Into<BoxError>) -> SettingsError {
    SettingsError::outbox("transactional", source)
}

#[cfg(not(all(feature = "postgres", feature = "sqlite")))]
fn not_compiled(features: &'static [&'static str]) -> SettingsError {
    SettingsError::DeliveryNotCompiled { delivery: "transactional", features }
}
