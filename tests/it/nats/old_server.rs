//! Debian's nats-server 2.9, which accepts what it does not know, and ignores it.

use std::net::TcpListener;
use std::process::Stdio;
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::stream::Config;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};
use tower_outbox::Messenger;
use tower_outbox::nats::Nats;

use super::raw::{Place, SOON, body};
use super::receiving::{next, text};
use crate::peers::{Brokers, unique};

/// A server of its own, and a stream that would delay and expire messages on a newer one.
pub async fn old_server() -> (Place, TempDir, Child) {
    let folder = tempfile::tempdir().unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let server = Command::new(Brokers::running().get("NATS29_SERVER"))
        .args(["--addr", "127.0.0.1", "--port", &port.to_string(), "--jetstream", "--store_dir"])
        .arg(folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let url = format!("nats://127.0.0.1:{port}");
    let connected = async {
        loop {
            if let Ok(client) = async_nats::connect(&url).await {
                return client;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    let client = timeout(SOON, connected).await.expect("the server does not start");
    let (name, context) = (unique("nats"), jetstream::new(client.clone()));
    let config = Config {
        name: name.clone(),
        subjects: vec![name.clone(), format!("{name}.>")],
        allow_message_ttl: true,
        allow_message_schedules: true,
        ..Config::default()
    };
    context.create_stream(config).await.unwrap();
    (Place { url, topic: name.clone(), stream: name, client, context }, folder, server)
}

/// Trap N4: such a server would never deliver the delayed message, and never expire the other.
#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn an_old_server_is_sent_no_delay_and_no_expiry() {
    let (place, _folder, _server) = old_server().await;
    let messenger =
        Nats::new(&place.settings().with_delay_subject(format!("{}.delayed", place.topic))).unwrap();
    let delayed = place.message("delayed").with_delay(Duration::from_secs(1));
    let expiring = place.message("expiring").with_expiry(Duration::from_secs(1));
    let unsent =
        messenger.send(vec![delayed.clone(), place.message("x"), expiring.clone()]).await.unwrap_err();
    let failures: Vec<_> =
        unsent.iter().map(|(_, failure)| (failure.is_transient(), failure.to_string())).collect();
    assert_eq!(failures.len(), 2, "{failures:?}");
    for ((is_transient, text), least) in failures.iter().zip(["2.12", "2.11"]) {
        assert!(!is_transient && text.contains(least) && text.contains("2.9"), "{text}");
    }
    // From now on they are refused when they are enqueued.
    for (message, least) in [(delayed, "2.12"), (expiring, "2.11")] {
        let error = messenger.check(&message).unwrap_err().to_string();
        assert!(error.contains(least), "{error}");
    }
    let stored: Vec<_> = place.stored().await.iter().map(|stored| body(stored).to_owned()).collect();
    assert_eq!(stored, ["x"]);
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn an_old_server_delivers_and_retries() {
    let (place, _folder, _server) = old_server().await;
    place.send(&["1", "2"]).await;
    let source = place.source(&place.subscription());
    let first = next(&source).await;
    first.retry(Duration::from_millis(100), "not yet").await.unwrap();
    let second = next(&source).await;
    assert_eq!(text(&second), "2");
    second.reject("never").await.unwrap();
    let again = next(&source).await;
    assert_eq!((text(&again).as_str(), again.view().unwrap().attempt()), ("1", 2));
    again.ack().await.unwrap();
    let dead = Place { stream: format!("{}-all-dead", place.stream), ..place };
    assert_eq!(dead.stored().await.len(), 1);
}
