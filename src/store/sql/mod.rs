//! What the stores in a database share.

mod details;
mod engine;
mod hooks;
mod inbox;
mod inserted;
mod keeper;
mod leases;
mod listening;
mod room;
mod row;
mod settings;
mod share;
mod shared;
mod state;
mod store_of_engine;
mod tables;
mod versions;

pub(super) use self::details::{column_key, details, key_hash, size};
pub(super) use self::engine::{Engine, Handle};
pub(super) use self::inbox::{FORGET_AT_ONCE, Record, Sweep, retain_new};
pub(crate) use self::inserted::Inserted;
#[cfg(all(test, feature = "sqlite"))]
pub(super) use self::keeper::Keeper;
pub(super) use self::leases::{Leases, Sight, SightRow};
pub(super) use self::listening::Listening;
pub(super) use self::row::Row;
pub use self::settings::SqlStoreSettings;
#[cfg(all(test, feature = "sqlite"))]
pub(super) use self::share::Share;
pub(super) use self::state::{DUE, delay_left};
pub(super) use self::store_of_engine::store_of_engine;
#[cfg(feature = "postgres")]
pub(super) use self::tables::Failed;
pub(crate) use self::tables::Turn;
pub(super) use self::tables::{Fared, Listed, Read, Requeued, Tables, Wanted, counts_of, micros, paced};
pub(super) use self::versions::check_version;
