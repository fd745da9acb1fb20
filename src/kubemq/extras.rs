//! The fields of KubeMQ's requests and responses that the engine does not know: they travel as one tag.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use prost::Message;

use super::check;
use super::convert;
use super::fault::Refusal;
use crate::channels::{Answered, Reply};
use crate::kubemq_wire::{Request, Response};

/// A message of KubeMQ with nothing but these fields, in base64.
const TAG: &str = "kubemq.extras";

/// The fields of a request that only its responder reads.
#[derive(Debug, Default)]
pub(super) struct RequestExtras {
    pub(super) cache_key: String,
    pub(super) cache_ttl: i32,
    pub(super) span: Bytes,
}

impl RequestExtras {
    pub(super) fn of(request: &Request) -> Self {
        Self {
            cache_key: request.cache_key.clone(),
            cache_ttl: request.cache_ttl,
            span: request.span.clone(),
        }
    }

    pub(super) fn add_to(self, tags: &mut Vec<(String, String)>) {
        let Self { cache_key, cache_ttl, span } = self;
        add(tags, &Request { cache_key, cache_ttl, span, ..Default::default() });
    }

    pub(super) fn take_from(tags: &mut Vec<(String, String)>) -> Self {
        let Request { cache_key, cache_ttl, span, .. } = take(tags);
        Self { cache_key, cache_ttl, span }
    }
}

/// The answer of a responder, for the engine.
pub(super) fn reply(response: Response) -> Result<Reply, Refusal> {
    check::text("span", &String::from_utf8_lossy(&response.span))?;
    let Response { client_id, metadata, body, executed, error, .. } = response;
    let content = check::content(response.request_id, client_id, metadata, body, response.tags)?;
    let extras = Response {
        cache_hit: response.cache_hit,
        timestamp: response.timestamp,
        span: response.span,
        ..Default::default()
    };
    let mut tags = content.tags;
    add(&mut tags, &extras);
    Ok(Reply {
        client: content.client,
        executed,
        error,
        metadata: content.metadata,
        body: content.body,
        tags,
    })
}

/// The answer of a responder, for its requester. The time is the responder's, if it gave one.
pub(super) fn response(answered: Answered, request_id: String) -> Response {
    let Reply { client, executed, error, metadata, body, mut tags } = answered.reply;
    let has_extras = tags.iter().any(|(name, _)| name == TAG);
    let extras: Response = take(&mut tags);
    Response {
        client_id: client,
        request_id,
        reply_channel: String::new(),
        metadata,
        body,
        cache_hit: extras.cache_hit,
        timestamp: if has_extras { extras.timestamp } else { convert::nanos(answered.time) },
        executed,
        error,
        span: extras.span,
        tags: convert::tags(tags),
    }
}

/// A tag of this name from a client would be read as ours, so it is dropped.
fn add<M: Message + Default + PartialEq>(tags: &mut Vec<(String, String)>, extras: &M) {
    tags.retain(|(name, _)| name != TAG);
    if *extras != M::default() {
        tags.push((TAG.to_owned(), BASE64_STANDARD.encode(extras.encode_to_vec())));
    }
}

fn take<M: Message + Default>(tags: &mut Vec<(String, String)>) -> M {
    let Some(place) = tags.iter().position(|(name, _)| name == TAG) else { return M::default() };
    let (_, text) = tags.remove(place);
    BASE64_STANDARD.decode(text).ok().and_then(|bytes| M::decode(bytes.as_slice()).ok()).unwrap_or_default()
}
