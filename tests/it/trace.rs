//! One trace from a request to its consumers, as an app with OpenTelemetry records it.

use std::cell::Cell;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Once;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use axum::routing::post;
use opentelemetry::propagation::TextMapCompositePropagator;
use opentelemetry::trace::{SpanId, SpanKind, Status, TraceContextExt, TracerProvider};
use opentelemetry::{Value, global};
use opentelemetry_sdk::propagation::{BaggagePropagator, TraceContextPropagator};
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider, SpanData};
use tower::ServiceExt;
use tower_outbox::testing::Memory;
use tower_outbox::trace::{self, Relation};
use tower_outbox::{Bus, Consumer, Delivery, Message, MessageQueue, Messenger, Settings};
use tracing::subscriber::DefaultGuard;
use tracing::{Instrument, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;

use crate::peers::{Brokers, unique};
use crate::support::stores::until;

const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

thread_local! {
    /// Whether the app of this thread writes contexts in the format of Zipkin.
    static B3: Cell<bool> = const { Cell::new(false) };
}

fn b3(context: &opentelemetry::Context) -> String {
    let span = context.span().span_context().clone();
    format!("{}-{}-1", span.trace_id(), span.span_id())
}

/// The four lines of the app.
fn propagate() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let all: Vec<Box<dyn opentelemetry::propagation::TextMapPropagator + Send + Sync>> =
            vec![Box::new(TraceContextPropagator::new()), Box::new(BaggagePropagator::new())];
        global::set_text_map_propagator(TextMapCompositePropagator::new(all));
        trace::set_propagation(
            |span, headers| {
                let context = span.context();
                match B3.get() {
                    true => drop(headers.insert("b3".to_owned(), b3(&context))),
                    false => global::get_text_map_propagator(|all| all.inject_context(&context, headers)),
                }
            },
            |span, headers, relation| {
                let context = global::get_text_map_propagator(|all| all.extract(headers));
                match relation {
                    Relation::Parent => drop(span.set_parent(context)),
                    Relation::Link => span.add_link(context.span().span_context().clone()),
                }
            },
        );
    });
}

/// The spans of this thread.
struct Recorded {
    exporter: InMemorySpanExporter,
    provider: SdkTracerProvider,
    _default: DefaultGuard,
}

impl Recorded {
    fn start() -> Self {
        propagate();
        let exporter = InMemorySpanExporter::default();
        let provider = SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).build();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        let subscriber = tracing_subscriber::registry().with(LevelFilter::INFO).with(layer);
        Self { exporter, provider, _default: tracing::subscriber::set_default(subscriber) }
    }

    fn spans(&self) -> Vec<SpanData> {
        let _ = self.provider.force_flush();
        self.exporter.get_finished_spans().unwrap()
    }

    fn all(&self, name: &str) -> Vec<SpanData> {
        self.spans().into_iter().filter(|span| span.name == name).collect()
    }

    fn one(&self, name: &str) -> SpanData {
        let mut found = self.all(name);
        assert_eq!(found.len(), 1, "{name}: {:#?}", self.names());
        found.remove(0)
    }

    fn names(&self) -> Vec<String> {
        self.spans().iter().map(|span| format!("{} in {}", span.name, span.span_context.trace_id())).collect()
    }
}

fn id(span: &SpanData) -> SpanId {
    span.span_context.span_id()
}

fn trace_of(span: &SpanData) -> String {
    span.span_context.trace_id().to_string()
}

fn attribute(span: &SpanData, key: &str) -> String {
    let found = span.attributes.iter().find(|attribute| attribute.key.as_str() == key);
    found.map_or_else(String::new, |attribute| match &attribute.value {
        Value::I64(number) => number.to_string(),
        value => value.as_str().into_owned(),
    })
}

/// The HTTP layer of an app: a span of the server in the trace of the client.
async fn server(request: Request, next: Next) -> Response {
    let span = tracing::info_span!("server", otel.kind = "server");
    let text = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
        Some((name.to_string(), value.to_str().ok()?.to_owned()))
    };
    let headers: HashMap<String, String> = request.headers().iter().filter_map(text).collect();
    let _ = span.set_parent(global::get_text_map_propagator(|all| all.extract(&headers)));
    next.run(request).instrument(span).await
}

async fn place_order(queue: MessageQueue) -> StatusCode {
    queue.enqueue(Message::json("order.placed", &7).unwrap()).unwrap();
    StatusCode::CREATED
}

fn request() -> Request {
    Request::post("/orders")
        .header("traceparent", TRACEPARENT)
        .header("tracestate", "vendor=1")
        .header("baggage", "tenant=acme")
        .body(Body::empty())
        .unwrap()
}

fn settings(delivery: &str, folder: &Path, url: &str, prefix: &str, queue: &str) -> Settings {
    let text = format!(
        "BACKEND = \"amqp091\"\nURLS = {url:?}\nDELIVERY = {delivery:?}\nTOPIC_PREFIX = {prefix:?}\n\
         [OUTBOX]\nPATH = {:?}\n\
         [CONSUMERS.orders]\nQUEUE = {queue:?}\nBINDINGS = [\"order.*\"]\n",
        folder.display().to_string()
    );
    toml::from_str(&text).unwrap()
}

async fn invoice(queue: MessageQueue, delivery: Delivery) -> StatusCode {
    if delivery.attempt() == 1 {
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    queue.enqueue(Message::json("order.invoiced", &7).unwrap()).unwrap();
    StatusCode::NO_CONTENT
}

async fn invoiced(delivery: Delivery) {
    assert_eq!(delivery.message().header("baggage").and_then(|bag| bag.as_str()), Some("tenant=acme"));
    assert_eq!(delivery.message().header("tracestate").and_then(|state| state.as_str()), Some("vendor=1"));
}

#[tokio::test]
#[ignore = "needs brokers: ./scripts/test"]
async fn one_trace_from_a_request_to_the_follow_up_over_a_restart() {
    let brokers = Brokers::running();
    let rabbit = brokers.get("RABBIT1_AMQP");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("outbox");
    let (queue, prefix) = (unique("trace"), unique("trace"));
    let settings = |delivery, url| settings(delivery, &path, url, &prefix, &queue);

    let invoicing = Bus::start(&settings("direct", rabbit)).await.unwrap();
    let (ready, mut is_ready) = tokio::sync::watch::channel(false);
    let handlers =
        Router::new().route("/order/placed", post(invoice)).route("/order/invoiced", post(invoiced)).route(
            "/order/ready",
            post(async move || {
                let _ = ready.send(true);
            }),
        );
    tokio::spawn(invoicing.consumer("orders", handlers).unwrap().into_future());
    // RabbitMQ drops messages before the queue is bound.
    while !*is_ready.borrow_and_update() {
        let _ = invoicing.messenger().send(vec![Message::json("order.ready", &0).unwrap()]).await;
        let _ = tokio::time::timeout(Duration::from_millis(50), is_ready.changed()).await;
    }
    let recorded = Recorded::start();

    // No broker answers at this port: the message stays stored.
    let first = Bus::start(&settings("durable", "amqp://127.0.0.1:1")).await.unwrap();
    let app = Router::new().route("/orders", post(place_order)).layer(first.layer()).layer(from_fn(server));
    assert_eq!(app.oneshot(request()).await.unwrap().status(), StatusCode::CREATED);
    assert_eq!(first.shutdown(Duration::from_secs(5)).await.stored, 1);

    let second = Bus::start(&settings("durable", rabbit)).await.unwrap();
    until("both are handled", async || recorded.all("ack order.invoiced").len() == 1).await;
    assert!(second.shutdown(Duration::from_secs(10)).await.is_clean());
    assert!(invoicing.shutdown(Duration::from_secs(10)).await.is_clean());

    let server = recorded.one("server");
    assert_eq!((trace_of(&server), server.span_kind.clone()), (TRACE.to_owned(), SpanKind::Server));
    let create = recorded.one("create order.placed");
    assert_eq!((trace_of(&create), create.parent_span_id), (TRACE.to_owned(), id(&server)));
    assert_eq!(create.span_kind, SpanKind::Producer);
    let store = recorded.one("store order.placed");
    assert_eq!(store.parent_span_id, id(&server));

    let sends = recorded.all("send order.placed");
    let (sent, failed): (Vec<_>, Vec<_>) = sends.iter().partition(|span| span.status == Status::Unset);
    assert!(!failed.is_empty() && failed.iter().all(|span| attribute(span, "error.type") == "transient"));
    let [sent] = sent[..] else { panic!("one was confirmed: {:#?}", recorded.names()) };
    assert_eq!((trace_of(sent), sent.parent_span_id), (TRACE.to_owned(), id(&create)));
    assert_eq!(sent.links.links[0].span_context.span_id(), id(&create));
    assert_eq!(
        (attribute(sent, "messaging.system"), sent.span_kind.clone()),
        ("rabbitmq".into(), SpanKind::Client)
    );
    assert_eq!(attribute(sent, "messaging.message.id"), attribute(&create, "messaging.message.id"));
    assert_eq!(attribute(sent, "server.address"), "127.0.0.1");
    assert!(!attribute(sent, "server.port").is_empty());

    let processed = recorded.all("process order.placed");
    assert_eq!(processed.len(), 2, "{:#?}", recorded.names());
    for (span, attempt) in processed.iter().zip(["1", "2"]) {
        assert_eq!((trace_of(span), span.parent_span_id), (TRACE.to_owned(), id(&create)));
        assert_eq!(
            (attribute(span, "attempt"), span.span_kind.clone()),
            (attempt.into(), SpanKind::Consumer)
        );
        assert_eq!(attribute(span, "consumer"), "orders");
    }
    assert!(matches!(processed[0].status, Status::Error { .. }));
    assert_eq!(
        (attribute(&processed[0], "error.type"), processed[1].status.clone()),
        ("503".into(), Status::Unset)
    );
    assert_eq!(recorded.one("retry order.placed").parent_span_id, id(&processed[0]));
    assert_eq!(recorded.one("ack order.placed").parent_span_id, id(&processed[1]));

    let follow_up = recorded.one("create order.invoiced");
    assert_eq!((trace_of(&follow_up), follow_up.parent_span_id), (TRACE.to_owned(), id(&processed[1])));
    let last = recorded.one("process order.invoiced");
    assert_eq!((trace_of(&last), last.parent_span_id), (TRACE.to_owned(), id(&follow_up)));
    let received = recorded.all(&format!("receive {queue}"));
    let links: Vec<_> =
        received.iter().flat_map(|span| &span.links.links).map(|link| link.span_context.span_id()).collect();
    let of_ours = |span: &&SpanId| [id(&create), id(&follow_up)].contains(span);
    assert_eq!(
        links.iter().filter(of_ours).collect::<Vec<_>>(),
        [&id(&create), &id(&create), &id(&follow_up)]
    );
}

/// An app with the layer, and what it sends.
async fn sent_by(handler: axum::routing::MethodRouter, request: Request) -> Vec<Message> {
    let (messenger, sent) = crate::support::messengers::recording();
    let layer = tower_outbox::MessagingLayer::new(messenger);
    Router::new().route("/orders", handler).layer(layer).oneshot(request).await.unwrap();
    sent.messages()
}

fn header<'a>(message: &'a Message, name: &str) -> &'a str {
    message.header(name).and_then(|value| value.as_str()).unwrap_or_default()
}

#[tokio::test]
async fn a_batch_of_several_traces_links_to_each() {
    let recorded = Recorded::start();
    let mut batch = Vec::new();
    for _ in 0..2 {
        batch.extend(sent_by(post(place_order), Request::post("/orders").body(Body::empty()).unwrap()).await);
    }
    let creates = recorded.all("create order.placed");
    assert_ne!(trace_of(&creates[0]), trace_of(&creates[1]));
    let observed = tower_outbox::observed::Observed::new(Memory::new(), "memory");
    observed.send(batch).await.unwrap();
    let send = recorded.one("send order.placed");
    assert_eq!(send.parent_span_id, SpanId::INVALID);
    let links: Vec<_> = send.links.links.iter().map(|link| link.span_context.span_id()).collect();
    assert_eq!(links, creates.iter().map(id).collect::<Vec<_>>());
    assert_eq!(attribute(&send, "messaging.batch.message_count"), "2");
}

#[tokio::test]
async fn without_a_span_of_the_app_the_trace_of_the_request_goes_on() {
    let recorded = Recorded::start();
    let sent = sent_by(post(place_order), request()).await;
    let create = recorded.one("create order.placed");
    assert_eq!(
        (trace_of(&create), create.parent_span_id.to_string()),
        (TRACE.into(), "b7ad6b7169203331".into())
    );
    assert_eq!(header(&sent[0], "traceparent"), format!("00-{TRACE}-{}-01", id(&create)));
    assert_eq!((header(&sent[0], "tracestate"), header(&sent[0], "baggage")), ("vendor=1", "tenant=acme"));
}

#[tokio::test]
async fn a_context_that_the_app_sets_itself_stays() {
    let recorded = Recorded::start();
    let handler = post(async |queue: MessageQueue| {
        let message = Message::json("order.placed", &7).unwrap().with_header("traceparent", TRACEPARENT);
        queue.enqueue(message).unwrap();
    });
    let sent = sent_by(handler, Request::post("/orders").body(Body::empty()).unwrap()).await;
    assert_eq!(header(&sent[0], "traceparent"), TRACEPARENT);
    assert!(recorded.all("create order.placed").is_empty());
}

#[tokio::test]
async fn a_context_of_another_format_has_none_of_another_trace_beside_it() {
    let recorded = Recorded::start();
    B3.set(true);
    for request in [request(), Request::post("/orders").body(Body::empty()).unwrap()] {
        let has_baggage = request.headers().contains_key("baggage");
        let sent = sent_by(post(place_order), request).await;
        let create = recorded.all("create order.placed").pop().unwrap();
        assert_eq!(header(&sent[0], "b3"), format!("{}-{}-1", trace_of(&create), id(&create)));
        assert!(sent[0].header("traceparent").is_none() && sent[0].header("tracestate").is_none());
        assert_eq!(header(&sent[0], "baggage"), if has_baggage { "tenant=acme" } else { "" });
    }
}

#[tokio::test]
async fn the_context_is_that_of_the_task_that_enqueues() {
    let recorded = Recorded::start();
    let handler = post(async |queue: MessageQueue| {
        let span = tracing::info_span!("step");
        tokio::spawn(
            async move {
                tokio::task::yield_now().await;
                queue.enqueue(Message::json("order.placed", &7).unwrap()).unwrap();
            }
            .instrument(span),
        )
        .await
        .unwrap();
    });
    sent_by(handler, request()).await;
    assert_eq!(recorded.one("create order.placed").parent_span_id, id(&recorded.one("step")));
}

#[tokio::test]
async fn a_layer_inside_the_consumer_continues_the_process_span() {
    let recorded = Recorded::start();
    let bus = Memory::new();
    bus.send(sent_by(post(place_order), request()).await).await.unwrap();
    let app = Router::new().route("/order/placed", post(async || {})).layer(from_fn(server));
    let signal = {
        let bus = bus.clone();
        async move { bus.wait_idle().await }
    };
    Consumer::new(bus, app).with_graceful_shutdown(signal, Duration::from_secs(5)).await;
    assert_eq!(recorded.one("server").parent_span_id, id(&recorded.one("process order.placed")));
}

#[tokio::test]
async fn a_message_that_is_sent_without_a_queue_can_get_the_context() {
    let recorded = Recorded::start();
    let mut message = Message::json("order.placed", &7).unwrap();
    tracing::info_span!("job").in_scope(|| trace::attach(&mut message));
    let create = recorded.one("create order.placed");
    assert_eq!(create.parent_span_id, id(&recorded.one("job")));
    assert_eq!(header(&message, "traceparent"), format!("00-{}-{}-01", trace_of(&create), id(&create)));
}

#[tokio::test]
async fn a_message_that_is_not_enqueued_leaves_a_failed_span() {
    let recorded = Recorded::start();
    let handler = post(async |queue: MessageQueue| {
        let large = Message::new("order.placed", vec![0; 100 << 20]).unwrap();
        assert!(queue.enqueue(large).is_err());
    });
    assert!(sent_by(handler, request()).await.is_empty());
    assert!(matches!(recorded.one("create order.placed").status, Status::Error { .. }));
}

/// The headers of a context, of what a request without and with one sends, when no tracer listens.
#[tokio::test]
async fn without_a_tracer_the_trace_goes_on_or_a_new_one_begins() {
    let two = || {
        post(async |queue: MessageQueue| {
            queue.enqueue(Message::json("order.placed", &7).unwrap()).unwrap();
            queue.enqueue(Message::json("order.placed", &8).unwrap()).unwrap();
        })
    };
    for message in sent_by(two(), request()).await {
        assert_eq!(header(&message, "traceparent"), TRACEPARENT);
        assert_eq!(
            (header(&message, "tracestate"), header(&message, "baggage")),
            ("vendor=1", "tenant=acme")
        );
    }
    let mut begun = Vec::new();
    for _ in 0..2 {
        let sent = sent_by(two(), Request::post("/orders").body(Body::empty()).unwrap()).await;
        let traceparents: Vec<_> =
            sent.iter().map(|message| header(message, "traceparent").to_owned()).collect();
        assert_eq!(traceparents[0], traceparents[1], "one request is one trace");
        begun.push(traceparents[0].clone());
        let headers = HashMap::from([("traceparent".to_owned(), traceparents[0].clone())]);
        let context =
            opentelemetry::propagation::TextMapPropagator::extract(&TraceContextPropagator::new(), &headers);
        assert!(context.span().span_context().is_valid() && context.span().span_context().is_sampled());
    }
    assert_ne!(begun[0], begun[1]);
}

#[tokio::test]
async fn a_panic_of_the_propagation_harms_no_message() {
    // Whichever test of this process comes first sets the propagation; this one only where it is alone.
    trace::set_propagation(|_, _| panic!("inject"), |_, _, _| panic!("extract"));
    let subscriber = tracing_subscriber::registry().with(LevelFilter::INFO);
    let _default = tracing::subscriber::set_default(subscriber);
    let sent = sent_by(post(place_order), request()).await;
    assert_eq!(header(&sent[0], "traceparent"), TRACEPARENT);
    assert!(Span::current().is_none());
}
