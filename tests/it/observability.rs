//! Metrics as Prometheus shows them, the board and the alerts on them, quiet logs, and probes.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::routing::post;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::sync::watch;
use tower::ServiceExt;
use tower_outbox::testing::Memory;
use tower_outbox::{Bus, Consumer, Failure, Health, Message, MessageQueue, Messenger, Settings};
use tracing::Level;

use crate::peers::{Brokers, root};
use crate::support::messengers::{Act, Bus as State, down, scripted};
use crate::support::stores::until;
use crate::support::{app, enqueue_a, get, logs, text};

/// The recorder of an app, as the guide sets it up.
fn recorder() -> PrometheusHandle {
    let buckets = [0.001, 0.01, 0.1, 1.0, 10.0];
    PrometheusBuilder::new().set_buckets(&buckets).unwrap().install_recorder().unwrap()
}

fn settings(keys: &str, folder: &Path) -> Settings {
    let path = folder.join("outbox").display().to_string();
    toml::from_str(&format!("{keys}\n[OUTBOX]\nPATH = {path:?}\n[CONSUMERS.orders]\n")).unwrap()
}

async fn place(queue: MessageQueue) -> StatusCode {
    queue.enqueue(Message::json("order.placed", &7).unwrap()).unwrap();
    StatusCode::CREATED
}

/// An app that stores, sends, handles and fails; what Prometheus reads of it.
async fn worked() -> String {
    let metrics = recorder();
    let folder = tempfile::tempdir().unwrap();
    let settings = settings("BACKEND = \"memory\"\nDELIVERY = \"durable\"", folder.path());
    let bus = Bus::start(&settings).await.unwrap();
    let handlers = Router::new().route("/order/placed", post(async || {}));
    tokio::spawn(bus.consumer("orders", handlers).unwrap().into_future());
    let app = Router::new().route("/orders", post(place)).layer(bus.layer());
    app.oneshot(Request::post("/orders").body(Body::empty()).unwrap()).await.unwrap();
    let failing = settings_of("BACKEND = \"failing\"");
    let failing = Bus::builder(&failing)
        .with_backend("failing", |_| Ok::<_, Infallible>(down(Failure::transient("down"))))
        .start()
        .await
        .unwrap();
    get(self::app(failing.layer(), enqueue_a)).await;
    until("it is handled, and measured", async || {
        let text = metrics.render();
        text.contains("outcome=\"ack\"} 1") && text.contains("tower_outbox_oldest_seconds")
    })
    .await;
    metrics.render()
}

fn settings_of(text: &str) -> Settings {
    toml::from_str(text).unwrap()
}

/// The labels, with their values, of each series by its metric.
fn series(text: &str) -> BTreeMap<String, Vec<BTreeMap<String, String>>> {
    let mut all: BTreeMap<String, Vec<_>> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let end = line.find(['{', ' ']).unwrap();
        let labels = line[end..]
            .strip_prefix('{')
            .and_then(|rest| rest.rsplit_once('}'))
            .map_or("", |(in_it, _)| in_it);
        all.entry(line[..end].to_owned()).or_default().push(labels_of(labels));
    }
    all
}

/// `a="b",c="d"`, also with the other operators of a selector.
fn labels_of(text: &str) -> BTreeMap<String, String> {
    let pairs = text.split("\",").filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (label, value) = pair.split_once("=").unwrap();
            let is_pattern = value.starts_with('~');
            let value = value.trim_start_matches('~').trim_matches('"');
            (label.trim().to_owned(), if is_pattern { String::new() } else { value.to_owned() })
        })
        .collect()
}

/// A metric with the labels of its selector.
type Selected = (String, BTreeMap<String, String>);

/// The metrics of an expression with their selectors, and the labels it groups by.
fn parsed(expression: &str) -> (Vec<Selected>, BTreeSet<String>) {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let (mut metrics, mut groups) = (Vec::new(), BTreeSet::new());
    let mut rest = expression;
    while let Some(start) = rest.find(is_word) {
        rest = &rest[start..];
        let word = &rest[..rest.find(|c| !is_word(c)).unwrap_or(rest.len())];
        rest = &rest[word.len()..];
        if word.starts_with("tower_outbox_") || word.starts_with("messaging_") {
            let selector = rest.strip_prefix('{').and_then(|rest| rest.split_once('}'));
            metrics.push((word.to_owned(), labels_of(selector.map_or("", |(selector, _)| selector))));
            rest = selector.map_or(rest, |(_, rest)| rest);
        } else if word == "by" || word == "on" {
            let (labels, after) = rest.trim_start().strip_prefix('(').unwrap().split_once(')').unwrap();
            groups.extend(labels.split(',').map(|label| label.trim().to_owned()));
            rest = after;
        }
    }
    (metrics, groups)
}

/// Labels that Prometheus adds, or the exporter to buckets.
const ADDED: [&str; 3] = ["job", "instance", "le"];

fn check(expression: &str, series: &BTreeMap<String, Vec<BTreeMap<String, String>>>) {
    let (metrics, groups) = parsed(expression);
    assert!(!metrics.is_empty(), "{expression} names no metric");
    let mut known = BTreeSet::new();
    for (metric, selector) in metrics {
        let found = series.get(&metric).unwrap_or_else(|| panic!("{metric} of {expression}"));
        known.extend(found.iter().flat_map(|labels| labels.keys().cloned()));
        let wanted: Vec<_> = selector.iter().filter(|(label, _)| !ADDED.contains(&label.as_str())).collect();
        let fits = |labels: &&BTreeMap<String, String>| {
            wanted
                .iter()
                .all(|(label, value)| labels.get(*label).is_some_and(|of| value.is_empty() || of == *value))
        };
        assert!(found.iter().find(fits).is_some(), "{selector:?} of {metric}: {found:?}");
    }
    let missing: Vec<_> =
        groups.iter().filter(|label| !ADDED.contains(&label.as_str()) && !known.contains(*label)).collect();
    assert!(missing.is_empty(), "{missing:?} of {expression}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_board_and_the_alerts_query_metrics_that_exist() {
    let text = worked().await;
    let series = series(&text);
    let board: Value =
        serde_json::from_str(&std::fs::read_to_string(root().join("docs/tower-outbox.json")).unwrap())
            .unwrap();
    let panels = board["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    let queries: Vec<_> = targets.map(|target| target["expr"].as_str().unwrap().to_owned()).collect();
    let alerts = std::fs::read_to_string(root().join("docs/alerts.yaml")).unwrap();
    let alerts: Vec<_> =
        alerts.lines().filter_map(|line| Some(line.trim().strip_prefix("expr: ")?.to_owned())).collect();
    assert!(queries.len() > 15 && alerts.len() > 8);
    queries.iter().chain(&alerts).for_each(|expression| check(expression, &series));

    // Each metric has a HELP line, and counters are zero before their first count.
    for line in [
        "# HELP tower_outbox_dead_total",
        "tower_outbox_dead_total{stage=\"send\"} 0",
        "tower_outbox_unsent_total{failure=\"lost\"} 0",
        "tower_outbox_handled_total{consumer=\"orders\",outcome=\"dead\"} 0",
        "tower_outbox_turned_away_total 0",
        "tower_outbox_sent_total{backend=\"memory\"} 1",
        "tower_outbox_stored_total 1",
        "tower_outbox_relay_up 1",
        "tower_outbox_breaker_open 0",
        "tower_outbox_consumer_up{consumer=\"orders\"} 1",
        "tower_outbox_send_seconds_count{stage=\"stored\"} 1",
        "tower_outbox_send_seconds_count{stage=\"confirmed\"} 1",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
    let described: BTreeSet<_> =
        text.lines().filter_map(|line| line.strip_prefix("# HELP ")?.split(' ').next()).collect();
    for metric in series.keys().filter(|metric| !metric.starts_with("tower_outbox_channels")) {
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| metric.strip_suffix(end));
        assert!(described.contains(base.unwrap_or(metric)), "{metric} has no HELP");
    }
}

#[test]
fn a_query_of_what_does_not_exist_is_found() {
    let series = series("a_metric 1\ntower_outbox_x{stage=\"send\"} 1\n");
    check("sum by (stage) (rate(tower_outbox_x{job=~\"$job\",stage=\"send\"}[5m]))", &series);
    for odd in ["tower_outbox_y", "tower_outbox_x{stage=\"other\"}", "sum by (topic) (tower_outbox_x)"] {
        assert!(std::panic::catch_unwind(|| check(odd, &series)).is_err(), "{odd}");
    }
}

#[tokio::test(start_paused = true)]
async fn failing_handlers_are_one_line_a_minute_with_a_count() {
    let log = logs::listen();
    let bus = Memory::new();
    for n in 0..50 {
        bus.send(vec![Message::json("a.b", &n).unwrap()]).await.unwrap();
    }
    let service = Router::new().route("/a/b", post(async || StatusCode::SERVICE_UNAVAILABLE));
    let consumer = Consumer::new(bus, service).with_name("orders");
    let signal = tokio::time::sleep(Duration::from_secs(50));
    consumer.with_graceful_shutdown(signal, Duration::from_secs(1)).await;
    let lines = log.find(Level::WARN, &["id", "topic", "attempt", "consumer", "reason"]);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!((lines[0].get("consumer"), lines[0].get("times")), ("orders", "1"));
    assert!(log.find(Level::DEBUG, &["id", "topic", "attempt", "consumer", "reason"]).len() > 50);
}

#[tokio::test]
async fn a_broker_that_is_down_is_a_change_of_state_and_no_line_for_each_attempt() {
    let log = logs::listen();
    let folder = tempfile::tempdir().unwrap();
    let backend = scripted(|_| Act::Confirm);
    backend.set(State::Down);
    let settings = settings("BACKEND = \"own\"\nDELIVERY = \"durable\"", folder.path());
    let own = backend.clone();
    let bus =
        Bus::builder(&settings).with_backend("own", |_| Ok::<_, Infallible>(own)).start().await.unwrap();
    get(app(bus.layer(), enqueue_a)).await;
    until("it is probed some times", async || backend.asked().len() > 5).await;
    backend.set(State::Up);
    until("it is sent", async || !backend.confirmed().is_empty()).await;
    let lines = log.find(Level::WARN, &[]);
    assert!(lines.len() <= 3, "{lines:#?}");
}

#[tokio::test]
async fn a_password_to_this_machine_is_no_warning() {
    let log = logs::listen();
    for (url, warned) in [
        ("amqp://app:secret@127.0.0.1:1", 0),
        ("amqp://app:secret@localhost:1", 0),
        ("amqp://app:secret@[::1]:1", 0),
        ("amqp://app:secret@broker.invalid:1", 1),
    ] {
        let bus = Bus::start(&settings_of(&format!("BACKEND = \"amqp091\"\nURLS = {url:?}"))).await.unwrap();
        let found = log.alarms(url.split('@').nth(1).unwrap());
        let about = found.iter().filter(|event| event.text.contains("unencrypted")).count();
        assert_eq!(about, warned, "{url}: {found:?}");
        let _ = bus.shutdown(Duration::ZERO).await;
    }
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn an_app_that_returns_early_ends_without_a_panic_or_error() {
    let brokers = Brokers::running();
    for url in [brokers.get("RABBIT1_AMQP"), "amqp://127.0.0.1:1"] {
        for wait in ["0"; 30].into_iter().chain(["5", "20", "300", "1500"]) {
            let output = early_exit(url, wait, &[]).output().await.unwrap();
            let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
            let said = text(&output.stdout) + &text(&output.stderr);
            assert!(said.contains("the app gives up"), "{said}");
            // Its consumer is dropped with it, which is an ERROR of this crate.
            let is_odd = |line: &&str| {
                line.contains("panicked")
                    || line.contains(" ERROR ") && !line.contains("a consumer was dropped")
            };
            let odd: Vec<_> = said.lines().filter(is_odd).collect();
            assert!(odd.is_empty(), "{url} after {wait} ms: {odd:#?}");
        }
    }
}

/// A way to a broker whose connections can be cut.
async fn cut_off(broker: &str) -> (String, watch::Sender<()>) {
    let broker = broker.trim_start_matches("amqp://").to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("amqp://{}", listener.local_addr().unwrap());
    let (cut, cuts) = watch::channel(());
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut cuts = cuts.clone();
            cuts.mark_unchanged();
            let mut server = TcpStream::connect(&broker).await.unwrap();
            tokio::spawn(async move {
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                    _ = cuts.changed() => {}
                }
            });
        }
    });
    (url, cut)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_fault_that_is_handled_is_no_error_of_a_library() {
    let brokers = Brokers::running();
    let (url, cut) = cut_off(brokers.get("RABBIT1_AMQP")).await;
    for exchange in ["amq.topic", "there-is-no-such-exchange"] {
        let mut app = early_exit(&url, "2500", &["--to", exchange]).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(app.stdout.take().unwrap()).lines();
        let (mut said, mut is_cut) = (Vec::new(), false);
        while let Some(line) = lines.next_line().await.unwrap() {
            if !is_cut && line.contains("failover: connected ") {
                is_cut = true;
                cut.send(()).unwrap();
            }
            said.push(line);
        }
        app.wait().await.unwrap();
        let warned = said.iter().any(|line| line.contains("WARN tower_outbox") && line.contains("IO error"));
        assert!(is_cut && warned, "{said:#?}");
        let odd: Vec<_> = said.iter().filter(|line| line.contains("lapin")).collect();
        assert!(odd.is_empty(), "{exchange}: {odd:#?}");
    }
}

/// An app whose log lines of INFO and above go to its output.
fn early_exit(url: &str, wait: &str, more: &[&str]) -> Command {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    let mut command = Command::new(path.join("examples/early_exit"));
    command.args([url, wait]).args(more).env("NO_COLOR", "1").kill_on_drop(true);
    command
}

async fn probe(bus: &Bus, path: &str) -> (StatusCode, String) {
    let response = bus.probes().oneshot(Request::get(path).body(Body::empty()).unwrap()).await.unwrap();
    (response.status(), text(response).await)
}

#[tokio::test]
async fn a_broker_that_is_down_restarts_no_pod() {
    let folder = tempfile::tempdir().unwrap();
    for (delivery, ready) in [("direct", 503), ("background", 200), ("durable", 200)] {
        let keys = format!("BACKEND = \"amqp091\"\nURLS = \"amqp://127.0.0.1:1\"\nDELIVERY = {delivery:?}");
        let bus = Bus::start(&settings_of(&format!(
            "{keys}\n[OUTBOX]\nPATH = {:?}",
            folder.path().join("outbox").display().to_string()
        )))
        .await
        .unwrap();
        assert!(!bus.health().await.is_up(), "{delivery}");
        assert_eq!(probe(&bus, "/live").await.0, StatusCode::OK, "{delivery}");
        assert_eq!(probe(&bus, "/ready").await.0.as_u16(), ready, "{delivery}");
        let _ = bus.shutdown(Duration::from_secs(1)).await;
        assert_eq!(probe(&bus, "/live").await.0, StatusCode::OK, "{delivery}");
        let (status, reason) = probe(&bus, "/ready").await;
        assert!(status == StatusCode::SERVICE_UNAVAILABLE && reason.contains("shuts down"), "{reason}");
    }
}

#[tokio::test]
async fn a_full_outbox_is_not_ready_and_alive() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().display().to_string();
    let text =
        format!("BACKEND = \"own\"\nDELIVERY = \"durable\"\n[OUTBOX]\nPATH = {path:?}\nMAX_MESSAGES = 1");
    let settings = settings_of(&text);
    let bus = Bus::builder(&settings)
        .with_backend("own", |_| Ok::<_, Infallible>(down(Failure::transient("down"))))
        .start()
        .await
        .unwrap();
    assert_eq!(probe(&bus, "/ready").await.0, StatusCode::OK);
    get(app(bus.layer(), enqueue_a)).await;
    assert_eq!(probe(&bus, "/ready").await.0, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(probe(&bus, "/live").await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_consumer_that_was_dropped_is_not_alive() {
    let bus = Bus::start(&settings_of("BACKEND = \"memory\"\n[CONSUMERS.orders]")).await.unwrap();
    let consumer = tokio::spawn(bus.consumer("orders", Router::new()).unwrap().into_future());
    tokio::task::yield_now().await;
    assert_eq!(bus.liveness(), Health::Up);
    consumer.abort();
    let _ = consumer.await;
    let (status, reason) = probe(&bus, "/live").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(reason.contains("`orders`"), "{reason}");
}
