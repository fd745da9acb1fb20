//! The command line tool, run as a user runs it: on a stopped app's outbox, and on a running app.

mod check;
mod database;
mod dead_letters;
mod describe;
mod keys;
mod own;

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::process::Command;
use tower_outbox::message::Scalar;
use tower_outbox::outbox::OutboxHandle;
use tower_outbox::store::{EmbeddedStore, EmbeddedStoreSettings, EntryState, Filter, Store};
use tower_outbox::testing::Sent;
use tower_outbox::{Bus, Message};

use crate::admin::{Does, Switched, durable, until, until_held};
use crate::peers::root;
use crate::support::message;

/// How a run of the tool ended.
#[derive(Debug)]
pub struct Run {
    code: i32,
    out: String,
    err: String,
}

impl Run {
    #[track_caller]
    fn ends(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:#?}");
        self
    }

    /// The output on stdout, when all went well.
    #[track_caller]
    pub fn ok(self) -> String {
        self.ends(0).out
    }

    #[track_caller]
    fn json(self) -> Value {
        serde_json::from_str(&self.ok()).unwrap()
    }

    #[track_caller]
    fn json_lines(self) -> Vec<Value> {
        self.ok().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// It ends with this code, and says this on stderr, on one line.
    #[track_caller]
    pub fn fails(self, code: i32, part: &str) {
        assert!(self.err.contains(part), "{part}: {self:#?}");
        assert!(self.out.is_empty(), "{self:#?}");
        self.ends(code);
    }
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tower-outbox-cli"));
    command.args(args).env_clear().kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

async fn run(mut command: Command, input: &[u8]) -> Run {
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let (_, output) = tokio::join!(
        async move {
            // A command that does not read its input ends early.
            let _ = stdin.write_all(input).await;
        },
        child.wait_with_output()
    );
    let output = output.unwrap();
    Run {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

pub async fn tool(args: &[&str]) -> Run {
    run(command(args), b"").await
}

/// The folder and the settings of an app that is stopped.
struct Stopped {
    folder: TempDir,
    settings: String,
}

impl Stopped {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let settings = folder.path().join("settings.toml");
        let outbox = folder.path().join("outbox");
        let text =
            format!("[MESSAGE_BUS]\nDELIVERY = \"durable\"\n[MESSAGE_BUS.OUTBOX]\nPATH = {outbox:?}\n");
        std::fs::write(&settings, text).unwrap();
        Self { folder, settings: settings.display().to_string() }
    }

    /// An app that has left these pending, and these as dead letters.
    async fn with(pending: Vec<Message>, dead: Vec<Message>) -> Self {
        let app = Self::new();
        let (backend, _sent) = Switched::new(Does::Reject);
        let bus = durable(app.folder.path(), backend.clone(), "").await;
        fill(&bus, &backend, pending, dead).await;
        let _ = bus.shutdown(Duration::from_millis(300)).await;
        app
    }

    async fn run(&self, args: &[&str]) -> Run {
        self.run_with(args, b"").await
    }

    async fn run_with(&self, args: &[&str], input: &[u8]) -> Run {
        run(command(&[&["--settings", &self.settings], args].concat()), input).await
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The stored messages, read without the tool.
    async fn stored(&self) -> Vec<(EntryState, Message)> {
        let store = EmbeddedStore::open(&EmbeddedStoreSettings::new(self.path("outbox"))).await.unwrap();
        let page = store.list(&Filter::default(), None, 500).await.unwrap();
        store.close().await;
        page.entries.into_iter().map(|entry| (entry.state, entry.message.unwrap())).collect()
    }

    async fn topics(&self) -> Vec<String> {
        let stored = self.stored().await;
        stored.iter().map(|(state, message)| format!("{state} {}", message.topic())).collect()
    }
}

async fn fill(bus: &Bus, backend: &Switched, pending: Vec<Message>, dead: Vec<Message>) {
    let (pending_count, dead_count) = (pending.len() as u64, dead.len() as u64);
    backend.set(Does::Reject);
    bus.messenger().send(dead).await.unwrap();
    until_held(&bus.outbox().unwrap(), 0, dead_count).await;
    backend.set(Does::Down);
    bus.messenger().send(pending).await.unwrap();
    until_held(&bus.outbox().unwrap(), pending_count, dead_count).await;
}

/// An app that runs, on a port of its own.
struct RunningApp {
    url: String,
    bus: Bus,
    backend: Switched,
    sent: Sent,
    folder: TempDir,
}

impl RunningApp {
    async fn with(pending: Vec<Message>, dead: Vec<Message>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (backend, sent) = Switched::new(Does::Reject);
        let bus = durable(folder.path(), backend.clone(), "").await;
        fill(&bus, &backend, pending, dead).await;
        let url = serve(Router::new().nest("/admin/outbox", bus.admin())).await + "/admin/outbox";
        Self { url, bus, backend, sent, folder }
    }

    async fn run(&self, args: &[&str]) -> Run {
        tool(&[&["--url", &self.url], args].concat()).await
    }

    fn outbox(&self) -> OutboxHandle {
        self.bus.outbox().unwrap()
    }
}

async fn serve(router: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(axum::serve(listener, router).into_future());
    url
}

/// Messages in which there is everything a message can have.
fn diverse() -> Vec<Message> {
    let old = SystemTime::now() - Duration::from_secs(7_384);
    vec![
        Message::json("user.created", &json!({"id": 7, "price": 1.5}))
            .unwrap()
            .with_key("user-7")
            .with_time(old)
            .with_priority(9)
            .with_expiry(Duration::from_secs(86_400))
            .with_header("tenant", "acme")
            .with_header("count", 3)
            .with_header("ratio", 1.0)
            .with_header("sure", true)
            .with_header("none", Scalar::Null),
        Message::new("text", "größe\nof\u{1b}[2J ☃").unwrap().with_content_type("text/plain"),
        Message::new("bytes", vec![0_u8, 0xff, 0xfe]).unwrap(),
        Message::new("raw", "{ \"z\": 1.50,\r\n \"a\": [] } ").unwrap().with_content_type("application/json"),
        message("later").with_delay(Duration::from_secs(90_000)),
    ]
}

#[tokio::test]
async fn help_reads_well_for_every_command() {
    let help = tool(&["--help"]).await.ok();
    for part in
        ["Exit codes:", "4  the outbox is in use", "--url <URL>", "--settings <FILE>", "Usage: tower-outbox"]
    {
        assert!(help.contains(part), "{part}: {help}");
    }
    let commands = ["check", "send", "status", "list", "show", "requeue", "drop", "export", "import"];
    for name in commands {
        assert!(help.lines().any(|line| line.trim_start().starts_with(name)), "{name}: {help}");
        let help = tool(&[name, "--help"]).await.ok();
        assert!(help.contains(&format!("Usage: tower-outbox {name}")) && help.contains("--json"), "{help}");
        assert!(help.lines().all(|line| line.chars().count() <= 110), "{help}");
    }
    let manifest: toml::Table = std::fs::read_to_string(root().join("Cargo.toml")).unwrap().parse().unwrap();
    let version = manifest["package"]["version"].as_str().unwrap();
    assert_eq!(tool(&["--version"]).await.ok().trim(), format!("tower-outbox {version}"));
}

#[tokio::test]
async fn wrong_usage_ends_with_2() {
    for (args, part) in [
        (&["nonsense"][..], "unrecognized subcommand"),
        (&["requeue"], "required arguments were not provided"),
        (&["drop"], "required arguments were not provided"),
        (&["drop", "--yes"], "required arguments were not provided"),
        (&["drop", "--all", "--yes", "--dry-run"], "cannot be used with"),
        (&["drop", "7"], "invalid value '7'"),
        (&["requeue", "0191b3a0-0000-7000-8000-000000000000", "--topic", "a"], "cannot be used with"),
        (&["requeue", "--all", "--rate", "0"], "at least 0.001"),
        (&["dead-letters", "list"], "required arguments were not provided"),
        (&["dead-letters", "drop", "--queue", "q"], "required arguments were not provided"),
        (
            &["dead-letters", "requeue", "--all", "--queue", "q", "--exchange", "x"],
            "required arguments were not provided",
        ),
        (
            &["dead-letters", "requeue", "--all", "--queue", "q", "--to", "x", "--back-to", "y"],
            "cannot be used with",
        ),
        (&["dead-letters", "list", "--queue", "q", "--header", "x"], "NAME=VALUE"),
        (&["dead-letters", "list", "--queue", "q", "--body"], "required arguments were not provided"),
        (&["list", "--state", "gone"], "possible values: pending, dead"),
        (&["list", "--limit", "0"], "above 0"),
        (&["list", "--older-than", "soon"], "not a duration"),
        (&["send", "a"], "required arguments were not provided"),
        (&["send", "a", "x", "--header", "novalue"], "NAME=VALUE"),
        (&["send", "a", "x", "--header", "n:=[1]"], "a header is"),
        (&["--url", "ftp://h", "status"], "http:// or https://"),
        (&["--url", "http://jo:geheim@h", "status"], "--http-header"),
        (&["--http-header", "nocolon", "status"], "no colon"),
    ] {
        tool(args).await.fails(2, part);
    }
}

#[tokio::test]
async fn status_of_a_stopped_app() {
    let app = Stopped::with(diverse(), vec![message("dead")]).await;
    let text = app.run(&["status"]).await.ok();
    for part in ["stopped", "durable", "5 messages, the oldest created 2h 3m ago", "1 message\n", " B\n"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("breaker"), "{text}");
    let status = app.run(&["status", "--json"]).await.json();
    assert_eq!((&status["running"], &status["health"]), (&json!(false), &Value::Null));
    assert_eq!((&status["outbox"]["pending"], &status["outbox"]["dead"]), (&json!(5), &json!(1)));
}

#[tokio::test]
async fn a_list_of_a_stopped_app_is_aligned_and_keeps_bodies_and_headers_to_itself() {
    let pending = vec![
        Message::json("user.created", "geheim")
            .unwrap()
            .with_header("token", "vertraulich")
            .with_key("k\u{1b}[2J"),
        message("b"),
    ];
    let app = Stopped::with(pending, vec![message("dead")]).await;
    let text = app.run(&["list"]).await.ok();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 4, "{text}");
    let column = lines[0].find("STATE").unwrap();
    assert!(lines[1][column..].starts_with("dead") && lines[2][column..].starts_with("pending"), "{text}");
    assert!(lines[1].contains("given up on: rejected: the bus forbids it"), "{text}");
    assert!(lines[2].contains("the app is stopped") && lines[2].contains("user.created"), "{text}");
    let json = app.run(&["list", "--json"]).await;
    for text in [&text, &json.out] {
        assert!(
            !text.contains("geheim") && !text.contains("vertraulich") && !text.contains('\u{1b}'),
            "{text}"
        );
    }
    let topics: Vec<_> = json.json_lines().iter().map(|line| line["topic"].clone()).collect();
    assert_eq!(topics, ["dead", "user.created", "b"]);
}

#[tokio::test]
async fn a_list_is_narrowed_and_limited() {
    let app = Stopped::with(diverse(), vec![message("dead")]).await;
    for (args, expected) in [
        (&["--state", "dead"][..], &["dead"][..]),
        (&["--topic", "user.*"], &["user.created"]),
        (&["--key", "user-7"], &["user.created"]),
        (&["--reason", "FORBIDS"], &["dead"]),
        (&["--older-than", "2h"], &["user.created"]),
        (&["--older-than", "3h"], &[]),
        (&["--limit", "2"], &["dead", "user.created"]),
        (&["--state", "pending", "--topic", "d*"], &[]),
    ] {
        let found = app.run(&[&["list", "--json"], args].concat()).await;
        let topics: Vec<_> = found.json_lines().iter().map(|line| line["topic"].clone()).collect();
        assert_eq!(topics, expected, "{args:?}");
    }
    let some = app.run(&["list", "--limit", "2"]).await;
    assert!(some.err.contains("the first 2"), "{some:?}");
    let none = app.run(&["list", "--topic", "x"]).await;
    assert!(none.code == 0 && none.out.is_empty() && none.err.contains("no message matches"), "{none:?}");
    assert_eq!(app.run(&["list", "--topic", "x", "--quiet"]).await.err, "");
}

#[tokio::test]
async fn a_long_list_is_fetched_page_by_page() {
    let app = Stopped::with((0..1_203).map(|_| message("a")).collect(), Vec::new()).await;
    assert_eq!(app.run(&["list", "--json", "--limit", "1100"]).await.json_lines().len(), 1_100);
    let all = app.run(&["list", "--json", "--limit", "5000"]).await.json_lines();
    let positions: std::collections::BTreeSet<_> = all.iter().map(|line| line["position"].as_u64()).collect();
    assert_eq!((all.len(), positions.len()), (1_203, 1_203));
}

#[tokio::test]
async fn show_prints_a_message_whole() {
    let messages = diverse();
    let ids: Vec<_> = messages.iter().map(|message| message.id().to_string()).collect();
    let app = Stopped::with(messages, Vec::new()).await;
    let text = app.run(&["show", &ids[0]]).await.ok();
    for part in [
        &*ids[0],
        "user.created",
        "user-7",
        "2h 3m ago",
        "tenant  \"acme\"",
        "ratio   1.0",
        "{\"id\":7,\"price\":1.5}",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let text = app.run(&["show", &ids[1]]).await.ok();
    assert!(text.contains("größe\nof\u{fffd}[2J ☃"), "no terminal obeys it: {text:?}");
    assert!(app.run(&["show", &ids[2]]).await.ok().contains("AP/+"), "Base64");
    let shown = app.run(&["show", &ids[4], "--json"]).await.json();
    assert_eq!((&shown["delay"], &shown["explain"]), (&json!("1day 1h"), &json!("its delay is not over")));
    app.run(&["show", &message("x").id().to_string()]).await.fails(3, "there is no message");
}

#[tokio::test]
async fn show_tells_the_history_of_a_dead_letter() {
    let dead = message("dead");
    let id = dead.id().to_string();
    let app = Stopped::with(Vec::new(), vec![dead]).await;
    let text = app.run(&["show", &id]).await.ok();
    assert!(text.contains("given up on: ") && text.contains("failed attempts\n  20"), "{text}");
}

#[tokio::test]
async fn one_message_is_requeued_or_dropped_at_once() {
    let dead = vec![message("a"), message("b"), message("c")];
    let ids: Vec<_> = dead.iter().map(|message| message.id().to_string()).collect();
    let app = Stopped::with(Vec::new(), dead).await;
    assert_eq!(app.run(&["requeue", &ids[0], "--dry-run"]).await.ok(), "would requeue 1 message\n");
    assert_eq!(app.run(&["drop", &ids[1], "--dry-run"]).await.ok(), "would drop 1 message\n");
    assert_eq!(app.topics().await, ["dead a", "dead b", "dead c"]);
    assert_eq!(app.run(&["requeue", &ids[0]]).await.ok(), "requeued 1 message\n");
    assert_eq!(app.run(&["drop", &ids[1], "--json"]).await.json(), json!({"dry_run": false, "messages": 1}));
    assert_eq!(app.topics().await, ["pending a", "dead c"]);
    app.run(&["drop", &ids[1]]).await.fails(3, "there is no message");
    app.run(&["requeue", &ids[1]]).await.fails(3, "there is no message");
}

#[tokio::test]
async fn requeue_by_conditions_acts_only_when_it_is_confirmed() {
    let app = Stopped::with(vec![message("a.p")], vec![message("a.x"), message("a.y"), message("b")]).await;
    let unconfirmed = app.run(&["requeue", "--topic", "a.*"]).await.ends(1);
    assert_eq!(unconfirmed.out, "would requeue 2 dead letters\n");
    assert!(unconfirmed.err.contains("--yes"), "{unconfirmed:?}");
    assert_eq!(app.run(&["requeue", "--all", "--dry-run"]).await.ok(), "would requeue 3 dead letters\n");
    assert_eq!(app.run(&["requeue", "--topic", "x", "--yes"]).await.ok(), "would requeue 0 dead letters\n");
    assert_eq!(app.topics().await, ["dead a.x", "dead a.y", "dead b", "pending a.p"]);
    assert_eq!(
        app.run(&["requeue", "--topic", "a.*", "--yes", "--rate", "5"]).await.ok(),
        "requeued 2 dead letters\n"
    );
    let all = app.run(&["requeue", "--all", "--yes", "--json"]).await.json();
    assert_eq!(all, json!({"dry_run": false, "messages": 1}));
    assert!(app.topics().await.iter().all(|entry| entry.starts_with("pending")));
}

#[tokio::test]
async fn requeue_spreads_messages_by_its_rate() {
    let app = Stopped::with(Vec::new(), vec![message("a"), message("b")]).await;
    app.run(&["requeue", "--all", "--yes", "--rate", "0.01"]).await.ok();
    let second = app.run(&["list", "--json", "--topic", "b"]).await.json();
    let next = humantime::parse_rfc3339(second["next_attempt"].as_str().unwrap()).unwrap();
    let wait = next.duration_since(SystemTime::now()).unwrap().as_secs();
    assert!((60..=100).contains(&wait), "{wait}");
}

#[tokio::test]
async fn drop_by_conditions_acts_only_when_it_is_confirmed() {
    let app = Stopped::with(vec![message("a.p"), message("b")], vec![message("a.x")]).await;
    let unconfirmed = app.run(&["drop", "--topic", "a.*", "--json"]).await.ends(1);
    assert_eq!(
        serde_json::from_str::<Value>(&unconfirmed.out).unwrap(),
        json!({"dry_run": true, "messages": 2})
    );
    assert_eq!(app.topics().await.len(), 3);
    // An answer that does not come from a terminal is none.
    app.run_with(&["drop", "--all"], b"y\n").await.ends(1);
    assert_eq!(app.topics().await.len(), 3);
    assert_eq!(app.run(&["drop", "--state", "dead", "--yes"]).await.ok(), "dropped 1 dead letter\n");
    assert_eq!(app.topics().await, ["pending a.p", "pending b"]);
    assert_eq!(app.run(&["drop", "--all", "--yes"]).await.ok(), "dropped 2 messages\n");
    assert!(app.topics().await.is_empty());
}

#[tokio::test]
async fn exported_messages_are_imported_unchanged() {
    let (from, to) = (Stopped::with(diverse(), vec![message("dead")]).await, Stopped::new());
    let file = from.path("export.jsonl");
    let file = file.to_str().unwrap();
    assert_eq!(
        from.run(&["export", "--output", file]).await.ok(),
        format!("exported 6 messages to {file}\n")
    );
    let imported = to.run(&["import", file]).await;
    assert!(imported.err.contains("1 dead letter"), "{imported:?}");
    assert_eq!(imported.ok(), "imported 6 messages\n");
    let messages =
        |stored: Vec<(EntryState, Message)>| -> Vec<_> { stored.into_iter().map(|(_, it)| it).collect() };
    let (exported, stored) = (messages(from.stored().await), messages(to.stored().await));
    assert_eq!(exported, stored);
    assert!(exported.len() == 6 && to.topics().await.iter().all(|entry| entry.starts_with("pending")));
    // By way of stdin and stdout it is the same.
    let third = Stopped::new();
    let lines = from.run(&["export"]).await.ok();
    assert_eq!(lines, std::fs::read_to_string(file).unwrap());
    assert_eq!(
        third.run_with(&["import", "-", "--json"], lines.as_bytes()).await.json(),
        json!({"messages": 6})
    );
    assert_eq!(messages(third.stored().await), stored);
}

#[tokio::test]
async fn an_export_is_narrowed_and_overwrites_nothing() {
    let app = Stopped::with(diverse(), vec![message("dead")]).await;
    let lines = app.run(&["export", "--state", "dead"]).await.json_lines();
    assert_eq!(lines.len(), 1);
    assert_eq!((&lines[0]["topic"], &lines[0]["state"]), (&json!("dead"), &json!("dead")));
    let file = app.path("settings.toml");
    let before = std::fs::read(&file).unwrap();
    app.run(&["export", "--output", file.to_str().unwrap()]).await.fails(1, "exists already");
    assert_eq!(std::fs::read(&file).unwrap(), before);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let new = app.path("new.jsonl");
        app.run(&["export", "--output", new.to_str().unwrap()]).await.ok();
        assert_eq!(new.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[tokio::test]
async fn many_messages_are_exported_and_imported() {
    let messages = |count| (0..count).map(|n| Message::json("a", &json!({"n": n})).unwrap()).collect();
    let (from, to) = (Stopped::with(messages(1_203), Vec::new()).await, Stopped::new());
    let lines = from.run(&["export", "--quiet"]).await;
    assert_eq!(lines.err, "");
    assert_eq!(to.run_with(&["import"], lines.out.as_bytes()).await.ok(), "imported 1,203 messages\n");
    assert_eq!(to.run(&["export"]).await.json_lines().len(), 1_203);
}

#[tokio::test]
async fn an_import_that_breaks_off_says_where_to_go_on() {
    let app = Stopped::new();
    let line = |n: usize| format!("{{\"topic\": \"a.{n}\", \"body\": {n}}}\n");
    let mut lines: Vec<_> = (1..=700).map(line).collect();
    lines[599] = "{\"topic\": \"a\"}\n".to_owned();
    let broken = app.run_with(&["import"], lines.concat().as_bytes()).await;
    assert!(broken.err.contains("line 600: a message needs a body"), "{broken:?}");
    assert!(broken.err.contains("500 messages stored: continue with --skip 500"), "{broken:?}");
    broken.ends(1);
    lines[599] = line(600);
    let rest = app.run_with(&["import", "--skip", "500"], lines.concat().as_bytes()).await;
    assert_eq!(rest.ok(), "imported 200 messages\n");
    let topics: Vec<_> =
        app.run(&["export"]).await.json_lines().iter().map(|line| line["topic"].clone()).collect();
    assert_eq!(topics, (1..=700).map(|n| format!("a.{n}")).collect::<Vec<_>>());
    let nothing = Stopped::new().run_with(&["import"], b"nonsense\n").await;
    nothing.fails(1, "line 1: expected ident at line 1 column 2; no message was stored");
    app.run(&["import", "/nowhere/x.jsonl"]).await.fails(1, "cannot read /nowhere/x.jsonl");
}

#[tokio::test]
async fn send_stores_with_durable_delivery() {
    let app = Stopped::new();
    let id = message("x").id().to_string();
    let sent = app
        .run(&[
            "send",
            "user.created",
            "{\"id\": 7}",
            "--key",
            "k",
            "--id",
            &id,
            "--header",
            "tenant=a=b",
            "--header",
            "n:=3",
            "--header",
            "f:=1.0",
            "--priority",
            "4",
            "--delay",
            "1h",
            "--expiry",
            "90",
        ])
        .await;
    assert!(sent.err.contains("stored: the app sends it when it runs"), "{sent:?}");
    assert_eq!(sent.ok(), format!("{id}\n"));
    let (state, stored) = app.stored().await.remove(0);
    assert_eq!(
        (state, stored.id().to_string(), stored.topic().as_str()),
        (EntryState::Pending, id, "user.created")
    );
    assert_eq!((stored.body().as_ref(), stored.content_type()), (&b"{\"id\": 7}"[..], "application/json"));
    let headers: Vec<_> = stored.headers().collect();
    assert_eq!(headers, [("tenant", &"a=b".into()), ("n", &3.into()), ("f", &1.0.into())]);
    assert_eq!((stored.key(), stored.priority()), (Some("k"), Some(4)));
    let seconds = |span: Option<Duration>| span.unwrap().as_secs();
    assert_eq!((seconds(stored.delay()), seconds(stored.expiry())), (3_600, 90));
}

#[tokio::test]
async fn send_takes_the_body_from_where_it_is_told() {
    let app = Stopped::new();
    let file = app.path("body");
    std::fs::write(&file, [0xff, 0x00]).unwrap();
    app.run(&["send", "file", "--file", file.to_str().unwrap(), "-q"]).await.ok();
    app.run_with(&["send", "stdin", "-", "-q"], "größe\n".as_bytes()).await.ok();
    app.run(&["send", "typed", "7", "--content-type", "text/csv"]).await.ok();
    app.run(&["send", "negative", "-7"]).await.ok();
    app.run(&["send", "empty", ""]).await.ok();
    let stored = app.stored().await;
    let bodies: Vec<_> = stored.iter().map(|(_, it)| (it.body().as_ref(), it.content_type())).collect();
    let expected: [(&[u8], _); 5] = [
        (&[0xff, 0], "application/octet-stream"),
        ("größe\n".as_bytes(), "text/plain; charset=utf-8"),
        (b"7", "text/csv"),
        (b"-7", "application/json"),
        (b"", "text/plain; charset=utf-8"),
    ];
    assert_eq!(bodies, expected);
}

#[tokio::test]
async fn send_with_direct_delivery_waits_for_the_bus() {
    let sent = tool(&["send", "a", "{}", "--json"]).await;
    assert_eq!(sent.json()["outcome"], "sent");
    let noted = tool(&["send", "a", "{}"]).await;
    assert!(noted.err.contains("\"dummy\"; no message was sent"), "{noted:?}");
    let mut nobody = command(&["send", "a", "{}"]);
    nobody.env("MESSAGE_BUS__BACKEND", "amqp10").env("MESSAGE_BUS__URLS", "amqp://127.0.0.1:1");
    run(nobody, b"").await.fails(1, "amqp://127.0.0.1:1: cannot connect");
    tool(&["send", "a b", "{}"]).await.fails(1, "is not a topic");
}

/// The bus of the settings knows what it could never send, also when nothing is sent yet.
#[tokio::test]
async fn messages_that_the_broker_can_never_accept_are_refused() {
    let app = Stopped::new();
    for args in [&["send", "a", "[1]"][..], &["import"]] {
        let mut command = command(&[&["--settings", &app.settings], args].concat());
        command.env("MESSAGE_BUS__BACKEND", "rhmsg").env("MESSAGE_BUS__URLS", "amqp://127.0.0.1:1");
        let refused = run(command, b"{\"topic\": \"a\", \"body\": [1]}").await;
        refused.fails(1, "an rhmsg message must be a JSON object");
    }
}

/// A fault on the way to the bus is no reason not to look.
#[tokio::test]
async fn looking_does_not_need_the_bus() {
    let app = Stopped::with(vec![message("a")], Vec::new()).await;
    let mut command = command(&["--settings", &app.settings, "status"]);
    command.env("MESSAGE_BUS__BACKEND", "rhmsg").env("MESSAGE_BUS__URLS", "amqp://jo:geheim@127.0.0.1:1");
    assert_eq!(run(command, b"").await.ends(0).err, "");
}

#[tokio::test]
async fn an_outbox_in_use_is_said_at_once() {
    let app = RunningApp::with(vec![message("a")], Vec::new()).await;
    let stopped = Stopped::new();
    let path = app.folder.path().join("outbox");
    for args in [
        &["status"][..],
        &["list"],
        &["export"],
        &["import"],
        &["send", "a", "1"],
        &["drop", "--all", "--yes"],
    ] {
        let mut command = command(&[&["--settings", &stopped.settings], args].concat());
        command.env("MESSAGE_BUS__OUTBOX__PATH", &path);
        let refused = run(command, b"{\"topic\": \"a\", \"body\": 1}").await;
        assert!(
            refused.err.contains("in use") && refused.err.contains(path.to_str().unwrap()),
            "{refused:?}"
        );
        refused.fails(4, "--url");
    }
    assert_eq!(app.outbox().status().await.unwrap().counts.pending, 1);
}

#[tokio::test]
async fn looking_creates_no_outbox() {
    let app = Stopped::new();
    for args in [&["status"][..], &["list"], &["export"], &["drop", "--all", "--yes"]] {
        app.run(args).await.fails(3, "there is no outbox");
    }
    app.run(&["check"]).await.ok();
    assert!(!app.path("outbox").exists());
}

#[tokio::test]
async fn without_durable_delivery_the_cure_is_said() {
    let text = tool(&["status"]).await.ok();
    assert!(text.contains("direct") && text.contains("DELIVERY = \"durable\""), "{text}");
    assert_eq!(tool(&["status", "--json"]).await.json()["outbox"], Value::Null);
    for args in [&["list"][..], &["export"], &["import"], &["drop", "--all", "--yes"]] {
        run(command(args), b"{\"topic\": \"a\", \"body\": 1}").await.fails(3, "DELIVERY = \"durable\"");
    }
}

#[tokio::test]
async fn wrong_settings_are_said() {
    let mut command = command(&["status"]);
    command.env("MESSAGE_BUS__OUTBOX__PAHT", "x");
    run(command, b"").await.fails(1, "unknown key OUTBOX.PAHT; did you mean OUTBOX.PATH?");
    tool(&["--settings", "/nowhere/s.toml", "status"]).await.fails(1, "/nowhere/s.toml");
}

/// As `list | head` does.
#[tokio::test]
async fn a_reader_that_goes_away_is_no_failure() {
    let app = Stopped::with((0..3_000).map(|_| message("a")).collect(), Vec::new()).await;
    for args in [&["list", "--limit", "3000"][..], &["list", "--json", "--limit", "3000"], &["export"]] {
        let mut child = command(&[&["--settings", &app.settings], args].concat()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !said.contains("panicked"), "{args:?}: {said}");
    }
}

#[tokio::test]
async fn a_running_app_is_looked_into() {
    let pending = message("a.p").with_header("n", 1);
    let id = pending.id().to_string();
    let app = RunningApp::with(vec![pending], vec![message("dead")]).await;
    let text = app.run(&["status"]).await.ok();
    for part in [
        "the broker is down: no broker answers",
        "1 message, the oldest",
        "a second",
        "breaker",
        "last error",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let status = app.run(&["status", "--json"]).await.json();
    assert_eq!((&status["running"], &status["outbox"]["dead"]), (&json!(true), &json!(1)));
    assert!(app.run(&["list"]).await.ok().contains("the broker is down"));
    assert_eq!(app.run(&["list", "--json", "--state", "dead"]).await.json()["topic"], "dead");
    assert!(app.run(&["show", &id]).await.ok().contains("{\"topic\":\"a.p\"}"));
    assert_eq!(app.run(&["show", &id, "--json"]).await.json()["headers"], json!({"n": 1}));
    app.run(&["show", &message("x").id().to_string()]).await.fails(3, "there is no message");
    // A slash at the end of the URL changes nothing.
    tool(&["--url", &format!("{}/", app.url), "status"]).await.ok();
    let mut by_environment = command(&["status"]);
    by_environment.env("TOWER_OUTBOX_URL", &app.url);
    run(by_environment, b"").await.ok();
}

#[tokio::test]
async fn a_running_app_is_operated_on() {
    let dead = vec![message("a"), message("b"), message("c")];
    let ids: Vec<_> = dead.iter().map(|message| message.id().to_string()).collect();
    let app = RunningApp::with(Vec::new(), dead).await;
    app.backend.set(Does::Take);
    assert_eq!(app.run(&["requeue", &ids[0]]).await.ok(), "requeued 1 message\n");
    until("it leaves", || async { app.sent.topics() == ["a"] }).await;
    app.run(&["requeue", "--all"]).await.ends(1);
    assert_eq!(app.run(&["drop", &ids[1]]).await.ok(), "dropped 1 message\n");
    assert_eq!(app.run(&["requeue", "--reason", "forbids", "--yes"]).await.ok(), "requeued 1 dead letter\n");
    until("it leaves", || async { app.sent.topics() == ["a", "c"] }).await;
    until_held(&app.outbox(), 0, 0).await;
    let id = app.run(&["send", "d", "{\"x\": 1}", "--header", "n:=1"]).await.ok();
    until("it leaves", || async { app.sent.topics() == ["a", "c", "d"] }).await;
    let sent = app.sent.messages().remove(2);
    assert_eq!((sent.id().to_string(), sent.header("n")), (id.trim().to_owned(), Some(&1.into())));
    app.run(&["send", "never.d", "1"]).await.fails(1, "it never passes");
}

#[tokio::test]
async fn a_running_app_is_exported_from_and_imported_to() {
    let (from, to) =
        (RunningApp::with(diverse(), Vec::new()).await, RunningApp::with(Vec::new(), Vec::new()).await);
    let file = from.folder.path().join("export.jsonl");
    let file = file.to_str().unwrap();
    from.run(&["export", "--output", file]).await.ok();
    to.backend.set(Does::Take);
    assert_eq!(to.run(&["import", file]).await.ok(), "imported 5 messages\n");
    until("they leave", || async { to.sent.messages().len() == 4 }).await;
    let mut sent = to.sent.messages();
    sent.sort_by_key(Message::id);
    let mut expected: Vec<_> = {
        let page = from.outbox().list(&Filter::default(), None, 100).await.unwrap();
        page.entries
            .into_iter()
            .map(|entry| entry.message.unwrap())
            .filter(|it| it.delay().is_none())
            .collect()
    };
    expected.sort_by_key(Message::id);
    assert_eq!(sent, expected);
}

#[tokio::test]
async fn an_app_that_cannot_be_reached_ends_with_4() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    for args in [&["status"][..], &["list"], &["send", "a", "1"], &["drop", "--all", "--yes"]] {
        tool(&[&["--url", &url], args].concat()).await.fails(4, "cannot be reached");
    }
}

#[tokio::test]
async fn a_url_without_admin_router_ends_with_4() {
    let app = Router::new().route("/page/status", axum::routing::get(async || "<html>"));
    let url = serve(app).await;
    let at = async |path: &str| tool(&["--url", &format!("{url}{path}"), "status"]).await;
    at("/nothing").await.fails(4, "write the address where the app nests bus.admin()");
    at("/page").await.fails(4, "did not answer as an admin router of this version");
}

#[tokio::test]
async fn a_header_opens_a_router_behind_a_login() {
    async fn login(request: Request, next: Next) -> Response {
        match request.headers().get("authorization") {
            Some(token) if token == "Bearer geheim" => next.run(request).await,
            _ => (StatusCode::UNAUTHORIZED, "{\"error\": \"who are you?\"}").into_response(),
        }
    }
    let app = RunningApp::with(Vec::new(), vec![message("a")]).await;
    let url = serve(Router::new().nest("/x", app.bus.admin().layer(from_fn(login)))).await + "/x";
    tool(&["--url", &url, "status"]).await.fails(4, "--http-header");
    let right = "authorization: Bearer geheim";
    assert!(tool(&["--url", &url, "status", "--http-header", right]).await.ok().contains("running"));
    tool(&["--url", &url, "--http-header", right, "drop", "--all", "--yes"]).await.ok();
    let mut by_environment = command(&["--url", &url, "status"]);
    by_environment.env("TOWER_OUTBOX_HTTP_HEADER", format!("x-other: 1\n{right}"));
    run(by_environment, b"").await.ok();
    let mut help = command(&["--help"]);
    help.env("TOWER_OUTBOX_HTTP_HEADER", right);
    assert!(!run(help, b"").await.ok().contains("geheim"));
}

#[tokio::test]
async fn status_and_dead_letters_say_where_those_of_consumers_are() {
    let app = Stopped::with(vec![message("a")], vec![message("b")]).await;
    for args in [&["status"][..], &["list", "--state", "dead"]] {
        let mut command = command(&[args, &["--settings", &app.settings]].concat());
        command.env("MESSAGE_BUS__BACKEND", "amqp091").env("MESSAGE_BUS__CONSUMERS__USERS__QUEUE", "users");
        let run = run(command, b"").await;
        assert!(
            run.err
                .contains("in the broker: users.dead. `tower-outbox dead-letters list --queue users.dead`"),
            "{run:?}"
        );
        run.ok();
    }
}
