//! The channels of this process.

use std::time::SystemTime;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use serde::{Deserialize, Serialize};

use super::state::{Admin, Answer};
use super::timestamp;

/// How many channels are returned.
#[cfg(feature = "channels")]
const CHANNELS: usize = 500;

/// The channels of this process.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ChannelsReport {
    /// Those with the most messages first, then by name.
    pub(crate) channels: Vec<ChannelReport>,
    /// How many more there are.
    pub(crate) others: u64,
}

/// One channel. What came in and went out is counted since the start of this process.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ChannelReport {
    pub(crate) kind: ChannelKindName,
    pub(crate) name: String,
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
    /// How many messages consumers hold.
    pub(crate) held: u64,
    /// How many messages wait until their delay is over.
    pub(crate) delayed: u64,
    /// The sequence of the newest message; 0 before the first.
    pub(crate) last_sequence: u64,
    pub(crate) consumers: u64,
    #[serde(with = "timestamp::optional")]
    pub(crate) last_activity: Option<SystemTime>,
    pub(crate) incoming: u64,
    pub(crate) outgoing: u64,
    /// The limits of this channel; null is that of the settings.
    pub(crate) max_age_seconds: Option<u64>,
    pub(crate) max_messages: Option<u64>,
    pub(crate) max_bytes: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ChannelKindName {
    Queue,
    Stream,
    Events,
    Commands,
    Queries,
}

impl ChannelKindName {
    #[cfg(feature = "dashboard")]
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Stream => "stream",
            Self::Events => "events",
            Self::Commands => "commands",
            Self::Queries => "queries",
        }
    }
}

/// The query of the list.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ChannelsQuery {
    /// A part of the name.
    #[cfg_attr(not(feature = "channels"), allow(dead_code, reason = "there are no channels"))]
    search: Option<String>,
}

#[cfg(not(feature = "channels"))]
pub(super) async fn list(
    State(_): State<Admin>,
    query: Result<Query<ChannelsQuery>, QueryRejection>,
) -> Answer {
    query?;
    Err(no_channels())
}

#[cfg(feature = "channels")]
pub(super) async fn list(
    State(admin): State<Admin>,
    query: Result<Query<ChannelsQuery>, QueryRejection>,
) -> Answer {
    use crate::channels::ChannelKind::{Commands, Events, Queries, Queue, Stream};
    let search = query?.0.search.unwrap_or_default();
    let channels = admin.parts.channels.as_ref().ok_or_else(no_channels)?;
    let mut infos = Vec::new();
    for (kind, name) in [
        (Queue, ChannelKindName::Queue),
        (Stream, ChannelKindName::Stream),
        (Events, ChannelKindName::Events),
        (Commands, ChannelKindName::Commands),
        (Queries, ChannelKindName::Queries),
    ] {
        let listed = channels.engine().list(kind, &search).await.map_err(|error| unavailable(&error))?;
        infos.extend(listed.into_iter().map(|info| (name, info)));
    }
    infos.sort_by(|(_, one), (_, other)| {
        (other.messages, &one.name, one.kind).cmp(&(one.messages, &other.name, other.kind))
    });
    let others = infos.len().saturating_sub(CHANNELS) as u64;
    infos.truncate(CHANNELS);
    let channels = infos.into_iter().map(|(kind, info)| report(kind, &info)).collect();
    Ok(super::answer::answer(http::StatusCode::OK, &ChannelsReport { channels, others }))
}

#[cfg(feature = "channels")]
fn report(kind: ChannelKindName, info: &crate::channels::ChannelInfo) -> ChannelReport {
    ChannelReport {
        kind,
        name: info.name.to_string(),
        messages: info.messages,
        bytes: info.bytes,
        held: info.held,
        delayed: info.delayed,
        last_sequence: info.last_sequence,
        consumers: info.subscribers as u64,
        last_activity: info.last_activity,
        incoming: info.incoming.messages,
        outgoing: info.outgoing.messages,
        max_age_seconds: info.limits.max_age.map(|age| age.as_secs()),
        max_messages: info.limits.max_messages,
        max_bytes: info.limits.max_bytes,
    }
}

#[cfg(feature = "channels")]
fn unavailable(error: &crate::channels::EngineError) -> super::error::AdminError {
    let error = crate::util::error::Chain(error).to_string();
    super::error::AdminError::new(http::StatusCode::SERVICE_UNAVAILABLE, error)
}

fn no_channels() -> super::error::AdminError {
    super::error::AdminError::not_found("BACKEND is not \"channels\": this process has no channels")
}
