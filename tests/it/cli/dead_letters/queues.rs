//! Dead letters in queues of channels, and of KubeMQ.

use std::any::Any;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::timeout;
use tower_outbox::channels::Channels;
use tower_outbox::kubemq_client::{Kubemq, KubemqSettings, KubemqSource, KubemqSubscription};
use tower_outbox::source::Source;
use tower_outbox::{Message, Messenger};

use crate::cli::{Run, command, tool};
use crate::kubemq_client::face::Face;
use crate::kubemq_client::imitation::Imitation;

const LONG: Duration = Duration::from_secs(20);
/// Long enough to show that nothing comes.
const SHORT: Duration = Duration::from_millis(500);

/// A place with the queues `orders` and `orders.dead`.
struct Place {
    folder: TempDir,
    /// The folder of channels, or the server.
    at: Result<PathBuf, KubemqSettings>,
    keys: String,
    _kept: Box<dyn Any>,
}

impl Place {
    fn channels() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("channels");
        let keys = format!("BACKEND = \"channels\"\nPATH = {:?}", path.display().to_string());
        Self { folder, at: Ok(path), keys, _kept: Box::new(()) }
    }

    fn kubemq(url: &str, kept: impl Any) -> Self {
        let keys = format!("BACKEND = \"kubemq\"\nURLS = {url:?}");
        let settings = KubemqSettings::new([url]).with_channel("orders");
        Self { folder: tempfile::tempdir().unwrap(), at: Err(settings), keys, _kept: Box::new(kept) }
    }

    async fn all() -> Vec<Self> {
        let (face, imitation) = (Face::start().await, Imitation::start().await);
        vec![Self::channels(), Self::kubemq(&face.url(), face), Self::kubemq(&imitation.url(), imitation)]
    }

    /// Makes dead letters of these messages by a consumer.
    async fn give_up(&self, messages: &[(&str, u32)]) {
        let message = |(topic, n): &(&str, u32)| Message::json((*topic).to_owned(), n).unwrap();
        let batch: Vec<_> = messages.iter().map(message).collect();
        match &self.at {
            Ok(folder) => {
                let channels = Channels::open(folder).await.unwrap();
                let orders = channels.queue("orders").unwrap();
                orders.send(batch).await.unwrap();
                reject(&orders.clone(), messages.len()).await;
                channels.close(LONG).await;
            }
            Err(settings) => {
                let messenger = Kubemq::new(settings).unwrap();
                messenger.send(batch).await.unwrap();
                let source = KubemqSource::new(settings, &KubemqSubscription::new("orders")).unwrap();
                reject(&source, messages.len()).await;
                source.close(LONG).await;
                messenger.close(LONG).await;
            }
        }
    }

    /// The bodies in a queue, which is empty then. Each message is at its first attempt.
    async fn drain(&self, queue: &str) -> Vec<u32> {
        let channels = match &self.at {
            Ok(folder) => Some(Channels::open(folder).await.unwrap()),
            Err(_) => None,
        };
        let source: Arc<dyn Source> = match (&channels, &self.at) {
            (Some(channels), _) => Arc::new(channels.queue(queue).unwrap().clone()),
            (None, Err(settings)) => {
                Arc::new(KubemqSource::new(settings, &KubemqSubscription::new(queue)).unwrap())
            }
            _ => unreachable!(),
        };
        let mut bodies = Vec::new();
        let mut patience = Duration::from_secs(3);
        while let Ok(received) = timeout(patience, source.receive(1)).await {
            for unsettled in received.unwrap() {
                let delivery = unsettled.view().unwrap();
                assert_eq!(delivery.attempt(), 1);
                if queue == "orders" {
                    assert!(delivery.failures().is_empty());
                    assert!(delivery.message().header("tower-outbox-queue").is_none());
                }
                bodies.push(serde_json::from_slice(delivery.message().body()).unwrap());
                unsettled.ack().await.unwrap();
            }
            patience = SHORT;
        }
        source.close(LONG).await;
        if let Some(channels) = channels {
            channels.close(LONG).await;
        }
        bodies
    }

    fn args<'a>(&self, settings: &'a str, command: &'a str, args: &[&'a str]) -> Vec<&'a str> {
        let text =
            format!("[MESSAGE_BUS]\n{}\n[MESSAGE_BUS.CONSUMERS.orders]\nCHANNEL = \"orders\"\n", self.keys);
        std::fs::write(settings, text).unwrap();
        [&["--settings", settings, "dead-letters", command, "--queue", "orders.dead"][..], args].concat()
    }

    fn settings(&self) -> String {
        self.folder.path().join("settings.toml").display().to_string()
    }

    async fn run(&self, command: &str, args: &[&str]) -> Run {
        tool(&self.args(&self.settings(), command, args)).await
    }
}

async fn reject(source: &dyn Source, count: usize) {
    for _ in 0..count {
        for unsettled in timeout(LONG, source.receive(1)).await.unwrap().unwrap() {
            unsettled.reject("it said no").await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_a_queue_leaves_all_as_it_was() {
    for it in Place::all().await {
        it.give_up(&[("a.b", 0), ("a.c", 1), ("a.b", 2)]).await;
        for _ in 0..2 {
            let listed = it.run("list", &["--json"]).await.json_lines();
            let of = |field: &str| listed.iter().map(|line| line[field].clone()).collect::<Vec<_>>();
            assert_eq!(of("topic"), ["a.b", "a.c", "a.b"], "{}", it.keys);
            assert_eq!((of("explain"), of("attempts")), (vec!["it said no".into(); 3], vec![1.into(); 3]));
        }
        let last = it.run("list", &["--json", "--topic", "a.c"]).await.json_lines();
        let id = last[0]["id"].as_str().unwrap();
        let shown = it.run("show", &["--json", id]).await.json();
        assert_eq!((&shown["body"], &shown["failures"][0]["reason"]), (&1.into(), &"it said no".into()));
        assert_eq!(it.drain("orders.dead").await, [0, 1, 2], "{}", it.keys);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_go_back_to_their_queue_and_others_stay() {
    for it in Place::all().await {
        it.give_up(&[("a.b", 0), ("a.c", 1), ("a.b", 2), ("a.c", 3)]).await;
        let would = it.run("requeue", &["--topic", "a.b", "--dry-run"]).await.ok();
        assert_eq!(would, "would requeue 2 dead letters\n  2 to the queue \"orders\"\n", "{}", it.keys);
        let asked = it.run("requeue", &["--topic", "a.b"]).await;
        assert!(asked.code == 1 && asked.err.contains("add --yes"), "{asked:?}");
        assert_eq!(it.run("requeue", &["--topic", "a.b", "--yes"]).await.ok(), "requeued 2 dead letters\n");
        assert_eq!(it.run("drop", &["--limit", "1", "--yes"]).await.ok(), "dropped 1 dead letter\n");
        let exchange = ["--all", "--yes", "--exchange", "x", "--routing-key", "y"];
        it.run("requeue", &exchange).await.fails(1, "give --to");
        // Messages that come back in the meantime are not taken again.
        let itself = it.run("requeue", &["--all", "--yes", "--to", "orders.dead"]).await;
        assert_eq!(itself.ok(), "requeued 1 dead letter\n", "{}", it.keys);
        assert_eq!(it.drain("orders").await, [0, 2], "{}", it.keys);
        assert_eq!(it.drain("orders.dead").await, [3], "{}", it.keys);
    }
}

/// The folder of channels shows nobody how far a command is; its engine has tests of crashes.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_killed_on_a_queue_leaves_the_others_in_their_place() {
    for it in Place::all().await.split_off(1) {
        it.give_up(&[("a.b", 0), ("a.c", 1), ("a.b", 2), ("a.c", 3)]).await;
        let settings = it.settings();
        let args = it.args(&settings, "requeue", &["--topic", "a.c", "--yes", "--wait", "1h"]);
        let mut killed = command(&args).spawn().unwrap();
        // It has passed the first one, requeued the second, and waits.
        let mut back = Vec::new();
        while back.is_empty() {
            back = it.drain("orders").await;
        }
        killed.kill().await.unwrap();
        assert_eq!(back, [1], "{}", it.keys);
        // The server returns what the connection held once it has noticed its end.
        while it.run("list", &["--json"]).await.json_lines().len() < 3 {}
        assert_eq!(it.drain("orders.dead").await, [0, 2, 3], "{}", it.keys);
    }
}

#[tokio::test]
async fn the_queues_of_an_app_that_runs_are_not_opened() {
    let it = Place::channels();
    it.run("list", &[]).await.fails(3, "there is no queue");
    assert!(!it.at.as_ref().unwrap().exists(), "looking creates no folder");
    it.give_up(&[("a.b", 0)]).await;
    let running = Channels::open(it.at.as_ref().unwrap()).await.unwrap();
    it.run("list", &[]).await.fails(4, "in use by a running app. Stop it first");
    running.close(LONG).await;
}
