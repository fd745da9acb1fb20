//! Sending requests.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use async_nats::{StatusCode, Subject};
use async_trait::async_trait;
use rustls::ClientConfig;

use super::calls::{Calls, Unanswered};
use super::client::{self, Generation};
use super::failure::{Denied, TooLarge};
use super::outgoing::Outgoing;
use super::replies;
use super::settings::{NatsSettings, Pattern};
use crate::backends::brokers::{BrokerUrl, BrokersError};
use crate::message::headers::EXPIRY;
use crate::messenger::Failure;
use crate::reply::{Reply, RequestError, Requester};
use crate::util::error::Chain;
use crate::{message, telemetry};

/// Sends requests to the subjects of their topics, over one kept connection to one of the servers, and awaits their replies at an inbox.
pub struct NatsRequester {
    settings: NatsSettings,
    urls: Vec<BrokerUrl>,
    tls: Option<Arc<ClientConfig>>,
    caller: tokio::sync::Mutex<Option<Arc<Caller>>>,
}

impl NatsRequester {
    /// Reads and checks the settings and their files. It connects with the first request.
    ///
    /// # Errors
    /// [`BrokersError`] names the wrong setting or file, and the cure.
    pub fn new(settings: &NatsSettings) -> Result<Self, BrokersError> {
        let (urls, tls) = settings.check()?;
        // No stream stores a request.
        let settings = settings.clone().with_pattern(Pattern::Events);
        Ok(Self { settings, urls, tls, caller: tokio::sync::Mutex::default() })
    }

    /// The kept connection, or a new one. Callers that come while one connects wait for it.
    async fn caller(&self) -> Result<Arc<Caller>, Failure> {
        let mut kept = self.caller.lock().await;
        if let Some(caller) = kept.as_ref().filter(|caller| !caller.is_over()) {
            return Ok(Arc::clone(caller));
        }
        *kept = None;
        // Seldom, and large.
        let caller = Box::pin(self.connect()).await?;
        Ok(Arc::clone(kept.insert(Arc::new(caller))))
    }

    async fn connect(&self) -> Result<Caller, Failure> {
        let (generation, broker) = client::open_any(&self.settings, self.tls.as_ref(), &self.urls).await?;
        let caller = Caller::new(generation).await?;
        tracing::info!(%broker, "connected for requests");
        Ok(caller)
    }
}

#[async_trait]
impl Requester for NatsRequester {
    async fn request(&self, request: message::Message) -> Result<Reply, RequestError> {
        let mut outgoing = Outgoing::new(&self.settings, &request).map_err(RequestError::rejected)?;
        let unavailable = |failure: Failure| RequestError::unavailable(Chain(failure.cause()).to_string());
        let caller = self.caller().await.map_err(unavailable)?;
        if let Some(wait) = request.expiry() {
            let age = SystemTime::now().duration_since(request.time()).unwrap_or_default();
            let left = wait.saturating_sub(age).as_millis().max(1);
            outgoing.headers.insert(EXPIRY, left.to_string());
        }
        let (size, limit) = (outgoing.size(), caller.generation.client.max_payload());
        if size > limit {
            return Err(RequestError::rejected(TooLarge { size, limit }));
        }
        caller.call(outgoing).await
    }
}

impl fmt::Debug for NatsRequester {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsRequester").field("urls", &self.urls).finish_non_exhaustive()
    }
}

/// One connection, and the requests that wait for their replies over it.
struct Caller {
    generation: Generation,
    calls: Calls,
}

impl Caller {
    async fn new(generation: Generation) -> Result<Self, Failure> {
        let calls = Calls::new(&generation, None, telemetry::stray_reply).await?;
        Ok(Self { generation, calls })
    }

    fn is_over(&self) -> bool {
        self.generation.events.ended.is_cancelled()
    }

    async fn call(&self, outgoing: Outgoing) -> Result<Reply, RequestError> {
        let Outgoing { subject, headers, payload, .. } = outgoing;
        let subject = Subject::from(subject);
        let reply = match self.calls.begin(subject.clone(), Some(headers), payload).answer().await {
            Ok(reply) => reply,
            Err(Unanswered::Denied) => return Err(RequestError::rejected(Denied(subject.to_string()))),
            // Its caller has the limit.
            Err(Unanswered::Ended | Unanswered::Overdue) => {
                let failure = self.generation.events.failure();
                return Err(RequestError::unavailable(Chain(failure.cause()).to_string()));
            }
        };
        if reply.status == Some(StatusCode::NO_RESPONDERS) && reply.payload.is_empty() {
            return Err(RequestError::NoResponder);
        }
        replies::decode(reply.headers.as_ref(), reply.payload).map_err(RequestError::bad_reply)
    }
}
