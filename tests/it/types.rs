//! Facts about types that would break users if they changed.

use std::error::Error;
use std::fmt::Debug;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{FromRequestParts, OptionalFromRequestParts};
use axum::response::IntoResponse;
use axum::routing::Route;
use static_assertions::{assert_impl_all, assert_not_impl_any, assert_obj_safe};
use tower_layer::Layer;
use tower_outbox::{
    Background, BackgroundSettings, BackgroundWorker, BoxError, Bus, Dummy, EnqueueError, Failure, Health,
    InFlight, InFlightToken, Message, MessageError, MessageQueue, MessagingLayer, MessagingService,
    Messenger, MissingMessagingLayer, Recording, ResponseBody, ResponseFuture, Scalar, Sent, Settings,
    SettingsError, Shutdown, Topic, TopicError, Unsent,
};

assert_obj_safe!(Messenger);
assert_impl_all!(Arc<dyn Messenger>: Messenger, Send, Sync, Clone);

assert_impl_all!(Message: Clone, PartialEq, Debug, Send, Sync);
assert_impl_all!(Scalar: Clone, PartialEq, Debug, Send, Sync);
assert_impl_all!(Topic: Clone, Eq, Ord, std::hash::Hash, Debug, Send, Sync);

assert_impl_all!(MessageQueue: Clone, Debug, Send, Sync);
assert_impl_all!(MessageQueue: FromRequestParts<()>, OptionalFromRequestParts<()>);
assert_impl_all!(MissingMessagingLayer: IntoResponse, Error);
assert_impl_all!(EnqueueError: IntoResponse, From<MessageError>, From<TopicError>, Into<BoxError>);

assert_impl_all!(MessagingLayer: Layer<Route>, Clone, Debug, Send, Sync);
assert_impl_all!(MessagingService<Route>: tower::Service<http::Request<Body>>, Clone, Debug, Send, Sync);
assert_impl_all!(ResponseBody<String>: http_body::Body, Default, Debug, Send, Sync);
assert_impl_all!(ResponseFuture<std::future::Pending<()>, String>: Debug, Send);

/// A service that cannot be cloned can be wrapped; its wrapper cannot be cloned either.
struct NotClone;
assert_impl_all!(MessagingLayer: Layer<NotClone>);
assert_not_impl_any!(MessagingService<NotClone>: Clone);

assert_impl_all!(Dummy: Messenger, Clone, Debug, Default, Send, Sync);
assert_impl_all!(Recording: Messenger, Clone, Debug, Default, Send, Sync);
assert_impl_all!(Sent: Clone, Debug, Send, Sync);
assert_impl_all!(Background<Dummy>: Messenger, Debug, Send, Sync);
assert_impl_all!(Background<Arc<dyn Messenger>>: Messenger, Debug, Send, Sync);
assert_impl_all!(BackgroundWorker<Dummy>: Debug, Send);
assert_impl_all!(BackgroundSettings: Clone, Debug, Default, Send, Sync);
// There is one worker: a second handle to it would send twice.
assert_not_impl_any!(BackgroundWorker<Dummy>: Clone);

assert_impl_all!(InFlight: Clone, Debug, Default, Send, Sync);
assert_impl_all!(InFlightToken: Debug, Send, Sync);
assert_not_impl_any!(InFlightToken: Clone);

assert_impl_all!(Unsent: Error, Default, IntoIterator, Extend<(Message, Failure)>, Send, Sync);
assert_impl_all!(Failure: Clone, Debug, Send, Sync);
assert_impl_all!(Health: Clone, Eq, Debug, Send, Sync);

assert_impl_all!(Settings: Clone, Debug, Default, Send, Sync, serde::de::DeserializeOwned);
assert_impl_all!(SettingsError: Into<BoxError>);
assert_impl_all!(Bus: Debug, Send, Sync);
assert_impl_all!(Shutdown: Debug, Send, Sync);

#[test]
fn the_futures_of_the_public_api_can_be_spawned() {
    fn assert_send<T: Send>(_: T) {}
    let (background, worker) = Background::new(Dummy::new(), BackgroundSettings::default());
    assert_send(background.send(Vec::new()));
    assert_send(worker.run(std::future::pending(), std::time::Duration::ZERO));
    let settings = Settings::default();
    assert_send(Bus::start(&settings));
    assert_send(InFlight::default().idle());
    fn of_a_bus(bus: &Bus) {
        assert_send(bus.shutdown(std::time::Duration::ZERO));
        assert_send(bus.flushed());
        assert_send(bus.health());
    }
    let _ = of_a_bus;
}
