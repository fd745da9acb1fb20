//! The first five minutes of a new user: each mistake shows its cure.

use std::error::Error;
use std::time::{Duration, Instant};

use axum::extract::FromRequestParts;
use axum::http::StatusCode;
use axum::response::Redirect;
use tokio::net::TcpListener;
use tower_outbox::amqp091::{Amqp091Settings, BrokersError, TlsError, TopologyError, from_json_line};
use tower_outbox::bus::ServeError;
use tower_outbox::messenger::Overloaded;
use tower_outbox::queue::MissingMessagingLayer;
use tower_outbox::source::SourceError;
use tower_outbox::store::{EmbeddedStore, EmbeddedStoreSettings, StoreError, Unstored};
use tower_outbox::tx::{PersistError, TxRejection};
use tower_outbox::{
    Bus, Delivery, EnqueueError, Failure, Message, MessageQueue, Settings, SettingsError, Topic, Unsent,
};
use tracing::Level;

use crate::peers::root;
use crate::support::{MINUTE, app, enqueue, enqueue_a, get, logs, messages};

fn settings(text: &str) -> Settings {
    toml::from_str(text).unwrap()
}

fn from_file(text: &str) -> Result<Settings, SettingsError> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("app.toml");
    std::fs::write(&file, text).unwrap();
    Settings::from_file(file)
}

async fn start(text: &str) -> Result<Bus, SettingsError> {
    Bus::start(&settings(text)).await
}

fn chain(error: &dyn Error) -> String {
    let cause = error.source().map(|cause| format!(": {}", chain(cause))).unwrap_or_default();
    format!("{error}{cause}")
}

#[tokio::test]
async fn main_prints_the_cure_of_a_misspelt_key() {
    let error = start("BACKEND = \"amqp091\"\nURL = \"amqp://h\"").await.unwrap_err();
    let printed = format!("Error: {error:?}");
    assert_eq!(printed, "Error: MESSAGE_BUS has an unknown key URL; did you mean URLS?");
}

#[tokio::test]
async fn public_errors_print_their_display_with_all_causes() {
    fn assert_readable<E: Error>(error: E) {
        let debug = format!("{error:?}");
        assert_eq!(debug, chain(&error));
        assert!(!debug.contains(" { ") && !debug.contains("Some("), "{debug}");
    }
    let unserialisable = std::collections::BTreeMap::from([((1, 2), 3)]);
    let file = || tempfile::NamedTempFile::new().unwrap();
    assert_readable(start("BACKEND = \"rabbit\"").await.unwrap_err());
    assert_readable(from_file("[other]").unwrap_err());
    assert_readable(Topic::new("a..b").unwrap_err());
    assert_readable(Message::json("a", &unserialisable).unwrap_err());
    assert_readable(EnqueueError::Closed);
    let mut parts = http::Request::new(()).into_parts().0;
    let missing: MissingMessagingLayer = MessageQueue::from_request_parts(&mut parts, &()).await.unwrap_err();
    assert_readable(missing);
    assert_readable(Unsent::new(messages(["a"]), &Failure::rejected("forbidden")));
    assert_readable(Overloaded::new("the buffer is full"));
    assert_readable(SourceError::unavailable("no broker answers"));
    assert_readable(Delivery::from_request_parts(&mut parts, &()).await.unwrap_err());
    assert_readable(StoreError::unavailable("the disk is full"));
    assert_readable(Unstored::new(StoreError::Closed, messages(["a"])));
    assert_readable(EmbeddedStore::open(&EmbeddedStoreSettings::new(file().path())).await.unwrap_err());
    assert_readable(PersistError::Closed);
    assert_readable(TxRejection::AlreadyHandled);
    assert_readable(BrokersError::NoUrls);
    assert_readable(TlsError::KeyWithoutCertificate);
    assert_readable(
        tower_outbox::amqp091::Amqp091::new(&Amqp091Settings::new(["amqp://h:port"])).unwrap_err(),
    );
    assert_readable(TopologyError::Name("q".repeat(300)));
    assert_readable(from_json_line("{}").unwrap_err());
    assert_readable(ServeError::Io(std::io::Error::other("the address is in use")));
}

/// An error that is added later is not forgotten.
#[test]
fn every_public_error_has_such_a_debug() {
    let mut found = 0;
    for file in rust_files(&root().join("src")) {
        let text = std::fs::read_to_string(&file).unwrap();
        for (at, _) in text.match_indices("thiserror::Error)]") {
            let item = text[at..].lines().skip(1).find(|line| !line.trim_start().starts_with('#'));
            let Some(name) = item
                .and_then(|line| line.strip_prefix("pub enum ").or_else(|| line.strip_prefix("pub struct ")))
            else {
                continue;
            };
            let name: String = name.chars().take_while(|c| c.is_alphanumeric()).collect();
            assert!(text.contains(&format!("debug_as_display!({name});")), "{name} in {}", file.display());
            found += 1;
        }
    }
    assert!(found > 15, "{found}");
}

fn rust_files(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|it| it == "rs") {
            files.push(path);
        }
    }
    files
}

#[test]
fn a_file_without_the_table_names_itself_and_its_tables() {
    let text = from_file("[MESAGE_BUS]\nBACKEND = \"memory\"\n[database]").unwrap_err().to_string();
    assert!(text.contains("app.toml has no table MESSAGE_BUS, only MESAGE_BUS, database"), "{text}");
    assert!(text.ends_with("rename MESAGE_BUS to MESSAGE_BUS"), "{text}");
}

#[tokio::test]
async fn a_start_with_the_dummy_warns_that_messages_go_nowhere() {
    let log = logs::listen();
    let bus = start("").await.unwrap();
    let warned = |log: &logs::Logs| log.find(Level::WARN, &["backend"]).len();
    assert_eq!(warned(&log), 1);
    assert!(bus.shutdown(MINUTE).await.is_clean());
    let log = logs::listen();
    let _ = start("BACKEND = \"memory\"").await.unwrap();
    assert_eq!(warned(&log), 0);
}

#[tokio::test]
async fn a_frozen_broker_is_503_and_soon() {
    // The kernel accepts the connection, and nobody answers.
    let frozen = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("amqp://{}", frozen.local_addr().unwrap());
    let text = format!("BACKEND = \"amqp091\"\nURLS = \"{url}\"\nCONNECTION_TIMEOUT = \"200ms\"");
    let bus = start(&text).await.unwrap();
    let begun = Instant::now();
    let response = get(app(bus.layer(), enqueue_a)).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(response.headers().contains_key("retry-after"));
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_redirect_sends_its_events_when_success_says_so() {
    for (success, sent) in [("2xx", 0), ("2xx,3xx", 1)] {
        let bus = start(&format!("SUCCESS = \"{success}\"")).await.unwrap();
        let log = logs::listen();
        let app = app(bus.layer(), |queue: MessageQueue| async move {
            enqueue(&queue, ["a"]);
            Redirect::to("/users/7")
        });
        assert_eq!(get(app).await.status(), StatusCode::SEE_OTHER);
        assert_eq!(log.find(Level::INFO, &["id", "topic", "bytes"]).len(), sent, "{success}");
    }
}

#[test]
fn features_are_quoted_one_by_one() {
    let error =
        SettingsError::DeliveryNotCompiled { delivery: "transactional", features: &["postgres", "sqlite"] };
    assert_eq!(
        error.to_string(),
        "DELIVERY \"transactional\" is not compiled in: add the feature \"postgres\" or \"sqlite\" to tower-outbox in Cargo.toml"
    );
}

#[tokio::test]
async fn a_consumer_without_a_table_lists_the_tables() {
    let bus = start("BACKEND = \"memory\"\n[CONSUMERS.user]\n[CONSUMERS.orders]").await.unwrap();
    let error = bus.source("users").err().unwrap().to_string();
    assert_eq!(error, "MESSAGE_BUS has no table CONSUMERS.USERS; there are CONSUMERS.ORDERS, CONSUMERS.USER");
    let none = start("BACKEND = \"memory\"").await.unwrap().source("users").err().unwrap().to_string();
    assert!(none.contains("there is none: add one"), "{none}");
}
