//! Stores: where an outbox keeps messages until a broker has confirmed them.

pub(crate) mod admission;
#[cfg(any(feature = "embedded", feature = "_sql"))]
#[cfg_attr(not(feature = "embedded"), allow(dead_code, reason = "the embedded store uses more of it"))]
mod capacity;
mod contract;

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

pub use self::contract::{
    Counts, Entry, EntryState, Filter, Lease, Leased, Limits, Page, Store, StoreError, Unstored, Wait,
    WhenFull,
};
#[cfg(feature = "_fuzzing")]
pub(crate) use self::embedded::fuzzing;
#[cfg(feature = "embedded")]
pub use self::embedded::{EmbeddedStore, EmbeddedStoreSettings};
#[cfg(feature = "postgres")]
pub use self::postgres::PostgresStore;
#[cfg(feature = "_sql")]
pub(crate) use self::sql::{Dialect, PendingInsert, WritePermit};
#[cfg(feature = "_sql")]
pub use self::sql::{SqlStore, SqlStoreSettings};
#[cfg(feature = "sqlite")]
pub use self::sqlite::SqliteStore;
#[cfg(feature = "embedded")]
pub use crate::log::error::OpenError;
