//! A cluster of three servers of its own, whose nodes a test kills, freezes and starts.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use async_nats::jetstream::stream::ClusterInfo;
use async_nats::jetstream::{self, Context};
use futures_util::TryStreamExt;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use crate::peers::Brokers;

/// Longer than a cluster takes to start, or to choose a leader.
const LONG: Duration = Duration::from_secs(60);

pub struct Cluster {
    server: PathBuf,
    folder: TempDir,
    ports: Vec<u16>,
    nodes: Vec<Option<Child>>,
}

impl Cluster {
    /// Starts three nodes, and waits until JetStream has a leader.
    pub async fn start() -> Self {
        let server = PathBuf::from(Brokers::running().get("NATS_SERVER"));
        let listeners: Vec<_> = (0..6).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let ports: Vec<u16> =
            listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect();
        drop(listeners);
        let folder = tempfile::tempdir().unwrap();
        for node in 0..3 {
            let routes: Vec<_> =
                ports[3..].iter().map(|port| format!("\"nats-route://127.0.0.1:{port}\"")).collect();
            let config = format!(
                "server_name: n{node}\nlisten: \"127.0.0.1:{}\"\njetstream {{ store_dir: \"{}\" }}\n\
                 cluster {{ name: test, listen: \"127.0.0.1:{}\", routes: [{}] }}\n",
                ports[node],
                folder.path().join(format!("data{node}")).display(),
                ports[3 + node],
                routes.join(", ")
            );
            std::fs::write(folder.path().join(format!("n{node}.conf")), config).unwrap();
        }
        let mut cluster = Self { server, folder, ports, nodes: vec![None, None, None] };
        for node in 0..3 {
            cluster.start_node(node);
        }
        cluster.await_leader().await;
        cluster
    }

    /// The addresses of all nodes.
    pub fn urls(&self) -> Vec<String> {
        self.ports[..3].iter().map(|port| format!("nats://127.0.0.1:{port}")).collect()
    }

    pub fn start_node(&mut self, node: usize) {
        let log = std::fs::File::create(self.folder.path().join(format!("n{node}.log"))).unwrap();
        let child = Command::new(&self.server)
            .arg("--config")
            .arg(self.folder.path().join(format!("n{node}.conf")))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn();
        self.nodes[node] = Some(child.unwrap());
    }

    async fn signal(&self, node: usize, signal: &str) {
        let pid = self.nodes[node].as_ref().unwrap().id().unwrap().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().await.unwrap().success());
    }

    /// Kills a node, freezes it, or stops it in order.
    pub async fn hit(&mut self, node: usize, fault: Fault) {
        match fault {
            Fault::Kill => self.nodes[node].as_mut().unwrap().kill().await.unwrap(),
            Fault::Freeze => self.signal(node, "-STOP").await,
            Fault::Stop => {
                self.signal(node, "-TERM").await;
                let ended = self.nodes[node].as_mut().unwrap().wait();
                timeout(LONG, ended).await.expect("a node does not stop").unwrap();
            }
        }
    }

    /// Lets a node go on, and waits until the cluster has a leader that it knows.
    pub async fn mend(&mut self, node: usize, fault: Fault) {
        match fault {
            Fault::Freeze => self.signal(node, "-CONT").await,
            Fault::Kill | Fault::Stop => self.start_node(node),
        }
        self.await_node(node).await;
    }

    async fn await_leader(&self) {
        for node in 0..3 {
            self.await_node(node).await;
        }
    }

    async fn await_node(&self, node: usize) {
        let url = &self.urls()[node];
        let ready = async {
            loop {
                if let Ok(client) = async_nats::connect(url).await
                    && jetstream::new(client).query_account().await.is_ok()
                {
                    return;
                }
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(LONG, ready).await.expect("the cluster has no leader");
    }

    /// The node that leads a stream.
    pub async fn leader(&self, stream: &str) -> usize {
        self.led(async |context| context.get_stream(stream).await.ok()?.cached_info().cluster.clone()).await
    }

    /// The node that leads a consumer.
    pub async fn leader_of(&self, stream: &str, consumer: &str) -> usize {
        self.led(async |context| {
            let stream = context.get_stream(stream).await.ok()?;
            stream.consumer_info(consumer).await.ok()?.cluster
        })
        .await
    }

    async fn led(&self, ask: impl AsyncFn(Context) -> Option<ClusterInfo>) -> usize {
        let found = async {
            loop {
                for url in self.urls() {
                    let Ok(Ok(client)) = timeout(Duration::from_secs(1), async_nats::connect(url)).await
                    else {
                        continue;
                    };
                    if let Some(leader) = ask(jetstream::new(client)).await.and_then(|cluster| cluster.leader)
                    {
                        return leader.trim_start_matches('n').parse().unwrap();
                    }
                }
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(LONG, found).await.expect("there is no leader")
    }

    /// Waits until all replicas of a stream, and of its consumers, have what their leaders have.
    pub async fn await_replicas(&self, stream: &str) {
        let ready = async {
            loop {
                if let Ok(client) = async_nats::connect(self.urls()).await
                    && let Ok(stream) = jetstream::new(client).get_stream(stream).await
                    && is_whole(stream.cached_info().cluster.as_ref())
                    && let Ok(consumers) = stream.consumers().try_collect::<Vec<_>>().await
                    && consumers.iter().all(|consumer| is_whole(consumer.cluster.as_ref()))
                {
                    return;
                }
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(LONG, ready).await.expect("the replicas stay behind");
    }
}

fn is_whole(cluster: Option<&ClusterInfo>) -> bool {
    cluster.is_some_and(|cluster| {
        cluster.leader.is_some()
            && cluster.replicas.len() == 2
            && cluster.replicas.iter().all(|replica| replica.current && !replica.offline)
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Kill,
    Freeze,
    Stop,
}
