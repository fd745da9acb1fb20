//! Requests that are answered.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum_core::body::Body;
use axum_core::response::IntoResponse;
use http::header::CONTENT_TYPE;
use http::{Request, StatusCode};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::harness::{RequesterHarness, SHORT, call, echo, post, text, within};
use crate::consumer::ConsumerSettings;
use crate::reply::RequestError;
use crate::testing::support::stores::STUCK;

pub async fn a_reply_has_status_headers_and_body(harness: RequesterHarness) {
    let handler = |request: Request<Body>| async move {
        let tenant = request.headers()["x-tenant"].clone();
        let headers = [("x-tenant", tenant), ("content-type", "text/plain".parse().unwrap())];
        let body = text(request.into_body()).await;
        (StatusCode::CREATED, headers, format!("{} {body}!", "so")).into_response()
    };
    let _responder = harness.responder(handler).await;
    let request = Request::post("/order/quote").header("x-tenant", "acme").body("seven".into()).unwrap();
    let response = call(&harness.client(), request).await;
    assert_eq!(response.status(), StatusCode::CREATED);
    assert_eq!(
        (&response.headers()["x-tenant"], &response.headers()[CONTENT_TYPE]),
        (&"acme".parse().unwrap(), &"text/plain".parse().unwrap())
    );
    assert!(!response.headers().contains_key("content-length"));
    assert_eq!(text(response.into_body()).await, "so seven!");
}

pub async fn method_query_and_headers_travel(harness: RequesterHarness) {
    let handler = |request: Request<Body>| async move {
        let hidden = ["authorization", "cookie", "connection", "tower-outbox-method", "tower-outbox-query"];
        let headers = request.headers();
        let shown: Vec<_> = hidden.into_iter().filter(|name| headers.contains_key(*name)).collect();
        format!("{} {} {:?} {shown:?}", request.method(), request.uri(), headers["accept"]).into_response()
    };
    let _responder = harness.responder(handler).await;
    for method in ["GET", "DELETE", "PATCH", "POST"] {
        let request = Request::builder()
            .method(method)
            .uri("/order/7?all=1&b=%20")
            .header("accept", "text/html")
            .header("accept", "*/*")
            .header("authorization", "Bearer x")
            .header("cookie", "a=b")
            .header("connection", "close")
            .body(Body::empty())
            .unwrap();
        let response = call(&harness.client(), request).await;
        assert_eq!(
            text(response.into_body()).await,
            format!("{method} /order/7?all=1&b=%20 \"text/html, */*\" []")
        );
    }
}

pub async fn an_error_status_is_an_answer(harness: RequesterHarness) {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let handler = move |request: Request<Body>| {
        counted.fetch_add(1, Ordering::SeqCst);
        let status: StatusCode = request.uri().path().rsplit('/').next().unwrap().parse().unwrap();
        std::future::ready((status, "why").into_response())
    };
    let _responder = harness.responder(handler).await;
    let client = harness.client();
    let statuses = [400, 404, 409, 422, 429, 500, 503];
    for status in statuses {
        let response = call(&client, post(&format!("/status/{status}"), "")).await;
        assert_eq!(response.status(), status);
        assert!(response.extensions().get::<RequestError>().is_none());
        assert_eq!(text(response.into_body()).await, "why");
    }
    assert_eq!(calls.load(Ordering::SeqCst), statuses.len());
}

pub async fn a_large_body_travels_both_ways(harness: RequesterHarness) {
    let _responder = harness.responder(echo).await;
    let body: String = (0..1 << 20).map(|n: u32| char::from(b' ' + (n % 93) as u8)).collect();
    let response = call(&harness.client(), post("/order/7", body.clone())).await;
    assert_eq!(response.status(), 200);
    assert!(text(response.into_body()).await == body);
}

pub async fn a_panicking_responder_is_500(harness: RequesterHarness) {
    let handler = |request: Request<Body>| async move {
        assert!(request.uri().path() != "/panic", "on purpose");
        echo(request).await
    };
    let _responder = harness.responder(handler).await;
    let client = harness.client();
    for _ in 0..3 {
        let response = call(&client, post("/panic", "")).await;
        assert_eq!(response.status(), 500);
        assert_eq!(text(response.into_body()).await, "the responder failed");
    }
    assert_eq!(call(&client, post("/order/7", "")).await.status(), 200);
}

pub async fn a_thousand_calls_pair_right(harness: RequesterHarness) {
    let gate = Arc::new(Semaphore::new(0));
    let handler = {
        let gate = Arc::clone(&gate);
        move |request: Request<Body>| {
            let gate = Arc::clone(&gate);
            async move {
                gate.acquire().await.unwrap().forget();
                echo(request).await
            }
        }
    };
    let settings = ConsumerSettings::default().with_concurrency(256);
    let _responder = harness.responder_with(settings, handler).await;
    let _other = harness.responder(echo).await;
    let client = harness.client();
    let mut calls = JoinSet::new();
    for n in 0..1_000 {
        let client = client.clone();
        calls.spawn(async move {
            let response = call(&client, within(post(&format!("/order/{n}"), n.to_string()), STUCK)).await;
            (n.to_string(), text(response.into_body()).await)
        });
    }
    gate.add_permits(1_000);
    let mut paired = HashSet::new();
    while let Some(ended) = timeout(STUCK, calls.join_next()).await.unwrap() {
        let (sent, got) = ended.unwrap();
        assert_eq!(sent, got);
        paired.insert(sent);
    }
    assert_eq!(paired.len(), 1_000);
}

pub async fn two_responders_share_the_load(harness: RequesterHarness) {
    // Each holds its requests, so both must take part.
    let gate = Arc::new(Semaphore::new(0));
    let (called, mut calls) = mpsc::unbounded_channel();
    let handler = |name: &'static str| {
        let (gate, called) = (Arc::clone(&gate), called.clone());
        move |_| {
            called.send(name).unwrap();
            let gate = Arc::clone(&gate);
            async move {
                gate.acquire().await.unwrap().forget();
                name.into_response()
            }
        }
    };
    let _both = (harness.responder(handler("one")).await, harness.responder(handler("two")).await);
    let client = harness.client();
    let mut callers = JoinSet::new();
    let mut seen = HashSet::new();
    let both = async {
        while seen.len() < 2 {
            let client = client.clone();
            callers.spawn(async move {
                let response = call(&client, within(post("/order/7", ""), STUCK)).await;
                text(response.into_body()).await
            });
            // A transport may hold requests for a responder that is busy.
            if let Ok(name) = timeout(SHORT, calls.recv()).await {
                seen.insert(name.unwrap());
            }
        }
    };
    timeout(STUCK, both).await.expect("one responder gets all");
    gate.add_permits(callers.len());
    let answers = timeout(STUCK, callers.join_all()).await.unwrap();
    assert!(answers.iter().all(|answer| answer == "one" || answer == "two"), "{answers:?}");
}
