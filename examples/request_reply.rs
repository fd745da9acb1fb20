//! Two axum services in one file: the shop asks the prices over the message bus, as if it were HTTP.
//!
//!     cargo run --example request_reply                                                           in memory
//!     cargo run --features nats --example request_reply -- examples/request_reply.toml            over NATS
//!
//! It prints the answers to three requests. Over a broker each service has a bus of its own, so that the two could be two processes.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{Path, State};
use axum::http::{Request, StatusCode};
use axum::response::Response;
use axum::{Json, Router, routing::get};
use serde_json::{Value, json};
use tower::ServiceExt;
use tower_outbox::client::{Client, ReplyTimeout};
use tower_outbox::{BoxError, Bus, Settings};

/// A handler of the service `prices`. Over HTTP it would be the same.
async fn price(Path(product): Path<String>) -> Result<Json<Value>, StatusCode> {
    match product.as_str() {
        "apple" => Ok(Json(json!({"product": product, "cents": 50}))),
        "truffle" => std::future::pending().await, // nobody knows
        _ => Err(StatusCode::NOT_FOUND),
    }
}

/// A handler of the shop. The response of `prices` is its own: also 404, and 504 if no reply comes within a second.
async fn offer(State(prices): State<Client>, Path(product): Path<String>) -> Result<Response, StatusCode> {
    let request = Request::get(format!("/price/{product}")).extension(ReplyTimeout(Duration::from_secs(1)));
    let request = request.body(Body::empty()).map_err(|_| StatusCode::BAD_REQUEST)?;
    let Ok(response) = prices.oneshot(request).await;
    Ok(response)
}

const IN_MEMORY: &str = "
    BACKEND = 'memory'
    [CONSUMERS.prices]
    CONCURRENCY = 64
    [CLIENTS.prices]
    TIMEOUT = '2s'
";

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let file = std::env::args().nth(1);
    let settings = match &file {
        Some(file) => Settings::from_file(file)?,
        None => toml::from_str(IN_MEMORY)?,
    };
    let mut buses = vec![Bus::start(&settings).await?];
    // Memory is shared within one bus only.
    if file.is_some() {
        buses.push(Bus::start(&settings).await?);
    }
    let (bus_of_prices, bus_of_shop) = (&buses[0], &buses[buses.len() - 1]);

    let prices = Router::new().route("/price/{product}", get(price));
    tokio::spawn(bus_of_prices.consumer("prices", prices)?.into_future());

    let shop = Router::new().route("/offer/{product}", get(offer)).with_state(bus_of_shop.client("prices")?);
    for product in ["apple", "pear", "truffle"] {
        let (status, body) = loop {
            let request = Request::get(format!("/offer/{product}")).body(Body::empty())?;
            let response = shop.clone().oneshot(request).await?;
            let (status, body) = (response.status(), to_bytes(response.into_body(), 1_000).await?);
            // The prices may still connect.
            if status != StatusCode::SERVICE_UNAVAILABLE {
                break (status, body);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        println!("{product}: {status} {}", String::from_utf8_lossy(&body));
    }
    for bus in buses.into_iter().rev() {
        if !bus.shutdown(Duration::from_secs(10)).await.is_clean() {
            return Err("stopped with unfinished work".into());
        }
    }
    Ok(())
}
