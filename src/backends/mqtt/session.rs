//! One connection of a source: what acknowledges its messages, and publishes its dead letters.

use std::sync::{Arc, Mutex};

use rumqttc::{AsyncClient, Publish, SubscribeFilterInput, SubscribeNotice};
use tokio::time::timeout;

use super::connection::{self, Connection};
use super::gate::Intake;
use super::outgoing::Outgoing;
use super::settings::MqttSettings;
use crate::backends::brokers::{BrokerUrl, Dialer};
use crate::messenger::Failure;
use crate::source::SourceError;
use crate::util::sync::lock;

/// A generation of the connection of a source. A message belongs to the one it arrived over: MQTT uses packet identifiers again,
/// so its acknowledgement over a later one would acknowledge another message.
pub(super) struct Session {
    /// None once the connection has ended.
    requests: Mutex<Option<AsyncClient>>,
    pub(super) intake: Arc<Intake>,
    url: BrokerUrl,
    dialer: Arc<Dialer>,
    /// The settings of the connection for dead letters.
    settings: MqttSettings,
    /// A broker does not count messages on it against the unacknowledged ones.
    publisher: tokio::sync::Mutex<Option<Connection>>,
}

impl Session {
    pub(super) fn new(
        requests: AsyncClient,
        intake: Arc<Intake>,
        url: BrokerUrl,
        dialer: Arc<Dialer>,
        settings: &MqttSettings,
    ) -> Self {
        // A dead letter that nobody subscribes to is not published.
        let settings = MqttSettings { qos: 1, mandatory: true, ..settings.clone() };
        let (requests, publisher) = (Mutex::new(Some(requests)), tokio::sync::Mutex::new(None));
        Self { requests, intake, url, dialer, settings, publisher }
    }

    pub(super) fn is_over(&self) -> bool {
        lock(&self.requests).is_none()
    }

    pub(super) fn acknowledge(&self, publish: &Publish) -> Result<(), SourceError> {
        let requests = lock(&self.requests);
        let sent = requests.as_ref().map(|requests| requests.try_ack(publish));
        if matches!(sent, Some(Ok(()))) { Ok(()) } else { Err(gone()) }
    }

    /// Subscribes, and completes with the broker's answer.
    pub(super) fn subscribe(
        &self,
        filters: impl IntoIterator<Item = SubscribeFilterInput>,
    ) -> Option<SubscribeNotice> {
        lock(&self.requests).as_ref()?.try_subscribe_many_tracked(filters).ok()
    }

    /// Closes the connection after all acknowledgements.
    pub(super) fn close(&self) {
        if let Some(requests) = &*lock(&self.requests) {
            let _ = requests.try_disconnect();
        }
    }

    /// Lets nothing of this connection be acknowledged any more.
    pub(super) fn end(&self) {
        drop(lock(&self.requests).take());
    }

    /// Publishes a dead letter.
    pub(super) async fn publish(&self, letter: Outgoing) -> Result<(), Failure> {
        let connection = {
            let mut publisher = self.publisher.lock().await;
            match publisher.as_ref().filter(|connection| !connection.is_closed()) {
                Some(connection) => connection.clone(),
                None => {
                    let opening = connection::open(&self.settings, &self.dialer, &self.url);
                    let limit = self.settings.broker.connection_timeout();
                    let opened = timeout(limit, opening).await;
                    let opened = opened.unwrap_or_else(|_| {
                        Err(Failure::transient(format!("no connection within {limit:?}")))
                    })?;
                    publisher.insert(opened).clone()
                }
            }
        };
        connection.publish([Ok(letter)]).await.pop().unwrap_or(Ok(()))
    }
}

/// The error of a settlement that comes too late.
pub(super) fn gone() -> SourceError {
    SourceError::unavailable(SessionGone)
}

#[derive(Debug, thiserror::Error)]
#[error("the connection was lost before the message was settled: the broker delivers it again")]
struct SessionGone;
