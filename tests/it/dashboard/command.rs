//! `tower-outbox dashboard`.

use std::process::Stdio;
use std::time::Duration;

use axum::Router;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

use super::{BASE, Kind, Ops, positions};

struct Served {
    child: Child,
    address: String,
}

async fn serve(args: &[&str]) -> Served {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tower-outbox-cli"));
    command.args(args).args(["dashboard", "--listen", "127.0.0.1:0"]).env("USER", "jo");
    let mut child = command.stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = lines.next_line().await.unwrap().unwrap();
    let address = line.strip_prefix("serving the dashboard on http://").unwrap().to_owned();
    Served { child, address }
}

impl Served {
    /// Sends a request for this host, and returns the whole answer.
    async fn ask(&self, method: &str, path: &str, host: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).await.unwrap();
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {host}\r\nsec-fetch-site: same-origin\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    async fn get(&self, path: &str) -> String {
        let answer = self.ask("GET", path, &self.address, "").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        answer
    }
}

#[tokio::test]
async fn a_stopped_app_has_pages_too() {
    let ops = Ops::with_dead(Kind::Durable, ["a", "b"]).await;
    let folder = ops.folder().join("outbox");
    let _ = ops.bus.shutdown(Duration::from_secs(5)).await;
    let settings = ops.folder().join("app.toml");
    std::fs::write(
        &settings,
        format!("[MESSAGE_BUS]\nDELIVERY = 'durable'\n[MESSAGE_BUS.OUTBOX]\nPATH = {folder:?}"),
    )
    .unwrap();
    let served = serve(&["--settings", settings.to_str().unwrap()]).await;
    let home = served.ask("GET", "/", &served.address, "").await;
    assert!(home.contains("location: overview"), "{home}");
    assert!(served.get("/overview").await.contains("The app is stopped"));
    let list = served.get("/messages?state=dead").await;
    assert_eq!(positions(&list).len(), 2);
    let form = format!("act=requeue&position={}", positions(&list)[0]);
    let answer = served.ask("POST", "/act", &served.address, &form).await;
    assert!(answer.contains("location: done?did=requeued&messages=1\r\n"), "{answer}");
    assert!(served.get("/audit").await.contains("<span>jo</span>"));
    // A name that another site gave to this address.
    assert!(served.ask("GET", "/messages", "evil.example", "").await.starts_with("HTTP/1.1 403"));
    drop(served.child);
}

#[tokio::test]
async fn a_running_app_has_pages_by_its_admin_router() {
    let ops = Ops::with_dead(Kind::Durable, ["a"]).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}{BASE}", listener.local_addr().unwrap());
    let app = Router::new().nest(BASE, ops.bus.admin());
    tokio::spawn(async move { axum::serve(listener, app).await });
    let served = serve(&["--url", &url]).await;
    assert!(served.get("/overview").await.contains("The broker is up"));
    let list = served.get("/messages?topic=a").await;
    assert_eq!(positions(&list).len(), 1);
    let page = served.get(&format!("/message?position={}", positions(&list)[0])).await;
    assert!(page.contains("the bus forbids it"), "{page}");
    let form = format!("act=requeue&position={}", positions(&list)[0]);
    ops.backend.set(crate::admin::Does::Take);
    let answer = served.ask("POST", "/act", &served.address, &form).await;
    assert!(answer.contains("location: done?did=requeued&messages=1\r\n"), "{answer}");
    ops.until(0, 0).await;
    // The app names nobody, so the command does.
    assert!(served.get("/audit").await.contains("<span>jo (by its own word)</span>"));
    let named = serve(&["--url", &url, "--as", "Jö <ops>"]).await;
    ops.backend.set(crate::admin::Does::Reject);
    ops.store(crate::support::messages(["b"])).await;
    ops.until(0, 1).await;
    let list = named.get("/messages").await;
    let form = format!("act=requeue&position={}", positions(&list)[0]);
    named.ask("POST", "/act", &named.address, &form).await;
    assert!(named.get("/audit").await.contains("Jö &lt;ops&gt; (by its own word)"));
}

#[tokio::test]
async fn a_database_has_pages_while_the_app_runs() {
    let ops = Ops::with_dead(Kind::Sqlite, ["a", "b"]).await;
    let settings = ops.folder().join("app.toml");
    let url = format!("sqlite:{}", ops.folder().join("app.db").display());
    let text =
        format!("[MESSAGE_BUS]\nDELIVERY = 'transactional'\n[MESSAGE_BUS.OUTBOX]\nDATABASE_URL = '{url}'");
    std::fs::write(&settings, text).unwrap();
    let served = serve(&["--settings", settings.to_str().unwrap()]).await;
    assert!(served.get("/overview").await.contains("This page reads the database alone"));
    let list = served.get("/messages?state=dead").await;
    assert_eq!(positions(&list).len(), 2);
    ops.backend.set(crate::admin::Does::Take);
    let form = format!("act=requeue&position={}", positions(&list)[0]);
    let answer = served.ask("POST", "/act", &served.address, &form).await;
    assert!(answer.contains("location: done?did=requeued&messages=1\r\n"), "{answer}");
    // The app sends it.
    ops.until(0, 1).await;
    assert!(served.get("/audit").await.contains("<span>jo</span>"));
}

#[tokio::test]
async fn the_pages_are_not_served_to_other_machines() {
    crate::cli::tool(&["dashboard", "--listen", "0.0.0.0:0"]).await.fails(1, "can be reached by others");
}
