//! Faults on purpose, to test how a system copes with them.

mod settings;

use std::future::{Future, ready};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use http::header::RETRY_AFTER;
use http::{HeaderValue, Request, Response, StatusCode};
use tower_layer::Layer;
use tower_service::Service;

pub use self::settings::{ChaosError, ChaosSettings};
use crate::message::Message;
use crate::message::topic::Topic;
use crate::messenger::{Capabilities, Failure, Health, Messenger, Unsent};
use crate::source::delivery::Delivery;
use crate::store::admission::RejectedForCapacity;
use crate::util::error::BoxError;

/// Makes messages fail on purpose, for tests of a whole system: around the service of a consumer, or around a messenger.
///
/// | setting | around the service of a consumer | around a messenger |
/// |---|---|---|
/// | [`nacked`](ChaosSettings::nacked) | the message is returned untried and delivered again at once | the message is returned as transient |
/// | [`delay`](ChaosSettings::delay) | waits before the handler | waits before the batch |
/// | [`failed`](ChaosSettings::failed) | answers 500 without calling the handler | the message is returned as rejected |
/// | [`protected`](ChaosSettings::protected) | topics without faults | the same |
///
/// By default nothing fails.
///
/// ```
/// use axum::{Router, routing::post};
/// use tower::Layer;
/// use tower_outbox::chaos::{ChaosLayer, ChaosSettings};
/// use tower_outbox::dummy::Dummy;
///
/// let chaos = ChaosLayer::new(ChaosSettings::default().with_failed(0.1));
/// let app: Router = Router::new().route("/user/created", post(|| async {})).layer(chaos.clone());
/// let messenger = chaos.layer(Dummy::new());
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct ChaosLayer {
    settings: ChaosSettings,
}

impl ChaosLayer {
    /// Makes a layer with these settings.
    pub fn new(settings: ChaosSettings) -> Self {
        Self { settings }
    }

    /// Makes a layer with the settings of the environment variables `MESSAGE_CHAOS_*`, those of petisco: see [`ChaosSettings::from_env`].
    ///
    /// # Errors
    /// As [`ChaosSettings::from_env`].
    pub fn from_env() -> Result<Self, ChaosError> {
        ChaosSettings::from_env().map(Self::new)
    }
}

impl<S> Layer<S> for ChaosLayer {
    type Service = Chaos<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Chaos { inner, settings: self.settings.clone() }
    }
}

/// A service or a messenger inside a [`ChaosLayer`].
#[derive(Clone, Debug)]
pub struct Chaos<S> {
    inner: S,
    settings: ChaosSettings,
}

/// The fault of one message.
enum Fault {
    Nacked,
    Failed,
}

impl<S> Chaos<S> {
    fn is_protected(&self, topic: &Topic) -> bool {
        self.settings.protected.iter().any(|protected| protected == topic.as_str())
    }

    fn fault(&self) -> Option<Fault> {
        if rand::random::<f64>() < self.settings.nacked {
            return Some(Fault::Nacked);
        }
        (rand::random::<f64>() < self.settings.failed).then_some(Fault::Failed)
    }
}

type ResponseFuture<B, E> = Pin<Box<dyn Future<Output = Result<Response<B>, E>> + Send>>;

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for Chaos<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>, Error: Send + 'static, Future: Send + 'static>,
    ResBody: Default + Send + 'static,
{
    type Response = Response<ResBody>;
    type Error = S::Error;
    type Future = ResponseFuture<ResBody, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        let delivery = request.extensions().get::<Delivery>();
        if delivery.is_some_and(|delivery| self.is_protected(delivery.message().topic())) {
            return Box::pin(self.inner.call(request));
        }
        match self.fault() {
            Some(Fault::Nacked) => {
                let mut response = Response::new(ResBody::default());
                *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("0"));
                response.extensions_mut().insert(RejectedForCapacity);
                Box::pin(ready(Ok(response)))
            }
            Some(Fault::Failed) => {
                let mut response = Response::new(ResBody::default());
                *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
                Box::pin(ready(Ok(response)))
            }
            None => {
                let (delay, response) = (self.settings.delay, self.inner.call(request));
                Box::pin(async move {
                    wait(delay).await;
                    response.await
                })
            }
        }
    }
}

async fn wait(delay: Duration) {
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<M: Messenger> Messenger for Chaos<M> {
    async fn send(&self, batch: Vec<Message>) -> Result<(), Unsent> {
        wait(self.settings.delay).await;
        let (mut spared, mut unsent) = (Vec::with_capacity(batch.len()), Unsent::default());
        for message in batch {
            let fault = if self.is_protected(message.topic()) { None } else { self.fault() };
            match fault {
                None => spared.push(message),
                Some(Fault::Nacked) => {
                    unsent.extend([(message, Failure::transient("chaos: nacked on purpose"))])
                }
                Some(Fault::Failed) => {
                    unsent.extend([(message, Failure::rejected("chaos: failed on purpose"))])
                }
            }
        }
        if !spared.is_empty()
            && let Err(more) = self.inner.send(spared).await
        {
            unsent.extend(more);
        }
        unsent.into_result()
    }

    fn check(&self, message: &Message) -> Result<(), BoxError> {
        self.inner.check(message)
    }

    async fn health(&self) -> Health {
        self.inner.health().await
    }

    async fn close(&self, deadline: Duration) {
        self.inner.close(deadline).await;
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
}
