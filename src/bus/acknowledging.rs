//! Acknowledgement from end to end: the wiring of both sides.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::path::Path;
use std::sync::{Arc, Mutex};

use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use super::backends;
use crate::acknowledging::{
    AckAddress, Acknowledging, AcknowledgingSettings, AllowedAddresses, Confirmations, Confirming, Taking,
};
use crate::messenger::Messenger;
use crate::settings::{DeliveryMode, Settings, SettingsError};
use crate::source::Source;
use crate::util::host_name::host_name;
use crate::util::sync::lock;

/// Confirms messages to their senders, and takes confirmations out of the messages of consumers.
pub(super) struct Acknowledgement {
    /// The messenger to the broker, without an outbox.
    messenger: Arc<dyn Messenger>,
    allowed: AllowedAddresses,
    /// Where this bus awaits confirmations; none if it awaits none.
    confirmations: Option<Confirmations>,
    /// Whether confirmations come through the consumers, as messenger and source are one queue.
    is_local: bool,
    receiver: Mutex<Option<(oneshot::Sender<()>, JoinHandle<()>)>>,
}

/// The source of confirmations, until its worker is started.
pub(super) type Receiving = Option<Arc<dyn Source>>;

impl Acknowledgement {
    /// Decorates the messenger if messages are to be acknowledged by their consumers.
    pub(super) fn around(
        messenger: Arc<dyn Messenger>,
        settings: &Settings,
        is_local: bool,
    ) -> Result<(Arc<dyn Messenger>, Self, Receiving), SettingsError> {
        let mut this = Self {
            messenger: Arc::clone(&messenger),
            allowed: settings.ack.allowed.clone(),
            confirmations: None,
            is_local,
            receiver: Mutex::default(),
        };
        let sends = settings.delivery != DeliveryMode::Transactional || settings.outbox.relay;
        if !settings.acknowledged || !sends {
            return Ok((messenger, this, None));
        }
        let address = match &settings.ack.address {
            Some(address) => address.clone(),
            None => own_address(settings)?,
        };
        let source = match is_local {
            true => None,
            false => {
                let topic = address.topic();
                Some(backends::confirmations(&settings.backend, &settings.backend_keys, topic)?)
            }
        };
        tracing::info!(
            address = address.as_str(),
            "messages leave the outbox when their consumers have confirmed them"
        );
        let ack = AcknowledgingSettings::new(address).with_timeout(settings.ack.timeout);
        let (acknowledging, confirmations) = Acknowledging::new(messenger, ack);
        this.confirmations = Some(confirmations);
        Ok((Arc::new(acknowledging), this, source))
    }

    /// Starts the worker that receives confirmations.
    pub(super) fn receive(&self, receiving: Receiving) {
        let (Some(confirmations), Some(source)) = (self.confirmations.clone(), receiving) else { return };
        let (stop, stopped) = oneshot::channel();
        let stopped = async {
            if stopped.await.is_err() {
                // A dropped bus stops nothing.
                std::future::pending().await
            }
        };
        let messenger = Arc::clone(&self.messenger);
        let task = tokio::spawn(confirmations.receive(source, messenger, stopped));
        *lock(&self.receiver) = Some((stop, task));
    }

    /// The source of a consumer, with both sides.
    pub(super) fn source(&self, source: Arc<dyn Source>) -> Arc<dyn Source> {
        let source: Arc<dyn Source> = match &self.confirmations {
            None => source,
            Some(confirmations) if self.is_local => Arc::new(Taking::new(source, confirmations)),
            Some(confirmations) => Arc::new(Taking::beside_the_worker(source, confirmations)),
        };
        match self.allowed.is_empty() {
            true => source,
            false => {
                let messenger = Arc::clone(&self.messenger);
                Arc::new(Confirming::new(source, messenger).with_allowed(self.allowed.clone()))
            }
        }
    }

    /// To be called when the consumers have stopped.
    pub(super) fn consumers_stopped(&self) {
        if let Some(confirmations) = self.confirmations.as_ref().filter(|_| self.is_local) {
            confirmations.close();
        }
    }

    /// Stops the worker.
    pub(super) async fn stop(&self, until: Instant) {
        let Some((stop, task)) = lock(&self.receiver).take() else { return };
        let _ = stop.send(());
        if timeout_at(until, task).await.is_err() {
            tracing::warn!("stopped without closing the source of confirmations");
        }
    }
}

/// The address of this instance: the same after a restart on one local outbox, another at each start on a shared one.
fn own_address(settings: &Settings) -> Result<AckAddress, SettingsError> {
    let program = std::env::current_exe().ok();
    let program =
        program.as_deref().and_then(Path::file_stem).map(|name| name.to_string_lossy().into_owned());
    let is_plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let program: String = program.unwrap_or_default().chars().filter(is_plain).take(100).collect();
    let number: u64 = match settings.delivery {
        DeliveryMode::Durable => {
            let path =
                std::path::absolute(&settings.outbox.path).unwrap_or_else(|_| settings.outbox.path.clone());
            BuildHasherDefault::<DefaultHasher>::default().hash_one((host_name(), path))
        }
        _ => rand::random(),
    };
    let separator = if settings.backend == "mqtt" { '/' } else { '.' };
    let address = format!("{program}-{:08x}{separator}ack", number as u32);
    AckAddress::new(address).map_err(|error| SettingsError::backend(&settings.backend, error))
}
