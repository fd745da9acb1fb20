//! Receives the requests of channels.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::StatusCode;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::settle::Answering;
use super::waiting::{Held, Waiting};
use super::wire;
use crate::channels::error::EngineError;
use crate::channels::name::Pattern;
use crate::channels::request_types::{Incoming, RequestKind, RequestSubscription};
use crate::channels::requests::Requests;
use crate::reply::{Reply, ReplyTo};
use crate::source::{Source, SourceError, Unsettled};
use crate::telemetry;
use crate::util::error::Chain;

/// Receives the requests of channels, commands and queries, for a [`Consumer`](crate::consumer::Consumer), which replies to them.
///
/// The sources of one group share the requests; by default the group is named as the pattern. A request is retried here only: when the
/// source is dropped, its callers get 503.
pub struct RequestSource {
    engine: Arc<dyn Requests>,
    pattern: Pattern,
    group: Arc<str>,
    name: Arc<str>,
    subscribed: Mutex<Option<Subscribed>>,
    waiting: Arc<Waiting>,
    closed: CancellationToken,
}

struct Subscribed {
    commands: RequestSubscription,
    queries: RequestSubscription,
}

impl RequestSource {
    /// A source of the channels that match the pattern.
    #[must_use]
    pub fn new(engine: Arc<dyn Requests>, pattern: impl Into<Pattern>) -> Self {
        let pattern = pattern.into();
        let name: Arc<str> = pattern.as_str().into();
        Self {
            engine,
            pattern,
            group: Arc::clone(&name),
            name,
            subscribed: Mutex::default(),
            waiting: Arc::default(),
            closed: CancellationToken::new(),
        }
    }

    /// Sets the group. Each group gets every request, and the first answer wins.
    #[must_use]
    pub fn with_group(self, group: impl Into<Arc<str>>) -> Self {
        Self { group: group.into(), ..self }
    }

    /// Subscribes now, so that requests find a responder before the source is received from for the first time.
    ///
    /// # Errors
    /// [`EngineError`].
    ///
    /// # Cancel safety
    /// It may be dropped at any time.
    pub async fn subscribed(self) -> Result<Self, EngineError> {
        let subscribed = self.subscribe().await?;
        Ok(Self { subscribed: Mutex::new(Some(subscribed)), ..self })
    }

    async fn subscribe(&self) -> Result<Subscribed, EngineError> {
        let subscribe = |kind| self.engine.subscribe_requests(kind, &self.pattern, Some(&self.group), 0);
        Ok(Subscribed {
            commands: subscribe(RequestKind::Command).await?,
            queries: subscribe(RequestKind::Query).await?,
        })
    }

    /// Waits for a request; `None` once the engine is closed.
    async fn next(&self) -> Result<Option<Held>, SourceError> {
        let mut subscribed = self.subscribed.lock().await;
        if subscribed.is_none() {
            *subscribed = Some(match self.subscribe().await {
                Err(EngineError::Closed) => return Ok(None),
                subscribed => subscribed.map_err(SourceError::unavailable)?,
            });
        }
        let Some(Subscribed { commands, queries }) = &mut *subscribed else { return Ok(None) };
        let incoming = tokio::select! {
            held = self.waiting.due() => return Ok(Some(held)),
            incoming = queries.next() => incoming,
            incoming = commands.next() => incoming,
        };
        Ok(incoming.map(|incoming| Held { incoming, failures: Vec::new(), redelivered: false }))
    }

    /// Makes a message of a request; answers one that cannot be read.
    fn unsettled(&self, held: Held) -> Option<Unsettled> {
        let Incoming { channel, content, deadline, responder, .. } = &held.incoming;
        if responder.is_late() {
            telemetry::expired_requests(1, &self.name);
            return None;
        }
        let message = match wire::message(channel, content) {
            Ok(message) => message,
            Err(error) => {
                let reason = format!("the request cannot be read: {}", Chain(&*error));
                tracing::warn!(%channel, reason, "failed to handle a request; the caller gets 400");
                let mut reply = Reply::new(Bytes::from(reason));
                *reply.status_mut() = StatusCode::BAD_REQUEST;
                if responder.answer(wire::answer(reply)).is_err() {
                    telemetry::late_reply(&self.name);
                }
                return None;
            }
        };
        let reply_to = ReplyTo::new(channel.shared()).with_deadline(*deadline);
        let (failures, redelivered) = (held.failures.clone(), held.redelivered);
        let attempt = u32::try_from(failures.len()).map_or(u32::MAX, |failed| failed + 1);
        let name = Arc::clone(&self.name);
        let settle = Answering { held, waiting: Arc::downgrade(&self.waiting), source: Arc::clone(&name) };
        Some(Unsettled::new(message, attempt, redelivered, name, failures, settle).with_reply_to(reply_to))
    }

    /// Ends the subscription. The callers of the requests that wait here get to know.
    async fn unsubscribe(&self) {
        *self.subscribed.lock().await = None;
        self.waiting.clear();
    }
}

#[async_trait]
impl Source for RequestSource {
    /// Returns one request.
    async fn receive(&self, _: usize) -> Result<Vec<Unsettled>, SourceError> {
        loop {
            let held = tokio::select! {
                biased;
                () = self.closed.cancelled() => None,
                held = self.next() => held?,
            };
            let held = held.ok_or(SourceError::Closed)?;
            if let Some(unsettled) = self.unsettled(held) {
                return Ok(vec![unsettled]);
            }
        }
    }

    async fn pause(&self) {
        self.unsubscribe().await;
    }

    async fn close(&self, _: Duration) {
        self.closed.cancel();
        self.unsubscribe().await;
    }

    fn name(&self) -> Arc<str> {
        Arc::clone(&self.name)
    }
}

impl fmt::Debug for RequestSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestSource")
            .field("pattern", &self.pattern)
            .field("group", &self.group)
            .finish_non_exhaustive()
    }
}
