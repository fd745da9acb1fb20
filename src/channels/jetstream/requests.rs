//! The requests of an engine on JetStream: requests of NATS.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_nats::StatusCode;
use async_trait::async_trait;
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};

use super::engine::JetstreamEngine;
use super::parts::EngineParts;
use super::responders::Answer;
use super::wire::{self, REPLY, REQUEST};
use crate::channels::capacity::Capacity;
use crate::channels::error::EngineError;
use crate::channels::info::ChannelKind;
use crate::channels::name::{ChannelName, Pattern};
use crate::channels::request_types::{Answered, Incoming, Request, RequestKind, RequestSubscription};
use crate::channels::requests::Requests;
use crate::util::deadline::after;

/// How long an answer that was sent at the deadline may take.
const ON_ITS_WAY: Duration = Duration::from_millis(10);
/// How long others may say that they have a request, after all known responders have dropped it.
const OTHERS: Duration = Duration::from_millis(50);
/// The time of a request of another program.
const FOREIGN: Duration = Duration::from_secs(60);

/// The header of a request.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Asked {
    /// In nanoseconds.
    timeout: u64,
}

/// A request that waits.
struct Asking<'a> {
    shared: &'a EngineParts,
    inbox: &'a str,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.shared.answering.end(self.inbox);
    }
}

fn kind_of(kind: RequestKind) -> ChannelKind {
    match kind {
        RequestKind::Command => ChannelKind::Commands,
        RequestKind::Query => ChannelKind::Queries,
    }
}

#[async_trait]
impl Requests for JetstreamEngine {
    async fn request(&self, channel: &ChannelName, request: Request) -> Result<Answered, EngineError> {
        let Request { kind, content, timeout: allowed } = request;
        let mut headers = self.shared.write_live(&content)?;
        wire::insert(&mut headers, REQUEST, &Asked { timeout: wire::nanos(allowed) })?;
        let connection = &self.shared.connection;
        let client = connection.client();
        let inbox = client.new_inbox();
        // Responders here know at once that an answer is late.
        let _asking = Asking { shared: &self.shared, inbox: &inbox.clone() };
        let mut answers = client.subscribe(inbox.clone()).await.map_err(EngineError::unavailable)?;
        let deadline = after(after(Instant::now(), allowed), ON_ITS_WAY);
        let losses = connection.losses();
        let subject = self.shared.live_subject(kind_of(kind), channel.as_str(), false);
        let sent = client.publish_with_reply_and_headers(subject, inbox, headers, content.body).await;
        sent.map_err(EngineError::unavailable)?;
        let lost =
            || EngineError::unavailable("the connection to the NATS server was lost while a request waited");
        let no_answer = || EngineError::NoAnswer { channel: channel.clone(), after: allowed };
        let (mut taken, mut dropped) = (0_usize, 0_usize);
        loop {
            let all_dropped = taken > 0 && dropped >= taken;
            let next = async {
                match all_dropped {
                    true => timeout(OTHERS, answers.next()).await,
                    false => timeout_at(deadline, answers.next()).await,
                }
            };
            let message = tokio::select! {
                biased;
                message = next => message.map_err(|_| no_answer())?.ok_or_else(lost)?,
                () = self.shared.closing.cancelled() => return Err(EngineError::Closed),
                () = connection.lost(losses) => return Err(lost()),
            };
            if message.status == Some(StatusCode::NO_RESPONDERS) {
                return Err(EngineError::NoResponder(channel.clone()));
            }
            let answer: Answer = wire::read(message.headers.as_ref(), REPLY);
            if answer.taken {
                taken += 1;
            } else if answer.dropped {
                dropped += 1;
            } else {
                return Ok(Answered::new(answer.into_reply(message), SystemTime::now()));
            }
        }
    }

    async fn subscribe_requests(
        &self,
        kind: RequestKind,
        pattern: &Pattern,
        group: Option<&str>,
        buffer: usize,
    ) -> Result<RequestSubscription, EngineError> {
        let shared = Arc::clone(&self.shared);
        let (mut live, guard) = shared.subscribe_live(kind_of(kind), pattern, group).await?;
        let (sender, requests) = mpsc::channel(shared.buffer(buffer));
        let capacity = Capacity::default();
        let room = capacity.clone();
        self.shared.spawn(async move {
            while let Some(message) = shared.next_live(&mut live).await {
                let Some((incoming, size)) = shared.incoming(kind, message).await else { continue };
                // A request that is not taken is dropped, and its requester gets to know.
                if room.take(size) && sender.try_send(incoming).is_err() {
                    room.free(size);
                }
            }
        });
        Ok(RequestSubscription::new(requests, guard).with_capacity(capacity))
    }
}

impl EngineParts {
    async fn incoming(
        self: &Arc<Self>,
        kind: RequestKind,
        message: async_nats::Message,
    ) -> Option<(Incoming, usize)> {
        let channel = self.live_channel(kind_of(kind), &message.subject)?;
        // A stranger could name any subject for its answer.
        let to = message.reply.clone().filter(|to| to.starts_with("_INBOX."))?;
        let asked: Asked = wire::read(message.headers.as_ref(), REQUEST);
        let allowed = if asked.timeout == 0 { FOREIGN } else { Duration::from_nanos(asked.timeout) };
        let content = wire::read_content(message.headers.as_ref(), message.payload);
        let (deadline, size) = (after(Instant::now(), allowed), content.size());
        let responder = self.responder(to, deadline).await;
        Some((Incoming::new(channel, Request { kind, content, timeout: allowed }, deadline, responder), size))
    }
}
