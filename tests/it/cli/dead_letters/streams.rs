//! Dead letters in streams of NATS.

use std::time::Duration;

use tempfile::TempDir;
use tower_outbox::source::Source;
use tower_outbox::{Message, Messenger};

use crate::cli::{Run, command, tool};
use crate::nats::raw::Place;
use crate::nats::receiving::{next, text};

const LONG: Duration = Duration::from_secs(20);

/// A stream with a consumer, which has made dead letters.
struct Dead {
    place: Place,
    folder: TempDir,
}

impl Dead {
    /// The messages have these bodies; their topics end with the same words.
    async fn letters(bodies: &[&str]) -> Self {
        let it = Self { place: Place::new().await, folder: tempfile::tempdir().unwrap() };
        it.reject(bodies).await;
        it
    }

    async fn reject(&self, bodies: &[&str]) {
        let place = &self.place;
        let message = |body: &&str| Message::new(self.topic(body), (*body).to_owned()).unwrap();
        let messages = bodies.iter().map(message);
        let messenger = place.messenger();
        messenger.send(messages.collect()).await.unwrap();
        messenger.close(LONG).await;
        let source = place.source(&place.subscription());
        for _ in bodies {
            next(&source).await.reject("it said no").await.unwrap();
        }
        source.close(LONG).await;
    }

    fn stream(&self) -> String {
        format!("{}-all-dead", self.place.stream)
    }

    fn args(&self, command: &str, args: &[&str]) -> Vec<String> {
        let settings = self.folder.path().join("settings.toml");
        let (url, stream) = (&self.place.url, &self.place.stream);
        let text = format!(
            "[MESSAGE_BUS]\nBACKEND = \"nats\"\nURLS = {url:?}\n[MESSAGE_BUS.CONSUMERS.all]\nSTREAM = {stream:?}\nDURABLE = \"all\"\n"
        );
        std::fs::write(&settings, text).unwrap();
        let (settings, queue) = (settings.display().to_string(), self.stream());
        let first = ["--settings", &settings, "dead-letters", command, "--queue", &queue];
        first.iter().chain(args).map(|text| (*text).to_owned()).collect()
    }

    async fn run(&self, command: &str, args: &[&str]) -> Run {
        let args = self.args(command, args);
        tool(&args.iter().map(String::as_str).collect::<Vec<_>>()).await
    }

    /// Publishes a dead letter that names this consumer.
    async fn forge(&self, consumer: &str) {
        self.forge_to(consumer, "payment.made").await;
    }

    async fn forge_to(&self, consumer: &str, topic: &str) {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("tower-outbox-queue", consumer);
        headers.insert("tower-outbox-topic", topic);
        let subject = format!("dead.{}.all", self.place.stream);
        let published = self.place.context.publish_with_headers(subject, headers, "forged".into()).await;
        published.unwrap().await.unwrap();
    }

    /// The last words of the topics that are left, in order.
    async fn left(&self) -> Vec<String> {
        let listed = self.run("list", &["--json"]).await.json_lines();
        let topics = listed.iter().map(|line| line["topic"].as_str().unwrap());
        topics.map(|topic| topic.rsplit('.').next().unwrap().to_owned()).collect()
    }

    /// The condition of the message with this body.
    fn topic(&self, body: &str) -> String {
        format!("{}.{body}", self.place.topic)
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_list_of_a_stream_names_reason_and_topic() {
    let it = Dead::letters(&["a", "b", "c"]).await;
    for _ in 0..2 {
        let listed = it.run("list", &["--json"]).await.json_lines();
        let of = |field: &str| listed.iter().map(|line| line[field].clone()).collect::<Vec<_>>();
        assert_eq!(of("topic"), ["a", "b", "c"].map(|body| it.topic(body)));
        assert_eq!((of("explain"), of("attempts")), (vec!["it said no".into(); 3], vec![1.into(); 3]));
    }
    let id = it.run("list", &["--json", "--topic", &it.topic("b")]).await.json_lines()[0]["id"].clone();
    let shown = it.run("show", &["--json", id.as_str().unwrap()]).await.json();
    assert_eq!(shown["failures"][0]["reason"], "it said no");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn dead_letters_of_a_stream_go_back_to_their_subjects() {
    let it = Dead::letters(&["a", "b", "c", "d"]).await;
    let asked = it.run("requeue", &["--topic", &it.topic("b")]).await;
    assert!(asked.code == 1 && asked.err.contains("add --yes"), "{asked:?}");
    assert_eq!(
        it.run("requeue", &["--topic", &it.topic("b"), "--yes"]).await.ok(),
        "requeued 1 dead letter\n"
    );
    assert_eq!(it.run("drop", &["--limit", "1", "--yes"]).await.ok(), "dropped 1 dead letter\n");
    assert_eq!(it.left().await, ["c", "d"]);
    let source = it.place.source(&it.place.subscription());
    let back = next(&source).await;
    assert_eq!(text(&back), "b");
    let view = back.view().unwrap();
    assert_eq!((view.attempt(), view.failures().len()), (1, 0));
    assert_eq!(view.message().topic().as_str(), it.topic("b"));
    assert!(view.message().header("tower-outbox-queue").is_none());
    back.ack().await.unwrap();
    source.close(LONG).await;
    // Messages that come back in the meantime are not taken again.
    let itself = format!("dead.{}.all", it.place.stream);
    let requeued = it.run("requeue", &["--all", "--yes", "--to", &itself]).await;
    assert_eq!(requeued.ok(), "requeued 2 dead letters\n");
    assert_eq!(it.left().await, ["all", "all"]);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_dead_letter_that_names_another_stream_stays() {
    let it = Dead::letters(&["a"]).await;
    it.forge("payments/all").await;
    let run = it.run("requeue", &["--all", "--yes"]).await;
    assert!(run.code == 1 && run.err.contains("give --back-to \"payments/all\""), "{run:?}");
    assert_eq!(it.left().await, ["made"]);
    // Not even a topic of its own choice gets into another stream.
    assert_eq!(it.run("drop", &["--all", "--yes"]).await.ok(), "dropped 1 dead letter\n");
    let other = Place::new().await;
    it.forge_to(&format!("{}/all", it.place.stream), &other.topic).await;
    let run = it.run("requeue", &["--all", "--yes"]).await;
    assert!(run.code == 1 && run.err.contains("did not accept"), "{run:?}");
    assert_eq!(it.left().await, [&*other.topic]);
    assert!(other.stored().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_command_killed_on_a_stream_leaves_the_others() {
    let it = Dead::letters(&["a", "b", "c"]).await;
    let args = it.args("requeue", &["--all", "--yes", "--wait", "1h"]);
    let mut killed = command(&args.iter().map(String::as_str).collect::<Vec<_>>()).spawn().unwrap();
    while it.left().await.len() > 2 {
        assert_eq!(killed.try_wait().unwrap(), None, "it ended early");
    }
    killed.kill().await.unwrap();
    assert_eq!(it.left().await, ["b", "c"]);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn streams_that_are_made_again_lose_no_dead_letter() {
    let it = Dead::letters(&["a"]).await;
    let mut stream = it.place.context.get_stream(&it.place.stream).await.unwrap();
    let config = stream.info().await.unwrap().config.clone();
    it.place.context.delete_stream(&it.place.stream).await.unwrap();
    it.place.context.create_stream(config).await.unwrap();
    // Its first message has the sequence of the one before.
    it.reject(&["b"]).await;
    assert_eq!(it.left().await, ["a", "b"]);
    it.run("requeue", &["--topic", &it.topic("a"), "--yes"]).await.ok();
    it.place.context.delete_stream(it.stream()).await.unwrap();
    let source = it.place.source(&it.place.subscription());
    next(&source).await.reject("it said no").await.unwrap();
    source.close(LONG).await;
    assert_eq!(it.left().await, ["a"]);
    it.run("requeue", &["--all", "--yes"]).await.ok();
    let source = it.place.source(&it.place.subscription());
    assert_eq!(text(&next(&source).await), "a");
}
