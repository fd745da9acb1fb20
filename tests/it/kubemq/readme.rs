//! All that the documentation of SDK 2.4.0 shows, by the unmodified SDK, as the real server answered it but for the differences
//! that the documentation of our face lists.

use serde_json::{Value, json};

use super::Server;
use crate::peers::Brokers;

/// The steps of one part of the driver.
struct Steps(Vec<Value>);

impl Steps {
    async fn of(part: &str) -> Self {
        let server = Server::start().await;
        Self(Brokers::running().python("kubemq_readme.py", &[&server.address, part]).await)
    }

    #[track_caller]
    fn get(&self, step: &str) -> &Value {
        &self.line(step)["result"]
    }

    #[track_caller]
    fn line(&self, step: &str) -> &Value {
        self.0.iter().find(|line| line["step"] == step).unwrap_or_else(|| panic!("no step {step}"))
    }

    #[track_caller]
    fn took(&self, step: &str) -> f64 {
        self.line(step)["took"].as_f64().unwrap()
    }

    /// The bodies, sequences and receive counts of received messages.
    #[track_caller]
    fn received(&self, step: &str) -> Vec<(String, u64, u64)> {
        let result = self.get(step);
        assert_eq!(result["error"], "", "{step}");
        let messages = result["messages"].as_array().unwrap().iter();
        messages
            .map(|it| {
                (
                    it["body"].as_str().unwrap().to_owned(),
                    it["seq"].as_u64().unwrap(),
                    it["count"].as_u64().unwrap(),
                )
            })
            .collect()
    }

    /// The body, sequence and receive count of the message of a transaction.
    #[track_caller]
    fn held(&self, step: &str) -> (&str, u64, u64) {
        let result = self.get(step);
        assert_eq!((&result["error"], &result["type"]), (&json!(""), &json!(1)), "{step}");
        let it = &result["message"];
        (it["body"].as_str().unwrap(), it["seq"].as_u64().unwrap(), it["count"].as_u64().unwrap())
    }

    #[track_caller]
    fn error(&self, step: &str) -> &str {
        self.get(step)["error"].as_str().unwrap()
    }
}

fn received(messages: &[(&str, u64, u64)]) -> Vec<(String, u64, u64)> {
    messages.iter().map(|(body, sequence, count)| ((*body).to_owned(), *sequence, *count)).collect()
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn queues_of_sdk_2_are_as_its_documentation_shows() {
    let steps = Steps::of("queue").await;
    assert_eq!(*steps.get("ping"), json!({"host": true, "start": true}));
    assert_eq!(steps.get("send")["sent"], true);
    assert_eq!(*steps.get("batch"), json!({"errors": false, "results": 2}));
    let all = received(&[("x", 1, 1), ("b0", 2, 1), ("b1", 3, 1)]);
    assert_eq!(steps.received("peek"), all);
    assert_eq!(steps.get("peek")["peek"], true);
    assert_eq!(steps.received("peek 2"), all[..2]);
    assert_eq!(steps.received("receive 2"), all[..2]);
    let first = &steps.get("receive 2")["messages"][0];
    assert_eq!(first["md5"], "9dd4e461268c8034f5c8564e155c67a6", "listed difference: filled");
    assert_eq!(first["tags"], json!({"key": "value", "key2": "value2"}));
    assert_eq!((&first["metadata"], &first["max"]), (&json!("metadata"), &json!(1_024)));
    assert_eq!(steps.received("receive rest"), all[2..]);
    assert!(steps.took("receive rest") < 0.9, "listed difference: returns when there is one");
    assert_eq!(steps.received("receive empty"), []);
    assert!(steps.took("receive empty") > 0.9);
    assert_eq!(steps.get("ack all")["affected"], 5);
    assert_eq!(steps.get("ack all again")["affected"], 0);
    assert_eq!(steps.get("send expiring")["expires"], 1);
    assert_eq!(steps.received("receive expired"), received(&[("keeps", 2, 1)]));
    assert_eq!(steps.get("receive expired")["expired"], 1);
    assert_eq!(steps.get("send delayed")["delayed"], 2);
    assert_eq!(steps.received("receive early"), []);
    let later = &steps.get("receive later")["messages"][0];
    assert_eq!((&later["body"], &later["delayed"], &later["seq"]), (&json!("delayed"), &json!(0), &json!(1)));
    assert!(steps.error("expires too late").starts_with("Error 133: "));
    assert!(steps.error("delayed too long").starts_with("Error 135: "));
    assert!(steps.error("received too often").starts_with("Error 134: "));
    assert_eq!(steps.error("empty message"), "Error 110: invalid message, cannot be empty");
    assert!(steps.error("bad name").starts_with("Error 120: "));
    let max = "Error 122: max messages should be between 1 and max message setting in kubemq config  ";
    assert_eq!((steps.error("receive 0"), steps.error("receive 1025")), (max, max));
    assert!(steps.error("wait too long").starts_with("Error 136: "));
    assert_eq!(steps.received("long poll"), received(&[("late", 1, 1)]));
    assert!(steps.took("long poll") < 4.0, "listed difference: returns when there is one");
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn transactions_of_sdk_2_are_as_its_documentation_shows() {
    let steps = Steps::of("transaction").await;
    let settled =
        |step: &str, kind: u64| assert_eq!(*steps.get(step), json!({"error": "", "type": kind}), "{step}");
    assert_eq!(steps.held("receive"), ("one", 1, 1));
    assert_eq!(steps.get("receive again")["exception"], "Stream already open , please call ack");
    assert_eq!(steps.error("ack 0"), "Error 125: ack sequence cannot be 0 or negative");
    settled("ack", 2);
    assert_eq!(steps.held("receive two"), ("two", 2, 1));
    settled("reject", 3);
    assert_eq!(steps.held("receive rejected"), ("two", 3, 2));
    assert_eq!(steps.error("receive empty"), "Error 138: no new message in queue, wait time expired");
    assert_eq!(steps.held("receive visible"), ("vis", 1, 1));
    assert_eq!(steps.received("other consumer"), []);
    settled("extend", 4);
    settled("ack extended", 2);
    assert_eq!(steps.held("receive short"), ("vis2", 2, 1));
    assert_eq!(steps.error("ack too late"), "Error 129: current visibility timer expired");
    assert_eq!(steps.received("redelivered"), received(&[("vis2", 3, 2)]));
    assert_eq!(steps.received("after disconnect"), received(&[("dc", 2, 2)]));
    assert_eq!(steps.held("receive to resend"), ("rs", 1, 1));
    settled("resend", 5);
    assert_eq!(steps.received("resent"), received(&[("rs", 1, 1)]));
    assert_eq!(steps.get("resent")["messages"][0]["rerouted"], false);
    assert_eq!(steps.get("resent")["messages"][0]["id"], steps.get("receive to resend")["message"]["id"]);
    settled("modify", 6);
    assert_eq!(steps.received("modified"), received(&[("md", 1, 1)]));
    assert_eq!(steps.get("modified")["messages"][0]["metadata"], "new metadata");
    assert_eq!(steps.received("left"), []);
    for attempt in 1..=3 {
        assert_eq!(steps.held(&format!("try {attempt}")), ("dl", attempt, attempt));
        settled(&format!("reject {attempt}"), 3);
    }
    assert_eq!(steps.error("try 4"), "Error 138: no new message in queue, wait time expired");
    assert_eq!(steps.received("dead letter"), received(&[("dl", 1, 1)]));
    let dead = &steps.get("dead letter")["messages"][0];
    assert_eq!((&dead["rerouted"], &dead["from"], &dead["max"]), (&json!(true), &json!("dl"), &json!(0)));
    assert_eq!(dead["id"], steps.get("send to die")["id"]);
    assert_eq!(steps.received("order after reject"), received(&[("1", 2, 1), ("2", 3, 1), ("0", 4, 2)]));
    assert_eq!((steps.held("consumer 0"), steps.held("consumer 1")), (("0", 1, 1), ("1", 2, 1)));
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn events_of_sdk_2_are_as_its_documentation_shows() {
    let steps = Steps::of("events").await;
    assert_eq!(*steps.get("send without subscribers"), json!({"id": true, "sent": true, "error": ""}));
    let ten: Vec<_> = (0..10).map(|number| number.to_string()).collect();
    let delivered = json!({
        "alone": ten, "group": 10, "rest": 10, "word": 10, "quiet": 0, "sequence": 0, "metadata": "metadata",
    });
    assert_eq!(*steps.get("delivered"), delivered);
    let refused = |text: &str| json!({"code": "INTERNAL", "exception": text});
    let wildcard = "Error 107: invalid channel value, no wildcards are allowed";
    assert_eq!(*steps.get("bad channel"), refused(wildcard));
    assert_eq!(*steps.get("empty event"), refused("Error 110: invalid message, cannot be empty"));
    assert_eq!(*steps.get("stream of events"), json!([]));
    assert_eq!(*steps.get("stream of stored events"), json!([true, true, true]));
    for (start, sequences) in [
        ("new", json!([7])),
        ("first", json!([1, 2, 3, 4, 5, 6, 7])),
        ("last", json!([6, 7])),
        ("sequence", json!([4, 5, 6, 7])),
        ("nanoseconds", json!([4, 5, 6, 7])),
        // Listed difference: the real server reads them as nanoseconds, and gives all.
        ("seconds", json!([4, 5, 6, 7])),
        ("delta", json!([4, 5, 6, 7])),
    ] {
        assert_eq!(steps.get(&format!("start {start}"))["sequences"], sequences, "{start}");
    }
    assert_eq!(*steps.get("durable"), json!({"first": ["a"], "again": ["b"]}));
    assert!(steps.get("in use").as_str().unwrap().contains("stan: clientID already registered"));
    assert_eq!(*steps.get("group"), json!(["0", "1", "2", "3", "4", "5", "6", "7"]));
    assert!(steps.get("refused sequence 0").as_str().unwrap().contains("Error 112: "));
    assert!(steps.get("refused wildcard").as_str().unwrap().contains(wildcard));
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn requests_of_sdk_2_are_as_its_documentation_shows() {
    let steps = Steps::of("requests").await;
    let refused = |text: &str| json!({"code": "INTERNAL", "exception": text});
    let timeout = refused("Error 301: timeout for request message");
    let answer = |metadata: &str, body: &str, executed: bool, error: &str, hit: bool| {
        json!({
            "client": "responder", "metadata": metadata, "body": body, "executed": executed, "error": error, "hit": hit, "reply": "",
        })
    };
    assert_eq!(*steps.get("no responder"), timeout);
    assert!(steps.took("no responder") > 0.9);
    assert_eq!(*steps.get("command"), answer("", "", true, "None", false));
    assert_eq!(*steps.get("failed command"), answer("", "", false, "boom", false));
    assert_eq!(*steps.get("slow command"), timeout);
    assert_eq!(*steps.get("query"), answer("meta", "OK-Request", true, "None", false));
    assert_eq!(*steps.get("cached query"), answer("meta", "OK-Request", true, "None", false));
    let hit = answer("meta", "OK-Request", true, "None", true);
    assert_eq!(*steps.get("cached again"), hit, "listed difference: cached");
    assert_eq!(*steps.get("calls of q"), json!(2));
    assert_eq!(
        *steps.get("key without ttl"),
        refused("Error 116: invalid cache ttl value, cannot be 0 or negative")
    );
    assert_eq!(
        *steps.get("timeout 0"),
        refused("Error 109: invalid set timeout value, cannot be 0 or negative")
    );
    assert_eq!(*steps.get("group"), json!(10));
    let seen =
        json!({"channel": "cmd", "body": "Request", "client": "asker", "reply": true, "timeout": 1000});
    assert_eq!(*steps.get("seen"), seen);
}
