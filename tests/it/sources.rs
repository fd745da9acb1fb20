//! The one suite every source passes, and a consumer on each.
//!
//! A new source adds a module below, with a function that gives a [`SourceHarness`] for it.

mod brokers;
mod consuming;
mod statuses;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tower_outbox::channels::{Channels, SendPattern, Start};
use tower_outbox::consumer::{ConsumerHandle, ConsumerSettings};
use tower_outbox::message::FailedAttempt;
use tower_outbox::routing::{Namespace, Pattern, Routing};
use tower_outbox::source::Source;
use tower_outbox::store::{EmbeddedStore, EmbeddedStoreSettings, EntryState, Filter};
use tower_outbox::store_queue::StoreQueue;
use tower_outbox::testing::Memory;
use tower_outbox::testing::source_conformance::{Dead, SourceCapabilities, SourceHarness, settling};
use tower_outbox::{Consumer, Messenger};

pub use self::brokers::{
    amqp10_activemq_queue, amqp10_rabbitmq_queue, kafka_group, mosquitto_subscription, nats_consumer,
    rabbitmq_queue,
};
use crate::support::stores::{STUCK, list_by};

/// A consumer that runs.
struct RunningConsumer {
    handle: ConsumerHandle,
    stop: oneshot::Sender<()>,
    task: JoinHandle<usize>,
}

impl RunningConsumer {
    /// Runs this service on the source of a harness.
    fn start<S>(harness: &SourceHarness, settings: ConsumerSettings, service: S) -> Self
    where
        S: tower::Service<
                http::Request<axum::body::Body>,
                Response = axum::response::Response,
                Error: Into<tower_outbox::BoxError>,
                Future: Send,
            > + Clone
            + Send
            + 'static,
    {
        let consumer = Consumer::new(Arc::clone(&harness.source), service).with_settings(settings);
        let (stop, stopped) = oneshot::channel::<()>();
        let handle = consumer.handle();
        let shutdown = async {
            let _ = stopped.await;
        };
        let task = tokio::spawn(consumer.with_graceful_shutdown(shutdown, STUCK));
        Self { handle, stop, task }
    }

    async fn stop(self) -> usize {
        drop(self.stop);
        timeout(STUCK, self.task).await.expect("it does not stop").unwrap()
    }
}

/// Waits until it is so.
async fn until(is_so: impl Fn() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(STUCK, wait).await.expect("it does not become so");
}

/// The next result of a handler.
async fn next<T>(calls: &mut mpsc::UnboundedReceiver<T>) -> T {
    timeout(STUCK, calls.recv()).await.expect("the handler is not called").unwrap()
}

/// The path of the handler of a harness.
fn path(harness: &SourceHarness) -> String {
    format!("/{}", harness.topic.replace('.', "/"))
}

fn texts(failures: &[FailedAttempt]) -> Vec<String> {
    failures.iter().map(|failure| failure.reason.to_string()).collect()
}

pub async fn memory_queue() -> SourceHarness {
    let memory = Memory::new();
    let (messenger, source) = (Arc::new(memory.clone()), Arc::new(memory.clone()));
    let dead = move || {
        let letters = memory.dead_letters().into_iter();
        let dead = letters.map(|letter| Dead { id: letter.message.id(), reasons: texts(&letter.failures) });
        std::future::ready(dead.collect())
    };
    SourceHarness::new(messenger, source, "user.created", dead)
        .with_capabilities(SourceCapabilities::default().with_history(true).with_redelivered(true))
}

pub async fn embedded_queue() -> SourceHarness {
    let folder = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(&EmbeddedStoreSettings::new(folder.path().join("queue"))).await.unwrap();
    let queue = StoreQueue::new(Arc::new(store.clone()));
    let dead = move || {
        let store = store.clone();
        async move {
            let dead = list_by(&store, &Filter::state(EntryState::Dead), 100).await.into_iter();
            dead.map(|entry| Dead { id: entry.message.unwrap().id(), reasons: texts(&entry.failures) })
                .collect()
        }
    };
    SourceHarness::new(Arc::new(queue.clone()), Arc::new(queue), "user.created", dead)
        .with_capabilities(SourceCapabilities::default().with_redelivered(true))
        .with_kept(folder)
}

/// Channels of a folder of their own.
async fn channels() -> (Channels, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    (Channels::open(folder.path().join("channels")).await.unwrap(), folder)
}

/// A harness for channels, whose dead letters are in a queue.
fn of_channels(
    channels: &Channels,
    messenger: impl Messenger,
    source: impl Source,
    dead: &str,
    redelivered: bool,
) -> SourceHarness {
    let queue = channels.queue(dead).unwrap();
    let dead = move || {
        let queue = queue.clone();
        async move {
            let letters = queue.peek(100).await.unwrap().into_iter();
            let dead = letters.map(|letter| {
                let failures = letter.content.tag("tower-outbox-failures").unwrap();
                let failures: Vec<serde_json::Value> = serde_json::from_str(failures).unwrap();
                let reason = |failure: &serde_json::Value| failure["reason"].as_str().unwrap().to_owned();
                Dead {
                    id: letter.content.id.parse().unwrap(),
                    reasons: failures.iter().map(reason).collect(),
                }
            });
            dead.collect()
        }
    };
    SourceHarness::new(Arc::new(messenger), Arc::new(source), "user.created", dead)
        .with_capabilities(SourceCapabilities::default().with_history(true).with_redelivered(redelivered))
}

async fn channels_queue() -> SourceHarness {
    let (channels, folder) = channels().await;
    let queue = channels.queue("users").unwrap();
    of_channels(&channels, queue.clone(), queue, "users.dead", true).with_kept(folder)
}

async fn channels_stream() -> SourceHarness {
    let (channels, folder) = channels().await;
    let stream = channels.stream("users").unwrap().from(Start::First).durable("mailer");
    of_channels(&channels, stream.clone(), stream, "users.dead", true).with_kept(folder)
}

async fn channels_events() -> SourceHarness {
    let (channels, folder) = channels().await;
    let events = channels.events("user.>").unwrap().group("mailers");
    events.subscribe().await.unwrap();
    let messenger = channels.messenger(SendPattern::Events);
    of_channels(&channels, messenger, events, "user.created.dead", false).with_kept(folder)
}

async fn routing_subscription() -> SourceHarness {
    let folder = tempfile::tempdir().unwrap();
    let namespace = Namespace::named("site").unwrap();
    let routing = Routing::open(folder.path().join("router"), namespace).await.unwrap();
    let source = routing.subscription("users", Pattern::new("user/*").unwrap());
    source.subscribe().await.unwrap();
    let dead = brokers::dead_in(source.dead_letters());
    SourceHarness::new(Arc::new(routing), Arc::new(source), "user.created", dead)
        .with_capabilities(SourceCapabilities::default().with_history(true).with_redelivered(true))
        .with_kept(folder)
}

macro_rules! behaviour {
    ([$($attribute:tt)*] $queue:ident $module:ident $behaviour:ident) => {
        #[tokio::test]
        $($attribute)*
        async fn $behaviour() {
            crate::sources::$module::$behaviour(crate::sources::$queue().await).await;
        }
    };
}

/// Each behaviour as a test of a source.
macro_rules! suite {
    (@queue $name:ident $queue:ident $attributes:tt $($module:ident: $($behaviour:ident)*;)*) => {
        mod $name {
            $(mod $module { $(
                behaviour! { $attributes $queue $module $behaviour }
            )* })*
        }
    };
    ($($module:ident: $($behaviour:ident)*;)*) => {
        suite! { @queue memory memory_queue [] $($module: $($behaviour)*;)* }
        suite! { @queue embedded embedded_queue [] $($module: $($behaviour)*;)* }
        suite! { @queue channels_queue channels_queue [] $($module: $($behaviour)*;)* }
        suite! { @queue channels_stream channels_stream [] $($module: $($behaviour)*;)* }
        suite! { @queue channels_events channels_events [] $($module: $($behaviour)*;)* }
        suite! { @queue routing routing_subscription [] $($module: $($behaviour)*;)* }
        suite! {
            @queue rabbitmq rabbitmq_queue [#[ignore = "needs brokers: ./scripts/test"]] $($module: $($behaviour)*;)*
        }
        suite! {
            @queue mosquitto mosquitto_subscription [#[ignore = "needs brokers: ./scripts/test"]]
            $($module: $($behaviour)*;)*
        }
        suite! {
            @queue kafka kafka_group [#[ignore = "needs brokers: ./scripts/test"]]
            $($module: $($behaviour)*;)*
        }
        suite! {
            @queue nats nats_consumer [#[ignore = "needs brokers: ./scripts/test"]]
            $($module: $($behaviour)*;)*
        }
        suite! {
            @queue amqp10_rabbitmq amqp10_rabbitmq_queue [#[ignore = "needs brokers: ./scripts/test"]]
            $($module: $($behaviour)*;)*
        }
        suite! {
            @queue amqp10_activemq amqp10_activemq_queue [#[ignore = "needs brokers: ./scripts/test"]]
            $($module: $($behaviour)*;)*
        }
    };
}

suite! {
    settling:
        sent_messages_are_received_in_order
        every_field_arrives
        a_limit_is_kept
        an_acknowledged_message_is_not_delivered_again
        a_released_or_dropped_delivery_comes_again_without_an_attempt
        a_retry_comes_after_its_delay_as_the_next_attempt
        a_waiting_retry_does_not_delay_others
        a_rejected_message_is_a_dead_letter_with_its_reasons
        a_receive_that_is_dropped_loses_nothing
        a_closed_source_says_so;
    statuses:
        a_success_is_acknowledged
        a_temporary_failure_is_retried
        retry_after_is_kept
        a_handler_that_takes_too_long_has_failed
        a_panic_has_failed
        an_error_of_the_service_has_failed
        after_the_last_attempt_it_is_a_dead_letter
        any_other_status_is_a_dead_letter_at_once
        no_handler_is_a_dead_letter_at_once
        too_large_is_a_dead_letter_at_once;
    consuming:
        a_handler_sees_the_message_as_a_request
        no_more_are_handled_at_once_than_allowed
        a_key_is_handled_in_order_while_others_go_on
        one_key_that_stands_still_does_not_fetch_everything
        enqueued_messages_are_sent_on_success_with_their_causation
        a_pause_lets_nothing_more_come
        a_shutdown_finishes_running_handlers_and_leaves_the_rest
        a_handler_past_the_deadline_is_delivered_again;
}
