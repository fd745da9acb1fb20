//! `tower-outbox describe`, and the AsyncAPI document of an app.

use std::process::Stdio;

use serde_json::Value;
use tower_outbox::bus::AsyncApi;
use tower_outbox::{Bus, Event, Settings};

use super::tool;
use crate::peers::{Brokers, root};

const SETTINGS: &str = r#"
[MESSAGE_BUS]
BACKEND = "amqp091"
URLS = ["amqp://shop:geheim@rabbit1/shop", "amqps://rabbit2:5671"]
TOPIC_PREFIX = "eu"
DELIVERY = "durable"
MANDATORY = true
[MESSAGE_BUS.OUTBOX]
PATH = "/var/lib/shop/outbox"
MAX_ATTEMPTS = 7
[MESSAGE_BUS.CONSUMERS.mail]
QUEUE = "mail"
QUEUE_TYPE = "quorum"
BINDINGS = ["user.*"]
MAX_ATTEMPTS = 3
TIMEOUT = "5s"
"#;

fn file() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.toml");
    std::fs::write(&path, SETTINGS).unwrap();
    let path = path.display().to_string();
    (folder, path)
}

#[tokio::test]
async fn the_description_names_queues_retries_and_losses() {
    let (_folder, path) = file();
    let text = tool(&["--settings", &path, "describe"]).await.ok();
    for part in [
        "backend amqp091",
        "the exchange \"amq.topic\" with the routing key eu.TOPIC",
        "a message for which no queue is bound becomes a dead letter",
        "durable: the response waits until the messages are on the local disk",
        "/var/lib/shop/outbox",
        "7 attempts",
        "consumer mail",
        "mail; created durable, as a quorum queue if it is missing",
        "eu.user.* of the exchange \"amq.topic\"",
        "mail.retry.quorum.MS",
        "in the queue mail.dead",
        "3 attempts",
        "for at most 5s",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("geheim"), "{text}");
    let json = tool(&["--settings", &path, "describe", "--json"]).await.json();
    assert_eq!(json["backend"], "amqp091");
    assert_eq!(json["outbox"]["folder"], "/var/lib/shop/outbox");
    assert_eq!(
        json["consumers"]["mail"]["queue"],
        "mail; created durable, as a quorum queue if it is missing"
    );
}

#[tokio::test]
async fn every_backend_of_the_example_is_described() {
    for (backend, part) in [
        (
            "BACKEND = 'amqp10'\nURLS = 'amqp://h'\n[CONSUMERS.mail]\nADDRESS = 'queue://mail'",
            "may drop them",
        ),
        (
            "BACKEND = 'mqtt'\nURLS = 'mqtt://h'\nDELIVERY = 'background'\n[CONSUMERS.mail]\nTOPICS = 'a/#'",
            "logged and dropped",
        ),
        (
            "BACKEND = 'kubemq'\nURLS = 'kubemq://h'\n[CONSUMERS.mail]\nCHANNEL = 'mail'",
            "in the queue mail.dead",
        ),
        (
            "BACKEND = 'kubemq'\nURLS = 'kubemq://h'\nPATTERN = 'events'\nTOPIC_PREFIX = 'eu'",
            "the channel eu.TOPIC, of events\n",
        ),
        (
            "BACKEND = 'channels'\n[CONSUMERS.mail]\nCHANNEL = 'mail'\nDEAD_LETTER_QUEUE = 'lost'",
            "in the queue lost",
        ),
        (
            "BACKEND = 'channels'\n[CONSUMERS.a]\nCHANNEL = 'a'\nPATTERN = 'requests'",
            "the caller gets the response",
        ),
        ("BACKEND = 'channels'\nPATTERN = 'stream'", "the channel TOPIC, of stream, in the folder channels"),
        ("BACKEND = 'embedded'", "a queue on the local disk"),
        ("BACKEND = 'routing'", "the router in this app"),
        ("BACKEND = 'memory'\nDELIVERY = 'transactional'", "COMMIT of rows and messages"),
        ("BACKEND = 'acme.Kafka'", "503 with Retry-After"),
    ] {
        let settings: Settings = toml::from_str(backend).unwrap();
        let text = tower_outbox::bus::Description::of(&settings).to_string();
        assert!(text.contains(part), "{text}");
    }
}

#[derive(serde::Serialize, schemars::JsonSchema)]
struct UserCreated {
    name: String,
    address: Option<Address>,
}

#[derive(serde::Serialize, schemars::JsonSchema)]
struct Address {
    city: String,
    sublet_to: Option<Box<Self>>,
}

impl Event for UserCreated {
    const TOPIC: &'static str = "user.created";
}

fn document() -> Value {
    let (_folder, path) = file();
    let settings = Settings::from_file(path).unwrap();
    let description = Bus::builder(&settings).with_event::<UserCreated>().describe();
    AsyncApi::new("shop", "1.2.3", &description).to_json()
}

#[test]
fn an_asyncapi_document_has_events_and_consumers() {
    let document = document();
    assert_eq!(document["channels"]["user.created"]["address"], "user.created");
    assert_eq!(document["operations"]["send.user.created"]["action"], "send");
    assert_eq!(document["channels"]["consumer.mail"]["address"], "mail");
    assert!(document["channels"]["consumer.mail"]["messages"]["user.created"].is_object(), "{document}");
    assert_eq!(document["components"]["schemas"]["UserCreated"]["properties"]["name"]["type"], "string");
    assert_eq!(document["servers"]["broker1"]["host"], "rabbit1");
    assert_eq!(document["servers"]["broker2"]["protocol"], "amqps");
    assert!(!document.to_string().contains("geheim"));
}

/// By the parser of the AsyncAPI initiative; an error in the document would be one here.
#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn a_real_asyncapi_parser_accepts_the_document() {
    let (_folder, path) = file();
    let of_tool = tool(&["--settings", &path, "describe", "--asyncapi", "--title", "shop"]).await.ok();
    let mut broken: Value = document();
    broken["operations"]["send.user.created"]["action"] = "shout".into();
    for (text, valid) in [(document().to_string(), true), (of_tool, true), (broken.to_string(), false)] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("asyncapi.json");
        std::fs::write(&file, &text).unwrap();
        let output = tokio::process::Command::new("node")
            .arg(root().join("tests/peers/asyncapi.js"))
            .arg(&file)
            .env("NODE_PATH", Brokers::running().get("NODE_MODULES"))
            .stdin(Stdio::null())
            .output()
            .await
            .unwrap();
        assert_eq!(output.status.success(), valid, "{output:?} {text}");
    }
}
