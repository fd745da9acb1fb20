//! One trace from a request over the outbox to its consumer and to the message that follows. It prints the spans, and needs no collector.
//!
//!     cargo run -p tower-outbox-opentelemetry
//!
//! An app that exports takes `opentelemetry-otlp` for the exporter, and `axum-tracing-opentelemetry` for the span of the server.

use std::time::Duration;

use axum::{Router, body::Body, extract::Request, http::StatusCode, routing::post};
use opentelemetry::global::{get_text_map_propagator, set_text_map_propagator};
use opentelemetry::trace::{SpanId, TraceContextExt, TracerProvider};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider, SpanData};
use tower::ServiceExt;
use tower_outbox::trace::{self, Relation};
use tower_outbox::{BoxError, Bus, Message, MessageQueue, Settings};
use tracing::Instrument;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::{filter::LevelFilter, layer::SubscriberExt, util::SubscriberInitExt};

async fn place_order(queue: MessageQueue) -> StatusCode {
    enqueue(&queue, "order.placed")
}

async fn on_order_placed(queue: MessageQueue) -> StatusCode {
    enqueue(&queue, "order.invoiced")
}

fn enqueue(queue: &MessageQueue, topic: &'static str) -> StatusCode {
    match Message::json(topic, &7).map(|message| queue.enqueue(message)) {
        Ok(Ok(_)) => StatusCode::CREATED,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let exporter = InMemorySpanExporter::default();
    let provider = SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("orders"));
    tracing_subscriber::registry().with(LevelFilter::INFO).with(layer).init();

    set_text_map_propagator(TraceContextPropagator::new());
    trace::set_propagation(
        |span, headers| get_text_map_propagator(|all| all.inject_context(&span.context(), headers)),
        |span, headers, relation| match (relation, get_text_map_propagator(|all| all.extract(headers))) {
            (Relation::Parent, context) => drop(span.set_parent(context)),
            (Relation::Link, context) => span.add_link(context.span().span_context().clone()),
        },
    );

    let folder = tempfile::tempdir()?;
    let path = folder.path().join("outbox").display().to_string();
    let settings: Settings = toml::from_str(&format!(
        "BACKEND = 'memory'\nDELIVERY = 'durable'\nOUTBOX.PATH = {path:?}\n[CONSUMERS.orders]"
    ))?;
    let bus = Bus::start(&settings).await?;
    let handlers = Router::new()
        .route("/order/placed", post(on_order_placed))
        .route("/order/invoiced", post(|| async {}));
    tokio::spawn(bus.consumer("orders", handlers)?.into_future());

    let app = Router::new().route("/orders", post(place_order)).layer(bus.layer());
    let server = tracing::info_span!("POST /orders", otel.kind = "server");
    let response = app.oneshot(Request::post("/orders").body(Body::empty())?).instrument(server).await?;
    println!("{}", response.status());
    loop {
        let spans = exporter.get_finished_spans()?;
        if spans.iter().any(|span| span.name == "ack order.invoiced") {
            let _ = bus.shutdown(Duration::from_secs(5)).await;
            print(&spans, SpanId::INVALID, 0);
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Prints the children of a span, with those of each below it.
fn print(spans: &[SpanData], parent: SpanId, depth: usize) {
    for span in spans.iter().filter(|span| span.parent_span_id == parent) {
        let (kind, links) = (format!("{:?}", span.span_kind).to_lowercase(), span.links.links.len());
        println!("{:indent$}{} ({kind}, links: {links})", "", span.name, indent = depth * 2);
        print(spans, span.span_context.span_id(), depth + 1);
    }
}
