//! One process has the folder open.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tower_outbox::store::{EmbeddedStore, EmbeddedStoreSettings, OpenError, Store};

use super::{StoreFolder, again, drain, part};
use crate::support::stores::{batch, ids};

#[tokio::test]
async fn a_folder_is_in_use_until_its_process_is_killed() {
    if let Some(path) = part() {
        let store = EmbeddedStore::open(&EmbeddedStoreSettings::new(path)).await.unwrap();
        let messages = batch("a", 3);
        store.append(messages.clone()).await.unwrap();
        println!("\nopen {}", serde_json::to_string(&ids(&messages)).unwrap());
        // Until this process, or the test, is killed.
        let _ = std::io::stdin().lines().count();
        return;
    }
    let folder = StoreFolder::new();
    let test = "faults::locked::a_folder_is_in_use_until_its_process_is_killed";
    let mut other = again(test, folder.path().to_str().unwrap()).spawn().unwrap();
    let mut said = BufReader::new(other.stdout.take().unwrap()).lines();
    let stored = said.find_map(|line| Some(line.unwrap().strip_prefix("open ")?.to_owned()));
    let stored: Vec<uuid::Uuid> = serde_json::from_str(&stored.expect("it opens the store")).unwrap();

    let begun = Instant::now();
    let error = EmbeddedStore::open(&folder.settings).await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(1), "at once");
    assert!(matches!(&error, OpenError::InUse { path } if path == folder.path()), "{error}");
    let text = error.to_string();
    assert!(
        text.contains(folder.path().to_str().unwrap()) && text.contains("in use by another process"),
        "{text}"
    );
    assert!(text.contains("give each process a PATH of its own"), "{text}");

    other.kill().unwrap();
    other.wait().unwrap();
    let store = EmbeddedStore::open(&folder.settings).await.unwrap();
    assert_eq!(drain(&store).await, stored);
}

#[tokio::test]
async fn a_second_store_in_the_same_process_is_refused() {
    let folder = StoreFolder::new();
    let store = folder.open().await;
    let error = EmbeddedStore::open(&folder.settings).await.unwrap_err();
    assert!(matches!(error, OpenError::InUse { .. }), "{error}");
    store.append(batch("a", 1)).await.unwrap();
    store.close().await;
    drop(store);
    assert_eq!(drain(&EmbeddedStore::open(&folder.settings).await.unwrap()).await.len(), 1);
}

#[tokio::test]
async fn an_app_on_a_folder_in_use_exits_and_names_the_cure() {
    let folder = StoreFolder::new();
    let _store = folder.open().await;
    let mut demo = std::env::current_exe().unwrap();
    demo.pop();
    demo.pop();
    let mut demo = Command::new(demo.join("examples").join("demo"));
    demo.args(["--listen", "127.0.0.1:0"]).env("MESSAGE_BUS__DELIVERY", "durable");
    demo.env("MESSAGE_BUS__OUTBOX__PATH", folder.path()).stdin(Stdio::null());
    let output = demo.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains(folder.path().to_str().unwrap()) && said.contains("a PATH of its own"), "{said}");
}
