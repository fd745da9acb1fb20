//! Which listeners a router without grants and certificates has.

use std::path::Path;

use tower_outbox::wavemq::{Wavemq, WavemqConfig, WavemqError};
use tracing::Level;

use crate::support::logs;

async fn open(folder: &Path, clients: &str, peers: &str, security: &str) -> Wavemq {
    let (file, queue) = (folder.join("wavemq.toml"), folder.join("queue"));
    let text = format!(
        "[QueueConfig]\nqueueDataStore = {queue:?}\n[LocalConfig]\nlistenAddr = \"{clients}:0\"\n[PeerConfig]\nlistenAddr = \"{peers}:0\"\n{security}"
    );
    std::fs::write(&file, text).unwrap();
    Wavemq::open(WavemqConfig::read(&file).unwrap()).await.unwrap()
}

#[tokio::test]
async fn without_grants_no_other_machine_reaches_a_listener() {
    let folder = tempfile::tempdir().unwrap();
    let grants = folder.path().join("grants.toml");
    std::fs::write(&grants, "").unwrap();
    let with_grants = format!("[Security]\nGrants = [{grants:?}]");
    for (clients, peers, security, missing) in [
        ("0.0.0.0", "127.0.0.1", "", "no grants"),
        ("127.0.0.1", "0.0.0.0", "", "no certificate"),
        ("[::]", "127.0.0.1", "", "no grants"),
        // Grants alone do not tell routers apart.
        ("127.0.0.1", "0.0.0.0", &with_grants, "no certificate"),
    ] {
        let server = open(folder.path(), clients, peers, security).await;
        let error = server.bind().await.unwrap_err();
        assert!(matches!(error, WavemqError::Unguarded { .. }), "{error}");
        assert!(
            error.to_string().contains(missing) && error.to_string().contains("listen on 127.0.0.1"),
            "{error}"
        );
        server.router().close().await;
    }
    let server = open(folder.path(), "0.0.0.0", "127.0.0.1", &with_grants).await;
    server.bind().await.unwrap();
    server.router().close().await;
}

#[tokio::test]
async fn without_grants_a_warning_says_that_local_clients_may_do_everything() {
    let (log, folder) = (logs::listen(), tempfile::tempdir().unwrap());
    let server = open(folder.path(), "127.0.0.1", "127.0.0.1", "").await;
    let (clients, peers) = server.bind().await.unwrap();
    server.serve_on(clients, peers, async {}).await.unwrap();
    let warned = log.find(Level::WARN, &["clients"]);
    assert!(warned.iter().any(|event| event.text.contains("no grants")), "{:?}", log.events());
}

#[tokio::test]
async fn keys_that_need_wave_are_named_in_one_warning() {
    let (log, folder) = (logs::listen(), tempfile::tempdir().unwrap());
    let wave = "[WaveConfig]\ndatabase = \"wave\"\n[WaveConfig.storage.default]\nprovider = \"http_v1\"\n\
                [RoutingConfig]\nPersistDataStore = \"persist\"\nRouterEntityFile = \"router.ent\"";
    let server = open(folder.path(), "127.0.0.1", "127.0.0.1", wave).await;
    let warned = log.find(Level::WARN, &["keys"]);
    let keys: Vec<_> = warned.iter().map(|event| event.get("keys")).collect();
    assert_eq!(keys, ["WaveConfig, RoutingConfig.PersistDataStore, RoutingConfig.RouterEntityFile"]);
    server.router().close().await;
}
