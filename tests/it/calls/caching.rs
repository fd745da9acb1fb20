//! Replies that a client keeps.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::any;
use http::header::{CACHE_CONTROL, VARY};
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use tower_outbox::client::{Client, ClientSettings};

use super::{Responder, answered_by, call, post};
use crate::support::text;

/// A client with a cache, and a responder whose replies have a number, the status in `x-status`, and the headers
/// `cache-control` and `vary` that the request has in `x-cache` and `x-vary`.
fn kept() -> (Client, Responder) {
    let number = Arc::new(AtomicU32::new(0));
    let handler = move |headers: HeaderMap| async move {
        let mut reply = HeaderMap::new();
        for (from, to) in [("x-cache", CACHE_CONTROL), ("x-vary", VARY)] {
            if let Some(value) = headers.get(from) {
                reply.insert(to, value.clone());
            }
        }
        let status = headers.get("x-status").map_or("200", |status| status.to_str().unwrap());
        (
            StatusCode::from_bytes(status.as_bytes()).unwrap(),
            reply,
            number.fetch_add(1, Ordering::SeqCst).to_string(),
        )
    };
    let (client, responder, _) = answered_by(Router::new().fallback(any(handler)));
    (client.with_settings(ClientSettings::default().with_cache_bytes(1 << 20)), responder)
}

fn asking(cache: &'static str) -> Request<Body> {
    with(post("/order", "seven"), "x-cache", cache)
}

fn with(mut request: Request<Body>, name: &'static str, value: &'static str) -> Request<Body> {
    request.headers_mut().insert(name, HeaderValue::from_static(value));
    request
}

async fn answer(client: &Client, request: Request<Body>) -> String {
    text(call(client, request).await).await
}

#[tokio::test(start_paused = true)]
async fn a_reply_is_kept_for_its_max_age() {
    let (client, _responder) = kept();
    assert_eq!(answer(&client, asking("max-age=60")).await, "0");
    tokio::time::sleep(Duration::from_secs(59)).await;
    let response = call(&client, asking("max-age=60")).await;
    assert_eq!((response.headers()["age"].to_str().unwrap(), response.status()), ("59", StatusCode::OK));
    assert_eq!(text(response).await, "0");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(answer(&client, asking("max-age=60")).await, "1");
    assert_eq!(answer(&client, asking("max-age=60")).await, "1");
}

#[tokio::test(start_paused = true)]
async fn a_reply_is_kept_only_if_it_says_so() {
    let (client, _responder) = kept();
    for cache in ["", "max-age=0", "no-store, max-age=60", "private, max-age=60", "max-age=soon", "public"] {
        let first = answer(&client, asking(cache)).await;
        assert_ne!(answer(&client, asking(cache)).await, first, "{cache}");
    }
    let failed = || with(asking("max-age=60"), "x-status", "500");
    assert_ne!(answer(&client, failed()).await, answer(&client, failed()).await);
}

#[tokio::test(start_paused = true)]
async fn another_request_has_another_reply() {
    let (client, _responder) = kept();
    let requests = || {
        [
            asking("max-age=60"),
            with(post("/order", "eight"), "x-cache", "max-age=60"),
            with(post("/order?all", "seven"), "x-cache", "max-age=60"),
            with(Request::get("/order").body("seven".into()).unwrap(), "x-cache", "max-age=60"),
            with(post("/other", "seven"), "x-cache", "max-age=60"),
        ]
    };
    for _ in 0..2 {
        for (number, request) in requests().into_iter().enumerate() {
            assert_eq!(answer(&client, request).await, number.to_string());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_reply_is_kept_for_each_value_that_it_varies_by() {
    let (client, _responder) = kept();
    let speaking = |language| {
        let request = with(asking("max-age=60"), "x-vary", "Accept-Language, accept");
        with(request, "accept-language", language)
    };
    for _ in 0..2 {
        for (number, language) in ["de", "en", "fr"].into_iter().enumerate() {
            assert_eq!(answer(&client, speaking(language)).await, number.to_string());
        }
    }
    let by_all = || with(with(post("/all", ""), "x-cache", "max-age=60"), "x-vary", "*");
    assert_ne!(answer(&client, by_all()).await, answer(&client, by_all()).await);
}

#[tokio::test(start_paused = true)]
async fn a_caller_can_pass_the_cache_by() {
    let (client, _responder) = kept();
    let fresh = || with(asking("max-age=60"), "cache-control", "no-cache");
    assert_eq!(answer(&client, asking("max-age=60")).await, "0");
    assert_eq!(answer(&client, fresh()).await, "1");
    // It has replaced the kept one.
    assert_eq!(answer(&client, asking("max-age=60")).await, "1");
}

#[tokio::test(start_paused = true)]
async fn a_client_keeps_no_replies_by_default() {
    let (client, _responder) = kept();
    let client = client.with_settings(ClientSettings::default());
    assert_ne!(answer(&client, asking("max-age=60")).await, answer(&client, asking("max-age=60")).await);
}

#[tokio::test(start_paused = true)]
async fn the_cache_keeps_within_its_bytes() {
    let body = vec![b'x'; 10_000];
    let handler = move || async move { ([(CACHE_CONTROL, "max-age=600")], body) };
    let (client, _responder, _) = answered_by(Router::new().fallback(any(handler)));
    let client = client.with_settings(ClientSettings::default().with_cache_bytes(1_000_000));
    for n in 0..300 {
        call(&client, post(&format!("/{n}"), "")).await;
    }
    let mut kept = 0;
    for n in 0..300 {
        kept += usize::from(call(&client, post(&format!("/{n}"), "")).await.headers().contains_key("age"));
    }
    assert!((1..=100).contains(&kept), "{kept}");
}
