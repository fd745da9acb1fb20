//! `tower-outbox serve`, as a process that is killed.

use std::process::Stdio;
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;
use tonic::transport::Endpoint;
use tower_outbox::kubemq_wire::kubemq_client::KubemqClient;
use tower_outbox::kubemq_wire::{Empty, QueueMessage, ReceiveQueueMessagesRequest};

use super::downstream::Downstream;
use super::{Client, send};
use crate::peers::{Brokers, unique};

struct Process {
    child: Child,
    _out: Lines<BufReader<ChildStdout>>,
    address: String,
}

fn command(folder: &TempDir, address: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tower-outbox-cli"));
    command.args(["serve", "--kubemq", address, "--data"]).arg(folder.path().join("channels"));
    command.env_clear().kill_on_drop(true).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A server whose channels are in NATS.
fn in_nats(url: &str, prefix: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tower-outbox-cli"));
    command.args(["serve", "--kubemq", "127.0.0.1:0", "--nats", url, "--nats-prefix", prefix]);
    command.env_clear().kill_on_drop(true).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

impl Process {
    async fn start(folder: &TempDir) -> Self {
        Self::spawn(command(folder, "127.0.0.1:0")).await
    }

    async fn spawn(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = timeout(Duration::from_secs(20), out.next_line()).await.unwrap().unwrap().unwrap();
        let address = line.strip_prefix("listening for KubeMQ clients on ").unwrap().to_owned();
        Self { child, _out: out, address }
    }

    async fn client(&self) -> Client {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address)).unwrap();
        KubemqClient::new(endpoint.connect().await.unwrap())
    }
}

async fn received(client: &mut Client) -> Vec<QueueMessage> {
    let request = ReceiveQueueMessagesRequest {
        client_id: "c".to_owned(),
        channel: "q".to_owned(),
        max_number_of_messages: 100,
        ..Default::default()
    };
    client.receive_queue_messages(request).await.unwrap().into_inner().messages
}

#[tokio::test]
async fn held_messages_are_back_after_the_server_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Process::start(&folder).await;
    let mut client = server.client().await;
    send(&mut client, "q", &["0", "1", "2", "3"]).await;
    let mut stream = Downstream::open(&mut client).await;
    assert_eq!(stream.get(2).await.1.len(), 2);
    server.child.kill().await.unwrap();

    let server = Process::start(&folder).await;
    let messages = received(&mut server.client().await).await;
    let sequences: Vec<_> = messages.iter().map(|it| it.attributes.clone().unwrap().sequence).collect();
    assert_eq!(sequences, [1, 2, 3, 4]);
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn servers_share_their_channels_in_nats() {
    let (url, prefix) = (Brokers::running().get("NATS1").to_owned(), unique("serve"));
    let mut one = Process::spawn(in_nats(&url, &prefix)).await;
    let other = Process::spawn(in_nats(&url, &prefix)).await;
    send(&mut one.client().await, "q", &["0", "1"]).await;
    let mut client = other.client().await;
    let messages = received(&mut client).await;
    assert_eq!(messages.iter().map(|it| &it.body[..]).collect::<Vec<_>>(), [b"0", b"1"]);
    send(&mut one.client().await, "q", &["2"]).await;
    one.child.kill().await.unwrap();
    assert_eq!(received(&mut client).await.len(), 1);
    let streams = async_nats::jetstream::new(async_nats::connect(url).await.unwrap());
    for name in ["queue-q", "delayed", "names"] {
        streams.delete_stream(format!("{prefix}-{name}")).await.unwrap();
    }
}

#[tokio::test]
async fn serve_says_which_place_of_channels_is_wrong() {
    for (args, part) in [
        (&["--nats", "nats://127.0.0.1:1"][..], "no connection to a NATS server"),
        (&["--nats", "nats://127.0.0.1:1", "--nats-prefix", "a.b"], "PREFIX"),
        (&["--nats", "nats://127.0.0.1:1", "--data", "x"], "cannot be used with"),
        (&[], "--data"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tower-outbox-cli"));
        command.args(["serve", "--kubemq", "127.0.0.1:0"]).args(args).env_clear();
        let output = command.output().await.unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && said.contains(part), "{args:?}: {said}");
    }
}

#[cfg(unix)]
#[tokio::test]
async fn sigterm_stops_a_server_with_open_streams() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Process::start(&folder).await;
    let mut client = server.client().await;
    assert_eq!(client.ping(Empty {}).await.unwrap().into_inner().version, "2.4.0");
    send(&mut client, "q", &["0"]).await;
    let mut stream = Downstream::open(&mut client).await;
    assert_eq!(stream.get(1).await.1.len(), 1);
    let id = server.child.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().await.unwrap().success());
    let status = timeout(Duration::from_secs(10), server.child.wait()).await.unwrap().unwrap();
    assert!(status.success());
}

#[tokio::test]
async fn serve_says_why_it_does_not_listen() {
    let folder = tempfile::tempdir().unwrap();
    for (address, part) in [("0.0.0.0:0", "TOKEN_KEY"), ("192.0.2.1:1", "cannot listen on 192.0.2.1:1")] {
        let output = command(&folder, address).output().await.unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(part), "{said}");
        // A reader who waits for the line must not take it for a server.
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "");
    }
    let mut command = command(&folder, "127.0.0.1:0");
    let output = command.env("METRICS_ADDRESS", "192.0.2.1:1").output().await.unwrap();
    assert_eq!((output.status.code(), String::from_utf8(output.stdout).unwrap()), (Some(1), String::new()));
}

#[tokio::test]
async fn metrics_have_an_address_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = command(&folder, "127.0.0.1:0").env("METRICS_ADDRESS", "127.0.0.1:0").spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut line =
        async || timeout(Duration::from_secs(20), out.next_line()).await.unwrap().unwrap().unwrap();
    let metrics = line().await.strip_prefix("serving /metrics on ").unwrap().to_owned();
    assert!(line().await.starts_with("listening for KubeMQ clients on "));
    assert!(super::metrics(&metrics, "").await.contains("tower_outbox_kubemq_streams 0\n"));
}
