//! Stores: where an outbox keeps messages until a broker has confirmed them.

pub(crate) mod admission;
#[cfg(any(feature = "embedded", feature = "_sql"))]
#[cfg_attr(not(feature = "embedded"), allow(dead_code, reason = "the embedded store uses more of it"))]
mod capacity;
mod contract;
mod entry;
mod error;
mod filter;
mod instance;
mod lease;
mod limits;
mod operation;

#[cfg(feature = "embedded")]
mod embedded;
#[cfg(any(feature = "embedded", feature = "_sql"))]
mod epoch;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(any(feature = "embedded", feature = "_sql"))]
#[cfg_attr(
    not(all(feature = "embedded", feature = "_sql")),
    allow(dead_code, reason = "each kind of store uses a part of it")
)]
mod schedule;
#[cfg(feature = "_sql")]
mod sql;
#[cfg(feature = "sqlite")]
mod sqlite;

pub use self::contract::Store;
#[cfg(feature = "_fuzzing")]
pub(crate) use self::embedded::fuzzing;
#[cfg(feature = "embedded")]
pub use self::embedded::{EmbeddedStore, EmbeddedStoreSettings};
pub use self::entry::{Counts, Entry, EntryState, Page, Wait};
pub use self::error::{StoreError, Unstored};
pub use self::filter::Filter;
pub use self::instance::Instance;
#[cfg(any(feature = "embedded", feature = "_sql"))]
pub(crate) use self::instance::ThisInstance;
pub use self::lease::{Lease, Leased};
pub use self::limits::{Limits, WhenFull};
pub use self::operation::OperationRecord;
#[cfg(feature = "postgres")]
pub use self::postgres::PostgresStore;
#[cfg(feature = "_sql")]
pub(crate) use self::sql::{Dialect, PendingInsert, WritePermit};
#[cfg(all(feature = "_sql", feature = "signing"))]
pub(crate) use self::sql::{KeyTable, key_table};
#[cfg(feature = "_sql")]
pub use self::sql::{SqlStore, SqlStoreSettings};
#[cfg(feature = "sqlite")]
pub use self::sqlite::SqliteStore;
#[cfg(feature = "embedded")]
pub use crate::log::error::OpenError;
