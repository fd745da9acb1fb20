//! The checks that every transport of requests passes.

use std::any::Any;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::Path;
use axum::routing::{any, post as on_post};
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinSet, yield_now};
use tokio::time::{Instant, timeout};
use tower_outbox::client::Client;
use tower_outbox::consumer::ConsumerSettings;
use tower_outbox::reply::{RequestError, Requester};
use tower_outbox::source::Source;

use super::{Responder, call, post, within};
use crate::support::stores::STUCK;
use crate::support::text;

const SHORT: Duration = Duration::from_millis(300);

/// A transport under test. Its sources share the requests.
pub struct Transport {
    requester: Arc<dyn Requester>,
    source: Box<dyn Fn() -> Arc<dyn Source> + Send + Sync>,
    /// Whether the request of a killed responder goes to another one.
    redelivers: bool,
    _kept: Box<dyn Any + Send + Sync>,
}

impl Transport {
    pub fn new(
        requester: Arc<dyn Requester>,
        source: impl Fn() -> Arc<dyn Source> + Send + Sync + 'static,
    ) -> Self {
        Self { requester, source: Box::new(source), redelivers: false, _kept: Box::new(()) }
    }

    pub fn with_redelivery(self) -> Self {
        Self { redelivers: true, ..self }
    }

    pub fn with_kept(self, kept: impl Any + Send + Sync) -> Self {
        Self { _kept: Box::new(kept), ..self }
    }

    fn client(&self) -> Client {
        Client::new(Arc::clone(&self.requester))
    }

    /// Starts a responder, and waits until it receives.
    async fn responder(&self, router: Router) -> Responder {
        let router = router.route("/suite/ready", on_post(|| async {}));
        let responder = Responder::start((self.source)(), router);
        let ready = async {
            while call(&self.client(), within(post("/suite/ready", ""), SHORT)).await.status() != 200 {
                yield_now().await;
            }
        };
        timeout(STUCK, ready).await.expect("no responder answers");
        responder
    }
}

fn echo() -> Router {
    Router::new().route("/order/{id}", any(|body: Bytes| async move { body }))
}

pub async fn a_reply_has_status_headers_and_body(transport: Transport) {
    let handler = |headers: HeaderMap, body: String| async move {
        let headers =
            [("x-tenant", headers["x-tenant"].clone()), ("content-type", "text/plain".parse().unwrap())];
        (StatusCode::CREATED, headers, format!("{body}!"))
    };
    let _responder = transport.responder(Router::new().route("/order/quote", on_post(handler))).await;
    let request = Request::post("/order/quote").header("x-tenant", "acme").body("seven".into()).unwrap();
    let response = call(&transport.client(), request).await;
    assert_eq!(response.status(), StatusCode::CREATED);
    assert_eq!(
        (&response.headers()["x-tenant"], &response.headers()["content-type"]),
        (&"acme".parse().unwrap(), &"text/plain".parse().unwrap())
    );
    assert!(!response.headers().contains_key("content-length"));
    assert_eq!(text(response).await, "seven!");
}

pub async fn method_query_and_headers_travel(transport: Transport) {
    let handler = |method: Method, uri: Uri, headers: HeaderMap| async move {
        let hidden = ["authorization", "cookie", "connection", "tower-outbox-method", "tower-outbox-query"];
        let shown: Vec<_> = hidden.into_iter().filter(|name| headers.contains_key(*name)).collect();
        format!("{method} {uri} {:?} {shown:?}", headers["accept"])
    };
    let _responder = transport.responder(Router::new().route("/order/{id}", any(handler))).await;
    for method in ["GET", "DELETE", "PATCH", "POST"] {
        let request = Request::builder()
            .method(method)
            .uri("/order/7?all=1&b=%20")
            .header("accept", "text/html")
            .header("accept", "*/*")
            .header("authorization", "Bearer x")
            .header("cookie", "a=b")
            .header("connection", "close")
            .body(axum::body::Body::empty())
            .unwrap();
        let response = call(&transport.client(), request).await;
        assert_eq!(text(response).await, format!("{method} /order/7?all=1&b=%20 \"text/html, */*\" []"));
    }
}

pub async fn an_error_status_is_an_answer(transport: Transport) {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let handler = move |Path(status): Path<u16>| async move {
        counted.fetch_add(1, Ordering::SeqCst);
        (StatusCode::from_u16(status).unwrap(), "why")
    };
    let _responder = transport.responder(Router::new().route("/status/{status}", on_post(handler))).await;
    let client = transport.client();
    let statuses = [400, 404, 409, 422, 429, 500, 503];
    for status in statuses {
        let response = call(&client, post(&format!("/status/{status}"), "")).await;
        assert_eq!(response.status(), status);
        assert!(response.extensions().get::<RequestError>().is_none());
        assert_eq!(text(response).await, "why");
    }
    assert_eq!(calls.load(Ordering::SeqCst), statuses.len());
    assert_eq!(call(&client, post("/no/such/route", "")).await.status(), 404);
}

pub async fn a_large_body_travels_both_ways(transport: Transport) {
    let _responder = transport.responder(echo()).await;
    let body: Vec<u8> = (0..1 << 20).map(|n: u32| (n % 251) as u8).collect();
    let response = call(&transport.client(), post("/order/7", body.clone())).await;
    assert_eq!(response.status(), 200);
    assert!(axum::body::to_bytes(response.into_body(), 2 << 20).await.unwrap() == body);
}

pub async fn no_reply_in_time_is_504(transport: Transport) {
    struct Ended(mpsc::UnboundedSender<()>);
    impl Drop for Ended {
        fn drop(&mut self) {
            let _ = self.0.send(());
        }
    }
    let (ended, mut ends) = mpsc::unbounded_channel();
    let handler = move || async move {
        let _ended = Ended(ended);
        std::future::pending::<()>().await;
    };
    let _responder = transport.responder(Router::new().route("/never", on_post(handler))).await;
    let begun = Instant::now();
    let response = call(&transport.client(), within(post("/never", ""), SHORT)).await;
    assert!((SHORT..STUCK).contains(&begun.elapsed()));
    assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
    assert!(matches!(response.extensions().get(), Some(RequestError::NoReply(wait)) if *wait == SHORT));
    timeout(STUCK, ends.recv()).await.expect("the handler outlives its caller").unwrap();
}

pub async fn no_responder_is_503(transport: Transport) {
    let begun = Instant::now();
    let refused = async {
        loop {
            let response = call(&transport.client(), within(post("/order/7", ""), SHORT)).await;
            match response.status() {
                StatusCode::SERVICE_UNAVAILABLE => return response,
                status => assert_eq!(status, StatusCode::GATEWAY_TIMEOUT, "after {:?}", begun.elapsed()),
            }
        }
    };
    let response = timeout(STUCK, refused).await.expect("the transport does not know");
    assert!(matches!(response.extensions().get(), Some(RequestError::NoResponder)));
    assert_eq!(response.headers()["retry-after"], "1");
}

async fn panics() {
    panic!("on purpose");
}

pub async fn a_panicking_responder_is_500(transport: Transport) {
    let router = echo().route("/panic", on_post(panics));
    let _responder = transport.responder(router).await;
    let client = transport.client();
    for _ in 0..3 {
        let response = call(&client, post("/panic", "")).await;
        assert_eq!(response.status(), 500);
        assert_eq!(text(response).await, "the responder failed");
    }
    assert_eq!(call(&client, post("/order/7", "")).await.status(), 200);
}

/// A responder whose handler says that it was called, and never ends.
async fn stuck(transport: &Transport) -> (Responder, mpsc::UnboundedReceiver<()>) {
    let (called, calls) = mpsc::unbounded_channel();
    let handler = move || async move {
        called.send(()).unwrap();
        std::future::pending::<()>().await;
    };
    (transport.responder(Router::new().route("/order/{id}", on_post(handler))).await, calls)
}

pub async fn a_killed_responder_is_no_reply(transport: Transport) {
    let (responder, mut calls) = stuck(&transport).await;
    let client = transport.client();
    let calling = tokio::spawn(async move { call(&client, within(post("/order/7", ""), 4 * SHORT)).await });
    timeout(STUCK, calls.recv()).await.unwrap().unwrap();
    drop(responder);
    let response = timeout(STUCK, calling).await.unwrap().unwrap();
    assert!(matches!(response.status().as_u16(), 503 | 504), "{}", response.status());
}

pub async fn another_responder_answers_for_a_killed_one(transport: Transport) {
    if !transport.redelivers {
        return;
    }
    let (responder, mut calls) = stuck(&transport).await;
    let client = transport.client();
    let calling = tokio::spawn(async move { call(&client, within(post("/order/7", "seven"), STUCK)).await });
    timeout(STUCK, calls.recv()).await.unwrap().unwrap();
    drop(responder);
    let _another = transport.responder(echo()).await;
    let response = timeout(STUCK, calling).await.unwrap().unwrap();
    assert_eq!(text(response).await, "seven");
}

pub async fn a_thousand_calls_pair_right(transport: Transport) {
    let gate = Arc::new(Semaphore::new(0));
    let handler = {
        let gate = Arc::clone(&gate);
        move |body: String| async move {
            gate.acquire().await.unwrap().forget();
            body
        }
    };
    let settings = ConsumerSettings::default().with_concurrency(256);
    let _ready = transport.responder(echo()).await;
    let router = Router::new().route("/order/{id}", on_post(handler));
    let _responder = Responder::with((transport.source)(), settings, router);
    let client = transport.client();
    let mut calls = JoinSet::new();
    for n in 0..1_000 {
        let client = client.clone();
        calls.spawn(async move {
            let response = call(&client, within(post(&format!("/order/{n}"), n.to_string()), STUCK)).await;
            (n.to_string(), text(response).await)
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

pub async fn a_caller_that_goes_away_harms_no_other(transport: Transport) {
    let (called, mut calls) = mpsc::unbounded_channel();
    let gate = Arc::new(Semaphore::new(0));
    let handler = {
        let gate = Arc::clone(&gate);
        move |body: String| async move {
            called.send(()).unwrap();
            gate.acquire().await.unwrap().forget();
            body
        }
    };
    let _responder = transport.responder(Router::new().route("/order/{id}", on_post(handler))).await;
    let client = transport.client();
    let gone = {
        let client = client.clone();
        tokio::spawn(async move { call(&client, within(post("/order/1", "gone"), STUCK)).await })
    };
    timeout(STUCK, calls.recv()).await.unwrap().unwrap();
    gone.abort();
    assert!(gone.await.unwrap_err().is_cancelled());
    let stays = tokio::spawn(async move { call(&client, within(post("/order/2", "stays"), STUCK)).await });
    timeout(STUCK, calls.recv()).await.unwrap().unwrap();
    gate.add_permits(2);
    let response = timeout(STUCK, stays).await.unwrap().unwrap();
    assert_eq!(text(response).await, "stays");
}

pub async fn two_responders_share_the_load(transport: Transport) {
    // Each holds one request, so both must take part.
    let gate = Arc::new(Semaphore::new(0));
    let (called, mut calls) = mpsc::unbounded_channel();
    let router = |who: &'static str| {
        let (gate, called) = (Arc::clone(&gate), called.clone());
        let handler = move || async move {
            called.send(who).unwrap();
            gate.acquire().await.unwrap().forget();
            who
        };
        Router::new().route("/order/{id}", on_post(handler))
    };
    let _both = (transport.responder(router("one")).await, transport.responder(router("two")).await);
    let client = transport.client();
    let mut callers = JoinSet::new();
    let mut seen = HashSet::new();
    let both = async {
        while seen.len() < 2 {
            let client = client.clone();
            callers
                .spawn(async move { text(call(&client, within(post("/order/7", ""), STUCK)).await).await });
            seen.insert(calls.recv().await.unwrap());
        }
    };
    timeout(STUCK, both).await.expect("one responder gets all");
    gate.add_permits(callers.len());
    let answers = timeout(STUCK, callers.join_all()).await.unwrap();
    assert!(answers.iter().all(|answer| answer == "one" || answer == "two"), "{answers:?}");
}

pub async fn an_expired_request_is_not_handled(transport: Transport) {
    let (called, mut calls) = mpsc::unbounded_channel();
    let gate = Arc::new(Semaphore::new(0));
    let handler = {
        let gate = Arc::clone(&gate);
        move |body: String| async move {
            called.send(body.clone()).unwrap();
            gate.acquire().await.unwrap().forget();
            body
        }
    };
    let router =
        Router::new().route("/order/{id}", on_post(handler)).route("/suite/ready", on_post(|| async {}));
    let settings = ConsumerSettings::default().with_concurrency(1);
    let responder = Responder::with((transport.source)(), settings, router);
    let client = transport.client();
    let ready = async {
        while call(&client, within(post("/suite/ready", ""), SHORT)).await.status() != 200 {
            yield_now().await;
        }
    };
    timeout(STUCK, ready).await.unwrap();
    let calling = |body: &'static str, wait| {
        let client = client.clone();
        tokio::spawn(async move { call(&client, within(post("/order/7", body), wait)).await })
    };
    let first = calling("first", STUCK);
    assert_eq!(timeout(STUCK, calls.recv()).await.unwrap().unwrap(), "first");
    assert_eq!(calling("expired", SHORT).await.unwrap().status(), 504);
    gate.add_permits(2);
    assert_eq!(timeout(STUCK, first).await.unwrap().unwrap().status(), 200);
    assert_eq!(timeout(STUCK, calling("last", STUCK)).await.unwrap().unwrap().status(), 200);
    assert_eq!(timeout(STUCK, calls.recv()).await.unwrap().unwrap(), "last");
    drop(responder);
}
