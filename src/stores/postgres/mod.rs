//! Messages in the app's own Postgres.

mod insert;
mod migrations;

use std::fmt;
use std::sync::Arc;

use sqlx::postgres::{PgConnection, PgPool};

use super::sql::{DatabaseSettings, Inserted, Share};
use crate::message::Message;
use crate::store::StoreError;

/// Keeps messages in tables beside the app's own, so that one COMMIT stores both.
///
/// A clone is a handle to the same store.
#[derive(Clone)]
pub struct PostgresStore {
    shared: Arc<Shared>,
}

struct Shared {
    pool: PgPool,
    settings: DatabaseSettings,
    insert: insert::Insert,
}

impl PostgresStore {
    /// Installs the tables, or brings them up to date; gives their version.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the database refuses; nothing is changed then.
    pub async fn migrate(pool: &PgPool, settings: &DatabaseSettings) -> Result<u32, StoreError> {
        migrations::migrate(pool, &settings.schema).await.map_err(StoreError::unavailable)
    }

    /// Opens it; the tables must be there: see [`migrate`](Self::migrate).
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when they are not, or are of another version.
    pub async fn open(pool: PgPool, settings: &DatabaseSettings) -> Result<Self, StoreError> {
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
    pub fn pool(&self) -> &PgPool {
        &self.shared.pool
    }

    /// Stores messages in the transaction of this connection.
    pub(crate) async fn insert(
        &self,
        connection: &mut PgConnection,
        messages: &[Message],
    ) -> Result<Inserted, sqlx::Error> {
        let positions = self.shared.insert.run(connection, messages, &Share::default()).await?;
        Ok(Inserted { positions })
    }
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore").field("schema", &self.shared.settings.schema).finish_non_exhaustive()
    }
}
