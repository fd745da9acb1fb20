//! Shared by the benches: the services they compare, and the middle of many figures.
#![allow(dead_code, reason = "each bench is a crate of its own and uses a part")]

pub(crate) mod broker;
pub(crate) mod disk;
pub(crate) mod group_commit;
pub(crate) mod latency;
pub(crate) mod load;
pub(crate) mod raw;
pub(crate) mod relay;

use std::convert::Infallible;
use std::fmt;
use std::future::ready;
use std::hint::black_box;
use std::path::PathBuf;
use std::sync::Arc;

use axum::body::Body;
use axum::http::header::{ACCEPT, HOST, USER_AGENT};
use axum::http::{Request, Response};
use axum::routing::get;
use axum::{Extension, Router};
use bytes::Bytes;
use futures_util::FutureExt;
use serde::Serialize;
use tower::{Service, ServiceExt, service_fn};
use tower_http::add_extension::AddExtensionLayer;
use tower_outbox::{Message, MessageQueue, MessagingLayer, Messenger, Unsent, async_trait};

/// Confirms everything at once.
pub(crate) struct NoOp;

#[async_trait]
impl Messenger for NoOp {
    async fn send(&self, _: Vec<Message>) -> Result<(), Unsent> {
        Ok(())
    }
}

/// A file of the workspace, by its path below the root.
pub(crate) fn root(path: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join(path)
}

/// Whether the command line asks for a short run (`--quick`), whose figures say little.
pub(crate) fn quick() -> bool {
    std::env::args().any(|argument| argument == "--quick")
}

/// Whether a part of the bench is to run: it is named, or none is.
pub(crate) fn asked(part: &str) -> bool {
    let mut parts = std::env::args().skip(1).filter(|argument| !argument.contains('-')).peekable();
    parts.peek().is_none() || parts.any(|argument| argument == part)
}

/// Seconds of processor time this process has used, in steps of a hundredth.
pub(crate) fn processor_time() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("this is Linux");
    let (_, fields) = stat.rsplit_once(')').expect("it has a name");
    let ticks = fields.split_whitespace().skip(11).take(2);
    ticks.map(|ticks| ticks.parse::<f64>().expect("it is a number")).sum::<f64>() / 100.0
}

/// The event of the benches: 300 bytes as JSON.
#[derive(Clone, Serialize)]
pub(crate) struct Event {
    id: u32,
    text: String,
}

impl Event {
    pub(crate) fn new() -> Self {
        let empty = r#"{"id":7,"text":""}"#;
        Self { id: 7, text: "x".repeat(300 - empty.len()) }
    }

    pub(crate) fn bytes(&self) -> Bytes {
        let mut bytes = Vec::with_capacity(512);
        serde_json::to_writer(&mut bytes, self).expect("it is JSON");
        assert_eq!(bytes.len(), 300);
        bytes.into()
    }

    pub(crate) fn message(&self) -> Message {
        Message::json("bench.event", self).expect("the topic is one")
    }
}

/// The layers before the handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Variant {
    /// Nothing.
    Bare,
    /// tower-http's `AddExtensionLayer` with an `Arc<String>`.
    Extension,
    /// `MessagingLayer`; the handler enqueues nothing.
    Messaging,
    /// `MessagingLayer`; the handler enqueues one message made of bytes that are there already.
    Bytes,
    /// `MessagingLayer`; the handler serialises and enqueues one event.
    Message,
    /// As `Extension`; the handler takes the value and serialises one event, which goes nowhere: what the variant
    /// `Message` costs without this crate.
    Json,
}

impl Variant {
    pub(crate) const ALL: [Self; 6] =
        [Self::Bare, Self::Extension, Self::Messaging, Self::Bytes, Self::Message, Self::Json];
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Bare => "bare",
            Self::Extension => "extension",
            Self::Messaging => "messaging",
            Self::Bytes => "bytes",
            Self::Message => "message",
            Self::Json => "json",
        })
    }
}

pub(crate) fn extension() -> AddExtensionLayer<Arc<String>> {
    AddExtensionLayer::new(Arc::new("value".to_owned()))
}

pub(crate) fn messaging() -> MessagingLayer {
    MessagingLayer::new(NoOp)
}

/// `GET /` says hello; with a message where the variant has one.
///
/// With its state given, as servers give it: otherwise axum puts the layers together for each request.
pub(crate) fn router(variant: Variant) -> Router {
    stateful(variant).with_state(())
}

fn stateful(variant: Variant) -> Router {
    let hello = Router::new().route("/", get(|| async { "Hello, World!" }));
    let event = Arc::new(Event::new());
    match variant {
        Variant::Bare => hello,
        Variant::Extension => hello.layer(extension()),
        Variant::Messaging => hello.layer(messaging()),
        Variant::Bytes => {
            let bytes = event.bytes();
            let handler = async move |queue: MessageQueue| {
                let message = Message::new("bench.event", bytes.clone()).expect("the topic is one");
                queue.enqueue(message).expect("the queue is open");
                "Hello, World!"
            };
            Router::new().route("/", get(handler)).layer(messaging())
        }
        Variant::Message => {
            let handler = async move |queue: MessageQueue| {
                queue.enqueue(event.message()).expect("the queue is open");
                "Hello, World!"
            };
            Router::new().route("/", get(handler)).layer(messaging())
        }
        Variant::Json => {
            let handler = async move |Extension(value): Extension<Arc<String>>| {
                black_box((value, event.bytes()));
                "Hello, World!"
            };
            Router::new().route("/", get(handler)).layer(extension())
        }
    }
}

/// A request with the headers that most have.
pub(crate) fn request<B: Default>() -> Request<B> {
    let request = Request::get("/")
        .header(HOST, "localhost:3000")
        .header(USER_AGENT, "curl/8.5.0")
        .header(ACCEPT, "*/*");
    request.body(B::default()).expect("it is a request")
}

/// One request through a clone of the router; nothing in it waits, so one poll is enough.
pub(crate) fn one_shot(router: &Router, request: Request<Body>) -> Response<Body> {
    let response = router.clone().oneshot(request).now_or_never();
    response.expect("nothing in it waits").expect("it is infallible")
}

/// A plain tower service: no body, no routing, no box.
pub(crate) fn plain() -> impl Service<Request<()>, Response = Response<()>, Error = Infallible> + Clone {
    service_fn(|_: Request<()>| ready(Ok(Response::new(()))))
}

/// One request through a service that is always ready and never waits.
pub(crate) fn call_plain<S, B>(service: &mut S, request: Request<()>) -> Response<B>
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible>,
{
    let response = service.call(black_box(request)).now_or_never();
    response.expect("nothing in it waits").expect("it is infallible")
}

/// The middle of the figures, and where their middle half lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spread {
    pub(crate) low: f64,
    pub(crate) median: f64,
    pub(crate) high: f64,
}

impl Spread {
    pub(crate) fn of(mut figures: Vec<f64>) -> Self {
        figures.sort_by(f64::total_cmp);
        let at = |part: f64| figures[((figures.len() - 1) as f64 * part).round() as usize];
        Self { low: at(0.25), median: at(0.5), high: at(0.75) }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let places = f.precision().unwrap_or(2);
        write!(f, "{:.places$} ({:.places$} to {:.places$})", self.median, self.low, self.high)
    }
}
