//! `tower-outbox requeue --queue`.

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Run, tool};
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
        let settings = self.folder.path().join("settings.toml");
        let text =
            format!("[MESSAGE_BUS]\nBACKEND = \"amqp091\"\nURLS = [{url:?}]\nCONNECTION_TIMEOUT = 5\n");
        std::fs::write(&settings, text).unwrap();
        let base = ["--settings", settings.to_str().unwrap(), "requeue", "--queue", queue];
        tool(&[&base[..], args].concat()).await
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
    queues.requeue(&[]).await.fails(1, "give --exchange and --routing-key");
    queues.requeue(&["--dry-run"]).await.fails(1, "give --exchange and --routing-key");
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
async fn another_backend_has_no_such_queues() {
    let folder = tempfile::tempdir().unwrap();
    let settings = folder.path().join("settings.toml");
    std::fs::write(&settings, "[MESSAGE_BUS]\nBACKEND = \"dummy\"\n").unwrap();
    let run = tool(&["--settings", settings.to_str().unwrap(), "requeue", "--queue", "q"]).await;
    run.fails(1, "--queue needs BACKEND \"amqp091\"");
}
