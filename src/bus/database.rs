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
                connect_sqlite(pool, options).await.map(Self::Sqlite).map_err(unreachable)
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

/// The time that a locked file is waited for: the default `busy_timeout` of sqlx.
#[cfg(feature = "sqlite")]
const LOCKED_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

/// Connects, and waits while another process changes the file to a write-ahead log.
///
/// SQLite reports `SQLITE_BUSY` for this change at once, whatever its `busy_timeout`, when another connection is about to write to
/// a file without such a log. So processes that start together with a new file would fail.
#[cfg(feature = "sqlite")]
async fn connect_sqlite(
    pool: sqlx::sqlite::SqlitePoolOptions,
    options: sqlx::sqlite::SqliteConnectOptions,
) -> Result<sqlx::SqlitePool, sqlx::Error> {
    const PAUSE: std::time::Duration = std::time::Duration::from_millis(20);
    let busy = |error: &sqlx::Error| {
        let code = error.as_database_error().and_then(|error| error.code());
        // The last eight bits say the kind of the error.
        code.and_then(|code| code.parse::<u32>().ok()).is_some_and(|code| code & 0xff == 5)
    };
    let end = tokio::time::Instant::now() + LOCKED_TIMEOUT;
    loop {
        match pool.clone().connect_with(options.clone()).await {
            Err(error) if busy(&error) && tokio::time::Instant::now() < end => {
                tokio::time::sleep(PAUSE).await
            }
            connected => return connected,
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

#[cfg(all(test, feature = "sqlite"))]
mod tests {
    use std::time::Duration;

    use sqlx::Connection;
    use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};

    use super::Database;
    use crate::settings::OutboxSettings;

    fn settings(file: &std::path::Path) -> OutboxSettings {
        let url = format!("sqlite:{}", file.display());
        OutboxSettings { database_url: Some(url.into()), ..OutboxSettings::default() }
    }

    #[tokio::test]
    async fn a_file_that_another_process_is_writing_for_the_first_time_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("app.db");
        let options = SqliteConnectOptions::new().filename(&file).create_if_missing(true);
        let mut other = SqliteConnection::connect_with(&options).await.unwrap();
        sqlx::raw_sql("CREATE TABLE t (x); BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
        let written = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            sqlx::raw_sql("COMMIT").execute(&mut other).await.unwrap();
        };
        let settings = settings(&file);
        let (connected, ()) = tokio::join!(Database::connect(&settings), written);
        connected.unwrap();
    }
}
