//! Whether several brokers are one cluster, which shares the sessions of its clients.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::client::{self, Client};
use super::settings::MqttSettings;
use crate::backends::brokers::{BrokerUrl, Dialer};

/// How long a cluster may take to close the earlier connection of a client id.
const TAKE_OVER: Duration = Duration::from_secs(5);

/// Connects to the brokers, one after the other, with one client id. Returns the first two brokers that are separate.
///
/// A broker closes the connection of a client whose id connects again (MQTT 5, 3.1.4-3; MQTT 3.1.1, 3.1.4-2), and a cluster does
/// so over all its nodes. No packet of MQTT names the cluster of a broker. Of a broker that is not reachable nothing is said.
pub(super) async fn separate<'a>(
    settings: &MqttSettings,
    dialer: &Arc<Dialer>,
    urls: &'a [BrokerUrl],
) -> Option<[&'a BrokerUrl; 2]> {
    let id = client::random_id(settings);
    let mut before: Option<(&BrokerUrl, Client)> = None;
    for url in urls {
        let opening = client::open_sender(settings, dialer, url, id.clone());
        let Ok(Ok(client)) = timeout(settings.broker.connection_timeout(), opening).await else { continue };
        if let Some((earlier, mut its)) = before.replace((url, client)) {
            let end = async { while its.events.poll().await.is_ok() {} };
            if timeout(TAKE_OVER, end).await.is_err() {
                return Some([earlier, url]);
            }
        }
    }
    None
}
