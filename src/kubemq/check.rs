//! Checks of foreign fields.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use rand::RngExt;
use rand::distr::Alphanumeric;

use super::fault::{self, Refusal};
use super::limits;
use crate::channels::{ChannelName, Content, Pattern, Policy, QueueMessage, Start};
use crate::kubemq_wire::request::RequestType;
use crate::kubemq_wire::subscribe::EventsStoreType;
use crate::kubemq_wire::{self as wire, Subscribe};

type Tags = BTreeMap<String, String>;

/// Checks a text that the face or the engine keeps.
pub(super) fn text(field: &str, text: &str) -> Result<(), Refusal> {
    bounded(field, text.len(), limits::TEXT)
}

fn bounded(field: &str, size: usize, limit: usize) -> Result<(), Refusal> {
    if size > limit {
        return Err(Refusal::Text(format!("invalid {field}: {size} exceeds the limit of {limit}")));
    }
    Ok(())
}

pub(super) fn client(id: &str) -> Result<(), Refusal> {
    if id.is_empty() {
        return Err(fault::CLIENT_ID.into());
    }
    text("clientID", id)
}

pub(super) fn channel(name: &str) -> Result<ChannelName, Refusal> {
    ChannelName::new(name).map_err(fault::of_name)
}

pub(super) fn pattern(name: &str) -> Result<Pattern, Refusal> {
    Pattern::new(name).map_err(fault::of_name)
}

pub(super) fn queue(name: &str) -> Result<ChannelName, Refusal> {
    ChannelName::new(name).map_err(|_| fault::QUEUE_NAME.into())
}

/// A wait in seconds; 0 is the default.
pub(super) fn wait(seconds: i32) -> Result<Duration, Refusal> {
    match seconds {
        0 => Ok(whole(limits::DEFAULT_WAIT)),
        1..=limits::WAIT => Ok(whole(seconds)),
        _ => Err(fault::WAIT.into()),
    }
}

/// A visibility in seconds; 0 is the default.
pub(super) fn visibility(seconds: i32) -> Result<Duration, Refusal> {
    match seconds {
        0 => Ok(whole(limits::DEFAULT_VISIBILITY)),
        1..=limits::SECONDS => Ok(whole(seconds)),
        _ => Err(fault::VISIBILITY.into()),
    }
}

/// How many messages to receive at once.
pub(super) fn max_messages(max: i32) -> Result<usize, Refusal> {
    usize::try_from(max)
        .ok()
        .filter(|max| (1..=limits::RECEIVE).contains(max))
        .ok_or_else(|| fault::MAX_MESSAGES.into())
}

pub(super) fn event(event: wire::Event) -> Result<(ChannelName, Content), Refusal> {
    client(&event.client_id)?;
    let name = channel(&event.channel)?;
    if event.metadata.is_empty() && event.body.is_empty() {
        return Err(fault::EMPTY_MESSAGE.into());
    }
    let content = content(event.event_id, event.client_id, event.metadata, event.body, event.tags)?;
    Ok((name, content))
}

pub(super) fn queue_message(message: wire::QueueMessage) -> Result<(ChannelName, QueueMessage), Refusal> {
    client(&message.client_id)?;
    let name = queue(&message.channel)?;
    if message.metadata.is_empty() && message.body.is_empty() {
        return Err(fault::EMPTY_MESSAGE.into());
    }
    let policy = policy(&message.policy.unwrap_or_default())?;
    let content =
        content(message.message_id, message.client_id, message.metadata, message.body, message.tags)?;
    Ok((name, QueueMessage { content, policy }))
}

fn policy(policy: &wire::QueueMessagePolicy) -> Result<Policy, Refusal> {
    let within = |value: i32, limit, fault| match value {
        value if (0..=limit).contains(&value) => Ok(value),
        _ => Err(Refusal::Fault(fault)),
    };
    let expiry = whole(within(policy.expiration_seconds, limits::SECONDS, fault::EXPIRATION)?);
    let delay = whole(within(policy.delay_seconds, limits::SECONDS, fault::DELAY)?);
    let max_receives = match within(policy.max_receive_count, limits::RECEIVES, fault::RECEIVE_COUNT)? {
        0 => limits::RECEIVES,
        count => count,
    };
    let dead_letter = match policy.max_receive_queue.as_str() {
        "" => None,
        name => Some(queue(name)?),
    };
    Ok(Policy { expiry, delay, max_receives: max_receives.unsigned_abs(), dead_letter })
}

/// A request to responders: its channel, content and timeout.
pub(super) fn request(request: &wire::Request) -> Result<(ChannelName, Duration), Refusal> {
    let kind = request.request_type_data();
    if kind == RequestType::Unknown {
        return Err(fault::REQUEST_TYPE.into());
    }
    client(&request.client_id)?;
    let name = channel(&request.channel)?;
    if request.metadata.is_empty() && request.body.is_empty() {
        return Err(fault::EMPTY_REQUEST.into());
    }
    let timeout = u64::try_from(request.timeout).ok().filter(|timeout| *timeout > 0);
    let timeout = Duration::from_millis(timeout.ok_or(fault::TIMEOUT)?);
    if kind == RequestType::Query && !request.cache_key.is_empty() && request.cache_ttl <= 0 {
        return Err(fault::CACHE_TTL.into());
    }
    text("cache key", &request.cache_key)?;
    bounded("span", request.span.len(), limits::TEXT)?;
    Ok((name, timeout))
}

/// The content of a message; an id is made if it has none.
pub(super) fn content(
    id: String,
    client: String,
    metadata: String,
    body: Bytes,
    tags: Tags,
) -> Result<Content, Refusal> {
    text("message id", &id)?;
    bounded("metadata", metadata.len(), limits::METADATA)?;
    bounded("number of tags", tags.len(), limits::TAGS)?;
    let id = if id.is_empty() { new_id() } else { id };
    Ok(Content { id, client, metadata, body, tags: tags.into_iter().collect() })
}

/// 22 letters and digits, as the real server makes them.
pub(super) fn new_id() -> String {
    rand::rng().sample_iter(Alphanumeric).take(22).map(char::from).collect()
}

/// The first message of a subscription to an event store.
pub(super) fn start(subscribe: &Subscribe) -> Result<Start, Refusal> {
    let value = subscribe.events_store_type_value;
    let positive = |fault| u64::try_from(value).ok().filter(|value| *value > 0).ok_or(Refusal::Fault(fault));
    match EventsStoreType::try_from(subscribe.events_store_type_data) {
        Ok(EventsStoreType::StartNewOnly) => Ok(Start::NewOnly),
        Ok(EventsStoreType::StartFromFirst) => Ok(Start::First),
        Ok(EventsStoreType::StartFromLast) => Ok(Start::Last),
        Ok(EventsStoreType::StartAtSequence) => positive(fault::START_SEQUENCE).map(Start::Sequence),
        Ok(EventsStoreType::StartAtTime) => positive(fault::START_TIME).map(|time| Start::Time(unix(time))),
        Ok(EventsStoreType::StartAtTimeDelta) => {
            // More than all time there is would overflow.
            let seconds = positive(fault::START_DELTA)?.min(u64::from(u32::MAX));
            Ok(Start::Ago(Duration::from_secs(seconds)))
        }
        Ok(EventsStoreType::Undefined) | Err(_) => Err(fault::START_TYPE.into()),
    }
}

/// A time since 1970. The real server reads nanoseconds, but SDKs from 4 on send seconds: the unit is known by the size.
fn unix(time: u64) -> SystemTime {
    const YEAR_5138: u64 = 100_000_000_000;
    let since = if time < YEAR_5138 {
        Duration::from_secs(time)
    } else if time < YEAR_5138 * 1_000 {
        Duration::from_millis(time)
    } else if time < YEAR_5138 * 1_000_000 {
        Duration::from_micros(time)
    } else {
        Duration::from_nanos(time)
    };
    SystemTime::UNIX_EPOCH + since
}

fn whole(seconds: i32) -> Duration {
    Duration::from_secs(u64::from(seconds.unsigned_abs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_of_a_start_time_is_known_by_its_size() {
        let second = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_241_634);
        for time in [1_795_241_634, 1_795_241_634_000, 1_795_241_634_000_000, 1_795_241_634_000_000_000] {
            assert_eq!(unix(time), second);
        }
        // No number overflows.
        let _ = unix(u64::MAX);
    }
}
