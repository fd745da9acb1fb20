//! The examples, run as a user runs them.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::peers::{Brokers, RabbitQueue, sequence, unique};

/// An example's process, and what it has said.
struct Example {
    child: Child,
    output: BufReader<tokio::process::ChildStdout>,
    said: String,
}

impl Example {
    fn start(name: &str, args: &[&str], environment: &[(&str, &str)]) -> Self {
        // target/debug/deps/it-.. stands beside target/debug/examples.
        let mut path: PathBuf = std::env::current_exe().unwrap();
        path.pop();
        path.pop();
        let path = path.join("examples").join(name);
        assert!(path.exists(), "{} is built by `cargo build --examples`, and by cargo test", path.display());
        let mut command = Command::new(path);
        command.args(args).envs(environment.iter().copied()).env("NO_COLOR", "1").kill_on_drop(true);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, output, said: String::new() }
    }

    /// Reads lines until one has this text, and gives what follows it.
    async fn said(&mut self, text: &str) -> String {
        let found = timeout(Duration::from_secs(20), async {
            loop {
                let mut line = String::new();
                assert!(self.output.read_line(&mut line).await.unwrap() > 0, "it ended: {}", self.said);
                self.said += &line;
                if let Some((_, rest)) = line.split_once(text) {
                    return rest.to_owned();
                }
            }
        });
        found.await.unwrap_or_else(|_| panic!("it says {text:?}: {}", self.said))
    }

    /// The address that follows this text.
    async fn address_in(&mut self, text: &str) -> String {
        self.said(text).await.split(['/', ' ', '\n']).next().unwrap().to_owned()
    }

    /// Ends it by signal; gives its exit code and all it said on both outputs.
    async fn end(mut self, signal: &str) -> (Option<i32>, String) {
        let pid = self.child.id().unwrap().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().await.unwrap().success());
        let mut stderr = self.child.stderr.take().unwrap();
        self.output.read_to_string(&mut self.said).await.unwrap();
        stderr.read_to_string(&mut String::new()).await.unwrap();
        (self.child.wait().await.unwrap().code(), self.said)
    }
}

/// One request over a connection of its own: status and body.
async fn request(address: &str, request: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "{request} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + body).as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap_or_else(|| panic!("a response: {response:?}"));
    (head[9..12].parse().unwrap(), body.to_owned())
}

#[tokio::test]
async fn quickstart_does_what_the_readme_says() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("outbox");
    let environment = [("MESSAGE_BUS__OUTBOX__PATH", path.to_str().unwrap())];
    let mut example = Example::start("quickstart", &["127.0.0.1:0"], &environment);
    let address = example.address_in("http://").await;
    assert_eq!(request(&address, "POST /users", r#"{"name": "Jo"}"#).await.0, 201);
    assert_eq!(request(&address, "POST /users", r#"{"name": ""}"#).await.0, 422);
    let (code, said) = example.end("-INT").await;
    assert_eq!(code, Some(0), "{said}");
    let lines = |text: &str| said.lines().filter(|line| line.contains(text)).count();
    assert_eq!((lines("tower_outbox::backends::dummy"), lines("reason")), (1, 1), "{said}");
    assert!(said.contains("curl -si http://127.0.0.1:"), "{said}");
}

const ANSWERS: [&str; 3] = [
    r#"apple: 200 OK {"cents":50,"product":"apple"}"#,
    "pear: 404 Not Found",
    "truffle: 504 Gateway Timeout",
];

#[tokio::test]
async fn two_services_ask_and_answer_in_memory() {
    let mut example = Example::start("request_reply", &[], &[]);
    for answer in ANSWERS {
        example.said(answer).await;
    }
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn two_services_ask_and_answer_over_nats() {
    let (brokers, prefix) = (Brokers::running(), unique("offers"));
    let environment =
        [("MESSAGE_BUS__URLS", brokers.get("NATS1")), ("MESSAGE_BUS__TOPIC_PREFIX", prefix.as_str())];
    let settings = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/request_reply.toml");
    let mut example = Example::start("request_reply", &[settings], &environment);
    for answer in ANSWERS {
        example.said(answer).await;
    }
}

/// A request whose body never ends holds the first signal up.
#[tokio::test]
async fn a_second_ctrl_c_ends_the_wait_for_requests() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("outbox");
    let environment = [("MESSAGE_BUS__OUTBOX__PATH", path.to_str().unwrap())];
    let mut example = Example::start("quickstart", &["127.0.0.1:0"], &environment);
    let address = example.address_in("http://").await;
    let mut stream = TcpStream::connect(&address).await.unwrap();
    let head = format!(
        "POST /users HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\nexpect: 100-continue\r\ncontent-length: 9\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.read_exact(&mut [0; 12]).await.unwrap();
    let begun = std::time::Instant::now();
    let pid = example.child.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().await.unwrap().success());
    example.said("received the signal to stop").await;
    let (code, said) = example.end("-INT").await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("received a second signal") && begun.elapsed() < Duration::from_secs(5), "{said}");
}

#[tokio::test]
async fn transactional_commits_a_user_and_its_event_or_neither() {
    let mut example = Example::start("transactional", &["127.0.0.1:0"], &[]);
    let address = example.address_in("listening on http://").await;
    assert_eq!(request(&address, "POST /users", "Jo").await.0, 201);
    assert_eq!(request(&address, "POST /users", "Jo").await.0, 409);
    example.said("tower_outbox::backends::dummy").await;
    let (code, said) = example.end("-INT").await;
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(said.matches("tower_outbox::backends::dummy").count(), 1, "{said}");
}

#[tokio::test]
async fn custom_messenger_runs_to_its_end() {
    let example = Example::start("custom_messenger", &[], &[]);
    let output = example.child.wait_with_output();
    let mut said = String::new();
    let mut reader = example.output;
    reader.read_to_string(&mut said).await.unwrap();
    assert!(output.await.unwrap().status.success());
    assert!(said.contains("user.created"), "{said}");
}

#[tokio::test]
async fn demo_says_what_is_wrong_with_its_settings() {
    for (environment, text) in [
        (("MESSAGE_BUS__BACKEND", "rhmsq"), "\"rhmsq\" is not known"),
        (("MESSAGE_BUS__DELIVRY", "direct"), "unknown key DELIVRY"),
        (("MESSAGE_BUS__DELIVERY", "sometimes"), "expected one of `direct`, `background`, `durable`"),
    ] {
        let mut example = Example::start("demo", &["--listen", "127.0.0.1:0"], &[environment]);
        let mut said = String::new();
        example.child.stderr.take().unwrap().read_to_string(&mut said).await.unwrap();
        assert_eq!(example.child.wait().await.unwrap().code(), Some(2));
        assert!(said.contains(text), "{said}");
    }
}

#[tokio::test]
async fn demo_does_what_a_request_asks_for() {
    let environment = [("MESSAGE_BUS__REQUEST__MAX_MESSAGES", "10")];
    let mut example = Example::start("demo", &["--listen", "127.0.0.1:0"], &environment);
    let address = example.address_in("listening on http://").await;
    for (query, body, status) in [
        ("a.b", "{}", 201),
        ("a.b?n=3", "{}", 201),
        ("a.b?status=422", "{}", 422),
        ("a.b?panic=1", "{}", 500),
        ("a.b?late=1", "{}", 201),
        ("a.b?sleep_ms=1", "{}", 201),
        ("a.b?n=11", "{}", 413),
        ("a.b", "{", 400),
        ("a..b", "{}", 422),
    ] {
        let (found, text) = request(&address, &format!("POST /events/{query}"), body).await;
        assert_eq!(found, status, "{query}: {text}");
    }
    assert_eq!(request(&address, "GET /health", "").await.0, 200);
    let mut metrics = String::new();
    for _ in 0..100 {
        metrics = request(&address, "GET /metrics", "").await.1;
        if metrics.contains("demo_late_total") {
            break;
        }
    }
    for line in [
        "tower_outbox_sent_total{backend=\"dummy\"} 5",
        "tower_outbox_dropped_total{reason=\"status\"} 11",
        "tower_outbox_dropped_total{reason=\"panic\"} 1",
        "demo_late_total{outcome=\"closed\"} 1",
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
    assert_eq!(example.end("-TERM").await.0, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn demo_sends_to_a_broker_behind_the_response_and_ends_in_order() {
    let brokers = Brokers::running();
    let topic = unique("demo");
    let queue = RabbitQueue::declare(&brokers, "RABBIT1_AMQP", &topic).await;
    let environment = [
        ("MESSAGE_BUS__BACKEND", "amqp10"),
        ("MESSAGE_BUS__DELIVERY", "background"),
        ("MESSAGE_BUS__URLS", brokers.get("RABBIT1_AMQP")),
        ("MESSAGE_BUS__ADDRESS", "/topic/{topic}"),
    ];
    let mut example = Example::start("demo", &["--listen", "127.0.0.1:0"], &environment);
    let address = example.address_in("listening on http://").await;
    let (status, text) = request(&address, &format!("POST /events/{topic}?n=1000"), "{}").await;
    assert_eq!(status, 201, "{text}");
    let (code, said) = example.end("-TERM").await;
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(sequence(&queue.drain().await), (0..1000).collect::<Vec<_>>());
}

/// The README's words on the quickstart: stop the broker, events wait; start it, they leave.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs brokers: ./scripts/test"]
async fn failover_of_the_quickstart_events_wait_for_a_stopped_broker_and_then_leave() {
    let brokers = Brokers::all_up().await;
    let queue = RabbitQueue::declare(&brokers, "RABBIT2_AMQP", "user.created").await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("outbox");
    let environment = [
        ("MESSAGE_BUS__OUTBOX__PATH", path.to_str().unwrap()),
        ("MESSAGE_BUS__BACKEND", "amqp091"),
        ("MESSAGE_BUS__URLS", brokers.get("RABBIT2_AMQP")),
    ];
    let mut example = Example::start("quickstart", &["127.0.0.1:0"], &environment);
    let address = example.address_in("http://").await;
    let create = async |name: usize, status| {
        let body = format!(r#"{{"name": "{name}"}}"#);
        assert_eq!(request(&address, "POST /users", &body).await.0, status);
    };
    create(0, 201).await;
    brokers.command("stop rabbit2").await;
    for name in 1..=20 {
        create(name, 201).await;
    }
    brokers.command("start rabbit2").await;
    while queue.count().await < 21 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let (code, said) = example.end("-INT").await;
    assert_eq!(code, Some(0), "{said}");
    let is_open = |line: &str| line.contains("WARN") && line.contains("tower_outbox::outbox");
    assert!(said.lines().any(is_open), "{said}");
    let names: Vec<String> = queue
        .drain()
        .await
        .iter()
        .map(|message| {
            let body: serde_json::Value = serde_json::from_str(message["body"].as_str().unwrap()).unwrap();
            body["name"].as_str().unwrap().to_owned()
        })
        .collect();
    let mut first = Vec::new();
    names.into_iter().for_each(|name| {
        if !first.contains(&name) {
            first.push(name)
        }
    });
    assert_eq!(first, (0..=20).map(|name| name.to_string()).collect::<Vec<_>>());
}
