//! `tower-outbox dead-letters`: at RabbitMQ and ActiveMQ, in channels and KubeMQ.

mod addresses;
mod queues;
mod streams;

use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Run, command, tool};
use crate::peers::{Brokers, unique};

/// A queue, and its dead letters.
struct Queues {
    brokers: Brokers,
    folder: TempDir,
    url: String,
    queue: String,
    dead: String,
}

impl Queues {
    async fn new() -> Self {
        let brokers = Brokers::running();
        let url = brokers.get("RABBIT1_AMQP").to_owned();
        let queue = unique("work");
        let dead = format!("{queue}.dead");
        let queues = Self { folder: tempfile::tempdir().unwrap(), brokers, url, queue, dead };
        for name in [&queues.queue, &queues.dead] {
            queues.rabbit(&["declare", name, name]).await;
        }
        queues
    }

    async fn rabbit(&self, args: &[&str]) -> Vec<Value> {
        self.brokers.python("rabbit.py", &[&[self.url.as_str()], args].concat()).await
    }

    /// Puts a dead letter there, with these headers beside those that every one of ours has.
    async fn give_up(&self, topic: &str, body: &str, more: Value) {
        let mut headers = json!({
            "tower-outbox-queue": self.queue, "tower-outbox-topic": topic, "tower-outbox-attempt": 3,
            "tower-outbox-failures": "[]", "tower-outbox-reason": "it said no",
        });
        headers.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.rabbit(&["publish", "", &self.dead, body, &headers.to_string()]).await;
    }

    async fn requeue(&self, args: &[&str]) -> Run {
        self.requeue_from(&self.url, &self.dead, args).await
    }

    async fn requeue_from(&self, url: &str, queue: &str, args: &[&str]) -> Run {
        let mut args = args.to_vec();
        if !args.contains(&"--dry-run") {
            args.push("--yes");
        }
        let conditions = ["--topic", "--header", "--reason", "--older-than", "--limit"];
        if !args.iter().any(|arg| conditions.contains(arg)) {
            args.push("--all");
        }
        self.of(url, queue, "requeue", &args).await
    }

    /// Runs a command of dead letters.
    async fn of(&self, url: &str, queue: &str, command: &str, args: &[&str]) -> Run {
        let settings = self.settings(url);
        let base = ["--settings", &settings, "dead-letters", command, "--queue", queue];
        tool(&[&base[..], args].concat()).await
    }

    async fn run(&self, command: &str, args: &[&str]) -> Run {
        self.of(&self.url, &self.dead, command, args).await
    }

    fn settings(&self, url: &str) -> String {
        let settings = self.folder.path().join("settings.toml");
        let text =
            format!("[MESSAGE_BUS]\nBACKEND = \"amqp091\"\nURLS = [{url:?}]\nCONNECTION_TIMEOUT = 5\n");
        std::fs::write(&settings, text).unwrap();
        settings.display().to_string()
    }

    /// The bodies in a queue, which is empty then.
    async fn bodies(&self, queue: &str) -> Vec<String> {
        let messages = self.rabbit(&["drain", queue]).await;
        messages.iter().map(|message| message["body"].as_str().unwrap().to_owned()).collect()
    }

    async fn delete(self) {
        self.rabbit(&["delete", &self.queue]).await;
        self.rabbit(&["delete", &self.dead]).await;
    }
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn dead_letters_go_back_as_if_nobody_had_tried_them() {
    let queues = Queues::new().await;
    queues.give_up("a.b", "1", json!({"mine": 7, "x-death": [], "x-first-death-queue": "x"})).await;
    queues.give_up("a.c", "2", json!({"queue": "mine too"})).await;
    let dry = queues.requeue(&["--dry-run"]).await.ok();
    assert_eq!(dry, format!("would requeue 2 dead letters\n  2 to the queue {:?}\n", queues.queue));
    assert_eq!(queues.requeue(&["--wait", "1ms"]).await.ok(), "requeued 2 dead letters\n");
    assert!(queues.bodies(&queues.dead).await.is_empty());
    let back = queues.rabbit(&["drain", &queues.queue]).await;
    assert_eq!(back.iter().map(|message| &message["body"]).collect::<Vec<_>>(), ["1", "2"]);
    assert_eq!(back[0]["headers"], json!({"tower-outbox-topic": "a.b", "mine": 7}));
    assert_eq!(back[1]["headers"], json!({"tower-outbox-topic": "a.c", "queue": "mine too"}));
    assert_eq!(back[0]["delivery_mode"], 2);
    queues.delete().await;
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn conditions_say_which_and_the_others_stay_in_their_order() {
    let queues = Queues::new().await;
    for (topic, body, n) in [("a.b", "1", 1), ("x", "2", 1), ("a.c", "3", 2), ("y", "4", 1), ("a.d", "5", 1)]
    {
        queues.give_up(topic, body, json!({"n": n})).await;
    }
    for args in
        [&["--topic", "z"][..], &["--header", "n=3"], &["--reason", "timeout"], &["--older-than", "1d"]]
    {
        assert_eq!(queues.requeue(args).await.ok(), "requeued 0 dead letters\n", "{args:?}");
    }
    let chosen = queues.requeue(&["--topic", "a.*", "--header", "n=1", "--reason", "SAID", "--json"]).await;
    let done: Value = serde_json::from_str(&chosen.ok()).unwrap();
    assert_eq!(done, json!({"messages": 2, "left": 3, "dry_run": false}));
    assert_eq!(queues.bodies(&queues.queue).await, ["1", "5"]);
    assert_eq!(queues.requeue(&["--limit", "1"]).await.ok(), "requeued 1 dead letter\n");
    assert_eq!(queues.bodies(&queues.queue).await, ["2"]);
    assert_eq!(queues.bodies(&queues.dead).await, ["3", "4"]);
    queues.delete().await;
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn only_what_was_there_at_the_start_is_moved() {
    let queues = Queues::new().await;
    for body in ["1", "2", "3"] {
        queues.give_up("a", body, json!({})).await;
    }
    let round = queues.requeue(&["--exchange", "", "--routing-key", &queues.dead]).await;
    assert_eq!(round.ok(), "requeued 3 dead letters\n");
    assert_eq!(queues.bodies(&queues.dead).await, ["1", "2", "3"]);
    queues.delete().await;
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn what_cannot_go_back_stays() {
    let queues = Queues::new().await;
    queues.rabbit(&["publish", "", &queues.dead, "1"]).await;
    queues.requeue(&[]).await.fails(1, "give --to");
    queues.requeue(&["--dry-run"]).await.fails(1, "give --to");
    queues
        .requeue(&["--exchange", "amq.topic", "--routing-key", "nobody"])
        .await
        .fails(1, "no queue is bound");
    queues.requeue(&["--exchange", "nowhere", "--routing-key", "a"]).await.fails(1, "nowhere");
    queues.requeue_from(&queues.url, "nowhere", &[]).await.fails(3, "there is no queue \"nowhere\"");
    queues.requeue_from("amqp://127.0.0.1:1", &queues.dead, &[]).await.fails(4, "no broker can be reached");
    queues.give_up("a", "2", json!({"tower-outbox-queue": "gone"})).await;
    let one = queues.requeue(&["--header", "tower-outbox-queue=gone", "--back-to", "gone"]).await;
    one.fails(1, "0 dead letters requeued before, the others are still in the queue");
    assert_eq!(queues.bodies(&queues.dead).await, ["1", "2"]);
    queues.delete().await;
}

/// A stranger who may publish to the queue of dead letters writes their headers; the operator publishes.
#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_dead_letter_goes_nowhere_but_to_the_queue_its_own_is_for() {
    let queues = Queues::new().await;
    let secret = unique("secret.commands");
    queues.rabbit(&["declare", &secret, &secret]).await;
    let (elsewhere, copies) =
        (json!({"tower-outbox-queue": secret}), json!({"CC": [secret], "BCC": [secret]}));
    queues.give_up("a", "1", elsewhere.clone()).await;
    queues
        .rabbit(&["publish", "", &queues.dead, "2", &json!({"x-first-death-queue": secret}).to_string()])
        .await;
    let petisco = json!({"queue": "acme.secret.1.event.a.b", "redelivery_count": 1});
    queues.rabbit(&["publish", "", &queues.dead, "3", &petisco.to_string()]).await;
    queues.give_up("a", "4", json!({})).await;
    let dry = queues.requeue(&["--dry-run"]).await;
    assert_eq!(dry.out, format!("would requeue 1 dead letter\n  1 to the queue {:?}\n", queues.queue));
    assert!(dry.err.contains(&format!("names the original queue {secret:?}")), "{}", dry.err);
    assert!(dry.err.contains("3 dead letters left in the queue for this"), "{}", dry.err);
    let run = queues.requeue(&[]).await;
    assert!(run.err.contains(&format!("if it is yours, give --back-to {secret:?}")), "{}", run.err);
    assert_eq!((run.code, run.out.as_str()), (1, "requeued 1 dead letter\n"));
    assert_eq!(queues.bodies(&queues.queue).await, ["4"]);
    assert!(queues.bodies(&secret).await.is_empty());
    let dry = queues.requeue(&["--dry-run", "--json", "--limit", "2", "--back-to", &secret]).await;
    let expected = json!([{"exchange": "", "routing_key": secret, "messages": 2}]);
    assert_eq!(serde_json::from_str::<Value>(&dry.ok()).unwrap()["targets"], expected);
    queues.requeue(&["--limit", "2", "--back-to", &secret]).await.ok();
    assert_eq!(queues.bodies(&secret).await, ["1", "2"]);
    assert_eq!(queues.bodies(&queues.dead).await, ["3"]);
    queues.rabbit(&["publish", "", &queues.dead, "5", &copies.to_string()]).await;
    queues.bodies(&secret).await;
    queues.requeue(&["--exchange", "", "--routing-key", &queues.queue]).await.ok();
    assert_eq!(queues.bodies(&queues.queue).await, ["5"]);
    assert!(queues.bodies(&secret).await.is_empty());
    queues.rabbit(&["delete", &secret]).await;
    queues.delete().await;
}

/// Only what we put there ourselves: by the default exchange, to the queue of that name.
#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_requeue_does_not_pass_on_a_topic_that_a_stranger_wrote() {
    let queues = Queues::new().await;
    let forged =
        json!({"tower-outbox-topic": "admin.delete_all", "tower-outbox-queue": queues.queue, "mine": 7});
    // Bound to `amq.topic` by its name.
    queues.rabbit(&["publish", "amq.topic", &queues.dead, "1", &forged.to_string()]).await;
    queues.requeue(&[]).await.ok();
    let back = queues.rabbit(&["drain", &queues.queue]).await;
    assert_eq!(back[0]["headers"], json!({"mine": 7}));
    queues.delete().await;
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_list_shows_reasons_and_leaves_all_as_it_was() {
    let queues = Queues::new().await;
    for (topic, body) in [("a.b", "1"), ("x", "2"), ("a.c", "3")] {
        queues.give_up(topic, body, json!({"tower-outbox-failures": "[[1700000000000,\"first\"]]"})).await;
    }
    for _ in 0..2 {
        let listed = queues.run("list", &[]).await.ok();
        let lines: Vec<_> = listed.lines().collect();
        assert_eq!(lines.len(), 4, "{listed}");
        assert!(
            lines[0].starts_with("ID ") && lines[1].contains("a.b") && lines[3].contains("a.c"),
            "{listed}"
        );
        assert!(lines[1].contains("dead") && lines[1].ends_with("it said no"), "{listed}");
    }
    let some = queues.run("list", &["--topic", "a.*", "--json", "--body"]).await.json_lines();
    assert_eq!(some.iter().map(|it| it["topic"].clone()).collect::<Vec<_>>(), ["a.b", "a.c"]);
    assert_eq!((&some[0]["attempts"], &some[0]["explain"]), (&json!(3), &json!("it said no")));
    let limited = queues.run("list", &["--limit", "2"]).await;
    assert!(limited.err.contains("listed the first 2"), "{limited:?}");
    let none = queues.run("list", &["--reason", "timeout"]).await;
    assert!(none.out.is_empty() && none.err.contains("no dead letter matches"), "{none:?}");
    queues.of(&queues.url, "nowhere", "list", &[]).await.fails(3, "there is no queue \"nowhere\"");
    assert_eq!(queues.bodies(&queues.dead).await, ["1", "2", "3"]);
    queues.delete().await;
}

/// The ids of messages without one of their own are made anew each time.
async fn with_ids(queues: &Queues, count: usize) -> Vec<String> {
    let ids: Vec<_> = (0..count).map(|_| uuid::Uuid::new_v4().to_string()).collect();
    for (index, id) in ids.iter().enumerate() {
        let properties = json!({"message_id": id}).to_string();
        let headers = json!({"tower-outbox-topic": "a.b", "tower-outbox-queue": queues.queue, "tower-outbox-reason": "no"});
        let body = index.to_string();
        queues.rabbit(&["publish", "", &queues.dead, &body, &headers.to_string(), &properties]).await;
    }
    ids
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn one_dead_letter_is_shown_dropped_or_requeued_by_its_id() {
    let queues = Queues::new().await;
    let ids = with_ids(&queues, 4).await;
    let shown = queues.run("show", &[&ids[1]]).await.ok();
    assert!(
        shown.contains("tower-outbox-reason") && shown.ends_with("body, in Base64\nMQ==\n")
            || shown.contains("body\n1"),
        "{shown}"
    );
    assert_eq!(queues.run("show", &[&ids[2], "--json"]).await.json()["topic"], "a.b");
    let other = uuid::Uuid::new_v4().to_string();
    for command in ["show", "drop", "requeue"] {
        queues.run(command, &[&other]).await.fails(3, "there is no dead letter");
    }
    assert_eq!(queues.run("drop", &[&ids[1]]).await.ok(), "dropped 1 dead letter\n");
    assert_eq!(queues.run("requeue", &[&ids[2]]).await.ok(), "requeued 1 dead letter\n");
    assert_eq!(queues.bodies(&queues.dead).await, ["0", "3"]);
    assert_eq!(queues.bodies(&queues.queue).await, ["2"]);
    queues.delete().await;
}

/// A command in a script has nobody to answer.
#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn nothing_is_dropped_or_requeued_without_a_yes() {
    let queues = Queues::new().await;
    queues.give_up("a", "1", json!({})).await;
    for (command, would) in
        [("drop", "would drop 1 dead letter\n"), ("requeue", "would requeue 1 dead letter\n")]
    {
        queues.run(command, &[]).await.fails(2, "required arguments");
        let asked = queues.run(command, &["--all"]).await;
        assert!(asked.out.starts_with(would) && asked.err.contains("add --yes"), "{asked:?}");
        assert_eq!(asked.code, 1);
        assert!(queues.run(command, &["--all", "--dry-run"]).await.ok().starts_with(would));
    }
    assert_eq!(queues.run("drop", &["--topic", "b", "--yes"]).await.ok(), "dropped 0 dead letters\n");
    assert_eq!(queues.run("drop", &["--topic", "a", "--yes"]).await.ok(), "dropped 1 dead letter\n");
    assert!(queues.bodies(&queues.dead).await.is_empty() && queues.bodies(&queues.queue).await.is_empty());
    queues.delete().await;
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_command_killed_in_the_middle_loses_and_reorders_nothing() {
    let queues = Queues::new().await;
    for (body, n) in [("1", 0), ("2", 1), ("3", 0), ("4", 1), ("5", 0)] {
        queues.give_up("a", body, json!({"n": n})).await;
    }
    let settings = queues.settings(&queues.url);
    let base = ["--settings", &settings, "dead-letters", "requeue", "--queue", &queues.dead, "--yes"];
    let mut killed = command(&[&base[..], &["--header", "n=1", "--wait", "1h"]].concat()).spawn().unwrap();
    // It has passed the first message, requeued the second, and waits.
    while queues.rabbit(&["count", &queues.queue]).await[0] != 1 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    killed.kill().await.unwrap();
    // RabbitMQ returns what the connection held once it has noticed its end.
    while queues.rabbit(&["count", &queues.dead]).await[0] != 4 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(queues.bodies(&queues.dead).await, ["1", "3", "4", "5"]);
    assert_eq!(queues.bodies(&queues.queue).await, ["2"]);
    queues.delete().await;
}

#[tokio::test]
async fn another_backend_has_no_such_queues() {
    let folder = tempfile::tempdir().unwrap();
    let settings = folder.path().join("settings.toml");
    let list = ["--settings", settings.to_str().unwrap(), "dead-letters", "list", "--queue", "q"];
    for (text, part) in [
        ("BACKEND = \"dummy\"", "amqp091, fedmsg, amqp10, rhmsg, channels, kubemq and nats keep theirs"),
        ("BACKEND = \"mqtt\"\nURLS = \"mqtt://127.0.0.1:1\"", "the topic of DEAD_LETTER_TOPIC"),
        ("BACKEND = \"acme.Kafka\"", "only the app knows"),
    ] {
        std::fs::write(&settings, format!("[MESSAGE_BUS]\n{text}\n")).unwrap();
        tool(&list).await.fails(1, part);
    }
}
