//! Sending requests: queries of KubeMQ.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use tokio::sync::Mutex;
use tonic::Status;

use super::connection::{self, Connection};
use super::failure;
use super::outgoing;
use super::replies;
use super::settings::KubemqSettings;
use crate::backends::brokers::{BrokerUrl, BrokersError, Dialer};
use crate::message::Message;
use crate::messenger::Failure;
use crate::reply::{Reply, RequestError, Requester};
use crate::util::error::Chain;

/// How long a request without an expiry may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Sends requests as queries to a KubeMQ server, over one kept connection to one of the brokers.
///
/// KubeMQ does not say whether there is a responder: without one a request ends with [`RequestError::NoReply`].
pub struct KubemqRequester {
    settings: KubemqSettings,
    urls: Vec<BrokerUrl>,
    dialer: Arc<Dialer>,
    connection: Mutex<Option<Connection>>,
}

impl KubemqRequester {
    /// Reads and checks the settings and their files. It connects with the first request.
    ///
    /// # Errors
    /// [`BrokersError`] names the wrong setting or file, and the cure.
    pub fn new(settings: &KubemqSettings) -> Result<Self, BrokersError> {
        let (urls, tls) = settings.check()?;
        let dialer = Arc::new(Dialer::new(tls));
        Ok(Self { settings: settings.clone(), urls, dialer, connection: Mutex::default() })
    }

    /// The kept connection, or a new one. Callers that come while one connects wait for it.
    async fn connection(&self) -> Result<Connection, Failure> {
        let mut kept = self.connection.lock().await;
        if let Some(connection) = kept.as_ref().filter(|connection| !connection.lost.is_cancelled()) {
            return Ok(connection.clone());
        }
        *kept = None;
        // Seldom, and large.
        let opened = Box::pin(connection::open_any(&self.settings, &self.dialer, &self.urls)).await;
        let (connection, broker) = opened?;
        tracing::info!(%broker, "connected for requests");
        Ok(kept.insert(connection).clone())
    }
}

#[async_trait]
impl Requester for KubemqRequester {
    async fn request(&self, request: Message) -> Result<Reply, RequestError> {
        let broker = &self.settings.broker;
        let sealed = broker.envelope.seal(&request, broker.origin()).map_err(RequestError::rejected)?;
        let age = SystemTime::now().duration_since(request.time()).unwrap_or_default();
        let wait = request.expiry().unwrap_or(TIMEOUT);
        let left = wait.saturating_sub(age).max(Duration::from_millis(1));
        let query = outgoing::query(&self.settings, &sealed, left).map_err(RequestError::rejected)?;
        let connection = self.connection().await;
        let connection =
            connection.map_err(|failure| RequestError::unavailable(Chain(failure.cause()).to_string()))?;
        let mut client = connection.client.clone();
        let sent = client.send_request(connection.request(query));
        match connection.lost.run_until_cancelled(sent).await {
            Some(Ok(response)) => replies::decode(response.into_inner()).map_err(RequestError::bad_reply),
            Some(Err(status)) => Err(error(&status, wait)),
            None => Err(RequestError::unavailable("the connection to the broker was lost")),
        }
    }
}

fn error(status: &Status, waited: Duration) -> RequestError {
    if status.message().contains("Error 301") {
        return RequestError::NoReply(waited);
    }
    match failure::is_permanent(status) {
        true => RequestError::rejected(failure::describe(status)),
        false => RequestError::unavailable(failure::describe(status)),
    }
}

impl fmt::Debug for KubemqRequester {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KubemqRequester").field("urls", &self.urls).finish_non_exhaustive()
    }
}
