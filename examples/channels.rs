//! All patterns of channels in one axum app, without a broker: a queue, a stream, events and requests.
//!
//!     cargo run --example channels --features channels
//!
//! It listens on 127.0.0.1:3000, or on a free port if that is taken:
//!
//!     curl -i -X POST 127.0.0.1:3000/orders/7

use std::time::Duration;

use axum::extract::{Path, State};
use axum::{Router, http::StatusCode, routing::post};
use tokio::net::TcpListener;
use tower_outbox::channels::{
    ChannelName, Channels, Content, Pattern, Reply, Request, RequestKind, SendPattern, Start,
};
use tower_outbox::{BoxError, Consumer, Message, MessageQueue, MessagingLayer, Messenger};

async fn order(
    State(channels): State<Channels>,
    queue: MessageQueue,
    Path(id): Path<u64>,
) -> Result<String, (StatusCode, String)> {
    let failed = |error: BoxError| (StatusCode::SERVICE_UNAVAILABLE, error.to_string());
    // A request: its answer comes from whoever has subscribed.
    let content = Content { body: id.to_string().into(), ..Content::default() };
    let request = Request { kind: RequestKind::Query, content, timeout: Duration::from_secs(1) };
    let price = ChannelName::new("price").map_err(|error| failed(error.into()))?;
    let price = channels.engine().request(&price, request).await.map_err(|error| failed(error.into()))?;
    // To the queue `order.created`, if the response is a success.
    let message = Message::new("order.created", id.to_string()).map_err(|error| failed(error.into()))?;
    queue.enqueue(message.clone()).map_err(|error| failed(error.into()))?;
    // To a stream, which keeps it, and to those who listen now.
    for messenger in [channels.messenger(SendPattern::Stream), channels.messenger(SendPattern::Events)] {
        messenger.send(vec![message.clone()]).await.map_err(|error| failed(error.into()))?;
    }
    Ok(format!("order {id} costs {}\n", String::from_utf8_lossy(&price.reply.body)))
}

fn handler(who: &'static str) -> Router {
    Router::new()
        .route("/order/created", post(move |body: String| async move { println!("{who} got order {body}") }))
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    std::fs::create_dir_all("target")?;
    let channels = Channels::open("target/channels").await?;
    let queue = channels.queue("order.created")?;
    tokio::spawn(Consumer::new(queue, handler("the queue's consumer")).into_future());
    let stream = channels.stream("order.created")?.from(Start::First).durable("mailer");
    tokio::spawn(Consumer::new(stream, handler("the stream's reader")).into_future());
    let events = channels.events("order.*")?;
    events.subscribe().await?;
    tokio::spawn(Consumer::new(events, handler("the events' subscriber")).into_future());

    let price = Pattern::new("price")?;
    let mut requests = channels.engine().subscribe_requests(RequestKind::Query, &price, None, 0).await?;
    tokio::spawn(async move {
        while let Some(request) = requests.next().await {
            let _ =
                request.responder.answer(Reply { executed: true, body: "9.90".into(), ..Reply::default() });
        }
    });

    let layer = MessagingLayer::new(channels.messenger(SendPattern::Queue));
    let app = Router::new().route("/orders/{id}", post(order)).layer(layer).with_state(channels);
    let listener = match TcpListener::bind("127.0.0.1:3000").await {
        Ok(listener) => listener,
        Err(_taken) => TcpListener::bind("127.0.0.1:0").await?,
    };
    println!("listening on http://{}", listener.local_addr()?);
    Ok(axum::serve(listener, app).await?)
}
