//! From a table of `CONSUMERS` to a source.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::backends::{self, NoKeys};
use crate::consumer::ConsumerSettings;
use crate::settings::{BackendTable, ConsumerTable, Settings, SettingsError};
use crate::source::Source;

/// The parts that sources are made of.
pub(super) struct Sources {
    backend: String,
    backend_keys: BackendTable,
    consumers: BTreeMap<String, ConsumerTable>,
    /// The messenger's own source.
    local: Option<Arc<dyn Source>>,
}

impl Sources {
    pub(super) fn new(settings: &Settings, local: Option<Arc<dyn Source>>) -> Self {
        let Settings { backend, backend_keys, consumers, .. } = settings.clone();
        Self { backend, backend_keys, consumers, local }
    }

    pub(super) fn settings(&self, name: &str) -> Result<ConsumerSettings, SettingsError> {
        self.table(name).map(|table| table.settings.clone())
    }

    pub(super) fn source(&self, name: &str) -> Result<Arc<dyn Source>, SettingsError> {
        let keys = &self.table(name)?.source_keys;
        if let Some(local) = &self.local {
            return keys.parse::<NoKeys>().map(|NoKeys {}| Arc::clone(local));
        }
        backends::source(&self.backend, &self.backend_keys, keys)
    }

    fn table(&self, name: &str) -> Result<&ConsumerTable, SettingsError> {
        let table = self.consumers.get(&name.to_lowercase());
        table.ok_or_else(|| SettingsError::UnknownConsumer {
            name: name.to_owned(),
            known: self.consumers.keys().cloned().collect(),
        })
    }
}
