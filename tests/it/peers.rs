//! The real brokers, and the peers that tests talk to.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::timeout;

use tower_outbox::Message;
use tower_outbox::amqp10::Amqp10Settings;

/// The file that `scripts/brokers up` wrote.
pub struct Brokers(HashMap<String, String>);

impl Brokers {
    pub fn running() -> Self {
        let folder = std::env::var_os("TOWER_OUTBOX_BROKERS")
            .map_or_else(|| root().join("target/brokers"), PathBuf::from);
        let text = std::fs::read_to_string(folder.join("env"))
            .expect("the brokers run: scripts/brokers up, or run the whole with scripts/test");
        Self(
            text.lines()
                .filter_map(|line| line.split_once('='))
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .collect(),
        )
    }

    /// The same, after whatever an earlier test left killed or frozen was mended.
    pub async fn all_up() -> Self {
        Self::running().command("up").await;
        Self::running()
    }

    pub fn get(&self, key: &str) -> &str {
        self.0.get(key).unwrap_or_else(|| panic!("{key} in the file env of the brokers"))
    }

    /// Whether the RabbitMQ nodes are 4.x: `scripts/test --rabbit4`.
    pub fn rabbitmq_4(&self) -> bool {
        self.0.get("RABBIT").is_some_and(|version| version == "4")
    }

    /// Says in one line that a test is left out; `scripts/test` repeats these lines at its end.
    pub fn without_activemq(&self, test: &str) -> bool {
        let skipped = self.get("ACTIVEMQ") == "skipped";
        if skipped {
            println!("SKIPPED {test}: ActiveMQ's AMQP connector could not be built");
        }
        skipped
    }

    pub fn certificate(&self, name: &str) -> PathBuf {
        PathBuf::from(self.get("CERTS")).join(name)
    }

    /// Settings for brokers reached by mutual TLS with the good client certificate.
    pub fn mutual_tls(&self, keys: &[&str]) -> Amqp10Settings {
        let mut settings = Amqp10Settings::new(keys.iter().map(|key| self.get(key)));
        settings.broker.certificate = Some(self.certificate("client.pem"));
        settings.broker.cacert = Some(self.certificate("ca.pem"));
        settings
    }

    /// A command of `scripts/brokers`, such as `kill rabbit1`.
    pub async fn command(&self, command: &str) {
        let status =
            Command::new(root().join("scripts/brokers")).args(command.split(' ')).status().await.unwrap();
        assert!(status.success(), "scripts/brokers {command}");
    }

    /// Runs a peer to its end and gives the lines it wrote.
    pub async fn python(&self, script: &str, args: &[&str]) -> Vec<Value> {
        let output = self.peer_command(script, args).stdin(Stdio::null()).output().await.unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(
            output.status.success(),
            "{script} {args:?}: {text} {}",
            String::from_utf8_lossy(&output.stderr)
        );
        text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect()
    }

    fn peer_command(&self, script: &str, args: &[&str]) -> Command {
        let python = match script {
            _ if script.starts_with("petisco") => "PETISCO_PYTHON",
            "kubemq_readme.py" => "KUBEMQ2_PYTHON",
            "kubemq_sdk4.py" => "KUBEMQ4_PYTHON",
            _ => "PYTHON",
        };
        let mut command = Command::new(self.get(python));
        command.arg(root().join("tests/peers").join(script)).args(args).kill_on_drop(true);
        command
    }

    /// Starts a peer that goes on, and gives its first line.
    pub async fn start(&self, script: &str, args: &[&str]) -> (Peer, Value) {
        let mut command = self.peer_command(script, args);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap()).lines();
        let (sender, lines) = mpsc::unbounded_channel();
        // Always read, so that the peer never waits for us.
        tokio::spawn(async move {
            while let Ok(Some(line)) = stdout.next_line().await {
                let _ = sender.send(line);
            }
        });
        let mut peer = Peer { child, lines };
        let first = peer.line().await;
        (peer, first)
    }

    /// A Proton listener; it dies with the test.
    pub async fn proton(&self, args: &[&str]) -> (Peer, String) {
        let (peer, first) = self.start("proton_peer.py", args).await;
        (peer, format!("127.0.0.1:{}", first["port"]))
    }
}

/// A durable queue of one RabbitMQ node, bound to `amq.topic`.
pub struct RabbitQueue<'a> {
    brokers: &'a Brokers,
    url: String,
    name: String,
}

impl<'a> RabbitQueue<'a> {
    pub async fn declare(brokers: &'a Brokers, node: &str, key: &str) -> Self {
        Self::declare_with(brokers, node, &[key]).await
    }

    /// A queue that refuses what is over `limit` messages.
    pub async fn declare_limited(brokers: &'a Brokers, node: &str, key: &str, limit: u32) -> Self {
        Self::declare_with(brokers, node, &[key, &limit.to_string()]).await
    }

    async fn declare_with(brokers: &'a Brokers, node: &str, args: &[&str]) -> Self {
        let (url, name) = (brokers.get(node).to_owned(), unique("queue"));
        brokers.python("rabbit.py", &[&[&url, "declare", &name], args].concat()).await;
        Self { brokers, url, name }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address for AMQP 1.0.
    pub fn address(&self) -> String {
        format!("/amq/queue/{}", self.name)
    }

    /// How many messages are in it.
    pub async fn count(&self) -> u64 {
        self.brokers.python("rabbit.py", &[&self.url, "count", &self.name]).await[0].as_u64().unwrap()
    }

    /// The messages that came to it, and its end.
    pub async fn drain(self) -> Vec<Value> {
        let messages = self.brokers.python("rabbit.py", &[&self.url, "drain", &self.name]).await;
        self.brokers.python("rabbit.py", &[&self.url, "delete", &self.name]).await;
        messages
    }
}

/// A peer that runs beside the test.
pub struct Peer {
    child: Child,
    lines: mpsc::UnboundedReceiver<String>,
}

impl Peer {
    pub async fn line(&mut self) -> Value {
        let line =
            timeout(Duration::from_secs(20), self.lines.recv()).await.expect("a line of the peer in time");
        serde_json::from_str(&line.expect("the peer runs")).unwrap()
    }

    /// The next event of this kind.
    pub async fn event(&mut self, kind: &str) -> Value {
        loop {
            let line = self.line().await;
            if line["event"] == kind {
                return line;
            }
        }
    }

    pub async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }
}

/// The folder of the workspace.
pub fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// A name no other test has.
pub fn unique(name: &str) -> String {
    let id = Message::new("a", "").unwrap().id().simple().to_string();
    format!("{name}-{id}")
}

/// `count` messages of one topic with bodies `{"seq": 0}`, `{"seq": 1}`, ..
pub fn numbered(topic: &str, count: usize) -> Vec<Message> {
    let message = |seq| Message::json(topic.to_owned(), &serde_json::json!({"seq": seq})).unwrap();
    (0..count).map(message).collect()
}

/// The `seq` of received bodies.
pub fn sequence(messages: &[Value]) -> Vec<u64> {
    messages.iter().map(|message| seq_of(message).unwrap_or_else(|| panic!("a seq in {message}"))).collect()
}

fn seq_of(message: &Value) -> Option<u64> {
    let body: Value = match &message["body"] {
        Value::String(text) => serde_json::from_str(text).ok()?,
        body => body.clone(),
    };
    body["seq"].as_u64()
}
