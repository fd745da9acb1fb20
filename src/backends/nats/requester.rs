//! Sending requests.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use async_nats::{Message, StatusCode, Subject};
use async_trait::async_trait;
use futures_util::StreamExt;
use rustls::ClientConfig;
use tokio::sync::oneshot;
use tokio_util::task::AbortOnDropHandle;

use super::client::{self, Generation};
use super::failure::TooLarge;
use super::outgoing::Outgoing;
use super::replies;
use super::settings::{NatsSettings, Pattern};
use crate::backends::brokers::{BrokerUrl, BrokersError};
use crate::message::headers::EXPIRY;
use crate::messenger::Failure;
use crate::reply::{Reply, RequestError, Requester};
use crate::util::error::{BoxError, Chain};
use crate::util::sync::lock;
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
        let (generation, broker) = client::open_any(&self.settings, self.tls.as_ref(), &self.urls).await?;
        let caller = Caller::new(generation).await?;
        tracing::info!(%broker, "connected for requests");
        Ok(Arc::clone(kept.insert(Arc::new(caller))))
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

    fn check(&self, request: &message::Message) -> Result<(), BoxError> {
        Outgoing::outline(&self.settings, request).map(drop)
    }
}

impl fmt::Debug for NatsRequester {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsRequester").field("urls", &self.urls).finish_non_exhaustive()
    }
}

type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<Message>>>>;

/// One connection, and the requests that wait for their replies over it.
struct Caller {
    generation: Generation,
    inbox: String,
    waiting: Waiting,
    _receiving: AbortOnDropHandle<()>,
}

impl Caller {
    async fn new(generation: Generation) -> Result<Self, Failure> {
        let inbox = generation.client.new_inbox();
        let mut replies =
            generation.client.subscribe(format!("{inbox}.*")).await.map_err(Failure::transient)?;
        let (waiting, prefix) = (Waiting::default(), format!("{inbox}."));
        let (map, events) = (Arc::clone(&waiting), Arc::clone(&generation.events));
        let receiving = tokio::spawn(async move {
            while let Some(reply) = replies.next().await {
                let token = reply.subject.strip_prefix(&*prefix);
                let token = token.and_then(|token| u64::from_str_radix(token, 16).ok());
                match token.and_then(|token| lock(&map).remove(&token)) {
                    Some(caller) => drop(caller.send(reply)),
                    None => telemetry::stray_reply(&reply.subject),
                }
            }
            events.end();
        });
        Ok(Self { generation, inbox, waiting, _receiving: AbortOnDropHandle::new(receiving) })
    }

    fn is_over(&self) -> bool {
        self.generation.events.ended.is_cancelled()
    }

    async fn call(&self, outgoing: Outgoing) -> Result<Reply, RequestError> {
        let Self { generation, inbox, waiting, .. } = self;
        let (sender, receiver) = oneshot::channel();
        // A responder knows the address of its own replies, and must not guess another one.
        let token = rand::random::<u64>();
        lock(waiting).insert(token, sender);
        let _slot = SlotGuard { waiting, token };
        let Outgoing { subject, headers, payload, .. } = outgoing;
        let reply_to = Subject::from(format!("{inbox}.{token:x}"));
        let subject = Subject::from(subject);
        let sent =
            generation.client.publish_with_reply_and_headers(subject.clone(), reply_to, headers, payload);
        let lost = || RequestError::unavailable(Chain(generation.events.failure().cause()).to_string());
        let replied = async {
            if sent.await.is_err() {
                generation.events.end();
                return Err(lost());
            }
            receiver.await.map_err(|_| lost())
        };
        let reply = tokio::select! {
            biased;
            replied = replied => replied?,
            () = generation.events.denied(&subject) => {
                return Err(RequestError::rejected(super::failure::Denied(subject.to_string())));
            }
            () = generation.events.ended.cancelled() => return Err(lost()),
        };
        if reply.status == Some(StatusCode::NO_RESPONDERS) && reply.payload.is_empty() {
            return Err(RequestError::NoResponder);
        }
        replies::decode(reply.headers.as_ref(), reply.payload).map_err(RequestError::bad_reply)
    }
}

/// The entry of a request among those that wait, removed also when its caller goes away.
struct SlotGuard<'a> {
    waiting: &'a Waiting,
    token: u64,
}

impl Drop for SlotGuard<'_> {
    fn drop(&mut self) {
        lock(self.waiting).remove(&self.token);
    }
}
