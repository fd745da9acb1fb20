//! The layer among other layers, in axum and in plain tower, with and without sockets.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::routing::{any, get, post};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::limit::RequestBodyLimitLayer;
use tower_http::timeout::TimeoutLayer;
use tower_http::trace::TraceLayer;
use tower_outbox::queue::MissingMessagingLayer;
use tower_outbox::testing::Sent;
use tower_outbox::{MessageQueue, MessagingLayer};

use crate::support::messengers::{held, recording};
use crate::support::{enqueue, message, text};

async fn enqueue_a(queue: MessageQueue) -> &'static str {
    enqueue(&queue, ["a"]);
    "body"
}

fn layer() -> (MessagingLayer, Sent) {
    let (messenger, sent) = recording();
    (MessagingLayer::new(messenger), sent)
}

async fn assert_sends_a(app: Router, path: &str, sent: &Sent) {
    let before = sent.topics().len();
    let response = app.oneshot(Request::post(path).body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(text(response).await, "body");
    assert_eq!(sent.topics()[before..], ["a"]);
}

#[tokio::test]
async fn it_fits_everywhere_a_layer_goes_in_axum() {
    let (layer, sent) = layer();
    let route = || Router::new().route("/a", post(enqueue_a));
    assert_sends_a(route().layer(layer.clone()), "/a", &sent).await;
    assert_sends_a(route().route_layer(layer.clone()), "/a", &sent).await;
    assert_sends_a(Router::new().route("/a", post(enqueue_a).layer(layer.clone())), "/a", &sent).await;
    assert_sends_a(Router::new().route("/a", post(enqueue_a).route_layer(layer.clone())), "/a", &sent).await;
    assert_sends_a(Router::new().nest("/n", route().layer(layer.clone())), "/n/a", &sent).await;
    assert_sends_a(Router::new().nest("/n", route()).layer(layer.clone()), "/n/a", &sent).await;
    assert_sends_a(Router::new().nest_service("/n", route().layer(layer.clone())), "/n/a", &sent).await;
    assert_sends_a(Router::new().merge(route()).layer(layer.clone()), "/a", &sent).await;
    assert_sends_a(Router::new().fallback(enqueue_a).layer(layer.clone()), "/x", &sent).await;
    // Of two nested ones, the outer one sends, once.
    assert_sends_a(Router::new().nest("/n", route().layer(layer.clone())).layer(layer), "/n/a", &sent).await;
}

#[tokio::test]
async fn a_route_beside_the_layer_has_no_queue() {
    let (layer, sent) = layer();
    let app = Router::new().route("/with", any(enqueue_a)).route_layer(layer).route(
        "/without",
        any(|queue: Option<MessageQueue>| async move {
            assert!(queue.is_none());
        }),
    );
    let ask = |path: &str| app.clone().oneshot(Request::get(path).body(Body::empty()).unwrap());
    assert_eq!(ask("/with").await.unwrap().status(), StatusCode::OK);
    assert_eq!(ask("/without").await.unwrap().status(), StatusCode::OK);
    assert_eq!(sent.topics(), ["a"]);
}

#[tokio::test]
async fn it_fits_inside_a_service_builder_of_axum_in_either_order() {
    let (layer, sent) = layer();
    let outside = ServiceBuilder::new().layer(layer.clone()).layer(TraceLayer::new_for_http());
    let inside = ServiceBuilder::new().layer(TraceLayer::new_for_http()).layer(layer);
    assert_sends_a(Router::new().route("/", any(enqueue_a)).layer(outside), "/", &sent).await;
    assert_sends_a(Router::new().route("/", any(enqueue_a)).layer(inside), "/", &sent).await;
}

/// The layers most apps have, each with a body type of its own.
macro_rules! usual {
    ($builder:expr) => {
        $builder
            .layer(TraceLayer::new_for_http())
            .layer(CatchPanicLayer::new())
            .layer(TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, Duration::from_secs(60)))
            .layer(CompressionLayer::new())
            .layer(RequestBodyLimitLayer::new(8))
    };
}

/// Reads the body and enqueues it, as a plain tower handler does.
async fn plain<B>(request: Request<B>) -> Result<Response<Full<Bytes>>, Infallible>
where
    B: http_body::Body<Data: Send, Error: std::fmt::Debug>,
{
    let queue = request.extensions().get::<MessageQueue>().unwrap().clone();
    let Ok(body) = request.into_body().collect().await else {
        return Ok(Response::builder().status(StatusCode::PAYLOAD_TOO_LARGE).body(Full::default()).unwrap());
    };
    enqueue(&queue, ["a"]);
    Ok(Response::new(Full::new(body.to_bytes())))
}

#[tokio::test]
async fn it_fits_between_plain_tower_layers_with_bodies_of_their_own() {
    let (layer, sent) = layer();
    let outside = usual!(ServiceBuilder::new().layer(layer.clone())).service_fn(plain);
    let inside = usual!(ServiceBuilder::new()).layer(layer.clone()).service_fn(plain);
    let between = usual!(usual!(ServiceBuilder::new()).layer(layer)).service_fn(plain);

    macro_rules! assert_sends {
        ($($service:expr),*) => {$(
            let before = sent.topics().len();
            let request = Request::new(Full::<Bytes>::from("12345678"));
            let response = $service.clone().oneshot(request).await.unwrap();
            assert_eq!(response.status(), StatusCode::OK);
            assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "12345678");
            assert_eq!(sent.topics().len(), before + 1);

            let request = Request::new(Full::<Bytes>::from("123456789"));
            let response = $service.oneshot(request).await.unwrap();
            assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
            assert_eq!(sent.topics().len(), before + 1);
        )*};
    }
    assert_sends!(outside, inside, between);
}

#[tokio::test]
async fn a_compressed_response_is_the_same_through_the_layer() {
    let (layer, sent) = layer();
    let long = || async { "many words ".repeat(100) };
    let handler = any(move |queue: MessageQueue| async move {
        enqueue(&queue, ["a"]);
        long().await
    });
    let inside =
        Router::new().route("/", handler.clone()).layer(CompressionLayer::new()).layer(layer.clone());
    let outside = Router::new().route("/", handler).layer(layer).layer(CompressionLayer::new());
    for app in [inside, outside] {
        let request = Request::get("/").header("accept-encoding", "gzip").body(Body::empty()).unwrap();
        let response = app.oneshot(request).await.unwrap();
        assert_eq!(response.headers()["content-encoding"], "gzip");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert!(body.starts_with(&[0x1f, 0x8b]) && body.len() < 200);
    }
    assert_eq!(sent.topics(), ["a", "a"]);
}

#[tokio::test]
async fn the_size_of_the_body_is_still_known() {
    let (layer, _) = layer();
    let app = Router::new().route("/", any(enqueue_a)).layer(layer);
    let (address, _server) = serve(TowerToHyperService::new(app)).await;
    let mut client = connect(address).await;
    let response = client.send_request(client_request("/")).await.unwrap();
    assert_eq!(response.headers()["content-length"], "4");
}

/// A service that must be polled ready before each call, and whose clones are not ready.
#[derive(Debug)]
struct Strict<S> {
    inner: S,
    ready: bool,
}

impl<S: Clone> Clone for Strict<S> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), ready: false }
    }
}

impl<S: Service<R>, R> Service<R> for Strict<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        let ready = self.inner.poll_ready(cx);
        self.ready = ready.is_ready();
        ready
    }

    fn call(&mut self, request: R) -> S::Future {
        assert!(std::mem::take(&mut self.ready), "called without being ready");
        self.inner.call(request)
    }
}

#[tokio::test]
async fn the_service_that_was_ready_is_the_one_that_is_called() {
    let (layer, sent) = layer();
    let mut service = layer.layer(Strict { inner: service_fn(plain::<Empty<Bytes>>), ready: false });
    for _ in 0..2 {
        service.ready().await.unwrap().call(Request::new(Empty::new())).await.unwrap();
    }
    assert_eq!(sent.topics(), ["a", "a"]);
}

#[tokio::test]
async fn a_plain_tower_service_reads_the_queue_with_the_extractor_of_axum() {
    use axum::extract::FromRequestParts;
    let handler = service_fn(|request: Request<Empty<Bytes>>| async {
        let queue = MessageQueue::from_request_parts(&mut request.into_parts().0, &()).await?;
        enqueue(&queue, ["a"]);
        Ok::<_, MissingMessagingLayer>(Response::new(Empty::<Bytes>::new()))
    });
    let (layer, sent) = layer();
    layer.layer(handler).oneshot(Request::new(Empty::new())).await.unwrap();
    assert_eq!(sent.topics(), ["a"]);
    assert!(handler.oneshot(Request::new(Empty::new())).await.is_err());
}

// ---- over a socket

type Server = tokio::task::JoinHandle<()>;

/// Serves on a free port of the loopback interface.
async fn serve<S, B>(service: S) -> (SocketAddr, Server)
where
    S: hyper::service::Service<
            Request<hyper::body::Incoming>,
            Response = Response<B>,
            Error: Into<Box<dyn std::error::Error + Send + Sync>>,
            Future: Send,
        > + Clone
        + Send
        + 'static,
    B: http_body::Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service.clone());
            tokio::spawn(async move { drop(connection.await) });
        }
    });
    (address, server)
}

struct Client {
    requests: SendRequest<Empty<Bytes>>,
    connection: tokio::task::JoinHandle<()>,
}

async fn connect(address: SocketAddr) -> Client {
    let stream = TcpStream::connect(address).await.unwrap();
    let (requests, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    Client { requests, connection: tokio::spawn(async move { drop(connection.await) }) }
}

impl Client {
    async fn send_request(
        &mut self,
        request: Request<Empty<Bytes>>,
    ) -> hyper::Result<Response<hyper::body::Incoming>> {
        self.requests.send_request(request).await
    }

    /// Sends a request, and hangs up when the server has come to this point.
    async fn hang_up_at(mut self, point: &Notify) {
        tokio::select! {
            _ = self.requests.send_request(client_request("/")) => panic!("it was answered"),
            () = point.notified() => {}
        }
        self.connection.abort();
        let _ = self.connection.await;
    }
}

fn client_request(path: &str) -> Request<Empty<Bytes>> {
    Request::get(path).header("host", "localhost").body(Empty::new()).unwrap()
}

#[tokio::test]
async fn plain_tower_behind_hyper_sends_what_its_clients_requests_enqueue() {
    let (layer, sent) = layer();
    let service =
        ServiceBuilder::new().layer(layer).service_fn(|request: Request<hyper::body::Incoming>| async move {
            let queue: &MessageQueue = request.extensions().get().unwrap();
            enqueue(queue, ["a"]);
            let status = if request.uri().path() == "/" { 200 } else { 404 };
            Ok::<_, Infallible>(Response::builder().status(status).body(Full::<Bytes>::from("body")).unwrap())
        });
    let (address, _server) = serve(TowerToHyperService::new(service)).await;
    let mut client = connect(address).await;
    for (path, status, all_sent) in [("/", 200, 1), ("/x", 404, 1), ("/", 200, 2)] {
        let response = client.send_request(client_request(path)).await.unwrap();
        assert_eq!(response.status(), status);
        assert_eq!(sent.topics().len(), all_sent, "the head came before the messages had left");
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "body");
    }
}

/// A future that says when it is dropped.
struct Watched<F> {
    future: Pin<Box<F>>,
    dropped: Arc<Notify>,
}

impl<F: Future> Future for Watched<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.future.as_mut().poll(cx)
    }
}

impl<F> Drop for Watched<F> {
    fn drop(&mut self) {
        self.dropped.notify_one();
    }
}

/// Serves the app; notifies when a request's future is gone.
async fn serve_watched(app: Router) -> (SocketAddr, Arc<Notify>, Server) {
    let dropped = Arc::new(Notify::new());
    let gone = Arc::clone(&dropped);
    let watched = service_fn(move |request: Request<hyper::body::Incoming>| Watched {
        future: Box::pin(app.clone().oneshot(request)),
        dropped: Arc::clone(&gone),
    });
    let (address, server) = serve(TowerToHyperService::new(watched)).await;
    (address, dropped, server)
}

#[tokio::test]
async fn a_client_that_hangs_up_while_sending_does_not_stop_it() {
    let (messenger, gate, sent) = held();
    let layer = MessagingLayer::new(messenger);
    let app = Router::new().route(
        "/",
        get(|queue: MessageQueue| async move {
            enqueue(&queue, ["a", "b"]);
            enqueue(&queue.always(), ["audit"]);
        }),
    );
    let (address, dropped, _server) = serve_watched(app.layer(layer.clone())).await;
    let begun = Arc::new(Notify::new());
    let sending = tokio::spawn({
        let (gate, begun) = (gate.clone(), Arc::clone(&begun));
        async move {
            gate.begun().await;
            begun.notify_one();
        }
    });
    connect(address).await.hang_up_at(&begun).await;
    sending.await.unwrap();
    dropped.notified().await;
    assert!(sent.topics().is_empty());
    gate.open();
    layer.in_flight().wait_idle().await;
    assert_eq!(sent.topics(), ["a", "b", "audit"]);
}

#[tokio::test]
async fn a_client_gone_during_the_handler_sends_only_audit_events() {
    let (layer, sent) = layer();
    let working = Arc::new(Notify::new());
    let handler = {
        let working = Arc::clone(&working);
        move |queue: MessageQueue| async move {
            enqueue(&queue, ["a"]);
            queue.always().enqueue(message("audit")).unwrap();
            working.notify_one();
            std::future::pending::<()>().await;
        }
    };
    let (address, dropped, _server) =
        serve_watched(Router::new().route("/", get(handler)).layer(layer.clone())).await;
    connect(address).await.hang_up_at(&working).await;
    dropped.notified().await;
    layer.in_flight().wait_idle().await;
    assert_eq!(sent.topics(), ["audit"]);
}

#[tokio::test]
async fn axum_serve_takes_the_layer_as_it_is() {
    let (layer, sent) = layer();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = Router::new().route("/", any(enqueue_a)).layer(layer);
    tokio::spawn(async move { axum::serve(listener, app).await });
    let response = connect(address).await.send_request(client_request("/")).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(sent.topics(), ["a"]);
}
