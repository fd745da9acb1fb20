//! The one suite every source passes, and a consumer on each.
//!
//! A new source adds a module below, with a function that gives a [`Place`] for it.

mod answering;
mod brokers;
mod consuming;
mod statuses;

use std::any::Any;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tower_outbox::consumer::{ConsumerHandle, ConsumerSettings};
use tower_outbox::source::{Source, Unsettled};
use tower_outbox::store::{EmbeddedStore, EmbeddedStoreSettings};
use tower_outbox::store::{EntryState, Filter};
use tower_outbox::store_queue::StoreQueue;
use tower_outbox::testing::Memory;
use tower_outbox::{Consumer, Message, Messenger};
use uuid::Uuid;

use self::brokers::{amqp10_activemq_place, amqp10_rabbitmq_place, rabbitmq_place};
use crate::support::stores::{STUCK, list_by};

/// Gives all the dead letters there are.
type Dying = Box<dyn Fn() -> Pin<Box<dyn Future<Output = Vec<Dead>> + Send>> + Send + Sync>;

/// A queue that can be sent to and received from.
struct Place {
    messenger: Arc<dyn Messenger>,
    source: Arc<dyn Source>,
    /// What is a dead letter now.
    dead: Dying,
    topic: String,
    capabilities: Capabilities,
    _keep: Box<dyn Any + Send + Sync>,
}

/// What a source can do beyond the contract.
#[derive(Clone, Copy, Debug)]
struct Capabilities {
    /// A message knows why its earlier attempts failed.
    history: bool,
    /// It is known when a message comes for the first time.
    redelivered: bool,
}

/// A dead letter.
#[derive(Clone, Debug)]
struct Dead {
    id: Uuid,
    /// Why it was given up on, and why each attempt failed.
    reasons: Vec<String>,
}

impl Place {
    fn message(&self, n: u64) -> Message {
        self.message_with(&json!({"n": n}))
    }

    fn message_with(&self, body: &serde_json::Value) -> Message {
        Message::json(self.topic.clone(), body).unwrap()
    }

    /// Sends so many.
    async fn send(&self, count: u64) -> Vec<Message> {
        let messages: Vec<_> = (0..count).map(|n| self.message(n)).collect();
        self.messenger.send(messages.clone()).await.unwrap();
        messages
    }

    /// Receives so many.
    async fn receive(&self, count: usize) -> Vec<Unsettled> {
        let mut received = Vec::new();
        while received.len() < count {
            let more =
                timeout(STUCK, self.source.receive(count - received.len())).await.expect("nothing comes");
            received.extend(more.unwrap());
        }
        received
    }

    async fn receive_one(&self) -> Unsettled {
        self.receive(1).await.remove(0)
    }

    /// Nothing comes any more.
    async fn assert_empty(&self) {
        if let Ok(more) = timeout(Duration::from_millis(300), self.source.receive(10)).await {
            panic!("something comes: {more:?}");
        }
    }

    /// The dead letters, once there are so many.
    async fn dead(&self, count: usize) -> Vec<Dead> {
        let found = async {
            loop {
                let dead = (self.dead)().await;
                if dead.len() >= count {
                    return dead;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let dead = timeout(STUCK, found).await.expect("no dead letter comes");
        assert_eq!(dead.len(), count);
        dead
    }

    fn path(&self) -> String {
        format!("/{}", self.topic.replace('.', "/"))
    }
}

fn id(delivery: &Unsettled) -> Uuid {
    delivery.view().unwrap().message().id()
}

fn ids_of(deliveries: &[Unsettled]) -> Vec<Uuid> {
    deliveries.iter().map(id).collect()
}

fn ids(messages: &[Message]) -> Vec<Uuid> {
    messages.iter().map(Message::id).collect()
}

/// A consumer that runs.
struct Running {
    handle: ConsumerHandle,
    stop: oneshot::Sender<()>,
    task: JoinHandle<usize>,
}

impl Running {
    /// Runs this service over a place.
    fn start<S>(place: &Place, settings: ConsumerSettings, service: S) -> Self
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
        let consumer = Consumer::new(Arc::clone(&place.source), service).with_settings(settings);
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

/// What comes next from a handler.
async fn next<T>(calls: &mut mpsc::UnboundedReceiver<T>) -> T {
    timeout(STUCK, calls.recv()).await.expect("the handler is not called").unwrap()
}

async fn memory_place() -> Place {
    let memory = Memory::new();
    let dead = memory.clone();
    Place {
        messenger: Arc::new(memory.clone()),
        source: Arc::new(memory),
        dead: Box::new(move || {
            let letters = dead.dead_letters().into_iter().map(|letter| Dead {
                id: letter.message.id(),
                reasons: letter.failures.iter().map(|failure| failure.reason.to_string()).collect(),
            });
            let letters = letters.collect();
            Box::pin(async move { letters })
        }),
        topic: "user.created".to_owned(),
        capabilities: Capabilities { history: true, redelivered: true },
        _keep: Box::new(()),
    }
}

async fn embedded_place() -> Place {
    let folder = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(&EmbeddedStoreSettings::new(folder.path().join("queue"))).await.unwrap();
    let queue = StoreQueue::new(Arc::new(store.clone()));
    Place {
        messenger: Arc::new(queue.clone()),
        source: Arc::new(queue),
        dead: Box::new(move || {
            let store = store.clone();
            Box::pin(async move {
                let dead = list_by(&store, &Filter::state(EntryState::Dead), 100).await;
                let dead = dead.into_iter().map(|entry| Dead {
                    id: entry.message.unwrap().id(),
                    reasons: entry.failures.iter().map(|failure| failure.reason.to_string()).collect(),
                });
                dead.collect()
            })
        }),
        topic: "user.created".to_owned(),
        capabilities: Capabilities { history: false, redelivered: true },
        _keep: Box::new(folder),
    }
}

macro_rules! behaviour {
    ([$($attribute:tt)*] $place:ident $module:ident $behaviour:ident) => {
        #[tokio::test]
        $($attribute)*
        async fn $behaviour() {
            crate::sources::$module::$behaviour(crate::sources::$place().await).await;
        }
    };
}

/// Each behaviour as a test of a place.
macro_rules! suite {
    (@place $name:ident $place:ident $attributes:tt $($module:ident: $($behaviour:ident)*;)*) => {
        mod $name {
            $(mod $module { $(
                behaviour! { $attributes $place $module $behaviour }
            )* })*
        }
    };
    ($($module:ident: $($behaviour:ident)*;)*) => {
        suite! { @place memory memory_place [] $($module: $($behaviour)*;)* }
        suite! { @place embedded embedded_place [] $($module: $($behaviour)*;)* }
        suite! {
            @place rabbitmq rabbitmq_place [#[ignore = "needs brokers: ./scripts/test"]] $($module: $($behaviour)*;)*
        }
        suite! {
            @place amqp10_rabbitmq amqp10_rabbitmq_place [#[ignore = "needs brokers: ./scripts/test"]]
            $($module: $($behaviour)*;)*
        }
        suite! {
            @place amqp10_activemq amqp10_activemq_place [#[ignore = "needs brokers: ./scripts/test"]]
            $($module: $($behaviour)*;)*
        }
    };
}

suite! {
    answering:
        what_is_sent_is_received_in_order
        every_field_arrives
        a_limit_is_kept
        what_is_acknowledged_does_not_come_again
        what_is_released_or_dropped_comes_again_and_no_attempt_is_counted
        a_retry_comes_after_its_delay_as_the_next_attempt
        a_retry_that_waits_holds_nothing_up
        what_is_rejected_is_a_dead_letter_with_its_reasons
        a_receive_that_is_dropped_loses_nothing
        a_closed_source_says_so;
    statuses:
        a_success_is_acknowledged
        what_may_pass_later_comes_again
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
        what_is_enqueued_leaves_when_the_handler_succeeds_and_says_what_it_follows_from
        a_pause_lets_nothing_more_come
        at_shutdown_what_is_handled_ends_and_the_rest_stays
        what_does_not_end_in_time_comes_again;
}
