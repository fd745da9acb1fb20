//! The newest SDK of KubeMQ, 4.1.5, unmodified.

use serde_json::{Value, json};

use super::Server;
use crate::peers::Brokers;

async fn run(mode: &str) -> Vec<(String, Value)> {
    let server = Server::start().await;
    let lines = Brokers::running().python("kubemq_sdk4.py", &[&server.address, mode]).await;
    lines
        .into_iter()
        .map(|line| (line["step"].as_str().unwrap().to_owned(), line["result"].clone()))
        .collect()
}

fn expect(steps: &[(String, Value)], expected: &[(&str, Value)]) {
    let steps: Vec<_> = steps.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
    assert_eq!(steps, expected);
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn the_sync_clients_of_sdk_4_do_everything() {
    let mut steps = run("sync").await;
    let nobody = steps.iter_mut().find(|(name, _)| name == "nobody").unwrap();
    assert!(nobody.1["exception"].as_str().unwrap().contains("Error 301: timeout for request message"));
    nobody.1 = json!(null);
    let bodies = |bodies: &[&str]| json!({"error": "", "bodies": bodies});
    let expiration =
        "Error 133: invalid expiration seconds, exceed max expiration seconds setting in kubemq config";
    let query = |hit| json!({"executed": true, "body": "answer x", "metadata": "meta", "hit": hit});
    expect(
        &steps,
        &[
            ("ping", json!({"version": "2.4.0"})),
            ("send", json!({"error": "", "sent": true})),
            ("receive", bodies(&["0", "1"])),
            ("after ack and nack", bodies(&["2", "3", "4", "5", "1"])),
            ("counts", json!([1, 1, 1, 1, 2])),
            ("requeued", bodies(&["2"])),
            ("after close", bodies(&["3", "4", "5", "1"])),
            ("after ack all", bodies(&[])),
            ("send to die", json!({"error": "", "sent": true})),
            ("dead letter", json!({"error": "", "bodies": ["d"], "from": "dying"})),
            ("simple", json!(false)),
            ("batch", json!(3)),
            ("peek", json!(4)),
            ("pull", json!(2)),
            ("ack all waiting", json!(2)),
            ("refused", json!({"error": expiration, "sent": false})),
            ("create", json!(true)),
            ("list", json!([["made", "queues"]])),
            ("delete", json!(true)),
            ("list deleted", json!([])),
            ("delete again", json!({"exception": "Delete Channel Error: channel made not found"})),
            ("events", json!(["stream", "unary"])),
            ("stored", json!(true)),
            ("event store", json!([[3, "2"], [4, "3"]])),
            ("bad stored", json!("Error 110: invalid message, cannot be empty")),
            ("create events", json!(true)),
            ("list events", json!(["made-events"])),
            ("delete events", json!(true)),
            ("create events_store", json!(true)),
            ("list events_store", json!(["made-events_store"])),
            ("delete events_store", json!(true)),
            ("command", json!([true])),
            ("query", query(false)),
            ("cached", query(false)),
            ("cached again", query(true)),
            ("nobody", json!(null)),
            ("create commands", json!(true)),
            ("list commands", json!(["made-commands"])),
            ("delete commands", json!(true)),
            ("create queries", json!(true)),
            ("list queries", json!(["made-queries"])),
            ("delete queries", json!(true)),
        ],
    );
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn the_async_clients_of_sdk_4_do_everything() {
    expect(
        &run("async").await,
        &[
            ("sent", json!(100)),
            ("received", json!(100)),
            ("back after close", json!(50)),
            ("empty", json!(0)),
            ("async events", json!(["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"])),
            ("async event store", json!([1, 2, 3, 4, 5])),
            ("async queries", json!(true)),
        ],
    );
}
