//! The stream and the consumer of a source: what is missing is created, what would lose messages is refused.

use std::time::Duration;

use async_nats::jetstream::consumer::{self, AckPolicy, DeliverPolicy, PullConsumer, pull};
use async_nats::jetstream::context::{
    ConsumerInfoErrorKind, CreateStreamErrorKind, GetStreamByNameErrorKind, GetStreamErrorKind,
};
use async_nats::jetstream::stream::{Config, ConsumerCreateStrictErrorKind, Stream};
use async_nats::jetstream::{self, Context, ErrorCode};

use super::settings::NatsSettings;
use super::subscription::NatsSubscription;
use crate::messenger::Failure;
use crate::util::error::Chain;

/// How long a created stream knows the ids of messages.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(10 * 60);

/// The limits of the requests that a consumer takes; 0 is none.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Limits {
    pub(super) batch: usize,
    pub(super) bytes: usize,
    pub(super) expires: Duration,
    pub(super) ack_wait: Duration,
}

/// Finds or creates stream, consumer and the stream of dead letters.
pub(super) async fn prepare(
    context: &Context,
    settings: &NatsSettings,
    subscription: &NatsSubscription,
) -> Result<Limits, Failure> {
    let stream = stream(context, settings, subscription).await?;
    let limits = consumer(&stream, settings, subscription).await?;
    dead_letters(context, &stream, subscription).await?;
    Ok(limits)
}

async fn stream(
    context: &Context,
    settings: &NatsSettings,
    subscription: &NatsSubscription,
) -> Result<Stream, Failure> {
    let name = &subscription.stream;
    match context.get_stream(name).await {
        Ok(stream) => return Ok(stream),
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(inner) if inner.error_code() == ErrorCode::STREAM_NOT_FOUND => {}
            GetStreamErrorKind::JetStream(inner)
                if inner.error_code() == ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT =>
            {
                return Err(Failure::rejected("JetStream is not enabled for this account"));
            }
            _ => return Err(failed("ask for the stream", name, &error)),
        },
    }
    if subscription.subjects.is_empty() {
        return Err(Failure::rejected(format!(
            "the stream {name:?} does not exist: create it, or set SUBJECTS, with which it is created"
        )));
    }
    let config = stream_config(context, settings, subscription);
    let created = context.get_or_create_stream(config).await;
    let created = created.map_err(|error| match error.kind() {
        CreateStreamErrorKind::JetStream(why) => refused("create the stream", name, &why),
        _ => failed("create the stream", name, &error),
    })?;
    tracing::info!(stream = name, "created the stream");
    Ok(created)
}

/// The stream as it is created.
pub(super) fn stream_config(
    context: &Context,
    settings: &NatsSettings,
    subscription: &NatsSubscription,
) -> Config {
    let client = context.client();
    Config {
        name: subscription.stream.clone(),
        subjects: subscription.filters(settings),
        duplicate_window: subscription.max_age.map_or(DUPLICATE_WINDOW, |age| age.min(DUPLICATE_WINDOW)),
        max_age: subscription.max_age.unwrap_or_default(),
        num_replicas: subscription.replicas.into(),
        // Older servers take these, and ignore them.
        allow_message_ttl: client.is_server_compatible(2, 11, 0),
        allow_message_schedules: client.is_server_compatible(2, 12, 0),
        ..Config::default()
    }
}

/// The subjects that a consumer receives; none for all of its stream.
pub(super) fn filters_of(config: &consumer::Config) -> Vec<String> {
    let single = (!config.filter_subject.is_empty()).then(|| config.filter_subject.clone());
    config.filter_subjects.iter().cloned().chain(single).collect()
}

/// Why a consumer would lose messages.
pub(super) fn fault_of_consumer(config: &consumer::Config) -> Option<&'static str> {
    if config.deliver_subject.is_some() {
        return Some("is a push consumer: set another DURABLE");
    }
    if config.ack_policy != AckPolicy::Explicit {
        return Some("does not acknowledge each message: set its ack policy to explicit, or another DURABLE");
    }
    if config.max_deliver > 0 {
        return Some(
            "has a limit of deliveries, after which the server neither delivers a message nor makes it a dead letter: set max_deliver to -1, and MAX_ATTEMPTS here",
        );
    }
    config.headers_only.then_some("delivers no bodies: set another DURABLE")
}

async fn consumer(
    stream: &Stream,
    settings: &NatsSettings,
    subscription: &NatsSubscription,
) -> Result<Limits, Failure> {
    let name = &subscription.durable;
    let filters = subscription.filters(settings);
    let found = match stream.consumer_info(name).await {
        Ok(info) => info,
        Err(error) if error.kind() != ConsumerInfoErrorKind::NotFound => {
            return Err(failed("ask for the consumer", name, &error));
        }
        Err(_) => {
            let config = pull::Config {
                durable_name: Some(name.clone()),
                ack_policy: AckPolicy::Explicit,
                ack_wait: subscription.ack_wait,
                deliver_policy: if subscription.only_new { DeliverPolicy::New } else { DeliverPolicy::All },
                // After so many deliveries a server leaves a message in the stream: dead letters are ours to make.
                max_deliver: -1,
                max_ack_pending: subscription.max_ack_pending.into(),
                filter_subjects: filters.clone(),
                ..pull::Config::default()
            };
            let created = stream.create_consumer_strict(config).await;
            let created: PullConsumer = created.map_err(|error| match error.kind() {
                ConsumerCreateStrictErrorKind::JetStream(why) => refused("create the consumer", name, &why),
                _ => failed("create the consumer", name, &error),
            })?;
            tracing::info!(stream = %subscription.stream, consumer = name, "created the consumer");
            created.cached_info().clone()
        }
    };
    let config = &found.config;
    if let Some(fault) = fault_of_consumer(config) {
        let text = format!("the consumer {name:?} of the stream {:?} {fault}", subscription.stream);
        return Err(Failure::rejected(text));
    }
    let theirs = filters_of(config);
    if !filters.is_empty()
        && (theirs.len() != filters.len() || !filters.iter().all(|filter| theirs.contains(filter)))
    {
        tracing::warn!(
            consumer = name,
            subjects = ?theirs,
            "the consumer exists with other subjects than SUBJECTS, and is used unchanged"
        );
    }
    let positive = |limit: i64| usize::try_from(limit).unwrap_or_default();
    Ok(Limits {
        batch: positive(config.max_batch),
        bytes: positive(config.max_bytes),
        expires: config.max_expires,
        // The intervals of `backoff` count instead of it.
        ack_wait: config.backoff.iter().min().copied().unwrap_or(config.ack_wait),
    })
}

async fn dead_letters(
    context: &Context,
    stream: &Stream,
    subscription: &NatsSubscription,
) -> Result<(), Failure> {
    let subject = subscription.dead_letters();
    match context.stream_by_subject(&*subject).await {
        Ok(taken_by) if taken_by == subscription.stream => {
            return Err(Failure::rejected(format!(
                "the dead letters at {subject:?} would go to the stream {taken_by:?} that they come from: set another DEAD_LETTER_SUBJECT"
            )));
        }
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == GetStreamByNameErrorKind::NotFound => {}
        Err(error) => return Err(failed("ask for the stream of", &subject, &error)),
    }
    let name = format!("{}-{}-dead", subscription.stream, subscription.durable);
    let config = Config {
        name: name.clone(),
        subjects: vec![subject],
        storage: stream.cached_info().config.storage,
        num_replicas: stream.cached_info().config.num_replicas,
        ..Config::default()
    };
    let created = context.get_or_create_stream(config).await;
    created.map_err(|error| failed("create the stream of dead letters", &name, &error))?;
    tracing::info!(stream = name, "created the stream of dead letters");
    Ok(())
}

/// The failure of a request that the server answered with an error.
fn refused(what: &str, name: &str, error: &jetstream::Error) -> Failure {
    match error.code() {
        400..=499 => Failure::rejected(format!("failed to {what} {name:?}: {error}")),
        _ => failed(what, name, error),
    }
}

fn failed(what: &str, name: &str, error: &(dyn std::error::Error + 'static)) -> Failure {
    let text = format!("failed to {what} {name:?}: {}", Chain(error));
    // A server that elects a leader, or starts, does not answer.
    Failure::transient(text)
}
