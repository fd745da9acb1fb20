//! A Tansu of its own, which a test kills, freezes and starts.

use std::net::TcpListener;
use std::process::Stdio;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use crate::peers::Brokers;

pub struct Server {
    binary: String,
    pub port: u16,
    advertised: String,
    arguments: Vec<String>,
    process: Option<Child>,
}

impl Server {
    /// Starts it, and waits until it answers.
    pub async fn start() -> Self {
        Self::with(&[]).await
    }

    pub async fn with(arguments: &[&str]) -> Self {
        let port = free_port();
        Self::advertised(port, format!("127.0.0.1:{port}"), arguments).await
    }

    /// Clients are told to connect to another port.
    pub async fn advertised(port: u16, advertised: String, arguments: &[&str]) -> Self {
        let binary = Brokers::running().get("KAFKA_SERVER").to_owned();
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let mut server = Self { binary, port, advertised, arguments, process: None };
        server.again().await;
        server
    }

    pub fn url(&self) -> String {
        format!("kafka://127.0.0.1:{}", self.port)
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Starts it on its port, without data.
    pub async fn again(&mut self) {
        let address = format!("tcp://127.0.0.1:{}", self.port);
        let child = Command::new(&self.binary)
            .args(["broker", "--storage-engine", "memory://tansu/", "--listener-url", &address])
            .args(["--advertised-listener-url", &format!("tcp://{}", self.advertised)])
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn();
        self.process = Some(child.unwrap());
        let ready = async {
            while TcpStream::connect(("127.0.0.1", self.port)).await.is_err() {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(30), ready).await.expect("Tansu does not start");
    }

    pub async fn kill(&mut self) {
        self.process.take().unwrap().kill().await.unwrap();
    }

    pub async fn freeze(&self) {
        self.signal("-STOP").await;
    }

    pub async fn thaw(&self) {
        self.signal("-CONT").await;
    }

    async fn signal(&self, signal: &str) {
        let pid = self.process.as_ref().unwrap().id().unwrap().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().await.unwrap().success());
    }
}

/// A port that stays free while the server is down.
pub fn free_port() -> u16 {
    loop {
        let port = rand::random_range(20_000..32_000);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
