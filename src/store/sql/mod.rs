//! The store in a database of the app, with everything that does not depend on which database it is.

mod assignment;
mod audit;
mod coordinator;
mod details;
mod dialect;
mod engine;
mod engine_shared;
mod hooks;
#[cfg(feature = "signing")]
mod key_table;
mod listener;
mod membership;
mod migrate;
mod pending_insert;
mod placed;
mod row;
mod schedule;
mod settings;
mod shared_capacity;
mod store;
mod tables;

#[cfg(all(test, feature = "sqlite"))]
pub(super) use self::assignment::Assignment;
#[cfg(all(test, feature = "sqlite"))]
pub(super) use self::coordinator::Coordinator;
pub(super) use self::details::{column_key, details, key_hash, size};
pub(crate) use self::dialect::Dialect;
#[cfg(feature = "postgres")]
pub(super) use self::dialect::transaction_is_over;
#[cfg(feature = "signing")]
pub(crate) use self::key_table::{KeyTable, key_table};
pub(super) use self::listener::Listener;
pub(super) use self::membership::{Membership, MembershipRow, MembershipView};
pub(crate) use self::pending_insert::PendingInsert;
pub(super) use self::row::{Listed, Row};
pub(super) use self::schedule::{DUE, delay_left};
pub use self::settings::SqlStoreSettings;
pub use self::store::SqlStore;
#[cfg(feature = "postgres")]
pub(super) use self::tables::FailedMessage;
pub(crate) use self::tables::WritePermit;
pub(super) use self::tables::{
    Conditions, FORGET_AT_ONCE, Read, Requeued, SCANNED, SettleBatch, Tables, counts_of, is_search, listed,
    micros, signed,
};
