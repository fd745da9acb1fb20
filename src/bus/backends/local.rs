//! The backends without brokers.

use std::sync::Arc;

use async_trait::async_trait;

use crate::backends::dummy::Dummy;
use crate::backends::memory::Memory;
use crate::settings::{BackendTable, SettingsError};
use crate::source::Source;
#[cfg(all(feature = "admin", feature = "channels"))]
use crate::source::dead_letters::DeadLetterQueue;

#[cfg(all(feature = "admin", feature = "channels"))]
use super::driver::OpenDeadLettersError;
#[cfg(feature = "embedded")]
use super::driver::fault;
use super::driver::{Backend, Driver, Feature, NoKeys};
#[cfg(feature = "channels")]
use super::driver::{LocalSources, Requesters};

pub(super) const DUMMY: Result<&dyn Driver, Feature> = Ok(&DummyDriver);

struct DummyDriver;

#[async_trait]
impl Driver for DummyDriver {
    async fn backend(&self, _: &str, keys: &BackendTable) -> Result<Backend, SettingsError> {
        keys.parse::<NoKeys>()
            .map(|NoKeys {}| Backend::custom(Arc::new(Dummy::new())).with_requester(Dummy::new()))
    }

    /// A source from which nothing comes.
    fn source(&self, _: &str, _: &BackendTable, _: &BackendTable) -> Result<Arc<dyn Source>, SettingsError> {
        Ok(Arc::new(Memory::new()))
    }
}

pub(super) const MEMORY: Result<&dyn Driver, Feature> = Ok(&MemoryDriver);

struct MemoryDriver;

#[async_trait]
impl Driver for MemoryDriver {
    async fn backend(&self, _: &str, keys: &BackendTable) -> Result<Backend, SettingsError> {
        keys.parse::<NoKeys>().map(|NoKeys {}| {
            let memory = Memory::new();
            Backend::both(memory.clone()).with_requester(memory)
        })
    }

    fn check_source(&self, _: &str, _: &BackendTable, keys: &BackendTable) -> Result<(), SettingsError> {
        keys.parse::<NoKeys>().map(|NoKeys {}| ())
    }
}

#[cfg(not(feature = "embedded"))]
pub(super) const EMBEDDED: Result<&dyn Driver, Feature> = Err("embedded");
#[cfg(feature = "embedded")]
pub(super) const EMBEDDED: Result<&dyn Driver, Feature> = Ok(&EmbeddedDriver);

#[cfg(feature = "embedded")]
struct EmbeddedDriver;

#[cfg(feature = "embedded")]
#[async_trait]
impl Driver for EmbeddedDriver {
    async fn backend(&self, name: &str, keys: &BackendTable) -> Result<Backend, SettingsError> {
        let settings: crate::settings::QueueSettings = keys.parse()?;
        let store = crate::store::EmbeddedStore::open(&settings.store()).await;
        let store = store.map_err(|error| fault(name, error))?;
        Ok(Backend::both(crate::backends::store_queue::StoreQueue::new(Arc::new(store))))
    }

    fn check_source(&self, _: &str, _: &BackendTable, keys: &BackendTable) -> Result<(), SettingsError> {
        keys.parse::<NoKeys>().map(|NoKeys {}| ())
    }
}

#[cfg(not(feature = "channels"))]
pub(super) const CHANNELS: Result<&dyn Driver, Feature> = Err("channels");
#[cfg(feature = "channels")]
pub(super) const CHANNELS: Result<&dyn Driver, Feature> = Ok(&ChannelsDriver);

#[cfg(feature = "channels")]
struct ChannelsDriver;

#[cfg(feature = "channels")]
#[async_trait]
impl Driver for ChannelsDriver {
    async fn backend(&self, name: &str, keys: &BackendTable) -> Result<Backend, SettingsError> {
        #[cfg(feature = "nats")]
        if let Some((settings, engine)) = jetstream(keys)? {
            let channels = crate::channels::Channels::jetstream(engine).await;
            let channels = channels.map_err(|error| fault(name, error))?;
            let messenger = settings.messenger(&channels).map_err(|error| fault(name, error))?;
            return Ok(of_channels(name, channels, messenger));
        }
        let settings: crate::channels::ChannelsSettings = keys.parse()?;
        let channels = crate::channels::Channels::open_with(settings.engine()).await;
        let channels = channels.map_err(|error| fault(name, error))?;
        let messenger = settings.messenger(&channels).map_err(|error| fault(name, error))?;
        Ok(of_channels(name, channels, messenger))
    }

    #[cfg(feature = "admin")]
    async fn dead_letters(
        &self,
        _: &str,
        keys: &BackendTable,
        queue: String,
        _: bool,
    ) -> Result<Box<dyn DeadLetterQueue>, OpenDeadLettersError> {
        #[cfg(feature = "nats")]
        if let Some((_, engine)) = jetstream(keys)? {
            return Ok(crate::channels::ChannelDeadLetters::in_jetstream(engine, queue).await?);
        }
        Ok(crate::channels::ChannelDeadLetters::open(&keys.parse()?, queue).await?)
    }

    fn check_source(&self, name: &str, _: &BackendTable, keys: &BackendTable) -> Result<(), SettingsError> {
        keys.parse::<crate::channels::ChannelConsumerSettings>()?.check().map_err(|error| fault(name, error))
    }
}

/// The settings of channels in NATS, which have `URLS`.
#[cfg(all(feature = "channels", feature = "nats"))]
fn jetstream(
    keys: &BackendTable,
) -> Result<
    Option<(crate::channels::JetstreamChannelsSettings, crate::channels::jetstream::JetstreamEngineSettings)>,
    SettingsError,
> {
    if !keys.has("urls") {
        return Ok(None);
    }
    let (broker, settings): (_, crate::channels::JetstreamChannelsSettings) = keys.parse_both()?;
    let engine = settings.engine(broker);
    Ok(Some((settings, engine)))
}

/// The backend of channels, whose sources and requesters use the same engine.
#[cfg(feature = "channels")]
fn of_channels(
    name: &str,
    channels: crate::channels::Channels,
    messenger: crate::channels::ChannelMessenger,
) -> Backend {
    let backend: Arc<str> = name.into();
    let (name, requesting) = (Arc::clone(&backend), channels.clone());
    #[cfg(feature = "admin")]
    let parts = crate::admin::Parts { channels: Some(channels.clone()), ..Default::default() };
    let sources: LocalSources = Arc::new(move |keys| {
        let settings: crate::channels::ChannelConsumerSettings = keys.parse()?;
        settings.source(&channels).map_err(|error| fault(&name, error))
    });
    let requesters: Requesters = Arc::new(move |name, keys| {
        let settings: crate::channels::ChannelClientSettings = keys.parse()?;
        let requester = settings.requester(name, &requesting);
        requester.map(|requester| Arc::new(requester) as _).map_err(|error| fault(&backend, error))
    });
    let (sources, requesters) = (Some(sources), Some(requesters));
    Backend {
        sources,
        requesters,
        #[cfg(feature = "admin")]
        parts,
        ..Backend::custom(Arc::new(messenger))
    }
}
