//! The bus of a process, and its log.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tower_outbox::amqp091::{Amqp091, Amqp091Settings};
use tower_outbox::{Message, Messenger, Unsent, async_trait};

use crate::peers::Brokers;

/// The topic of messages that a process holds until it is told to release them.
pub const HOLD: &str = "hold";

/// The header with the process that sent a message through RabbitMQ.
pub const SENDER: &str = "sender";

/// Writes down what happens, a line at once: only the process dies, not the machine.
pub struct Notes(File);

impl Notes {
    pub fn open(path: &Path) -> Self {
        Self(OpenOptions::new().create(true).append(true).open(path).unwrap())
    }

    pub fn write(&self, line: &str) {
        (&self.0).write_all(format!("{line}\n").as_bytes()).unwrap();
    }
}

pub type Bus = Arc<dyn Messenger>;

/// The bus of a process: the real RabbitMQ with this before its topics, or a file.
pub fn open(folder: &Path, process: u64, topics: Option<&str>) -> Bus {
    match topics {
        None => {
            Arc::new(Written { process, folder: folder.to_owned(), sent: Notes::open(&folder.join("sent")) })
        }
        Some(topics) => {
            let mut settings = Amqp091Settings::new([Brokers::running().get("RABBIT1_AMQP")]);
            settings.broker.topic_prefix = Some(topics.to_owned());
            Arc::new(Rabbit { process, messenger: Amqp091::new(&settings).unwrap() })
        }
    }
}

/// It takes its time, and what it confirms is written down first.
struct Written {
    process: u64,
    folder: PathBuf,
    sent: Notes,
}

#[async_trait]
impl Messenger for Written {
    async fn send(&self, batch: Vec<Message>) -> Result<(), Unsent> {
        for (n, message) in batch.iter().enumerate() {
            if n % 16 == 0 {
                sleep(Duration::from_millis(1)).await;
            }
            let body = std::str::from_utf8(message.body()).unwrap();
            if message.topic().as_str() == HOLD {
                File::create(self.folder.join(format!("held-{}", self.process))).unwrap();
                let release = self.folder.join(format!("release-{}", self.process));
                while !release.exists() {
                    sleep(Duration::from_millis(5)).await;
                }
            }
            self.sent.write(&format!("{body} {}", self.process));
        }
        Ok(())
    }
}

/// There each message says who sent it.
struct Rabbit {
    process: u64,
    messenger: Amqp091,
}

#[async_trait]
impl Messenger for Rabbit {
    async fn send(&self, batch: Vec<Message>) -> Result<(), Unsent> {
        let sender = self.process as i64;
        self.messenger
            .send(batch.into_iter().map(|message| message.with_header(SENDER, sender)).collect())
            .await
    }
}
