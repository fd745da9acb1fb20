//! From a table of `CONSUMERS` to a source.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::backends::{self, LocalSources};
use crate::consumer::ConsumerSettings;
use crate::settings::{BackendTable, ConsumerTable, Settings, SettingsError};
use crate::source::Source;

/// The parts that sources are made of.
pub(super) struct Sources {
    backend: String,
    backend_keys: BackendTable,
    consumers: BTreeMap<String, ConsumerTable>,
    /// The sources of the messenger's own.
    local: Option<LocalSources>,
    #[cfg(feature = "signing")]
    verification: super::signing::Verification,
}

impl Sources {
    pub(super) fn new(
        settings: &Settings,
        local: Option<LocalSources>,
        #[cfg(feature = "signing")] verification: super::signing::Verification,
    ) -> Self {
        let Settings { backend, backend_keys, consumers, .. } = settings.clone();
        Self {
            backend,
            backend_keys,
            consumers,
            local,
            #[cfg(feature = "signing")]
            verification,
        }
    }

    /// Checks the tables of all consumers; `is_own` is whether the backend is one of the app.
    pub(super) fn check(&self, is_own: bool) -> Result<(), SettingsError> {
        let mut tables = self.consumers.values().filter(|_| !is_own);
        tables.try_for_each(|table| {
            backends::check_source(&self.backend, &self.backend_keys, &table.source_keys)
        })
    }

    /// Returns the name of the backend.
    pub(super) fn backend(&self) -> &str {
        &self.backend
    }

    pub(super) fn settings(&self, name: &str) -> Result<ConsumerSettings, SettingsError> {
        self.table(name).map(|table| table.settings.clone())
    }

    pub(super) fn source(&self, name: &str) -> Result<Arc<dyn Source>, SettingsError> {
        let source = self.received(name)?;
        #[cfg(feature = "signing")]
        let source = self.verifying(source, &format!("CONSUMERS.{}", name.to_uppercase()))?;
        Ok(source)
    }

    /// The source with verification around it, if the settings have signatures; `user` is the key that needs it.
    #[cfg(feature = "signing")]
    pub(super) fn verifying(
        &self,
        source: Arc<dyn Source>,
        user: &str,
    ) -> Result<Arc<dyn Source>, SettingsError> {
        self.verification.verifying(source, user)
    }

    /// The source as the backend makes it.
    fn received(&self, name: &str) -> Result<Arc<dyn Source>, SettingsError> {
        let keys = &self.table(name)?.source_keys;
        if let Some(local) = &self.local {
            return local(keys);
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

/// Checks the table of each consumer without connecting.
#[cfg(feature = "cli")]
pub(crate) fn check_consumers(
    settings: &Settings,
) -> impl Iterator<Item = (&str, Result<(), SettingsError>)> {
    settings.consumers.iter().map(|(name, table)| {
        let checked = backends::check_source(&settings.backend, &settings.backend_keys, &table.source_keys);
        (name.as_str(), checked)
    })
}
