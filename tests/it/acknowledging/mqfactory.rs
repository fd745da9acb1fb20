//! A Python peer that speaks as mqfactory does is the other side, over mosquitto. The faults that mqfactory itself has are tests
//! here.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::post;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::time::{sleep, timeout};
use tower_outbox::consumer::ConsumerHandle;
use tower_outbox::{Bus, Delivery, Message, Messenger, Settings};

use super::Handled;
use crate::peers::{Brokers, Peer, unique};
use crate::support::MINUTE;
use crate::support::stores::until;

/// Keys, and names that no other test has.
struct Place {
    brokers: Brokers,
    folder: TempDir,
    ours: String,
    theirs: String,
    /// The beginning of all topics.
    topics: String,
}

impl Place {
    async fn new(brokers: Brokers) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let keys = folder.path().join("keys");
        std::fs::create_dir(&keys).unwrap();
        let place =
            Self { folder, ours: unique("ours"), theirs: unique("theirs"), topics: unique("demo"), brokers };
        let keys = keys.to_str().unwrap();
        place.brokers.python("mqfactory_peer.py", &["keys", keys, &place.ours, &place.theirs]).await;
        place
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    /// The settings of our side: `keys` before its tables, whose names begin with `prefix`.
    fn settings(&self, keys: &str, prefix: &str) -> String {
        let (url, outbox, folder) =
            (self.brokers.get("MOSQUITTO1_MQTT"), self.path("outbox"), self.path("keys"));
        let Self { ours, topics, .. } = self;
        format!(
            "BACKEND = 'mqtt'\nURLS = '{url}'\nCLIENT_ID = '{ours}'\nDELIVERY = 'durable'\nACKNOWLEDGED = true\nACK_ADDRESS = '{ours}/ack'\n\
             {keys}\n[{prefix}SIGNING]\nFORMAT = 'mqfactory'\nORIGIN = '{ours}'\nKEY = '{folder}/{ours}.key'\nTRUSTED = '{folder}'\n\
             [{prefix}OUTBOX]\nPATH = '{outbox}'\n[{prefix}CONSUMERS.in]\nTOPICS = '{topics}/in'\n"
        )
    }

    /// Our side; `keys` are put before its tables.
    async fn bus(&self, keys: &str) -> Bus {
        Bus::start(&toml::from_str::<Settings>(&self.settings(keys, "")).unwrap()).await.unwrap()
    }

    /// The Python side, which handles `out`.
    async fn peer(&self, args: &[&str]) -> Peer {
        let (keys, key, out) = (
            self.path("keys"),
            self.path(&format!("keys/{}.key", self.theirs)),
            format!("{}/out", self.topics),
        );
        let named = ["peer", self.brokers.get("MOSQUITTO1_MQTT"), &self.theirs, "--handle", &out];
        let signing = ["--key", &key, "--origin", &self.theirs, "--trusted", &keys];
        let (peer, ready) =
            self.brokers.start("mqfactory_peer.py", &[&named[..], &signing, args].concat()).await;
        assert_eq!(ready["ready"], true);
        peer
    }

    /// The Python side without keys.
    async fn unsigned_peer(&self) -> Peer {
        let out = format!("{}/out", self.topics);
        let args = ["peer", self.brokers.get("MOSQUITTO1_MQTT"), &self.theirs, "--handle", &out];
        self.brokers.start("mqfactory_peer.py", &args).await.0
    }

    /// The Python side, which sends this script to `in`.
    async fn sending(&self, script: &str) -> Peer {
        let topic = format!("{}/in", self.topics);
        self.peer(&["--send", &topic, script]).await
    }

    fn message(&self, n: u32) -> Message {
        Message::json(format!("{}.out", self.topics), &serde_json::json!({"n": n})).unwrap()
    }
}

async fn until_empty(bus: &Bus) {
    until("all have left", || async { bus.outbox().unwrap().status().await.unwrap().counts.pending == 0 })
        .await;
}

/// Runs a consumer that has subscribed.
async fn consume(bus: &Bus, router: Router) -> ConsumerHandle {
    let consumer = bus.consumer("in", router).unwrap();
    let handle = consumer.handle();
    tokio::spawn(consumer.into_future());
    handle
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_python_peer_confirms_what_we_send() {
    let place = Place::new(Brokers::running()).await;
    let (mut peer, bus) = (place.peer(&[]).await, place.bus("").await);
    let sent: Vec<_> = (0..5).map(|n| place.message(n)).collect();
    bus.messenger().send(sent.clone()).await.unwrap();
    let mut arrived = Vec::new();
    for _ in 0..5 {
        let message = peer.event("message").await;
        assert_eq!(message["verified"], true, "{message}");
        assert_eq!(message["tags"]["ack"], format!("{}/ack", place.ours));
        arrived.push(message["id"].as_str().unwrap().to_owned());
    }
    until_empty(&bus).await;
    arrived.sort();
    let mut ids: Vec<_> = sent.iter().map(|message| message.id().to_string()).collect();
    ids.sort();
    assert_eq!(arrived, ids);
    assert!(bus.shutdown(MINUTE).await.is_clean());
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn after_five_seconds_it_is_sent_again_and_signed_anew() {
    let place = Place::new(Brokers::running()).await;
    let (mut peer, bus) = (place.peer(&["--swallow", "1"]).await, place.bus("").await);
    bus.messenger().send(vec![place.message(0)]).await.unwrap();
    let (first, second) = (peer.event("message").await, peer.event("message").await);
    let waited = second["at"].as_f64().unwrap() - first["at"].as_f64().unwrap();
    eprintln!("resent after {waited:.3} s");
    assert!((4.9..5.6).contains(&waited), "resent after {waited} s");
    assert_eq!(first["id"], second["id"]);
    assert_ne!(first["tags"]["signature"], second["tags"]["signature"]);
    assert_eq!(second["verified"], true);
    until_empty(&bus).await;
    assert!(bus.shutdown(MINUTE).await.is_clean());
}

/// Faults 1 and 5: one message that is not trusted, or no JSON, ends the work of mqfactory.
#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_good_message_after_bad_ones_is_handled_and_confirmed() {
    let place = Place::new(Brokers::running()).await;
    let bus = place.bus("").await;
    let handled = Handled::default();
    let handle = consume(&bus, handled.router(StatusCode::NO_CONTENT)).await;
    // Until it subscribes, only what is sent again arrives.
    let mut peer = place.sending(r#"["good"]"#).await;
    peer.event("confirmed").await;
    let before = handled.len();
    let mut peer =
        place.sending(r#"["tampered", "unsigned", "text", "tampered", "unsigned", "text", "good"]"#).await;
    let confirmed = peer.event("confirmed").await;
    assert_eq!((&confirmed["verified"], &confirmed["times"]), (&true.into(), &1.into()));
    let all = handled.all();
    assert_eq!(
        (all.len(), all[before].id().to_string()),
        (before + 1, confirmed["id"].as_str().unwrap().to_owned())
    );
    until("each bad one is a dead letter", || async { handle.status().dead == 6 }).await;
    assert!(bus.shutdown(MINUTE).await.is_clean());
}

/// Fault 2: mqfactory cannot retry a signed message, as validating removes its signature.
#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_failed_handler_is_retried_and_then_confirms() {
    let place = Place::new(Brokers::running()).await;
    let bus = place.bus("").await;
    let attempts = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&attempts);
    let router = Router::new().fallback(post(move || async move {
        match counted.fetch_add(1, Ordering::SeqCst) {
            0 | 1 => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::NO_CONTENT,
        }
    }));
    let handle = consume(&bus, router).await;
    let mut peer = place.sending(r#"["good"]"#).await;
    let confirmed = peer.event("confirmed").await;
    assert_eq!(confirmed["verified"], true);
    assert!(attempts.load(Ordering::SeqCst) >= 3);
    assert_eq!(handle.status().dead, 0);
    assert!(bus.shutdown(MINUTE).await.is_clean());
}

/// Fault 3: after a restart mqfactory has other ids for what it received.
#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_message_received_before_a_restart_is_confirmed_by_its_id() {
    let place = Place::new(Brokers::running()).await;
    let bus = place.bus("").await;
    let (begun, seen) = (Arc::new(AtomicU32::new(0)), Handled::default());
    let counted = Arc::clone(&begun);
    let hangs = Router::new().fallback(post(move |_: Delivery| async move {
        counted.fetch_add(1, Ordering::SeqCst);
        sleep(MINUTE).await;
    }));
    consume(&bus, hangs).await;
    let mut peer = place.sending(r#"["good"]"#).await;
    until("a handler runs", || async { begun.load(Ordering::SeqCst) > 0 }).await;
    let _ = bus.shutdown(Duration::from_millis(200)).await;
    let bus = place.bus("").await;
    consume(&bus, seen.router(StatusCode::NO_CONTENT)).await;
    let confirmed = peer.event("confirmed").await;
    assert_eq!(confirmed["id"], seen.all()[0].id().to_string());
    assert!(bus.shutdown(MINUTE).await.is_clean());
}

/// Fault 4: after a restart mqfactory sends what it stored under another id.
#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_message_stored_before_a_restart_keeps_its_id() {
    let place = Place::new(Brokers::running()).await;
    let (mut peer, bus) = (place.peer(&["--swallow", "1"]).await, place.bus("").await);
    bus.messenger().send(vec![place.message(0)]).await.unwrap();
    let first = peer.event("message").await;
    let left = bus.shutdown(Duration::from_millis(200)).await;
    assert_eq!(left.stored, 1);
    let bus = place.bus("").await;
    let second = peer.event("message").await;
    assert_eq!(first["id"], second["id"]);
    until_empty(&bus).await;
    assert!(bus.shutdown(MINUTE).await.is_clean());
}

/// Fault 6: mqfactory neither reconnects nor subscribes again.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn failover_of_mqfactory_survives_a_restart_of_the_broker() {
    let place = Place::new(Brokers::all_up().await).await;
    let (bus, handled) = (place.bus("").await, Handled::default());
    let mut peer = place.peer(&[]).await;
    consume(&bus, handled.router(StatusCode::NO_CONTENT)).await;
    bus.messenger().send(vec![place.message(0)]).await.unwrap();
    peer.event("message").await;
    until_empty(&bus).await;
    place.brokers.command("stop mosquitto1").await;
    bus.messenger().send(vec![place.message(1)]).await.unwrap();
    place.brokers.command("start mosquitto1").await;
    until_empty(&bus).await;
    let mut sender = place.sending(r#"["good"]"#).await;
    sender.event("confirmed").await;
    assert!(handled.len() >= 1);
    assert!(bus.shutdown(MINUTE).await.is_clean());
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn an_unsigned_confirmation_is_ignored() {
    let place = Place::new(Brokers::running()).await;
    let (mut peer, bus) = (place.unsigned_peer().await, place.bus("ACK_TIMEOUT = '200ms'").await);
    bus.messenger().send(vec![place.message(0)]).await.unwrap();
    for _ in 0..3 {
        peer.event("message").await;
    }
    assert_eq!(bus.outbox().unwrap().status().await.unwrap().counts.pending, 1);
    let _ = timeout(MINUTE, bus.shutdown(Duration::from_millis(200))).await;
    assert!(Path::new(&place.path("outbox")).exists());
}

/// The example plays with itself, and with the Python peer.
#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn the_demo_plays_with_itself_and_with_a_python_peer() {
    let place = Place::new(Brokers::running()).await;
    let (ours_in, out) = (format!("{}/in", place.topics), format!("{}/out", place.topics));
    for to in [&ours_in, &out] {
        let folder = tempfile::tempdir().unwrap();
        let settings = folder.path().join("settings.toml");
        std::fs::write(&settings, format!("[MESSAGE_BUS]\n{}", place.settings("", "MESSAGE_BUS."))).unwrap();
        let _peer = match to == &out {
            true => Some(place.peer(&["--back", &ours_in]).await),
            false => None,
        };
        // target/debug/deps/it-.. stands beside target/debug/examples.
        let mut path = std::env::current_exe().unwrap();
        path.pop();
        path.pop();
        let mut command = Command::new(path.join("examples/mqfactory"));
        command.arg(&settings).arg(to).arg("3").stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("cargo build --examples, and cargo test, build it");
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let plays = async {
            while let Some(line) = lines.next_line().await.unwrap() {
                if line.strip_suffix(" messages/s").is_some_and(|rate| rate.parse::<u64>().unwrap() > 3) {
                    return;
                }
            }
            panic!("it ended");
        };
        timeout(MINUTE, plays).await.unwrap();
        child.kill().await.unwrap();
    }
}
