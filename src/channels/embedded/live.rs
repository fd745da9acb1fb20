//! The events and requests of an embedded engine, which stay in memory.

use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::engine::EmbeddedEngine;
use super::hub::Hub;
use crate::channels::content::Content;
use crate::channels::error::EngineError;
use crate::channels::event_types::{Event, EventSubscription};
use crate::channels::events::Events;
use crate::channels::name::{ChannelName, Pattern};
use crate::channels::request_types::{
    Answered, Incoming, Request, RequestKind, RequestSubscription, Responder,
};
use crate::channels::requests::Requests;
use crate::telemetry;
use crate::util::deadline;

/// The most events or requests that wait for one subscriber.
const MOST: usize = 1 << 16;

impl EmbeddedEngine {
    fn buffer(&self, wanted: usize) -> usize {
        if wanted == 0 { self.shared.settings.buffer } else { wanted }.clamp(1, MOST)
    }

    fn check_content(&self, content: &Content) -> Result<(), EngineError> {
        if self.shared.closing.is_cancelled() {
            return Err(EngineError::Closed);
        }
        let (size, limit) = (content.size() as u64, self.shared.settings.max_message_bytes);
        if size > limit {
            return Err(EngineError::TooLarge { size, limit, setting: "MAX_MESSAGE_BYTES" });
        }
        Ok(())
    }

    fn requests(&self, kind: RequestKind) -> &Arc<Hub<Incoming>> {
        match kind {
            RequestKind::Command => &self.shared.commands,
            RequestKind::Query => &self.shared.queries,
        }
    }
}

#[async_trait]
impl Events for EmbeddedEngine {
    async fn publish(&self, channel: &ChannelName, event: Content) -> Result<(), EngineError> {
        self.check_content(&event)?;
        let event = Event::new(channel.clone(), event, SystemTime::now());
        let delivered = self.shared.events.deliver(channel, event.content.size(), || event.clone());
        if delivered.lost > 0 {
            telemetry::channel_events_lost(channel.as_str(), delivered.lost);
        }
        Ok(())
    }

    async fn subscribe_events(
        &self,
        pattern: &Pattern,
        group: Option<&str>,
        buffer: usize,
    ) -> Result<EventSubscription, EngineError> {
        let subscribed = self.shared.events.subscribe(pattern, group, self.buffer(buffer));
        let (events, capacity, guard) = subscribed.ok_or(EngineError::Closed)?;
        Ok(EventSubscription::new(events, guard).with_capacity(capacity))
    }
}

#[async_trait]
impl Requests for EmbeddedEngine {
    async fn request(&self, channel: &ChannelName, request: Request) -> Result<Answered, EngineError> {
        self.check_content(&request.content)?;
        let after = request.timeout;
        let deadline = deadline::after(Instant::now(), after);
        let (sender, mut answer) = mpsc::channel(1);
        let responder = Responder::new(sender);
        let delivered = self.requests(request.kind).deliver(channel, request.content.size(), || {
            Incoming::new(channel.clone(), request.clone(), deadline, responder.clone())
        });
        // The responders alone keep the way back open.
        drop((responder, request));
        if delivered.delivered == 0 {
            return Err(EngineError::NoResponder(channel.clone()));
        }
        let no_answer = || EngineError::NoAnswer { channel: channel.clone(), after };
        let answered = tokio::select! {
            answered = timeout_at(deadline, answer.recv()) => answered,
            () = self.shared.closing.cancelled() => return Err(EngineError::Closed),
        };
        let reply = answered.ok().flatten().ok_or_else(no_answer)?;
        Ok(Answered::new(reply, SystemTime::now()))
    }

    async fn subscribe_requests(
        &self,
        kind: RequestKind,
        pattern: &Pattern,
        group: Option<&str>,
        buffer: usize,
    ) -> Result<RequestSubscription, EngineError> {
        let subscribed = self.requests(kind).subscribe(pattern, group, self.buffer(buffer));
        let (requests, capacity, guard) = subscribed.ok_or(EngineError::Closed)?;
        Ok(RequestSubscription::new(requests, guard).with_capacity(capacity))
    }
}
