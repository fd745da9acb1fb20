//! The demo, as a process that is killed.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// Longer than its own deadlines.
const LONG: Duration = Duration::from_secs(60);

/// Where it is, and what it reads and writes.
pub struct Home {
    pub settings: PathBuf,
    /// The lines of every process of it.
    pub log: PathBuf,
}

impl Home {
    /// With a settings file of this table `MESSAGE_BUS`.
    pub fn new(folder: &Path, message_bus: &str) -> Self {
        let home = Self { settings: folder.join("settings.toml"), log: folder.join("app.log") };
        std::fs::write(&home.settings, format!("[MESSAGE_BUS]\n{message_bus}")).unwrap();
        home
    }

    fn log(&self) -> File {
        OpenOptions::new().create(true).append(true).open(&self.log).unwrap()
    }
}

pub struct App {
    child: Child,
    /// How long the log was when it began.
    log: (PathBuf, usize),
}

impl App {
    /// Starts it and does not wait; `title` is written to the log before.
    pub fn start(home: &Home, title: &str) -> Self {
        // target/debug/deps/it-.. stands beside target/debug/examples.
        let mut path = std::env::current_exe().unwrap();
        path.pop();
        path.pop();
        let path = path.join("examples/demo");
        assert!(path.exists(), "{} is built by `cargo build --examples`, and by cargo test", path.display());
        let mut log = home.log();
        writeln!(log, "==> {title}").unwrap();
        let written = log.metadata().unwrap().len() as usize;
        let mut command = Command::new(path);
        command.arg("--settings").arg(&home.settings).args(["--listen", "127.0.0.1:0"]).env("NO_COLOR", "1");
        if std::env::var_os("RUST_LOG").is_none() {
            // Nothing of the panics that are asked for.
            command.env("RUST_LOG", "warn,tower_http=off").env("RUST_BACKTRACE", "0");
        }
        let child = command.stdout(Stdio::piped()).stderr(log).kill_on_drop(true).spawn().unwrap();
        Self { child, log: (home.log.clone(), written) }
    }

    /// Waits until it listens.
    pub async fn address(&mut self) -> SocketAddr {
        let mut lines = BufReader::new(self.child.stdout.take().unwrap()).lines();
        let line = timeout(LONG, lines.next_line()).await.expect("it starts in time").unwrap();
        let line = line.unwrap_or_else(|| panic!("it ended: {}", self.said()));
        line.strip_prefix("listening on http://").unwrap_or_else(|| panic!("{line}")).parse().unwrap()
    }

    pub async fn kill(mut self) {
        self.child.kill().await.unwrap();
        let status = self.child.wait().await.unwrap();
        assert_eq!(status.signal(), Some(9), "it ended before it was killed, with {status}: {}", self.said());
    }

    /// Ends it in order; gives how many messages it left stored.
    pub async fn terminate(mut self) -> u64 {
        let pid = self.child.id().unwrap().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().await.unwrap().success());
        let status = timeout(LONG, self.child.wait()).await.expect("it ends in time").unwrap();
        let said = self.said();
        assert!(status.success(), "{status}: {said}");
        match said.split_once("demo: stored are ") {
            Some((_, rest)) => rest.split_once(' ').unwrap().0.parse().unwrap(),
            None => {
                assert!(said.contains("demo: nothing is left to send"), "{said}");
                0
            }
        }
    }

    fn said(&self) -> String {
        let (path, from) = &self.log;
        String::from_utf8_lossy(&std::fs::read(path).unwrap()[*from..]).into_owned()
    }
}
