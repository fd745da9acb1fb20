//! Shared by the benches over a broker: RabbitMQ and a queue on it, requests through the layer, rivals in Python.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use axum::routing::post;
use tokio::task::JoinSet;
use tower::ServiceExt;
use tower_outbox::layer::OnSendFailure;
use tower_outbox::{EnqueueError, Message, MessageQueue, MessagingLayer, Messenger};

use super::{Event, Spread, root};

/// How many requests, or confirms of a rival, are awaited at once.
pub(crate) const WINDOW: usize = 256;
pub(crate) const ROUNDS: usize = 9;
pub(crate) const TURN: Duration = Duration::from_secs(2);

/// The result of a turn: messages confirmed, in how many seconds.
pub(crate) type Turn = (u64, f64);

/// RabbitMQ, and the durable queue all send to.
pub(crate) struct Broker {
    pub(crate) url: String,
    /// Of this process alone: what another run sends, or a queue it left behind, does not disturb this one.
    pub(crate) topic: &'static str,
    python: String,
    queue: String,
}

impl Broker {
    /// The broker that the command line names, or the one of `scripts/brokers`; with a queue for a topic that begins with
    /// `topic`.
    pub(crate) fn find(topic: &str) -> Self {
        let topic = &*format!("{topic}.{}", std::process::id()).leak();
        let known = std::fs::read_to_string(root("target/brokers/env")).unwrap_or_default();
        let known: HashMap<_, _> = known.lines().filter_map(|line| line.split_once('=')).collect();
        let url = std::env::args().skip(1).find(|argument| argument.contains("://"));
        let url = url.or_else(|| known.get("RABBIT1_AMQP").map(|url| (*url).to_owned()));
        let python =
            std::env::var("PYTHON").ok().or_else(|| known.get("PYTHON").map(|&path| path.to_owned()));
        let broker = Self {
            url: url.expect("no broker: run scripts/brokers up, or name one"),
            python: python.unwrap_or_else(|| "python3".to_owned()),
            queue: topic.replace('.', "-"),
            topic,
        };
        broker.declare();
        broker
    }

    pub(crate) fn queue(&self) -> &str {
        &self.queue
    }

    /// The queue must hold what was confirmed, and `more` that a rival sent before its time began; then it is made
    /// anew.
    pub(crate) fn check_and_empty(&self, (messages, _): Turn, more: u64) {
        assert_eq!(
            self.rabbit(&["count", &self.queue]),
            (messages + more).to_string(),
            "confirmed, but not in the queue"
        );
        self.delete();
        self.declare();
    }

    fn delete(&self) {
        self.rabbit(&["delete", &self.queue]);
    }

    /// A script of `benches/rivals`, which gets the URL and these arguments and prints how long it took.
    pub(crate) fn rival(&self, script: &str, messages: u64, arguments: &[&str]) -> Turn {
        let script = root("benches/rivals").join(script);
        let report = self.python(script, &[&[self.url.as_str()], arguments].concat());
        let report: serde_json::Value = serde_json::from_str(&report).expect("it prints JSON");
        (messages, report["seconds"].as_f64().expect("it says how long it took"))
    }

    fn declare(&self) {
        self.rabbit(&["declare", &self.queue, self.topic]);
    }

    fn rabbit(&self, arguments: &[&str]) -> String {
        self.python(root("tests/peers/rabbit.py"), &[&[self.url.as_str()], arguments].concat())
    }

    fn python(&self, script: impl AsRef<Path>, arguments: &[&str]) -> String {
        let output = Command::new(&self.python).arg(script.as_ref()).args(arguments).output();
        let output = output.expect("python is there");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

/// Also when a turn panics.
impl Drop for Broker {
    fn drop(&mut self) {
        let mut command = Command::new(&self.python);
        let _ = command.arg(root("tests/peers/rabbit.py")).args([&*self.url, "delete", &self.queue]).status();
    }
}

/// Batches of [`WINDOW`] events, two at a time: one is made while the other is on its way.
pub(crate) async fn batches(messenger: &Arc<impl Messenger>, topic: &'static str) -> Turn {
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..2 {
        let messenger = Arc::clone(messenger);
        tasks.spawn(async move {
            let (event, mut confirmed) = (Event::new(), 0);
            while begun.elapsed() < TURN {
                let batch = (0..WINDOW).map(|_| Message::json(topic, &event).expect("the topic is one"));
                messenger.send(batch.collect()).await.expect("the broker confirms");
                confirmed += WINDOW as u64;
            }
            confirmed
        });
    }
    let confirmed = tasks.join_all().await.into_iter().sum();
    (confirmed, begun.elapsed().as_secs_f64())
}

/// An app whose every request sends one event and answers 201 once it is confirmed.
pub(crate) fn app(messenger: impl Messenger, topic: &'static str) -> Router {
    let event = Arc::new(Event::new());
    let handler = async move |queue: MessageQueue| -> Result<StatusCode, EnqueueError> {
        queue.enqueue(Message::json(topic, &*event)?)?;
        Ok(StatusCode::CREATED)
    };
    let layer = MessagingLayer::new(messenger).with_on_send_failure(OnSendFailure::Reject);
    Router::new().route("/", post(handler)).layer(layer).with_state(())
}

/// [`WINDOW`] requests at a time, in process.
pub(crate) async fn requests(app: &Router) -> Turn {
    let stop = Arc::new(AtomicBool::new(false));
    let begun = Instant::now();
    let tasks: Vec<_> = (0..WINDOW)
        .map(|_| {
            let (app, stop) = (app.clone(), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut confirmed = 0;
                while !stop.load(Ordering::Relaxed) {
                    let request = Request::post("/").body(Body::empty()).expect("it is a request");
                    let response = app.clone().oneshot(request).await.expect("it is infallible");
                    assert_eq!(response.status(), StatusCode::CREATED);
                    confirmed += 1;
                }
                confirmed
            })
        })
        .collect();
    tokio::time::sleep(TURN).await;
    stop.store(true, Ordering::Relaxed);
    let mut confirmed = 0;
    for task in tasks {
        confirmed += task.await.expect("it does not panic");
    }
    (confirmed, begun.elapsed().as_secs_f64())
}

/// Messages a second of each contestant, one figure a round; the first is ours.
pub(crate) struct Rates<const N: usize> {
    who: [&'static str; N],
    rates: [Vec<f64>; N],
}

impl<const N: usize> Rates<N> {
    pub(crate) fn new(who: [&'static str; N]) -> Self {
        Self { who, rates: [const { Vec::new() }; N] }
    }

    /// The order in a round: each begins in turn.
    pub(crate) fn order(&self, round: usize) -> impl Iterator<Item = usize> + use<N> {
        (0..N).map(move |turn| (turn + round) % N)
    }

    pub(crate) fn push(&mut self, who: usize, (messages, seconds): Turn) {
        self.rates[who].push(messages as f64 / seconds);
    }

    /// The rates, and ours over each rival's of the same round with what it should be.
    pub(crate) fn print(&self, targets: [&str; N]) {
        for (who, rates) in self.who.into_iter().zip(&self.rates) {
            println!("  {who:<6} {:>8.0} confirmed messages/s", Spread::of(rates.clone()));
        }
        for ((rival, rates_of_rival), target) in self.who.into_iter().zip(&self.rates).zip(targets).skip(1) {
            let ratios = self.rates[0].iter().zip(rates_of_rival).map(|(ours, rival)| ours / rival);
            println!("  {} / {rival:<6} {:.2}   {target}", self.who[0], Spread::of(ratios.collect()));
        }
    }
}
