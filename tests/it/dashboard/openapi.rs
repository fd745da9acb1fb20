//! The description of the JSON API, and whether the API is as described.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use tokio::net::TcpListener;
use tokio::process::Command;
use tower_outbox::{Bus, Settings};

use super::BASE;
use crate::admin::{Does, Switched, until_held};
use crate::peers::Brokers;
use crate::support::messages;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs brokers: ./scripts/test"]
async fn the_api_is_as_its_description_says() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}?mode=rwc", folder.path().join("app.db").display());
    let settings: Settings = toml::from_str(&format!(
        "BACKEND = 'memory'\nDELIVERY = 'transactional'\n[OUTBOX]\nDATABASE_URL = '{url}'\n[CONSUMERS.users]"
    ))
    .unwrap();
    let (backend, _sent) = Switched::new(Does::Reject);
    let decorator = backend.clone();
    let bus = Bus::builder(&settings).with_decorator(move |_| decorator).start().await.unwrap();
    let outbox = bus.outbox().unwrap();
    outbox.append(messages(["a", "b", "c"])).await.unwrap();
    until_held(&outbox, 0, 3).await;
    backend.set(Does::Down);
    outbox.append(messages(["d", "e"])).await.unwrap();
    tokio::spawn(bus.consumer("users", Router::new()).unwrap().into_future());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}{BASE}", listener.local_addr().unwrap());
    let succeeded: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    let seen = Arc::clone(&succeeded);
    let note = from_fn(move |request: Request, next: Next| {
        let (seen, asked) = (Arc::clone(&seen), format!("{} {}", request.method(), request.uri().path()));
        async move {
            let response = next.run(request).await;
            if response.status().is_success() {
                seen.lock().unwrap().insert(asked);
            }
            response
        }
    });
    let app = Router::new().nest(BASE, bus.admin().layer(note));
    tokio::spawn(async move { axum::serve(listener, app).await });
    let output = Command::new(Brokers::running().get("SCHEMATHESIS"))
        .args(["run", &format!("{base}/openapi.json"), "--url", &base, "--max-examples", "30", "--seed", "1"])
        .args([
            "--checks",
            "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
        ])
        .args(["--no-color", "--generation-database", "none"])
        // It keeps what it found in its folder.
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    // Its examples and links reach what only a state makes possible.
    let succeeded = succeeded.lock().unwrap();
    for asked in ["GET /topics", "POST /consumers", "POST /requeue", "POST /drop", "POST /undo"] {
        assert!(succeeded.contains(asked), "{asked} never succeeded: {succeeded:?}");
    }
}
