//! The tables `CLIENTS.<name>`.

use super::error::SettingsError;
use super::keys;
use super::table::{BackendTable, Table};
use crate::client::ClientSettings;

/// One table of `CLIENTS`. Its name is in lower case.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ClientTable {
    /// How the client works.
    pub settings: ClientSettings,
    /// The keys of the backend, such as the channel.
    pub keys: BackendTable,
}

impl ClientTable {
    pub(super) fn of(name: &str, table: Table) -> Result<Self, SettingsError> {
        let names = keys::of::<ClientSettings>();
        let (common, keys) = table.split(&names);
        let keys = BackendTable::within(format!("clients.{name}."), keys, names);
        let settings: ClientSettings = common.parse().map_err(|error| keys.value_error(&error))?;
        Ok(Self { settings, keys })
    }
}
