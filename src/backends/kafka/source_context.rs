//! The parts of a source that its task and its settlements share.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Weak};
use std::time::Duration;

use krafka::Kafka as Client;
use krafka::admin::NewTopic;
use krafka::consumer::Consumer;
use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::client;
use super::connection::Connection;
use super::failure::open_failure;
use super::inbox::Inbox;
use super::incoming::Reader;
use super::outgoing::Outgoing;
use super::settings::{Cluster, KafkaSettings};
use super::subscription::KafkaSubscription;
use crate::messenger::Failure;
use crate::util::repeated::Repeated;

/// The parts of a source.
pub(super) struct SourceContext {
    pub(super) settings: Arc<KafkaSettings>,
    pub(super) cluster: Cluster,
    pub(super) subscription: KafkaSubscription,
    pub(super) reader: Reader,
    pub(super) inbox: Arc<Inbox>,
    /// The member of the group, while it is one.
    pub(super) member: std::sync::Mutex<Weak<Consumer>>,
    /// Whether the group has given this member its partitions.
    pub(super) is_assigned: AtomicBool,
    /// The log lines about lost connections, and about offsets that could not be committed.
    pub(super) unreachable: Repeated,
    pub(super) uncommitted: Repeated,
    /// One commit at a time: a partition goes only after the outcome of a commit that is under way.
    pub(super) committing: Mutex<()>,
    /// The settlements that publish.
    pub(super) settlements: TaskTracker,
    pub(super) sender: Mutex<Sender>,
}

/// Publishes dead letters and retries.
#[derive(Default)]
pub(super) struct Sender {
    open: Option<(Client, Connection)>,
    /// The topics that exist, or that the brokers were asked to create.
    asked_for: BTreeSet<String>,
}

impl SourceContext {
    /// Publishes a record, and completes when it is confirmed.
    pub(super) async fn publish(&self, outgoing: Outgoing) -> Result<(), Failure> {
        let connection = self.connection(&outgoing.0.topic).await?;
        connection.publish_one(outgoing).await
    }

    async fn connection(&self, topic: &str) -> Result<Connection, Failure> {
        let mut sender = self.sender.lock().await;
        let open = sender.open.take().filter(|(_, connection)| !connection.is_closed());
        let (client, connection) = match open {
            Some(open) => open,
            None => {
                let limit = self.settings.broker.connection_timeout();
                let opening = async {
                    let client =
                        client::open(&self.settings, &self.cluster, self.settings.request_timeout()).await?;
                    let opened = Connection::new(client.clone(), &self.settings).await;
                    Ok((client, opened.map_err(|error| open_failure(&error))?))
                };
                let late = || Failure::transient(format!("no connection within {limit:?}"));
                timeout(limit, opening).await.unwrap_or_else(|_| Err(late()))?
            }
        };
        sender.open = Some((client.clone(), connection.clone()));
        if self.settings.auto_create_topics && sender.asked_for.insert(topic.to_owned()) {
            create(&client, [topic], self.settings.request_timeout()).await;
        }
        Ok(connection)
    }

    /// Closes what publishes dead letters and retries.
    pub(super) async fn close_sender(&self) {
        if let Some((_, connection)) = self.sender.lock().await.open.take() {
            connection.close().await;
        }
    }
}

/// Asks the brokers to create topics as their settings say. Topics that exist are left as they are.
pub(super) async fn create(client: &Client, names: impl IntoIterator<Item = &str>, limit: Duration) {
    let topics: Vec<_> = names.into_iter().filter_map(|name| NewTopic::new(name, -1, -1).ok()).collect();
    match timeout(limit, client.admin().create_topics(topics, Default::default())).await {
        Ok(Ok(created)) => {
            for (topic, created) in created {
                match created {
                    Ok(()) => tracing::info!(topic, "created a topic"),
                    Err(error) => tracing::debug!(topic, %error, "did not create a topic"),
                }
            }
        }
        Ok(Err(error)) => tracing::debug!(%error, "could not create topics"),
        Err(_) => tracing::debug!("could not create topics in time"),
    }
}
