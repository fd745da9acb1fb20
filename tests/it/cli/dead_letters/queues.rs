//! Dead letters in queues of channels, on the disk and in NATS, and of KubeMQ.

use std::any::Any;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::timeout;
use tower_outbox::channels::jetstream::JetstreamEngineSettings;
use tower_outbox::channels::{ChannelKind, Channels};
use tower_outbox::kubemq_client::{Kubemq, KubemqSettings, KubemqSource, KubemqSubscription};
use tower_outbox::source::Source;
use tower_outbox::{Message, Messenger};

use crate::channels::jetstream::Channels as OnNats;
use crate::cli::{Run, command, tool};
use crate::kubemq_client::face::Face;
use crate::kubemq_client::imitation::Imitation;

const LONG: Duration = Duration::from_secs(20);
/// Long enough to show that nothing comes.
const SHORT: Duration = Duration::from_millis(500);

enum At {
    Folder(PathBuf),
    Nats(JetstreamEngineSettings),
    Kubemq(KubemqSettings),
}

impl At {
    /// The channels; none at KubeMQ.
    async fn open(&self) -> Option<Channels> {
        match self {
            Self::Folder(folder) => Some(Channels::open(folder).await.unwrap()),
            Self::Nats(settings) => Some(Channels::jetstream(settings.clone()).await.unwrap()),
            Self::Kubemq(_) => None,
        }
    }
}

/// A place with the queues `orders` and `orders.dead`.
struct Place {
    folder: TempDir,
    at: At,
    keys: String,
    _kept: Box<dyn Any>,
}

impl Place {
    fn channels() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("channels");
        let keys = format!("BACKEND = \"channels\"\nPATH = {:?}", path.display().to_string());
        Self { folder, at: At::Folder(path), keys, _kept: Box::new(()) }
    }

    /// Channels in NATS, whose dead letters are looked at while an app has them open.
    async fn nats(on: &OnNats) -> Self {
        let keys = format!(
            "BACKEND = \"channels\"\nURLS = {:?}\nPREFIX = {:?}\nACK_WAIT = \"2s\"",
            on.url, on.prefix
        );
        let settings = on.settings().with_ack_wait(Duration::from_secs(2));
        let running = Channels::jetstream(settings.clone()).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        Self { folder, at: At::Nats(settings), keys, _kept: Box::new(running) }
    }

    fn kubemq(url: &str, kept: impl Any) -> Self {
        let keys = format!("BACKEND = \"kubemq\"\nURLS = {url:?}");
        let settings = KubemqSettings::new([url]).with_channel("orders");
        Self { folder: tempfile::tempdir().unwrap(), at: At::Kubemq(settings), keys, _kept: Box::new(kept) }
    }

    async fn all() -> Vec<Self> {
        let (face, imitation) = (Face::start().await, Imitation::start().await);
        vec![Self::channels(), Self::kubemq(&face.url(), face), Self::kubemq(&imitation.url(), imitation)]
    }

    /// Makes dead letters of these messages by a consumer.
    async fn give_up(&self, messages: &[(&str, u32)]) {
        let message = |(topic, n): &(&str, u32)| Message::json((*topic).to_owned(), n).unwrap();
        let batch: Vec<_> = messages.iter().map(message).collect();
        match (self.at.open().await, &self.at) {
            (None, At::Kubemq(settings)) => {
                let messenger = Kubemq::new(settings).unwrap();
                messenger.send(batch).await.unwrap();
                let source = KubemqSource::new(settings, &KubemqSubscription::new("orders")).unwrap();
                reject(&source, messages.len()).await;
                source.close(LONG).await;
                messenger.close(LONG).await;
            }
            (channels, _) => {
                let channels = channels.unwrap();
                let orders = channels.queue("orders").unwrap();
                orders.send(batch).await.unwrap();
                reject(&orders.clone(), messages.len()).await;
                channels.close(LONG).await;
            }
        }
    }

    /// The bodies in a queue, which is empty then. Each message is at its first attempt.
    async fn drain(&self, queue: &str) -> Vec<u32> {
        let channels = self.at.open().await;
        let source: Arc<dyn Source> = match (&channels, &self.at) {
            (Some(channels), _) => Arc::new(channels.queue(queue).unwrap().clone()),
            (None, At::Kubemq(settings)) => {
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
        if let At::Nats(_) = self.at {
            // Messages that were handed back come again in any order.
            bodies.sort_unstable();
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
    list_leaves_all(Place::all().await).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_list_of_a_queue_in_nats_leaves_all_as_it_was() {
    let on = OnNats::new();
    list_leaves_all(vec![Place::nats(&on).await]).await;
    on.remove().await;
}

async fn list_leaves_all(places: Vec<Place>) {
    for it in places {
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
    go_back_and_others_stay(Place::all().await).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn dead_letters_in_nats_go_back_to_their_queue_and_others_stay() {
    let on = OnNats::new();
    go_back_and_others_stay(vec![Place::nats(&on).await]).await;
    on.remove().await;
}

async fn go_back_and_others_stay(places: Vec<Place>) {
    for it in places {
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
    killed_leaves_the_others(Place::all().await.split_off(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_command_killed_on_a_queue_in_nats_leaves_the_others_in_their_place() {
    let on = OnNats::new();
    killed_leaves_the_others(vec![Place::nats(&on).await]).await;
    on.remove().await;
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn looking_at_a_queue_in_nats_creates_none() {
    let on = OnNats::new();
    let it = Place::nats(&on).await;
    it.run("list", &[]).await.fails(3, "there is no queue");
    let channels = it.at.open().await.unwrap();
    assert_eq!(channels.engine().list(ChannelKind::Queue, "").await.unwrap().len(), 0);
    on.remove().await;
}

async fn killed_leaves_the_others(places: Vec<Place>) {
    for it in places {
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
    assert!(!it.folder.path().join("channels").exists(), "looking creates no folder");
    it.give_up(&[("a.b", 0)]).await;
    let running = Channels::open(it.folder.path().join("channels")).await.unwrap();
    it.run("list", &[]).await.fails(4, "in use by a running app. Stop it first");
    running.close(LONG).await;
}
