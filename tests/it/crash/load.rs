//! Clients that keep an app busy through all its lives, and write down what they were told.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::ledger::{Arrival, Ledger, Outcome, Verdict};
use super::random::Random;

/// How many keys a client uses by turns.
const KEYS: usize = 3;

/// RabbitMQ keeps messages of 4 KiB and more apart from smaller ones. Killed, it may forget one kind and keep the other of
/// what it had not confirmed; what is sent again then comes behind what should follow it.
const PADDING: u64 = 3_000;

/// How long an answer may take, of an app that lives.
const ANSWER: Duration = Duration::from_secs(30);

pub struct Load {
    shared: Arc<Shared>,
    app: watch::Sender<Option<SocketAddr>>,
    _clients: JoinSet<()>,
}

struct Shared {
    topic: Mutex<String>,
    /// Each request inserts a row of its number, in a database that may be away: then it may be answered 503 or 500.
    with_rows: bool,
    ledger: Mutex<Ledger>,
    round: AtomicUsize,
    /// Answers that were not those asked for.
    unexpected: Mutex<Vec<String>>,
}

impl Load {
    /// Clients that wait for an app.
    pub fn start(clients: usize, with_rows: bool, random: &mut Random) -> Self {
        let shared = Arc::new(Shared {
            topic: Mutex::default(),
            with_rows,
            ledger: Mutex::default(),
            round: AtomicUsize::new(0),
            unexpected: Mutex::default(),
        });
        let (app, address) = watch::channel(None);
        let mut tasks = JoinSet::new();
        for _ in 0..clients {
            tasks.spawn(Client::new(Arc::clone(&shared), random.fork()).run(address.clone()));
        }
        Self { shared, app, _clients: tasks }
    }

    /// The topic of what is asked from now on.
    pub fn set_topic(&self, topic: &str) {
        topic.clone_into(&mut self.shared.topic.lock().unwrap());
    }

    /// Where the app listens in this round; none while it must not get new connections.
    pub fn aim(&self, round: usize, address: Option<SocketAddr>) {
        self.shared.round.store(round, Ordering::Relaxed);
        self.app.send_replace(address);
    }

    pub fn verdict(&self, arrivals: &[Arrival]) -> Verdict {
        self.shared.ledger.lock().unwrap().verdict(arrivals)
    }

    pub fn torn(&self, rows: &BTreeSet<u64>, arrivals: &[Arrival]) -> Vec<String> {
        self.shared.ledger.lock().unwrap().torn(rows, arrivals)
    }

    pub fn describe(&self, arrivals: &[Arrival]) -> String {
        self.shared.ledger.lock().unwrap().describe(arrivals)
    }

    pub fn unexpected(&self) -> Vec<String> {
        self.shared.unexpected.lock().unwrap().clone()
    }
}

/// The requests to the app beside some messages.
enum Wish {
    /// This answer, after this many milliseconds.
    Answer { status: u16, sleep: Option<u64> },
    /// A panic, which is answered 500.
    Panic,
    /// Nothing more: the client is gone before it has sent everything.
    HalfAsked,
    /// An answer after this many milliseconds, of which the client waits for so many only.
    HangUp { sleep: u64, patience: u64 },
}

impl Wish {
    fn choose(random: &mut Random) -> Self {
        let sleep = random.percent(10).then(|| random.in_range(1..50));
        match random.in_range(0..100) {
            0..8 => Self::Answer { status: 500, sleep },
            8..14 => Self::Answer { status: 422, sleep },
            14..18 => Self::Panic,
            18..20 => Self::HalfAsked,
            20..24 => Self::HangUp { sleep: sleep.unwrap_or_default(), patience: random.in_range(0..10) },
            _ => Self::Answer { status: 201, sleep },
        }
    }

    /// The answer it gets when all goes well.
    fn status(&self) -> u16 {
        match self {
            Self::Answer { status, .. } => *status,
            Self::Panic => 500,
            Self::HalfAsked | Self::HangUp { .. } => 201,
        }
    }

    fn query(&self) -> String {
        match self {
            Self::Answer { status, sleep: None } => format!("&status={status}"),
            Self::Answer { status, sleep: Some(sleep) } => format!("&status={status}&sleep_ms={sleep}"),
            Self::Panic => "&panic=1".to_owned(),
            Self::HalfAsked => String::new(),
            Self::HangUp { sleep, .. } => format!("&sleep_ms={sleep}"),
        }
    }
}

struct Client {
    shared: Arc<Shared>,
    random: Random,
    /// Each with the number of its next message.
    keys: [(u64, u64); KEYS],
}

impl Client {
    fn new(shared: Arc<Shared>, random: Random) -> Self {
        let keys = std::array::from_fn(|_| (shared.ledger.lock().unwrap().key(), 0));
        Self { shared, random, keys }
    }

    async fn run(mut self, mut app: watch::Receiver<Option<SocketAddr>>) {
        loop {
            let Ok(address) = app.wait_for(Option::is_some).await.map(|address| address.unwrap()) else {
                return;
            };
            let Ok(stream) = TcpStream::connect(address).await else {
                // It is being killed.
                sleep(Duration::from_millis(5)).await;
                continue;
            };
            stream.set_nodelay(true).unwrap();
            let mut stream = BufReader::new(stream);
            // As long as it lives, and the connection with it.
            while *app.borrow() == Some(address) && self.ask(&mut stream).await {
                if self.random.percent(50) {
                    sleep(Duration::from_millis(self.random.in_range(0..10))).await;
                }
            }
        }
    }

    /// Whether the connection can be used again.
    async fn ask(&mut self, stream: &mut BufReader<TcpStream>) -> bool {
        let wish = Wish::choose(&mut self.random);
        let (turn, messages) = (self.random.in_range(0..KEYS as u64) as usize, self.random.in_range(1..4));
        let (key, first) = self.keys[turn];
        let id = {
            let round = self.shared.round.load(Ordering::Relaxed);
            self.shared.ledger.lock().unwrap().begin(key, first, messages, round)
        };
        self.keys[turn].1 += messages;
        let large = self.random.percent(20);
        let padding = "x".repeat(self.random.in_range(0..if large { PADDING } else { 500 }) as usize);
        let body = format!(r#"{{"request":{id},"key":{key},"first":{first},"padding":"{padding}"}}"#);
        let row = if self.shared.with_rows { format!("&row={id}") } else { String::new() };
        let request = format!(
            "POST /events/{}?n={messages}&key=key-{key}{}{row} HTTP/1.1\r\nhost: app\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            self.shared.topic.lock().unwrap(),
            wish.query(),
            body.len()
        );
        let patience = match wish {
            Wish::HalfAsked => {
                self.end(id, Outcome::Refused);
                let _ = stream.write_all(&request.as_bytes()[..request.len() - body.len() / 2]).await;
                self.keys[turn] = self.new_key();
                return false;
            }
            Wish::HangUp { patience, .. } => Duration::from_millis(patience),
            _ => ANSWER,
        };
        if stream.write_all(request.as_bytes()).await.is_err() {
            return false;
        }
        let mut status = None;
        let answered = timeout(patience, answer(stream, &mut status)).await;
        // The database may have been lost while it committed.
        let unknown = self.shared.with_rows && matches!(status, Some(500 | 503)) && wish.status() == 201;
        if unknown {
            self.keys[turn] = self.new_key();
        } else if let Some(status) = status {
            let accepted = (200..300).contains(&status);
            self.end(id, if accepted { Outcome::Accepted } else { Outcome::Refused });
            // Without a database no handler comes to its end.
            if !(self.shared.with_rows && status == 503) {
                self.expect(id, &wish, &status.to_string());
            }
        }
        match answered {
            Ok(answered) => answered.is_ok(),
            Err(_) => {
                if patience == ANSWER {
                    self.expect(id, &wish, "nothing");
                }
                // The app may still be at it: what comes after it on another connection has no order with it.
                self.keys[turn] = self.new_key();
                false
            }
        }
    }

    fn new_key(&self) -> (u64, u64) {
        (self.shared.ledger.lock().unwrap().key(), 0)
    }

    fn end(&self, id: u64, outcome: Outcome) {
        self.shared.ledger.lock().unwrap().end(id, outcome);
    }

    fn expect(&self, id: u64, wish: &Wish, answer: &str) {
        let expected = wish.status();
        if answer != expected.to_string() {
            let text = format!("request {id} was answered {answer}, and asked for {expected}");
            self.shared.unexpected.lock().unwrap().push(text);
        }
    }
}

/// Reads one answer; its status counts even when the connection breaks after it.
async fn answer(stream: &mut BufReader<TcpStream>, status: &mut Option<u16>) -> io::Result<()> {
    let broken = || io::Error::from(io::ErrorKind::UnexpectedEof);
    let mut length = 0;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        let line = line.strip_suffix("\r\n").ok_or_else(broken)?;
        if status.is_none() {
            let code = line.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)).ok_or_else(broken)?;
            *status = Some(code.parse().map_err(|_| broken())?);
        } else if line.is_empty() {
            break;
        } else if let Some(value) = line.strip_prefix("content-length: ") {
            length = value.parse().map_err(|_| broken())?;
        }
    }
    stream.read_exact(&mut vec![0; length]).await?;
    Ok(())
}
