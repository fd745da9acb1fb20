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
        let settings: crate::channels::ChannelsSettings = keys.parse()?;
        let channels = crate::channels::Channels::open_with(settings.engine()).await;
        let channels = channels.map_err(|error| fault(name, error))?;
        let messenger = settings.messenger(&channels).map_err(|error| fault(name, error))?;
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
        Ok(Backend {
            sources,
            requesters,
            #[cfg(feature = "admin")]
            parts,
            ..Backend::custom(Arc::new(messenger))
        })
    }

    #[cfg(feature = "admin")]
    async fn dead_letters(
        &self,
        _: &str,
        keys: &BackendTable,
        queue: String,
        _: bool,
    ) -> Result<Box<dyn DeadLetterQueue>, OpenDeadLettersError> {
        Ok(crate::channels::ChannelDeadLetters::open(&keys.parse()?, queue).await?)
    }

    fn check_source(&self, name: &str, _: &BackendTable, keys: &BackendTable) -> Result<(), SettingsError> {
        keys.parse::<crate::channels::ChannelConsumerSettings>()?.check().map_err(|error| fault(name, error))
    }
}
