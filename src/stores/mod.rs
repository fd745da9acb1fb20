//! What can keep an outbox.

#[cfg(any(feature = "embedded", feature = "_sql"))]
mod dispatch;
#[cfg(feature = "embedded")]
mod embedded;
#[cfg(any(feature = "embedded", feature = "_sql"))]
mod epoch;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "_sql")]
mod sql;
#[cfg(feature = "sqlite")]
mod sqlite;

#[cfg(feature = "_fuzzing")]
pub(crate) use self::embedded::fuzzing;
#[cfg(feature = "embedded")]
pub use self::embedded::{Embedded, EmbeddedSettings, OpenError};
#[cfg(feature = "postgres")]
pub use self::postgres::PostgresStore;
#[cfg(feature = "_sql")]
pub use self::sql::DatabaseSettings;
#[cfg(feature = "_sql")]
pub(crate) use self::sql::{Inserted, Turn};
#[cfg(feature = "sqlite")]
pub use self::sqlite::SqliteStore;
