//! The management of channels: queries of newer SDKs to one reserved channel.

use bytes::Bytes;
use serde_json::{Value, json};

use super::access::{Caller, Right};
use super::check;
use super::convert;
use super::face::Face;
use super::fault::Refusal;
use super::kinds::KINDS;
use crate::channels::{ChannelInfo, ChannelLimits, Traffic};
use crate::kubemq_wire::{Request, Response};

/// The channel of these queries.
pub(super) const CHANNEL: &str = "kubemq.cluster.internal.requests";

/// Creates, deletes or lists channels. A fault is an answer with its text, which SDKs show.
pub(super) async fn handle(face: &Face, caller: &Caller, request: Request) -> Result<Response, Refusal> {
    check::text("request id", &request.request_id)?;
    check::text("metadata", &request.metadata)?;
    let done = manage(face, caller, &request).await;
    let (executed, body, error) = match done {
        Ok(body) => (true, body, String::new()),
        Err(refusal) => (false, Bytes::new(), refusal.to_string()),
    };
    let time = convert::nanos(std::time::SystemTime::now());
    Ok(Response {
        client_id: request.client_id,
        request_id: request.request_id,
        timestamp: time,
        executed,
        body,
        error,
        ..Default::default()
    })
}

async fn manage(face: &Face, caller: &Caller, request: &Request) -> Result<Bytes, Refusal> {
    let tag = |name: &str| request.tags.get(name).map_or("", String::as_str);
    let name = tag("channel_type");
    let kind = KINDS.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind).ok_or_else(|| {
        let known: Vec<_> = KINDS.iter().map(|(name, _)| *name).collect();
        Refusal::Text(format!("invalid channel type {name:?}: it is one of {}", known.join(", ")))
    })?;
    match request.metadata.as_str() {
        "list-channels" => {
            let mut channels = face.engine.list(kind, tag("channel_search")).await?;
            channels.retain(|info| {
                let name = info.name.as_str();
                caller.may(Right::Read, kind, name).is_ok() || caller.may(Right::Write, kind, name).is_ok()
            });
            let channels: Vec<_> = channels.iter().map(|info| listed(name, info)).collect();
            Ok(Value::Array(channels).to_string().into())
        }
        "create-channel" => {
            let channel = check::channel(tag("channel"))?;
            caller.may(Right::Write, kind, channel.as_str())?;
            face.engine.create(kind, &channel, ChannelLimits::default()).await?;
            Ok(Bytes::new())
        }
        "delete-channel" => {
            let channel = check::channel(tag("channel"))?;
            caller.may(Right::Read, kind, channel.as_str())?;
            caller.may(Right::Write, kind, channel.as_str())?;
            match face.engine.delete(kind, &channel).await? {
                true => Ok(Bytes::new()),
                false => Err(Refusal::Text(format!("channel {channel} not found"))),
            }
        }
        other => Err(Refusal::Text(format!(
            "invalid operation {other:?}: it is one of create-channel, list-channels, delete-channel"
        ))),
    }
}

/// A channel, as SDKs read it.
fn listed(kind: &str, info: &ChannelInfo) -> Value {
    let waiting = info.messages.saturating_sub(info.held + info.delayed);
    let traffic = |traffic: Traffic| {
        json!({
            "messages": traffic.messages, "volume": traffic.bytes, "waiting": waiting,
            "expired": 0, "delayed": info.delayed, "responses": 0,
        })
    };
    let seconds = info.last_activity.map_or(0, |at| convert::nanos(at) / 1_000_000_000);
    json!({
        "name": info.name.as_str(),
        "type": kind,
        "lastActivity": seconds,
        "isActive": info.subscribers > 0 || info.last_activity.is_some(),
        "incoming": traffic(info.incoming),
        "outgoing": traffic(info.outgoing),
    })
}
