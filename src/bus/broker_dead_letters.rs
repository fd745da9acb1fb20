//! The dead letters of consumers that are in the broker, for operators.

use async_trait::async_trait;

use super::backends::{self, OpenDeadLettersError};
use super::dead_letter_routes::{DeadLetterRoute, dead_letter_routes};
use crate::admin::BrokerDeadLetters;
#[cfg(feature = "channels")]
use crate::channels::{ChannelDeadLetters, Channels};
use crate::settings::{BackendTable, Settings};
use crate::source::dead_letters::{DeadLetterQueue, DeadLettersError};
use crate::util::error::Chain;

/// The queues of dead letters of the consumers in the settings.
pub(crate) struct DeadLettersOfBroker {
    backend: String,
    keys: BackendTable,
    routes: Vec<DeadLetterRoute>,
    /// The channels that this process has open.
    #[cfg(feature = "channels")]
    channels: Option<Channels>,
}

impl DeadLettersOfBroker {
    /// `None` if no consumer of the settings has such a queue.
    pub(crate) fn of(
        settings: &Settings,
        #[cfg(feature = "channels")] channels: Option<Channels>,
    ) -> Option<Self> {
        let routes = dead_letter_routes(settings);
        let (backend, keys) = (settings.backend.clone(), settings.backend_keys.clone());
        let of = Self {
            backend,
            keys,
            routes,
            #[cfg(feature = "channels")]
            channels,
        };
        (!of.routes.is_empty()).then_some(of)
    }
}

#[async_trait]
impl BrokerDeadLetters for DeadLettersOfBroker {
    fn queues(&self) -> Vec<(String, String)> {
        let mut queues: Vec<_> =
            self.routes.iter().map(|route| (route.dead.clone(), route.queue.clone())).collect();
        queues.sort();
        queues.dedup();
        queues
    }

    async fn open(&self, queue: &str, looks: bool) -> Result<Option<Box<dyn DeadLetterQueue>>, String> {
        #[cfg(feature = "channels")]
        if let Some(channels) = &self.channels {
            return there(ChannelDeadLetters::of(channels, queue.to_owned()).await);
        }
        let opened = backends::dead_letters(&self.backend, &self.keys, queue.to_owned(), looks).await;
        match opened {
            Ok(opened) => Ok(Some(opened)),
            Err(OpenDeadLettersError::Queue(error)) => there(Err(error)),
            Err(OpenDeadLettersError::Settings(error)) => Err(Chain(&error).to_string()),
        }
    }
}

fn there(
    opened: Result<Box<dyn DeadLetterQueue>, DeadLettersError>,
) -> Result<Option<Box<dyn DeadLetterQueue>>, String> {
    match opened {
        Ok(opened) => Ok(Some(opened)),
        Err(DeadLettersError::NoQueue(_)) => Ok(None),
        Err(error) => Err(Chain(&error).to_string()),
    }
}
