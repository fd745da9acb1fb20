//! A client among layers and handlers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::response::Response;
use axum::routing::{get, post as on_post};
use futures_util::stream;
use http::{Request, StatusCode};
use tower::{Service, ServiceBuilder, ServiceExt, retry};
use tower_outbox::client::{Client, ClientSettings};
use tower_outbox::reply::{Reply, RequestError, Requester};
use tower_outbox::testing::Memory;
use tower_outbox::{Message, async_trait};

use super::{answered_by, call, post};
use crate::support::text;

/// Replies with what a function makes of a request.
struct By<F>(F);

#[async_trait]
impl<F: Fn(Message) -> Result<Reply, RequestError> + Send + Sync + 'static> Requester for By<F> {
    async fn request(&self, request: Message) -> Result<Reply, RequestError> {
        (self.0)(request)
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_is_called_inside_a_handler() {
    let (client, _responder, _) = answered_by(
        Router::new().route("/order/quote", on_post(|body: String| async move { format!("{body} EUR") })),
    );
    let quote = |State(client): State<Client>| async move { client.oneshot(post("/order/quote", "5")).await };
    let app = Router::new().route("/quote", get(quote)).with_state(client.clone());
    let response = app.oneshot(Request::get("/quote").body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(text(response).await, "5 EUR");
    // It is a service of a router, too: a gateway.
    let gateway = Router::new().fallback_service(client);
    assert_eq!(text(gateway.oneshot(post("/order/quote", "7")).await.unwrap()).await, "7 EUR");
}

#[derive(Clone)]
struct Twice;

impl retry::Policy<Request<Body>, Response, std::convert::Infallible> for Twice {
    type Future = std::future::Ready<()>;

    fn retry(
        &mut self,
        _: &mut Request<Body>,
        result: &mut Result<Response, std::convert::Infallible>,
    ) -> Option<Self::Future> {
        result.as_ref().ok()?.extensions().get::<RequestError>().map(|_| std::future::ready(()))
    }

    fn clone_request(&mut self, request: &Request<Body>) -> Option<Request<Body>> {
        Some(post(request.uri().path(), "again"))
    }
}

#[tokio::test(start_paused = true)]
async fn tower_layers_work_around_a_client() {
    let calls = AtomicU32::new(0);
    let requester = By(move |request: Message| match calls.fetch_add(1, Ordering::SeqCst) {
        0 => Err(RequestError::NoResponder),
        _ => Ok(Reply::new(request.body().clone())),
    });
    let client = ServiceBuilder::new()
        .load_shed()
        .concurrency_limit(8)
        .layer(retry::RetryLayer::new(Twice))
        .service(Client::new(requester));
    assert_eq!(text(client.oneshot(post("/order", "first")).await.unwrap()).await, "again");

    let (client, _responder, _) =
        answered_by(Router::new().route("/order", on_post(std::future::pending::<()>)));
    let mut hasty = ServiceBuilder::new().timeout(Duration::from_secs(1)).service(client);
    let error = hasty.ready().await.unwrap().call(post("/order", "")).await.unwrap_err();
    assert!(error.is::<tower::timeout::error::Elapsed>());
}

#[tokio::test(start_paused = true)]
async fn a_request_that_cannot_be_sent_is_refused_at_once() {
    let client = Client::new(Memory::new()).with_settings(ClientSettings::default().with_max_bytes(10));
    for (path, reason) in [("/", "empty segment"), ("/v1.0/order", "dot"), ("/a%20b", "blank")] {
        let response = call(&client, post(path, "")).await;
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
        let text = text(response).await;
        assert!(text.contains(reason), "{text}");
    }
    assert_eq!(call(&client, post("/order", "more than ten bytes")).await.status(), 413);
    let frames = std::iter::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from_static(b"abc"))).take(4);
    assert_eq!(call(&client, post("/order", Body::from_stream(stream::iter(frames)))).await.status(), 413);
    let broken = stream::iter([Ok(Bytes::from_static(b"a")), Err(std::io::Error::other("gone"))]);
    assert_eq!(call(&client, post("/order", Body::from_stream(broken))).await.status(), 400);
    let never = stream::pending::<Result<Bytes, std::io::Error>>();
    assert_eq!(call(&client, post("/order", Body::from_stream(never))).await.status(), 504);
}

#[tokio::test(start_paused = true)]
async fn a_streamed_body_is_sent_whole() {
    let frames =
        stream::iter(["seven ", "", "apples"].map(|part| Ok::<_, std::io::Error>(Bytes::from(part))));
    let client = Client::new(By(|request: Message| Ok(Reply::new(request.body().clone()))));
    assert_eq!(text(call(&client, post("/order", Body::from_stream(frames))).await).await, "seven apples");
}

#[tokio::test(start_paused = true)]
async fn a_failed_transport_has_its_status_and_shows_no_cause() {
    for (error, status) in [
        (RequestError::unavailable("rabbit1:5672 is down"), 503),
        (RequestError::rejected("no permission at rabbit1"), 502),
        (RequestError::bad_reply("rabbit1 sent rubbish"), 502),
    ] {
        let client = Client::new(By(move |_| Err(error.clone())));
        let response = call(&client, post("/order", "")).await;
        assert_eq!(response.status(), status);
        assert!(response.extensions().get::<RequestError>().is_some());
        assert!(!text(response).await.contains("rabbit1"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_reply_over_the_limits_is_502() {
    let settings = ClientSettings::default().with_max_bytes(10);
    let large = Client::new(By(|_| Ok(Reply::new(Bytes::from_static(b"more than ten bytes")))));
    assert_eq!(call(&large.with_settings(settings), post("/order", "")).await.status(), 502);
    let many = Client::new(By(|_| {
        let mut reply = Reply::new(Bytes::new());
        for n in 0..1_001 {
            reply.headers_mut().insert(http::HeaderName::try_from(format!("n-{n}")).unwrap(), 1.into());
        }
        Ok(reply)
    }));
    assert_eq!(call(&many, post("/order", "")).await.status(), 502);
}

#[tokio::test(start_paused = true)]
async fn abandoned_requests_take_no_memory() {
    let memory = Memory::new();
    let client = Client::new(memory.clone());
    let held = Arc::new(());
    let body = |held: &Arc<()>| {
        struct Owner(Arc<()>);
        impl AsRef<[u8]> for Owner {
            fn as_ref(&self) -> &[u8] {
                let _ = &self.0;
                b"body"
            }
        }
        Bytes::from_owner(Owner(Arc::clone(held)))
    };
    for _ in 0..50 {
        let wait = Duration::from_millis(1);
        let response = call(&client, super::within(post("/order", body(&held)), wait)).await;
        assert_eq!(response.status(), 504);
    }
    assert!(Arc::strong_count(&held) < 5 && memory.len() < 5, "{}", memory.len());
}
