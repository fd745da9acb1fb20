//! Commands and queries: asking, responding, and the cache of answers.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tonic::Status;

use super::access::{Caller, Right};
use super::events::closing;
use super::extras::{self, RequestExtras};
use super::face::Face;
use super::fault::{self, Refusal};
use super::{check, convert, limits, management};
use crate::channels::{self, ChannelKind, EngineError, Incoming, RequestKind, RequestSubscription};
use crate::kubemq_wire::request::RequestType;
use crate::kubemq_wire::subscribe::SubscribeType;
use crate::kubemq_wire::{Request, Response, Subscribe};

/// Asks the responders, or the cache.
pub(super) async fn send(face: &Face, caller: &Caller, mut request: Request) -> Result<Response, Refusal> {
    if request.channel == management::CHANNEL {
        check::client(&request.client_id)?;
        return management::handle(face, caller, request).await;
    }
    let (channel, timeout) = check::request(&request)?;
    let kind = if request.request_type_data() == RequestType::Query {
        RequestKind::Query
    } else {
        RequestKind::Command
    };
    caller.may(Right::Write, channel_kind(kind), channel.as_str())?;
    if request.request_id.is_empty() {
        request.request_id = check::new_id();
    }
    let is_cached = kind == RequestKind::Query && !request.cache_key.is_empty();
    if is_cached && let Some(answer) = face.cache.answer(channel.as_str(), &request.cache_key) {
        return Ok(Response { request_id: request.request_id, cache_hit: true, ..answer });
    }
    let deadline = Instant::now() + timeout;
    let (id, key, ttl) = (request.request_id.clone(), request.cache_key.clone(), request.cache_ttl);
    let extras = RequestExtras::of(&request);
    let mut content =
        check::content(id.clone(), request.client_id, request.metadata, request.body, request.tags)?;
    extras.add_to(&mut content.tags);
    let asking = face.engine.request(&channel, channels::Request { kind, content, timeout });
    let asked = tokio::select! {
        asked = asking => asked,
        () = face.stop.cancelled() => return Err(fault::CLOSING.into()),
    };
    let answered = match asked {
        Ok(answered) => answered,
        Err(error) => {
            if matches!(error, EngineError::NoResponder(_) | EngineError::NoAnswer { .. }) {
                // Clients pace themselves by the timeout.
                tokio::select! {
                    () = sleep_until(deadline) => {}
                    () = face.stop.cancelled() => {}
                }
            }
            return Err(error.into());
        }
    };
    let mut response = extras::response(answered, id);
    if kind == RequestKind::Command {
        // As the real server.
        response.metadata.clear();
        response.body.clear();
    }
    if is_cached && response.executed {
        face.cache.keep(channel.as_str(), &key, ttl, &response);
    }
    Ok(response)
}

fn channel_kind(kind: RequestKind) -> ChannelKind {
    match kind {
        RequestKind::Command => ChannelKind::Commands,
        RequestKind::Query => ChannelKind::Queries,
    }
}

pub(super) async fn subscribe(
    face: &Face,
    caller: &Caller,
    subscribe: Subscribe,
) -> Result<RequestSubscription, Refusal> {
    let kind = match subscribe.subscribe_type_data() {
        SubscribeType::Commands => RequestKind::Command,
        SubscribeType::Queries => RequestKind::Query,
        _ => return Err(fault::SUBSCRIBE_TYPE.into()),
    };
    check::client(&subscribe.client_id)?;
    let pattern = check::pattern(&subscribe.channel)?;
    check::text("group", &subscribe.group)?;
    caller.may(Right::Read, channel_kind(kind), pattern.as_str())?;
    let group = Some(subscribe.group.as_str()).filter(|group| !group.is_empty());
    Ok(face.engine.subscribe_requests(kind, &pattern, group, 0).await?)
}

/// Delivers requests, each with a reply channel of its own.
pub(super) async fn deliver(
    face: Arc<Face>,
    mut subscription: RequestSubscription,
    requests: mpsc::Sender<Request>,
) -> Result<(), Status> {
    while let Some(incoming) = subscription.next().await {
        if incoming.responder.is_late() {
            continue;
        }
        match face.pending.add(incoming.responder.clone(), incoming.deadline) {
            Some(reply_channel) => {
                let _ = requests.send(request(incoming, reply_channel)).await;
            }
            None => {
                face.counters.limits.add();
                tracing::warn!(
                    channel = %incoming.channel,
                    "dropped a request: {} requests wait for their answers", limits::PENDING
                );
            }
        }
    }
    Err(closing())
}

fn request(incoming: Incoming, reply_channel: String) -> Request {
    let kind = match incoming.kind {
        RequestKind::Command => RequestType::Command,
        RequestKind::Query => RequestType::Query,
    };
    let mut content = incoming.content;
    let extras = RequestExtras::take_from(&mut content.tags);
    Request {
        request_id: content.id,
        request_type_data: kind as i32,
        client_id: content.client,
        channel: incoming.channel.to_string(),
        metadata: content.metadata,
        body: content.body,
        reply_channel,
        timeout: i32::try_from(incoming.timeout.as_millis()).unwrap_or(i32::MAX),
        cache_key: extras.cache_key,
        cache_ttl: extras.cache_ttl,
        span: extras.span,
        tags: convert::tags(content.tags),
    }
}

/// Passes an answer on. A late one is dropped in silence, as by the real server.
pub(super) fn respond(face: &Face, mut response: Response) -> Result<(), Refusal> {
    check::client(&response.client_id)?;
    if response.request_id.is_empty() {
        return Err(fault::REQUEST_ID.into());
    }
    if response.reply_channel.is_empty() {
        return Err(fault::CHANNEL.into());
    }
    let channel = std::mem::take(&mut response.reply_channel);
    let reply = extras::reply(response)?;
    let answered = face.pending.take(&channel).map(|responder| responder.answer(reply));
    if !matches!(answered, Some(Ok(()))) {
        face.counters.late_answers.add();
        tracing::debug!("dropped an answer: its requester has stopped waiting, or has got another answer");
    }
    Ok(())
}
