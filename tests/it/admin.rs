//! The admin router, over a durable outbox whose backend the tests switch.

use std::convert::Infallible;
use std::future::Future;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::Body;
use http::{Request, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tower::ServiceExt;
use tower_outbox::outbox::OutboxHandle;
use tower_outbox::testing::{Recording, Sent};
use tower_outbox::{Bus, Failure, Health, Message, Messenger, Settings, Unsent, async_trait};

use crate::support::messengers::{SendResult, held};
use crate::support::{message, messages, text};

/// The bus's way with messages.
#[derive(Clone, Copy, Debug)]
pub enum Does {
    /// It takes them.
    Take,
    /// It rejects them, each for good.
    Reject,
    /// It rejects them for this reason.
    RejectBecause(&'static str),
    /// It takes none now, and says that it is up.
    Fail,
    /// It is down.
    Down,
}

/// A bus that does as it is told.
#[derive(Clone)]
pub struct Switched {
    does: Arc<Mutex<Does>>,
    recording: Recording,
}

impl Switched {
    pub fn new(does: Does) -> (Self, Sent) {
        let recording = Recording::new();
        let sent = recording.listen();
        (Self { does: Arc::new(Mutex::new(does)), recording }, sent)
    }

    pub fn set(&self, does: Does) {
        *self.does.lock().unwrap() = does;
    }

    fn does(&self) -> Does {
        *self.does.lock().unwrap()
    }
}

#[async_trait]
impl Messenger for Switched {
    async fn send(&self, batch: Vec<Message>) -> SendResult {
        match self.does() {
            Does::Take => self.recording.send(batch).await,
            Does::Reject => Err(Unsent::new(batch, &Failure::rejected("the bus forbids it"))),
            Does::RejectBecause(reason) => Err(Unsent::new(batch, &Failure::rejected(reason))),
            Does::Fail => Err(Unsent::new(batch, &Failure::transient("not now"))),
            Does::Down => Err(Unsent::new(batch, &Failure::transient("no broker"))),
        }
    }

    fn check(&self, message: &Message) -> Result<(), tower_outbox::BoxError> {
        if message.topic().as_str().starts_with("never") { Err("it never passes".into()) } else { Ok(()) }
    }

    async fn health(&self) -> Health {
        match self.does() {
            Does::Down => Health::Down { reason: "no broker answers".to_owned() },
            _ => Health::Up,
        }
    }
}

/// A durable bus with this backend, in this folder.
pub async fn durable(folder: &Path, messenger: impl Messenger, keys: &str) -> Bus {
    let path = folder.join("outbox");
    let text = format!("BACKEND = \"own\"\nDELIVERY = \"durable\"\n[OUTBOX]\nPATH = {path:?}\n{keys}");
    let settings: Settings = toml::from_str(&text).unwrap();
    let builder = Bus::builder(&settings).with_backend("own", |_| Ok::<_, Infallible>(messenger));
    builder.start().await.unwrap()
}

/// Waits until this is true of the outbox.
pub async fn until<F: Future<Output = bool>>(what: &str, condition: impl Fn() -> F) {
    let wait = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// Waits until so many messages are pending and dead.
pub async fn until_held(outbox: &OutboxHandle, pending: u64, dead: u64) {
    let what = format!("{pending} pending and {dead} dead");
    until(&what, || async {
        let counts = outbox.status().await.unwrap().counts;
        (counts.pending, counts.dead) == (pending, dead)
    })
    .await;
}

/// An app with the router, the outbox behind it, and the bus.
struct App {
    router: Router,
    bus: Bus,
    backend: Switched,
    sent: Sent,
    _folder: TempDir,
}

impl App {
    async fn new(does: Does) -> Self {
        Self::with(does, "").await
    }

    async fn with(does: Does, keys: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (backend, sent) = Switched::new(does);
        let bus = durable(folder.path(), backend.clone(), keys).await;
        Self { router: nested(&bus), bus, backend, sent, _folder: folder }
    }

    /// An app with dead letters of these topics.
    async fn with_dead<const N: usize>(topics: [&'static str; N]) -> Self {
        let app = Self::new(Does::Reject).await;
        app.send(messages(topics)).await;
        until_held(&app.outbox(), 0, N as u64).await;
        app
    }

    fn outbox(&self) -> OutboxHandle {
        self.bus.outbox().unwrap()
    }

    async fn send(&self, messages: Vec<Message>) {
        self.bus.messenger().send(messages).await.unwrap();
    }

    async fn get(&self, path: &str) -> (StatusCode, Value) {
        call(&self.router, "GET", path, None).await
    }

    async fn post(&self, path: &str, body: Value) -> (StatusCode, Value) {
        call(&self.router, "POST", path, Some(body.to_string())).await
    }

    async fn ok(&self, path: &str) -> Value {
        let (status, body) = self.get(path).await;
        assert_eq!(status, StatusCode::OK, "{path}: {body}");
        body
    }

    async fn topics(&self, path: &str) -> Vec<String> {
        topics(&self.ok(path).await)
    }

    async fn acted(&self, path: &str, body: Value) -> u64 {
        let dry_run = body["dry_run"] != false;
        let (status, answer) = self.post(path, body).await;
        assert_eq!((status, &answer["dry_run"]), (StatusCode::OK, &json!(dry_run)), "{answer}");
        answer["messages"].as_u64().unwrap()
    }
}

fn nested(bus: &Bus) -> Router {
    Router::new().nest("/admin/outbox", bus.admin())
}

async fn call(router: &Router, method: &str, path: &str, body: Option<String>) -> (StatusCode, Value) {
    let request = Request::builder()
        .method(method)
        .uri(format!("/admin/outbox{path}"))
        .header("content-type", "application/json")
        .body(body.map_or_else(Body::empty, Body::from))
        .unwrap();
    answer(router, request).await
}

async fn answer(router: &Router, request: Request<Body>) -> (StatusCode, Value) {
    let response = router.clone().oneshot(request).await.unwrap();
    let content_type = response.headers().get("content-type");
    assert!(
        content_type.is_some_and(|it| it == "application/json"),
        "{} {content_type:?}",
        response.status()
    );
    let status = response.status();
    let text = text(response).await;
    let body: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{status}: {text:?}"));
    assert_eq!(status.is_success(), body.get("error").is_none(), "{status}: {body}");
    (status, body)
}

fn topics(page: &Value) -> Vec<String> {
    let topic = |message: &Value| message["topic"].as_str().unwrap().to_owned();
    page["messages"].as_array().unwrap().iter().map(topic).collect()
}

#[track_caller]
fn assert_refused((status, body): &(StatusCode, Value), expected: StatusCode, part: &str) {
    assert_eq!(*status, expected, "{body}");
    assert!(body["error"].as_str().unwrap().contains(part), "{body}");
}

#[tokio::test]
async fn the_status_says_how_much_waits_and_why() {
    let app = App::new(Does::Down).await;
    let old = SystemTime::now() - Duration::from_secs(100);
    app.send(vec![message("a").with_time(old), message("b")]).await;
    until("the breaker opens", || async { app.ok("/status").await["outbox"]["breaker"]["state"] == "open" })
        .await;
    let status = app.ok("/status").await;
    assert_eq!((&status["delivery"], &status["running"]), (&json!("durable"), &json!(true)));
    assert_eq!(status["health"], json!({"state": "down", "reason": "no broker answers"}));
    let outbox = &status["outbox"];
    assert_eq!((&outbox["pending"], &outbox["dead"]), (&json!(2), &json!(0)));
    assert!(outbox["place"].as_str().unwrap().ends_with("outbox"));
    assert!(outbox["bytes"].as_u64().unwrap() > 20 && outbox["stored_per_second"].as_f64().unwrap() > 0.0);
    let oldest = humantime::parse_rfc3339(outbox["oldest"].as_str().unwrap()).unwrap();
    assert_eq!(oldest.duration_since(old).unwrap().as_millis(), 0);
    assert!((100.0..200.0).contains(&outbox["oldest_age_seconds"].as_f64().unwrap()));
    assert!(outbox["last_error"]["error"].as_str().unwrap().contains("no broker"));
    for time in [&outbox["last_error"]["at"], &outbox["breaker"]["since"], &outbox["breaker"]["next_probe"]] {
        humantime::parse_rfc3339(time.as_str().unwrap()).unwrap();
    }
}

#[tokio::test]
async fn a_page_of_whole_messages_ends_after_8_mib() {
    let app = App::new(Does::Down).await;
    let large = |_| Message::new("large", vec![b'x'; 1 << 20]).unwrap();
    for _ in 0..3 {
        app.send((0..10).map(large).collect()).await;
    }
    let (mut address, mut pages) = ("/messages?limit=500&within=60s&body=true".to_owned(), Vec::new());
    loop {
        let page = app.ok(&address).await;
        pages.push(topics(&page).len());
        match page["next"].as_u64() {
            Some(next) => address = format!("/messages?limit=500&within=60s&body=true&after={next}"),
            None => break,
        }
    }
    assert_eq!(pages, [8, 8, 8, 6]);
    // Without bodies they fit.
    assert_eq!(app.topics("/messages?limit=500&within=60s").await.len(), 30);
}

#[tokio::test]
async fn the_status_of_an_idle_outbox_is_calm() {
    let app = App::new(Does::Take).await;
    let status = app.ok("/status").await;
    assert_eq!(status["health"], json!({"state": "up"}));
    let outbox = &status["outbox"];
    assert_eq!((&outbox["pending"], &outbox["bytes"]), (&json!(0), &json!(0)));
    assert_eq!(outbox["breaker"], json!({"state": "closed"}));
    for nothing in ["oldest", "oldest_age_seconds", "last_error"] {
        assert_eq!(outbox[nothing], Value::Null);
    }
}

#[tokio::test]
async fn without_durable_delivery_only_the_status_answers_and_says_the_cure() {
    for delivery in ["direct", "background"] {
        let settings: Settings = toml::from_str(&format!("DELIVERY = \"{delivery}\"")).unwrap();
        let router = nested(&Bus::start(&settings).await.unwrap());
        let (status, body) = call(&router, "GET", "/status", None).await;
        assert_eq!(
            (status, &body["delivery"], &body["outbox"]),
            (StatusCode::OK, &json!(delivery), &Value::Null)
        );
        assert_eq!(body["health"], json!({"state": "up"}));
        assert!(body["note"].as_str().unwrap().contains("DELIVERY = \"durable\""), "{body}");
        let id = message("a").id();
        for (method, path) in [
            ("GET", "/messages"),
            ("GET", &format!("/messages/{id}")),
            ("POST", "/messages"),
            ("POST", "/requeue"),
            ("POST", "/drop"),
        ] {
            let refused = call(&router, method, path, None).await;
            assert_refused(&refused, StatusCode::NOT_FOUND, "DELIVERY = \"durable\"");
        }
    }
}

#[tokio::test]
async fn a_list_comes_in_pages() {
    let app = App::new(Does::Down).await;
    app.send(messages(["a", "b", "c", "d", "e"])).await;
    let mut path = "/messages?limit=2".to_owned();
    let mut pages = Vec::new();
    loop {
        let page = app.ok(&path).await;
        pages.push(topics(&page));
        match page["next"].as_u64() {
            Some(next) => path = format!("/messages?limit=2&after={next}"),
            None => break,
        }
    }
    pages.retain(|page| !page.is_empty());
    assert_eq!(pages, [&["a", "b"][..], &["c", "d"], &["e"]]);
    assert_eq!(app.topics("/messages").await.len(), 5);
}

#[tokio::test]
async fn a_list_has_50_entries_unless_it_is_asked_for_more() {
    let app = App::new(Does::Down).await;
    app.send((0..600).map(|_| message("a")).collect()).await;
    let page = app.ok("/messages").await;
    assert!(topics(&page).len() == 50 && page["next"].is_u64(), "{}", page["next"]);
    assert_eq!(app.topics("/messages?limit=500").await.len(), 500);
    assert_eq!(app.topics("/messages?limit=500&body=true").await.len(), 500);
}

#[tokio::test]
async fn a_list_is_narrowed_by_each_condition() {
    let app = App::with_dead(["user.created", "user.dropped"]).await;
    app.backend.set(Does::Down);
    let old = SystemTime::now() - Duration::from_secs(2 * 86_400);
    let (keyed, aged) = (message("order.made").with_key("7 ä&"), message("order.aged").with_time(old));
    let id = keyed.id();
    app.send(vec![keyed, aged]).await;
    for (query, expected) in [
        ("state=dead", &["user.created", "user.dropped"][..]),
        ("state=pending", &["order.made", "order.aged"]),
        (&format!("id={id}"), &["order.made"]),
        ("topic=user.dropped", &["user.dropped"]),
        ("topic=user.*", &["user.created", "user.dropped"]),
        ("topic=*d&state=dead", &[]),
        ("key=7+%C3%A4%26", &["order.made"]),
        ("reason=FORBIDS", &["user.created", "user.dropped"]),
        ("reason=else", &[]),
        ("older_than=1d", &["order.aged"]),
        ("older_than=86400", &["order.aged"]),
        ("older_than=3d", &[]),
        ("topic=user.*&state=pending", &[]),
    ] {
        assert_eq!(app.topics(&format!("/messages?{query}")).await, expected, "{query}");
    }
}

#[tokio::test]
async fn a_list_asked_wrongly_says_why() {
    let app = App::new(Does::Take).await;
    for (query, part) in [
        ("limit=0", "1 to 500"),
        ("limit=501", "1 to 500"),
        ("limit=x", "limit"),
        ("state=gone", "gone"),
        ("id=7", "id"),
        ("older_than=soon", "not a duration"),
        ("topics=a", "unknown field `topics`"),
        ("body=yes", "body"),
    ] {
        assert_refused(&app.get(&format!("/messages?{query}")).await, StatusCode::BAD_REQUEST, part);
    }
}

#[tokio::test]
async fn a_list_shows_headers_and_bodies_only_when_asked() {
    let app = App::new(Does::Down).await;
    app.send(vec![Message::json("a", "geheim").unwrap().with_header("token", "vertraulich")]).await;
    let listed = app.ok("/messages").await.to_string();
    assert!(!listed.contains("geheim") && !listed.contains("vertraulich"), "{listed}");
    let whole = app.ok("/messages?body=true").await;
    assert_eq!(whole["messages"][0]["body"], "geheim");
    assert_eq!(whole["messages"][0]["headers"], json!({"token": "vertraulich"}));
}

#[tokio::test]
async fn a_message_is_shown_whole_with_its_history() {
    let app = App::with(Does::Fail, "MAX_ATTEMPTS = 2\nMAX_BACKOFF = \"1ms\"").await;
    let sent = Message::json("a.b", &json!({"x": [1, 2]}))
        .unwrap()
        .with_key("k")
        .with_priority(3)
        .with_expiry(Duration::from_secs(3_600))
        .with_header("n", 7)
        .with_header("f", 1.5)
        .with_header("t", "7");
    let id = sent.id();
    app.send(vec![sent]).await;
    until_held(&app.outbox(), 0, 1).await;
    let shown = app.ok(&format!("/messages/{id}")).await;
    for (field, value) in [
        ("id", json!(id)),
        ("topic", json!("a.b")),
        ("key", json!("k")),
        ("state", json!("dead")),
        ("priority", json!(3)),
        ("expiry", json!("1h")),
        ("headers", json!({"n": 7, "f": 1.5, "t": "7"})),
        ("content_type", json!("application/json")),
        ("body", json!({"x": [1, 2]})),
        ("body_bytes", json!(11)),
    ] {
        assert_eq!(shown[field], value, "{field}");
    }
    assert!(shown["explain"].as_str().unwrap().starts_with("given up on: "), "{shown}");
    let failures = shown["failures"].as_array().unwrap();
    assert_eq!(failures.len(), 2, "{shown}");
    assert!(failures[0]["reason"].as_str().unwrap().contains("not now"));
    assert!(failures[1]["reason"].as_str().unwrap().contains("given up after 2 attempts"));
    humantime::parse_rfc3339(failures[0]["at"].as_str().unwrap()).unwrap();
}

#[tokio::test]
async fn the_next_attempt_is_shown() {
    let app = App::new(Does::Down).await;
    let delayed = message("a").with_delay(Duration::from_secs(1_000));
    let (id, time) = (delayed.id(), delayed.time());
    app.send(vec![delayed]).await;
    let shown = app.ok(&format!("/messages/{id}")).await;
    let next = humantime::parse_rfc3339(shown["next_attempt"].as_str().unwrap()).unwrap();
    assert_eq!(next.duration_since(time).unwrap().as_secs(), 1_000);
    assert_eq!((&shown["state"], &shown["explain"]), (&json!("pending"), &json!("its delay is not over")));
}

#[tokio::test]
async fn bodies_are_shown_as_json_text_or_base64() {
    let app = App::new(Does::Down).await;
    let text = Message::new("text", "hello\n☃").unwrap().with_content_type("text/plain");
    let bytes = Message::new("bytes", vec![0xff, 0]).unwrap();
    let ids = [text.id(), bytes.id()];
    app.send(vec![text, bytes]).await;
    assert_eq!(app.ok(&format!("/messages/{}", ids[0])).await["body_text"], "hello\n☃");
    assert_eq!(app.ok(&format!("/messages/{}", ids[1])).await["body_base64"], "/wA=");
}

#[tokio::test]
async fn a_message_that_is_not_there_is_not_found() {
    let app = App::new(Does::Take).await;
    let path = format!("/messages/{}", message("a").id());
    assert_refused(&app.get(&path).await, StatusCode::NOT_FOUND, "there is no message");
    assert_refused(&app.get("/messages/7").await, StatusCode::BAD_REQUEST, "not an id");
}

#[tokio::test]
async fn a_message_posted_leaves() {
    let app = App::new(Does::Take).await;
    let body =
        json!({"topic": "a.b", "body": {"x": 1}, "key": "k", "headers": {"n": 1, "f": 1.0}, "priority": 2});
    let (status, answer) = app.post("/messages", body).await;
    assert_eq!(status, StatusCode::ACCEPTED);
    until("it leaves", || async { app.sent.messages().len() == 1 }).await;
    let sent = &app.sent.messages()[0];
    assert_eq!(answer, json!({"ids": [sent.id()]}));
    assert_eq!(
        (sent.topic().as_str(), sent.body().as_ref(), sent.key()),
        ("a.b", &b"{\"x\":1}"[..], Some("k"))
    );
    assert_eq!((sent.header("n"), sent.header("f")), (Some(&1.into()), Some(&1.0.into())));
    assert_eq!((sent.content_type(), sent.priority()), ("application/json", Some(2)));
}

#[tokio::test]
async fn json_lines_are_stored_all_or_none() {
    let app = App::new(Does::Down).await;
    let lines = "{\"topic\": \"a\", \"body\": 1}\n\n{\"topic\": \"b\", \"body_text\": \"x\"}\n";
    let (status, answer) = call(&app.router, "POST", "/messages", Some(lines.to_owned())).await;
    assert_eq!((status, answer["ids"].as_array().unwrap().len()), (StatusCode::ACCEPTED, 2));
    for (second, part) in [
        ("{\"topic\": \"c c\", \"body\": 1}", "message 2: "),
        ("{\"topic\": \"c\"}", "message 2: a message needs a body"),
        ("{\"topic\": \"c\", \"body\": 1, \"kee\": \"k\"}", "unknown field `kee`"),
        ("{\"topic\": \"never.c\", \"body\": 1}", "message 2: it never passes"),
        ("{\"topic\": ", "message 2: EOF"),
    ] {
        let lines = format!("{{\"topic\": \"first\", \"body\": 1}}\n{second}");
        let refused = call(&app.router, "POST", "/messages", Some(lines)).await;
        assert_refused(&refused, StatusCode::BAD_REQUEST, part);
    }
    assert_eq!(app.topics("/messages").await, ["a", "b"]);
    let nothing = call(&app.router, "POST", "/messages", Some(" \n".to_owned())).await;
    assert_refused(&nothing, StatusCode::BAD_REQUEST, "no message");
}

/// A page of another site can make a browser send a form, but no JSON.
#[tokio::test]
async fn what_does_not_call_itself_json_is_refused() {
    let app = App::with_dead(["a"]).await;
    for path in ["messages", "requeue", "drop"] {
        for content_type in ["text/plain", "application/x-www-form-urlencoded", ""] {
            let body = json!({"filter": {}, "dry_run": false}).to_string();
            let request = Request::post(format!("/admin/outbox/{path}")).header("content-type", content_type);
            let refused = answer(&app.router, request.body(Body::from(body)).unwrap()).await;
            assert_refused(&refused, StatusCode::UNSUPPORTED_MEDIA_TYPE, "application/json");
        }
    }
    until_held(&app.outbox(), 0, 1).await;
    for content_type in ["application/json; charset=utf-8", "application/x-ndjson", "application/jsonl"] {
        let request = Request::post("/admin/outbox/messages").header("content-type", content_type);
        let body = Body::from("{\"topic\": \"a\", \"body\": 1}");
        assert_eq!(answer(&app.router, request.body(body).unwrap()).await.0, StatusCode::ACCEPTED);
    }
}

#[tokio::test]
async fn a_full_outbox_answers_503_and_when_to_come_again() {
    let app = App::with(Does::Down, "MAX_MESSAGES = 1").await;
    app.send(messages(["a"])).await;
    let request = Request::post("/admin/outbox/messages")
        .header("content-type", "application/json")
        .body(Body::from("{\"topic\": \"b\", \"body\": 1}"))
        .unwrap();
    let response = app.router.clone().oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(response.headers().contains_key("retry-after"));
    let text = text(response).await;
    assert!(text.contains("the outbox is full"), "{text}");
}

#[tokio::test]
async fn a_closed_outbox_answers_503() {
    let app = App::new(Does::Take).await;
    assert!(app.bus.shutdown(Duration::from_secs(5)).await.is_clean());
    let append = app.post("/messages", json!({"topic": "a", "body": 1})).await;
    assert_refused(&append, StatusCode::SERVICE_UNAVAILABLE, "closed");
    let drop = app.post("/drop", json!({"filter": {}, "dry_run": false})).await;
    assert_refused(&drop, StatusCode::SERVICE_UNAVAILABLE, "closed");
}

#[tokio::test]
async fn requeue_only_counts_unless_it_is_told_to_act() {
    let app = App::with_dead(["a.x", "a.y", "b"]).await;
    app.backend.set(Does::Take);
    let filter = json!({"topic": "a.*"});
    assert_eq!(app.acted("/requeue", json!({"filter": filter})).await, 2);
    assert_eq!(app.acted("/requeue", json!({"filter": filter, "dry_run": true})).await, 2);
    assert_eq!(app.topics("/messages?state=dead").await.len(), 3);
    assert_eq!(app.acted("/requeue", json!({"filter": filter, "dry_run": false})).await, 2);
    until_held(&app.outbox(), 0, 1).await;
    assert_eq!(app.sent.topics(), ["a.x", "a.y"]);
}

#[tokio::test]
async fn requeue_means_dead_letters_unless_it_is_told_otherwise() {
    let app = App::with_dead(["a"]).await;
    app.backend.set(Does::Down);
    app.send(messages(["pending"])).await;
    assert_eq!(app.acted("/requeue", json!({"filter": {}})).await, 1);
    assert_eq!(app.acted("/requeue", json!({"filter": {"state": "pending"}})).await, 1);
}

/// While the bus is down nothing leaves, so that the times can be looked at.
#[tokio::test]
async fn requeued_messages_leave_one_after_the_other() {
    let app = App::with_dead(["a", "b", "c"]).await;
    app.backend.set(Does::Down);
    assert_eq!(app.acted("/requeue", json!({"filter": {}, "dry_run": false, "rate": 0.01})).await, 3);
    let page = app.ok("/messages?state=pending").await;
    let next = |index: usize| {
        let next = page["messages"][index]["next_attempt"].as_str().expect("it is not due");
        humantime::parse_rfc3339(next).unwrap()
    };
    assert_eq!(next(2).duration_since(next(1)).unwrap().as_secs(), 100);
    assert!(next(1).duration_since(SystemTime::now()).unwrap() > Duration::from_secs(50));
    assert_eq!(page["messages"][0]["next_attempt"], Value::Null, "the first is due at once");
}

#[tokio::test]
async fn by_default_100_messages_a_second_are_requeued() {
    let app = App::new(Does::Reject).await;
    app.send((0..301).map(|_| message("a")).collect()).await;
    until_held(&app.outbox(), 0, 301).await;
    app.backend.set(Does::Down);
    assert_eq!(app.acted("/requeue", json!({"filter": {}, "dry_run": false})).await, 301);
    let last = app.ok("/messages?limit=500").await["messages"][300]["next_attempt"].clone();
    let wait = humantime::parse_rfc3339(last.as_str().unwrap()).unwrap().duration_since(SystemTime::now());
    assert!((1.0..=3.0).contains(&wait.unwrap().as_secs_f64()));
}

#[tokio::test]
async fn a_single_message_is_requeued_or_it_is_said_why_not() {
    let app = App::with_dead(["a", "b"]).await;
    app.backend.set(Does::Down);
    let delayed = message("late").with_delay(Duration::from_secs(1_000));
    let delayed_id = delayed.id();
    app.send(vec![delayed]).await;
    let act = |id: Value| json!({"filter": {"id": id}, "dry_run": false});
    let dead = app.ok("/messages?topic=b").await["messages"][0]["id"].clone();
    assert_eq!(app.acted("/requeue", act(dead.clone())).await, 1);
    assert_eq!(app.topics("/messages?state=dead").await, ["a"]);
    let refused = app.post("/requeue", act(json!(delayed_id))).await;
    assert_refused(&refused, StatusCode::CONFLICT, "its delay is not over");
    let unknown = json!(message("x").id());
    for body in [act(unknown.clone()), json!({"filter": {"id": unknown}})] {
        assert_refused(&app.post("/requeue", body).await, StatusCode::NOT_FOUND, "there is no message");
    }
}

/// A message that waits for its next attempt is due at once.
#[tokio::test]
async fn requeue_shortens_the_wait_for_the_next_attempt() {
    let app = App::with(Does::Fail, "MAX_BACKOFF = \"1h\"").await;
    // Its first attempts come soon; after some of them it waits for long.
    let one = message("a");
    let id = one.id();
    app.send(vec![one]).await;
    until("it waits for its next attempt", || async {
        let shown = app.ok(&format!("/messages/{id}")).await;
        shown["next_attempt"].as_str().is_some_and(|next| {
            let next = humantime::parse_rfc3339(next).unwrap();
            next.duration_since(SystemTime::now()).is_ok_and(|wait| wait > Duration::from_millis(200))
        })
    })
    .await;
    app.backend.set(Does::Down);
    assert_eq!(app.acted("/requeue", json!({"filter": {"id": id}, "dry_run": false})).await, 1);
    assert_eq!(app.ok(&format!("/messages/{id}")).await["next_attempt"], Value::Null);
    app.backend.set(Does::Take);
    until("it leaves", || async { app.sent.messages().len() == 1 }).await;
}

#[tokio::test]
async fn drop_only_counts_unless_it_is_told_to_act() {
    let app = App::with_dead(["a.x", "a.y", "b"]).await;
    app.backend.set(Does::Down);
    app.send(messages(["a.z"])).await;
    let filter = json!({"topic": "a.*"});
    assert_eq!(app.acted("/drop", json!({"filter": filter})).await, 3);
    assert_eq!(app.topics("/messages").await.len(), 4);
    let dead = json!({"topic": "a.*", "state": "dead"});
    assert_eq!(app.acted("/drop", json!({"filter": dead, "dry_run": false})).await, 2);
    assert_eq!(app.topics("/messages").await, ["b", "a.z"]);
    assert_eq!(app.acted("/drop", json!({"filter": {}, "dry_run": false})).await, 2);
    assert!(app.topics("/messages").await.is_empty());
}

#[tokio::test]
async fn a_single_message_is_dropped_or_it_is_said_why_not() {
    let app = App::with_dead(["a", "b"]).await;
    let id = app.ok("/messages?topic=a").await["messages"][0]["id"].clone();
    let act = json!({"filter": {"id": id}, "dry_run": false});
    assert_eq!(app.acted("/drop", act.clone()).await, 1);
    assert_eq!(app.topics("/messages").await, ["b"]);
    assert_refused(&app.post("/drop", act).await, StatusCode::NOT_FOUND, "there is no message");
}

#[tokio::test]
async fn a_message_being_sent_is_neither_dropped_nor_requeued() {
    let folder = tempfile::tempdir().unwrap();
    let (messenger, gate, sent) = held();
    let bus = durable(folder.path(), messenger, "").await;
    let router = nested(&bus);
    let one = message("a");
    let id = one.id();
    bus.messenger().send(vec![one]).await.unwrap();
    gate.begun().await;
    let body = json!({"filter": {"id": id}, "dry_run": false}).to_string();
    let refused = call(&router, "POST", "/drop", Some(body.clone())).await;
    assert_refused(&refused, StatusCode::CONFLICT, "is being sent and cannot be dropped");
    let refused = call(&router, "POST", "/requeue", Some(body)).await;
    assert_refused(&refused, StatusCode::CONFLICT, "being sent now");
    gate.open();
    until("it leaves", || async { sent.messages().len() == 1 }).await;
}

#[tokio::test]
async fn requeue_and_drop_asked_wrongly_do_nothing() {
    let app = App::with_dead(["a"]).await;
    let act = |more: Value| {
        let mut body = json!({"filter": {}, "dry_run": false});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    for (path, body, part) in [
        ("/requeue", act(json!({"rate": 0})), "at least 0.001"),
        ("/requeue", act(json!({"rate": -1})), "at least 0.001"),
        ("/requeue", act(json!({"rate": 1e-300})), "at least 0.001"),
        ("/requeue", act(json!({"dryrun": true})), "unknown field `dryrun`"),
        ("/requeue", act(json!({"filter": {"topics": "a"}})), "unknown field `topics`"),
        ("/requeue", json!({"dry_run": false}), "either filter or positions"),
        ("/drop", json!({"dry_run": false}), "either filter or positions"),
        ("/drop", act(json!({"rate": 1})), "unknown field `rate`"),
        ("/drop", act(json!({"filter": {"older_than": "soon"}})), "not a duration"),
        ("/drop", act(json!({"filter": {"state": "gone"}})), "unknown variant `gone`"),
        ("/drop", json!([]), "invalid"),
    ] {
        assert_refused(&app.post(path, body).await, StatusCode::BAD_REQUEST, part);
    }
    let nothing = call(&app.router, "POST", "/drop", None).await;
    assert_refused(&nothing, StatusCode::BAD_REQUEST, "EOF");
    until_held(&app.outbox(), 0, 1).await;
}

#[tokio::test]
async fn a_wrong_route_or_method_is_said_in_json() {
    let app = App::new(Does::Take).await;
    assert_refused(&app.get("").await, StatusCode::NOT_FOUND, "there are GET status");
    assert_refused(&app.get("/nonsense").await, StatusCode::NOT_FOUND, "there are GET status");
    for (method, path) in [("GET", "/drop"), ("DELETE", "/messages"), ("POST", "/status")] {
        let refused = call(&app.router, method, path, None).await;
        assert_refused(&refused, StatusCode::METHOD_NOT_ALLOWED, "POST messages, consumers, requeue");
    }
}
