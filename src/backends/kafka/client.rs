//! Connecting to a cluster.

use std::time::Duration;

use krafka::Kafka as Client;

use super::failure::open_failure;
use super::settings::{Cluster, KafkaSettings};
use crate::messenger::Failure;

/// Connects to a cluster. A request of the client may take `request_timeout`.
pub(super) async fn open(
    settings: &KafkaSettings,
    cluster: &Cluster,
    request_timeout: Duration,
) -> Result<Client, Failure> {
    let address = |host: &str, port| match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    };
    let servers: Vec<_> = cluster.urls.iter().map(|url| address(url.host(), url.port())).collect();
    let mut builder = Client::builder(servers.join(","))
        .client_id(&settings.client_id)
        .request_timeout(request_timeout)
        .connect_timeout(settings.broker.connection_timeout().min(request_timeout))
        .allow_auto_create_topics(settings.auto_create_topics)
        .tcp_nodelay(true);
    if let Some(security) = &cluster.security {
        builder = builder.security(security.0.clone());
    }
    builder.connect().await.map_err(|error| open_failure(&error))
}
