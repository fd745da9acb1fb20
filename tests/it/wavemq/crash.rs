//! Two routers as processes, which are killed at random under load.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::RngExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};
use tonic::transport::Endpoint;
use tower_outbox::wavemq_wire as wire;
use tower_outbox::wavemq_wire::wavemq_client::WavemqClient;

use super::sites::{STUCK, Wire, namespace, until};

pub(super) type Client = WavemqClient<tonic::transport::Channel>;

/// Many rounds publish more than queues hold by default.
pub(super) const UNLIMITED: &str = "subscriptionQueueMaxLength = 10000000\nsubscriptionQueueMaxSize = 10000\ntrunkingQueueMaxLength = 10000000\n";
/// The number of publishers, each with a URI of its own.
const PUBLISHERS: u32 = 4;

pub(super) struct Process {
    file: PathBuf,
    pub(super) clients: SocketAddr,
    /// The folder of its messages.
    pub(super) queue: PathBuf,
    pub(super) environment: Vec<(&'static str, PathBuf)>,
    child: Option<Child>,
}

pub(super) fn free_port() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

impl Process {
    /// `keys` are further keys of the queues, `routing` are further tables.
    pub(super) fn new(folder: &Path, peers: SocketAddr, keys: &str, routing: &str) -> Self {
        std::fs::create_dir_all(folder).unwrap();
        let (file, clients, queue) = (folder.join("wavemq.toml"), free_port(), folder.join("queue"));
        let text = format!(
            "[QueueConfig]\nqueueDataStore = {queue:?}\n{keys}\n[LocalConfig]\nlistenAddr = \"{clients}\"\n[PeerConfig]\nlistenAddr = \"{peers}\"\n{routing}"
        );
        std::fs::write(&file, text).unwrap();
        Self { file, clients, queue, environment: Vec::new(), child: None }
    }

    pub(super) async fn start(&mut self) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tower-outbox-cli"));
        command.arg("serve").arg("--wavemq").arg(&self.file).env("RUST_LOG", "error").kill_on_drop(true);
        self.child = Some(command.envs(self.environment.iter().cloned()).spawn().unwrap());
        let connected = async {
            while tokio::net::TcpStream::connect(self.clients).await.is_err() {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(STUCK, connected).await.expect("the router starts");
    }

    pub(super) async fn kill(&mut self) {
        self.child.take().unwrap().kill().await.unwrap();
    }
}

pub(super) fn client(address: SocketAddr) -> Client {
    WavemqClient::new(Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy())
}

/// Publishes numbers until it is stopped; returns those that were confirmed. A number is tried once.
pub(super) async fn publish(address: SocketAddr, publisher: u32, stop: Arc<AtomicBool>) -> Vec<u32> {
    let (mut client, mut confirmed, mut number) = (client(address), Vec::new(), 0);
    while !stop.load(Ordering::SeqCst) {
        match publish_one(&mut client, publisher, number).await {
            true => confirmed.push(number),
            false => sleep(Duration::from_millis(5)).await,
        }
        number += 1;
    }
    confirmed
}

/// Publishes a number; returns whether it was confirmed.
pub(super) async fn publish_one(client: &mut Client, publisher: u32, number: u32) -> bool {
    let object = wire::PayloadObject { schema: "n".to_owned(), content: number.to_string().into() };
    let params = wire::PublishParams {
        namespace: namespace().as_bytes().to_vec().into(),
        uri: format!("load/{publisher}"),
        content: vec![object],
        ..wire::PublishParams::default()
    };
    let answer = timeout(STUCK, client.publish(params)).await.expect("the router answers");
    answer.is_ok_and(|answer| answer.get_ref().error.is_none())
}

/// Makes the queue of [`receive`], and waits until its subscriber has gone: messages in a connection that ends are lost.
pub(super) async fn make_queue(address: SocketAddr) {
    assert_eq!(receive(address, &[]).await, 0);
    until("the subscriber has gone", async || {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET /metrics HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).await.unwrap();
        assert!(response.contains("\nqueue_number 1\n"), "{response}");
        response.contains("\nactive_subscriptions 0\n")
    })
    .await;
}

/// Receives at the designated router until all of these came; checks their order, and returns how many came.
pub(super) async fn receive(address: SocketAddr, confirmed: &[Vec<u32>]) -> usize {
    let mut client = client(address);
    let params = wire::SubscribeParams {
        namespace: namespace().as_bytes().to_vec().into(),
        uri: "load/*".to_owned(),
        identifier: "all".to_owned(),
        expiry: 3_600,
        ..wire::SubscribeParams::default()
    };
    let mut messages = client.subscribe(params).await.unwrap().into_inner();
    // For each publisher the numbers that came, in the order of their first arrival.
    let (mut came, mut count) = (BTreeMap::<String, Vec<u32>>::new(), 0);
    let is_complete = |came: &BTreeMap<String, Vec<u32>>| {
        confirmed.iter().enumerate().all(|(publisher, numbers)| {
            let last = came.get(&format!("load/{publisher}")).and_then(|came| came.last());
            numbers.last().is_none_or(|wanted| last.is_some_and(|last| last >= wanted))
        })
    };
    while !is_complete(&came) {
        let item =
            timeout(STUCK, messages.message()).await.expect("all confirmed messages come").unwrap().unwrap();
        let tbs = item.message.unwrap_or_else(|| panic!("{:?}", item.error)).tbs.unwrap();
        let number: u32 = std::str::from_utf8(&tbs.payload[0].content).unwrap().parse().unwrap();
        let came = came.entry(tbs.uri).or_default();
        // After a cut numbers come again, from an earlier one on.
        if came.last().is_none_or(|last| number > *last) {
            came.push(number);
        }
        count += 1;
    }
    for (publisher, numbers) in confirmed.iter().enumerate() {
        let came = came.remove(&format!("load/{publisher}")).unwrap_or_default();
        let lost: Vec<_> = numbers.iter().filter(|number| came.binary_search(number).is_err()).collect();
        assert!(lost.is_empty(), "publisher {publisher}: {lost:?} are lost");
    }
    count
}

/// `TOWER_OUTBOX_ROUNDS` sets the number of rounds; by default there are 4.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_routers_lose_nothing_that_was_confirmed() {
    let rounds: u32 = std::env::var("TOWER_OUTBOX_ROUNDS").map_or(4, |rounds| rounds.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let (peers, names) = (free_port(), folder.path().join("namespace"));
    std::fs::write(&names, namespace().to_string()).unwrap();
    let designated = format!("[RoutingConfig]\nDesignatedNamespaceFiles = [{names:?}]");
    let mut top = Process::new(&folder.path().join("top"), peers, UNLIMITED, &designated);
    let wire = Wire::to(peers).await;
    let uplink =
        format!("[[RoutingConfig.Router]]\nNamespace = \"{}\"\nAddress = \"{}\"", namespace(), wire.address);
    let mut site = Process::new(&folder.path().join("site"), free_port(), UNLIMITED, &uplink);
    top.start().await;
    // The queue of the subscriber is there before the first message.
    make_queue(top.clients).await;
    site.start().await;
    let stop = Arc::new(AtomicBool::new(false));
    let publishers = (0..PUBLISHERS).map(|n| tokio::spawn(publish(site.clients, n, Arc::clone(&stop))));
    let publishers: Vec<_> = publishers.collect();
    for round in 0..rounds {
        if round % 2 == 0 {
            wire.cut();
        }
        let wait = Duration::from_millis(rand::rng().random_range(20..400));
        sleep(wait).await;
        let killed = if rand::rng().random() { &mut top } else { &mut site };
        killed.kill().await;
        killed.start().await;
        wire.restore();
        sleep(wait).await;
    }
    stop.store(true, Ordering::SeqCst);
    let mut confirmed = Vec::new();
    for publisher in publishers {
        confirmed.push(publisher.await.unwrap());
    }
    let published: usize = confirmed.iter().map(Vec::len).sum();
    let came = receive(top.clients, &confirmed).await;
    println!("{rounds} rounds, {published} confirmed, {came} came");
    assert!(published > 0);
}
