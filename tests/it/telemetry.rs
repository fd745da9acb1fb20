//! The view of operators: counters, and logs without bodies.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use http::StatusCode;
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use tower::ServiceExt;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::trace::TraceLayer;
use tower_outbox::background::{Background, BackgroundSettings};
use tower_outbox::dummy::Dummy;
use tower_outbox::{Failure, Message, MessageQueue, MessagingLayer, Messenger, Unsent};
use tracing::Level;

use crate::support::counters::{counted, expect};
use crate::support::logs::Event;
use crate::support::messengers::{down, fake, in_flight, panicking};
use crate::support::{answering, app, enqueue, enqueue_a, get, logs, messages, service};

const SECRET: &str = "the-body";

#[test]
fn messages_enqueued_and_sent_are_counted() {
    let counts = counted(async {
        let layer = MessagingLayer::new(Dummy::new());
        for _ in 0..2 {
            get(answering(layer.clone(), StatusCode::OK)).await;
        }
    });
    assert_eq!(
        counts,
        expect([
            ("enqueued_total", 4),
            ("sent_total{backend=unnamed}", 4),
            ("send_seconds{stage=confirmed}", 2)
        ])
    );
}

#[test]
fn messages_dropped_for_their_status_are_counted() {
    let counts = counted(async {
        get(answering(MessagingLayer::new(Dummy::new()), StatusCode::NOT_FOUND)).await;
    });
    let expected = [
        ("enqueued_total", 2),
        ("dropped_total{reason=status}", 1),
        ("sent_total{backend=unnamed}", 1),
        ("send_seconds{stage=confirmed}", 1),
    ];
    assert_eq!(counts, expect(expected));
}

#[test]
fn messages_dropped_for_an_error_are_counted() {
    let counts = counted(async {
        let service = service(&MessagingLayer::new(Dummy::new()), |queue| async move {
            enqueue(&queue, ["a", "b"]);
            Err("broken".into())
        });
        assert!(service.oneshot(http::Request::new(())).await.is_err());
    });
    assert_eq!(counts, expect([("enqueued_total", 2), ("dropped_total{reason=error}", 2)]));
}

#[test]
fn messages_dropped_for_a_client_that_has_gone_are_counted() {
    let counts = counted(async {
        let app = app(MessagingLayer::new(Dummy::new()), |queue: MessageQueue| async move {
            enqueue(&queue, ["a"]);
            std::future::pending::<()>().await;
        });
        assert!(tokio::time::timeout(Duration::from_secs(1), get(app)).await.is_err());
    });
    assert_eq!(counts, expect([("enqueued_total", 1), ("dropped_total{reason=cancelled}", 1)]));
}

fn panicking_app() -> Router {
    async fn handler(queue: MessageQueue) -> StatusCode {
        enqueue(&queue, ["a"]);
        panic!("the handler panics")
    }
    app(MessagingLayer::new(Dummy::new()), handler)
}

#[test]
fn messages_dropped_for_a_panic_are_counted() {
    let counts = counted(async {
        assert!(tokio::spawn(get(panicking_app())).await.unwrap_err().is_panic());
    });
    assert_eq!(counts, expect([("enqueued_total", 1), ("dropped_total{reason=panic}", 1)]));
}

#[test]
fn messages_dropped_for_a_panic_that_is_caught_are_counted_as_such() {
    let counts = counted(async {
        get(panicking_app().layer(CatchPanicLayer::new())).await;
    });
    assert_eq!(counts, expect([("enqueued_total", 1), ("dropped_total{reason=panic}", 1)]));
}

#[test]
fn a_request_that_succeeds_and_one_that_enqueues_nothing_drop_nothing() {
    let counts = counted(async {
        get(app(MessagingLayer::new(Dummy::new()), || async { StatusCode::NOT_FOUND })).await;
    });
    assert_eq!(counts, expect([]));
}

#[test]
fn unsent_messages_are_counted_by_failure() {
    let counts = counted(async {
        let messenger = fake(|batch: Vec<Message>| {
            let failures =
                [Failure::transient("down"), Failure::rejected("forbidden"), Failure::transient("down")];
            std::future::ready(Err(batch.into_iter().skip(1).zip(failures).collect()))
        });
        let app = app(MessagingLayer::new(messenger), |queue: MessageQueue| async move {
            enqueue(&queue, ["a", "b", "c", "d"]);
        });
        get(app).await;
    });
    let expected = [
        ("enqueued_total", 4),
        ("sent_total{backend=unnamed}", 1),
        ("send_seconds{stage=confirmed}", 1),
        ("unsent_total{failure=transient}", 2),
        ("unsent_total{failure=rejected}", 1),
    ];
    assert_eq!(counts, expect(expected));
}

#[test]
fn messages_of_a_messenger_that_panics_are_counted_as_lost() {
    for after_waiting in [false, true] {
        let counts = counted(async {
            get(answering(MessagingLayer::new(panicking(after_waiting)), StatusCode::OK)).await;
        });
        assert_eq!(counts, expect([("enqueued_total", 2), ("unsent_total{failure=lost}", 2)]));
    }
}

#[test]
fn a_hook_that_panics_makes_no_message_count_twice() {
    let counts = counted(async {
        let layer = MessagingLayer::new(down(Failure::transient("down"))).with_on_unsent(|_| panic!("hook"));
        get(answering(layer, StatusCode::OK)).await;
    });
    assert_eq!(counts, expect([("enqueued_total", 2), ("unsent_total{failure=transient}", 2)]));
}

#[test]
fn messages_dropped_by_a_panicking_enrichment_are_counted() {
    let counts = counted(async {
        let layer = MessagingLayer::new(Dummy::new()).with_enrich(|_, _, _| panic!("enrich"));
        let app = answering(layer.clone(), StatusCode::OK).layer(CatchPanicLayer::new());
        assert_eq!(get(app).await.status(), StatusCode::INTERNAL_SERVER_ERROR);
        layer.in_flight().wait_idle().await;
    });
    let expected = [
        ("dropped_total{reason=panic}", 1),
        ("enqueued_total", 2),
        ("send_seconds{stage=confirmed}", 1),
        ("sent_total{backend=unnamed}", 1),
    ];
    assert_eq!(counts, expect(expected));
}

#[test]
fn a_messenger_that_panics_is_logged_with_the_count_of_what_is_lost() {
    let log = logs::listen();
    counted(async {
        get(answering(MessagingLayer::new(panicking(true)), StatusCode::OK)).await;
    });
    let lost = log.lost();
    assert!(lost.len() == 1 && lost[0].get("messages") == "2", "{lost:?}");
}

#[test]
fn messages_lost_with_the_runtime_are_counted() {
    let counts = counted(async {
        let app = answering(MessagingLayer::new(fake(|_| std::future::pending())), StatusCode::OK);
        assert!(tokio::time::timeout(Duration::from_secs(1), get(app)).await.is_err());
    });
    assert_eq!(counts, expect([("enqueued_total", 2), ("unsent_total{failure=lost}", 2)]));
}

#[test]
fn an_audit_event_that_cannot_leave_for_want_of_a_runtime_is_counted() {
    let counts = counted(async {
        let mut service = service(&MessagingLayer::new(Dummy::new()), |queue| {
            enqueue(&queue.always(), ["audit"]);
            std::future::pending()
        });
        let request = tower::Service::call(&mut service, http::Request::new(()));
        std::thread::scope(|scope| {
            let recorder = DebuggingRecorder::new();
            let snapshotter = recorder.snapshotter();
            scope.spawn(move || metrics::with_local_recorder(&recorder, || drop(request))).join().unwrap();
            let [(key, _, _, value)] = &snapshotter.snapshot().into_vec()[..] else { panic!("one metric") };
            assert_eq!(key.key().name(), "tower_outbox_unsent_total");
            assert_eq!(*value, DebugValue::Counter(1));
        });
    });
    assert_eq!(counts, expect([("enqueued_total", 1)]));
}

#[test]
fn the_background_counts_retries_and_what_it_gives_up() {
    let counts = counted(async {
        let tries = AtomicUsize::new(0);
        let flaky = fake(move |batch: Vec<Message>| {
            let tried = tries.fetch_add(1, Ordering::Relaxed);
            async move {
                match tried {
                    0 | 1 => Err(Unsent::new(batch, &Failure::transient("down"))),
                    2 => Err(Unsent::new(batch, &Failure::rejected("forbidden"))),
                    3 => Ok(()),
                    _ => std::future::pending().await,
                }
            }
        });
        let (background, worker) = Background::new(flaky, BackgroundSettings::default());
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let worker = tokio::spawn(
            worker.with_graceful_shutdown(async { drop(stopped.await) }, Duration::from_secs(1)),
        );
        for _ in 0..2 {
            background.send(messages(["a", "b"])).await.unwrap();
            in_flight(&background).wait_idle().await;
        }
        background.send(messages(["c"])).await.unwrap();
        stop.send(()).unwrap();
        assert_eq!(worker.await.unwrap().len(), 1);
    });
    let expected = [
        ("retried_total", 4),
        ("send_seconds{stage=confirmed}", 1),
        ("sent_total{backend=unnamed}", 2),
        ("unsent_total{failure=rejected}", 2),
        ("unsent_total{failure=transient}", 1),
    ];
    assert_eq!(counts, expect(expected));
}

fn secret() -> Message {
    Message::new("user.created", SECRET).unwrap().with_header("tenant", "acme")
}

/// Lets a message with a body live through all that can happen to it.
async fn all_that_can_happen() {
    let failure = || Failure::transient("down");
    for layer in [
        MessagingLayer::new(Dummy::new()),
        MessagingLayer::new(down(failure())),
        MessagingLayer::new(panicking(false)),
        MessagingLayer::new(panicking(true)),
    ] {
        for status in [200, 404] {
            let app = app(layer.clone(), move |queue: MessageQueue| async move {
                queue.enqueue(secret()).unwrap();
                queue.always().enqueue(secret()).unwrap();
                StatusCode::from_u16(status).unwrap()
            });
            get(app).await;
        }
    }
    let (background, worker) = Background::new(down(failure()), BackgroundSettings::default());
    background.send(vec![secret()]).await.unwrap();
    worker.with_graceful_shutdown(std::future::ready(()), Duration::from_millis(1)).await;
    let (background, worker) = Background::new(Dummy::new(), BackgroundSettings::default());
    background.send(vec![secret()]).await.unwrap();
    drop(worker);
}

#[test]
fn a_printed_message_has_no_body() {
    let unsent = Unsent::new(vec![secret()], &Failure::transient("down"));
    let printed = format!("{:?} {unsent:?} {unsent}", secret());
    assert!(printed.contains("user.created") && !printed.contains(SECRET), "{printed}");
}

#[tokio::test(start_paused = true)]
async fn bodies_are_in_no_line_at_info_or_above() {
    let log = logs::listen();
    all_that_can_happen().await;
    let (debug, shown): (Vec<_>, Vec<_>) =
        log.events().into_iter().partition(|event| event.level > Level::INFO);
    let is_secret = |event: &Event| event.to_string().contains(SECRET);
    assert!(shown.len() > 10 && !shown.iter().any(is_secret), "{shown:#?}");
    assert!(debug.iter().any(is_secret));
}

#[tokio::test]
async fn the_dummy_logs_one_line_a_message_and_the_body_at_debug_only() {
    let log = logs::listen();
    let message = secret();
    let id = message.id().to_string();
    Dummy::new().send(vec![message, secret()]).await.unwrap();
    let info = log.find(Level::INFO, &[]);
    assert_eq!(info.len(), 2);
    assert_eq!(["id", "topic", "bytes"].map(|field| info[0].get(field)), [&id, "user.created", "8"]);
    let with_body: Vec<_> =
        log.events().into_iter().filter(|event| event.to_string().contains(SECRET)).collect();
    assert!(
        with_body.len() == 2 && with_body.iter().all(|event| event.level == Level::DEBUG),
        "{with_body:?}"
    );
}

#[tokio::test]
async fn an_unsent_message_is_named_so_that_it_can_be_found() {
    let log = logs::listen();
    let message = secret();
    let id = message.id().to_string();
    let app = app(
        MessagingLayer::new(down(Failure::rejected("forbidden"))),
        move |queue: MessageQueue| async move { queue.enqueue(message).map(|_| ()) },
    );
    get(app).await;
    let [unsent] = &log.unsent()[..] else { panic!("one event: {:?}", log.events()) };
    let fields = ["id", "topic", "failure", "cause"].map(|field| unsent.get(field));
    assert_eq!(fields, [&id, "user.created", "rejected", "forbidden"]);
}

#[tokio::test]
async fn events_of_a_send_are_in_the_span_of_the_request() {
    let log = logs::listen();
    for after_waiting in [false, true] {
        let messenger = fake(move |batch| async move {
            if after_waiting {
                tokio::task::yield_now().await;
            }
            Err(Unsent::new(batch, &Failure::transient("down")))
        });
        let app = app(MessagingLayer::new(messenger), enqueue_a);
        get(app.layer(TraceLayer::new_for_http())).await;
    }
    let unsent = log.unsent();
    assert_eq!(unsent.len(), 2);
    assert!(unsent.iter().all(|event| event.spans[0].get("method") == "GET"), "{unsent:?}");
}
