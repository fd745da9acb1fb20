//! The one `match` that turns a table of `CONSUMERS` into a source.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::backend::{NoKeys, fault};
use crate::backends::memory::Memory;
use crate::consumer::ConsumerSettings;
use crate::settings::{BackendTable, ConsumerTable, Settings, SettingsError};
use crate::source::Source;

/// What sources can be made of.
pub(super) struct Sources {
    backend: String,
    #[cfg_attr(not(feature = "_brokers"), expect(dead_code, reason = "other backends are their own source"))]
    backend_keys: BackendTable,
    consumers: BTreeMap<String, ConsumerTable>,
    /// The messenger's own.
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
        let backend = self.backend.as_str();
        match backend {
            // Nothing ever comes.
            "dummy" => Ok(Arc::new(Memory::new())),
            #[cfg(feature = "amqp10")]
            "amqp10" => {
                let settings = self.backend_keys.parse()?;
                made(backend, crate::backends::amqp10::Amqp10Source::new(&settings, &keys.parse()?))
            }
            #[cfg(feature = "amqp10")]
            "rhmsg" => {
                let settings = self.backend_keys.parse()?;
                made(backend, crate::backends::amqp10::Amqp10Source::rhmsg(&settings, &keys.parse()?))
            }
            #[cfg(feature = "amqp091")]
            "amqp091" => {
                let settings = self.backend_keys.parse()?;
                made(backend, crate::backends::amqp091::Amqp091Source::new(&settings, &keys.parse()?))
            }
            #[cfg(feature = "amqp091")]
            "fedmsg" => {
                let settings = self.backend_keys.parse()?;
                made(backend, crate::backends::amqp091::Amqp091Source::fedora(&settings, &keys.parse()?))
            }
            _ => Err(fault(
                backend,
                "it is a backend of the app's own, which makes its own source: use Consumer::new",
            )),
        }
    }

    fn table(&self, name: &str) -> Result<&ConsumerTable, SettingsError> {
        let table = self.consumers.get(&name.to_lowercase());
        table.ok_or_else(|| SettingsError::UnknownConsumer { name: name.to_owned() })
    }
}

#[cfg(feature = "_brokers")]
fn made<S: Source>(
    name: &str,
    source: Result<S, impl Into<crate::util::error::BoxError>>,
) -> Result<Arc<dyn Source>, SettingsError> {
    source.map(|source| Arc::new(source) as _).map_err(|error| fault(name, error))
}
