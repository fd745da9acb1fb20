//! Requests to the handlers of another process, as a tower service.

#[cfg(feature = "client-cache")]
mod cache;
mod exchange;
mod message;
mod settings;
mod topic;

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum_core::body::Body;
use http::{Request, Response};
use tower_service::Service;

#[cfg(feature = "client-cache")]
use self::cache::ReplyCache;
use self::exchange::Exchange;
pub use self::settings::{ClientSettings, ReplyTimeout};
use crate::reply::Requester;

/// Sends HTTP requests as messages, and returns the replies: a tower service of `http::Request<Body>`. A clone is a handle to the same.
///
/// `POST /order/quote` becomes a message of the topic `order.quote`, with the method, the query, the headers and the body of the request.
/// A [`Consumer`](crate::consumer::Consumer) runs it through an axum `Router`, and its response is the reply: status, headers and body,
/// whatever the status. So the same router answers over HTTP and over the bus, and any tower layer works around a client: retries, load
/// shedding, rate limits.
///
/// | what happens | the response |
/// |---|---|
/// | a reply comes in time | the reply |
/// | no reply within [`timeout`](ClientSettings::timeout), or the [`ReplyTimeout`] in the extensions of the request | 504 |
/// | nobody receives requests, as far as the transport knows; or the request cannot be sent now | 503 |
/// | the request can never be sent, or the reply cannot be read | 502 |
/// | a body is larger than [`max_bytes`](ClientSettings::max_bytes) | 413 for the request, 502 for the reply |
/// | the path cannot be a topic: empty, with an empty segment, a dot, a blank or a wildcard | 400 |
///
/// The response of a failed request has a [`RequestError`](crate::reply::RequestError) in its extensions. The headers that a consumer
/// does not copy, such as `authorization` and `cookie`, do not travel: put a token that the responder checks into a header of your own.
///
/// Requests are delivered at least once: a responder that is killed before it has replied may leave the request to another one, while the
/// caller waits. A caller that drops the future, or gets 504, does not know whether its request was handled.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use axum::body::{Body, to_bytes};
/// use axum::http::Request;
/// use axum::{Router, routing::post};
/// use tower::ServiceExt;
/// use tower_outbox::Consumer;
/// use tower_outbox::client::Client;
/// use tower_outbox::testing::Memory;
///
/// let bus = Memory::new();
/// let app: Router = Router::new().route("/order/quote", post(|body: String| async move { format!("{body} for 5 EUR") }));
/// tokio::spawn(Consumer::new(bus.clone(), app).into_future());
///
/// let request = Request::post("/order/quote").body(Body::from("seven apples"))?;
/// let response = Client::new(bus).oneshot(request).await?;
/// assert_eq!(to_bytes(response.into_body(), 1_000).await?, "seven apples for 5 EUR");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Clone)]
#[must_use]
pub struct Client(Arc<Exchange>);

impl Client {
    /// A client with default settings.
    pub fn new(requester: impl Requester) -> Self {
        Self::of(Arc::new(requester), ClientSettings::default())
    }

    /// Sets the settings. The cache is empty then.
    pub fn with_settings(self, settings: ClientSettings) -> Self {
        Self::of(Arc::clone(&self.0.requester), settings)
    }

    fn of(requester: Arc<dyn Requester>, settings: ClientSettings) -> Self {
        #[cfg(feature = "client-cache")]
        let cache = (settings.cache_bytes > 0).then(|| ReplyCache::new(settings.cache_bytes));
        Self(Arc::new(Exchange {
            requester,
            settings,
            #[cfg(feature = "client-cache")]
            cache,
        }))
    }
}

impl Service<Request<Body>> for Client {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> ResponseFuture {
        let (exchange, (parts, body)) = (Arc::clone(&self.0), request.into_parts());
        ResponseFuture(Box::pin(async move { exchange.send(&parts, body).await }))
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("settings", &self.0.settings).finish_non_exhaustive()
    }
}

/// The response of a [`Client`]. Dropping it gives the request up.
pub struct ResponseFuture(Pin<Box<dyn Future<Output = Response<Body>> + Send>>);

impl Future for ResponseFuture {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx).map(Ok)
    }
}

impl fmt::Debug for ResponseFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
