//! The tables `CONSUMERS.<name>`.

use super::error::SettingsError;
use super::keys;
use super::table::{BackendTable, Table};
use crate::consumer::ConsumerSettings;

/// One table of `CONSUMERS`. Its name is in lower case.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ConsumerTable {
    /// How the consumer works.
    pub settings: ConsumerSettings,
    /// The keys of the backend's source, such as the queue or the address.
    pub source_keys: BackendTable,
}

impl ConsumerTable {
    pub(super) fn of(name: &str, table: Table) -> Result<Self, SettingsError> {
        let names = keys::of::<ConsumerSettings>();
        let (common, source_keys) = table.split(&names);
        let source_keys = BackendTable::within(format!("consumers.{name}."), source_keys, names);
        let settings: ConsumerSettings = common.parse().map_err(|error| source_keys.value_error(&error))?;
        Ok(Self { settings, source_keys })
    }
}
