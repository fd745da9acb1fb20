//! Messages from petisco to us: retries, dead letters, and what cannot be read.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::post;
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tower_outbox::amqp091::{Amqp091Source, Amqp091Subscription, RetryBy};
use tower_outbox::consumer::ConsumerSettings;
use tower_outbox::{Consumer, Delivery};

use super::{Vhost, lasting, mail, registration};
use crate::peers::Brokers;

/// The request to our handler.
#[derive(Debug)]
struct Call {
    at: Instant,
    attempt: u32,
    delivery: Delivery,
    headers: HeaderMap,
    body: Value,
}

/// Our side: a consumer of the subscriber's queue, whose handler always fails.
struct Failing {
    calls: Arc<Mutex<Vec<Call>>>,
    stop: oneshot::Sender<()>,
    consumer: JoinHandle<usize>,
}

impl Failing {
    fn start(vhost: &Vhost<'_>, max_attempts: u32) -> Self {
        let calls: Arc<Mutex<Vec<Call>>> = Arc::default();
        let kept = Arc::clone(&calls);
        let handler = move |delivery: Delivery, headers: HeaderMap, body: String| async move {
            let (at, attempt) = (Instant::now(), delivery.attempt());
            let body = serde_json::from_str(&body).unwrap();
            kept.lock().unwrap().push(Call { at, attempt, delivery, headers, body });
            StatusCode::SERVICE_UNAVAILABLE
        };
        let app: Router = Router::new().route("/user/created", post(handler));
        let retry = RetryBy::Petisco { organization: "acme".to_owned(), service: "registration".to_owned() };
        let subscription = Amqp091Subscription::new(registration().queue_of(&mail())).with_retry(retry);
        let source = Amqp091Source::new(&vhost.settings(), &subscription).unwrap();
        let settings = ConsumerSettings::default().with_max_attempts(max_attempts);
        let consumer = Consumer::new(source, app).with_settings(settings);
        let (stop, stopped) = oneshot::channel();
        let stopped = async { drop(stopped.await) };
        let consumer = tokio::spawn(consumer.with_graceful_shutdown(stopped, Duration::from_secs(5)));
        Self { calls, stop, consumer }
    }

    async fn stop(self) -> Vec<Call> {
        drop(self.stop);
        assert_eq!(self.consumer.await.unwrap(), 0);
        std::mem::take(&mut self.calls.lock().unwrap())
    }
}

fn queue() -> String {
    registration().queue_of(&mail())
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_failed_message_is_retried_every_five_seconds() {
    let brokers = Brokers::running();
    let vhost = Vhost::create(&brokers).await;
    vhost.petisco(&["configure"]).await;
    let ours = Failing::start(&vhost, 3);
    let sent = vhost.petisco(&["publish"]).await.remove(0);
    let dead_letters = format!("dead_letter.{}", queue());
    vhost.until_in(&dead_letters, 1).await;
    let calls = ours.stop().await;

    let attempts: Vec<_> = calls.iter().map(|call| call.attempt).collect();
    assert_eq!(attempts, [1, 2, 3]);
    for pair in calls.windows(2) {
        let apart = pair[1].at.duration_since(pair[0].at).as_secs_f64();
        assert!((4.9..6.5).contains(&apart), "{apart}");
    }
    for call in &calls {
        let message = call.delivery.message();
        assert_eq!(message.id().to_string(), sent["data"]["id"]);
        assert_eq!(call.body, sent["data"]["attributes"]);
        assert_eq!(call.headers["correlation_id"], "abc");
        assert_eq!(call.headers["ce-type"], "user.created");
        let time = humantime::format_rfc3339_micros(message.time()).to_string();
        assert_eq!(time.trim_end_matches('Z').replace('T', " "), sent["data"]["occurred_on"]);
    }

    let dead = vhost.drain(&dead_letters).await;
    let [dead] = dead.as_slice() else { panic!("{dead:?}") };
    assert_eq!(dead["headers"]["redelivery_count"], 3);
    assert_eq!(dead["headers"]["queue"], queue());
    let body: Value = serde_json::from_str(dead["body"].as_str().unwrap()).unwrap();
    assert_eq!(body, sent);
    vhost.delete().await;
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn an_unreadable_message_is_one_dead_letter() {
    let brokers = Brokers::running();
    let vhost = Vhost::create(&brokers).await;
    lasting().topology().apply(&vhost.settings()).await.unwrap();
    let ours = Failing::start(&vhost, 3);
    let dead_letters = format!("dead_letter.{}", queue());
    let (url, key) = (vhost.url(), "acme.registration.1.event.user_created");
    for (index, body) in ["not json", "{\"data\": {}}", ""].into_iter().enumerate() {
        brokers.python("rabbit.py", &[&url, "publish", "acme.registration", key, body]).await;
        vhost.until_in(&dead_letters, index as u64 + 1).await;
    }
    assert!(ours.stop().await.is_empty());
    for empty in [queue(), format!("retry.{}", queue())] {
        vhost.until_in(&empty, 0).await;
    }
    let dead = vhost.drain(&dead_letters).await;
    let bodies: Vec<_> = dead.iter().map(|message| &message["body"]).collect();
    assert_eq!(bodies, ["not json", "{\"data\": {}}", ""]);
    assert_eq!(dead[0]["headers"]["redelivery_count"], json!(1));
    vhost.delete().await;
}

/// A message that petisco has tried before is tried as often as it said.
#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn attempts_of_petisco_count() {
    let brokers = Brokers::running();
    let vhost = Vhost::create(&brokers).await;
    lasting().topology().apply(&vhost.settings()).await.unwrap();
    // Killed while it holds the message, for it publishes a retry before it acknowledges: in between there are two.
    let mut theirs = vhost.petisco_consume(&["1000", "2", "hold"]).await;
    vhost.petisco(&["publish"]).await;
    for failed in [true, true, false] {
        assert_eq!(theirs.event("message").await["failed"], failed);
    }
    theirs.kill().await;
    let ours = Failing::start(&vhost, 5);
    let dead_letters = format!("dead_letter.{}", queue());
    vhost.until_in(&dead_letters, 1).await;
    let attempts: Vec<_> = ours.stop().await.iter().map(|call| call.attempt).collect();
    assert_eq!(attempts, [3, 4, 5]);
    assert_eq!(vhost.drain(&dead_letters).await[0]["headers"]["redelivery_count"], 5);
    vhost.delete().await;
}
