//! The events of an engine on JetStream: messages of NATS that no stream keeps.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_nats::{HeaderMap, Subscriber};
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::engine::JetstreamEngine;
use super::error::Fault;
use super::names::{self, encode, word_of};
use super::parts::EngineParts;
use super::wire;
use crate::channels::capacity::Capacity;
use crate::channels::content::Content;
use crate::channels::error::EngineError;
use crate::channels::event_types::{Event, EventSubscription};
use crate::channels::events::Events;
use crate::channels::info::ChannelKind;
use crate::channels::name::{ChannelName, Pattern};
use crate::telemetry;
use crate::util::sync::lock;

/// The most events or requests that wait for one subscriber.
const MOST: usize = 1 << 16;
/// The pause before a subscription is made again.
const PAUSE: Duration = Duration::from_millis(100);

/// A subscription of NATS.
pub(super) struct Live {
    subject: String,
    group: Option<String>,
    messages: Subscriber,
    ends: CancellationToken,
    is_ending: bool,
}

/// A subscriber here, which is counted.
pub(super) struct Subscribed {
    shared: Arc<EngineParts>,
    key: (ChannelKind, String),
    _ends: DropGuard,
}

impl Drop for Subscribed {
    fn drop(&mut self) {
        let mut subscribers = lock(&self.shared.subscribers);
        if let Some(count) = subscribers.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                subscribers.remove(&self.key);
            }
        }
    }
}

impl EngineParts {
    pub(super) fn buffer(&self, wanted: usize) -> usize {
        if wanted == 0 { self.settings.buffer } else { wanted }.clamp(1, MOST)
    }

    pub(super) fn live_subject(&self, kind: ChannelKind, name: &str, is_pattern: bool) -> String {
        self.subject(&format!("{}.{}", word_of(kind), names::subject(name, is_pattern)))
    }

    /// Returns the channel of a subject.
    pub(super) fn live_channel(&self, kind: ChannelKind, subject: &str) -> Option<ChannelName> {
        let rest = subject.strip_prefix(&*self.settings.prefix)?.strip_prefix('.')?;
        names::of_subject(rest.strip_prefix(word_of(kind))?.strip_prefix('.')?)
    }

    /// Writes a content, and refuses one that the server does not take.
    pub(super) fn write_live(&self, content: &Content) -> Result<HeaderMap, EngineError> {
        self.check_open()?;
        let mut headers = HeaderMap::new();
        wire::write_content(&mut headers, content)?;
        self.connection.check_size(&headers, &content.body)?;
        if !self.connection.is_up() {
            return Err(EngineError::unavailable("there is no connection to a NATS server"));
        }
        Ok(headers)
    }

    /// Subscribes; when it returns, the server knows.
    pub(super) async fn subscribe_live(
        self: &Arc<Self>,
        kind: ChannelKind,
        pattern: &Pattern,
        group: Option<&str>,
    ) -> Result<(Live, Subscribed), EngineError> {
        self.check_open()?;
        let subject = self.live_subject(kind, pattern.as_str(), true);
        let group = group.map(encode);
        let messages = self.connection.subscribe(&subject, group.as_deref()).await?;
        // Nobody answers, and the server says so after it has read the subscription.
        let inbox = self.connection.client().new_inbox();
        let asked = self.connection.request(&inbox, None, Bytes::new(), self.connection.deadline()).await;
        if let Err(Fault::Engine(error)) = asked {
            return Err(error);
        }
        let ends = CancellationToken::new();
        let key = (kind, pattern.to_string());
        *lock(&self.subscribers).entry(key.clone()).or_default() += 1;
        let guard = Subscribed { shared: Arc::clone(self), key, _ends: ends.clone().drop_guard() };
        Ok((Live { subject, group, messages, ends, is_ending: false }, guard))
    }

    /// Returns the next message; none once the subscription or the engine has ended. Those that came before are given at the end of the engine.
    pub(super) async fn next_live(&self, live: &mut Live) -> Option<async_nats::Message> {
        while !live.is_ending {
            tokio::select! {
                biased;
                () = live.ends.cancelled() => return None,
                message = live.messages.next() => match message {
                    Some(message) => return Some(message),
                    // The client has ended.
                    None => live.messages = self.subscribe_again(live).await?,
                },
                () = self.closing.cancelled() => {
                    live.is_ending = true;
                    live.messages.drain().await.ok()?;
                }
            }
        }
        tokio::select! {
            biased;
            () = live.ends.cancelled() => None,
            message = live.messages.next() => message,
        }
    }

    /// Subscribes over the next client.
    async fn subscribe_again(&self, live: &Live) -> Option<Subscriber> {
        let subscribed = async {
            loop {
                self.connection.up().await;
                match self.connection.subscribe(&live.subject, live.group.as_deref()).await {
                    Ok(messages) => return messages,
                    Err(_) => sleep(PAUSE).await,
                }
            }
        };
        tokio::select! {
            messages = subscribed => Some(messages),
            () = live.ends.cancelled() => None,
            () = self.closing.cancelled() => None,
        }
    }
}

#[async_trait]
impl Events for JetstreamEngine {
    async fn publish(&self, channel: &ChannelName, event: Content) -> Result<(), EngineError> {
        let headers = self.shared.write_live(&event)?;
        let subject = self.shared.live_subject(ChannelKind::Events, channel.as_str(), false);
        let published =
            self.shared.connection.client().publish_with_headers(subject, headers, event.body).await;
        published.map_err(EngineError::unavailable)
    }

    async fn subscribe_events(
        &self,
        pattern: &Pattern,
        group: Option<&str>,
        buffer: usize,
    ) -> Result<EventSubscription, EngineError> {
        let shared = Arc::clone(&self.shared);
        let (mut live, guard) = shared.subscribe_live(ChannelKind::Events, pattern, group).await?;
        let (sender, events) = mpsc::channel(shared.buffer(buffer));
        let capacity = Capacity::default();
        let room = capacity.clone();
        self.shared.spawn(async move {
            while let Some(message) = shared.next_live(&mut live).await {
                let Some(channel) = shared.live_channel(ChannelKind::Events, &message.subject) else {
                    continue;
                };
                let content = wire::read_content(message.headers.as_ref(), message.payload);
                let size = content.size();
                let event = Event::new(channel, content, SystemTime::now());
                let channel = event.channel.clone();
                if !room.take(size) {
                    telemetry::channel_events_lost(channel.as_str(), 1);
                } else if sender.try_send(event).is_err() {
                    room.free(size);
                    telemetry::channel_events_lost(channel.as_str(), 1);
                }
            }
        });
        Ok(EventSubscription::new(events, guard).with_capacity(capacity))
    }
}
