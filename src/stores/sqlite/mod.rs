//! Messages in the app's own SQLite file.

mod insert;
mod migrations;

use std::fmt;
use std::sync::Arc;

use sqlx::sqlite::{SqliteConnection, SqlitePool};

use super::sql::{DatabaseSettings, Inserted};
use crate::message::Message;
use crate::store::StoreError;

/// Keeps messages in tables beside the app's own, so that one COMMIT stores both.
///
/// A clone is a handle to the same store.
#[derive(Clone)]
pub struct SqliteStore {
    shared: Arc<Shared>,
}

struct Shared {
    pool: SqlitePool,
    settings: DatabaseSettings,
    insert: insert::Insert,
}

impl SqliteStore {
    /// Installs the tables, or brings them up to date; gives their version.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the database refuses; nothing is changed then.
    pub async fn migrate(pool: &SqlitePool, settings: &DatabaseSettings) -> Result<u32, StoreError> {
        migrations::migrate(pool, &settings.schema).await.map_err(StoreError::unavailable)
    }

    /// Opens it; the tables must be there: see [`migrate`](Self::migrate).
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when they are not, or are of another version.
    pub async fn open(pool: SqlitePool, settings: &DatabaseSettings) -> Result<Self, StoreError> {
        if !settings.has_safe_schema() {
            return Err(StoreError::unavailable(
                "a schema is named by letters, digits and underscores, 40 at most",
            ));
        }
        let insert = insert::Insert::new(&settings.schema);
        Ok(Self { shared: Arc::new(Shared { pool, settings: settings.clone(), insert }) })
    }

    /// The pool it was opened with.
    #[must_use]
    pub fn pool(&self) -> &SqlitePool {
        &self.shared.pool
    }

    /// Stores messages in the transaction of this connection.
    pub(crate) async fn insert(
        &self,
        connection: &mut SqliteConnection,
        messages: &[Message],
    ) -> Result<Inserted, sqlx::Error> {
        let positions = self.shared.insert.run(connection, messages).await?;
        Ok(Inserted { positions })
    }
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore").field("schema", &self.shared.settings.schema).finish_non_exhaustive()
    }
}
