//! The description of the JSON API, and whether the API is as described.

use std::process::Stdio;

use axum::Router;
use tokio::net::TcpListener;
use tokio::process::Command;

use super::{BASE, Kind, Ops};
use crate::admin::Does;
use crate::peers::Brokers;
use crate::support::messages;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs brokers: ./scripts/test"]
async fn the_api_is_as_its_description_says() {
    let ops = Ops::new(Kind::Sqlite, Does::Reject).await;
    ops.store(messages(["a", "b", "c"])).await;
    ops.until(0, 3).await;
    ops.backend.set(Does::Down);
    ops.store(messages(["d", "e"])).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}{BASE}", listener.local_addr().unwrap());
    let app = Router::new().nest(BASE, ops.bus.admin());
    tokio::spawn(async move { axum::serve(listener, app).await });
    let output = Command::new(Brokers::running().get("SCHEMATHESIS"))
        .args(["run", &format!("{base}/openapi.json"), "--url", &base, "--max-examples", "30", "--seed", "1"])
        .args([
            "--checks",
            "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
        ])
        .args(["--no-color", "--generation-database", "none"])
        // It keeps what it found in its folder.
        .current_dir(ops.folder())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
