//! A bus that stores first, from settings.

use std::convert::Infallible;
use std::path::Path;
use std::time::Duration;

use http::StatusCode;
use tower_outbox::bus::Shutdown;
use tower_outbox::{Bus, Messenger, Settings, SettingsError};
use tracing::Level;

use crate::support::messengers::Bus as State;
use crate::support::messengers::{Act, Scripted, scripted};
use crate::support::stores::{STUCK, until};
use crate::support::{answering, app, enqueue_a, get, logs, messages, topics};

fn settings(folder: &Path, keys: &str) -> Settings {
    let text = format!(
        "BACKEND = \"own\"\nDELIVERY = \"durable\"\n[OUTBOX]\nPATH = {:?}\n{keys}",
        folder.display().to_string()
    );
    toml::from_str(&text).unwrap()
}

async fn bus(folder: &Path, messenger: impl Messenger) -> Bus {
    let settings = settings(folder, "");
    let builder = Bus::builder(&settings).with_backend("own", |_| Ok::<_, Infallible>(messenger));
    builder.start().await.unwrap()
}

fn fallen() -> Scripted {
    let bus = scripted(|_| Act::Confirm);
    bus.set(State::Down);
    bus
}

async fn shut_down(bus: &Bus) -> Shutdown {
    tokio::time::timeout(STUCK, bus.shutdown(STUCK)).await.expect("it does not end")
}

#[tokio::test]
async fn messages_survive_a_bus_that_stops_while_its_backend_is_down() {
    let log = logs::listen();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("outbox");
    let first = bus(&path, fallen()).await;
    assert_eq!(get(answering(first.layer(), StatusCode::CREATED)).await.status(), StatusCode::CREATED);
    get(app(first.layer(), enqueue_a)).await;
    let shutdown = shut_down(&first).await;
    assert!(shutdown.is_clean() && shutdown.left.is_empty(), "{shutdown:?}");
    assert_eq!(shutdown.stored, 3);
    let said = log.find(Level::WARN, &["messages"]);
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].get("messages") == "3" && said[0].mentions(path.to_str().unwrap()), "{said:?}");
    assert!(first.messenger().send(messages(["late"])).await.is_err(), "it is closed");
    // The first one is still there: its folder is free all the same.
    let backend = scripted(|_| Act::Confirm);
    let second = bus(&path, backend.clone()).await;
    until("they have left", async || backend.confirmed().len() == 3).await;
    assert_eq!(topics(&backend.confirmed()), ["a", "audit", "a"]);
    let shutdown = shut_down(&second).await;
    assert!(shutdown.is_clean());
    assert_eq!(shutdown.stored, 0);
    assert_eq!(log.find(Level::WARN, &["messages"]).len(), 1, "nothing waits now");
}

#[tokio::test]
async fn a_shutdown_sends_what_is_stored() {
    let folder = tempfile::tempdir().unwrap();
    let backend = scripted(|_| Act::Confirm);
    backend.slow(Duration::from_millis(50));
    let bus = bus(&folder.path().join("outbox"), backend.clone()).await;
    for _ in 0..10 {
        get(app(bus.layer(), enqueue_a)).await;
    }
    let shutdown = shut_down(&bus).await;
    assert_eq!((shutdown.stored, shutdown.is_clean()), (0, true));
    assert_eq!(backend.confirmed().len(), 10);
}

#[tokio::test]
async fn a_shutdown_ends_at_its_deadline_and_says_what_is_stored() {
    let folder = tempfile::tempdir().unwrap();
    let backend = scripted(|_| Act::Confirm);
    backend.set(State::Hangs);
    let bus = bus(&folder.path().join("outbox"), backend.clone()).await;
    get(app(bus.layer(), enqueue_a)).await;
    until("it hangs", async || !backend.sends().is_empty()).await;
    let begun = std::time::Instant::now();
    let shutdown = bus.shutdown(Duration::from_millis(300)).await;
    assert!(begun.elapsed() < STUCK / 3, "{:?}", begun.elapsed());
    assert_eq!((shutdown.stored, shutdown.is_clean()), (1, true));
}

#[tokio::test]
async fn a_bus_has_an_outbox_if_it_stores_first() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("outbox");
    let durable = bus(&path, fallen()).await;
    let outbox = durable.outbox().unwrap();
    assert_eq!(outbox.location(), path.display().to_string());
    get(app(durable.layer(), enqueue_a)).await;
    assert_eq!(outbox.status().await.unwrap().counts.pending, 1);
    for delivery in ["direct", "background"] {
        let settings: Settings = toml::from_str(&format!("DELIVERY = \"{delivery}\"")).unwrap();
        assert!(Bus::start(&settings).await.unwrap().outbox().is_none(), "{delivery}");
    }
}

#[tokio::test]
async fn the_settings_of_the_outbox_reach_it() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(
        &folder.path().join("outbox"),
        "MAX_MESSAGES = 2\nWHEN_FULL = \"drop_oldest\"\nMAX_ATTEMPTS = 2\nMAX_BACKOFF = 0.005\nEXPIRY = \"1h\"\nWINDOW = 1",
    );
    let backend = scripted(|_| Act::Confirm);
    backend.set(State::Hangs);
    let own = backend.clone();
    let builder = Bus::builder(&settings).with_backend("own", move |_| Ok::<_, Infallible>(own));
    let bus = builder.start().await.unwrap();
    for _ in 0..4 {
        assert_eq!(get(app(bus.layer(), enqueue_a)).await.status(), StatusCode::OK);
    }
    assert_eq!(bus.outbox().unwrap().status().await.unwrap().counts.pending, 2);
    until("one is out", async || backend.most_out() == 1).await;
    assert_eq!(backend.sends(), [1]);
}

#[test]
fn an_unknown_key_of_the_outbox_names_the_nearest() {
    let error = toml::from_str::<Settings>("[OUTBOX]\nMAX_MESSAGE = 5").unwrap_err().to_string();
    assert!(
        error.contains("OUTBOX.MAX_MESSAGE") && error.contains("did you mean OUTBOX.MAX_MESSAGES?"),
        "{error}"
    );
}

#[tokio::test]
async fn a_folder_that_cannot_be_is_named_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("missing").join("outbox");
    let settings = settings(&path, "");
    let builder = Bus::builder(&settings).with_backend("own", |_| Ok::<_, Infallible>(fallen()));
    let error = builder.start().await.unwrap_err();
    assert!(matches!(error, SettingsError::Outbox { .. }), "{error:?}");
    let cause = error.to_string();
    assert!(cause.contains(&path.display().to_string()), "{cause}");
    assert!(cause.contains("create its parent folder, or correct PATH"), "{cause}");
}

#[tokio::test]
async fn a_second_bus_on_the_same_folder_is_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("outbox");
    let _first = bus(&path, fallen()).await;
    let settings = settings(&path, "");
    let builder = Bus::builder(&settings).with_backend("own", |_| Ok::<_, Infallible>(fallen()));
    let cause = builder.start().await.unwrap_err().to_string();
    assert!(cause.contains("in use") && cause.contains(&path.display().to_string()), "{cause}");
}
