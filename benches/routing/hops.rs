//! Three routers in a row, and a hop beside two mosquittos with a bridge.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rumqttc::mqttbytes::v5::Packet;
use rumqttc::{AsyncClient, Event as MqttEvent, MqttOptions, NetworkOptions, PublishOptions, QoS};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tonic::transport::{Channel, Endpoint};
use tower_outbox::routing::SiteRouter;
use tower_outbox::wavemq::{Wavemq, WavemqConfig};
use tower_outbox::wavemq_wire as wire;
use tower_outbox::wavemq_wire::wavemq_client::WavemqClient;

use crate::support::{Spread, disk, quick};
use crate::{message, namespace, subscribe};

const STUCK: Duration = Duration::from_secs(60);
/// Messages a second, and their length in bytes.
const RATE: u32 = 1_000;
const LEN: usize = 300;
const MOSQUITTO: &str = "/usr/sbin/mosquitto";

/// A router that serves.
struct Running {
    router: SiteRouter,
    clients: SocketAddr,
    peers: SocketAddr,
    stop: oneshot::Sender<()>,
    served: JoinHandle<()>,
}

impl Running {
    async fn start(folder: &Path, flush: u32, routing: &str) -> Self {
        std::fs::create_dir_all(folder).expect("it can be made");
        let file = folder.join("wavemq.toml");
        let queue = folder.join("queue");
        let text = format!(
            "[QueueConfig]\nqueueDataStore = {queue:?}\nflushInterval = {flush}\n[LocalConfig]\nlistenAddr = \"127.0.0.1:0\"\n\
             [PeerConfig]\nlistenAddr = \"127.0.0.1:0\"\n{routing}"
        );
        std::fs::write(&file, text).expect("it can be written");
        let config = WavemqConfig::read(&file).expect("it is one");
        let server = Wavemq::open(config).await.expect("it opens");
        let (clients, peers) = server.bind().await.expect("the ports are free");
        let (at, peers_at) =
            (clients.local_addr().expect("it has one"), peers.local_addr().expect("it has one"));
        let (stop, stopped) = oneshot::channel();
        let router = server.router().clone();
        let served = tokio::spawn(async move {
            let stopped = async {
                let _ = stopped.await;
            };
            server.serve_on(clients, peers, stopped).await.expect("it serves");
        });
        Self { router, clients: at, peers: peers_at, stop, served }
    }

    async fn designated(folder: &Path, flush: u32) -> Self {
        std::fs::create_dir_all(folder).expect("it can be made");
        let file = folder.join("namespace");
        std::fs::write(&file, namespace().to_string()).expect("it can be written");
        Self::start(folder, flush, &format!("[RoutingConfig]\nDesignatedNamespaceFiles = [{file:?}]")).await
    }

    async fn site(folder: &Path, flush: u32, top: &Self) -> Self {
        let uplink =
            format!("[[RoutingConfig.Router]]\nNamespace = \"{}\"\nAddress = \"{}\"", namespace(), top.peers);
        Self::start(folder, flush, &uplink).await
    }

    async fn stop(self) {
        let _ = self.stop.send(());
        let _ = self.served.await;
    }
}

/// Messages from a site over the designated router to another site, in one process.
pub(crate) async fn row() {
    let (messages, publishers) = if quick() { (2_000, 16) } else { (40_000, 64) };
    for flush in [0, 1] {
        let folder = disk::folder("routing");
        let top = Running::designated(&folder.path().join("top"), flush).await;
        let near = Running::site(&folder.path().join("near"), flush, &top).await;
        let far = Running::site(&folder.path().join("far"), flush, &top).await;
        let subscription = subscribe(&far.router, "a/*").await;
        while top.router.peer_patterns(&namespace()).is_empty() {
            sleep(Duration::from_millis(10)).await;
        }
        let begun = Instant::now();
        let tasks: Vec<_> = (0..publishers)
            .map(|publisher| {
                let router = near.router.clone();
                tokio::spawn(async move {
                    for _ in 0..messages / publishers {
                        let message = message(&format!("a/{publisher}"), LEN);
                        router.publish(message).await.expect("there is room");
                    }
                })
            })
            .collect();
        let mut came = 0;
        while came < messages / publishers * publishers {
            let leased =
                timeout(STUCK, subscription.lease(256)).await.expect("they come").expect("it is current");
            subscription.ack(&leased.iter().map(|leased| leased.seq).collect::<Vec<_>>());
            came += leased.len();
        }
        let seconds = begun.elapsed().as_secs_f64();
        for task in tasks {
            task.await.expect("it does not panic");
        }
        println!(
            "three routers in a row, {}: {:.0} messages/s from end to end",
            disk_of(flush),
            came as f64 / seconds
        );
        drop(subscription);
        for running in [near, far, top] {
            running.stop().await;
        }
    }
}

fn disk_of(flush: u32) -> &'static str {
    match flush {
        0 => "each message on the disk first",
        _ => "written once a second",
    }
}

/// The time of each message from its publisher at the site to its subscriber at the centre, at a fixed rate.
pub(crate) async fn hop() {
    let (rounds, time) = if quick() { (1, Duration::from_secs(2)) } else { (5, Duration::from_secs(10)) };
    println!("a hop at {RATE} messages/s of {LEN} bytes, {rounds} rounds of {time:?}; milliseconds");
    let mut results: Vec<(&str, Vec<f64>, Vec<f64>)> = Vec::new();
    for _ in 0..rounds {
        for (name, flush) in [
            ("ours, each on the disk first", Some(0)),
            ("ours, written once a second", Some(1)),
            ("mosquitto with a bridge", None),
        ] {
            let mut times = match flush {
                Some(flush) => ours(flush, time).await,
                None if Path::new(MOSQUITTO).exists() => bridge(time).await,
                None => continue,
            };
            times.sort_by(f64::total_cmp);
            let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
            let (median, late) = (at(0.5), at(0.99));
            match results.iter_mut().find(|(known, ..)| *known == name) {
                Some((_, medians, lates)) => {
                    medians.push(median);
                    lates.push(late);
                }
                None => results.push((name, vec![median], vec![late])),
            }
        }
    }
    for (name, medians, lates) in results {
        println!("  {name:<30} median {:>7.2}   99% {:>7.2}", Spread::of(medians), Spread::of(lates));
    }
    println!("  mosquitto keeps its queues in memory, and writes them to the disk from time to time");
}

/// Calls `send` with the time since `epoch` in nanoseconds, at the rate.
async fn at_rate(time: Duration, epoch: Instant, send: impl Fn(String)) -> u32 {
    let mut ticks = interval(Duration::from_secs(1) / RATE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut sent = 0;
    while epoch.elapsed() < time {
        ticks.tick().await;
        send(epoch.elapsed().as_nanos().to_string());
        sent += 1;
    }
    sent
}

/// Returns the milliseconds since the time that a content begins with.
fn since(epoch: Instant, content: &[u8]) -> f64 {
    let text = std::str::from_utf8(content).unwrap_or_default();
    let sent: u64 = text.split(' ').next().and_then(|sent| sent.parse().ok()).expect("it has a time");
    (epoch.elapsed().as_nanos() as f64 - sent as f64) / 1e6
}

fn padded(time: &str) -> String {
    format!("{time} {}", "x".repeat(LEN.saturating_sub(time.len() + 1)))
}

fn client(address: SocketAddr) -> WavemqClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("it is a URL");
    WavemqClient::new(endpoint.tcp_nodelay(true).connect_lazy())
}

async fn ours(flush: u32, time: Duration) -> Vec<f64> {
    let folder = disk::folder("routing");
    let top = Running::designated(&folder.path().join("top"), flush).await;
    let near = Running::site(&folder.path().join("near"), flush, &top).await;
    let params = wire::SubscribeParams {
        namespace: namespace().as_bytes().to_vec().into(),
        uri: "a/*".to_owned(),
        identifier: "bench".to_owned(),
        expiry: 3_600,
        ..wire::SubscribeParams::default()
    };
    let mut subscriber = client(top.clients).subscribe(params).await.expect("it is there").into_inner();
    while top.router.counts().subscribers == 0 {
        sleep(Duration::from_millis(10)).await;
    }
    let publisher = client(near.clients);
    let epoch = Instant::now();
    let sending = at_rate(time, epoch, |sent| {
        let mut publisher = publisher.clone();
        tokio::spawn(async move {
            let object = wire::PayloadObject { schema: "n".to_owned(), content: padded(&sent).into() };
            let params = wire::PublishParams {
                namespace: namespace().as_bytes().to_vec().into(),
                uri: "a/b".to_owned(),
                content: vec![object],
                ..wire::PublishParams::default()
            };
            publisher.publish(params).await.expect("it is taken");
        });
    });
    let (mut times, mut sent) = (Vec::new(), None);
    let mut sending = std::pin::pin!(sending);
    while sent.is_none_or(|sent| times.len() < sent as usize) {
        tokio::select! {
            count = &mut sending, if sent.is_none() => sent = Some(count),
            item = timeout(STUCK, subscriber.message()) => {
                let item = item.expect("they come").expect("it goes on").expect("it goes on");
                let tbs = item.message.and_then(|message| message.tbs).expect("it is a message");
                times.push(since(epoch, &tbs.payload[0].content));
            }
        }
    }
    drop(subscriber);
    near.stop().await;
    top.stop().await;
    times
}

/// A mosquitto in a folder of its own.
struct Mosquitto {
    child: Child,
    port: u16,
}

impl Mosquitto {
    async fn start(folder: &Path, bridge: &str) -> Self {
        std::fs::create_dir_all(folder).expect("it can be made");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let port = listener.local_addr().expect("it has one").port();
        drop(listener);
        let file = folder.join("mosquitto.conf");
        let text = format!(
            "user root\nallow_anonymous true\npersistence true\npersistence_location {}/\nmax_inflight_messages 2000\n\
             max_queued_messages 100000\nset_tcp_nodelay true\nlog_dest none\nlistener {port} 127.0.0.1\n{bridge}",
            folder.display()
        );
        std::fs::write(&file, text).expect("it can be written");
        let mut command = Command::new(MOSQUITTO);
        command.arg("-c").arg(file).stdout(Stdio::null()).stderr(Stdio::null());
        let running = Self { child: command.spawn().expect("it starts"), port };
        let listens = async {
            while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(STUCK, listens).await.expect("mosquitto listens");
        running
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn mqtt(port: u16, id: &str) -> (AsyncClient, mpsc::UnboundedReceiver<bytes::Bytes>) {
    let mut options = MqttOptions::new(id, ("127.0.0.1".to_owned(), port));
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    options.set_network_options(network).set_outgoing_inflight_upper_limit(2_000);
    let (client, mut events) = AsyncClient::builder(options).unbounded().build();
    let (sender, receiver) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok(event) = events.poll().await {
            if let MqttEvent::Incoming(Packet::Publish(publish)) = event
                && sender.send(publish.payload).is_err()
            {
                return;
            }
        }
    });
    (client, receiver)
}

async fn bridge(time: Duration) -> Vec<f64> {
    let folder = disk::folder("bridge");
    let top = Mosquitto::start(&folder.path().join("top"), "").await;
    let bridge = format!(
        "connection top\naddress 127.0.0.1:{}\nbridge_protocol_version mqttv50\ncleansession false\ntopic a/# out 1\nrestart_timeout 1\n",
        top.port
    );
    let near = Mosquitto::start(&folder.path().join("near"), &bridge).await;
    let (at_top, mut came) = mqtt(top.port, "bench-top").await;
    let subscribed = at_top.subscribe_tracked("a/#", QoS::AtLeastOnce).await.expect("the client runs");
    subscribed.wait_completion_async().await.expect("the broker agrees");
    let (publisher, _own) = mqtt(near.port, "bench-near").await;
    // The bridge is up when a message passes.
    let epoch = Instant::now();
    let publish = |content: String| {
        let publisher = publisher.clone();
        tokio::spawn(async move {
            let published = publisher.publish("a/b", padded(&content), PublishOptions::at_least_once()).await;
            published.expect("the client runs");
        });
    };
    loop {
        publish("0".to_owned());
        if timeout(Duration::from_millis(200), came.recv()).await.is_ok() {
            break;
        }
        assert!(epoch.elapsed() < STUCK, "the bridge does not connect");
    }
    while timeout(Duration::from_millis(300), came.recv()).await.is_ok() {}
    let epoch = Instant::now();
    let sending = at_rate(time, epoch, publish);
    let (mut times, mut sent) = (Vec::new(), None);
    let mut sending = std::pin::pin!(sending);
    while sent.is_none_or(|sent| times.len() < sent as usize) {
        tokio::select! {
            count = &mut sending, if sent.is_none() => sent = Some(count),
            content = timeout(STUCK, came.recv()) => {
                times.push(since(epoch, &content.expect("they come").expect("the client runs")));
            }
        }
    }
    times
}
