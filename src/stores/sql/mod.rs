//! What the stores in a database share.

mod details;
mod inserted;
mod settings;
mod share;

pub(super) use self::details::details;
pub(super) use self::inserted::Inserted;
pub use self::settings::DatabaseSettings;
pub(super) use self::share::Share;
