//! The way from settings to one backend.

use std::sync::Arc;

use async_trait::async_trait;

#[cfg(feature = "_brokers")]
use crate::backends::brokers::BrokerSettings;
use crate::message::Topic;
use crate::messenger::Messenger;
#[cfg(feature = "cli")]
use crate::messenger::probe::Probe;
use crate::reply::Requester;
use crate::settings::{BackendTable, SettingsError};
use crate::source::Source;
#[cfg(feature = "admin")]
use crate::source::dead_letters::{DeadLetterQueue, DeadLettersError};
use crate::util::error::BoxError;

/// The name of a feature.
pub(super) type Feature = &'static str;

/// The way from settings to a backend that is compiled in.
#[async_trait]
pub(super) trait Driver: Sync {
    async fn backend(&self, name: &str, keys: &BackendTable) -> Result<Backend, SettingsError>;

    /// The source of a consumer's table, for a backend that is not its own source.
    fn source(
        &self,
        name: &str,
        keys: &BackendTable,
        source_keys: &BackendTable,
    ) -> Result<Arc<dyn Source>, SettingsError> {
        let _ = (keys, source_keys);
        Err(own_source(name))
    }

    /// Checks a consumer's table without connecting.
    fn check_source(
        &self,
        name: &str,
        keys: &BackendTable,
        source_keys: &BackendTable,
    ) -> Result<(), SettingsError> {
        self.source(name, keys, source_keys).map(drop)
    }

    /// The source of the confirmations that come to an address.
    fn confirmations(
        &self,
        name: &str,
        keys: &BackendTable,
        address: &Topic,
    ) -> Result<Arc<dyn Source>, SettingsError> {
        let _ = (keys, address);
        Err(fault(name, "its consumers cannot confirm messages: leave ACKNOWLEDGED out"))
    }

    /// Opens a queue of dead letters; with `looks` none of them will be settled.
    #[cfg(feature = "admin")]
    async fn dead_letters(
        &self,
        name: &str,
        keys: &BackendTable,
        queue: String,
        looks: bool,
    ) -> Result<Box<dyn DeadLetterQueue>, OpenDeadLettersError> {
        let _ = (keys, queue, looks);
        Err(fault(name, NO_DEAD_LETTERS).into())
    }

    /// The settings of the brokers, of a backend that has them and can read its keys.
    #[cfg(feature = "_brokers")]
    fn broker_settings(&self, name: &str, keys: &BackendTable) -> Option<BrokerSettings> {
        let _ = (name, keys);
        None
    }
}

/// Why there is no access to the dead letters of other backends.
#[cfg(feature = "admin")]
pub(super) const NO_DEAD_LETTERS: &str = "its dead letters cannot be listed from here: amqp091, fedmsg, amqp10, rhmsg, channels, kubemq and nats keep theirs in queues and streams that can";

/// Why a queue of dead letters cannot be opened.
#[cfg(feature = "admin")]
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenDeadLettersError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Queue(#[from] DeadLettersError),
}

/// Makes the source of a consumer from its keys, on what the messenger has open.
pub(in crate::bus) type LocalSources =
    Arc<dyn Fn(&BackendTable) -> Result<Arc<dyn Source>, SettingsError> + Send + Sync>;

/// Makes the requester of a client, from the client's name and its keys.
pub(in crate::bus) type Requesters =
    Arc<dyn Fn(&str, &BackendTable) -> Result<Arc<dyn Requester>, SettingsError> + Send + Sync>;

/// A messenger, with the sources that belong to it when both are one thing.
pub(in crate::bus) struct Backend {
    pub(in crate::bus) messenger: Arc<dyn Messenger>,
    pub(in crate::bus) sources: Option<LocalSources>,
    /// The sender of requests, if the backend can send them.
    pub(in crate::bus) requesters: Option<Requesters>,
    /// The parts that operators look into.
    #[cfg(feature = "admin")]
    pub(in crate::bus) parts: crate::admin::Parts,
    /// Asks its brokers one by one; none if it has no brokers.
    #[cfg(feature = "cli")]
    pub(in crate::bus) probe: Option<Arc<dyn Probe>>,
}

impl Backend {
    /// A messenger of the app's own.
    pub(in crate::bus) fn custom(messenger: Arc<dyn Messenger>) -> Self {
        Self {
            messenger,
            sources: None,
            requesters: None,
            #[cfg(feature = "admin")]
            parts: crate::admin::Parts::default(),
            #[cfg(feature = "cli")]
            probe: None,
        }
    }

    pub(super) fn both(queue: impl Messenger + Source + Clone) -> Self {
        let source = queue.clone();
        // Each consumer closes the handle of its own.
        let sources: LocalSources =
            Arc::new(move |keys| keys.parse::<NoKeys>().map(|NoKeys {}| Arc::new(source.clone()) as _));
        Self { sources: Some(sources), ..Self::custom(Arc::new(queue)) }
    }

    /// Adds a requester that is the same for all clients and has no keys.
    pub(super) fn with_requester(self, requester: impl Requester) -> Self {
        let requester: Arc<dyn Requester> = Arc::new(requester);
        let requesters: Requesters =
            Arc::new(move |_, keys| keys.parse::<NoKeys>().map(|NoKeys {}| Arc::clone(&requester)));
        Self { requesters: Some(requesters), ..self }
    }

    #[cfg(feature = "_brokers")]
    pub(super) fn with_brokers(
        #[cfg(feature = "cli")] messenger: impl Messenger + Probe,
        #[cfg(not(feature = "cli"))] messenger: impl Messenger,
    ) -> Self {
        let messenger = Arc::new(messenger);
        Self {
            #[cfg(feature = "cli")]
            probe: Some(Arc::clone(&messenger) as _),
            ..Self::custom(messenger)
        }
    }
}

pub(super) fn own_source(name: &str) -> SettingsError {
    fault(name, "it is a backend of the app's own, which makes its own source: use Consumer::new")
}

pub(in crate::bus) fn no_requests(name: &str) -> SettingsError {
    fault(
        name,
        "it sends no requests, or makes its own requester for Client::new; memory, channels, amqp091, kubemq, mqtt and nats do",
    )
}

pub(in crate::bus) fn fault(name: &str, source: impl Into<BoxError>) -> SettingsError {
    SettingsError::backend(name, source)
}

/// The keys of a table that has none.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NoKeys {}
