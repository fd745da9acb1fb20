//! The queue and its extractor: limits, refusals, and what a handler may do with it.

use std::collections::BTreeMap;
use std::error::Error;

use axum::response::IntoResponse;
use http::StatusCode;
use serde::Serialize;
use tower_outbox::dummy::Dummy;
use tower_outbox::message::MessageError;
use tower_outbox::testing::Recording;
use tower_outbox::{
    BoxError, EnqueueError, Event, Message, MessageQueue, MessagingLayer, Messenger, Unsent, async_trait,
};

use crate::support::messengers::recording;
use crate::support::{app, enqueue, enqueue_a, get, logs, message, text, topics};

/// The result of a function that is handed the queue of a request.
async fn with_queue<T: Send + 'static>(layer: MessagingLayer, act: fn(&MessageQueue) -> T) -> T {
    let (give, mut given) = tokio::sync::mpsc::unbounded_channel();
    let app = app(layer, move |queue: MessageQueue| async move {
        give.send(act(&queue)).unwrap_or_else(|_| panic!("nobody waits"));
    });
    get(app).await;
    given.recv().await.unwrap()
}

fn dummy() -> MessagingLayer {
    MessagingLayer::new(Dummy::new())
}

#[tokio::test]
async fn a_request_may_enqueue_1000_messages_by_default() {
    let (messenger, sent) = recording();
    let refused = with_queue(MessagingLayer::new(messenger), |queue| {
        for _ in 0..1_000 {
            enqueue(queue, ["a"]);
        }
        queue.enqueue(message("a"))
    });
    assert!(matches!(refused.await, Err(EnqueueError::TooManyMessages { limit: 1_000 })));
    assert_eq!(sent.topics().len(), 1_000);
}

/// The bytes of the header `traceparent`, which each message gets.
const TRACE: usize = "traceparent".len() + 55;

#[tokio::test]
async fn the_messages_of_a_request_may_hold_8_mib_by_default() {
    const LIMIT: usize = 8 << 20;
    let (whole, over, rest) = with_queue(dummy(), |queue| {
        let of_size = |size: usize| Message::new("a", vec![0; size - "a".len() - TRACE]).unwrap();
        let over = queue.enqueue(of_size(LIMIT + 1));
        let whole = queue.enqueue(of_size(LIMIT));
        (whole, over, queue.enqueue(Message::new("a", "").unwrap()))
    })
    .await;
    assert!(whole.is_ok());
    for refused in [over, rest] {
        assert!(matches!(refused, Err(EnqueueError::TooManyBytes { limit: LIMIT })));
    }
}

#[tokio::test]
async fn both_limits_can_be_set_and_their_errors_name_the_setter() {
    let messages = with_queue(dummy().with_max_messages(2), |queue| {
        enqueue(queue, ["a", "b"]);
        queue.enqueue(message("c"))
    })
    .await
    .unwrap_err();
    assert!(matches!(messages, EnqueueError::TooManyMessages { limit: 2 }));
    assert!(messages.to_string().contains("with_max_messages"));

    let bytes = with_queue(dummy().with_max_bytes(10 + 2 * TRACE), |queue| {
        queue.enqueue(Message::new("a", "12345").unwrap()).unwrap();
        queue.enqueue(Message::new("b", "123").unwrap()).unwrap();
        queue.enqueue(Message::new("c", "").unwrap())
    })
    .await
    .unwrap_err();
    assert!(matches!(bytes, EnqueueError::TooManyBytes { limit } if limit == 10 + 2 * TRACE));
    assert!(bytes.to_string().contains("with_max_bytes"));
}

#[tokio::test]
async fn a_refused_message_leaves_the_others_where_they_are() {
    let (messenger, sent) = recording();
    with_queue(MessagingLayer::new(messenger).with_max_bytes(100 + 2 * TRACE), |queue| {
        enqueue(queue, ["a"]);
        assert!(queue.enqueue(Message::new("big", vec![0; 100 + TRACE]).unwrap()).is_err());
        enqueue(queue, ["b"]);
        assert_eq!(queue.len(), 2);
    })
    .await;
    assert_eq!(sent.topics(), ["a", "b"]);
}

#[tokio::test]
async fn headers_and_keys_count_towards_the_bytes() {
    let refused = with_queue(dummy().with_max_bytes(10 + TRACE), |queue| {
        let header = queue.enqueue(Message::new("a", "").unwrap().with_header("x", "123456789"));
        let key = queue.enqueue(Message::new("a", "").unwrap().with_key("1234567890"));
        (header, key)
    })
    .await;
    assert!(refused.0.is_err() && refused.1.is_err());
}

#[tokio::test]
async fn a_bad_topic_is_an_error_in_the_handler() {
    struct Bad;
    impl Serialize for Bad {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.serialize_unit()
        }
    }
    impl Event for Bad {
        const TOPIC: &'static str = "user..created";
    }
    let made: EnqueueError = Message::json("user.*", "jo").unwrap_err().into();
    let emitted = with_queue(dummy(), |queue| queue.emit(&Bad)).await.unwrap_err();
    for error in [made, emitted] {
        assert!(matches!(&error, EnqueueError::Message(MessageError::Topic(_))));
        assert!(error.to_string().contains("user."), "{error}");
    }
}

#[tokio::test]
async fn a_value_that_cannot_be_serialised_is_an_error_in_the_handler() {
    #[derive(Serialize)]
    struct Pairs(BTreeMap<(u8, u8), u8>);
    impl Event for Pairs {
        const TOPIC: &'static str = "pairs";
    }
    let (messenger, sent) = recording();
    let error =
        with_queue(MessagingLayer::new(messenger), |queue| queue.emit(&Pairs(BTreeMap::from([((1, 2), 3)]))))
            .await
            .unwrap_err();
    assert!(matches!(error, EnqueueError::Message(MessageError::Serialize(_))));
    assert!(sent.topics().is_empty());
}

#[tokio::test]
async fn an_event_brings_its_topic_body_and_key() {
    #[derive(Serialize)]
    struct UserCreated {
        id: u64,
    }
    impl Event for UserCreated {
        const TOPIC: &'static str = "user.created";

        fn key(&self) -> Option<String> {
            Some(format!("user-{}", self.id))
        }
    }
    let (messenger, sent) = recording();
    let id = with_queue(MessagingLayer::new(messenger), |queue| queue.emit(&UserCreated { id: 7 })).await;
    let [message] = &sent.messages()[..] else { panic!("one message") };
    assert_eq!(message.id(), id.unwrap());
    assert_eq!(message.key(), Some("user-7"));
    assert_eq!(sent.json("user.created"), [serde_json::json!({"id": 7})]);
}

/// Refuses messages whose body is longer than this.
struct Short(usize, Recording);

#[async_trait]
impl Messenger for Short {
    async fn send(&self, batch: Vec<Message>) -> Result<(), Unsent> {
        self.1.send(batch).await
    }

    fn check(&self, message: &Message) -> Result<(), BoxError> {
        match message.body().len() {
            len if len > self.0 => Err(format!("{len} bytes are too many for this bus").into()),
            _ => Ok(()),
        }
    }
}

#[tokio::test]
async fn a_message_that_can_never_be_sent_is_an_error_in_the_handler() {
    let (messenger, sent) = recording();
    let error = with_queue(MessagingLayer::new(Short(3, messenger)), |queue| {
        queue.enqueue(Message::new("short", "123").unwrap()).unwrap();
        queue.enqueue(Message::new("long", "1234").unwrap())
    })
    .await
    .unwrap_err();
    assert!(matches!(error, EnqueueError::Rejected(_)));
    assert_eq!(error.source().unwrap().to_string(), "4 bytes are too many for this bus");
    assert_eq!(sent.topics(), ["short"]);
}

#[tokio::test]
async fn a_message_that_cannot_be_enqueued_fails_the_request_without_its_details() {
    async fn handler(queue: MessageQueue) -> Result<StatusCode, EnqueueError> {
        queue.enqueue(message("a"))?;
        queue.enqueue(Message::json("not a topic", "x")?)?;
        Ok(StatusCode::CREATED)
    }
    let (messenger, sent) = recording();
    let response = get(app(MessagingLayer::new(messenger), handler)).await;
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let text = text(response).await;
    assert!(!text.is_empty() && !text.contains("not a topic"), "{text}");
    assert!(sent.topics().is_empty());
}

#[tokio::test]
async fn without_the_layer_the_optional_extractor_gives_none() {
    async fn handler(queue: Option<MessageQueue>) -> &'static str {
        if queue.is_some() { "some" } else { "none" }
    }
    let bare = axum::Router::new().route("/", axum::routing::get(handler));
    assert_eq!(text(get(bare).await).await, "none");
    assert_eq!(text(get(app(dummy(), handler)).await).await, "some");
}

#[tokio::test]
async fn a_forgotten_layer_is_500_and_logged_once_with_the_cure() {
    let log = logs::listen();
    // In one test: only the first one of a process is logged.
    let bare = axum::Router::new().route("/", axum::routing::get(enqueue_a));
    for _ in 0..2 {
        let response = get(bare.clone()).await;
        assert_eq!(response.status(), http::StatusCode::INTERNAL_SERVER_ERROR);
        assert!(text(response).await.contains("add tower_outbox::MessagingLayer"));
    }
    let logged = log.find(tracing::Level::ERROR, &["error"]);
    assert_eq!(logged.len(), 1, "{:?}", log.events());
    assert!(logged[0].get("error").contains("add tower_outbox::MessagingLayer"), "{logged:?}");
}

#[tokio::test]
async fn tasks_spawned_by_the_handler_enqueue_while_it_runs() {
    let (messenger, sent) = recording();
    let app = app(MessagingLayer::new(messenger), |queue: MessageQueue| async move {
        let tasks: Vec<_> = ["a", "b", "c", "d"]
            .map(|topic| {
                let queue = queue.clone();
                tokio::spawn(async move { queue.enqueue(message(topic)).unwrap() })
            })
            .into();
        for task in tasks {
            task.await.unwrap();
        }
    });
    get(app).await;
    let mut topics = topics(&sent.messages());
    topics.sort();
    assert_eq!(topics, ["a", "b", "c", "d"]);
}

#[tokio::test]
async fn a_body_that_is_polled_later_finds_the_queue_closed() {
    let (messenger, sent) = recording();
    let app = app(MessagingLayer::new(messenger), |queue: MessageQueue| async move {
        let late = futures_util::stream::once(async move {
            Ok::<_, BoxError>(queue.enqueue(message("late")).unwrap_err().to_string())
        });
        axum::body::Body::from_stream(late).into_response()
    });
    let response = get(app).await;
    assert!(text(response).await.contains("closed"));
    assert!(sent.topics().is_empty());
}
