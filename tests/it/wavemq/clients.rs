//! Unmodified pyxbos as the client.

use std::net::SocketAddr;
use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;
use tower_outbox::routing::{Namespace, Subject};

use super::sites::{STUCK, Site, Wire, message, namespace, until};
use crate::peers::{Brokers, root};

/// A process with pyxbos.
struct Pyxbos {
    _child: Child,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Pyxbos {
    async fn start(address: SocketAddr, namespace: &Namespace) -> Self {
        let mut command = Command::new(Brokers::running().get("PYXBOS_PYTHON"));
        command
            .arg(root().join("tests/peers/wavemq_peer.py"))
            .arg(address.to_string())
            .arg(namespace.to_string());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut pyxbos = Self { stdin: child.stdin.take().unwrap(), lines, _child: child };
        assert_eq!(pyxbos.line().await, "ready");
        pyxbos
    }

    async fn line(&mut self) -> Value {
        let line = timeout(STUCK, self.lines.next_line()).await.expect("pyxbos answers");
        serde_json::from_str(&line.unwrap().expect("pyxbos runs")).unwrap()
    }

    async fn send(&mut self, command: &Value) {
        self.stdin.write_all(format!("{command}\n").as_bytes()).await.unwrap();
    }

    async fn ask(&mut self, command: Value) -> Value {
        self.send(&command).await;
        self.line().await
    }
}

fn uris(messages: &Value) -> Vec<&str> {
    let messages = messages.as_array().unwrap_or_else(|| panic!("{messages}"));
    messages.iter().map(|message| message["uri"].as_str().unwrap_or_else(|| panic!("{messages:?}"))).collect()
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn pyxbos_publishes_subscribes_queries_and_asks_the_status() {
    let folder = tempfile::tempdir().unwrap();
    let top = Site::designated(&folder.path().join("top"), None).await;
    let wire = Wire::to(top.peers).await;
    let site = Site::site(&folder.path().join("site"), wire.address, "").await;
    let mut pyxbos = Pyxbos::start(site.clients, &namespace()).await;
    let mut other = Pyxbos::start(site.clients, &namespace()).await;
    until("the link is up", async || pyxbos.ask(json!(["status"])).await == json!([1, 1])).await;
    other.send(&json!(["subscribe", "a/+", "x", 3, "jo"])).await;
    until("it subscribes", async || site.router.counts().subscribers > 1).await;
    for uri in ["a/b", "a/c", "b", "a/d"] {
        assert_eq!(pyxbos.ask(json!(["publish", uri, ["one", "two"], true, "jo"])).await, Value::Null);
    }
    let received = other.line().await;
    assert_eq!(uris(&received), ["a/b", "a/c", "a/d"]);
    assert_eq!(received[0]["payload"], json!([["text", "one"], ["text", "two"]]));
    assert_eq!((&received[0]["drops"], &received[0]["timestamps"]), (&json!([0]), &json!(1)));
    assert_eq!(received[0]["origin"], **site.router.id());
    // The last values are at the designated router.
    let all = tower_outbox::routing::Pattern::all();
    until("they are there", async || top.router.query(&namespace(), &all).next().await.len() == 4).await;
    assert_eq!(uris(&pyxbos.ask(json!(["query", "a/*", "jo"])).await), ["a/b", "a/c", "a/d"]);
    wire.cut();
    until("the link is down", async || pyxbos.ask(json!(["status"])).await == json!([1, 0])).await;
    assert_eq!(pyxbos.ask(json!(["query", "a/*", "jo"])).await[0], 705);
    // The same identifier has the same queue.
    for n in 0..3 {
        site.router.publish(message("a/b", &n.to_string())).await.unwrap();
    }
    let received = pyxbos.ask(json!(["subscribe", "a/+", "x", 3, "jo"])).await;
    let last = received.as_array().unwrap().last().unwrap();
    assert_eq!(last["uri"], "a/b");
    site.stop().await;
    top.stop().await;
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_process_of_pyxbos_receives_its_own_messages() {
    let folder = tempfile::tempdir().unwrap();
    let site = Site::start(&folder.path().join("site"), None, "").await;
    let entity = folder.path().join("entity");
    std::fs::write(&entity, "any bytes").unwrap();
    let mut pyxbos = Pyxbos::start(site.clients, &namespace()).await;
    assert_eq!(pyxbos.ask(json!(["process", entity])).await, "xbos/sensor");
    site.stop().await;
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn without_a_grant_a_client_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let grants = folder.path().join("grants.toml");
    let grant = |entity: &str, uri: &str, verbs: &str, expires: &str| {
        let (subject, namespace) = (Subject::of(entity.as_bytes()), namespace());
        format!(
            "[[GRANT]]\nSUBJECT = \"{subject}\"\nVERBS = {verbs}\nNAMESPACE = \"{namespace}\"\nURI = \"{uri}\"\nEXPIRES = \"{expires}\"\n"
        )
    };
    let all = r#"["publish", "subscribe", "query"]"#;
    let text =
        grant("jo", "a/*", all, "2100-01-01T00:00:00Z") + &grant("late", "*", all, "2020-01-01T00:00:00Z");
    std::fs::write(&grants, &text).unwrap();
    let site =
        Site::start(&folder.path().join("site"), None, &format!("[Security]\nGrants = [{grants:?}]")).await;
    let mut pyxbos = Pyxbos::start(site.clients, &namespace()).await;
    assert_eq!(pyxbos.ask(json!(["publish", "a/b", ["x"], true, "jo"])).await, Value::Null);
    assert_eq!(uris(&pyxbos.ask(json!(["query", "a/*", "jo"])).await), ["a/b"]);
    for (entity, uri, reason) in [
        ("bo", "a/b", "no grant"),
        ("", "a/b", "without credentials"),
        ("jo", "b", "no grant"),
        ("late", "a", "expired"),
    ] {
        let refused = pyxbos.ask(json!(["publish", uri, ["x"], false, entity])).await;
        assert_eq!(refused[0], "PERMISSION_DENIED");
        assert!(refused[1].as_str().unwrap().contains(reason), "{refused}");
        let refused = pyxbos.ask(json!(["subscribe", uri, "x", 1, entity])).await;
        assert_eq!(refused[0], 702);
        assert_eq!(pyxbos.ask(json!(["query", uri, entity])).await[0], "PERMISSION_DENIED");
    }
    let other = Namespace::named("other").unwrap();
    let mut stranger = Pyxbos::start(site.clients, &other).await;
    assert_eq!(stranger.ask(json!(["publish", "a/b", ["x"], false, "jo"])).await[0], "PERMISSION_DENIED");
    // The file is read again.
    std::fs::write(&grants, text + &grant("bo", "a/b", all, "2100-01-01T00:00:00Z")).unwrap();
    until("bo may publish", async || {
        pyxbos.ask(json!(["publish", "a/b", ["x"], false, "bo"])).await.is_null()
    })
    .await;
    site.stop().await;
}
