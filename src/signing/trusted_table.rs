//! The table of trusted keys.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::Pool;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until, timeout};

use super::error::SigningError;
use super::key_source::KeySource;
use super::pem::{self, Block};
use super::settings::is_origin;
use super::trusted_key::TrustedKey;
use crate::store::{Dialect, KeyTable, SqlStoreSettings, key_table};
use crate::util::error::BoxError;

/// How long the table is taken as unchanged.
const LOOK: Duration = Duration::from_secs(1);
/// The least time between two reads when the keys did not fit.
const LOOK_ANEW: Duration = Duration::from_millis(20);
/// How long the database may take.
const LONGEST: Duration = Duration::from_secs(5);

/// The table `trusted_keys` in the app's own database, Postgres or SQLite: a row for each public key, with its origin. The migrations of
/// [`SqlStore`](crate::store::SqlStore) make it. A clone is a handle to the same table.
///
/// The table is read as messages come: at most once a second, and when a signature does not fit. While it cannot be read,
/// messages wait. A row that holds no key is ignored, and a WARN is logged. Up to 10,000 rows are read.
///
/// ```no_run
/// use tower_outbox::signing::{SigningSettings, TrustedTable, Verifier};
/// use tower_outbox::store::{SqlStoreSettings, SqliteStore};
///
/// # async fn example(pool: sqlx::SqlitePool, pem: &str) -> Result<(), tower_outbox::BoxError> {
/// let settings = SqlStoreSettings::default();
/// SqliteStore::migrate(&pool, &settings).await?;
/// let table = TrustedTable::open(pool, &settings).await?;
/// table.trust("host-1", pem).await?;
/// let verifier = Verifier::with_keys(table, &SigningSettings::default())?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct TrustedTable(Arc<Table>);

struct Table {
    rows: Box<dyn KeyTable>,
    last: Mutex<LastRead>,
}

/// The keys by their origin, and the rows that they were read from.
#[derive(Default)]
struct LastRead {
    rows: Vec<(String, String)>,
    keys: HashMap<String, Arc<[TrustedKey]>>,
    looked: Option<Instant>,
}

impl TrustedTable {
    /// Opens the table that these settings name, and reads it.
    ///
    /// # Errors
    /// [`SigningError`] when the settings cannot be used, or the table is missing or cannot be read.
    #[allow(private_bounds, reason = "no other crate can add a database")]
    pub async fn open<DB: Dialect>(
        pool: Pool<DB>,
        settings: &SqlStoreSettings,
    ) -> Result<Self, SigningError> {
        let rows = key_table(pool, settings).await.map_err(SigningError::new)?;
        let mut last = LastRead::default();
        last.look(&*rows).await.map_err(SigningError::new)?;
        if last.keys.is_empty() {
            tracing::warn!("the table of trusted keys is empty; no signature is accepted");
        }
        Ok(Self(Arc::new(Table { rows, last: Mutex::new(last) })))
    }

    /// Returns the origins and their keys, sorted by name.
    ///
    /// # Errors
    /// [`SigningError`] when the table cannot be read.
    ///
    /// # Cancel safety
    /// Dropping the future has no effect.
    pub async fn list(&self) -> Result<Vec<(String, Arc<[TrustedKey]>)>, SigningError> {
        let mut last = self.0.last.lock().await;
        last.look(&*self.0.rows).await.map_err(SigningError::new)?;
        let mut list: Vec<_> =
            last.keys.iter().map(|(origin, keys)| (origin.clone(), Arc::clone(keys))).collect();
        list.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(list)
    }

    /// Trusts the public keys of a PEM text as those of an origin, beside its earlier ones. Returns them.
    ///
    /// # Errors
    /// [`SigningError`] when the text holds anything else, the origin is no valid name, or the table cannot be written.
    ///
    /// # Cancel safety
    /// If it is dropped, none, some or all of the keys are trusted. Calling it again trusts the rest.
    pub async fn trust(&self, origin: &str, pem: &str) -> Result<Vec<TrustedKey>, SigningError> {
        if !is_origin(origin) {
            return Err(SigningError::new(format!(
                "the origin {origin:?} must be 1 to 255 letters, digits, `.`, `-`, `_` or `@`, and begin with no dot"
            )));
        }
        let blocks = pem::read(pem)?;
        let keys = blocks.iter().map(TrustedKey::of).collect::<Result<_, _>>()?;
        for Block { label, der } in &blocks {
            self.0.rows.insert(origin, &pem::write(label, der)).await.map_err(SigningError::new)?;
        }
        Ok(keys)
    }

    /// Trusts the keys of an origin no longer: those with this fingerprint, or all. Returns how many there were.
    ///
    /// # Errors
    /// [`SigningError`] when the table cannot be written.
    ///
    /// # Cancel safety
    /// If it is dropped, none, some or all of the keys are removed.
    pub async fn revoke(&self, origin: &str, fingerprint: Option<&str>) -> Result<usize, SigningError> {
        let rows = self.0.rows.read().await.map_err(SigningError::new)?;
        let is_meant = |pem: &str| match (fingerprint, TrustedKey::all_from_pem(pem)) {
            (None, _) => true,
            (Some(of), Ok(keys)) => keys.iter().any(|key| key.fingerprint() == of),
            (Some(_), Err(_)) => false,
        };
        let mut count = 0;
        for (_, pem) in rows.iter().filter(|(of, pem)| of == origin && is_meant(pem)) {
            self.0.rows.delete(origin, pem).await.map_err(SigningError::new)?;
            count += 1;
        }
        Ok(count)
    }
}

impl LastRead {
    async fn look(&mut self, table: &dyn KeyTable) -> Result<(), BoxError> {
        let begun = Instant::now();
        let rows = timeout(LONGEST, table.read()).await;
        let rows = rows.map_err(|_| format!("the database did not answer within {LONGEST:?}"))??;
        self.looked = Some(begun);
        if rows == self.rows {
            return Ok(());
        }
        let mut keys: HashMap<_, Vec<TrustedKey>> = HashMap::new();
        for (origin, pem) in &rows {
            match TrustedKey::all_from_pem(pem) {
                Ok(read) => keys.entry(origin.clone()).or_default().extend(read),
                Err(error) => {
                    tracing::warn!(origin, %error, "a row of trusted keys holds no key; it is ignored");
                }
            }
        }
        tracing::info!(keys = rows.len(), origins = keys.len(), "read the table of trusted keys");
        self.keys = keys.into_iter().map(|(origin, keys)| (origin, keys.into())).collect();
        self.rows = rows;
        Ok(())
    }
}

#[async_trait]
impl KeySource for TrustedTable {
    async fn keys(&self, origin: &str, anew: bool) -> Result<Arc<[TrustedKey]>, BoxError> {
        // One read at a time, of which all who wait get the result.
        let mut last = self.0.last.lock().await;
        if let Some(looked) = last.looked.filter(|_| anew) {
            // The key may have been added since.
            sleep_until(looked + LOOK_ANEW).await;
        }
        if anew || last.looked.is_none_or(|at| at.elapsed() >= LOOK) {
            last.look(&*self.0.rows).await?;
        }
        Ok(last.keys.get(origin).cloned().unwrap_or_default())
    }
}

impl fmt::Debug for TrustedTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrustedTable").finish_non_exhaustive()
    }
}
