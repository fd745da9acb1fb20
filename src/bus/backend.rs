//! The one `match` that turns the name of a backend into a messenger.

use std::sync::Arc;

use crate::backends::dummy::Dummy;
use crate::backends::memory::Memory;
use crate::backends::probe::Probe;
use crate::messenger::Messenger;
use crate::settings::{BackendTable, SettingsError};
use crate::source::Source;
use crate::util::error::BoxError;
use crate::util::secret::redacted_error;

/// The names there are, compiled in or not.
const NAMES: [&str; 7] = ["dummy", "amqp091", "amqp10", "embedded", "fedmsg", "memory", "rhmsg"];

/// A messenger, and the source that belongs to it when both are one thing.
pub(super) struct Backend {
    pub(super) messenger: Arc<dyn Messenger>,
    pub(super) source: Option<Arc<dyn Source>>,
    /// Connects to each broker of it, where it has brokers.
    #[cfg_attr(not(feature = "cli"), allow(dead_code, reason = "only the command line tool probes brokers"))]
    pub(super) probe: Option<Arc<dyn Probe>>,
}

impl Backend {
    pub(super) async fn of(
        name: &str,
        table: &BackendTable,
        own: Vec<String>,
    ) -> Result<Self, SettingsError> {
        match name {
            "dummy" => table.parse::<NoKeys>().map(|NoKeys {}| Self::sending(Dummy::new())),
            "memory" => table.parse::<NoKeys>().map(|NoKeys {}| Self::both(Memory::new())),
            #[cfg(feature = "amqp10")]
            "amqp10" => made(name, crate::backends::amqp10::Amqp10::new(&table.parse()?)),
            #[cfg(feature = "amqp10")]
            "rhmsg" => made(name, crate::backends::amqp10::RhMsg::new(&table.parse()?)),
            #[cfg(feature = "amqp091")]
            "amqp091" => made(name, crate::backends::amqp091::Amqp091::new(&table.parse()?)),
            #[cfg(feature = "amqp091")]
            "fedmsg" => made(name, crate::backends::amqp091::Fedmsg::new(&table.parse()?)),
            #[cfg(feature = "embedded")]
            "embedded" => {
                let settings: crate::settings::QueueSettings = table.parse()?;
                let store = crate::store::EmbeddedStore::open(&settings.store()).await;
                let store = store.map_err(|error| fault(name, error))?;
                Ok(Self::both(crate::backends::store_queue::StoreQueue::new(Arc::new(store))))
            }
            #[cfg(not(feature = "amqp091"))]
            "amqp091" | "fedmsg" => Err(not_compiled(name, "amqp091")),
            #[cfg(not(feature = "amqp10"))]
            "amqp10" | "rhmsg" => Err(not_compiled(name, "amqp10")),
            #[cfg(not(feature = "embedded"))]
            "embedded" => Err(not_compiled(name, "embedded")),
            _ => {
                let known: Vec<_> = NAMES.into_iter().map(str::to_owned).chain(own).collect();
                Err(SettingsError::UnknownBackend { name: name.to_owned(), known: known.join(", ") })
            }
        }
    }

    fn sending(messenger: impl Messenger) -> Self {
        Self { messenger: Arc::new(messenger), source: None, probe: None }
    }

    fn both(queue: impl Messenger + Source + Clone) -> Self {
        Self { messenger: Arc::new(queue.clone()), source: Some(Arc::new(queue)), probe: None }
    }
}

#[cfg(feature = "_brokers")]
fn made<M: Messenger + Probe>(
    name: &str,
    messenger: Result<M, impl Into<BoxError>>,
) -> Result<Backend, SettingsError> {
    let messenger = Arc::new(messenger.map_err(|error| fault(name, error))?);
    Ok(Backend { messenger: Arc::clone(&messenger) as _, source: None, probe: Some(messenger) })
}

#[cfg_attr(
    not(any(feature = "_brokers", feature = "embedded")),
    allow(dead_code, reason = "the others never fail")
)]
pub(super) fn fault(name: &str, source: impl Into<BoxError>) -> SettingsError {
    SettingsError::Backend { name: name.to_owned(), source: redacted_error(source.into()) }
}

#[cfg_attr(all(feature = "_brokers", feature = "embedded"), allow(dead_code, reason = "all are compiled in"))]
fn not_compiled(name: &str, feature: &'static str) -> SettingsError {
    SettingsError::NotCompiled { name: name.to_owned(), feature }
}

/// The keys of a backend that has none.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NoKeys {}
